// A part of a tensorflow::Graph as a Body, and its gradients as nodes of the graph.
#pragma once

#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "csrc/engine/body/body.h"
#include "csrc/engine/differentiate/differentiator.h"
#include "csrc/engine/emit/builder.h"
#include "tensorflow/cc/framework/scope.h"
#include "tensorflow/core/common_runtime/shape_refiner.h"
#include "tensorflow/core/graph/graph.h"

namespace symgrad {

// Nothing that the graph holds is changed: sessions run it, programs refer to its nodes. A forward node that must
// return residuals is therefore not rewritten, as in a function, but added a second time, and so are those nodes of the
// part that come after it. Their results have the same values, and share the forward pass with the gradients.
//
// A Scope says where new nodes go, and knows the shapes of all. REQUIRES: nobody else changes the graph meanwhile.
class GraphPart {
 public:
  explicit GraphPart(const tf::Scope& scope);

  // A tensor that comes from outside of the part, an argument more with each call.
  Port AddArg(const tf::Output& tensor);
  // Says of such an argument that nobody may have asked about it.
  void MayLack(Port arg) { body_.unasked.insert(arg.node); }
  // The same, but one for a tensor: an argument of the part, or what one of its nodes puts out. An integer comes with
  // what computes it, since rules ask for the values of axes and shapes.
  Port Find(const tf::Output& tensor);
  // A node of the graph; `inputs` are those that Find finds, unless given.
  absl::StatusOr<int> AddNode(tf::Node* node);
  absl::StatusOr<int> AddNode(tf::Node* node, const std::vector<Port>& inputs);

  // The gradients of `results`, whose cotangents are `dy` (null: ones), in nodes of the graph. An output without a node
  // stands for none, in `dy` and in what is returned.
  struct Gradients {
    std::vector<tf::Output> args;    // of those that `wrt` names, a flag for each
    std::vector<tf::Output> inner;   // of the `inner` tensors of the part
    std::vector<tf::Output> copies;  // tensors of the values of `results` that share the forward pass, if asked for
  };
  absl::StatusOr<Gradients> Differentiate(const std::vector<Port>& results, const std::vector<tf::Output>* dy,
                                          const std::vector<bool>& wrt, const std::vector<Port>& inner, bool copies);

  const Body& body() const { return body_; }

 private:
  Port AddInts(const tf::Output& tensor, int depth);
  absl::StatusOr<const tf::NodeDef*> ResolveGradient(const tf::Node& node);
  void ReadFacts(const tf::Output& tensor, Port p);
  Shape ToArena(const Shape& shape);

  // Adds what computes these, and is not in the graph, to it.
  absl::Status Write(const std::vector<Port>& wanted);
  void FindCopies();
  absl::Status WriteFunctions(const std::vector<bool>& needed);
  absl::Status WriteNode(int id);
  void WriteShapes(int id, const tf::Node* node);
  const tf::Scope& ScopeOf(int origin);
  tf::Output Written(Port p) const;

  const tf::Scope scope_;
  tf::Graph* const graph_;
  tf::ShapeRefiner* const refiner_;  // null: nothing is known of shapes
  Differentiator differentiator_;
  Body body_;
  Builder builder_;
  std::vector<tf::Output> tensors_;           // by node of the body, if it is an argument: what it stands for
  std::vector<tf::Node*> sources_, written_;  // by node: the forward node, and what the graph has of it in the end
  absl::flat_hash_map<std::pair<int, int>, Port> ports_;
  absl::flat_hash_map<int, int> ids_;           // of forward nodes, by their ids in the graph
  absl::flat_hash_map<int, Port> values_;       // of arguments that the body itself computes, by node
  absl::flat_hash_map<int, tf::Scope> scopes_;  // by forward node
};

}  // namespace symgrad
