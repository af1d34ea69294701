// A branch is found from its Merge: behind one input lie nodes that are alive where a predicate holds, behind the other
// those where it does not. A loop is found from its frame: Merge(Enter, NextIteration) is a variable, LoopCond the
// condition. Either becomes functions by slicing: from what a function returns back to where it begins.
#include "csrc/engine/functionalize.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "csrc/engine/errors.h"
#include "csrc/engine/node_check.h"

namespace symgrad {
namespace {

// A data input of a node: "argument" or "node:output:index".
std::string Canonical(const std::string& reference) {
  const std::vector<std::string> parts = absl::StrSplit(reference, ':');
  if (parts.size() == 2 && parts[1] == "0") return parts[0];  // of an argument
  return parts.size() == 2 ? absl::StrCat(reference, ":0") : reference;
}
std::string NodeOf(absl::string_view reference) {
  if (!reference.empty() && reference[0] == '^') reference.remove_prefix(1);
  return std::string(reference.substr(0, reference.find(':')));
}
bool IsControl(const std::string& input) { return !input.empty() && input[0] == '^'; }

// The predicates on which it depends whether a node is alive, and what they must be.
using Alive = std::map<std::string, bool>;

// A tensor that a new function takes.
struct Taken {
  std::string name;       // of the argument
  std::string reference;  // what the caller gives
  tf::DataType dtype;
};

class Functionalizer {
 public:
  Functionalizer(Functions* functions, const tf::FunctionDef& fdef, const AttrMap& attrs)
      : functions_(functions), fdef_(fdef), attrs_(attrs) {}

  absl::StatusOr<tf::FunctionDef> Run() {
    Instantiate();
    Index();
    Loops();
    if (errors_.empty()) Substitute();  // the loops' own nodes, which form cycles, go
    if (errors_.empty()) Branches();
    if (!errors_.empty())
      return errors_.ToStatus(code_, absl::StrCat("function '", fdef_.signature().name(),
                                                  "' has TensorFlow 1 control flow that can't be read"));
    Substitute();
    return std::move(fdef_);
  }

 private:
  // -- The function as a graph.

  // All attrs of all nodes: the new functions are not polymorphic.
  void Instantiate() {
    for (tf::NodeDef& node : *fdef_.mutable_node_def()) {
      const tf::OpRegistrationData* op = nullptr;
      if (functions_->LookUp(node.op(), &op).ok() && !IsComplete(node, op->op_def))
        node = CompleteNode(std::move(node), op->op_def, attrs_);
    }
  }

