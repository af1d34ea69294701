// The reverse sweep: reverse-mode differentiation of a Body.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/emit/builder.h"

namespace symgrad {

// Who knows the cotangents of the inputs of nodes that rules know nothing of, and how much may be made. The sweep knows
// no functions.
class NodeGradients {
 public:
  virtual ~NodeGradients() = default;
  // Of a node that stands for functions: a call, a branch or a loop. The node itself becomes a call that returns
  // residuals, too.
  virtual absl::StatusOr<Grads> StructureGradient(Builder* builder, const VjpQuery& query) = 0;
  // Of a node that comes with a gradient function of its own (kCustomGradient).
  virtual absl::StatusOr<Grads> CustomGradient(Builder* builder, const VjpQuery& query) = 0;
  // Marks where forward tensors may be infinite or NaN (Output::diverges).
  virtual void MarkDivergent(Body* body) = 0;
  // See Functions::Spend.
  virtual absl::Status SpendOn(int64_t made) = 0;
};

// The cotangents of those results that are flows of arrays (flows.h): lists, or, to a caller who knows of none, numbers
// that tell nothing.
enum class FlowSeeds { kLists, kNumbers };

// Appends to the builder's body one argument dy for each result that `seeds` names, and the nodes that compute the
// cotangents of those arguments of the function that `wrt` names (one flag for each result, argument). Returns one
// value for each wanted argument, in order, and then one for each `inner` tensor: `none` where nothing depends on it,
// sparse rows where the cotangent came as rows.
//
// One pass over the nodes in reverse order; a rule runs only for a node that lies between a wanted argument and a
// result. Everything that can't be differentiated is listed in one Unimplemented error.
absl::StatusOr<std::vector<V>> ReverseSweep(Builder* builder, NodeGradients* nodes, const std::vector<bool>& wrt,
                                            const std::vector<bool>& seeds, FlowSeeds flow_seeds,
                                            const std::vector<Port>& inner = {});

}  // namespace symgrad
