#include "csrc/engine/vjp/cut.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "csrc/engine/library/effects.h"
#include "csrc/rules/traits/trait.h"

namespace symgrad {
namespace {

// Ops that make a list of tensors and integers.
bool MakesList(absl::string_view op) {
  return op == "EmptyTensorList" || op == "TensorListFromTensor" || op == "TensorListReserve";
}

// Marks what belongs to the pullback, walks back from the gradients to where it ends, and, in a loop, takes from what
// crosses there that which is cheap to compute again.
class Cutter {
 public:
  Cutter(const Functions& functions, const Body& body, const std::vector<Port>& gradients, const LoopArguments* loop)
      : functions_(functions), body_(body), gradients_(gradients), loop_(loop) {
    MarkPullback();
    if (loop != nullptr) MarkSame();
  }

  Cut Run() {
    Cross();
    if (loop_ != nullptr) Recompute();
    for (const Port& p : residuals_) {
      const Sameness same = loop_ == nullptr ? kDiffers : same_[p.node];
      (same == kDiffers ? cut_.residuals : same == kRead ? cut_.reads : cut_.invariants).push_back(p);
    }
    for (const int arg : body_.args) cut_.args.push_back(taken_[arg]);
    const absl::flat_hash_set<int> used = NodesOf(cut_.invariants, [](Port) { return false; });
    for (const int arg : body_.args) cut_.invariant_args.push_back(used.contains(arg));
    cut_.pullback = std::move(pullback_);
    return std::move(cut_);
  }

 private:
  // Whether something is the same in all iterations: not; only as far as nobody writes the variables that it reads; or
  // whenever it is computed.
  enum Sameness : char { kDiffers, kRead, kPure };

  // Which nodes belong to the pullback. The sweep emits some that don't need a cotangent: those of integers (shapes,
  // axes) are computed with the forward pass, so that the tensors they are the shapes of need not be kept.
  void MarkPullback() {
    pullback_.assign(body_.num_nodes(), false);
    for (int id = body_.num_forward; id < body_.num_nodes(); ++id) {
      const Node& n = body_.node(id);
      bool integers = !n.is_arg();
      for (int i = 0; i < n.num_outputs; ++i) integers = integers && IsIntegral(body_.output({id, i}).dtype);
      pullback_[id] =
          !integers || std::any_of(n.inputs.begin(), n.inputs.end(), [&](Port p) { return pullback_[p.node]; });
    }
  }

  // Which nodes compute the same in all iterations: of what is the same, without state but variables that are only
  // read, by the condition as well.
  void MarkSame() {
    const std::vector<bool> written = WrittenArguments(functions_, body_);
    same_.assign(body_.num_nodes(), kDiffers);
    std::vector<Sameness> variables(body_.num_nodes(), kDiffers);  // those that are only read
    bool idle = false;
    for (size_t i = 0; i < loop_->size(); ++i) {
      const LoopArgument& arg = (*loop_)[i];
      idle = idle || arg.idle;
      if (arg.invariant) same_[body_.args[i]] = kPure;
      if (arg.invariant && !arg.apart && !written[i] && !arg.written) variables[body_.args[i]] = kRead;
    }
    for (int id = 0; id < body_.num_nodes(); ++id) {
      const Node& n = body_.node(id);
      if (n.is_arg()) continue;
      const bool pure = !n.op->op_def.is_stateful();
      const bool looks = pure || functions_.EffectsOf(body_, id) == kReads || MeasuresVariable(n);
      const bool fails = idle && (pure ? MayFail(n) : n.inputs.size() > 1);
      if (n.type() != "Const" && (!n.controls.empty() || n.inputs.empty() || !looks || fails)) continue;
      same_[id] = kPure;
      for (const Port& p : n.inputs)
        same_[id] = std::min(same_[id], (body_.output(p).dtype == tf::DT_RESOURCE ? variables : same_)[p.node]);
    }
  }

  // Whether an op may refuse some values of its inputs: others than simple ones, and such with indices, axes or shapes
  // that are not known.
  bool MayFail(const Node& n) const {
    const auto unknown = [&](Port p) {
      const Output& in = body_.output(p);
      return IsIntegral(in.dtype) && in.dtype != tf::DT_BOOL && (in.ints == nullptr || !in.ints->known());
    };
    const bool simple = HasTrait(n.type(), Trait::kCheap) || HasTrait(n.type(), Trait::kLight);
    return !simple || std::any_of(n.inputs.begin(), n.inputs.end(), unknown);
  }

  // What does nothing with a resource that it is given only tells what stays, such as the shape of a variable.
  bool MeasuresVariable(const Node& n) const {
    const Trait* effects = FindTrait(n.type(), Trait::kEffects);
    return effects != nullptr && effects->bits == kNoEffects &&
           std::any_of(n.inputs.begin(), n.inputs.end(),
                       [&](Port p) { return body_.output(p).dtype == tf::DT_RESOURCE; });
  }

