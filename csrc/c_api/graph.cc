// The part of the C API that works on graphs: gradients in one pass, where TF_AddGradients goes from node to node.
#include "csrc/c_api/graph.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "csrc/c_api/call.h"
#include "csrc/c_api/tf_symgrad.h"
#include "csrc/cc/graph_part.h"
#include "csrc/engine/body/topological_order.h"
#include "csrc/engine/vjp/cotangent.h"
#include "tensorflow/c/c_api_internal.h"
#include "tensorflow/cc/framework/scope_internal.h"
#include "tensorflow/core/graph/graph.h"
#include "xla/tsl/lib/strings/proto_serialization.h"

namespace symgrad {
namespace {

using tf::Node;

absl::StatusOr<std::vector<tf::Output>> FromC(const tf::Graph& graph, const TF_Output* tensors, int count,
                                              const char* what) {
  std::vector<tf::Output> outputs;
  if (count < 0 || (count > 0 && tensors == nullptr))
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", count, " tensors at NULL"));
  for (int i = 0; i < count; ++i) {
    Node* node = reinterpret_cast<Node*>(tensors[i].oper);
    if (node == nullptr || graph.FindNodeId(node->id()) != node || tensors[i].index < 0 ||
        tensors[i].index >= node->num_outputs())
      return absl::InvalidArgumentError(absl::StrCat(what, "[", i, "] is no tensor of the graph"));
    outputs.emplace_back(node, tensors[i].index);
  }
  return outputs;
}

// The nodes between x and y, in topological order.
class Between {
 public:
  Between(const tf::Graph& graph, const std::vector<tf::Output>& y, const std::vector<tf::Output>& x)
      : before_y_(graph.num_node_ids()), after_x_(graph.num_node_ids()) {
    std::vector<Node*> pending;
    const auto reach = [&](Node* node, std::vector<bool>* reached) {
      if (!(*reached)[node->id()]) pending.push_back(node);
      (*reached)[node->id()] = true;
    };
    for (const tf::Output& tensor : y) reach(tensor.node(), &before_y_);
    while (!pending.empty()) {
      Node* node = pending.back();
      pending.pop_back();
      for (const tf::Edge* edge : node->in_edges())
        if (!edge->IsControlEdge()) reach(edge->src(), &before_y_);
    }
    const auto follow = [&](Node* node, int output) {
      for (const tf::Edge* edge : node->out_edges())
        if (!edge->IsControlEdge() && (output < 0 || edge->src_output() == output) && before_y_[edge->dst()->id()])
          reach(edge->dst(), &after_x_);
    };
    for (const tf::Output& tensor : x) follow(tensor.node(), tensor.index());
    while (!pending.empty()) {
      Node* node = pending.back();
      pending.pop_back();
      nodes_.push_back(node);
      follow(node, -1);
    }
  }

  bool Contains(const Node* node) const { return after_x_[node->id()]; }

  absl::StatusOr<std::vector<Node*>> Sorted() {
    std::sort(nodes_.begin(), nodes_.end(), [](Node* a, Node* b) { return a->id() < b->id(); });
    absl::flat_hash_map<const Node*, int> index;
    for (Node* node : nodes_) {
      if (node->IsControlFlow())
        return absl::UnimplementedError(absl::StrCat(
            "node '", node->name(), "' (op ", node->type_string(), "): control flow of TensorFlow 1 is differentiated ",
            "within a function alone: make one of what it belongs to (TF_GraphToFunction), and call it"));
      index.emplace(node, static_cast<int>(index.size()));
    }
    std::vector<absl::InlinedVector<int, 4>> before(nodes_.size());
    for (size_t i = 0; i < nodes_.size(); ++i)
      for (const tf::Edge* edge : nodes_[i]->in_edges())
        if (const auto it = index.find(edge->src()); it != index.end()) before[i].push_back(it->second);
    std::vector<Node*> sorted;
    for (const int i : TopologicalOrder(before)) sorted.push_back(nodes_[i]);
    if (sorted.size() != nodes_.size()) return absl::InvalidArgumentError("the graph has a cycle");
    return sorted;
  }

