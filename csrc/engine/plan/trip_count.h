// How often a loop runs, where that can be read.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "csrc/engine/body/body.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// What each iteration of a loop adds to an integer variable, where that is a known number.
std::optional<int64_t> CounterStep(const Body& body, int variable);

// An integer of a function in terms of its arguments, as far as its range is known.
Range RangeOf(const Body& body, Port p, const std::vector<Range>& args);

// At most how often a loop runs.
struct Trips {
  int64_t most = -1;   // -1: no number that is known
  bool exact = false;  // so often, neither more nor less
  // Else, if it is known, ceil((last - first) / step), where `first` and `last` are values before the loop: of variable
  // `counter` and of variable `limit`, which is the same in all iterations, in this order or, where the counter counts
  // down to its limit, in the other. `equal`: one iteration more where they meet.
  struct Formula {
    int counter, limit;
    int64_t step;
    bool down, equal;
  };
  std::optional<Formula> formula;
};

// Of a loop whose condition and body are these, and whose variables begin in the ranges `initial`.
//
// What is told: a counter that each iteration adds a known integer to, and that the condition compares with a number,
// or with a variable that stays as it is, perhaps among other conditions that must hold as well.
Trips CountTrips(Functions* functions, const Body& condition, const Body& body, const std::vector<Range>& initial);

}  // namespace symgrad
