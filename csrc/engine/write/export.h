// Body -> FunctionDef.
#pragma once

#include <string>
#include <vector>

#include "csrc/engine/function/body.h"
#include "tensorflow/core/framework/function.pb.h"

namespace symgrad {

// The part of a body that computes `results` from `args`. An argument may be any tensor of the body: what computes it
// is then left out.
struct Signature {
  std::vector<Port> args;
  std::vector<Port> results;
  std::vector<int> effects = {};  // nodes that are needed for what they do
};

// Writes that part as a function. `source` is the function that the body was read from: what it says of its
// arguments, and its attrs for XLA and inlining, are kept. Node names are those of the forward nodes; an emitted node
// is called gradients/<forward node>/<op>. Equal bodies give equal functions.
tf::FunctionDef ExportFunction(const Body& body, const std::string& name, const Signature& signature,
                               const tf::FunctionDef& source);

}  // namespace symgrad
