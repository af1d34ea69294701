// Nodes of a gradient that need the forward part alone, and are to run late nevertheless.
#pragma once

#include <vector>

#include "csrc/engine/body/body.h"
#include "csrc/engine/write/part.h"

namespace symgrad {

// By node of the body, the node that it is to wait for, by a control edge; -1 for none.
//
// The cosine that the gradient of a sine multiplies with hangs on the sine's input alone. TensorFlow runs a node as
// soon as its inputs are there, so that all such factors would be computed in the midst of the forward part and stay in
// memory until the way back comes to them, beside the tensors that they are computed from. So they wait for a cotangent
// that they are used with. What has fewer elements than its inputs does not: the sooner it runs the better.
std::vector<int> FindWaits(const Body& body, const Part& part);

}  // namespace symgrad
