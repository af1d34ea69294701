// Gradients of a loop's invariants that one larger product after the loop computes better than a sum of small ones in
// it.
#pragma once

#include <vector>

#include "csrc/engine/body/body.h"

namespace symgrad {

// The gradient of a weight that every iteration multiplies by is a sum over iterations, dW = sum_t x_t^T dy_t. Each
// term sums over the rows of its operands, so the whole is X^T dY, of all rows of all iterations.
struct RowSums {
  std::vector<Port> operands;     // to be concatenated along dimension 0 over the iterations
  std::vector<bool> transformed;  // by gradient: it follows from the operands so concatenated
};

// All dimensions but the first are known: what a concatenation along it, even of nothing, needs.
bool HasKnownRows(const Body& body, Port p);

// Which of `gradients`, tensors of the pullback of a loop's body, are such sums, and worth it: where the operands of
// one iteration are smaller than the gradient that each iteration would add up.
RowSums FindRowSums(Body* body, const std::vector<Port>& gradients, const std::vector<bool>& invariant);

}  // namespace symgrad
