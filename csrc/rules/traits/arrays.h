// Cotangents of arrays of TensorFlow 1: lists of tensors.
#pragma once

#include "csrc/rules/op.h"

namespace symgrad {

// Zeros, in a list of no length, and the sum of lists of any lengths.
V EmptyList(DType element);
V SumOfLists(const Values& lists);

}  // namespace symgrad
