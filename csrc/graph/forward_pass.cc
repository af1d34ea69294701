#include "csrc/graph/forward_pass.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/body/node_check.h"
#include "csrc/engine/body/topological_order.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/graph/region.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

// How far back integers are followed: rules ask for the values of axes and shapes.
constexpr int kMaxDepth = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Read(tf::GraphDef graph, bool compiled) {
  std::unique_ptr<ForwardPass> pass(new ForwardPass(std::move(graph), compiled));
  TF_RETURN_IF_ERROR(pass->Index());
  return pass;
}

absl::Status ForwardPass::Index() {
  const int n = graph_.node_size();
  absl::flat_hash_map<absl::string_view, int> number;
  for (int i = 0; i < n; ++i) number.emplace(graph_.node(i).name(), i);
  std::vector<absl::InlinedVector<int, 4>> before(n);
  std::vector<std::vector<Port>> inputs(n);
  std::vector<bool> edge(n, false);
  for (int i = 0; i < n; ++i) {
    for (const absl::string_view input : graph_.node(i).input()) {
      if (input[0] == '^') break;
      const size_t colon = input.rfind(':');
      Port p{-1, 0};
      if (colon != absl::string_view::npos && !absl::SimpleAtoi(input.substr(colon + 1), &p.index))
        return absl::InvalidArgumentError(absl::StrCat("node '", graph_.node(i).name(), "': no input '", input, "'"));
      const auto it = number.find(input.substr(0, colon));
      if (it == number.end()) {
        edge[i] = true;
        continue;
      }
      p.node = it->second;
      inputs[i].push_back(p);
      before[i].push_back(p.node);
    }
  }
  const std::vector<int> order = TopologicalOrder(before);
  if (static_cast<int>(order.size()) != n) return absl::UnimplementedError("the graph has a cycle");
  std::vector<int> place(n);
  for (int k = 0; k < n; ++k) place[order[k]] = k;
  items_.resize(n);
  for (int k = 0; k < n; ++k) {
    items_[k].def = graph_.mutable_node(order[k]);
    items_[k].edge = edge[order[k]];
    if (!items_[k].edge) items_[k].inputs = std::move(inputs[order[k]]);
    for (Port& p : items_[k].inputs) p.node = place[p.node];
    by_name_.emplace(items_[k].def->name(), k);
  }
  return absl::OkStatus();
}

absl::Status ForwardPass::ReadTypes(int node) {
  Item& item = items_[node];
  if (item.op != nullptr) return absl::OkStatus();
  const tf::OpRegistrationData* op = nullptr;
  TF_RETURN_IF_ERROR(library_.LookUp(item.def->op(), &op));
  if (!IsComplete(*item.def, op->op_def)) *item.def = CompleteNode(*item.def, op->op_def, {});
  tf::DataTypeVector in;
  const std::vector<std::string> wrong = CheckNode(*item.def, op->op_def, &in, &item.types);
  if (!wrong.empty()) return absl::InvalidArgumentError(absl::StrCat("node '", item.def->name(), "': ", wrong[0]));
  item.op = op;
  return absl::OkStatus();
}

absl::StatusOr<Port> ForwardPass::Parse(absl::string_view tensor) const {
  const size_t colon = tensor.rfind(':');
  Port p;
  const auto it = by_name_.find(tensor.substr(0, colon));
  if (it == by_name_.end() || colon == absl::string_view::npos || !absl::SimpleAtoi(tensor.substr(colon + 1), &p.index))
    return absl::NotFoundError(absl::StrCat("the graph has no tensor '", tensor, "'"));
  p.node = it->second;
  return p;
}

absl::StatusOr<std::vector<Port>> ForwardPass::Parse(const std::vector<std::string>& tensors) const {
  std::vector<Port> ports;
  for (const std::string& tensor : tensors) {
    TF_ASSIGN_OR_RETURN(const Port p, Parse(tensor));
    ports.push_back(p);
  }
  return ports;
}

std::string ForwardPass::Name(Port p) const { return absl::StrCat(items_[p.node].def->name(), ":", p.index); }

bool ForwardPass::Passes(const Item& item) const {
  if (item.edge || inert_.contains(item.def->op())) return false;
  if (HasOwnGradient(*item.def)) return true;
  const Rule* rule = FindRule(item.def->op());
  return rule == nullptr || rule->gradient != nullptr;
}

