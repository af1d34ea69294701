// What is known, when building, of the outputs of nodes: shapes by TensorFlow's own shape functions, small integers by
// folding (fold.h).
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "csrc/engine/body/body.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace symgrad {

// Derives shapes and integer values of a node's outputs from those of its inputs.
absl::Status InferFacts(Body* body, int node);

// Of how many first inputs of a node TensorFlow's shape function claims what need not be, of itself and of the outputs.
// Nothing is derived from such a claim here. From TensorFlow, which computes with what it claims (Grappler folds the
// size that a mean divides by, be it wrong), a veil before each of these inputs hides what it is.
int FalselyClaimed(const Body& body, const tf::NodeDef& node, absl::Span<const Port> inputs);
// The attr of a veil: Reshape to the tensor's own shape, read through a placeholder with a default.
inline constexpr char kVeil[] = "_symgrad_veil";
// What is behind a veil; p itself if it is none.
Port Unveiled(const Body& body, Port p);

// The integer values of all outputs of a node that computes `op` of `inputs`, as far as they are known; empty if
// nothing is.
std::vector<IntsPtr> FoldInts(Body* body, absl::string_view op, const tf::NodeDef& def, absl::Span<const Port> inputs);

// What a constant is, if it is small and of integers.
IntsPtr ReadInts(const tf::TensorProto& value);
// Reads the value of a constant, if it is one. Of one that is written as a value and a shape of which there are many,
// as a function of few bytes may hold it, false: it could take all memory.
bool ReadTensor(const tf::TensorProto& value, tf::Tensor* tensor);
// The constant that known integers are; false if one of them is beyond the dtype.
bool FillInts(const Ints& ints, tf::DataType dtype, tf::TensorProto* out);

// Whether an int64 counts the elements of a shape. Others end the process in TensorFlow's shape functions: no output of
// a node has one.
bool IsCountable(const Shape& shape);

tf::PartialTensorShape StaticShape(const Shape& shape);
// Of a tensor, or of the value of a variable.
tf::PartialTensorShape StaticShapeOfValue(const Body& body, Port p);

}  // namespace symgrad
