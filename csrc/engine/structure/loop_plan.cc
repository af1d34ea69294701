#include "csrc/engine/structure/loop_plan.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/emit/literal.h"
#include "csrc/engine/read/import.h"
#include "csrc/engine/structure/list_step.h"
#include "csrc/engine/structure/trip_count.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/engine/vjp/sweep.h"

namespace symgrad {
namespace {

bool HasNoGradient(const Node& n) {
  const Rule* rule = FindRule(n.type());
  return rule != nullptr && rule->gradient == nullptr && !HasOwnGradient(*n.def);
}

// Which results of a body depend on the marked arguments through tensors that carry gradients.
std::vector<bool> Depend(const Body& body, const std::vector<bool>& marked) {
  std::vector<bool> depends(body.num_nodes(), false);
  for (size_t i = 0; i < marked.size(); ++i) depends[body.args[i]] = marked[i];
  const auto carries = [&](Port p) { return depends[p.node] && IsDifferentiable(body.output(p).dtype); };
  for (int id = 0; id < body.num_nodes(); ++id) {
    const Node& n = body.node(id);
    if (n.is_arg() || HasNoGradient(n)) continue;
    depends[id] = std::any_of(n.inputs.begin(), n.inputs.end(), carries);
  }
  std::vector<bool> results;
  for (const Port& p : body.results) results.push_back(carries(p));
  return results;
}

// Of what is known of a variable's value: a list's length and shape are integers.
tf::DataType ValueType(tf::DataType dtype) { return dtype == tf::DT_VARIANT ? tf::DT_INT64 : dtype; }

class Planner {
 public:
  Planner(Differentiator* differentiator, const Body& outer, const Frame& frame)
      : differentiator_(differentiator), outer_(outer), frame_(frame), inputs_(outer.node(frame.node).inputs) {
    plan_.node = outer.node(frame.node).def;
    plan_.n = inputs_.size();
    plan_.compiled = outer.compiled;
    for (const Port& p : inputs_) {
      plan_.dtypes.push_back(tf::BaseType(outer.output(p).dtype));
      plan_.flows.push_back(outer.flow(p));
    }
    for (const V& dy : frame.cotangents) plan_.cotangent_dtypes.push_back(dy ? ToTf(dy.dtype()) : tf::DT_INVALID);
  }

  absl::StatusOr<LoopPlan> Plan() {
    TF_RETURN_IF_ERROR(ReadBody());
    TF_ASSIGN_OR_RETURN(auto condition, ImportFunction(differentiator_, Specialize(Function("cond"))));
    if (condition->args.size() != plan_.n)
      return absl::InvalidArgumentError(
          absl::StrCat("its condition '", Function("cond").name(), "' must take ", plan_.n, " variables"));
    ReadTrips(*condition);
    TF_RETURN_IF_ERROR(Split(*condition));
    for (size_t i = 0; i < plan_.n; ++i) plan_.last_lists.push_back(Last(i));
    TF_RETURN_IF_ERROR(Stacks());
    return std::move(plan_);
  }

 private:
  const tf::NameAttrList& Function(const char* attr) const { return plan_.node->attr().at(attr).func(); }

  // Which variables are invariant, which are counters.
  absl::Status ReadBody() {
    const tf::NameAttrList& f = Function("body");
    TF_ASSIGN_OR_RETURN(plan_.body, ImportFunction(differentiator_, f));
    const Body* loop = plan_.body.get();
    if (loop->args.size() != plan_.n || loop->results.size() != plan_.n)
      return absl::InvalidArgumentError(
          absl::StrCat("its body '", f.name(), "' must take and return ", plan_.n, " variables"));
    for (size_t i = 0; i < plan_.n; ++i) {
      plan_.invariant.push_back(Origin(*loop, loop->results[i]) == Port{loop->args[i], 0});
      plan_.shapes.push_back(VariableShape(i));
    }
    TF_RETURN_IF_ERROR(ReadSteady(f));
    for (size_t i = 0; i < plan_.n; ++i) {
      const bool steps = IsIntegral(plan_.dtypes[i]) && CounterStep(*plan_.body, static_cast<int>(i)).has_value();
      plan_.counter.push_back(steps && outer_.rank(inputs_[i]) == 0);
    }
    return absl::OkStatus();
  }

