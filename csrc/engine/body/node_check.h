// What a node of a FunctionDef must be before anything of TensorFlow's sees it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/op_def.pb.h"
#include "tensorflow/core/framework/types.h"

namespace symgrad {

namespace tf = ::tensorflow;
using AttrMap = google::protobuf::Map<std::string, tf::AttrValue>;

// No op has more inputs or outputs than this; an attr that says so would only fill the memory.
inline constexpr int64_t kMaxArity = 1 << 20;

// How many tensors an argument of an op or function stands for; -1 where its attr doesn't say.
int64_t ArgCount(const tf::OpDef::ArgDef& arg, const AttrMap& attrs);

// The name of the argument that an input of a node is of; with the number in it, if it is a list.
std::string InputName(const tf::NodeDef& node, const tf::OpDef& op, int64_t input);

// Whether a node has all attrs of its op, and none that the attrs of its function decide; and the node when it has.
bool IsComplete(const tf::NodeDef& node, const tf::OpDef& op);
tf::NodeDef CompleteNode(tf::NodeDef node, const tf::OpDef& op, const AttrMap& function_attrs);

// Everything that is wrong with a node's attrs; if nothing is, the dtypes of its inputs and outputs.
std::vector<std::string> CheckNode(const tf::NodeDef& node, const tf::OpDef& op, tf::DataTypeVector* in,
                                   tf::DataTypeVector* out);

}  // namespace symgrad
