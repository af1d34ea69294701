#include "csrc/engine/remat/rematerialise.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "csrc/engine/remat/plan.h"
#include "csrc/engine/remat/schedule.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

class Rewriter {
 public:
  Rewriter(Body* body, const Schedule& schedule, const std::vector<bool>& stays, std::vector<Step> steps)
      : body_(body), schedule_(schedule), stays_(stays), steps_(std::move(steps)) {
    copies_.assign(body->num_nodes(), -1);
    for (int id = body->num_forward; id < body->num_nodes(); ++id)
      if (body->node(id).is_arg()) copies_[id] = id;
    FindTriggers();
    FindAnchor();
  }

  absl::Status Run(std::vector<Port>* results) {
    std::vector<int> group;  // what the next node needs
    for (const Step& step : steps_) {
      if (step.again) {
        group.push_back(step.node);
        continue;
      }
      TF_RETURN_IF_ERROR(AddCopies(step.node, group));
      group.clear();
    }
    for (Port& p : *results)
      if (const int copy = copies_[p.node]; schedule_.IsBackward(p.node) && copy >= 0) p.node = copy;
    return absl::OkStatus();
  }

 private:
  bool IsAgain(Port p) const { return !schedule_.IsBackward(p.node) && !schedule_.Stays(p, stays_); }

  // What stands for a tensor from here on.
  Port Now(Port p) const {
    if (const auto it = behind_.find(body_->output_index(p)); it != behind_.end()) return it->second;
    const int copy = schedule_.IsBackward(p.node) || IsAgain(p) ? copies_[p.node] : -1;
    return copy < 0 ? p : Port{copy, p.index};
  }

  // For each forward node the cotangents that reach it: what nodes that were emitted for it take of those that were
  // emitted for others.
  void FindTriggers() {
    for (const Step& step : steps_) {
      if (step.again) continue;
      const Node& n = body_->node(step.node);
      std::vector<Port>& triggers = triggers_[n.origin];
      for (const Port& p : n.inputs) {
        const bool arrives = schedule_.IsBackward(p.node) && body_->node(p.node).origin != n.origin;
        if (arrives && std::find(triggers.begin(), triggers.end(), p) == triggers.end()) triggers.push_back(p);
      }
    }
  }

  // A cotangent may be there before the forward part has run, as that of a sum is. So the first copies wait for the
  // last of what stays, too.
  void FindAnchor() {
    for (const Step& step : steps_)
      for (const Port& p : body_->node(step.node).inputs)
        if (!schedule_.IsBackward(p.node) && !schedule_.IsFixed(p) && stays_[schedule_.buffer(p)])
          if (p.node > anchor_.node) anchor_ = p;
  }
  bool IsLate(int node) const { return node == anchor_.node || late_.contains(node); }

  absl::Status AddCopies(int node, const std::vector<int>& group) {
    std::vector<Port> triggers;
    for (const Port& p : triggers_[body_->node(node).origin])
      if (const Port now = Now(p); now.node != p.node && !body_->node(now.node).is_arg()) triggers.push_back(p);
    if (body_->compiled && !group.empty()) TF_RETURN_IF_ERROR(AddBarrier(group, triggers, body_->node(node).origin));
    std::vector<int> after;
    for (const Port& p : triggers) after.push_back(Now(p).node);
    if (std::none_of(after.begin(), after.end(), [&](int id) { return IsLate(id); }) && anchor_.node >= 0)
      after.push_back(anchor_.node);
    for (const int id : group) {
      const Node& n = body_->node(id);
      copies_[id] = Copy(id, id < body_->num_forward ? id : n.origin);
      if (std::none_of(n.inputs.begin(), n.inputs.end(), [&](Port p) { return IsAgain(p); })) Wait(copies_[id], after);
    }
    const Node& n = body_->node(node);
    copies_[node] = Copy(node, n.origin);
    // What a rule computes of forward tensors alone waits as well.
    const bool early = std::none_of(n.inputs.begin(), n.inputs.end(),
                                    [&](Port p) { return schedule_.IsBackward(p.node) || IsAgain(p); });
    if (early && !n.inputs.empty()) Wait(copies_[node], after);
    return absl::OkStatus();
  }

  void Wait(int node, const std::vector<int>& after) {
    auto& controls = body_->node(node).controls;
    controls.insert(controls.end(), after.begin(), after.end());
    if (!after.empty()) late_.insert(node);
  }

