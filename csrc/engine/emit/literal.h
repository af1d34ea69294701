// Constants, and what an emitted node takes over from the forward node it belongs to.
#pragma once

#include "csrc/engine/emit/builder.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace symgrad {

// Writes a number or vector of integers as a tensor of `dtype`; false if that dtype has no such numbers.
bool FillLiteral(const V& literal, tf::DataType dtype, tf::TensorProto* out);

// The attrs of a node that speak to the runtime, for a node that takes its place: all but those that tell of its
// signature.
void CopyRuntimeAttrs(const tf::NodeDef& from, tf::NodeDef* to);

// Device, and the attrs that keep a node with its forward node: colocation class and XLA scope.
void CopyPlacement(const tf::NodeDef& forward, tf::NodeDef* emitted);

}  // namespace symgrad
