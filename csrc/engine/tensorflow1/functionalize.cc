// A branch is found from its Merge: behind one input lie nodes that are alive where a predicate holds, behind the other
// those where it does not. A loop is found from its frame: Merge(Enter, NextIteration) is a variable, LoopCond the
// condition. Either becomes functions by slicing: from what a function returns back to where it begins.
#include "csrc/engine/tensorflow1/functionalize.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/tensorflow1/function_text.h"
#include "csrc/engine/tensorflow1/rounds.h"

namespace symgrad {
namespace {

using Step = Excerpt::Step;

// The predicates, by number, on which it depends whether a node is alive, and what they must be.
using Alive = std::map<int, bool>;

// First all outermost loops, then all outermost branches: each becomes one node, in one function each for a branch, for
// a condition and for a body.
class Functionalizer {
 public:
  Functionalizer(Functions* functions, const tf::FunctionDef& fdef, const AttrMap& attrs)
      : text_(functions, fdef, attrs) {}

  absl::StatusOr<tf::FunctionDef> Run() {
    Loops();
    if (errors_.empty()) text_.Substitute();  // the loops' own nodes, which form cycles, go
    if (errors_.empty()) Branches();
    if (!errors_.empty())
      return errors_.ToStatus(code_, absl::StrCat("function '", text_.fdef().signature().name(),
                                                  "' has TensorFlow 1 control flow that can't be read"));
    text_.Substitute();
    return text_.fdef();
  }

 private:
  void Error(const tf::NodeDef& node, absl::string_view what,
             absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    if (errors_.empty()) code_ = code;
    errors_.Add(absl::StrCat("node '", node.name(), "' (op ", node.op(), "): ", what));
  }

  // -- Loops.

  struct LoopFrame {
    std::vector<const tf::NodeDef*> merges, switches, nexts;  // by variable
    const tf::NodeDef* condition = nullptr;                   // LoopCond
    std::string name;
    int64_t parallel_iterations = 10;
    absl::flat_hash_set<std::string> exits;
    absl::flat_hash_set<std::string> members;  // nodes that are inside
  };

  static std::string FrameName(const tf::NodeDef& enter) {
    const auto it = enter.attr().find("frame_name");
    return it == enter.attr().end() ? "" : it->second.s();
  }

  void Loops() {
    std::map<std::string, LoopFrame> frames;
    absl::flat_hash_map<std::string, std::vector<const tf::NodeDef*>> consumers;
    for (const tf::NodeDef& node : text_.fdef().node_def()) {
      if (node.op() == "Enter") {
        LoopFrame& frame = frames[FrameName(node)];
        frame.name = FrameName(node);
        if (node.attr().contains("parallel_iterations"))
          frame.parallel_iterations = node.attr().at("parallel_iterations").i();
      }
      for (const std::string& input : node.input()) consumers[NodeOf(input)].push_back(&node);
    }
    if (frames.empty()) return;
    for (const tf::NodeDef& node : text_.fdef().node_def()) {
      const tf::NodeDef* enter = node.op() == "Merge" ? text_.Find(FunctionText::Input(node, 0), "Enter") : nullptr;
      if (enter == nullptr) continue;
      LoopFrame& frame = frames[FrameName(*enter)];
      const tf::NodeDef *next = text_.Find(FunctionText::Input(node, 1), "NextIteration"), *branch = nullptr;
      if (next == nullptr) return Error(node, "its second input must be a NextIteration");
      for (const tf::NodeDef* consumer : consumers[node.name()]) {
        if (consumer->op() == "Switch" && text_.Find(FunctionText::Input(*consumer, 1), "LoopCond") != nullptr)
          branch = consumer;
      }
      frame.merges.push_back(&node);
      frame.nexts.push_back(next);
      frame.switches.push_back(branch);
      if (branch == nullptr) continue;
      frame.condition = text_.Find(FunctionText::Input(*branch, 1), "LoopCond");
      for (const tf::NodeDef* consumer : consumers[branch->name()])
        if (consumer->op() == "Exit") frame.exits.insert(consumer->name());
    }
    for (auto& [name, frame] : frames) Members(consumers, &frame);
    for (const auto& entry : frames) {
      const LoopFrame& frame = entry.second;
      const bool inner = std::any_of(frames.begin(), frames.end(), [&frame](const auto& other) {
        return other.first != frame.name && !frame.merges.empty() &&
               other.second.members.contains(frame.merges[0]->name());
      });
      if (!inner) Loop(frame);
    }
  }

