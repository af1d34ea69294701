// What crosses from the forward half of a function to its pullback.
#pragma once

#include <vector>

#include "csrc/engine/library/functions.h"

namespace symgrad {

// What is known of an argument of a loop's body.
struct LoopArgument {
  bool invariant = false;  // the same in all iterations
  bool counter = false;    // an integer that the number of the iteration tells
  bool written = false;    // a variable that the condition writes
  bool apart = false;      // if it is a variable, what is read of it is kept as if it were another in each iteration
  bool idle = false;       // there may be no iteration: then nothing may fail that is computed of it
};
using LoopArguments = std::vector<LoopArgument>;

// Which arguments of a body are variables that it writes; all, if it writes what it was not given.
std::vector<bool> WrittenArguments(const Functions& functions, const Body& body);

// What the pullback takes besides cotangents.
struct Cut {
  std::vector<bool> args;       // by argument: the pullback takes it
  std::vector<Port> residuals;  // what the forward half returns for the pullback
  std::vector<bool> pullback;   // by node: whether it belongs to the pullback
  // Of a loop's body, no residuals but what is equal in all iterations: what variables that are only read make of it,
  // and what follows from arguments alone.
  std::vector<Port> reads, invariants;
  std::vector<bool> invariant_args;  // by argument: `invariants` are computed of it
};

// Cuts a body that a sweep has extended, where `gradients` is what the pullback returns: arguments cross as they are,
// constants as copies, the rest as residuals.
//
// In the body of a loop (`loop` is not null) a residual costs a tensor for each iteration: one that is cheap to compute
// from what crosses anyway is computed again.
Cut CutBody(const Functions& functions, const Body& body, const std::vector<Port>& gradients,
            const LoopArguments* loop);

}  // namespace symgrad
