#include "csrc/engine/write/late.h"

#include <algorithm>

#include "csrc/engine/body/calls.h"
#include "csrc/engine/facts/facts.h"

namespace symgrad {
namespace {

constexpr int kNone = -1, kMaxSteps = 32;
constexpr int64_t kUnknown = -1;

// -1 where that is not known.
int64_t NumElements(const Body& body, Port p) { return StaticShape(body.output(p).shape).num_elements(); }

class WaitFinder {
 public:
  WaitFinder(const Body& body, const Part& part)
      : body_(body), part_(part), late_(body.num_nodes()), first_use_(body.num_nodes(), kNone) {}

  std::vector<int> Find() {
    for (int id = 0; id < body_.num_nodes(); ++id) Read(id);
    std::vector<int> waits(body_.num_nodes(), kNone);
    for (int id = body_.num_nodes() - 1; id >= body_.num_forward; --id)
      if (IsForwardOnly(id)) waits[id] = WaitOf(id, waits);
    // Who uses what waits, waits with it.
    std::vector<bool> waits_anyway(body_.num_nodes());
    for (int id = body_.num_forward; id < body_.num_nodes(); ++id) {
      const auto& inputs = body_.node(id).inputs;
      waits_anyway[id] = std::any_of(inputs.begin(), inputs.end(), [&](Port p) { return waits_anyway[p.node]; });
      if (waits[id] != kNone && (waits_anyway[id] || !IsWorthIt(id))) waits[id] = kNone;
      waits_anyway[id] = waits_anyway[id] || waits[id] != kNone;
    }
    return waits;
  }

 private:
  // Which nodes come after a cotangent, and who uses a node first.
  void Read(int id) {
    const Node& n = body_.node(id);
    if (n.is_arg()) late_[id] = id >= body_.num_forward;
    if (n.is_arg() || !part_.kept[id]) return;
    for (const Port& p : n.inputs) {
      late_[id] = late_[id] || late_[p.node];
      if (first_use_[p.node] == kNone) first_use_[p.node] = id;
    }
  }

  bool IsForwardOnly(int id) const { return !late_[id] && part_.kept[id] && !body_.node(id).is_arg(); }

  // The last cotangent before the node of those that it is used with: what was emitted before a node does not hang on
  // it. Not one of a constant factor, which Grappler may move elsewhere, and the edge with it.
  int WaitOf(int id, const std::vector<int>& waits) const {
    const int user = first_use_[id];
    if (user == kNone) return kNone;
    int wait = late_[user] ? LastCotangent(user) : waits[user];
    for (int steps = 0; wait > id || (wait != kNone && HasConstant(wait)); ++steps) {
      if (steps == kMaxSteps) return kNone;
      wait = LastCotangent(wait);
    }
    return wait;
  }

  bool HasConstant(int id) const {
    const auto& inputs = body_.node(id).inputs;
    return std::any_of(inputs.begin(), inputs.end(), [this](Port p) {
      const Node& n = body_.node(p.node);
      return !n.is_arg() && n.type() == "Const";
    });
  }

  int LastCotangent(int id) const {
    int last = kNone;
    for (const Port& p : body_.node(id).inputs)
      if (late_[p.node] && part_.kept[p.node] && !body_.node(p.node).is_arg()) last = std::max(last, p.node);
    return last;
  }

  // Whether a node makes a tensor of those that are no larger. Small ones wait, too: what is computed early, beside the
  // way forward, takes turns with it between threads.
  bool IsWorthIt(int id) const {
    const Node& n = body_.node(id);
    if (!n.controls.empty() || n.num_outputs != 1 || n.op->op_def.is_stateful() || IsCall(*n.def, *n.op)) return false;
    const tf::DataType dtype = body_.output({id, 0}).dtype;
    if (!tf::DataTypeIsFloating(dtype) && !tf::DataTypeIsComplex(dtype)) return false;
    const int64_t made = NumElements(body_, {id, 0});
    bool computed = false;
    for (const Port& p : n.inputs) {
      const int64_t read = NumElements(body_, p);
      if (read != kUnknown && made != kUnknown && read > made) return false;
      computed = computed || body_.node(p.node).is_arg() || body_.node(p.node).type() != "Const";
    }
    return computed;
  }

  const Body& body_;
  const Part& part_;
  std::vector<bool> late_;
  std::vector<int> first_use_;
};

}  // namespace

std::vector<int> FindWaits(const Body& body, const Part& part) { return WaitFinder(body, part).Find(); }

}  // namespace symgrad
