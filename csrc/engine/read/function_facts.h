// What is known of the outputs of nodes that stand for functions, from the functions.
#pragma once

#include "csrc/engine/body/body.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// Of a call, what its function tells of its results. XLA must know more: of a branch, what all its functions tell, and
// of a loop, that its variables keep their shapes.
void InferFromFunctions(Functions* functions, Body* body, int node);

}  // namespace symgrad
