// Which forward tensors stay for the backward part.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/remat/policy.h"
#include "csrc/engine/remat/schedule.h"

namespace symgrad {

// By buffer (Schedule::buffer), what stays under a policy. InvalidArgument if that names something that there is not.
absl::StatusOr<std::vector<bool>> ChooseWhatStays(const Schedule& schedule, const Policy& policy);

}  // namespace symgrad