  void Index() {
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

  // The node that a reference names; null for an argument, and for what import will complain of.
  const tf::NodeDef* Find(absl::string_view reference) const {
    const auto it = by_name_.find(NodeOf(reference));
    return it == by_name_.end() ? nullptr : &fdef_.node_def(it->second);
  }
  const tf::NodeDef* Find(absl::string_view reference, const char* op) const {
    const tf::NodeDef* node = Find(reference);
    return node != nullptr && node->op() == op ? node : nullptr;
  }
  const std::string& Input(const tf::NodeDef& node, int i) const {
    static const std::string nothing;
    return i < node.input_size() ? node.input(i) : nothing;
  }

  void Error(const tf::NodeDef& node, absl::string_view what,
             absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    if (errors_.empty()) code_ = code;
    errors_.Add(absl::StrCat("node '", node.name(), "' (op ", node.op(), "): ", what));
  }

  tf::DataType Dtype(const std::string& reference) {
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

  // -- Slicing.

  // What a slice does with a tensor that it meets.
  struct Step {
    enum { kInside, kTake, kDrop } kind = kInside;
    std::string reference;  // kTake: what is taken for it
  };
  using StepFn = std::function<Step(const std::string& reference)>;

  struct Slice {
    std::vector<std::string> results;
    StepFn step;
    absl::flat_hash_set<int> nodes;
    absl::flat_hash_map<std::string, std::string> arguments;  // reference -> name of the argument
    bool stateful = false;
  };

  const Taken& Take(const std::string& reference, std::vector<Taken>* taken) {
    const auto it = std::find_if(taken->begin(), taken->end(), [&](const Taken& t) { return t.reference == reference; });
    if (it != taken->end()) return *it;
    return taken->emplace_back(Taken{absl::StrCat(prefix_, taken->size()), reference, Dtype(reference)});
  }

  // Walks back from the slice's results; what it takes is added to `taken`.
  void Walk(Slice* slice, std::vector<Taken>* taken) {
    std::vector<std::string> pending = slice->results;
    while (!pending.empty()) {
      const std::string reference = std::move(pending.back());
      pending.pop_back();
      const bool control = IsControl(reference);
      const tf::NodeDef* node = Find(reference);
      const Step step = node == nullptr && !control ? Step{Step::kTake, reference} : slice->step(reference);
      if (step.kind == Step::kDrop || (control && step.kind == Step::kTake)) continue;
      if (step.kind == Step::kTake) {
        slice->arguments[reference] = Take(step.reference, taken).name;
        continue;
      }
      if (node == nullptr || !slice->nodes.insert(by_name_.at(node->name())).second) continue;
      const tf::OpRegistrationData* op = nullptr;
      if (functions_->LookUp(node->op(), &op).ok() && op->op_def.is_stateful()) slice->stateful = true;
      pending.insert(pending.end(), node->input().begin(), node->input().end());
    }
  }

  // The function that a slice is. `extra`: arguments that it also returns as they came.
  absl::StatusOr<std::string> Write(const char* stem, const Slice& slice, const std::vector<Taken>& taken,
                                    size_t extra_from) {
    tf::FunctionDef f;
    tf::OpDef* signature = f.mutable_signature();
    signature->set_is_stateful(slice.stateful);
    for (const Taken& t : taken) {
      tf::OpDef::ArgDef* arg = signature->add_input_arg();
      arg->set_name(t.name);
      arg->set_type(t.dtype);
    }
    const auto inner = [&](const std::string& reference) {
      const auto it = slice.arguments.find(reference);
      return it == slice.arguments.end() ? reference : it->second;
    };
    const auto add_result = [&](const std::string& reference, tf::DataType dtype) {
      tf::OpDef::ArgDef* arg = signature->add_output_arg();
      arg->set_name(absl::StrCat("out_", signature->output_arg_size() - 1));
      arg->set_type(dtype);
      (*f.mutable_ret())[arg->name()] = reference;
    };
    for (const std::string& result : slice.results) add_result(inner(result), Dtype(result));
    for (size_t i = extra_from; i < taken.size(); ++i) add_result(taken[i].name, taken[i].dtype);

    std::vector<int> order(slice.nodes.begin(), slice.nodes.end());
    std::sort(order.begin(), order.end());
    for (const int i : order) {
      tf::NodeDef* node = f.add_node_def();
      *node = fdef_.node_def(i);
      node->clear_input();
      for (const std::string& input : fdef_.node_def(i).input()) {
        if (!IsControl(input)) node->add_input(inner(input));
        else if (const auto it = by_name_.find(NodeOf(input)); it != by_name_.end() && slice.nodes.contains(it->second))
          node->add_input(input);
      }
    }
    return functions_->AddNamedByContent(stem, std::move(f));
  }

  // -- Loops.

  struct Frame {
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
    std::map<std::string, Frame> frames;
    absl::flat_hash_map<std::string, std::vector<const tf::NodeDef*>> consumers;
    for (const tf::NodeDef& node : fdef_.node_def()) {
      if (node.op() == "Enter") {
        Frame& frame = frames[FrameName(node)];
        frame.name = FrameName(node);
        if (node.attr().contains("parallel_iterations"))
          frame.parallel_iterations = node.attr().at("parallel_iterations").i();
      }
      for (const std::string& input : node.input()) consumers[NodeOf(input)].push_back(&node);
    }
    if (frames.empty()) return;
    for (const tf::NodeDef& node : fdef_.node_def()) {
      const tf::NodeDef* enter = node.op() == "Merge" ? Find(Input(node, 0), "Enter") : nullptr;
      if (enter == nullptr) continue;
      Frame& frame = frames[FrameName(*enter)];
      const tf::NodeDef *next = Find(Input(node, 1), "NextIteration"), *branch = nullptr;
      if (next == nullptr) return Error(node, "its second input must be a NextIteration");
      for (const tf::NodeDef* consumer : consumers[node.name()]) {
        if (consumer->op() == "Switch" && Find(Input(*consumer, 1), "LoopCond") != nullptr) branch = consumer;
      }
      frame.merges.push_back(&node);
      frame.nexts.push_back(next);
      frame.switches.push_back(branch);
      if (branch == nullptr) continue;
      frame.condition = Find(Input(*branch, 1), "LoopCond");
      for (const tf::NodeDef* consumer : consumers[branch->name()])
        if (consumer->op() == "Exit") frame.exits.insert(consumer->name());
    }
    for (auto& [name, frame] : frames) Members(consumers, &frame);
    for (auto& [name, frame] : frames) {
      const bool inner = std::any_of(frames.begin(), frames.end(), [&, n = name](const auto& other) {
        return other.first != n && !frame.merges.empty() && other.second.members.contains(frame.merges[0]->name());
      });
      if (!inner) Loop(frame);
    }
  }

  void Members(const absl::flat_hash_map<std::string, std::vector<const tf::NodeDef*>>& consumers, Frame* frame) {
    std::vector<std::string> pending;
    for (const tf::NodeDef& node : fdef_.node_def())
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

  void Loop(const Frame& frame) {
    if (frame.condition == nullptr)
      return errors_.Add(absl::StrCat("frame '", frame.name, "' has no LoopCond"));
    std::vector<Taken> taken;
    absl::flat_hash_map<std::string, std::string> variables;  // what stands for a variable -> its initial value
    std::vector<std::string> next;
    for (size_t i = 0; i < frame.merges.size(); ++i) {
      // Two variables may start from one tensor: the Enter, not what it enters, tells them apart.
      const std::string& enter = Input(*frame.merges[i], 0);
      taken.push_back({absl::StrCat(prefix_, i), enter, Dtype(enter)});
      variables[absl::StrCat(frame.merges[i]->name(), ":output:0")] = enter;
      if (frame.switches[i] != nullptr)
        variables[absl::StrCat(frame.switches[i]->name(), ":output_true:0")] = enter;
      next.push_back(Input(*frame.nexts[i], 0));
    }
    const size_t n = taken.size();
    const StepFn step = [&](const std::string& reference) -> Step {
      if (const auto it = variables.find(reference); it != variables.end()) return {Step::kTake, it->second};
      const tf::NodeDef& node = *Find(reference);
      if (node.op() == "Enter" && FrameName(node) == frame.name) return {Step::kTake, Input(node, 0)};
      const auto is_part = [&](const auto& nodes) { return std::find(nodes.begin(), nodes.end(), &node) != nodes.end(); };
      if (is_part(frame.merges) || is_part(frame.switches)) return {Step::kDrop, ""};  // a control edge
      if (frame.members.contains(node.name()) || node.op() == "Const") return {};
      return {Step::kTake, reference};
    };
    Slice condition, body;
    condition.results = {Input(*frame.condition, 0)};
    body.results = next;
    condition.step = body.step = step;
    Walk(&condition, &taken);
    Walk(&body, &taken);
    const absl::StatusOr<std::string> cond_name = Write("cond", condition, taken, taken.size());
    const absl::StatusOr<std::string> body_name = Write("body", body, taken, n);
    if (!cond_name.ok() || !body_name.ok()) return Error(*frame.condition, "its function can't be written");

    tf::NodeDef loop;
    loop.set_name(absl::StrCat(frame.merges[0]->name(), prefix_, "loop"));
    loop.set_op(condition.stateful || body.stateful ? "While" : "StatelessWhile");
    auto& attrs = *loop.mutable_attr();
    attrs["cond"].mutable_func()->set_name(*cond_name);
    attrs["body"].mutable_func()->set_name(*body_name);
    attrs["parallel_iterations"].set_i(frame.parallel_iterations);
    attrs["_lower_using_switch_merge"].set_b(true);
    for (size_t i = 0; i < taken.size(); ++i) {
      const tf::NodeDef* enter = i < n ? Find(taken[i].reference) : nullptr;
      loop.add_input(enter != nullptr ? Input(*enter, 0) : taken[i].reference);
      attrs["T"].mutable_list()->add_type(taken[i].dtype);
    }
    for (const std::string& name : frame.exits) {
      const tf::NodeDef& exit = *Find(name);
      for (size_t i = 0; i < n; ++i)
        if (Find(Input(exit, 0)) == frame.switches[i])
          replaced_[absl::StrCat(name, ":output:0")] = absl::StrCat(loop.name(), ":output:", i);
      replaced_["^" + name] = "^" + loop.name();
    }
    added_.push_back(std::move(loop));
  }

  // -- Branches.

  // Through Identity to what a predicate is.
  std::string Predicate(std::string reference) const {
    for (int depth = 0; depth < 16; ++depth) {
      const tf::NodeDef* node = Find(reference, "Identity");
      if (node == nullptr) break;
      reference = Input(*node, 0);
    }
    return reference;
  }

  struct State {
    Alive alive;
    std::map<std::string, int> joined;  // how many merges of a predicate lie behind
  };
  struct Join {
    const tf::NodeDef* merge;
    std::string predicate;
    std::string input[2];  // where the predicate does not hold, where it does
    int round;
  };

  State StateOf(const std::string& input) const {
    const tf::NodeDef* node = Find(input);
    if (node == nullptr) return {};
    State state = states_[by_name_.at(node->name())];
    if (node->op() == "Switch" && !IsControl(input))
      state.alive[Predicate(Input(*node, 1))] = absl::StrContains(input, ":output_true:");
    return state;
  }

  void Branches() {
    if (std::none_of(fdef_.node_def().begin(), fdef_.node_def().end(),
                     [](const tf::NodeDef& n) { return n.op() == "Merge"; }))
      return;
    std::vector<int> order;
    if (!Sort(&order)) return;  // import says where they form a cycle
    states_.resize(fdef_.node_def_size());
    std::map<std::pair<std::string, int>, std::vector<Join>> joins;
    for (const int i : order) {
      const tf::NodeDef& node = fdef_.node_def(i);
      State& state = states_[i];
      if (node.op() == "Merge") {
        Join join{&node, "", {}, 0};
        if (!ReadMerge(node, &state, &join)) return;
        if (state.alive.empty()) joins[{join.predicate, join.round}].push_back(join);
        state.joined[join.predicate] = join.round + 1;
        continue;
      }
      for (const std::string& input : node.input()) {
        const State from = StateOf(input);
        state.alive.insert(from.alive.begin(), from.alive.end());
        for (const auto& [predicate, count] : from.joined)
          state.joined[predicate] = std::max(state.joined[predicate], count);
      }
    }
    for (const auto& [key, group] : joins) Branch(group);
  }

  bool Sort(std::vector<int>* order) const {
    const int n = fdef_.node_def_size();
    std::vector<int> pending(n, 0);
    std::vector<std::vector<int>> consumers(n);
    for (int i = 0; i < n; ++i) {
      for (const std::string& input : fdef_.node_def(i).input()) {
        const auto it = by_name_.find(NodeOf(input));
        if (it != by_name_.end()) consumers[it->second].push_back(i), ++pending[i];
      }
    }
    for (int i = 0; i < n; ++i)
      if (pending[i] == 0) order->push_back(i);
    for (size_t next = 0; next < order->size(); ++next)
      for (const int c : consumers[(*order)[next]])
        if (--pending[c] == 0) order->push_back(c);
    return static_cast<int>(order->size()) == n;
  }

  // Which predicate a Merge joins, and which of its inputs is which.
  bool ReadMerge(const tf::NodeDef& merge, State* state, Join* join) {
    std::vector<std::string> inputs;
    for (const std::string& input : merge.input())
      if (!IsControl(input)) inputs.push_back(input);
    if (inputs.size() != 2) return Error(merge, "a Merge of two inputs is what a branch ends with"), false;
    const State states[2] = {StateOf(inputs[0]), StateOf(inputs[1])};
    // The two sides differ in one predicate; a side that does not depend on it is a constant, say.
    std::vector<std::pair<std::string, bool>> opposite, one_sided;  // and what it is behind input 0
    for (int side = 0; side < 2; ++side) {
      for (const auto& [predicate, holds] : states[side].alive) {
        const auto other = states[1 - side].alive.find(predicate);
        if (other == states[1 - side].alive.end()) one_sided.push_back({predicate, holds == (side == 0)});
        else if (other->second != holds && side == 0) opposite.push_back({predicate, holds});
        else if (other->second == holds) state->alive[predicate] = holds;
      }
      for (const auto& [predicate, count] : states[side].joined)
        state->joined[predicate] = std::max(state->joined[predicate], count);
    }
    const auto& found = opposite.empty() ? one_sided : opposite;
    if (found.size() != 1)
      return Error(merge, absl::StrCat("its inputs differ in ", found.size(), " predicates, not in one"),
                   absl::StatusCode::kUnimplemented),
             false;
    join->predicate = found[0].first;
    join->input[found[0].second ? 1 : 0] = inputs[0];
    join->input[found[0].second ? 0 : 1] = inputs[1];
    join->round = state->joined[join->predicate];
    return true;
  }

  void Branch(const std::vector<Join>& joins) {
    const std::string& predicate = joins[0].predicate;
    std::vector<Taken> taken;
    Slice slices[2];
    for (const bool holds : {false, true}) {
      Slice& slice = slices[holds];
      for (const Join& join : joins) slice.results.push_back(join.input[holds]);
      slice.step = [&, holds](const std::string& reference) -> Step {
        const tf::NodeDef& node = *Find(reference);
        const Alive alive = StateOf(reference).alive;
        const auto it = alive.find(predicate);
        if (it != alive.end() && it->second != holds) return {Step::kDrop, ""};
        const bool begins = !states_[by_name_.at(node.name())].alive.count(predicate);
        if (node.op() == "Switch" && begins && it != alive.end()) return {Step::kTake, Input(node, 0)};
        return it != alive.end() || node.op() == "Const" ? Step{} : Step{Step::kTake, reference};
      };
      Walk(&slice, &taken);
    }
    tf::NodeDef branch;
    branch.set_name(absl::StrCat(joins[0].merge->name(), prefix_, "branch"));
    branch.set_op(slices[0].stateful || slices[1].stateful ? "If" : "StatelessIf");
    auto& attrs = *branch.mutable_attr();
    for (const bool holds : {false, true}) {
      const absl::StatusOr<std::string> name = Write("branch", slices[holds], taken, taken.size());
      if (!name.ok()) return Error(*joins[0].merge, name.status().message());
      attrs[holds ? "then_branch" : "else_branch"].mutable_func()->set_name(*name);
    }
    attrs["Tcond"].set_type(tf::DT_BOOL);
    attrs["Tin"].mutable_list();
    attrs["_lower_using_switch_merge"].set_b(true);
    branch.add_input(predicate);
    for (const Taken& t : taken) {
      branch.add_input(t.reference);
      attrs["Tin"].mutable_list()->add_type(t.dtype);
    }
    for (size_t i = 0; i < joins.size(); ++i) {
      const std::string& merge = joins[i].merge->name();
      attrs["Tout"].mutable_list()->add_type(Dtype(absl::StrCat(merge, ":output:0")));
      replaced_[absl::StrCat(merge, ":output:0")] = absl::StrCat(branch.name(), ":output:", i);
      replaced_["^" + merge] = "^" + branch.name();
    }
    added_.push_back(std::move(branch));
  }

  // -- The result.

  // Puts the new nodes in the place of what they replace.
  void Substitute() {
    for (tf::NodeDef& node : added_) *fdef_.add_node_def() = std::move(node);
    added_.clear();
    Instantiate();
    const auto replace = [&](std::string* reference) {
      if (const auto it = replaced_.find(*reference); it != replaced_.end()) *reference = it->second;
    };
    for (tf::NodeDef& node : *fdef_.mutable_node_def())
      for (std::string& input : *node.mutable_input()) replace(&input);
    for (auto& [output, reference] : *fdef_.mutable_ret()) replace(&reference);
    replaced_.clear();
    Index();
    Prune();
  }

  // Keeps what results need.
  void Prune() {
    Slice all;
    for (const auto& [output, reference] : fdef_.ret()) all.results.push_back(reference);
    all.step = [](const std::string&) { return Step{}; };
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

  Functions* const functions_;
  tf::FunctionDef fdef_;
  const AttrMap& attrs_;
  absl::flat_hash_map<std::string, int> by_name_;
  absl::flat_hash_map<std::string, tf::DataType> args_;
  std::string prefix_ = "v2_";  // of names that the function has not
  std::vector<State> states_;    // by node
  std::vector<tf::NodeDef> added_;
  absl::flat_hash_map<std::string, std::string> replaced_;
  Errors errors_;
  absl::StatusCode code_ = absl::StatusCode::kInvalidArgument;
};

}  // namespace

bool HasFrames(const tf::FunctionDef& fdef) {
  return std::any_of(fdef.node_def().begin(), fdef.node_def().end(), [](const tf::NodeDef& node) {
    const std::string& op = node.op();
    return op == "Merge" || op == "Switch" || op == "Enter" || op == "Exit" || op == "NextIteration" ||
           op == "LoopCond";
  });
}

absl::StatusOr<tf::FunctionDef> Functionalize(Functions* functions, const tf::FunctionDef& fdef,
                                              const AttrMap& attrs) {
  return Functionalizer(functions, fdef, attrs).Run();
}

}  // namespace symgrad