  int Copy(int id, int origin) {
    std::vector<Port> inputs;
    bool late = false;
    for (const Port& p : body_->node(id).inputs) {
      inputs.push_back(Now(p));
      late = late || IsLate(inputs.back().node);
    }
    const Node& n = body_->node(id);
    const int copy = body_->AddNode(n.op, n.def, inputs, Dtypes(id), origin);
    for (int i = 0; i < n.num_outputs; ++i) CopyFacts({id, i}, {copy, i});
    if (const auto custom = body_->custom_inputs.find(id); custom != body_->custom_inputs.end()) {
      std::vector<Port> ports = custom->second;
      body_->custom_inputs[copy] = std::move(ports);
    }
    if (schedule_.IsBackward(id))
      for (const int c : n.controls) body_->node(copy).controls.push_back(copies_[c] < 0 ? c : copies_[c]);
    if (late) late_.insert(copy);
    return copy;
  }

  tf::DataTypeVector Dtypes(int id) const {
    tf::DataTypeVector dtypes;
    for (int i = 0; i < body_->node(id).num_outputs; ++i) dtypes.push_back(body_->output({id, i}).dtype);
    return dtypes;
  }

  void CopyFacts(Port from, Port to) {
    const Output known = body_->output(from);
    body_->output(to) = known;
    if (const auto it = body_->handles.find(body_->output_index(from)); it != body_->handles.end()) {
      std::vector<tf::shape_inference::ShapeAndType> handle = it->second;
      body_->handles[body_->output_index(to)] = std::move(handle);
    }
    if (const tf::DataType flow = body_->flow_element(from); flow != tf::DT_INVALID)
      body_->flow_elements[body_->output_index(to)] = flow;
  }

  // Puts a barrier between the copies of `group` and what they start from, which opens when the triggers are there. Who
  // uses these later does so behind the barrier. Integers, which XLA may have to know, go past it.
  absl::Status AddBarrier(const std::vector<int>& group, const std::vector<Port>& triggers, int origin) {
    std::vector<Port> through = triggers;
    const auto late = [&](Port p) { return IsLate(Now(p).node); };
    if (std::none_of(through.begin(), through.end(), late) && anchor_.node >= 0) through.push_back(anchor_);
    const size_t num_triggers = through.size();
    absl::flat_hash_set<int> seen;
    for (const int id : group)
      for (const Port& p : body_->node(id).inputs) {
        const tf::DataType dtype = body_->output(p).dtype;
        const bool passes = tf::DataTypeIsFloating(dtype) || tf::DataTypeIsComplex(dtype);
        const bool is_const = !body_->node(p.node).is_arg() && body_->node(p.node).type() == "Const";
        if (passes && !is_const && !IsAgain(p) && seen.insert(body_->output_index(p)).second) through.push_back(p);
      }
    if (through.size() == num_triggers) return absl::OkStatus();
    tf::NodeDef* def = body_->NewDef();
    def->set_op("XlaOptimizationBarrier");
    std::vector<Port> inputs;
    tf::DataTypeVector dtypes;
    for (const Port& p : through) {
      inputs.push_back(Now(p));
      dtypes.push_back(tf::BaseType(body_->output(p).dtype));
      (*def->mutable_attr())["T"].mutable_list()->add_type(dtypes.back());
    }
    const tf::OpRegistrationData* op = nullptr;
    TF_RETURN_IF_ERROR(tf::OpRegistry::Global()->LookUp(def->op(), &op));
    const int barrier = body_->AddNode(op, def, inputs, dtypes, origin);
    late_.insert(barrier);
    for (size_t i = 0; i < through.size(); ++i) {
      const Port behind{barrier, static_cast<int>(i)};
      CopyFacts(through[i], behind);
      behind_[body_->output_index(through[i])] = behind;
    }
    return absl::OkStatus();
  }

  Body* const body_;
  const Schedule& schedule_;
  const std::vector<bool>& stays_;
  const std::vector<Step> steps_;
  std::vector<int> copies_;                               // by node, of those that the body had
  absl::flat_hash_map<int, std::vector<Port>> triggers_;  // by forward node
  absl::flat_hash_map<int, Port> behind_;                 // by output: what it is behind the last barrier
  absl::flat_hash_set<int> late_;                         // nodes that run after the anchor
  Port anchor_;
};

}  // namespace

absl::Status Rematerialise(const Functions& functions, Body* body, const Policy& policy, std::vector<Port>* results) {
  if (policy.kind == Policy::kNone) return absl::OkStatus();
  const Schedule schedule(functions, *body, *results);
  TF_ASSIGN_OR_RETURN(const std::vector<bool> stays, ChooseWhatStays(schedule, policy));
  std::vector<Step> steps = schedule.Steps(stays);
  if (std::none_of(steps.begin(), steps.end(), [](const Step& step) { return step.again; })) return absl::OkStatus();
  return Rewriter(body, schedule, stays, std::move(steps)).Run(results);
}

}  // namespace symgrad
