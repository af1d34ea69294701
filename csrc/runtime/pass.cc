// The graph pass: before a graph is placed, every node of the op in it, and in every function that it can reach,
// becomes a call of the gradient function. What then runs is stock TensorFlow, which inlines, optimises and places it.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/library/references.h"
#include "csrc/runtime/call.h"
#include "csrc/runtime/left_to_xla.h"
#include "csrc/runtime/stock.h"
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

bool IsToExpand(const NodeDef& node) {
  return IsGradientOp(node.op()) && !node.attr().contains(kLeftToXla) && !node.attr().contains(kBuilt);
}

// Whether the XLA kernel meets what a node stands for, and what that calls: nothing there is to be expanded before it.
bool IsLeftToXla(const NodeDef& node) {
  if (IsGradientOp(node.op())) return node.attr().contains(kLeftToXla);
  const auto compiled = node.attr().find("_XlaMustCompile");
  return compiled != node.attr().end() && compiled->second.b() && XlaLaunches();
}

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

// TensorFlow wraps an op that is called in eager mode in a function.
bool IsEagerCall(const FunctionDef* function) {
  return function != nullptr && absl::StartsWith(function->signature().name(), "__wrapped__");
}

std::string Place(const FunctionDef* function) {
  if (function == nullptr) return "the graph";
  return IsEagerCall(function) ? "an eager call" : FunctionPlace(function->signature().name());
}

// Finds and resolves all nodes of the op first and changes graph and library only then, so that an error leaves both as
// they were and the result does not depend on the order in which functions are met.
//
// The library belongs to somebody who may add the same functions again: a session that is extended does. So a function
// in it never changes. What holds the op, or leads to what does, is added once more under a name of its own, and those
// who called it call that.
class Expansion {
 public:
  // `function` is what the graph is the body of, if of any.
  Expansion(Graph* graph, FunctionLibraryDefinition* library, const FunctionDef* function)
      : graph_(graph), library_(library), place_(Place(function)), is_eager_call_(IsEagerCall(function)) {}

  absl::Status Run() {
    if (!IsNeeded()) return absl::OkStatus();
    TF_RETURN_IF_ERROR(ResolveGraph());
    TF_RETURN_IF_ERROR(ResolveFunctions());
    NameChanged();
    TF_RETURN_IF_ERROR(ChangeLibrary());
    TF_RETURN_IF_ERROR(ChangeLibraryOfGraph());
    return ChangeGraph();
  }

 private:
  // A function that the graph reaches.
  struct Met {
    RefCountPtr<FunctionRecord> record;  // null for one that was built here
    const FunctionDef* fdef = nullptr;
    std::set<std::string> callees;         // and ops
    std::unique_ptr<FunctionDef> changed;  // what is to be called instead, if it differs
  };

  // This runs for every function of a process, and most have no gradient op anywhere: look before walking.
  bool IsNeeded() const {
    for (const Node* node : graph_->op_nodes()) {
      if (IsToExpand(node->def())) return true;
    }
    for (const std::string& name : library_->ListFunctionNames()) {
      RefCountPtr<FunctionRecord> record = library_->FindRecord(name);
      if (record != nullptr && Contains(record->fdef())) return true;
    }
    return false;
  }

  absl::Status ResolveGraph() {
    for (Node* node : graph_->op_nodes()) {
      if (!IsGradientOp(node->type_string())) {
        if (!IsLeftToXla(node->def())) VisitReferences(node->def(), [this](const std::string& name) { Visit(name); });
        continue;
      }
      if (!IsToExpand(node->def())) continue;
      NodeDef call = node->def();
      TF_RETURN_IF_ERROR(Resolve({node->name(), place_, node->GetStackTrace().get()}, /*function=*/"", &call));
      // That device is the one to prefer, as it is for an eager call of a function. What is inlined on a device that is
      // asked for must be there, and a GPU has no kernels for strings.
      if (is_eager_call_ && !IsGradientOp(call.op())) call.clear_device();
      calls_.emplace_back(node, std::move(call));
    }
    return absl::OkStatus();
  }

