// The loop of the forward half.
#pragma once

#include "absl/status/status.h"
#include "csrc/engine/plan/loop_plan.h"
#include "csrc/engine/structure/split.h"

namespace symgrad {

// Of a split loop the forward half, or with `in_place` that, and the residuals.
absl::Status WriteForwardLoop(Splitter* splitter, const LoopPlan& plan, InPlace* in_place, SplitVjp* split);

}  // namespace symgrad