bool ForwardPass::Carries(const Item& item, size_t input) const {
  if (IsOff(item.inputs[input])) return false;
  const auto deaf = deaf_.find(item.def->op());
  return deaf == deaf_.end() ||
         std::find(deaf->second.begin(), deaf->second.end(), static_cast<int>(input)) == deaf->second.end();
}

absl::StatusOr<std::vector<ForwardPass::Passed>> ForwardPass::Between(const Asked& asked) {
  TF_ASSIGN_OR_RETURN(const std::vector<Port> y, Parse(asked.y));
  TF_ASSIGN_OR_RETURN(const std::vector<Port> x, Parse(asked.x));
  TF_ASSIGN_OR_RETURN(const std::vector<Port> off, Parse(asked.off));
  off_.clear();
  x_.clear();
  for (const Port& p : off) off_.insert({p.node, p.index});
  for (const Port& p : x) x_.insert({p.node, p.index});
  inert_ = {asked.inert.begin(), asked.inert.end()};
  deaf_ = asked.deaf;
  const absl::flat_hash_set<std::string> blocked(asked.blocked.begin(), asked.blocked.end());

  const int n = static_cast<int>(items_.size());
  std::vector<bool> before_y(n, false);
  for (const Port& p : y) before_y[p.node] = before_y[p.node] || !IsOff(p);
  for (int id = n - 1; id >= 0; --id) {
    Item& item = items_[id];
    item.passed = item.opaque = false;
    item.custom_inputs.clear();
    before_y[id] = before_y[id] && Passes(item) && !blocked.contains(item.def->name());
    if (!before_y[id]) continue;
    for (size_t i = 0; i < item.inputs.size(); ++i)
      if (Carries(item, i)) before_y[item.inputs[i].node] = true;
  }
  std::vector<Passed> passed;
  for (int id = 0; id < n; ++id) {
    if (!before_y[id]) continue;
    Item& item = items_[id];
    TF_RETURN_IF_ERROR(ReadTypes(id));
    for (size_t i = 0; i < item.inputs.size(); ++i) {
      const Port p = item.inputs[i];
      TF_RETURN_IF_ERROR(ReadTypes(p.node));
      const bool carries = IsDifferentiable(items_[p.node].types[p.index]) && Carries(item, i);
      item.passed = item.passed || (carries && (IsX(p) || items_[p.node].passed));
    }
    if (item.passed) passed.push_back({item.def->name(), item.def->op(), HasOwnGradient(*item.def)});
  }
  return passed;
}

absl::StatusOr<ForwardPass::Item*> ForwardPass::Find(absl::string_view node) {
  const auto it = by_name_.find(node);
  if (it == by_name_.end() || !items_[it->second].passed)
    return absl::NotFoundError(absl::StrCat("gradients pass no node '", node, "'"));
  return &items_[it->second];
}

absl::Status ForwardPass::SetOpaque(absl::string_view node) {
  TF_ASSIGN_OR_RETURN(Item * item, Find(node));
  item->opaque = true;
  return absl::OkStatus();
}

absl::Status ForwardPass::Keep(const std::string& tensor) {
  TF_ASSIGN_OR_RETURN(const Port p, Parse(tensor));
  kept_.insert({p.node, p.index});
  return absl::OkStatus();
}

std::vector<std::vector<std::string>> ForwardPass::Stages() {
  std::vector<std::vector<std::string>> stages(1);
  for (Item& item : items_) item.stage = 0;
  for (auto item = items_.rbegin(); item != items_.rend(); ++item) {
    if (!item->passed) continue;
    stages.resize(std::max<size_t>(stages.size(), item->stage + 1));
    if (item->opaque) stages[item->stage].push_back(item->def->name());
    for (size_t i = 0; i < item->inputs.size(); ++i) {
      int& stage = items_[item->inputs[i].node].stage;
      if (Carries(*item, i)) stage = std::max(stage, item->stage + (item->opaque ? 1 : 0));
    }
  }
  return stages;
}

absl::StatusOr<int> ForwardPass::StageOf(const std::string& tensor) const {
  TF_ASSIGN_OR_RETURN(const Port p, Parse(tensor));
  const Item& item = items_[p.node];
  return item.passed && !item.opaque && !IsOff(p) ? item.stage : -1;
}

// What a cotangent is wanted of, besides inner tensors that are x: what comes from outside of the region.
bool ForwardPass::IsWanted(Port p, const Region& region) const {
  const Item& item = items_[p.node];
  return IsDifferentiable(item.types[p.index]) && !IsOff(p) && (IsX(p) || (item.passed && !region.in[p.node]));
}