  void Members(const absl::flat_hash_map<std::string, std::vector<const tf::NodeDef*>>& consumers, LoopFrame* frame) {
    std::vector<std::string> pending;
    for (const tf::NodeDef& node : text_.fdef().node_def())
      if (node.op() == "Enter" && FrameName(node) == frame->name) pending.push_back(node.name());
    while (!pending.empty()) {
      const std::string name = std::move(pending.back());
      pending.pop_back();
      if (frame->exits.contains(name) || !frame->members.insert(name).second) continue;
      const auto it = consumers.find(name);
      if (it == consumers.end()) continue;
      for (const tf::NodeDef* consumer : it->second) pending.push_back(consumer->name());
    }
  }

  void Loop(const LoopFrame& frame) {
    if (frame.condition == nullptr) return errors_.Add(absl::StrCat("frame '", frame.name, "' has no LoopCond"));
    std::vector<Taken> taken;
    absl::flat_hash_map<std::string, std::string> variables;  // what stands for a variable -> its initial value
    std::vector<std::string> next;
    for (size_t i = 0; i < frame.merges.size(); ++i) {
      // Two variables may start from one tensor: the Enter, not what it enters, tells them apart.
      const std::string& enter = FunctionText::Input(*frame.merges[i], 0);
      taken.push_back({absl::StrCat(text_.prefix(), i), enter, text_.Dtype(enter)});
      variables[absl::StrCat(frame.merges[i]->name(), ":output:0")] = enter;
      if (frame.switches[i] != nullptr) variables[absl::StrCat(frame.switches[i]->name(), ":output_true:0")] = enter;
      next.push_back(FunctionText::Input(*frame.nexts[i], 0));
    }
    const size_t n = taken.size();
    const auto step = [&](const std::string& reference, const tf::NodeDef& node) -> Step {
      if (const auto it = variables.find(reference); it != variables.end()) return {Step::kTake, it->second};
      if (node.op() == "Enter" && FrameName(node) == frame.name) return {Step::kTake, FunctionText::Input(node, 0)};
      const auto is_part = [&](const auto& nodes) {
        return std::find(nodes.begin(), nodes.end(), &node) != nodes.end();
      };
      if (is_part(frame.merges) || is_part(frame.switches)) return {Step::kDrop, ""};  // a control edge
      if (frame.members.contains(node.name()) || node.op() == "Const") return {};
      return {Step::kTake, reference};
    };
    Excerpt condition, body;
    condition.results = {FunctionText::Input(*frame.condition, 0)};
    body.results = next;
    condition.step = body.step = step;
    text_.Walk(&condition, &taken);
    for (const std::string& name : frame.members)
      // A member of a malformed function may be no node.
      if (const tf::NodeDef* node = text_.Find(name); node != nullptr && text_.IsStateful(*node)) {
        if (!condition.nodes.contains(text_.Number(*node))) body.effects.push_back("^" + name);
        text_.Move(text_.Number(*node));
      }
    std::sort(body.effects.begin(), body.effects.end());
    text_.Walk(&body, &taken);
    const absl::StatusOr<std::string> cond_name = text_.Write("cond", condition, taken, taken.size());
    const absl::StatusOr<std::string> body_name = text_.Write("body", body, taken, n);
    if (!cond_name.ok() || !body_name.ok()) return Error(*frame.condition, "its function can't be written");

    AddLoop(frame, condition, body, taken, *cond_name, *body_name);
  }

  // The While node, in the place of the frame's exits. Its first variables are those of the frame, the others are what
  // is taken from outside.
  void AddLoop(const LoopFrame& frame, const Excerpt& condition, const Excerpt& body, const std::vector<Taken>& taken,
               const std::string& cond_name, const std::string& body_name) {
    const size_t n = frame.merges.size();
    tf::NodeDef loop;
    loop.set_name(absl::StrCat(frame.merges[0]->name(), text_.prefix(), "loop"));
    loop.set_op(condition.stateful || body.stateful ? "While" : "StatelessWhile");
    auto& attrs = *loop.mutable_attr();
    attrs["cond"].mutable_func()->set_name(cond_name);
    attrs["body"].mutable_func()->set_name(body_name);
    attrs["parallel_iterations"].set_i(frame.parallel_iterations);
    attrs["_lower_using_switch_merge"].set_b(true);
    for (size_t i = 0; i < taken.size(); ++i) {
      const tf::NodeDef* enter = i < n ? text_.Find(taken[i].reference) : nullptr;
      loop.add_input(enter != nullptr ? FunctionText::Input(*enter, 0) : taken[i].reference);
      attrs["T"].mutable_list()->add_type(taken[i].dtype);
    }
    for (const std::string& node : After(condition, body)) loop.add_input(node);
    for (const std::string& name : frame.exits) {
      const tf::NodeDef& exit = *text_.Find(name);
      for (size_t i = 0; i < n; ++i)
        if (text_.Find(FunctionText::Input(exit, 0)) == frame.switches[i])
          text_.Replace(absl::StrCat(name, ":output:0"), absl::StrCat(loop.name(), ":output:", i));
      text_.Replace("^" + name, "^" + loop.name());
    }
    text_.Add(std::move(loop));
  }

