#include "csrc/engine/differentiate/resources.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/library/gradient_op.h"

namespace symgrad {
namespace {

// Whether an op takes a resource that is no variable. Ops of other libraries may do what they like.
bool TakesOtherResource(absl::string_view op) {
  for (const char* kind : {"LookupTable", "HashTable", "InitializeTable", "Iterator", "Queue", "TensorArray", "StackP",
                           "StackClose", "ReaderRead", "BoostedTrees", "Dataset", "SeedGenerator", "Summary", "RpcC",
                           "RpcServer", "ResourceAccumulator", "MutexLock", "MemoryCache", "StatsAggregator"})
    if (absl::StrContains(op, kind)) return true;
  return false;
}

// Ops whose results are their inputs as they came.
bool Passes(absl::string_view op) {
  return op == "Identity" || op == "Enter" || op == "Switch" || op == "Merge" || op == "Exit" || op == "NextIteration";
}

// How many inputs of a node come before those of the functions in its attrs; -1 where it hands them none as they are.
int InputsBeforeCallees(const tf::NodeDef& node) {
  if (IsBranch(node) || node.op() == "RemoteCall") return 1;
  return IsStructureOp(node.op()) || node.op() == kGradientOp ? 0 : -1;
}

using Input = std::pair<std::string, int>;  // of a function

// The inputs of other functions that input `i` of a node becomes.
std::vector<Input> Callees(const tf::NodeDef& node, int i) {
  std::vector<Input> callees = {{node.op(), i}};  // where that is a function
  const int before = InputsBeforeCallees(node);
  if (before < 0 || i < before) return callees;
  for (const auto& [name, value] : node.attr()) {
    if (value.has_func()) callees.emplace_back(value.func().name(), i - before);
    for (const tf::NameAttrList& f : value.list().func()) callees.emplace_back(f.name(), i - before);
  }
  return callees;
}

// The tensor that input `i` of a function is; empty if its inputs are lists, or there is no such input.
std::string Name(const tf::OpDef& signature, int i) {
  const auto is_list = [](const auto& arg) { return !arg.number_attr().empty() || !arg.type_list_attr().empty(); };
  const auto& args = signature.input_arg();
  return i < args.size() && std::none_of(args.begin(), args.end(), is_list) ? args.Get(i).name() : "";
}

// Whether each input of a node is one tensor: "argument", "node:output:index".
bool IsFlat(const tf::NodeDef& node) {
  return std::all_of(node.input().begin(), node.input().end(),
                     [](const std::string& x) { return std::count(x.begin(), x.end(), ':') != 1; });
}

}  // namespace

ResourceUses::Readers ResourceUses::ReadersIn(const tf::FunctionDef& function) {
  Readers readers;
  for (const tf::OpDef::ArgDef& arg : function.signature().input_arg()) readers[arg.name()];
  for (const tf::NodeDef& node : function.node_def())
    if (Passes(node.op())) readers[node.name()];
  for (const tf::NodeDef& node : function.node_def()) {
    for (int k = 0; k < node.input_size(); ++k) {
      const absl::string_view input = node.input(k);
      const auto it = readers.find(input.substr(0, input.find(':')));
      if (it != readers.end()) it->second.emplace_back(&node, k);
    }
  }
  return readers;
}

const ResourceUses::Function& ResourceUses::Look(const std::string& name) {
  const auto [it, added] = seen_.try_emplace(name);
  if (!added) return it->second;
  it->second.fdef = functions_.Find(name);
  if (it->second.fdef != nullptr) it->second.readers = ReadersIn(*it->second.fdef);
  return it->second;
}

std::string ResourceUses::AsOther(const std::string& f, int input) {
  std::vector<Input> pending = {{f, input}};
  absl::flat_hash_set<Input> seen(pending.begin(), pending.end());
  while (!pending.empty()) {
    const auto [name, i] = std::move(pending.back());
    pending.pop_back();
    const Function& function = Look(name);
    if (function.fdef == nullptr) continue;
    std::vector<std::string> tensors = {Name(function.fdef->signature(), i)};
    for (size_t t = 0; t < tensors.size() && !tensors[t].empty(); ++t) {
      for (const auto& [node, k] : function.readers.at(tensors[t])) {
        if (TakesOtherResource(node->op()))
          return absl::StrCat("node '", node->name(), "' of function '", name, "' (op ", node->op(), ")");
        if (Passes(node->op()) && std::find(tensors.begin(), tensors.end(), node->name()) == tensors.end())
          tensors.push_back(node->name());
        if (!IsFlat(*node)) continue;
        for (Input& callee : Callees(*node, k))
          if (seen.insert(callee).second) pending.push_back(std::move(callee));
      }
    }
  }
  return "";
}

absl::Status CheckResources(const Functions& functions, const tf::NameAttrList& f, const Body& body,
                            const std::vector<bool>& wrt) {
  Errors errors;
  ResourceUses uses(functions);
  for (size_t i = 0; i < wrt.size(); ++i) {
    if (!wrt[i] || body.output({body.args[i], 0}).dtype != tf::DT_RESOURCE) continue;
    const std::string use = uses.AsOther(f.name(), static_cast<int>(i));
    if (!use.empty()) errors.Add(absl::StrCat("input ", i, " '", body.name(body.args[i]), "': see ", use));
  }
  if (errors.empty()) return absl::OkStatus();
  return errors.ToStatus(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat(
          "function '", f.name(), "' has inputs that are resources but no variables, and so have no gradient. ",
          "Leave them out of the wanted inputs, by attr wrt of the op, a flag for each input of the function"));
}

}  // namespace symgrad
