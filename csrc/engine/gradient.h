// The engine's front door: from a function of a library to the function that computes its gradients.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/gradient_function.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.h"

namespace symgrad {

// What is asked of a gradient function.
struct GradientRequest {
  // The function to differentiate: its name and, where it is polymorphic, its attrs.
  tensorflow::NameAttrList f;
  // Which inputs of f to differentiate with respect to, in order. Empty: all. The gradient function has one output
  // for each input that is asked for.
  std::vector<bool> wrt;
};

// Builds the gradient function of request.f. Equal functions give byte-equal results; results are kept in a bounded
// cache of the process, so asking again costs a fingerprint of f. Thread-safe. `library` is read, never written.
//
// Errors: NotFound (no such function), InvalidArgument (malformed function, listing everything that is wrong with
// it), Unimplemented (ops without a gradient, all of them), each naming function, node, op and what to do.
absl::StatusOr<GradientFunction> BuildGradient(const tensorflow::FunctionLibraryDefinition& library,
                                               const GradientRequest& request);

}  // namespace symgrad
