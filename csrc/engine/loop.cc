// While: the forward loop counts its iterations and stacks what the pullback of its body needs; the backward loop
// pops it.
//
// Per iteration, with x the loop variables: x' = body(x), and backwards dx = pullback(x, residuals, dx').
// Loop-invariant variables are not stacked: the pullback takes them as they are, and their cotangents add up over the
// iterations. Nor is what is computed of them alone, nor a counter, nor a variable's next value: the backward loop has
// popped it already, as the value that the iteration after this one began with.
#include <algorithm>

#include "csrc/engine/author.h"
#include "csrc/engine/differentiator.h"
#include "csrc/engine/flows.h"
#include "csrc/engine/import.h"
#include "csrc/engine/literal.h"
#include "csrc/engine/registry.h"
#include "csrc/engine/sweep.h"
#include "csrc/engine/trip_count.h"

namespace symgrad {
namespace {

// Which results of a body depend on the marked arguments through tensors that carry gradients.
std::vector<bool> Depend(const Body& body, const std::vector<bool>& marked) {
  std::vector<bool> depends(body.num_nodes(), false);
  for (size_t i = 0; i < marked.size(); ++i) depends[body.args[i]] = marked[i];
  const auto carries = [&](Port p) { return depends[p.node] && IsDifferentiable(body.output(p).dtype); };
  for (int id = 0; id < body.num_nodes(); ++id) {
    const Node& n = body.node(id);
    if (n.is_arg()) continue;
    const Rule* rule = FindRule(n.type());
    if (rule != nullptr && rule->gradient == nullptr) continue;
    depends[id] = std::any_of(n.inputs.begin(), n.inputs.end(), carries);
  }
  std::vector<bool> results;
  for (const Port& p : body.results) results.push_back(carries(p));
  return results;
}

// A tensor of each iteration, kept on a TensorList.
struct Stack {
  tf::DataType dtype;
  tf::PartialTensorShape shape;

  // As list ops take it: a vector, or -1 where not even the rank is known.
  V ElementShape() const {
    if (shape.unknown_rank()) return -1;
    std::vector<int64_t> dims;
    for (const int64_t d : shape.dim_sizes()) dims.push_back(d);
    return ints(dims);
  }
};

class LoopSplit {
 public:
  LoopSplit(Differentiator* differentiator, const Body& body, const Frame& frame)
      : differentiator_(differentiator),
        body_(body),
        frame_(frame),
        node_(*body.node(frame.node).def),
        n_(body.node(frame.node).inputs.size()) {
    const auto& inputs = body.node(frame.node).inputs;
    for (const Port& p : inputs) {
      dtypes_.push_back(tf::BaseType(body.output(p).dtype));
      flows_.push_back(body.flow(p));
    }
    for (const V& dy : frame.cotangents) cotangent_dtypes_.push_back(dy ? ToTf(dy.dtype()) : tf::DT_INVALID);
  }

  absl::StatusOr<SplitVjp> Build() {
    TF_RETURN_IF_ERROR(SplitBody());
    SplitVjp result;
    result.results = dtypes_;
    result.gradients.assign(n_, -1);
    TF_RETURN_IF_ERROR(BuildForward(&result));
    TF_RETURN_IF_ERROR(BuildPullback(&result));
    return result;
  }

