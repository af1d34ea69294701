#include "csrc/engine/write/part.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/library/effects.h"

namespace symgrad {
namespace {

constexpr int kNone = -1;

// A constant is the same whatever it is ordered after.
bool IsConst(const Node& n) { return n.type() == "Const"; }

// Marks what results need, adds the checks or effects that are to be kept, and then joins what was ordered.
class PartFinder {
 public:
  PartFinder(const Functions& functions, const Body& body, const Signature& signature)
      : body_(body), signature_(signature), num_nodes_(body.num_nodes()) {
    for (const Port& p : signature.args) cut_.insert(body.output_index(p));
    part_.kept.assign(num_nodes_, false);
    part_.awaited.assign(num_nodes_, false);
    effects_.assign(num_nodes_, kNoEffects);
    for (int id = 0; id < num_nodes_; ++id)
      if (!body.node(id).is_arg() && !IsIdle(body.node(id))) effects_[id] = functions.EffectsOf(body.node(id));
    MarkBehind();
  }

  Part Find() {
    for (const Port& p : signature_.results) Need(p);
    Settle();
    if (signature_.keeps >= Keeps::kEffects) {
      for (int id = 0; id < Own(); ++id)
        if (effects_[id] & kChanges || body_.whole.contains(id)) Await(id);
      Settle();
    }
    if (signature_.keeps != Keeps::kNothing) KeepChecks();
    Order();
    return std::move(part_);
  }

 private:
  // A check that what is known decides.
  bool IsIdle(const Node& n) const { return n.type() == "EnsureShape" && body_.FullyDefined(n.inputs[0]); }

  // -- What is kept.

  void Keep(int id) {
    if (!part_.kept[id]) pending_.push_back(id);
    part_.kept[id] = true;
  }
  void Await(int id) {
    if (!part_.awaited[id]) pending_.push_back(id);
    part_.kept[id] = part_.awaited[id] = true;
  }
  bool IsCut(Port p) const { return cut_.contains(body_.output_index(p)); }
  // Nodes [0, Own()) are those whose effects count.
  int Own() const { return signature_.keeps == Keeps::kAll ? num_nodes_ : body_.num_forward; }
  void Need(Port p) {
    if (!IsCut(p)) Keep(p.node);
  }

  // Which nodes come after a check or a change. To wait for another is to be late, and means nothing.
  void MarkBehind() {
    behind_.assign(num_nodes_, false);
    for (int id = 0; id < num_nodes_; ++id) {
      const Node& n = body_.node(id);
      behind_[id] = effects_[id] & (kChecks | kChanges) || body_.whole.contains(id);
      for (const Port& p : n.inputs) behind_[id] = behind_[id] || behind_[p.node];
      for (const int c : n.controls) behind_[id] = behind_[id] || behind_[c];
    }
  }

  // Keeps what is needed for what is kept. A node that is awaited, or that sees or changes state, waits for all that
  // the body has before it; another one for what its own control inputs name. In a pullback all of that has happened.
  void Settle() {
    while (!pending_.empty()) {
      const int id = pending_.back();
      pending_.pop_back();
      const Node& n = body_.node(id);
      if (n.is_arg()) continue;
      const bool waits = part_.awaited[id] || effects_[id] & kStateful;
      for (const Port& p : n.inputs) {
        if (IsCut(p)) continue;
        if (waits) Await(p.node);
        else Keep(p.node);
      }
      if (const auto it = body_.custom_inputs.find(id); it != body_.custom_inputs.end())
        for (const Port& p : it->second) Need(p);  // for the next derivative; they may come after the node
      if (id >= body_.num_forward) {  // rematerialisation alone lets nodes wait, and for nothing but to be late
        for (const int c : n.controls) Keep(c);
      } else if (signature_.keeps != Keeps::kNothing && (waits || (!IsConst(n) && !only_checks_.contains(id)))) {
        for (const int c : n.controls)
          if (waits || behind_[c]) Await(c);
      }
    }
  }

