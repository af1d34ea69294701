// What crosses between the halves of branches.
#pragma once

#include <vector>

#include "csrc/engine/structure/split.h"
#include "csrc/engine/write/author.h"

namespace symgrad {

// What crosses from forward to pullback, the same for all branches: results, and after them slots. A slot serves each
// branch that has a residual of its dtype and static shape. XLA wants all branches to return tensors of the same
// shapes. Elsewhere a slot serves several branches only where its shape is known, and it is no list: Grappler takes
// what one branch says of a tensor's shape for all of them. Branches that are one function say the same.
struct Slots {
  TensorSpecs tensors;
  std::vector<std::vector<int>> of;  // branch, residual -> slot; below 0: ~result
  std::vector<bool> crosses;         // by result

  Slots(const std::vector<SplitVjp>& splits, bool compiled);

  // XLA, which takes tensors of one shape alone, ends the process where the branches' differ in rank.
  absl::Status CheckFillers() const;
};

// What a branch that has nothing to say puts into a slot: where the shape is known, a tensor of it that is allocated
// once and never written; else something small. XLA ends the process where the branches of a Case return lists or
// tensors of several shapes. What is not built for it but meets it holds ops that it refuses.
V Filler(FunctionAuthor* branch, const TensorSpec& slot, bool refused_by_xla);

}  // namespace symgrad