 private:
  // Decides which variables carry cotangents through the loop, and splits the body for them.
  absl::Status SplitBody() {
    const tf::NameAttrList& f = node_.attr().at("body").func();
    TF_ASSIGN_OR_RETURN(loop_, ImportFunction(differentiator_, f));
    if (loop_->args.size() != n_ || loop_->results.size() != n_)
      return absl::InvalidArgumentError(
          absl::StrCat("its body '", f.name(), "' must take and return ", n_, " variables"));
    for (size_t i = 0; i < n_; ++i) invariant_.push_back(Origin(*loop_, loop_->results[i]) == Port{loop_->args[i], 0});
    const tf::NameAttrList specialized = Specialize(f);
    TF_ASSIGN_OR_RETURN(loop_, ImportFunction(differentiator_, specialized));
    for (size_t i = 0; i < n_; ++i) {
      const bool is_counter = IsIntegral(dtypes_[i]) && CounterStep(*loop_, static_cast<int>(i)).has_value();
      counter_.push_back(is_counter && body_.rank(body_.node(frame_.node).inputs[i]) == 0);
    }

    std::vector<bool> wants = frame_.wants;
    for (bool grown = true; grown;) {
      grown = false;
      const std::vector<bool> depends = Depend(*loop_, wants);
      for (size_t i = 0; i < n_; ++i) {
        if (!depends[i] || wants[i] || (dtypes_[i] == tf::DT_RESOURCE && !invariant_[i])) continue;
        wants[i] = grown = true;
      }
    }

    const LoopArguments arguments{invariant_, counter_};
    carried_.assign(n_, false);
    for (size_t i = 0; i < n_; ++i) carried_[i] = wants[i] && !invariant_[i] && seeded(i);
    for (bool grown = true; grown;) {
      grown = false;
      TF_ASSIGN_OR_RETURN(const SplitVjp* split, differentiator_->Split(specialized, wants, carried_, &arguments));
      split_ = *split;
      for (size_t i = 0; i < n_; ++i) {
        if (split_.gradients[i] < 0 || invariant_[i] || carried_[i]) continue;
        carried_[i] = grown = true;
      }
    }
    for (size_t i = 0; i < n_; ++i)
      summed_.push_back(invariant_[i] && wants[i] &&
                        (split_.gradients[i] >= 0 || split_.finished[i] >= 0 || seeded(i)));

    std::vector<bool> stacked(n_, false);
    for (const int a : split_.args) {
      if (!is_stacked(a)) continue;
      stacked[a] = true;
      stacks_.push_back({dtypes_[a], VariableShape(a)});
    }
    for (size_t r = 0; r < split_.residuals.size(); ++r) {
      const int next = split_.residual_results[r];
      next_.push_back(next >= 0 && stacked[next] ? next : -1);
      if (next_.back() < 0) stacks_.push_back({split_.residuals[r], split_.residual_shapes[r]});
    }
    for (size_t k = 0; k < split_.operands.size(); ++k)
      operands_.push_back({split_.operands[k], split_.operand_shapes[k]});
    return FindMaxIterations();
  }

  absl::Status FindMaxIterations() {
    constexpr int64_t kMaxReserved = 1 << 20;
    TF_ASSIGN_OR_RETURN(const auto condition,
                        ImportFunction(differentiator_, Specialize(node_.attr().at("cond").func())));
    std::vector<IntsPtr> initial;
    for (const Port& p : body_.node(frame_.node).inputs) initial.push_back(body_.output(p).ints);
    const int64_t bound = TripBound(*condition, *loop_, initial);
    max_iterations_ = bound > kMaxReserved ? -1 : bound;
    return absl::OkStatus();
  }

  // A list of fixed length, where the length is known, is what XLA can compile.
  V EmptyStack(const Stack& stack) const {
    return op("EmptyTensorList", stack.ElementShape(), max_iterations_,
              Attr("element_dtype", static_cast<DType>(stack.dtype)), Attr("shape_type", DType::kInt32));
  }

  // Whether a cotangent of variable i comes into the backward loop from behind.
  bool seeded(size_t i) const { return static_cast<bool>(frame_.cotangents[i]); }

  // Whether an argument that the pullback takes has to be kept for each iteration.
  bool is_stacked(int i) const { return !invariant_[i] && !counter_[i]; }