  // What a check refuses hangs on its inputs alone, so that it brings along nothing that it is only ordered after.
  void KeepChecks() {
    const std::vector<bool> runs = Runs();
    for (int id = 0; id < Own(); ++id) {
      if (!(effects_[id] & kChecks) || part_.kept[id] || !runs[id]) continue;
      only_checks_.insert(id);
      Keep(id);
    }
    Settle();
  }

  // Which nodes run where the body does: TensorFlow leaves out what is not stateful and leads to no result.
  std::vector<bool> Runs() const {
    std::vector<bool> runs(num_nodes_, false);
    for (const Port& p : body_.results) runs[p.node] = true;
    for (const int id : body_.control_results) runs[id] = true;
    for (int id = num_nodes_ - 1; id >= 0; --id) {
      const Node& n = body_.node(id);
      if (n.is_arg()) continue;
      runs[id] = runs[id] || n.op->op_def.is_stateful() || id >= body_.num_forward;
      if (!runs[id]) continue;
      for (const Port& p : n.inputs) runs[p.node] = true;
      for (const int c : n.controls) runs[c] = true;
    }
    return runs;
  }

  // -- Order.

  // Whether others are ordered by this node.
  bool HasEffect(int id) const {
    const Node& n = body_.node(id);
    if (!part_.kept[id] || n.is_arg()) return false;
    const auto whole = body_.whole.find(id);
    const bool is_whole = part_.awaited[id] && whole != body_.whole.end();
    return (is_whole ? whole->second.op : n.op)->op_def.is_stateful() || effects_[id] & kChecks;
  }

  void Order() {
    if (!AnyEffect()) return;
    MarkLeads();
    MarkDead();
    Join();
    OrderEmitted();
    if (signature_.results_wait) GateResults();
  }
  bool AnyEffect() const {
    for (int id = 0; id < num_nodes_; ++id)
      if (HasEffect(id)) return true;
    return false;
  }

  // Which nodes an effect that is kept comes after, and which a check.
  void MarkLeads() {
    leads_.assign(num_nodes_, false);
    to_check_.assign(num_nodes_, false);
    const auto mark = [&](int id, int before) {
      leads_[before] = leads_[before] || leads_[id] || HasEffect(id);
      to_check_[before] = to_check_[before] || to_check_[id] || (part_.kept[id] && effects_[id] & kChecks);
    };
    for (int id = num_nodes_ - 1; id >= 0; --id) {
      for (const Port& p : body_.node(id).inputs) mark(id, p.node);
      for (const int c : body_.node(id).controls) mark(id, c);
    }
  }

  // Which nodes may not run, as they are in a branch of TensorFlow 1 that nobody takes a result of. What waited for one
  // would not run, either.
  void MarkDead() {
    dead_.assign(num_nodes_, false);
    for (int id = 0; id < num_nodes_; ++id) {
      const Node& n = body_.node(id);
      if (n.is_arg() || n.type() == "Merge") continue;
      dead_[id] = n.type() == "Switch";
      for (const Port& p : n.inputs) dead_[id] = dead_[id] || dead_[p.node];
      for (const int c : n.controls) dead_[id] = dead_[id] || dead_[c];
    }
  }

  // Whether a node is done, for what waits for its values, before all that it does, and may begin before all its values
  // are there: TensorFlow writes calls, branches and loops out, and orders what is in them by control edges alone.
  bool IsLoose(int id) const { return HasEffect(id) && IsStructure(*body_.node(id).def, *body_.node(id).op); }

  // Where paths between effects go through what is left out, or over edges that are not written or order nothing, joins
  // their ends. What stands for a node that is left out (`end_`) is the last that is kept before it: a node, or a hub
  // of several.
  void Join() {
    end_.assign(num_nodes_, kNone);
    std::vector<int> before, seen(num_nodes_, kNone);
    for (int id = 0; id < num_nodes_; ++id) {
      const Node& n = body_.node(id);
      const bool kept = part_.kept[id];
      if (kept && HasEffect(id)) end_[id] = id;
      if (n.is_arg() || !(leads_[id] || end_[id] == id)) continue;
      before.clear();
      const auto join = [&](int p, bool is_written) {
        if (end_[p] == kNone) return;
        if (is_written && end_[p] == p) end_[id] = seen[p] = id;
        else before.push_back(end_[p]);
      };
      const bool loose = kept && IsLoose(id);
      for (const Port& p : n.inputs)
        join(p.node, kept && part_.kept[p.node] && !IsCut(p) && !loose && !IsLoose(p.node));
      for (const int c : n.controls) join(c, kept && part_.kept[c] && !IsConst(n));
      Reduce(id, &before, &seen);
      if (before.empty()) continue;
      if (end_[id] == id || (kept && (before.size() > 1 || IsConst(n)))) {
        auto& order = part_.order[id];
        order.insert(order.end(), before.begin(), before.end());
        end_[id] = id;
      } else {
        end_[id] = before.size() == 1 ? before[0] : Hub(before, id);
      }
    }
  }

