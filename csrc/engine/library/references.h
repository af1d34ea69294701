// The functions that nodes refer to: by an op that is a function's name, and by attrs.
#pragma once

#include <map>
#include <string>

#include "absl/functional/function_ref.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"

namespace symgrad {

// Visits all names that a node refers to, its op first, whether or not that is a function.
void VisitReferences(const tensorflow::NodeDef& node, absl::FunctionRef<void(const std::string&)> visit);

// Gives functions that a node refers to their new names; whether it refers to any.
bool RenameFunctions(const std::map<std::string, std::string>& new_names, tensorflow::NodeDef* node);

}  // namespace symgrad
