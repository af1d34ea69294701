// The graph pass: before a graph is placed, every node of the op in it, and in every function that it can reach,
// becomes a call of the gradient function. What then runs is stock TensorFlow, which inlines, optimises and places it.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/runtime/call.h"
#include "tensorflow/core/common_runtime/optimization_registry.h"
#include "tensorflow/core/graph/graph.h"
#include "tensorflow/core/graph/graph_debug_info_builder.h"
#include "tensorflow/core/platform/errors.h"

namespace symgrad {
namespace {

using tensorflow::AbstractStackTrace;
using tensorflow::AttrSlice;
using tensorflow::Edge;
using tensorflow::FunctionDef;
using tensorflow::FunctionLibraryDefinition;
using tensorflow::FunctionRecord;
using tensorflow::Graph;
using tensorflow::Node;
using tensorflow::NodeDef;
using tensorflow::core::RefCountPtr;

bool Disabled() {
  // Read each time: a process can run its tests both ways.
  const char* value = std::getenv("TF_SYMGRAD_DISABLE_PASS");
  return value != nullptr && std::string(value) == "1";
}

bool IsToExpand(const NodeDef& node) { return node.op() == kOpName && !node.attr().contains(kLeftToXla); }

bool Contains(const FunctionDef& fdef) {
  return std::any_of(fdef.node_def().begin(), fdef.node_def().end(), IsToExpand);
}

// An op in a polymorphic function may have attrs that only an instantiation knows. The kernel runs it.
bool IsPolymorphic(const NodeDef& node) {
  for (const auto& [name, value] : node.attr()) {
    if (!value.placeholder().empty()) return true;
    for (const auto& [inner_name, inner] : value.func().attr()) {
      if (!inner.placeholder().empty()) return true;
    }
  }
  return false;
}

// Where the user's program made a node: the innermost frame outside TensorFlow and this package.
std::string UserLine(const AbstractStackTrace& trace) {
  const std::vector<tensorflow::StackFrame> frames = trace.ToUncachedFrames();
  for (auto frame = frames.rbegin(); frame != frames.rend(); ++frame) {
    const std::string& file = frame->file_name;
    if (absl::StartsWith(file, "<") || absl::StrContains(file, "/tensorflow/python/") ||
        absl::StrContains(file, "/tf_symgrad/"))
      continue;
    return absl::StrCat(", made at ", file, ":", frame->line_number);
  }
  return "";
}

// A node of the op, and what an error says of where it is.
struct Site {
  const std::string& node;
  const std::string& place;         // "the graph", "function 'f'"
  const AbstractStackTrace* trace;  // may be null

  // Python replaces the tag at the end by the lines that made the node where it knows them, in a session for one.
  absl::Status Locate(const absl::Status& status) const {
    std::string where = absl::StrCat("node '", node, "' of ", place);
    if (trace != nullptr) absl::StrAppend(&where, UserLine(*trace));
    absl::Status located(status.code(), absl::StrCat("In ", where, ":\n", status.message(), "\n\t [[",
                                                     tensorflow::errors::FormatNodeNameForError(node), "]]"));
    status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) { located.SetPayload(url, payload); });
    return located;
  }
};

std::string FunctionPlace(const std::string& name) { return absl::StrCat("function '", name, "'"); }

std::string Place(const FunctionDef* function) {
  if (function == nullptr) return "the graph";
  const std::string& name = function->signature().name();
  if (absl::StartsWith(name, "__wrapped__")) return "an eager call";  // TensorFlow wraps the op in a function
  return FunctionPlace(name);
}

// Finds and resolves all nodes of the op first and changes graph and library only then, so that an error leaves both as
// they were and the result does not depend on the order in which functions are met.
class Expansion {
 public:
  // `place` says in errors where the graph comes from.
  Expansion(Graph* graph, FunctionLibraryDefinition* library, std::string place)
      : graph_(graph), library_(library), place_(std::move(place)) {}

  absl::Status Run() {
    if (!IsNeeded()) return absl::OkStatus();
    TF_RETURN_IF_ERROR(ResolveGraph());
    TF_RETURN_IF_ERROR(ResolveFunctions());
    TF_RETURN_IF_ERROR(ChangeLibrary());
    return ChangeGraph();
  }

 private:
  // This runs for every function of a process, and most have no gradient op anywhere: look before walking.
  bool IsNeeded() const {
    for (const Node* node : graph_->op_nodes()) {
      if (node->type_string() == kOpName) return true;
    }
    for (const std::string& name : library_->ListFunctionNames()) {
      RefCountPtr<FunctionRecord> record = library_->FindRecord(name);
      if (record != nullptr && Contains(record->fdef())) return true;
    }
    return false;
  }

  absl::Status ResolveGraph() {
    for (Node* node : graph_->op_nodes()) {
      if (node->type_string() != kOpName) {
        VisitReferences(node->def());
        continue;
      }
      NodeDef call = node->def();
      TF_RETURN_IF_ERROR(Resolve({node->name(), place_, node->GetStackTrace().get()}, &call));
      calls_.emplace_back(node, std::move(call));
    }
    return absl::OkStatus();
  }

