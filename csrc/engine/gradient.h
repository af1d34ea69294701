// The engine's front door: from a function of a library to the function that computes its gradients.
#pragma once

#include <memory>
#include <string>
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
  // Whether the function also returns, after the gradients, the results of f. It then does what f does: f's effects
  // are its own.
  bool values = false;
  // Whether a gradient that is sparse rows stays so: see GradientFunction::indices.
  bool sparse = false;
  // Which forward tensors are kept for the backward part, and which are computed again: see attr `checkpoint` of the
  // op. Empty: all that it uses are kept.
  std::string checkpoint;
};

// Builds the gradient function of request.f. Equal functions give byte-equal results; results are kept in a bounded
// cache of the process, so asking again costs a fingerprint of f. Thread-safe. `library` is read, never written.
//
// Errors: NotFound (no such function), InvalidArgument (malformed function, listing everything that is wrong with
// it), Unimplemented (ops without a gradient, all of them), each naming function, node, op and what to do.
absl::StatusOr<GradientFunction> BuildGradient(const tensorflow::FunctionLibraryDefinition& library,
                                               const GradientRequest& request);

// The two halves of a function f and its gradient:
//
//   forward:  x_1 … x_N -> y_1 … y_M, residuals
//   pullback: the x that `args` names, residuals, dy_1 … dy_M -> dx
struct VjpFunctions {
  std::string forward, pullback;
  std::vector<int> args;
  std::vector<int> gradients;  // for each input of f: which output of the pullback, or -1: none flows there
  std::shared_ptr<const tensorflow::FunctionDefLibrary> functions;
};

// Builds them for the inputs that `wrt` names. `checkpoint` as above: the residuals are what is kept. Errors as above.
absl::StatusOr<VjpFunctions> BuildVjp(const tensorflow::FunctionLibraryDefinition& library,
                                      const tensorflow::NameAttrList& f, const std::vector<bool>& wrt,
                                      const std::string& checkpoint = "");

// The gradients of the inputs of f that `wrt` names, as above; no gradient flows to the others. Errors as above.
absl::StatusOr<std::vector<InputGradient>> InputGradients(const tensorflow::FunctionLibraryDefinition& library,
                                                          const tensorflow::NameAttrList& f,
                                                          const std::vector<bool>& wrt = {});

}  // namespace symgrad
