// The op: its signature and its shapes.
#include "tensorflow/core/framework/op.h"

#include <algorithm>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/runtime/call.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/statusor.h"

namespace symgrad {
namespace {

using tensorflow::shape_inference::InferenceContext;

// The input that each output is the gradient of.
absl::StatusOr<std::vector<int>> WantedInputs(InferenceContext* c) {
  std::vector<bool> wrt;
  TF_RETURN_IF_ERROR(c->GetAttr("wrt", &wrt));
  std::vector<int> wanted;
  for (int i = 0; wrt.empty() ? i < c->num_outputs() : i < static_cast<int>(wrt.size()); ++i)
    if (wrt.empty() || wrt[i]) wanted.push_back(i);
  bool values = false;
  TF_RETURN_IF_ERROR(c->GetAttr("values", &values));
  if (values && wrt.empty())
    return absl::InvalidArgumentError(absl::StrCat(kGradientOp, ": with values, wrt must be given."));
  const int outputs_of_f = values ? std::max(0, c->num_inputs() - static_cast<int>(wrt.size())) : 0;
  if (static_cast<int>(wanted.size()) + outputs_of_f != c->num_outputs()) {
    return absl::InvalidArgumentError(absl::StrCat(kGradientOp, ": wrt asks for ", wanted.size(),
                                                   " gradients, but Tout has ", c->num_outputs(),
                                                   " dtypes. Tout is a dtype for each input that wrt is true of",
                                                   values ? ", then one for each output of the function." : "."));
  }
  if (!wrt.empty() && static_cast<int>(wrt.size()) > c->num_inputs()) {
    return absl::InvalidArgumentError(absl::StrCat(kGradientOp, ": wrt has ", wrt.size(), " flags and Tin only ",
                                                   c->num_inputs(),
                                                   " dtypes. wrt is a flag for each of the "
                                                   "function's inputs, with which Tin begins."));
  }
  return wanted;
}

absl::Status Shape(InferenceContext* c) {
  TF_ASSIGN_OR_RETURN(const std::vector<int> wanted, WantedInputs(c));
  if (static_cast<int>(wanted.size()) > c->num_inputs()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kGradientOp, ": Tout has ", c->num_outputs(), " dtypes and Tin only ", c->num_inputs(),
                     ". Tin is the function's inputs, then a gradient for each of its outputs; Tout is "
                     "a dtype for each of the function's inputs."));
  }
  tensorflow::DataTypeVector tin;
  TF_RETURN_IF_ERROR(c->GetAttr("Tin", &tin));
  const int gradients = static_cast<int>(wanted.size()), values = c->num_outputs() - gradients;
  for (int k = 0; k < values; ++k) c->set_output(gradients + k, c->UnknownShape());
  for (int k = 0; k < gradients; ++k) {
    const int i = wanted[k];
    if (tin[i] != tensorflow::DT_RESOURCE) {
      c->set_output(k, c->input(i));
      continue;
    }
    const auto* variable = c->input_handle_shapes_and_types(i);
    c->set_output(k, variable != nullptr && variable->size() == 1 ? (*variable)[0].shape : c->UnknownShape());
  }
  return absl::OkStatus();
}

// Stateful, unlike the stock op: the gradient of a function that draws random numbers or reads variables does so
// itself, and two such calls must not be merged nor folded into a constant by whoever sees the op before it is
// replaced. Where it is replaced (pass.cc), the call is stateful only if the gradient function is, so that unused
// gradients are pruned there.
REGISTER_OP(kGradientOp)
    .Input("input: Tin")
    .Output("output: Tout")
    .Attr("Tin: list(type) >= 0")
    .Attr("Tout: list(type) >= 0")
    .Attr("f: func")
    .Attr("wrt: list(bool) = []")
    .Attr("values: bool = false")
    .Attr("checkpoint: string = ''")
    .Attr("optimize: {'grappler', 'native'} = 'grappler'")
    .SetIsStateful()
    .SetShapeFn(Shape)
    .Doc(R"doc(
Computes the gradients of a function.

For `f` that maps inputs `x_1 ... x_N` to outputs `y_1 ... y_M`, computes

    dx_1 ... dx_N = g(x_1 ... x_N, dy_1 ... dy_M)

where `dx_i` is the gradient of `sum_j <dy_j, y_j>` with respect to `x_i`. Complex gradients are, as
everywhere in TensorFlow, the conjugate of the holomorphic derivative.

`g` computes what the gradients need and nothing else: it evaluates the part of `f` that they depend on once more, so
stateful random numbers in `f` are drawn again. It is made of stock TensorFlow ops, which replace this op when the graph
runs.

Fails with `InvalidArgument` if `Tin` or `Tout` do not fit `f`, or `f` is malformed, with `NotFound` if there is no
function `f`, and with `Unimplemented`, which lists all of them, if ops in `f` have no gradient.

input: The N inputs of `f`, then the M gradients `dy` with respect to its outputs, each with the dtype and shape of its
  output. An output of integer, bool or string dtype has a `dy` as well, which is ignored.
output: The gradient with respect to each input of `f` (that is wanted, see `wrt`), with its dtype and shape; for a
  resource input, those of its variable. Zeros where `f` does not depend on an input, or the input is of integer, bool
  or string dtype.
Tin: The dtypes of `input`.
Tout: The dtypes of `output`: those of the inputs of `f`, and of the variable for a resource input.
f: The function to differentiate.
wrt: For each input of `f`, whether its gradient is wanted; `output` and `Tout` are those of the wanted inputs alone, in
  order. Empty: all are. A resource that is no variable (a lookup table, an iterator, a queue) has no gradient, and must
  not be wanted.
values: Whether `output` and `Tout` also have, after the gradients, the M outputs of `f`, of the same run of `f`: then the
  op does what `f` does, effects included. `wrt` must be given then.
checkpoint: Which tensors of the forward pass stay in memory for the way back; others are computed again there, from those
  that stay. Results are the same. "": all stay. "cheap": all but what ops that cost next to nothing compute, by a
  minimum cut. "auto": as little is computed again as it takes for about the smallest peak of memory. "everything":
  whatever it takes for the smallest. A number of bytes ("200MB"): as little as it takes for intermediate tensors to fit
  in. "keep:MatMul,block_1": only results of ops of these types, or in these name scopes, stay.
  "recompute:Relu,block_1": only those do not. Draws of stateful random ops and what hangs on state stay in any case.
optimize: Who optimises the gradient function. "grappler": TensorFlow, as all that it runs, with the graph around it.
  "native": nobody but the engine that made it. The first run, most of which the former takes, then is several times
  shorter; later ones are as long, or a little longer, where there is nothing that only TensorFlow fuses. The op stays in
  the graph, and whoever runs that needs this library. What XLA compiles, XLA optimises in any case.
)doc");

}  // namespace
}  // namespace symgrad
