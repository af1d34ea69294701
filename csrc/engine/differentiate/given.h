// Functions whose gradient the library gives: a GradientDef names, for function f, the function
//
//   (x_1 … x_N, dy_1 … dy_M) -> (dx_1 … dx_N)
//
// which is what is called then, whatever f holds.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/structure/split.h"

namespace symgrad {

// What Differentiator::Gradient and Split are of such an f, whose body is `body`. A gradient function that the library
// lacks, or whose signature is another, is an InvalidArgument error.
absl::StatusOr<std::string> GivenGradient(Functions* functions, const tf::NameAttrList& f, const Body& body,
                                          const std::vector<bool>& wrt);
absl::StatusOr<SplitVjp> SplitGiven(Functions* functions, const tf::NameAttrList& f, const Body& body,
                                    const std::vector<bool>& wrt, const std::vector<bool>& seeds);

}  // namespace symgrad