  // Walks back from the gradients to where the pullback ends. Lists that XLA compiles are made again, as they can't
  // cross where only tensors can.
  void Cross() {
    std::vector<bool> needed(body_.num_nodes(), false);
    absl::flat_hash_set<int> seen;
    taken_.assign(body_.num_nodes(), false);
    const auto cross = [&](Port p) {
      const Node& n = body_.node(p.node);
      if (pullback_[p.node] || (body_.compiled && !n.is_arg() && MakesList(n.type()))) needed[p.node] = true;
      else if (n.is_arg()) taken_[p.node] = true;
      else if (n.type() != "Const" && seen.insert(body_.output_index(p)).second) residuals_.push_back(p);
    };
    for (const Port& p : gradients_) cross(p);
    for (int id = body_.num_nodes() - 1; id >= 0; --id) {
      if (!needed[id]) continue;
      for (const Port& p : body_.node(id).inputs) cross(p);
      for (const int c : body_.node(id).controls) needed[c] = needed[c] || pullback_[c];
    }
  }

  void Recompute() {
    free_.assign(body_.num_nodes(), false);
    for (size_t i = 0; i < loop_->size(); ++i) {
      const int arg = body_.args[i];
      const bool is_variable = body_.output({arg, 0}).dtype == tf::DT_RESOURCE;
      free_[arg] = (*loop_)[i].counter || ((*loop_)[i].invariant && !is_variable);
    }
    for (const Port& p : residuals_) kept_.insert(body_.output_index(p));
    std::vector<Port> order = residuals_;
    std::sort(order.begin(), order.end(), [](Port a, Port b) { return a.node > b.node; });
    for (const Port& p : order) {
      if (same_[p.node] != kDiffers) continue;
      kept_.erase(body_.output_index(p));
      follows_.clear();
      if (!Follows(p, 0)) kept_.insert(body_.output_index(p));
    }
    const auto dropped = [&](Port p) { return !kept_.contains(body_.output_index(p)); };
    std::vector<Port> again;
    std::copy_if(residuals_.begin(), residuals_.end(), std::back_inserter(again), dropped);
    // What is computed again may need arguments that did not cross before.
    for (const int id : NodesOf(again, [&](Port p) { return kept_.contains(body_.output_index(p)); }))
      if (body_.node(id).is_arg()) taken_[id] = true;
    residuals_.erase(std::remove_if(residuals_.begin(), residuals_.end(), dropped), residuals_.end());
  }

  // Whether a tensor is cheap to compute from what crosses.
  bool Follows(Port p, int depth) {
    constexpr int kMaxDepth = 6;
    const Node& n = body_.node(p.node);
    if (n.is_arg()) return taken_[p.node] || free_[p.node];
    if (n.type() == "Const" || kept_.contains(body_.output_index(p))) return true;
    if (depth >= kMaxDepth || !HasTrait(n.type(), Trait::kCheap) || !n.controls.empty()) return false;
    const auto [known, added] = follows_.try_emplace({p.node, depth}, false);
    if (!added) return known->second;
    const bool follows = std::all_of(n.inputs.begin(), n.inputs.end(), [&](Port q) { return Follows(q, depth + 1); });
    return follows_[{p.node, depth}] = follows;
  }

  // The nodes that these are computed by, as far back as to what is known.
  template <typename Known>
  absl::flat_hash_set<int> NodesOf(std::vector<Port> pending, const Known& known) const {
    absl::flat_hash_set<int> nodes;
    while (!pending.empty()) {
      const Port p = pending.back();
      pending.pop_back();
      if (known(p) || !nodes.insert(p.node).second) continue;
      const auto& inputs = body_.node(p.node).inputs;
      pending.insert(pending.end(), inputs.begin(), inputs.end());
    }
    return nodes;
  }

  const Functions& functions_;
  const Body& body_;
  const std::vector<Port>& gradients_;
  const LoopArguments* const loop_;
  std::vector<bool> pullback_, taken_;                      // by node
  std::vector<Sameness> same_;                              // by node of a loop's body
  std::vector<bool> free_;                                  // arguments that cost nothing to take
  absl::flat_hash_set<int> kept_;                           // residuals that stay, by output
  absl::flat_hash_map<std::pair<int, int>, bool> follows_;  // what is known of a node, that far away
  std::vector<Port> residuals_;
  Cut cut_;
};

}  // namespace

std::vector<bool> WrittenArguments(const Functions& functions, const Body& body) {
  absl::flat_hash_set<int> written;  // nodes
  bool all = false;
  for (int id = 0; id < body.num_forward; ++id) {
    const Node& n = body.node(id);
    if (n.is_arg() || !(functions.EffectsOf(body, id) & kWrites)) continue;
    bool given = false;
    for (const Port& p : n.inputs) {
      if (body.output(p).dtype != tf::DT_RESOURCE) continue;
      const Port handle = Origin(body, p);
      given = body.node(handle.node).is_arg();
      if (!given) break;
      written.insert(handle.node);
    }
    all = all || !given;
  }
  std::vector<bool> arguments;
  for (const int arg : body.args) arguments.push_back(all || written.contains(arg));
  return arguments;
}

Cut CutBody(const Functions& functions, const Body& body, const std::vector<Port>& gradients,
            const LoopArguments* loop) {
  return Cutter(functions, body, gradients, loop).Run();
}

}  // namespace symgrad