  // -- Branches.

  // The number of a predicate: of what it is through Identity.
  int Predicate(std::string reference) {
    for (int depth = 0; depth < 16; ++depth) {
      const tf::NodeDef* node = text_.Find(reference, "Identity");
      if (node == nullptr) break;
      reference = FunctionText::Input(*node, 0);
    }
    const auto [it, added] = numbers_.try_emplace(reference, static_cast<int>(predicates_.size()));
    if (added) predicates_.push_back(reference);
    return it->second;
  }

  struct State {
    Alive alive;
    RoundsPtr joined;
  };
  struct Join {
    const tf::NodeDef* merge;
    int predicate;
    std::string input[2];  // where the predicate does not hold, where it does
    int round;
  };

  State StateOf(const std::string& input) {
    const tf::NodeDef* node = text_.Find(input);
    if (node == nullptr) return {};
    State state = states_[text_.Number(*node)];
    if (node->op() == "Switch" && !IsControl(input))
      state.alive[Predicate(FunctionText::Input(*node, 1))] = absl::StrContains(input, ":output_true:");
    return state;
  }

  void Branches() {
    if (std::none_of(text_.fdef().node_def().begin(), text_.fdef().node_def().end(),
                     [](const tf::NodeDef& n) { return n.op() == "Merge" || n.op() == "Switch"; }))
      return;
    const std::vector<int> order = text_.Sort();
    if (static_cast<int>(order.size()) < text_.fdef().node_def_size()) return;  // import says where they form a cycle
    states_.resize(text_.fdef().node_def_size());
    std::map<std::pair<int, int>, std::vector<Join>> joins;
    for (const int i : order) {
      const tf::NodeDef& node = text_.fdef().node_def(i);
      State& state = states_[i];
      if (node.op() == "Merge") {
        Join join{&node, -1, {}, 0};
        if (!ReadMerge(node, &state, &join)) return;
        if (state.alive.empty()) joins[{join.predicate, join.round}].push_back(join);
        state.joined = Latest(state.joined, std::make_shared<Rounds>(Rounds{{join.predicate, join.round + 1}}));
        continue;
      }
      for (const std::string& input : node.input()) {
        const State from = StateOf(input);
        state.alive.insert(from.alive.begin(), from.alive.end());
        state.joined = Latest(state.joined, from.joined);
      }
    }
    std::map<std::pair<int, int>, BranchEffects> effects;
    for (size_t i = 0; i < states_.size(); ++i) {
      const tf::NodeDef& node = text_.fdef().node_def(static_cast<int>(i));
      const Alive& alive = states_[i].alive;
      if (alive.empty() || !text_.IsStateful(node)) continue;
      const auto key = [&](int predicate) { return std::pair(predicate, RoundOf(states_[i].joined, predicate)); };
      const bool is_joined =
          std::any_of(alive.begin(), alive.end(), [&](const auto& a) { return joins.count(key(a.first)); });
      for (const auto& [predicate, holds] : alive) {
        effects[key(predicate)][holds].push_back("^" + node.name());
        if (is_joined) continue;
        joins[key(predicate)];  // nobody takes a result of this branch: the outer one, which comes first, will do
        break;
      }
    }
    for (const auto& [key, group] : joins) Branch(key.first, group, effects[key]);
  }

  // The nodes with effects in the branches that the merges of a round join, by what the predicate must be.
  using BranchEffects = std::array<std::vector<std::string>, 2>;

  // What two slices of a node are ordered after.
  static std::set<std::string> After(const Excerpt& a, const Excerpt& b) {
    std::set<std::string> after = a.after;
    after.insert(b.after.begin(), b.after.end());
    return after;
  }

  // Which predicate a Merge joins, and which of its inputs is which.
  bool ReadMerge(const tf::NodeDef& merge, State* state, Join* join) {
    std::vector<std::string> inputs;
    for (const std::string& input : merge.input())
      if (!IsControl(input)) inputs.push_back(input);
    if (inputs.size() != 2) return Error(merge, "a Merge of two inputs is what a branch ends with"), false;
    const State states[2] = {StateOf(inputs[0]), StateOf(inputs[1])};
    // The two sides differ in one predicate; a side that does not depend on it is a constant, say.
    std::vector<std::pair<int, bool>> opposite, one_sided;  // and what it is behind input 0
    for (int side = 0; side < 2; ++side) {
      for (const auto& [predicate, holds] : states[side].alive) {
        const auto other = states[1 - side].alive.find(predicate);
        if (other == states[1 - side].alive.end()) one_sided.push_back({predicate, holds == (side == 0)});
        else if (other->second != holds && side == 0) opposite.push_back({predicate, holds});
        else if (other->second == holds) state->alive[predicate] = holds;
      }
      state->joined = Latest(state->joined, states[side].joined);
    }
    const auto& found = opposite.empty() ? one_sided : opposite;
    if (found.size() != 1)
      return Error(merge, absl::StrCat("its inputs differ in ", found.size(), " predicates, not in one"),
                   absl::StatusCode::kUnimplemented),
             false;
    join->predicate = found[0].first;
    join->input[found[0].second ? 1 : 0] = inputs[0];
    join->input[found[0].second ? 0 : 1] = inputs[1];
    join->round = RoundOf(state->joined, join->predicate);
    return true;
  }

