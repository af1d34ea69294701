#include "csrc/engine/tensorflow1/function_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "csrc/engine/body/topological_order.h"

namespace symgrad {
namespace {

// A data input of a node: "argument" or "node:output:index".
std::string Canonical(const std::string& reference) {
  const std::vector<std::string> parts = absl::StrSplit(reference, ':');
  if (parts.size() == 2 && parts[1] == "0") return parts[0];  // of an argument
  return parts.size() == 2 ? absl::StrCat(reference, ":0") : reference;
}

}  // namespace

std::string NodeOf(absl::string_view reference) {
  if (IsControl(reference)) reference.remove_prefix(1);
  return std::string(reference.substr(0, reference.find(':')));
}

FunctionText::FunctionText(Functions* functions, const tf::FunctionDef& fdef, const AttrMap& attrs)
    : functions_(functions), attrs_(attrs), fdef_(fdef) {
  Instantiate();
  Index();
}

// All attrs of all nodes: the new functions are not polymorphic.
void FunctionText::Instantiate() {
  for (tf::NodeDef& node : *fdef_.mutable_node_def()) {
    const tf::OpRegistrationData* op = nullptr;
    if (functions_->LookUp(node.op(), &op).ok() && !IsComplete(node, op->op_def))
      node = CompleteNode(std::move(node), op->op_def, attrs_);
  }
}

void FunctionText::Index() {
  by_name_.clear();
  for (int i = 0; i < fdef_.node_def_size(); ++i) {
    tf::NodeDef* node = fdef_.mutable_node_def(i);
    by_name_[node->name()] = i;
    for (std::string& input : *node->mutable_input())
      if (!IsControl(input)) input = Canonical(input);
    while (absl::StartsWith(node->name(), prefix_)) prefix_ += '_';
  }
  for (auto& [output, reference] : *fdef_.mutable_ret()) reference = Canonical(reference);
  for (const auto& arg : fdef_.signature().input_arg()) {
    const auto attr = attrs_.find(arg.type_attr());
    args_[arg.name()] = attr == attrs_.end() ? arg.type() : attr->second.type();
    while (absl::StartsWith(arg.name(), prefix_)) prefix_ += '_';
  }
}

const tf::NodeDef* FunctionText::Find(absl::string_view reference) const {
  const auto it = by_name_.find(NodeOf(reference));
  return it == by_name_.end() ? nullptr : &fdef_.node_def(it->second);
}
const tf::NodeDef* FunctionText::Find(absl::string_view reference, const char* op) const {
  const tf::NodeDef* node = Find(reference);
  return node != nullptr && node->op() == op ? node : nullptr;
}
const std::string& FunctionText::Input(const tf::NodeDef& node, int i) {
  static const std::string nothing;
  return i < node.input_size() ? node.input(i) : nothing;
}

tf::DataType FunctionText::Dtype(const std::string& reference) const {
  if (const auto it = args_.find(reference); it != args_.end()) return it->second;
  const tf::NodeDef* node = Find(reference);
  const tf::OpRegistrationData* op = nullptr;
  if (node == nullptr || !functions_->LookUp(node->op(), &op).ok()) return tf::DT_INVALID;
  tf::DataTypeVector in, out;
  const std::vector<std::string> parts = absl::StrSplit(reference, ':');
  size_t first = 0;
  int index;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[2], &index) || !CheckNode(*node, op->op_def, &in, &out).empty())
    return tf::DT_INVALID;
  for (const tf::OpDef::ArgDef& arg : op->op_def.output_arg()) {
    if (arg.name() == parts[1])
      return index >= 0 && first + index < out.size() ? tf::BaseType(out[first + index]) : tf::DT_INVALID;
    first += ArgCount(arg, node->attr());
  }
  return tf::DT_INVALID;
}

bool FunctionText::IsStateful(const tf::NodeDef& node) const {
  const tf::OpRegistrationData* op = nullptr;
  return functions_->LookUp(node.op(), &op).ok() && op->op_def.is_stateful();
}

void FunctionText::Walk(Excerpt* excerpt, std::vector<Taken>* taken) const {
  const auto take = [&](const std::string& reference) {
    for (const Taken& t : *taken)
      if (t.reference == reference) return t.name;
    return taken->emplace_back(Taken{absl::StrCat(prefix_, taken->size()), reference, Dtype(reference)}).name;
  };
  std::vector<std::string> pending = excerpt->results;
  pending.insert(pending.end(), excerpt->effects.begin(), excerpt->effects.end());
  while (!pending.empty()) {
    const std::string reference = std::move(pending.back());
    pending.pop_back();
    const bool control = IsControl(reference);
    const tf::NodeDef* node = Find(reference);
    const Excerpt::Step step =
        node != nullptr ? excerpt->step(reference, *node) : Excerpt::Step{Excerpt::Step::kTake, reference};
    if (step.kind == Excerpt::Step::kDrop) continue;
    if (step.kind == Excerpt::Step::kTake && control) {
      if (Find(step.reference) != nullptr) excerpt->after.insert(absl::StrCat("^", NodeOf(step.reference)));
      continue;
    }
    if (step.kind == Excerpt::Step::kTake) {
      excerpt->arguments[reference] = take(step.reference);
      continue;
    }
    if (!excerpt->nodes.insert(by_name_.at(node->name())).second) continue;
    excerpt->stateful = excerpt->stateful || IsStateful(*node);
    pending.insert(pending.end(), node->input().begin(), node->input().end());
  }
}

