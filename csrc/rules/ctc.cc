// Rules of connectionist temporal classification.
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// Output 1 is the gradient of the loss. It is computed by dynamic programming inside the kernel: nothing differentiates
// it.
Grads CTCLossGrad(const Op& o) {
  if (o.has_dy(1)) return o.unsupported("a CTC loss has no second derivative, nor has its output `gradient` a first");
  return {expand_dims(o.dy(), -1) * OUT(gradient)};
}

// clang-format off
constexpr Rule kRules[] = {
    NO_GRAD(CTCBeamSearchDecoder) NO_GRAD(CTCGreedyDecoder)
    {"CTCLoss", CTCLossGrad}, {"CTCLossV2", CTCLossGrad},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
