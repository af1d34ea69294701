#include "csrc/engine/plan/loop_plan.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/plan/list_step.h"
#include "csrc/engine/read/import.h"
#include "csrc/engine/vjp/cotangent.h"

namespace symgrad {
namespace {

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

// Reads condition and body as often as it takes to know what stays the same in all iterations, and splits the body as
// often as it takes to know which cotangents go from one to the next.
class Planner {
 public:
  Planner(Splitter* splitter, const Body& outer, const VjpQuery& query, bool in_place)
      : splitter_(splitter), outer_(outer), query_(query), in_place_(in_place), inputs_(outer.node(query.node).inputs) {
    plan_.node = outer.node(query.node).def;
    plan_.compiled = outer.compiled;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      LoopVariable& x = variables_.emplace_back();
      x.dtype = tf::BaseType(outer.output(inputs_[i]).dtype);
      x.flow_element = outer.flow_element(inputs_[i]);
      const V dy = i < query.cotangents.size() ? query.cotangents[i] : none;
      if (dy) x.cotangent_dtype = ToTf(dy.dtype());
    }
  }

  absl::StatusOr<LoopPlan> Plan() {
    TF_RETURN_IF_ERROR(ReadBody());
    TF_ASSIGN_OR_RETURN(auto condition, ImportFunction(splitter_, Specialize(Function("cond"))));
    if (condition->args.size() != variables_.size())
      return absl::InvalidArgumentError(
          absl::StrCat("its condition '", Function("cond").name(), "' must take ", variables_.size(), " variables"));
    ReadTrips(*condition);
    TF_RETURN_IF_ERROR(Split(*condition));
    for (size_t i = 0; i < variables_.size(); ++i) variables_[i].last = Last(i);
    plan_.count = Count();
    TF_RETURN_IF_ERROR(PlanStacks());
    return std::move(plan_);
  }

 private:
  const tf::NameAttrList& Function(const char* attr) const { return plan_.node->attr().at(attr).func(); }

  // Which variables are invariant, which are counters.
  absl::Status ReadBody() {
    const tf::NameAttrList& f = Function("body");
    TF_ASSIGN_OR_RETURN(plan_.body, ImportFunction(splitter_, f));
    const Body* loop = plan_.body.get();
    if (loop->args.size() != variables_.size() || loop->results.size() != variables_.size())
      return absl::InvalidArgumentError(
          absl::StrCat("its body '", f.name(), "' must take and return ", variables_.size(), " variables"));
    for (size_t i = 0; i < variables_.size(); ++i) {
      variables_[i].invariant = Origin(*loop, loop->results[i]) == Port{loop->args[i], 0};
      variables_[i].shape = VariableShape(i);
    }
    TF_RETURN_IF_ERROR(ReadSteady(f));
    for (size_t i = 0; i < variables_.size(); ++i) {
      const bool steps = IsIntegral(variables_[i].dtype) && CounterStep(*plan_.body, static_cast<int>(i)).has_value();
      variables_[i].counter = steps && outer_.rank(inputs_[i]) == 0;
    }
    return absl::OkStatus();
  }

  // Which variables a gradient is wanted of: before the loop, or in one of its iterations.
  std::vector<bool> Wants() const {
    std::vector<bool> wants = query_.wants;
    for (bool grown = true; grown;) {
      grown = false;
      const std::vector<bool> depends = Depend(*plan_.body, wants);
      for (size_t i = 0; i < variables_.size(); ++i) {
        const bool changing_handle = variables_[i].dtype == tf::DT_RESOURCE && !variables_[i].invariant;
        if (!depends[i] || wants[i] || changing_handle) continue;
        wants[i] = grown = true;
      }
    }
    return wants;
  }