  void Branch(int predicate, const std::vector<Join>& joins, const BranchEffects& effects) {
    const std::string& effect = effects[effects[0].empty()].empty() ? "" : effects[effects[0].empty()][0];
    const tf::NodeDef& named = joins.empty() ? *text_.Find(effect) : *joins[0].merge;
    std::vector<Taken> taken;
    Excerpt slices[2];
    for (const bool holds : {false, true}) {
      Excerpt& excerpt = slices[holds];
      for (const Join& join : joins) excerpt.results.push_back(join.input[holds]);
      excerpt.effects = effects[holds];
      excerpt.step = [&, holds](const std::string& reference, const tf::NodeDef& node) -> Step {
        const Alive alive = StateOf(reference).alive;
        const auto it = alive.find(predicate);
        if (it != alive.end() && it->second != holds) return {Step::kDrop, ""};
        const bool begins = !states_[text_.Number(node)].alive.count(predicate);
        if (node.op() == "Switch" && begins && it != alive.end()) return {Step::kTake, FunctionText::Input(node, 0)};
        return it != alive.end() || node.op() == "Const" ? Step{} : Step{Step::kTake, reference};
      };
      text_.Walk(&excerpt, &taken);
      for (const int node : excerpt.nodes) text_.Move(node);
    }
    tf::NodeDef branch;
    branch.set_name(absl::StrCat(named.name(), text_.prefix(), "branch"));
    branch.set_op(slices[0].stateful || slices[1].stateful ? "If" : "StatelessIf");
    auto& attrs = *branch.mutable_attr();
    for (const bool holds : {false, true}) {
      const absl::StatusOr<std::string> name = text_.Write("branch", slices[holds], taken, taken.size());
      if (!name.ok()) return Error(named, name.status().message());
      attrs[holds ? "then_branch" : "else_branch"].mutable_func()->set_name(*name);
    }
    attrs["Tcond"].set_type(tf::DT_BOOL);
    attrs["Tin"].mutable_list();
    attrs["Tout"].mutable_list();
    attrs["_lower_using_switch_merge"].set_b(true);
    branch.add_input(predicates_[predicate]);
    for (const Taken& t : taken) {
      branch.add_input(t.reference);
      attrs["Tin"].mutable_list()->add_type(t.dtype);
    }
    for (const std::string& node : After(slices[0], slices[1])) branch.add_input(node);
    for (size_t i = 0; i < joins.size(); ++i) {
      const std::string& merge = joins[i].merge->name();
      attrs["Tout"].mutable_list()->add_type(text_.Dtype(absl::StrCat(merge, ":output:0")));
      text_.Replace(absl::StrCat(merge, ":output:0"), absl::StrCat(branch.name(), ":output:", i));
      text_.Replace("^" + merge, "^" + branch.name());
    }
    for (const bool holds : {false, true})  // who waits for one alone would not run where that does not
      for (const std::string& node : effects[holds])
        if (joins.empty()) text_.Replace(node, "^" + branch.name());
    text_.Add(std::move(branch));
  }

  FunctionText text_;
  std::vector<State> states_;  // by node
  std::vector<std::string> predicates_;
  absl::flat_hash_map<std::string, int> numbers_;  // of predicates
  Errors errors_;
  absl::StatusCode code_ = absl::StatusCode::kInvalidArgument;
};

}  // namespace

bool HasFrames(const tf::FunctionDef& fdef) {
  return std::any_of(fdef.node_def().begin(), fdef.node_def().end(), [](const tf::NodeDef& node) {
    const absl::string_view op = node.op();
    return op == "Merge" || op == "Switch" || op == "Enter" || op == "Exit" || op == "NextIteration" ||
           op == "LoopCond";
  });
}

absl::StatusOr<tf::FunctionDef> Functionalize(Functions* functions, const tf::FunctionDef& fdef, const AttrMap& attrs) {
  return Functionalizer(functions, fdef, attrs).Run();
}

}  // namespace symgrad
