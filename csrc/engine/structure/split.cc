#include "csrc/engine/structure/split.h"

#include "csrc/engine/vjp/cotangent.h"

namespace symgrad {

V SplitVjp::Gradient(size_t i, const V& results, const V& x) const {
  const GradientPlace& place = gradients[i];
  const V dx = results.out(place.values);
  return place.is_rows() ? rows(results.out(place.indices), dx, ShapeOf(x)) : dx;
}

}  // namespace symgrad
