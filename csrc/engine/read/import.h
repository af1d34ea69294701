// FunctionDef -> Body.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/library/functions.h"

namespace symgrad {

// Reads function f, instantiated with f's attrs if it is polymorphic. Gradient ops in it become calls of gradient
// functions. Nothing in the FunctionDef is trusted: an InvalidArgument error lists everything that is wrong with it,
// NotFound says that there is no such function.
absl::StatusOr<std::unique_ptr<Body>> ImportFunction(Functions* functions, const tf::NameAttrList& f);

}  // namespace symgrad
