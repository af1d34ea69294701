// Body -> FunctionDef.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "csrc/engine/library/functions.h"
#include "csrc/engine/write/part.h"
#include "tensorflow/core/framework/function.pb.h"

namespace symgrad {

// Writes a part of a body (part.h) as a function, and adds it under a name made of `stem` and a hash of its content.
// `source` is the function that the body was read from: what it says of its arguments, and its attrs for XLA and
// inlining, are kept. Node names are those of the forward nodes; an emitted node is called
// gradients/<forward node>/<op>. Equal bodies give equal functions.
absl::StatusOr<Callable> WriteFunction(Functions* functions, const Body& body, absl::string_view stem,
                                       const Signature& signature, const tf::FunctionDef& source);

}  // namespace symgrad