  // Which variables carry cotangents through the loop; and splits the body for them.
  absl::Status Split(const Body& condition) {
    const size_t n = plan_.n;
    std::vector<bool> wants = frame_.wants;
    for (bool grown = true; grown;) {
      grown = false;
      const std::vector<bool> depends = Depend(*plan_.body, wants);
      for (size_t i = 0; i < n; ++i) {
        if (!depends[i] || wants[i] || (plan_.dtypes[i] == tf::DT_RESOURCE && !plan_.invariant[i])) continue;
        wants[i] = grown = true;
      }
    }
    const LoopArguments arguments{plan_.invariant, plan_.counter, WrittenArguments(*differentiator_, condition)};
    const tf::NameAttrList body = Specialize(Function("body"));
    for (size_t i = 0; i < n; ++i) plan_.carried.push_back(wants[i] && !plan_.invariant[i] && plan_.seeded(i));
    // What carries is found by splitting. A chain of variables, each of which takes its value from the next, would take
    // as many splits: after a few, what may carry does.
    constexpr int kMaxSplits = 4;
    int splits = 0;
    for (bool grown = true; grown;) {
      grown = false;
      if (++splits == kMaxSplits) Spread(wants);
      TF_ASSIGN_OR_RETURN(const SplitVjp* split, differentiator_->Split(body, wants, plan_.carried, &arguments));
      plan_.split = *split;
      for (size_t i = 0; i < n; ++i) {
        if (split->gradients[i] < 0 || plan_.invariant[i] || plan_.carried[i]) continue;
        plan_.carried[i] = grown = true;
      }
    }
    const SplitVjp& split = plan_.split;
    for (size_t i = 0; i < n; ++i)
      plan_.summed.push_back(plan_.invariant[i] && wants[i] &&
                             (split.gradients[i] >= 0 || split.finished[i] >= 0 || plan_.seeded(i)));
    return absl::OkStatus();
  }

  // Makes those variables carried that a carried one may take its value from.
  void Spread(const std::vector<bool>& wants) {
    const Body& body = *plan_.body;
    std::vector<bool> seen(body.num_nodes(), false);
    std::vector<int> pending;
    const auto meet = [&](Port p) {
      if (seen[p.node] || !IsDifferentiable(body.output(p).dtype)) return;
      seen[p.node] = true;
      pending.push_back(p.node);
    };
    absl::flat_hash_map<int, size_t> variable;  // by argument
    for (size_t i = 0; i < plan_.n; ++i) {
      variable[body.args[i]] = i;
      if (plan_.carried[i]) meet(body.results[i]);
    }
    while (!pending.empty()) {
      const int id = pending.back();
      pending.pop_back();
      const Node& n = body.node(id);
      if (n.is_arg()) {
        const size_t i = variable.at(id);
        if (plan_.carried[i] || plan_.invariant[i] || !wants[i]) continue;
        plan_.carried[i] = true;
        meet(body.results[i]);
      } else if (!HasNoGradient(n)) {
        for (const Port& p : n.inputs) meet(p);
      }
    }
  }

  // What becomes of a list, where that can be told.
  std::optional<LastList> Last(size_t i) const {
    const IntsPtr before = outer_.output(inputs_[i]).ints;
    if (!plan_.compiled || plan_.dtypes[i] != tf::DT_VARIANT || before == nullptr || !before->known())
      return std::nullopt;
    const auto step = StepOfList(differentiator_, *plan_.body, static_cast<int>(i));
    if (!step) return std::nullopt;
    LastList last{step->element, {}, before->elements[0].value, step->by < 0};
    if (step->by != 0 && (!plan_.trips.exact || last.length + step->by * plan_.trips.most != 0)) return std::nullopt;
    std::vector<int64_t> dims;
    for (size_t d = 1; d < before->elements.size(); ++d) dims.push_back(before->elements[d].value);
    last.shape = tf::PartialTensorShape(dims);
    return last;
  }

  absl::Status Stacks() {
    const SplitVjp& split = plan_.split;
    std::vector<bool> stacked(plan_.n, false);
    for (const int a : split.args) {
      if (!plan_.stacked(a)) continue;
      stacked[a] = true;
      plan_.stacks.push_back({plan_.dtypes[a], plan_.shapes[a]});
    }
    for (size_t r = 0; r < split.residuals.size(); ++r) {
      const int next = split.residual_results[r];
      plan_.next.push_back(next >= 0 && stacked[next] ? next : -1);
      if (plan_.next.back() < 0) plan_.stacks.push_back({split.residuals[r], split.residual_shapes[r]});
    }
    for (size_t k = 0; k < split.operands.size(); ++k)
      plan_.operands.push_back({split.operands[k], split.operand_shapes[k]});
    for (const Stack& stack : plan_.stacks)
      if (plan_.compiled && stack.dtype == tf::DT_VARIANT)
        return absl::UnimplementedError(
            "XLA can't compile its gradient, as that keeps a list of each iteration, and a list of lists has no size: "
            "make the inner list a tensor (TensorArray.stack) before the iteration ends");
    return absl::OkStatus();
  }

