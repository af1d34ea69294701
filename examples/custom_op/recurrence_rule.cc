// The rule of Example>LinearRecurrence. It includes tf_symgrad's header alone, and compiles in a second.
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// The columns of x, one further to the left or to the right, and zeros where there is none.
V Shift(const V& x, bool left) {
  const V paddings = reshape(ints({0, 0, !left, left}), ints({2, 2}));
  return slice(op("Pad", x, paddings), ints({0, left}), shape(x));
}

//   y_t  = a_t y_{t-1} + x_t
//   dx_t = dy_t + a_{t+1} dx_{t+1}      a recurrence the other way round
//   da_t = dx_t y_{t-1}
Grads LinearRecurrenceGrad(const Op& o) {
  const bool reverse = o.flag("reverse");
  const V a = o.in(0), y = o.out();
  const V dx = op("Example>LinearRecurrence", Shift(a, !reverse), o.dy(), Attr("reverse", !reverse));
  return {dx * Shift(y, reverse), dx};
}

constexpr Rule kRules[] = {{"Example>LinearRecurrence", LinearRecurrenceGrad}};
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
