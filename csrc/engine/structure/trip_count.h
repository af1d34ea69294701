// How often a loop runs, where that can be read.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "csrc/engine/function/body.h"

namespace symgrad {

// What each iteration of a loop adds to an integer variable, where that is a known number.
std::optional<int64_t> CounterStep(const Body& body, int variable);

// At most how often a loop runs whose condition and body are these, and whose variables begin as `initial` says (null:
// not known); -1 if that can't be told.
//
// What is told: a counter that begins at a known integer, that each iteration adds a known integer to, and that the
// condition compares with a known integer, perhaps among other conditions that must hold as well.
int64_t TripBound(const Body& condition, const Body& body, const std::vector<IntsPtr>& initial);

}  // namespace symgrad
