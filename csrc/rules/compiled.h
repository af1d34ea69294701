// What rules may ask of where their function runs.
#pragma once

#include <cstdint>

#include "csrc/rules/op.h"

namespace symgrad {

// Whether XLA compiles what a rule writes, for sure. To it a list is a buffer: its length is that of the buffer,
// however few elements it has.
bool Compiled();

// How many derivatives were taken of a forward node before, in functions that this one is made of. What must not be the
// same in any two of them is made of this number. -1 where it can't be told: in a graph.
int64_t CountDerivative(const Op& o);

}  // namespace symgrad