  // What is known of a loop variable in all iterations.
  tf::PartialTensorShape VariableShape(size_t i) const {
    const Port input = body_.node(frame_.node).inputs[i];
    if (invariant_[i]) return StaticShape(body_.output(input).shape);
    const auto shapes = node_.attr().find("output_shapes");
    if (shapes == node_.attr().end() || shapes->second.list().shape_size() != static_cast<int>(n_))
      return tf::PartialTensorShape();
    const tf::TensorShapeProto& shape = shapes->second.list().shape(static_cast<int>(i));
    return tf::PartialTensorShape::IsValid(shape) ? tf::PartialTensorShape(shape) : tf::PartialTensorShape();
  }

  tf::NameAttrList Specialize(const tf::NameAttrList& f) const {
    const auto& inputs = body_.node(frame_.node).inputs;
    tf::NameAttrList specialized = WithInputs(f, body_, {inputs.data(), inputs.size()});
    auto* shapes = (*specialized.mutable_attr())[kInputShapes].mutable_list();
    auto* values = (*specialized.mutable_attr())[kInputValues].mutable_list();
    for (size_t i = 0; i < n_; ++i) {
      tf::TensorProto* value = values->add_tensor();
      const IntsPtr ints = body_.output(inputs[i]).ints;
      if (!invariant_[i]) VariableShape(i).AsProto(shapes->mutable_shape(static_cast<int>(i)));
      else if (ints != nullptr && ints->known() && !FillInts(*ints, dtypes_[i], value)) value->Clear();
    }
    return specialized;
  }

  bool is_flow(size_t i) const { return flows_[i] != tf::DT_INVALID; }
  V ZerosLike(size_t i, const V& x) const { return is_flow(i) ? EmptyList(flows_[i]) : op("ZerosLike", x); }
  V Sum(size_t i, FunctionAuthor* author, const Values& parts) const {
    return is_flow(i) ? SumOfLists(parts) : (*author)->Sum(parts);
  }

  bool IsStateful(const std::string& function) const {
    const auto record = differentiator_->Find(function);
    return record != nullptr && record->fdef().signature().is_stateful();
  }

  // A While node over `variables`, of which the first n are the loop's own in the forward loop.
  V EmitLoop(FunctionAuthor* author, const FunctionAuthor::Function& cond, const FunctionAuthor::Function& body,
             const Values& variables, bool forward) const {
    tf::NodeDef node;
    node.set_op(cond.stateful || body.stateful ? "While" : "StatelessWhile");
    auto& attrs = *node.mutable_attr();
    CopyRuntimeAttrs(node_, &node);
    attrs["cond"].mutable_func()->set_name(cond.name);
    attrs["body"].mutable_func()->set_name(body.name);
    attrs["parallel_iterations"] = node_.attr().at("parallel_iterations");
    SetTypes(variables, &attrs["T"]);
    auto* shapes = attrs["output_shapes"].mutable_list();
    for (size_t i = 0; i < variables.size(); ++i)
      (forward && i < n_ ? VariableShape(i) : tf::PartialTensorShape()).AsProto(shapes->add_shape());
    tf::DataTypeVector dtypes;
    for (const V& v : variables) dtypes.push_back(ToTf(v.dtype()));
    return (*author)->EmitNode(std::move(node), variables, dtypes);
  }

  tf::DataTypeVector ForwardTypes() const {
    tf::DataTypeVector types = dtypes_;
    types.push_back(tf::DT_INT32);
    types.insert(types.end(), stacks_.size(), tf::DT_VARIANT);
    return types;
  }

