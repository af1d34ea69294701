// Control flow of TensorFlow 1 (Switch and Merge; Enter, Exit and NextIteration) -> If and While.
#pragma once

#include "absl/status/statusor.h"
#include "csrc/engine/body/node_check.h"
#include "csrc/engine/library/functions.h"
#include "tensorflow/core/framework/function.pb.h"

namespace symgrad {

// Whether a function holds such control flow.
bool HasFrames(const tf::FunctionDef& fdef);

// The same function, instantiated with `attrs`, with If and While in its place, of branches and bodies that are added
// to `functions`. Only the outermost branches and loops are rewritten: what is inside of them is inside of the new
// functions, and is rewritten when those are read. What no result needs is left out.
//
// Errors: InvalidArgument or Unimplemented, naming every node that is no branch or loop as TensorFlow writes them.
absl::StatusOr<tf::FunctionDef> Functionalize(Functions* functions, const tf::FunctionDef& fdef, const AttrMap& attrs);

}  // namespace symgrad
