#include "csrc/engine/remat/schedule.h"

#include <algorithm>
#include <utility>

#include "csrc/engine/body/calls.h"
#include "csrc/engine/library/effects.h"
#include "csrc/rules/traits/trait.h"

namespace symgrad {
namespace {

// A dimension that is not known counts as a small batch, and what a list or a tensor of unknown rank holds as this
// much.
constexpr int64_t kUnknownDim = 32, kUnknownBytes = int64_t{1} << 20;

int64_t Bytes(const Body& body, Port p) {
  const tf::DataType dtype = tf::BaseType(body.output(p).dtype);
  if (dtype == tf::DT_RESOURCE) return 0;
  if (body.rank(p) < 0 || dtype == tf::DT_VARIANT || dtype == tf::DT_STRING) return kUnknownBytes;
  double bytes = tf::DataTypeSize(dtype);
  for (int i = 0; i < body.rank(p); ++i)
    bytes *= static_cast<double>(body.dim(p, i) < 0 ? kUnknownDim : body.dim(p, i));
  return static_cast<int64_t>(std::min(bytes, 1e15));
}

bool IsAlias(const Node& n) { return !n.is_arg() && !n.inputs.empty() && HasTrait(n.type(), Trait::kAliases); }

}  // namespace

Repeatable::Repeatable(const Functions& functions, const Body& body) : functions_(functions), body_(body) {
  for (int id = 0; id < body.num_forward; ++id)
    if (!body.node(id).is_arg() && functions.EffectsOf(body, id) & kWrites) writes_ = true;
}

bool Repeatable::operator()(int node) {
  const Node& n = body_.node(node);
  return n.is_arg() || Check(*n.def, *n.op, 0);
}

bool Repeatable::Check(const tf::NodeDef& node, const tf::OpRegistrationData& op, int depth) {
  constexpr int kMaxDepth = 100;
  const std::vector<std::string> functions = CalledFunctions(node, op.is_function_op);
  if (functions.empty()) return !op.op_def.is_stateful() || (EffectsOfOp(op.op_def) == kReads && !writes_);
  if (!IsStructure(node, op) || depth > kMaxDepth) return false;
  return std::all_of(functions.begin(), functions.end(), [&](const std::string& f) {
    const auto [it, added] = known_.try_emplace(f, false);  // what recursion meets
    if (!added) return it->second;
    const tf::FunctionDef* fdef = functions_.Find(f);
    bool all = fdef != nullptr;
    for (int i = 0; all && i < fdef->node_def_size(); ++i) {
      const tf::OpRegistrationData* inner = nullptr;
      const tf::NodeDef& def = fdef->node_def(i);
      all = functions_.LookUp(def.op(), &inner).ok() && Check(def, *inner, depth + 1);
    }
    return known_[f] = all;
  });
}

Schedule::Schedule(const Functions& functions, const Body& body, const std::vector<Port>& results) : body_(body) {
  MarkBackward();
  MarkNeeded(results);
  FindBuffers(results);
  Repeatable repeatable(functions, body);
  fixed_.assign(body.num_outputs(), false);
  for (int id = 0; id < body.num_nodes(); ++id) {
    const Node& n = body.node(id);
    const bool there = n.is_arg() || n.type() == "Const" || n.type() == "ReadVariableOp";
    const bool fixed = there || (!backward_[id] && !repeatable(id));
    for (int i = 0; i < n.num_outputs; ++i) {
      const int output = n.first_output + i;
      if (there) bytes_[output] = returned_[output] = 0;
      fixed_[output] = fixed || body.output({id, i}).dtype == tf::DT_RESOURCE;
    }
  }
}

void Schedule::MarkBackward() {
  backward_.assign(body_.num_nodes(), false);
  for (int id = body_.num_forward; id < body_.num_nodes(); ++id) {
    const Node& n = body_.node(id);
    bool integers = !n.is_arg();
    for (int i = 0; i < n.num_outputs; ++i) integers = integers && IsIntegral(body_.output({id, i}).dtype);
    const bool late =
        !integers || std::any_of(n.inputs.begin(), n.inputs.end(), [&](Port p) { return backward_[p.node]; });
    backward_[id] = late && (n.is_arg() || n.type() != "Const");
  }
}

void Schedule::MarkNeeded(const std::vector<Port>& results) {
  needed_.assign(body_.num_nodes(), false);
  for (const Port& p : results) {
    needed_[p.node] = true;
    if (!backward_[p.node]) results_.push_back(p.node);
  }
  for (int id = body_.num_nodes() - 1; id >= 0; --id)
    if (needed_[id])
      for (const Port& p : body_.node(id).inputs) needed_[p.node] = true;
}

// What a function returns is there to its end, whatever stays.
void Schedule::FindBuffers(const std::vector<Port>& results) {
  buffer_.resize(body_.num_outputs());
  bytes_.assign(body_.num_outputs(), 0);
  for (int id = 0; id < body_.num_nodes(); ++id) {
    const Node& n = body_.node(id);
    for (int i = 0; i < n.num_outputs; ++i) {
      const int output = n.first_output + i;
      const bool alias = IsAlias(n) && i < static_cast<int>(n.inputs.size());
      buffer_[output] = alias ? buffer_[body_.output_index(n.inputs[i])] : output;
      if (!alias) bytes_[output] = Bytes(body_, {id, i});
    }
  }
  returned_.assign(body_.num_outputs(), 0);
  for (const Port& p : results)
    if (int64_t& bytes = bytes_[buffer(p)]; bytes > 0) returned_[buffer(p)] = std::exchange(bytes, 0);
}

bool Schedule::IsCheap(int node) const {
  const Node& n = body_.node(node);
  return !n.is_arg() && (IsAlias(n) || HasTrait(n.type(), Trait::kCheap) || HasTrait(n.type(), Trait::kLight));
}

std::vector<Step> Schedule::Steps(const std::vector<bool>& stays) const {
  std::vector<Step> steps;
  std::vector<bool> done(body_.num_nodes(), false);
  std::vector<std::pair<int, size_t>> path;  // a node, and which of its inputs is looked at
  const auto enter = [&](Port p) {
    if (backward_[p.node] || done[p.node] || Stays(p, stays)) return;
    done[p.node] = true;
    path.emplace_back(p.node, 0);
  };
  for (int id = body_.num_forward; id < body_.num_nodes(); ++id) {
    if (!backward_[id] || !needed_[id] || body_.node(id).is_arg()) continue;
    for (const Port& input : body_.node(id).inputs) {
      enter(input);
      while (!path.empty()) {
        const auto [node, k] = path.back();
        if (k == body_.node(node).inputs.size()) {
          steps.push_back({node, true});
          path.pop_back();
        } else {
          ++path.back().second;
          enter(body_.node(node).inputs[k]);
        }
      }
    }
    steps.push_back({id, false});
  }
  return steps;
}

// The forward nodes that are run in the first place.
std::vector<bool> Schedule::FindForward(const std::vector<Step>& steps, const std::vector<bool>& stays) const {
  std::vector<bool> runs(body_.num_nodes(), false);
  for (const int id : results_) runs[id] = true;
  for (const Step& step : steps)
    for (const Port& p : body_.node(step.node).inputs)
      if (!backward_[p.node] && Stays(p, stays)) runs[p.node] = true;
  for (int id = body_.num_nodes() - 1; id >= 0; --id)
    if (runs[id])
      for (const Port& p : body_.node(id).inputs) runs[p.node] = true;
  return runs;
}

// Runs the nodes one after the other; memory is there from the node that makes it to the last one that uses it.
Schedule::Estimate Schedule::Measure(const std::vector<bool>& stays) const {
  std::vector<Step> all;
  const std::vector<Step> steps = Steps(stays);
  const std::vector<bool> runs = FindForward(steps, stays);
  for (int id = 0; id < body_.num_nodes(); ++id)
    if (runs[id]) all.push_back({id, false});
  const size_t num_forward = all.size();
  all.insert(all.end(), steps.begin(), steps.end());

  const int num_outputs = body_.num_outputs();
  const auto copy_of = [&](Port p, bool late) {  // buffers of what is computed again come after all others
    return buffer(p) + (late && !backward_[p.node] && !Stays(p, stays) ? num_outputs : 0);
  };
  std::vector<int> last(2 * num_outputs, -1);
  for (size_t t = 0; t < all.size(); ++t) {
    const Node& n = body_.node(all[t].node);
    for (const Port& p : n.inputs) last[copy_of(p, t >= num_forward)] = static_cast<int>(t);
    for (int i = 0; i < n.num_outputs; ++i) {
      int& use = last[buffer({all[t].node, i}) + (all[t].again ? num_outputs : 0)];
      use = std::max(use, static_cast<int>(t));
    }
  }
  std::vector<int64_t> freed(all.size(), 0);
  for (int output = 0; output < num_outputs; ++output)
    for (const int use : {last[output], last[num_outputs + output]})
      if (use >= 0) freed[use] += bytes_[output];

  Estimate estimate;
  int64_t live = 0;
  constexpr int64_t kDear = 32;
  for (size_t t = 0; t < all.size(); ++t) {
    const Node& n = body_.node(all[t].node);
    int64_t made = 0;
    for (int i = 0; i < n.num_outputs; ++i) {
      const int output = n.first_output + i;
      if (buffer_[output] == output) made += bytes_[output];
      if (!all[t].again) live += returned_[output];
    }
    live += made;
    estimate.peak = std::max(estimate.peak, live);
    live -= freed[t];
    if (all[t].again) estimate.cost += made * (IsCheap(all[t].node) ? 1 : kDear);
  }
  return estimate;
}

}  // namespace symgrad
