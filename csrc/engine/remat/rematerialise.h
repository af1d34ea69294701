// Rematerialisation: forward tensors that the backward part of a function uses are computed again there, so that their
// memory is free in between.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/remat/policy.h"

namespace symgrad {

// Rewrites a body that a sweep has extended, for `results`, which become what computes the same in its place.
//
// What does not stay (plan.h) is computed by copies of forward nodes. They must run late, or nothing is gained, and
// must not be merged with what they are copies of. So those of them that start from what stays wait, by a control edge,
// for the cotangents that reach the node whose gradient needs them first; nodes that wait for something else are not
// equal to Grappler. XLA knows no such edges: there, what stays goes through an optimization barrier together with
// them.
absl::Status Rematerialise(const Functions& functions, Body* body, const Policy& policy, std::vector<Port>* results);

}  // namespace symgrad
