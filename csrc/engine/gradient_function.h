// What a build results in.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tensorflow/core/framework/function.pb.h"

namespace symgrad {

// A gradient function g(x_1 … x_N, dy_1 … dy_M) -> (dx_i for each wanted i, y_1 … y_M if values are wanted), with every
// function it calls that the library does not have.
struct GradientFunction {
  std::string name;
  bool stateful = false;  // must be called by StatefulPartitionedCall
  std::shared_ptr<const tensorflow::FunctionDefLibrary> functions;
  // If the request was sparse, for each wanted input which result, after all others, has the indices of the rows whose
  // values the result that is its gradient has; -1 where that is dense.
  std::vector<int> indices;
};

}  // namespace symgrad
