// A function and the pullback that is read from its body.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/remat/policy.h"
#include "csrc/engine/structure/split.h"
#include "csrc/engine/vjp/sweep.h"

namespace symgrad {

// What f keeps for its backward part, as kCheckpoint says.
absl::StatusOr<Policy> PolicyOf(const tf::NameAttrList& f);

// Splitter::Split of the function f whose body this is: sweeps the body, cuts it, and writes what the split is made of.
absl::StatusOr<SplitVjp> SplitFunction(Splitter* splitter, NodeGradients* nodes, const tf::NameAttrList& f, Body* body,
                                       const std::vector<bool>& wrt, const std::vector<bool>& seeds,
                                       const LoopArguments* loop, bool dense);

}  // namespace symgrad