absl::StatusOr<std::string> FunctionText::Write(const char* stem, const Excerpt& excerpt,
                                                const std::vector<Taken>& taken, size_t extra) {
  tf::FunctionDef f;
  tf::OpDef* signature = f.mutable_signature();
  signature->set_is_stateful(excerpt.stateful);
  for (const Taken& t : taken) {
    tf::OpDef::ArgDef* arg = signature->add_input_arg();
    arg->set_name(t.name);
    arg->set_type(t.dtype);
  }
  const auto inner = [&](const std::string& reference) {
    const auto it = excerpt.arguments.find(reference);
    return it == excerpt.arguments.end() ? reference : it->second;
  };
  const auto add_result = [&](const std::string& reference, tf::DataType dtype) {
    tf::OpDef::ArgDef* arg = signature->add_output_arg();
    arg->set_name(absl::StrCat("out_", signature->output_arg_size() - 1));
    arg->set_type(dtype);
    (*f.mutable_ret())[arg->name()] = reference;
  };
  for (const std::string& result : excerpt.results) add_result(inner(result), Dtype(result));
  for (size_t i = extra; i < taken.size(); ++i) add_result(taken[i].name, taken[i].dtype);

  std::vector<int> order(excerpt.nodes.begin(), excerpt.nodes.end());
  std::sort(order.begin(), order.end());
  for (const int i : order) {
    tf::NodeDef* node = f.add_node_def();
    *node = fdef_.node_def(i);
    node->clear_input();
    for (const std::string& input : fdef_.node_def(i).input()) {
      if (!IsControl(input)) node->add_input(inner(input));
      else if (const auto it = by_name_.find(NodeOf(input)); it != by_name_.end() && excerpt.nodes.contains(it->second))
        node->add_input(input);
    }
  }
  for (const std::string& effect :
       excerpt.effects) {  // or whoever inlines the function leaves out what leads to no result
    const std::string name = NodeOf(effect);
    const auto it = by_name_.find(name);
    if (it == by_name_.end() || !excerpt.nodes.contains(it->second)) continue;
    signature->add_control_output(name);
    (*f.mutable_control_ret())[name] = name;
  }
  return functions_->AddNamedByContent(stem, std::make_shared<tf::FunctionDef>(std::move(f)));
}

std::vector<int> FunctionText::Sort() const {
  std::vector<absl::InlinedVector<int, 4>> before(fdef_.node_def_size());
  for (int i = 0; i < fdef_.node_def_size(); ++i) {
    for (const std::string& input : fdef_.node_def(i).input())
      if (const auto it = by_name_.find(NodeOf(input)); it != by_name_.end()) before[i].push_back(it->second);
  }
  return TopologicalOrder(before);
}

// Puts the new nodes in the place of what they replace.
void FunctionText::Substitute() {
  for (tf::NodeDef& node : added_) *fdef_.add_node_def() = std::move(node);
  added_.clear();
  Instantiate();
  const auto replace = [&](std::string* reference) {
    if (const auto it = replaced_.find(*reference); it != replaced_.end()) *reference = it->second;
  };
  for (tf::NodeDef& node : *fdef_.mutable_node_def())
    for (std::string& input : *node.mutable_input()) replace(&input);
  for (auto& [output, reference] : *fdef_.mutable_ret()) replace(&reference);
  for (auto& [output, node] : *fdef_.mutable_control_ret()) {
    std::string control = absl::StrCat("^", node);
    replace(&control);
    node = NodeOf(control);
  }
  replaced_.clear();
  Index();
  Prune();
}

// Keeps what results and effects need.
void FunctionText::Prune() {
  Excerpt all;
  for (const auto& [output, reference] : fdef_.ret()) all.results.push_back(reference);
  for (const auto& [output, node] : fdef_.control_ret())
    if (by_name_.contains(node) && !moved_.contains(node)) all.effects.push_back(absl::StrCat("^", node));
  for (const tf::NodeDef& node : fdef_.node_def())
    if (IsStateful(node) && !moved_.contains(node.name())) all.effects.push_back(absl::StrCat("^", node.name()));
  all.step = [](const std::string&, const tf::NodeDef&) { return Excerpt::Step{}; };
  std::vector<Taken> args;
  Walk(&all, &args);
  google::protobuf::RepeatedPtrField<tf::NodeDef> nodes;
  for (int i = 0; i < fdef_.node_def_size(); ++i)
    if (all.nodes.contains(i)) *nodes.Add() = std::move(*fdef_.mutable_node_def(i));
  fdef_.mutable_node_def()->Swap(&nodes);
  Index();
  for (auto it = fdef_.mutable_control_ret()->begin(); it != fdef_.mutable_control_ret()->end();)
    it = by_name_.contains(it->second) ? std::next(it) : fdef_.mutable_control_ret()->erase(it);
  google::protobuf::RepeatedPtrField<std::string> outputs;
  for (const std::string& output : fdef_.signature().control_output())
    if (fdef_.control_ret().contains(output)) *outputs.Add() = output;
  fdef_.mutable_signature()->mutable_control_output()->Swap(&outputs);
}

}  // namespace symgrad