  absl::Status BuildForward(SplitVjp* result) {
    const tf::DataTypeVector types = ForwardTypes();
    FunctionAuthor::Function cond, body;
    {
      FunctionAuthor author(differentiator_);
      const Values all = author.Args(types), variables(all.begin(), all.begin() + n_);
      const tf::NameAttrList& f = node_.attr().at("cond").func();
      TF_ASSIGN_OR_RETURN(
          cond, author.Finish("cond", {author->Call(f.name(), IsStateful(f.name()), variables, {tf::DT_BOOL})}));
    }
    {
      FunctionAuthor author(differentiator_);
      const Values all = author.Args(types), variables(all.begin(), all.begin() + n_);
      tf::DataTypeVector outputs = split_.results;
      outputs.insert(outputs.end(), split_.residuals.begin(), split_.residuals.end());
      const V call = author->Call(split_.forward, split_.stateful_forward, variables, outputs);
      Values results;
      for (size_t i = 0; i < n_; ++i) results.push_back(invariant_[i] ? variables[i] : call.out(static_cast<int>(i)));
      results.push_back(all[n_] + 1);
      Values kept;
      for (const int a : split_.args)
        if (is_stacked(a)) kept.push_back(variables[a]);
      for (size_t r = 0; r < split_.residuals.size(); ++r)
        if (next_[r] < 0) kept.push_back(call.out(static_cast<int>(n_ + r)));
      for (size_t k = 0; k < stacks_.size(); ++k) results.push_back(op("TensorListPushBack", all[n_ + 1 + k], kept[k]));
      TF_ASSIGN_OR_RETURN(body, author.Finish("body", results));
    }
    FunctionAuthor author(differentiator_);
    Values variables = author.Args(dtypes_);
    variables.push_back(constant(0, DType::kInt32));
    for (const Stack& stack : stacks_) variables.push_back(EmptyStack(stack));
    const V loop = EmitLoop(&author, cond, body, variables, true);
    Values results;
    for (size_t i = 0; i < types.size(); ++i) results.push_back(loop.out(static_cast<int>(i)));
    result->residuals.assign(types.begin() + n_, types.end());
    const auto add = [&](const V& residual, tf::DataType dtype) {
      results.push_back(residual);
      result->residuals.push_back(dtype);
    };
    if (!split_.invariants.empty()) {
      Values invariants;
      for (size_t i = 0; i < n_; ++i)
        if (invariant_[i]) invariants.push_back(variables[i]);
      const V call = author->Call(split_.invariants, split_.stateful_invariants, invariants, split_.invariant_dtypes);
      for (size_t k = 0; k < split_.invariant_dtypes.size(); ++k)
        add(call.out(static_cast<int>(k)), split_.invariant_dtypes[k]);
    }
    for (const int i : Ahead()) add(loop.out(i), dtypes_[i]);
    // A carried variable that nobody has a cotangent for starts from zeros like its last value.
    for (size_t i = 0; i < n_; ++i) {
      if (carried_[i] && !seeded(i)) add(loop.out(static_cast<int>(i)), dtypes_[i]);
    }
    result->residual_shapes.resize(result->residuals.size());
    TF_ASSIGN_OR_RETURN(const auto forward, author.Finish("while", results));
    result->forward = forward.name;
    result->stateful_forward = forward.stateful;
    return absl::OkStatus();
  }

  // The variables whose next value the pullback takes, and has from the iteration that was before it.
  std::vector<int> Ahead() const {
    std::vector<int> ahead;
    for (const int i : next_)
      if (i >= 0 && std::find(ahead.begin(), ahead.end(), i) == ahead.end()) ahead.push_back(i);
    return ahead;
  }

  // The backward loop's variables: how many iterations are left, cotangents that are carried, cotangents that are
  // summed, the stacks, the invariants that the pullback takes (variables and what is computed of them; of a counter
  // its initial value), next values, and the operands of gradients that are computed after the loop.
  struct Backward {
    // By loop variable (stacks, computed, operands: in order); `none` where there is none.
    Values carried, summed, stacks, direct, computed, ahead, operands;
    V left;