absl::Status ForwardPass::SetGradient(absl::string_view node, const std::string& function,
                                      const std::vector<std::string>& tensors, const std::vector<int>& outputs,
                                      const tf::FunctionDefLibrary& functions) {
  TF_ASSIGN_OR_RETURN(Item * item, Find(node));
  TF_ASSIGN_OR_RETURN(item->custom_inputs, Parse(tensors));
  TF_RETURN_IF_ERROR(library_.AddLibrary(functions));
  auto& attrs = *item->def->mutable_attr();
  attrs[kCustomGradient].mutable_func()->set_name(function);
  auto* places = attrs[kCustomOutputs].mutable_list();
  places->Clear();
  for (const int place : outputs) places->add_i(place);
  return absl::OkStatus();
}

// What a node of the region takes is one of the region, an argument, or computed again: integers and small constants.
absl::Status ForwardPass::AddInput(Port p, int depth, Region* region) {
  TF_RETURN_IF_ERROR(ReadTypes(p.node));
  if (region->in[p.node]) return absl::OkStatus();
  const Item& item = items_[p.node];
  if (p.index >= static_cast<int>(item.types.size()) || tf::IsRefType(item.types[p.index]))
    return absl::UnimplementedError(absl::StrCat("'", Name(p), "' is a variable of TensorFlow 1"));
  const bool computed = !item.edge && item.types.size() == 1 && IsIntegral(item.types[0]) &&
                        !item.op->op_def.is_stateful() && !IsStructure(*item.def, *item.op) &&
                        item.def->op() != "Placeholder" && item.def->op() != "Const" && depth < kMaxDepth;
  // Of a loop that was extended before, with what its count begins.
  const bool start = !item.edge && IsCall(*item.def, *item.op) && depth < kMaxDepth &&
                     absl::StartsWith(Callee(*item.def).name(), "__symgrad_loop_start_") &&
                     library_.Contains(Callee(*item.def).name());
  if (!IsX(p) && !kept_.contains({p.node, p.index}) && (IsSmallConst(*item.def) || computed || start)) {
    region->in[p.node] = true;
    for (const Port& q : item.inputs) TF_RETURN_IF_ERROR(AddInput(q, depth + 1, region));
  } else if (region->seen.insert({p.node, p.index}).second) {
    region->args.push_back(p);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ForwardPass::Begin(int stage, const std::vector<std::string>& y) {
  region_ = std::make_shared<Region>();
  Region& region = *region_;
  TF_ASSIGN_OR_RETURN(region.y, Parse(y));
  region.in.assign(items_.size(), false);
  region.passed.assign(items_.size(), false);
  std::vector<int> pending;
  const auto pass = [&](Port p) {
    const Item& item = items_[p.node];
    if (!item.passed || item.opaque || item.stage != stage || IsOff(p) || region.in[p.node]) return;
    region.in[p.node] = region.passed[p.node] = true;
    pending.push_back(p.node);
  };
  for (const Port& p : region.y) {
    pass(p);
    if (!region.in[p.node]) return absl::InvalidArgumentError(absl::StrCat("gradients do not pass '", Name(p), "'"));
  }
  while (!pending.empty()) {
    const Item& item = items_[pending.back()];
    pending.pop_back();
    for (size_t i = 0; i < item.inputs.size(); ++i)
      if (Carries(item, i)) pass(item.inputs[i]);
  }
  for (size_t id = 0; id < items_.size(); ++id) {
    if (!region.passed[id]) continue;
    const Item& item = items_[id];
    for (size_t i = 0; i < item.inputs.size(); ++i) {
      if (Carries(item, i) || IsOff(item.inputs[i])) TF_RETURN_IF_ERROR(AddInput(item.inputs[i], 0, &region));
      else region.severed.emplace_back(static_cast<int>(id), static_cast<int>(i));
    }
    for (const Port& p : items_[id].custom_inputs) TF_RETURN_IF_ERROR(AddInput(p, kMaxDepth, &region));
  }
  std::vector<std::string> names;
  for (const Port& p : region.args) names.push_back(Name(p));
  for (const auto& [id, i] : region.severed) {
    TF_RETURN_IF_ERROR(ReadTypes(items_[id].inputs[i].node));
    names.push_back(Name(items_[id].inputs[i]));
  }
  return names;
}

}  // namespace symgrad