  // Takes out what is there twice, what an edge that is written says as well, and what lies right before another.
  void Reduce(int id, std::vector<int>* ends, std::vector<int>* seen) const {
    constexpr size_t kFew = 8;
    if (ends->empty()) return;
    seen->resize(num_nodes_ + part_.hubs.size(), kNone);
    for (const int e : *ends) {
      if (e >= num_nodes_) continue;
      const Node& n = body_.node(e);
      if (n.inputs.size() + n.controls.size() > kFew) continue;
      for (const int c : n.controls)
        if (!IsConst(n)) (*seen)[c] = id;
      for (const Port& p : n.inputs)
        if (!IsCut(p) && !IsLoose(p.node) && !IsLoose(e)) (*seen)[p.node] = id;
    }
    const auto known = [&](int e) { return std::exchange((*seen)[e], id) == id; };
    ends->erase(std::remove_if(ends->begin(), ends->end(), known), ends->end());
  }

  int Hub(const std::vector<int>& controls, int before) {
    part_.hubs.push_back({{controls.begin(), controls.end()}, before});
    return num_nodes_ + static_cast<int>(part_.hubs.size()) - 1;
  }

  // What was emitted and sees or changes state comes after all that the body itself does, one after the other.
  void OrderEmitted() {
    std::vector<int> last;
    bool forward = true;
    for (int id = 0; id < num_nodes_; ++id) {
      if (!HasEffect(id) || dead_[id]) continue;
      if (id < body_.num_forward) {
        if (!leads_[id] || !LeadsToForward(id)) last.push_back(id);
        continue;
      }
      if (!(effects_[id] & (kStateful | kShows))) continue;
      if (forward && last.size() > 1) last = {Hub(last, id)};
      forward = false;
      part_.order[id].insert(part_.order[id].end(), last.begin(), last.end());
      last = {id};
    }
  }
  // Whether an effect of the body itself comes after one.
  bool LeadsToForward(int id) {
    if (forward_.empty()) {
      forward_.assign(num_nodes_, false);
      const auto mark = [&](int id, int before) {
        forward_[before] = forward_[before] || forward_[id] || HasEffect(id);
      };
      for (int id = body_.num_forward - 1; id >= 0; --id) {
        for (const Port& p : body_.node(id).inputs) mark(id, p.node);
        for (const int c : body_.node(id).controls) mark(id, c);
      }
    }
    return forward_[id];
  }

  // A gradient that was fetched alone waits for the checks nevertheless.
  void GateResults() {
    std::vector<int> checks;
    for (int id = 0; id < body_.num_forward; ++id)
      if (part_.kept[id] && effects_[id] & kChecks && !to_check_[id] && !dead_[id]) checks.push_back(id);
    if (!checks.empty()) part_.gate = Hub(checks, num_nodes_);
  }

  const Body& body_;
  const Signature& signature_;
  const int num_nodes_;
  absl::flat_hash_set<int> cut_;          // outputs that are arguments
  absl::flat_hash_set<int> only_checks_;  // nodes that are kept for what they refuse
  std::vector<Effects> effects_;          // by node
  std::vector<bool> behind_, leads_, to_check_, dead_, forward_;
  std::vector<int> end_;
  std::vector<int> pending_;
  Part part_;
};

}  // namespace

Part FindPart(const Functions& functions, const Body& body, const Signature& signature) {
  return PartFinder(functions, body, signature).Find();
}

}  // namespace symgrad