    Values All() const {
      Values all = {left};
      for (const Values* part : {&carried, &summed, &stacks, &direct, &computed, &ahead, &operands})
        for (const V& v : *part)
          if (v) all.push_back(v);
      return all;
    }
    // The same structure over other values.
    Backward With(const Values& all) const {
      Backward other = *this;
      size_t next = 0;
      other.left = all[next++];
      for (Values* part : {&other.carried, &other.summed, &other.stacks, &other.direct, &other.computed, &other.ahead,
                           &other.operands})
        for (V& v : *part)
          if (v) v = all[next++];
      return other;
    }
  };

  absl::Status BuildPullback(SplitVjp* result) {
    std::vector<bool> direct(n_, false), as_arg(n_, false);
    for (const int a : split_.args) direct[a] = as_arg[a] = !is_stacked(a);
    for (size_t i = 0; i < n_; ++i)
      if (summed_[i] && !seeded(i) && split_.finished[i] < 0) as_arg[i] = true;

    FunctionAuthor author(differentiator_);
    Backward start;
    start.carried.resize(n_);
    start.summed.resize(n_);
    start.direct.resize(n_);
    Values args(n_);
    for (size_t i = 0; i < n_; ++i) {
      if (!as_arg[i]) continue;
      result->args.push_back(static_cast<int>(i));
      args[i] = author.Arg(dtypes_[i]);
      if (direct[i]) start.direct[i] = args[i];
    }
    start.left = author.Arg(tf::DT_INT32);
    for (size_t k = 0; k < stacks_.size(); ++k) start.stacks.push_back(author.Arg(tf::DT_VARIANT));
    start.computed = author.Args(split_.invariant_dtypes);
    start.ahead.resize(n_);
    for (const int i : Ahead()) start.ahead[i] = author.Arg(dtypes_[i]);
    for (size_t i = 0; i < n_; ++i)
      if (carried_[i] && !seeded(i)) start.carried[i] = ZerosLike(i, author.Arg(dtypes_[i]));
    for (size_t i = 0; i < n_; ++i) {
      if (!seeded(i)) continue;
      const V dy = author.Arg(cotangent_dtypes_[i]);
      if (carried_[i]) start.carried[i] = dy;
      else if (summed_[i]) start.summed[i] = dy;
    }
    for (size_t i = 0; i < n_; ++i)
      if (summed_[i] && !start.summed[i] && split_.finished[i] < 0)
        start.summed[i] = ZerosOf(args[i], split_.gradient_dtypes[split_.gradients[i]], flows_[i]);

    for (const Stack& operand : operands_) start.operands.push_back(EmptyStack(operand));

    const Values variables = start.All();
    tf::DataTypeVector types;
    for (const V& v : variables) types.push_back(ToTf(v.dtype()));
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function cond, BackwardCond(types));
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function body, BackwardBody(start, types));
    const V loop = EmitLoop(&author, cond, body, variables, false);
    Values all;
    for (size_t i = 0; i < variables.size(); ++i) all.push_back(loop.out(static_cast<int>(i)));
    const Backward end = start.With(all);

    Values rows, results;
    for (size_t k = 0; k < operands_.size(); ++k)
      rows.push_back(op("TensorListConcatV2", end.operands[k], operands_[k].ElementShape(),
                        constant(ints({}), DType::kInt64),
                        Attr("element_dtype", static_cast<DType>(operands_[k].dtype))));
    const V finished =
        rows.empty() ? none : author->Call(split_.finish, /*stateful=*/false, rows, split_.finished_dtypes);
    for (size_t i = 0; i < n_; ++i) {
      V dx = carried_[i] ? end.carried[i] : end.summed[i];
      if (split_.finished[i] >= 0) dx = author->Sum({dx, finished.out(split_.finished[i])});
      if (!dx || !frame_.wants[i]) continue;
      result->gradients[i] = static_cast<int>(results.size());
      result->gradient_dtypes.push_back(ToTf(dx.dtype()));
      results.push_back(dx);
    }
    TF_ASSIGN_OR_RETURN(const auto pullback, author.Finish("while_pullback", results));
    result->pullback = pullback.name;
    result->stateful_pullback = pullback.stateful;
    return absl::OkStatus();
  }

