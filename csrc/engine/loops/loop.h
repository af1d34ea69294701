// While, as a function that is split: each half is a loop.
#pragma once

#include "absl/status/statusor.h"
#include "csrc/engine/emit/builder.h"
#include "csrc/engine/structure/split.h"

namespace symgrad {

// Splits the While node that the query is of. Its inputs are the x, its outputs the y.
//
// The forward loop counts its iterations and stacks what the pullback of its body needs; the backward loop pops it. Per
// iteration, with x the loop variables: x' = body(x), and backwards dx = pullback(x, residuals, dx'). Loop-invariant
// variables are not stacked: the pullback takes them as they are, and their cotangents add up over the iterations. Nor
// is what is computed of them alone, nor a counter, nor a variable's next value: the backward loop has popped it
// already, as the value that the iteration after this one began with.
//
// With `in_place`, that is what the forward half is: a loop alone. All that crosses are its results, stacks as lists,
// and what is computed of invariants is stacked, too.
absl::StatusOr<SplitVjp> SplitLoop(Splitter* splitter, const Body& body, const VjpQuery& query,
                                   InPlace* in_place = nullptr);

}  // namespace symgrad