  absl::Status ResolveFunctions() {
    while (!unvisited_.empty()) {
      const std::string name = std::move(unvisited_.front());
      unvisited_.pop_front();
      RefCountPtr<FunctionRecord> record;
      const FunctionDef* fdef = nullptr;
      if (auto it = built_.find(name); it != built_.end()) {
        fdef = it->second;
      } else if (record = library_->FindRecord(name); record != nullptr) {
        fdef = &record->fdef();
      } else {
        continue;  // an op, or a function that nobody has: TensorFlow says so where it matters
      }
      if (!Contains(*fdef)) {
        for (const NodeDef& node : fdef->node_def()) VisitReferences(node);
        continue;
      }
      const std::string place = FunctionPlace(name);
      FunctionDef& changed = changed_[name];
      changed = *fdef;
      for (NodeDef& node : *changed.mutable_node_def()) {
        if (!IsToExpand(node) || IsPolymorphic(node)) {
          VisitReferences(node);
          continue;
        }
        const AbstractStackTrace* trace = nullptr;
        if (record != nullptr) {
          auto it = record->stack_traces().find(node.name());
          if (it != record->stack_traces().end()) trace = it->second.get();
        }
        TF_RETURN_IF_ERROR(Resolve({node.name(), place, trace}, &node));
      }
    }
    return absl::OkStatus();
  }

  // Turns `node` into a call. In a FunctionDef consumers say node:output:i, and the output of both call ops is named so
  // as well: their references stay right.
  absl::Status Resolve(const Site& site, NodeDef* node) {
    absl::StatusOr<Call> call = Call::Parse(AttrSlice(*node));
    if (!call.ok()) return site.Locate(call.status());
    absl::StatusOr<GradientFunction> gradient = PrepareCall(*library_, *call);
    if (!gradient.ok()) return site.Locate(gradient.status());
    for (const FunctionDef& fdef : gradient->functions->function()) built_.emplace(fdef.signature().name(), &fdef);
    TF_RETURN_IF_ERROR(RewriteToCall(*gradient, node));
    Visit(gradient->name);
    gradients_.push_back(*std::move(gradient));
    return absl::OkStatus();
  }

  void Visit(const std::string& name) {
    if (seen_.insert(name).second) unvisited_.push_back(name);
  }

  void VisitReferences(const NodeDef& node) {
    if (library_->Contains(node.op()) || built_.count(node.op()) > 0) Visit(node.op());
    for (const auto& [name, value] : node.attr()) {
      if (value.has_func()) Visit(value.func().name());
      for (const auto& func : value.list().func()) Visit(func.name());
    }
  }

  absl::Status ChangeLibrary() {
    for (const GradientFunction& gradient : gradients_) TF_RETURN_IF_ERROR(AddFunctions(gradient, library_));
    for (const auto& [name, fdef] : changed_) {
      RefCountPtr<FunctionRecord> replaced = library_->FindRecord(name);
      TF_RETURN_IF_ERROR(library_->ReplaceFunction(name, fdef, replaced->stack_traces()));
    }
    return absl::OkStatus();
  }

  absl::Status ChangeGraph() {
    for (auto& [node, def] : calls_) {
      absl::Status status;
      Node* call = graph_->AddNode(std::move(def), &status);
      if (!status.ok()) return Site{node->name(), place_, nullptr}.Locate(status);
      call->set_assigned_device_name(node->assigned_device_name());
      call->SetStackTrace(node->GetStackTrace());
      for (const Edge* edge : node->in_edges())
        graph_->AddEdge(edge->src(), edge->src_output(), call, edge->dst_input());
      const std::vector<const Edge*> out_edges(node->out_edges().begin(), node->out_edges().end());
      for (const Edge* edge : out_edges) {
        Node* dst = edge->dst();
        const int src_output = edge->src_output(), dst_input = edge->dst_input();
        graph_->RemoveEdge(edge);  // first: a data input takes one edge
        graph_->AddEdge(call, src_output, dst, dst_input);
      }
      graph_->RemoveNode(node);
    }
    return absl::OkStatus();
  }

  Graph* const graph_;
  FunctionLibraryDefinition* const library_;
  const std::string place_;
  std::vector<std::pair<Node*, NodeDef>> calls_;               // nodes of the graph and what replaces them
  std::unordered_map<std::string, FunctionDef> changed_;       // functions that held the op, without it
  std::vector<GradientFunction> gradients_;                    // what the calls call
  std::unordered_map<std::string, const FunctionDef*> built_;  // all functions of gradients_, by name
  std::deque<std::string> unvisited_;
  std::unordered_set<std::string> seen_;
};

class ExpandSymbolicGradients : public tensorflow::GraphOptimizationPass {
 public:
  absl::Status Run(const tensorflow::GraphOptimizationPassOptions& options) override {
    if (options.graph == nullptr || *options.graph == nullptr || options.flib_def == nullptr || Disabled())
      return absl::OkStatus();
    return Expansion(options.graph->get(), options.flib_def, Place(options.function_def)).Run();
  }
};

// Phase 0, because phase 10 inlines the calls.
REGISTER_OPTIMIZATION(tensorflow::OptimizationPassRegistry::PRE_PLACEMENT, 0, ExpandSymbolicGradients);

}  // namespace
}  // namespace symgrad
