// What a node does and sees besides what goes over its edges.
#pragma once

#include <string>
#include <vector>

#include "csrc/rules/traits/trait.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/op.h"

namespace symgrad {

inline constexpr Effects kStateful = kReads | kWrites, kAllEffects = kChecks | kStateful | kShows;
inline constexpr Effects kChanges = kWrites | kShows;  // what is not to happen a second time without need

// Of an op that stands for no function. A random op is stateful, but its draws are its own, and nobody's business.
Effects EffectsOfOp(const tensorflow::OpDef& op);

// The functions that a node stands for or calls: a call's, the branches, a loop's condition and body.
std::vector<std::string> CalledFunctions(const tensorflow::NodeDef& node, bool is_function_op);

}  // namespace symgrad
