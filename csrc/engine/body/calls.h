// Nodes that stand for functions: calls, branches, loops; and nodes that come with a gradient of their own.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/op.h"

namespace symgrad {

namespace tf = ::tensorflow;

// The ops that stand for functions, besides those that are names of functions.
inline constexpr absl::string_view kStructureOps[] = {
    "Case",          "If",          "PartitionedCall", "RemoteCall", "StatefulPartitionedCall",
    "StatelessCase", "StatelessIf", "StatelessWhile",  "While"};
bool IsStructureOp(absl::string_view op);
// Whether a node stands for functions: all that it does is what they do.
bool IsStructure(const tf::NodeDef& node, const tf::OpRegistrationData& op);
// What a node calls, if it calls a function as it is: by PartitionedCall, or by an op that is a function's name.
bool IsCall(const tf::NodeDef& node, const tf::OpRegistrationData& op);
tf::NameAttrList Callee(const tf::NodeDef& node);
bool IsBranch(const tf::NodeDef& node);  // If, Case
std::vector<tf::NameAttrList> Branches(const tf::NodeDef& node);
bool IsLoop(const tf::NodeDef& node);  // While

// An attr of a node: the function that is to be differentiated in its place, which computes the same.
inline constexpr char kSameAs[] = "_symgrad_same_as";

// Attrs of a node whose gradient is a function that the caller hands over (tf.custom_gradient, a gradient registered
// in Python): the function, the tensors of the body that it takes before the cotangents of the node's outputs,
// written as inputs of a node are, and for each input of the node which of the function's outputs is its cotangent,
// -1 for none, kMisshapen where it has another shape than the input: sums of such would broadcast.
inline constexpr char kCustomGradient[] = "_symgrad_gradient";
inline constexpr char kCustomInputs[] = "_symgrad_gradient_inputs";
inline constexpr char kCustomOutputs[] = "_symgrad_gradient_outputs";
inline constexpr int kMisshapen = -2;
// Whether a node's gradient is not its op's: handed over, or one that Python has and is still to hand over.
inline bool HasOwnGradient(const tf::NodeDef& node) {
  return node.attr().contains(kCustomGradient) || node.attr().contains("_gradient_op_type");
}

}  // namespace symgrad
