#include "csrc/engine/loops/loop.h"

#include <algorithm>

#include "csrc/engine/loops/backward_loop.h"
#include "csrc/engine/loops/forward_loop.h"
#include "csrc/engine/plan/loop_plan.h"

namespace symgrad {

absl::StatusOr<SplitVjp> SplitLoop(Splitter* splitter, const Body& body, const VjpQuery& query, InPlace* in_place) {
  TF_ASSIGN_OR_RETURN(const LoopPlan plan, LoopPlan::Make(splitter, body, query, in_place != nullptr));
  SplitVjp split;
  split.num_results = plan.variables.size();
  split.gradients.resize(split.num_results);
  TF_RETURN_IF_ERROR(WriteForwardLoop(splitter, plan, in_place, &split));
  const std::vector<bool>& wants = query.wants;
  if (std::find(wants.begin(), wants.end(), true) != wants.end())
    TF_RETURN_IF_ERROR(WriteBackwardLoop(splitter, plan, in_place != nullptr, wants, &split));
  return split;
}

}  // namespace symgrad