  absl::Status ResolveFunctions() {
    while (!unvisited_.empty()) {
      const std::string name = std::move(unvisited_.front());
      unvisited_.pop_front();
      Met met;
      if (auto it = built_.find(name); it != built_.end()) {
        met.fdef = it->second;
      } else if (met.record = library_->FindRecord(name); met.record != nullptr) {
        met.fdef = &met.record->fdef();
      } else {
        continue;  // an op, or a function that nobody has: TensorFlow says so where it matters
      }
      if (Contains(*met.fdef)) TF_RETURN_IF_ERROR(ResolveFunction(name, &met));
      const FunctionDef& fdef = met.changed != nullptr ? *met.changed : *met.fdef;
      const auto meet = [&](const std::string& callee) { met.callees.insert(callee); };
      for (const NodeDef& node : fdef.node_def())
        if (!IsLeftToXla(node)) VisitReferences(node, meet);
      if (const std::string gradient = library_->FindGradient(name); !gradient.empty()) meet(gradient);
      for (const std::string& callee : met.callees) Visit(callee);
      met_.emplace(name, std::move(met));
    }
    return absl::OkStatus();
  }

  absl::Status ResolveFunction(const std::string& name, Met* met) {
    const std::string place = FunctionPlace(name);
    auto changed = std::make_unique<FunctionDef>(*met->fdef);
    bool any = false;
    for (NodeDef& node : *changed->mutable_node_def()) {
      if (!IsToExpand(node) || IsPolymorphic(node)) continue;
      const AbstractStackTrace* trace = nullptr;
      if (met->record != nullptr) {
        auto it = met->record->stack_traces().find(node.name());
        if (it != met->record->stack_traces().end()) trace = it->second.get();
      }
      TF_RETURN_IF_ERROR(Resolve({node.name(), place, trace}, name, &node));
      any = true;
    }
    if (any) met->changed = std::move(changed);
    return absl::OkStatus();
  }

  // Turns `node` into a call, or gives it the function that it is to run as it is. In a FunctionDef consumers say
  // node:output:i, and the output of both call ops is named so as well: their references stay right.
  absl::Status Resolve(const Site& site, const std::string& function, NodeDef* node) {
    absl::StatusOr<Call> call = Call::Parse(AttrSlice(*node));
    if (!call.ok()) return site.Locate(call.status());
    absl::StatusOr<GradientFunction> gradient = PrepareCall(*library_, *call);
    if (!gradient.ok()) return site.Locate(gradient.status());
    if (call->native && !IsCompiled(function)) {  // what XLA compiles has no kernels
      KeepBuilt(*gradient, *library_, node);
      return absl::OkStatus();
    }
    for (const FunctionDef& fdef : gradient->functions->function()) built_.emplace(fdef.signature().name(), &fdef);
    TF_RETURN_IF_ERROR(RewriteToCall(*gradient, node));
    Visit(gradient->name);
    gradients_.push_back(*std::move(gradient));
    return absl::OkStatus();
  }

  bool IsCompiled(const std::string& function) {
    if (!compiled_.has_value()) compiled_ = CompiledFunctions(*graph_, *library_);  // few programs ask
    return compiled_->count(function) > 0;
  }

  void Visit(const std::string& name) {
    if (seen_.insert(name).second) unvisited_.push_back(name);
  }

  // Names all functions that differ, each by what it is and by all that differs behind it.
  void NameChanged() {
    std::unordered_map<std::string, std::vector<std::string>> callers;
    std::vector<std::string> pending;
    for (const auto& [name, met] : met_) {
      for (const std::string& callee : met.callees) callers[callee].push_back(name);
      if (met.changed != nullptr) pending.push_back(name);
    }
    std::map<std::string, std::string> content;  // of those that differ, before they are renamed
    while (!pending.empty()) {
      const std::string name = std::move(pending.back());
      pending.pop_back();
      Met& met = met_[name];
      if (!content.try_emplace(name).second) continue;
      if (met.changed == nullptr) met.changed = std::make_unique<FunctionDef>(*met.fdef);
      content[name] = ContentHash(*met.changed);
      const auto it = callers.find(name);
      if (it != callers.end()) pending.insert(pending.end(), it->second.begin(), it->second.end());
    }
    for (const auto& [name, hash] : content) {
      std::string all;
      for (const std::string& reached : ChangedBehind(name)) absl::StrAppend(&all, reached, "=", content[reached], ";");
      renamed_[name] = absl::StrCat(name, "__symgrad_", ContentHash(all));
    }
  }

  std::set<std::string> ChangedBehind(const std::string& name) const {
    std::set<std::string> reached = {name};
    std::vector<std::string> pending = {name};
    while (!pending.empty()) {
      const Met& met = met_.at(pending.back());
      pending.pop_back();
      for (const std::string& callee : met.callees) {
        const auto it = met_.find(callee);
        if (it != met_.end() && it->second.changed != nullptr && reached.insert(callee).second)
          pending.push_back(callee);
      }
    }
    return reached;
  }

