// What a build results in.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tensorflow/core/framework/function.pb.h"
#include "tensorflow/core/framework/types.pb.h"

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

// The gradient of an input of a function.
struct InputGradient {
  tensorflow::DataType dtype;  // of a variable, its value's; DT_RESOURCE: no variable, or one that f says nothing of
  bool connected;              // whether any flows there from the outputs
};

}  // namespace symgrad
