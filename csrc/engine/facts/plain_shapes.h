// Shapes that are plain to see. To run TensorFlow's shape function for a node costs more than all else that is done for
// it, and most nodes of a gradient are of few ops.
#pragma once

#include "csrc/engine/body/body.h"

namespace symgrad {

// Whether the shapes of a node's outputs are plain; then they are what the op's shape function says, or more: two
// shapes that nobody knows may be the same. False where that may have more to say: that something is wrong, say.
bool InferPlainShape(Body* body, int node);

}  // namespace symgrad