  // Which variables carry cotangents through the loop; and splits the body for them.
  absl::Status Split(const Body& condition) {
    const std::vector<bool> wants = Wants(), written = WrittenArguments(*splitter_, condition);
    const bool idle = !plan_.compiled && !plan_.trips.exact;  // of what XLA compiles, nothing fails
    LoopArguments arguments;
    for (size_t i = 0; i < variables_.size(); ++i) {
      LoopVariable& x = variables_[i];
      arguments.push_back({x.invariant, x.counter, written[i], splitter_->repeats(), idle});
      x.carried = wants[i] && !x.invariant && x.seeded();
    }
    const tf::NameAttrList body = Specialize(Function("body"));
    const auto split_body = [&]() -> absl::Status {
      std::vector<bool> carried;
      for (const LoopVariable& x : variables_) carried.push_back(x.carried);
      TF_ASSIGN_OR_RETURN(const SplitVjp* split, splitter_->Split(body, wants, carried, &arguments));
      plan_.split = *split;
      return absl::OkStatus();
    };
    // What may carry mostly does, and then one split tells. Of lists, many do not, and where XLA compiles one half of a
    // call alone, a list that carries nothing would have to go from half to half.
    const std::vector<LoopVariable> seeded = variables_;
    bool spread = Spread(wants);
    for (size_t i = 0; spread && i < variables_.size(); ++i)
      spread = variables_[i].carried == seeded[i].carried || variables_[i].dtype != tf::DT_VARIANT;
    if (!spread) variables_ = seeded;
    const absl::Status tried = split_body();
    if (!spread || absl::IsResourceExhausted(tried)) TF_RETURN_IF_ERROR(tried);
    bool found = tried.ok();
    for (size_t i = 0; found && i < variables_.size(); ++i)
      found = variables_[i].invariant || seeded[i].carried ||
              variables_[i].carried == plan_.split.gradients[i].in_pullback();
    if (!found) variables_ = seeded;
    // Else it is found by splitting. A chain of variables, each of which takes its value from the next, would take as
    // many splits: after a few, what may carry does.
    constexpr int kMaxSplits = 4;
    for (int splits = 1; !found; ++splits) {
      found = true;
      if (splits == kMaxSplits) Spread(wants);
      TF_RETURN_IF_ERROR(split_body());
      for (size_t i = 0; i < variables_.size(); ++i) {
        LoopVariable& x = variables_[i];
        if (!plan_.split.gradients[i].in_pullback() || x.invariant || x.carried) continue;
        x.carried = true;
        found = false;
      }
    }
    for (size_t i = 0; i < variables_.size(); ++i) {
      LoopVariable& x = variables_[i];
      x.summed = x.invariant && wants[i] && (plan_.split.gradients[i].exists() || x.seeded());
    }
    return absl::OkStatus();
  }

  // Makes those variables carried that a carried one may take its value from; whether there are any.
  bool Spread(const std::vector<bool>& wants) {
    const Body& body = *plan_.body;
    std::vector<bool> seen(body.num_nodes(), false);
    std::vector<int> pending;
    const auto meet = [&](Port p) {
      if (seen[p.node] || !IsDifferentiable(body.output(p).dtype)) return;
      seen[p.node] = true;
      pending.push_back(p.node);
    };
    absl::flat_hash_map<int, size_t> variable;  // by argument
    for (size_t i = 0; i < variables_.size(); ++i) {
      variable[body.args[i]] = i;
      if (variables_[i].carried) meet(body.results[i]);
    }
    bool any = false;
    while (!pending.empty()) {
      const int id = pending.back();
      pending.pop_back();
      const Node& n = body.node(id);
      if (n.is_arg()) {
        const size_t i = variable.at(id);
        if (variables_[i].carried || variables_[i].invariant || !wants[i]) continue;
        variables_[i].carried = any = true;
        meet(body.results[i]);
      } else if (!HasNoGradient(n)) {
        for (const Port& p : n.inputs) meet(p);
      }
    }
    return any;
  }

  int Count() const {
    for (size_t i = 0; i < variables_.size(); ++i) {
      const IntsPtr before = outer_.output(inputs_[i]).ints;
      if (!variables_[i].counter || variables_[i].dtype != tf::DT_INT32 || before == nullptr || !before->known())
        continue;
      if (before->elements[0].value == 0 && CounterStep(*plan_.body, static_cast<int>(i)) == 1)
        return static_cast<int>(i);
    }
    return -1;
  }

  // What becomes of a list, where that can be told.
  std::optional<LastList> Last(size_t i) const {
    const IntsPtr before = outer_.output(inputs_[i]).ints;
    if (!plan_.compiled || variables_[i].dtype != tf::DT_VARIANT || before == nullptr || !before->known())
      return std::nullopt;
    const auto step = StepOfList(splitter_, *plan_.body, static_cast<int>(i));
    if (!step) return std::nullopt;
    LastList last{step->element, {}, before->elements[0].value, step->by < 0};
    if (step->by != 0 && (!plan_.trips.exact || last.length + step->by * plan_.trips.most != 0)) return std::nullopt;
    std::vector<int64_t> dims;
    for (size_t d = 1; d < before->elements.size(); ++d) dims.push_back(before->elements[d].value);
    last.shape = tf::PartialTensorShape(dims);
    return last;
  }

  absl::Status PlanStacks() {
    const SplitVjp& split = plan_.split;
    std::vector<bool> stacked(variables_.size(), false);
    // Of what XLA compiles, a list has the length that it is to have only where each iteration pushes, and stays a list
    // only where it need not leave the function.
    plan_.has_lists = !plan_.compiled || (in_place_ && plan_.trips.exact);
    const auto stack = [&](TensorSpec tensor, size_t k) {
      plan_.stacks.push_back(std::move(tensor));
      plan_.lists.push_back(plan_.has_lists ? split.lists[k] : -1);
    };
    for (size_t k = 0; k < split.args.size(); ++k) {
      const int a = split.args[k];
      if (!variables_[a].stacked()) continue;
      stacked[a] = true;
      stack({variables_[a].dtype, variables_[a].shape}, k);
    }
    for (size_t r = 0; r < split.residuals.size(); ++r) {
      const auto next = static_cast<size_t>(split.residuals[r]);
      plan_.next.push_back(next < stacked.size() && stacked[next] ? static_cast<int>(next) : -1);
      if (plan_.next.back() < 0) stack(split.residual(r), split.args.size() + r);
    }
    for (const TensorSpec& stack : plan_.stacks)
      if (plan_.compiled && stack.dtype == tf::DT_VARIANT)
        return absl::UnimplementedError(
            "XLA can't compile its gradient, as that keeps a list of each iteration, and a list of lists has no size: "
            "make the inner list a tensor (TensorArray.stack) before the iteration ends");
    return absl::OkStatus();
  }

