// Lists that keep a tensor of each iteration, in the vocabulary of rules.
#pragma once

#include <limits>
#include <vector>

#include "csrc/engine/emit/literal.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/plan/trip_count.h"

namespace symgrad {

// A shape as list ops take it: a vector, or -1 where not even the rank is known.
inline V ElementShape(const TensorSpec& stack) {
  if (stack.shape.unknown_rank()) return -1;
  std::vector<int64_t> dims;
  for (const int64_t d : stack.shape.dim_sizes()) dims.push_back(d);
  return ints(dims);
}
inline Attr ElementType(const TensorSpec& stack) { return Attr("element_dtype", static_cast<DType>(stack.dtype)); }

inline tf::DataTypeVector DtypesOf(const Values& values) {
  tf::DataTypeVector dtypes;
  for (const V& v : values) dtypes.push_back(ToTf(v.dtype()));
  return dtypes;
}

inline V FromTensor(const TensorSpec& stack, const V& tensor) {
  return op("TensorListFromTensor", tensor, ElementShape(stack));
}

// The length of the stacks, of the variables before the loop; -1 if it is not known.
inline V StackLength(const Trips& trips, const Values& variables) {
  if (trips.most >= 0 || !trips.formula) return constant(trips.most, DType::kInt32);
  const Trips::Formula& formula = *trips.formula;
  const V &counter = variables[formula.counter], &limit = variables[formula.limit];
  V distance = formula.down ? counter - limit : limit - counter;
  if (formula.step > 1) distance = (distance + (formula.equal ? 0 : formula.step - 1)) / formula.step;
  if (formula.equal) distance = distance + 1;
  return cast(minimum(maximum(distance, 0), std::numeric_limits<int32_t>::max()), DType::kInt32);
}

}  // namespace symgrad
