// The forms of rules that tables name (rule.h).
#include "csrc/rules/rule.h"

namespace symgrad {
namespace internal {

Grads Pass(const Op& o) {
  Grads dx(o.num_in());
  for (int i = 0; i < o.num_out(); ++i) dx[i] = o.raw_dy(i);
  return dx;
}

Grads Adjoint(const Op& o, const char* adjoint) {
  std::vector<Arg> args = {o.dy()};
  for (int i = 1; i < o.num_in(); ++i) args.push_back(o.in(i));
  return {EmitLike(o, adjoint, args.data(), args.size())};
}

Grads BilinearGrad(const Op& o, const Bilinear& ops) {
  const V x = o.in(0), w = o.in(1);
  return GRADS(o.like(ops.dx, shape(x), w, o.dy()), o.like(ops.dw, x, shape(w), o.dy()));
}
Grads BilinearInputGrad(const Op& o, const Bilinear& ops) {
  const V w = o.in(1), dy = o.in(2), x = o.dy();
  return GRADS(none, o.like(ops.dw, x, shape(w), dy), o.like(ops.y, x, w));
}
Grads BilinearFilterGrad(const Op& o, const Bilinear& ops) {
  const V x = o.in(0), dy = o.in(2), w = o.dy();
  return GRADS(o.like(ops.dx, shape(x), w, dy), none, o.like(ops.y, x, w));
}

}  // namespace internal
}  // namespace symgrad