  // Reads the body with what is known of its variables: of a list, which may change, the length and the shape, if the
  // body keeps them.
  absl::Status ReadSteady(const tf::NameAttrList& f) {
    for (const LoopVariable& x : variables_) steady_.push_back(x.invariant || x.dtype == tf::DT_VARIANT);
    for (bool changed = true; changed;) {
      changed = false;
      TF_ASSIGN_OR_RETURN(plan_.body, ImportFunction(splitter_, Specialize(f)));
      for (size_t i = 0; i < variables_.size(); ++i) {
        const IntsPtr before = outer_.output(inputs_[i]).ints, after = plan_.body->output(plan_.body->results[i]).ints;
        if (!steady_[i] || variables_[i].invariant || before == nullptr || !before->known()) continue;
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
    plan_.trips = CountTrips(splitter_, condition, *plan_.body, initial);
    for (size_t i = 0; i < variables_.size(); ++i) {
      Range& range = ranges_.emplace_back();
      if (variables_[i].invariant) range = initial[i];
      if (!variables_[i].counter || plan_.trips.most < 1) continue;
      const int64_t way = CounterStep(*plan_.body, static_cast<int>(i)).value_or(0) * (plan_.trips.most - 1);
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
    if (variables_[i].invariant || plan_.compiled) return StaticShape(outer_.output(inputs_[i]).shape);
    const auto shapes = plan_.node->attr().find("output_shapes");
    if (shapes == plan_.node->attr().end() || shapes->second.list().shape_size() != static_cast<int>(variables_.size()))
      return tf::PartialTensorShape();
    const tf::TensorShapeProto& shape = shapes->second.list().shape(static_cast<int>(i));
    return tf::PartialTensorShape::IsValid(shape) ? tf::PartialTensorShape(shape) : tf::PartialTensorShape();
  }

  // A function of the loop's variables with what is known of them in all iterations.
  tf::NameAttrList Specialize(const tf::NameAttrList& f) const {
    tf::NameAttrList specialized = WithInputs(f, outer_, {inputs_.data(), inputs_.size()});
    std::vector<Port> after;  // where a variable diverges in any iteration, it does after the loop
    for (size_t i = 0; i < variables_.size(); ++i) after.push_back({query_.node, static_cast<int>(i)});
    SetDivergent(outer_, after, &specialized);
    auto* shapes = (*specialized.mutable_attr())[kInputShapes].mutable_list();
    auto* values = (*specialized.mutable_attr())[kInputValues].mutable_list();
    values->Clear();
    for (size_t i = 0; i < variables_.size(); ++i) {
      tf::TensorProto* value = values->add_tensor();
      const IntsPtr ints = outer_.output(inputs_[i]).ints;
      if (!variables_[i].invariant) variables_[i].shape.AsProto(shapes->mutable_shape(static_cast<int>(i)));
      if (!steady_[i]) continue;
      if (ints != nullptr && ints->known() && !FillInts(*ints, ValueType(variables_[i].dtype), value)) value->Clear();
    }
    for (const Range& range : ranges_)
      for (const int64_t end : {range.low, range.high})
        (*specialized.mutable_attr())[kInputRanges].mutable_list()->add_i(end);
    return specialized;
  }

  Splitter* const splitter_;
  const Body& outer_;
  const VjpQuery& query_;
  const bool in_place_;
  const absl::InlinedVector<Port, 3>& inputs_;
  LoopPlan plan_;
  std::vector<LoopVariable>& variables_ = plan_.variables;
  std::vector<bool> steady_;   // by variable: what is known of its integers before the loop is so in all iterations
  std::vector<Range> ranges_;  // of the variables in the body, once they are known
};

}  // namespace

absl::StatusOr<LoopPlan> LoopPlan::Make(Splitter* splitter, const Body& body, const VjpQuery& query, bool in_place) {
  return Planner(splitter, body, query, in_place).Plan();
}

std::vector<int> LoopPlan::Stacks() const {
  std::vector<int> which;
  int next_variable = static_cast<int>(variables.size()) + (count < 0 ? 1 : 0);
  for (const int list : lists) which.push_back(list < 0 ? next_variable++ : list);
  return which;
}

std::vector<int> LoopPlan::Ahead() const {
  std::vector<int> ahead;
  for (const int i : next)
    if (i >= 0 && std::find(ahead.begin(), ahead.end(), i) == ahead.end()) ahead.push_back(i);
  return ahead;
}

}  // namespace symgrad