 private:
  std::vector<bool> before_y_, after_x_;  // by id of node
  std::vector<Node*> nodes_;
};

absl::Status AddGradients(const tf::Scope& scope, const std::vector<tf::Output>& y, const std::vector<tf::Output>& x,
                          const std::vector<tf::Output>* dx, std::vector<tf::Output>* dy,
                          std::vector<tf::Output>* shared_y) {
  Between between(*scope.graph(), y, x);
  TF_ASSIGN_OR_RETURN(const std::vector<Node*> nodes, between.Sorted());
  GraphPart part(scope);
  std::vector<Port> results, xs, inner;
  for (const tf::Output& tensor : x)
    if (!between.Contains(tensor.node())) part.Find(tensor);
  for (Node* node : nodes) TF_RETURN_IF_ERROR(part.AddNode(node).status());
  for (const tf::Output& tensor : y) results.push_back(part.Find(tensor));
  std::vector<bool> wrt(part.body().args.size());
  for (const tf::Output& tensor : x) {
    const Port p = part.Find(tensor);
    xs.push_back(p);
    if (!IsDifferentiable(tensor.type())) continue;
    if (part.body().node(p.node).is_arg()) {
      const auto& args = part.body().args;
      wrt[std::find(args.begin(), args.end(), p.node) - args.begin()] = true;
    } else {
      inner.push_back(p);
    }
  }
  const std::vector<int> args = part.body().args;
  TF_ASSIGN_OR_RETURN(GraphPart::Gradients gradients, part.Differentiate(results, dx, wrt, inner, shared_y != nullptr));

  std::vector<Port> found;
  for (size_t i = 0; i < args.size(); ++i)
    if (wrt[i]) found.push_back({args[i], 0});
  found.insert(found.end(), inner.begin(), inner.end());
  gradients.args.insert(gradients.args.end(), gradients.inner.begin(), gradients.inner.end());
  dy->assign(x.size(), tf::Output(nullptr, -1));
  for (size_t i = 0; i < x.size(); ++i)
    if (const auto it = std::find(found.begin(), found.end(), xs[i]); it != found.end())
      (*dy)[i] = gradients.args[it - found.begin()];
  if (shared_y != nullptr) *shared_y = gradients.copies;
  return absl::OkStatus();
}

// What the graph was given, by name.
void AddNames(int first_new, TF_Graph* graph) {
  for (int id = first_new; id < graph->graph.num_node_ids(); ++id)
    if (Node* node = graph->graph.FindNodeId(id); node != nullptr) graph->name_map.emplace(node->name(), node);
}

}  // namespace

absl::Status AddGradients(TF_Graph* graph, const char* prefix, const TF_Output* y, int ny, const TF_Output* x, int nx,
                          const TF_Output* dx, TF_Output* dy, TF_Output* shared_y) {
  if (graph == nullptr || (nx > 0 && dy == nullptr)) return absl::InvalidArgumentError("graph or dy is NULL");
  const tf::mutex_lock lock(graph->mu);
  TF_ASSIGN_OR_RETURN(const std::vector<tf::Output> ys, FromC(graph->graph, y, ny, "y"));
  TF_ASSIGN_OR_RETURN(const std::vector<tf::Output> xs, FromC(graph->graph, x, nx, "x"));
  std::vector<tf::Output> seeds, gradients, shared;
  if (dx != nullptr) {
    TF_ASSIGN_OR_RETURN(seeds, FromC(graph->graph, dx, ny, "dx"));
  }
  absl::Status scope_status;
  const tf::Scope scope = tf::NewInternalScope(&graph->graph, &scope_status, &graph->refiner)
                              .NewSubScope(prefix == nullptr ? "gradients" : prefix);
  const int first_new = graph->graph.num_node_ids();
  const absl::Status status = AddGradients(scope, ys, xs, dx == nullptr ? nullptr : &seeds, &gradients,
                                           shared_y == nullptr ? nullptr : &shared);
  AddNames(first_new, graph);
  TF_RETURN_IF_ERROR(status);
  std::transform(gradients.begin(), gradients.end(), dy, ToC);
  std::transform(shared.begin(), shared.end(), shared_y, ToC);
  return absl::OkStatus();
}

}  // namespace symgrad

void TFSG_AddGradients(TF_Graph* graph, const char* prefix, const TF_Output* y, int ny, const TF_Output* x, int nx,
                       const TF_Output* dx, TF_Status* status, TF_Output* dy, TF_Output* shared_y) {
  symgrad::Call(status, [&] { return symgrad::AddGradients(graph, prefix, y, ny, x, nx, dx, dy, shared_y); });
}

void TFSG_GraphFunctions(TF_Graph* graph, TF_Buffer* library, TF_Status* status) {
  symgrad::Call(status, [&]() -> absl::Status {
    if (graph == nullptr) return absl::InvalidArgumentError("graph is NULL");
    std::string bytes;
    {
      const tensorflow::mutex_lock lock(graph->mu);
      tsl::SerializeToStringDeterministic(graph->graph.flib_def().ToProto(), &bytes);
    }
    return symgrad::Fill(bytes, library);
  });
}

void TFSG_AddFunctions(TF_Graph* graph, const TF_Buffer* library, TF_Status* status) {
  symgrad::Call(status, [&]() -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto functions, symgrad::Parse<tensorflow::FunctionDefLibrary>(library, "library"));
    if (graph == nullptr) return absl::InvalidArgumentError("graph is NULL");
    const tensorflow::mutex_lock lock(graph->mu);
    return graph->graph.AddFunctionLibrary(functions);
  });
}