  // Reads the body with what is known of its variables: of a list, which may change, the length and the shape, if the
  // body keeps them.
  absl::Status ReadSteady(const tf::NameAttrList& f) {
    for (size_t i = 0; i < plan_.n; ++i) steady_.push_back(plan_.invariant[i] || plan_.dtypes[i] == tf::DT_VARIANT);
    for (bool changed = true; changed;) {
      changed = false;
      TF_ASSIGN_OR_RETURN(plan_.body, ImportFunction(differentiator_, Specialize(f)));
      for (size_t i = 0; i < plan_.n; ++i) {
        const IntsPtr before = outer_.output(inputs_[i]).ints, after = plan_.body->output(plan_.body->results[i]).ints;
        if (!steady_[i] || plan_.invariant[i] || before == nullptr || !before->known()) continue;
        const auto equal = [](const Ints::Element& a, const Ints::Element& b) { return a.value == b.value; };
        if (after != nullptr && std::equal(before->elements.begin(), before->elements.end(), after->elements.begin(),
                                           after->elements.end(), equal))
          continue;
        steady_[i] = false;
        changed = true;
      }
    }
    return absl::OkStatus();
  }

  // How often it runs, and between which numbers its variables are in its body.
  void ReadTrips(const Body& condition) {
    constexpr int64_t kMaxReserved = 1 << 20;
    std::vector<Range> initial;
    for (const Port& p : inputs_) initial.push_back(RangeOf(outer_, p, outer_.ranges));
    plan_.trips = CountTrips(differentiator_, condition, *plan_.body, initial);
    for (size_t i = 0; i < plan_.n; ++i) {
      Range& range = ranges_.emplace_back();
      if (plan_.invariant[i]) range = initial[i];
      if (!plan_.counter[i] || plan_.trips.most < 1) continue;
      const int64_t way = *CounterStep(*plan_.body, static_cast<int>(i)) * (plan_.trips.most - 1);
      range = {initial[i].low + std::min<int64_t>(way, 0), initial[i].high + std::max<int64_t>(way, 0)};
    }
    if (plan_.trips.most > kMaxReserved || plan_.trips.most < 0) {
      plan_.trips.most = -1;
      plan_.trips.exact = false;
    }
    // XLA compiles a body that never runs, too: there must be room for what it would push.
    if (plan_.trips.most == 0) plan_.trips = {1, /*exact=*/false, std::nullopt};
  }

  // What is known of a variable in all iterations. To XLA a variable has one shape.
  tf::PartialTensorShape VariableShape(size_t i) const {
    if (plan_.invariant[i] || plan_.compiled) return StaticShape(outer_.output(inputs_[i]).shape);
    const auto shapes = plan_.node->attr().find("output_shapes");
    if (shapes == plan_.node->attr().end() || shapes->second.list().shape_size() != static_cast<int>(plan_.n))
      return tf::PartialTensorShape();
    const tf::TensorShapeProto& shape = shapes->second.list().shape(static_cast<int>(i));
    return tf::PartialTensorShape::IsValid(shape) ? tf::PartialTensorShape(shape) : tf::PartialTensorShape();
  }

  // A function of the loop's variables with what is known of them in all iterations.
  tf::NameAttrList Specialize(const tf::NameAttrList& f) const {
    tf::NameAttrList specialized = WithInputs(f, outer_, {inputs_.data(), inputs_.size()});
    auto* shapes = (*specialized.mutable_attr())[kInputShapes].mutable_list();
    auto* values = (*specialized.mutable_attr())[kInputValues].mutable_list();
    values->Clear();
    for (size_t i = 0; i < plan_.n; ++i) {
      tf::TensorProto* value = values->add_tensor();
      const IntsPtr ints = outer_.output(inputs_[i]).ints;
      if (!plan_.invariant[i]) plan_.shapes[i].AsProto(shapes->mutable_shape(static_cast<int>(i)));
      if (!steady_[i]) continue;
      if (ints != nullptr && ints->known() && !FillInts(*ints, ValueType(plan_.dtypes[i]), value)) value->Clear();
    }
    for (const Range& range : ranges_)
      for (const int64_t end : {range.low, range.high})
        (*specialized.mutable_attr())[kInputRanges].mutable_list()->add_i(end);
    return specialized;
  }

  Differentiator* const differentiator_;
  const Body& outer_;
  const Frame& frame_;
  const absl::InlinedVector<Port, 3>& inputs_;
  LoopPlan plan_;
  std::vector<bool> steady_;   // what is known of its integers before the loop is so in all iterations
  std::vector<Range> ranges_;  // of the variables in the body, once they are known
};

}  // namespace

absl::StatusOr<LoopPlan> LoopPlan::Make(Differentiator* differentiator, const Body& body, const Frame& frame) {
  return Planner(differentiator, body, frame).Plan();
}

std::vector<int> LoopPlan::Ahead() const {
  std::vector<int> ahead;
  for (const int i : next)
    if (i >= 0 && std::find(ahead.begin(), ahead.end(), i) == ahead.end()) ahead.push_back(i);
  return ahead;
}

}  // namespace symgrad