  absl::StatusOr<FunctionAuthor::Function> BackwardCond(const tf::DataTypeVector& types) {
    FunctionAuthor author(differentiator_);
    return author.Finish("cond_pullback", {author.Args(types)[0] > 0});
  }

  absl::StatusOr<FunctionAuthor::Function> BackwardBody(const Backward& structure, const tf::DataTypeVector& types) {
    FunctionAuthor author(differentiator_);
    const Backward now = structure.With(author.Args(types));
    Backward next = now;
    next.left = now.left - 1;
    size_t top = 0;
    const auto pop = [&] {
      const V popped = op("TensorListPopBack", now.stacks[top], stacks_[top].ElementShape(),
                          Attr("element_dtype", static_cast<DType>(stacks_[top].dtype)));
      next.stacks[top++] = popped;
      return popped.out(1);
    };
    Values inputs;
    for (const int a : split_.args) {
      if (counter_[a])
        inputs.push_back(now.direct[a] + cast(next.left, static_cast<DType>(dtypes_[a])) * *CounterStep(*loop_, a));
      else inputs.push_back(invariant_[a] ? now.direct[a] : pop());
      if (now.ahead[a]) next.ahead[a] = inputs.back();
    }
    for (const int i : next_) inputs.push_back(i >= 0 ? now.ahead[i] : pop());
    inputs.insert(inputs.end(), now.computed.begin(), now.computed.end());
    for (size_t i = 0; i < n_; ++i)
      if (carried_[i]) inputs.push_back(now.carried[i]);
    tf::DataTypeVector outputs = split_.gradient_dtypes;
    outputs.insert(outputs.end(), split_.operands.begin(), split_.operands.end());
    const V pullback =
        outputs.empty() ? none : author->Call(split_.pullback, split_.stateful_pullback, inputs, outputs);
    for (size_t k = 0; k < operands_.size(); ++k)
      next.operands[k] =
          op("TensorListPushBack", now.operands[k], pullback.out(static_cast<int>(split_.gradient_dtypes.size() + k)));
    for (size_t i = 0; i < n_; ++i) {
      const V dx = split_.gradients[i] >= 0 ? pullback.out(split_.gradients[i]) : none;
      if (carried_[i]) next.carried[i] = dx ? dx : op("ZerosLike", now.carried[i]);
      if (now.summed[i].is_tensor() && dx.is_tensor()) next.summed[i] = Sum(i, &author, {now.summed[i], dx});
    }
    return author.Finish("body_pullback", next.All());
  }

  Differentiator* const differentiator_;
  const Body& body_;
  const Frame& frame_;
  const tf::NodeDef& node_;
  const size_t n_;  // loop variables
  tf::DataTypeVector dtypes_, cotangent_dtypes_;
  std::unique_ptr<Body> loop_;   // the body
  tf::DataTypeVector flows_;     // the element dtypes of variables that are flows of arrays, for others DT_INVALID
  std::vector<bool> invariant_;  // the body returns it as it came
  std::vector<bool> counter_;    // the body adds a number to it
  std::vector<bool> carried_;    // its cotangent goes from iteration to iteration
  std::vector<bool> summed_;     // an invariant whose cotangents add up
  std::vector<Stack> stacks_;    // of the body's arguments, then of its residuals
  std::vector<int> next_;        // for each residual: the stacked variable whose next value it is, or -1
  std::vector<Stack> operands_;  // of gradients that are computed after the loop
  int64_t max_iterations_ = -1;  // -1: not known, or so many that a list should grow as it needs
  SplitVjp split_;               // of the body
};

}  // namespace

absl::StatusOr<SplitVjp> SplitLoop(Differentiator* differentiator, const Body& body, const Frame& frame) {
  return LoopSplit(differentiator, body, frame).Build();
}

}  // namespace symgrad
