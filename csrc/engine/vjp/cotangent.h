// Cotangents of tensors, of variables and of arrays: which tensors have one, and zeros for it.
#pragma once

#include "csrc/engine/body/body.h"
#include "csrc/engine/emit/builder.h"

namespace symgrad {

// Whether a tensor of this dtype can carry a gradient. A resource stands for the variable it refers to.
bool IsDifferentiable(tf::DataType dtype);

// Whether no gradient flows through a node, as its rule says.
bool HasNoGradient(const Node& node);

// Zeros for the cotangent, of this dtype, of a tensor, of a variable, or of a flow of an array (flows.h) of elements of
// dtype `flow_element`; DT_INVALID: x is no flow.
V ZerosOf(const V& x, tf::DataType dtype, tf::DataType flow_element);

// The shape of a tensor, or of the value of a variable.
V ShapeOf(const V& x);

}  // namespace symgrad