  absl::Status ChangeLibrary() {
    for (const GradientFunction& gradient : gradients_) TF_RETURN_IF_ERROR(AddFunctions(gradient, library_));
    for (const auto& [name, new_name] : renamed_) {
      const Met& met = met_[name];
      met.changed->mutable_signature()->set_name(new_name);
      for (NodeDef& node : *met.changed->mutable_node_def())
        if (!IsLeftToXla(node)) RenameFunctions(renamed_, &node);
      TF_RETURN_IF_ERROR(library_->AddFunctionDef(
          *met.changed, met.record != nullptr ? met.record->stack_traces() : tensorflow::StackTracesMap()));
    }
    for (const auto& [name, new_name] : renamed_) {
      const std::string gradient = library_->FindGradient(name);
      if (gradient.empty()) continue;
      tensorflow::GradientDef def;
      def.set_function_name(new_name);
      const auto it = renamed_.find(gradient);
      def.set_gradient_func(it == renamed_.end() ? gradient : it->second);
      TF_RETURN_IF_ERROR(library_->AddGradientDef(def));
    }
    return absl::OkStatus();
  }

  // A graph has a library of its own, for nodes whose op is a function; loops become such.
  absl::Status ChangeLibraryOfGraph() {
    std::vector<std::string> added;
    for (const auto& [name, new_name] : renamed_) added.push_back(new_name);
    for (const GradientFunction& gradient : gradients_)
      for (const FunctionDef& fdef : gradient.functions->function()) added.push_back(fdef.signature().name());
    for (const std::string& name : added) {
      const tensorflow::OpRegistrationData* known = nullptr;
      if (graph_->flib_def().LookUp(name, &known).ok()) continue;  // it may build on `library_`
      TF_RETURN_IF_ERROR(graph_->mutable_flib_def()->AddFunctionRecord(library_->FindRecord(name)));
    }
    return absl::OkStatus();
  }

  absl::Status ChangeGraph() {
    std::vector<std::pair<Node*, NodeDef>> replaced = std::move(calls_);
    for (Node* node : graph_->op_nodes()) {
      NodeDef def = node->def();
      if (IsGradientOp(node->type_string()) || IsLeftToXla(def) || !RenameFunctions(renamed_, &def)) continue;
      if (def.op() == node->type_string()) {
        for (const auto& [name, value] : def.attr()) node->AddAttr(name, value);
        continue;
      }
      replaced.emplace_back(node, std::move(def));
    }
    for (auto& [node, def] : replaced) TF_RETURN_IF_ERROR(Replace(node, std::move(def)));
    return absl::OkStatus();
  }

  absl::Status Replace(Node* node, NodeDef def) {
    absl::Status status;
    Node* call = graph_->AddNode(std::move(def), &status);
    if (!status.ok()) return Site{node->name(), place_, nullptr}.Locate(status);
    call->set_assigned_device_name(node->assigned_device_name());
    call->SetStackTrace(node->GetStackTrace());
    for (const Edge* edge : node->in_edges()) graph_->AddEdge(edge->src(), edge->src_output(), call, edge->dst_input());
    const std::vector<const Edge*> out_edges(node->out_edges().begin(), node->out_edges().end());
    for (const Edge* edge : out_edges) {
      Node* dst = edge->dst();
      const int src_output = edge->src_output(), dst_input = edge->dst_input();
      graph_->RemoveEdge(edge);  // first: a data input takes one edge
      graph_->AddEdge(call, src_output, dst, dst_input);
    }
    graph_->RemoveNode(node);
    return absl::OkStatus();
  }

  Graph* const graph_;
  FunctionLibraryDefinition* const library_;
  const std::string place_;  // says in errors where the graph comes from
  const bool is_eager_call_;
  std::optional<std::set<std::string>> compiled_;              // functions that XLA compiles
  std::vector<std::pair<Node*, NodeDef>> calls_;               // nodes of the graph and what replaces them
  std::unordered_map<std::string, Met> met_;                   // by name
  std::map<std::string, std::string> renamed_;                 // functions that differ, and their new names
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
    return Expansion(options.graph->get(), options.flib_def, options.function_def).Run();
  }
};

// Phase 0, because phase 10 inlines the calls.
REGISTER_OPTIMIZATION(tensorflow::OptimizationPassRegistry::PRE_PLACEMENT, 0, ExpandSymbolicGradients);

}  // namespace

}  // namespace symgrad
