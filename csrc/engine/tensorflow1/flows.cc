#include "csrc/engine/tensorflow1/flows.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/library/references.h"
#include "csrc/rules/traits/trait.h"

namespace symgrad {
namespace {

bool IsArrayOp(absl::string_view op) { return HasTrait(op, Trait::kArray); }

// Outputs that are one flow, of which some is known to be one: all are.
class Marks {
 public:
  explicit Marks(Body* body) : body_(body) {}

  void Mark(Port p, tf::DataType element) {
    if (element == tf::DT_INVALID || body_->output(p).dtype != tf::DT_FLOAT) return;
    grown_ |= body_->flow_elements.emplace(body_->output_index(p), element).second;
  }
  void MarkAll(const std::vector<Port>& ports) {
    for (const Port& p : ports) {
      const tf::DataType element = body_->flow_element(p);
      if (element == tf::DT_INVALID) continue;
      for (const Port& other : ports) Mark(other, element);
      return;
    }
  }
  bool TakeGrown() { return std::exchange(grown_, false); }

 private:
  Body* const body_;
  bool grown_ = false;
};

// The element dtype of the array that an op reads or writes.
tf::DataType Element(const tf::NodeDef& def) {
  for (const char* name : {"T", "dtype"})
    if (const auto it = def.attr().find(name); it != def.attr().end()) return it->second.type();
  return tf::DT_INVALID;
}

void MarkArrayOp(int id, const Body& body, Marks* marks) {
  const Node& n = body.node(id);
  const tf::OpDef& op = n.op->op_def;
  const tf::DataType element = Element(*n.def);
  for (size_t i = 0; i < n.inputs.size() && i < static_cast<size_t>(op.input_arg_size()); ++i)
    if (op.input_arg(static_cast<int>(i)).name() == "flow_in") marks->Mark(n.inputs[i], element);
  for (int i = 0; i < n.num_outputs && i < op.output_arg_size(); ++i)
    if (absl::StartsWith(op.output_arg(i).name(), "flow")) marks->Mark({id, i}, element);
}

// The functions that a node stands for.
std::vector<tf::NameAttrList> Callees(const Node& n) {
  if (IsCall(*n.def, *n.op)) return {Callee(*n.def)};
  if (IsBranch(*n.def)) return Branches(*n.def);
  return {n.def->attr().at("body").func()};  // of a loop
}

using Same = std::vector<std::vector<Port>>;  // ports that are one flow, if any of them is a flow

void MarkStructure(Functions* functions, int id, const Body& body, Marks* marks, Same* same) {
  const Node& n = body.node(id);
  const size_t first = IsBranch(*n.def) ? 1 : 0;
  for (const tf::NameAttrList& f : Callees(n)) {
    const FunctionFlows& flows = functions->FlowsOf(f);
    for (size_t i = 0; i < flows.args.size() && first + i < n.inputs.size(); ++i)
      marks->Mark(n.inputs[first + i], flows.args[i]);
    for (int i = 0; i < n.num_outputs && i < static_cast<int>(flows.results.size()); ++i)
      marks->Mark({id, i}, flows.results[i]);
    for (const auto& [arg, result] : flows.passed)
      if (first + arg < n.inputs.size() && result < n.num_outputs)
        same->push_back({n.inputs[first + arg], {id, result}});
  }
  for (int i = 0; IsLoop(*n.def) && i < n.num_outputs && i < static_cast<int>(n.inputs.size()); ++i)
    same->push_back({n.inputs[i], {id, i}});
}

}  // namespace

bool HasArrays(const Functions& functions, const std::string& f) { return functions.Reaches(f, IsArrayOp); }

FunctionFlows FindFlows(Functions* functions, Body* body) {
  Marks marks(body);
  Same same;
  for (int id = 0; id < body->num_nodes(); ++id) {
    const Node& n = body->node(id);
    if (n.is_arg()) continue;
    if (IsArrayOp(n.type())) MarkArrayOp(id, *body, &marks);
    else if (n.type() == "Identity" || n.type() == "AddN")
      same.emplace_back(n.inputs.begin(), n.inputs.end()).push_back({id, 0});
    else if (IsLoop(*n.def) || IsBranch(*n.def) || IsCall(*n.def, *n.op))
      MarkStructure(functions, id, *body, &marks, &same);
  }
  do {
    for (const auto& ports : same) marks.MarkAll(ports);
    for (auto ports = same.rbegin(); ports != same.rend(); ++ports) marks.MarkAll(*ports);
  } while (marks.TakeGrown());

  FunctionFlows flows;
  for (const int arg : body->args) flows.args.push_back(body->flow_element({arg, 0}));
  for (const Port& p : body->results) flows.results.push_back(body->flow_element(p));
  for (size_t i = 0; i < body->args.size(); ++i) {
    const int arg = body->args[i];
    if (body->output({arg, 0}).dtype != tf::DT_FLOAT) continue;
    absl::flat_hash_set<int> reached = {body->output_index({arg, 0})};
    for (const auto& ports : same)  // in the order of the nodes
      if (std::any_of(ports.begin(), ports.end(), [&](Port p) { return reached.contains(body->output_index(p)); }))
        reached.insert(body->output_index(ports.back()));
    for (size_t k = 0; k < body->results.size(); ++k)
      if (reached.contains(body->output_index(body->results[k])))
        flows.passed.emplace_back(static_cast<int>(i), static_cast<int>(k));
  }
  return flows;
}

bool ComputesFlow(const Body& body, int id) {
  const absl::string_view op = body.node(id).type();
  if (body.flow_elements.empty() || IsArrayOp(op) || op == "Identity" || op == "AddN") return false;
  for (int i = 0; i < body.node(id).num_outputs; ++i)
    if (body.flow_element({id, i}) != tf::DT_INVALID) return true;
  return false;
}

bool UsesGradientArray(const Body& body, const Node& node) {
  if (body.flow_elements.empty()) return false;
  return std::any_of(node.inputs.begin(), node.inputs.end(), [&](Port p) {
    while (!body.node(p.node).is_arg() && body.node(p.node).type() == "Identity") p = body.node(p.node).inputs[0];
    return p.index == 0 && !body.node(p.node).is_arg() && HasTrait(body.node(p.node).type(), Trait::kGradientArray);
  });
}

}  // namespace symgrad
