// What is known of the outputs of nodes that stand for functions, from the functions.
#pragma once

#include "csrc/engine/body/body.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// Of a call, what its function tells of its results. XLA must know more: of a branch, what all its functions tell, and
// of a loop, that its variables keep their shapes.
void InferFromFunctions(Functions* functions, Body* body, int node);

// Marks where forward tensors may be infinite or NaN (Output::diverges): in what an op gives that diverges, in what is
// made of that, and in what functions return that do so. A builder of the body is current.
void MarkDivergent(Functions* functions, Body* body);

}  // namespace symgrad
