// Body -> FunctionDef.
#pragma once

#include <string>

#include "csrc/engine/write/part.h"
#include "tensorflow/core/framework/function.pb.h"

namespace symgrad {

// Writes a part of a body (part.h) as a function. `source` is the function that the body was read from: what it says of
// its arguments, and its attrs for XLA and inlining, are kept. Node names are those of the forward nodes; an emitted
// node is called gradients/<forward node>/<op>. Equal bodies give equal functions.
tf::FunctionDef ExportFunction(const Functions& functions, const Body& body, const std::string& name,
                               const Signature& signature, const tf::FunctionDef& source);

}  // namespace symgrad
