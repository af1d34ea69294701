// The loop of the pullback.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "csrc/engine/plan/loop_plan.h"
#include "csrc/engine/structure/split.h"

namespace symgrad {

// Of a split loop the pullback, which gives the gradients of the variables that are wanted.
absl::Status WriteBackwardLoop(Splitter* splitter, const LoopPlan& plan, bool in_place, const std::vector<bool>& wants,
                               SplitVjp* split);

}  // namespace symgrad
