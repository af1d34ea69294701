// While: the forward loop counts its iterations and stacks what the pullback of its body needs; the backward loop
// pops it.
//
// Per iteration, with x the loop variables: x' = body(x), and backwards dx = pullback(x, residuals, dx').
// Loop-invariant variables are not stacked: the pullback takes them as they are, and their cotangents add up over the
// iterations. Nor is what is computed of them alone, nor a counter, nor a variable's next value: the backward loop has
// popped it already, as the value that the iteration after this one began with.
#include <algorithm>
#include <limits>
#include <utility>

#include "csrc/engine/differentiate/differentiator.h"
#include "csrc/engine/structure/loop_plan.h"
#include "csrc/engine/structure/trip_count.h"
#include "csrc/engine/tensorflow1/flows.h"
#include "csrc/engine/write/author.h"
#include "csrc/rules/traits/arrays.h"

namespace symgrad {
namespace {

// A shape as list ops take it: a vector, or -1 where not even the rank is known.
V ElementShape(const Stack& stack) {
  if (stack.shape.unknown_rank()) return -1;
  std::vector<int64_t> dims;
  for (const int64_t d : stack.shape.dim_sizes()) dims.push_back(d);
  return ints(dims);
}
Attr ElementType(const Stack& stack) { return Attr("element_dtype", static_cast<DType>(stack.dtype)); }

tf::DataTypeVector Dtypes(const Values& values) {
  tf::DataTypeVector dtypes;
  for (const V& v : values) dtypes.push_back(ToTf(v.dtype()));
  return dtypes;
}

Values Outputs(const V& node, size_t count) {
  Values outputs;
  for (size_t i = 0; i < count; ++i) outputs.push_back(node.out(static_cast<int>(i)));
  return outputs;
}

// The backward loop's variables.
struct Backward {
  V done, total;  // iterations that it has gone back, and has to
  // By loop variable (stacks, computed, operands: in order); `none` where there is none.
  Values carried, summed;   // cotangents that go from iteration to iteration, that add up
  Values stacks;            // what is left of them
  Values direct, computed;  // variables that the pullback takes as they are, of a counter the first value; and what is
                            // computed of invariants
  Values ahead;             // next values
  Values operands;          // lists of those of gradients that are computed after the loop

  Values All() const {
    Values all = {done, total};
    for (const Values* part : {&carried, &summed, &stacks, &direct, &computed, &ahead, &operands})
      for (const V& v : *part)
        if (v) all.push_back(v);
    return all;
  }
  // The same structure over other values.
  Backward With(const Values& all) const {
    Backward other = *this;
    size_t next = 0;
    other.done = all[next++];
    other.total = all[next++];
    for (Values* part :
         {&other.carried, &other.summed, &other.stacks, &other.direct, &other.computed, &other.ahead, &other.operands})
      for (V& v : *part)
        if (v) v = all[next++];
    return other;
  }
};

class LoopSplit {
 public:
  LoopSplit(Differentiator* differentiator, const LoopPlan& plan, const std::vector<bool>& wants)
      : differentiator_(differentiator), plan_(plan), split_(plan.split), wants_(wants), n_(plan.n) {}

  absl::StatusOr<SplitVjp> Build() {
    SplitVjp result;
    result.results = plan_.dtypes;
    result.gradients.assign(n_, -1);
    result.indices.assign(n_, -1);
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function forward, Forward(Sees(), &result));
    FunctionAuthor::Function whole = forward;
    if (split_.whole != split_.forward && !Sees()) {
      SplitVjp same;
      TF_ASSIGN_OR_RETURN(whole, Forward(/*whole_body=*/true, &same));
    }
    result.forward = forward.name;
    result.stateful_forward = forward.stateful;
    result.whole = whole.name;
    result.stateful_whole = whole.stateful;
    if (std::find(wants_.begin(), wants_.end(), true) != wants_.end()) TF_RETURN_IF_ERROR(BuildPullback(&result));
    return result;
  }

 private:
  // A list of fixed length, where the length is known, is what XLA can compile. Where it compiles a loop that may end
  // early, elements are set, not pushed: then the list is as long as the tensor that it leaves the loop as.
  bool is_set() const { return plan_.compiled && !plan_.trips.exact && (plan_.trips.most >= 0 || plan_.trips.formula); }
  V EmptyStack(const Stack& stack, const V& length) const {
    return op(is_set() ? "TensorListReserve" : "EmptyTensorList", ElementShape(stack), length, ElementType(stack),
              Attr("shape_type", DType::kInt32));
  }
  V Push(const V& list, const V& iteration, const V& item) const {
    return is_set() ? op("TensorListSetItem", list, iteration, item) : op("TensorListPushBack", list, item);
  }

  // The length of the stacks, of the variables before the loop; -1 if it is not known.
  V Length(const Values& variables) const {
    if (plan_.trips.most >= 0 || !plan_.trips.formula) return constant(plan_.trips.most, DType::kInt32);
    const Trips::Formula& trips = *plan_.trips.formula;
    const V counter = variables[trips.counter], limit = variables[trips.limit];
    V distance = trips.down ? counter - limit : limit - counter;
    if (trips.step > 1) distance = (distance + (trips.equal ? 0 : trips.step - 1)) / trips.step;
    if (trips.equal) distance = distance + 1;
    return cast(minimum(maximum(distance, 0), std::numeric_limits<int32_t>::max()), DType::kInt32);
  }

  // A stack that crosses from one loop to the other as one tensor, and back.
  V ToTensor(const Stack& stack, const V& list) const {
    return op("TensorListStack", list, ElementShape(stack), ElementType(stack),
              Attr("num_elements", static_cast<int>(plan_.trips.most)));
  }
  static V FromTensor(const Stack& stack, const V& tensor) {
    return op("TensorListFromTensor", tensor, ElementShape(stack));
  }
  V Concatenation(const Stack& stack, const V& list) const {
    if (!plan_.compiled || !stack.shape.IsFullyDefined())
      return op("TensorListConcatV2", list, ElementShape(stack), constant(ints({}), DType::kInt64), ElementType(stack));
    std::vector<int64_t> dims = {-1};
    for (int d = 1; d < stack.shape.dims(); ++d) dims.push_back(stack.shape.dim_size(d));
    return reshape(ToTensor(stack, list), ints(dims));
  }
  tf::PartialTensorShape TensorShape(const Stack& stack) const {
    return tf::PartialTensorShape({plan_.trips.most}).Concatenate(stack.shape);
  }

  // The zeros that the cotangent of a variable begins with, where its value is not needed to make them; else `none`.
  V Zeros(size_t i) const {
    if (plan_.is_flow(i)) return EmptyList(static_cast<DType>(plan_.flows[i]));
    if (plan_.dtypes[i] != tf::DT_VARIANT && plan_.dtypes[i] != tf::DT_RESOURCE && plan_.shapes[i].IsFullyDefined())
      return zeros(ElementShape({plan_.dtypes[i], plan_.shapes[i]}), static_cast<DType>(plan_.dtypes[i]));
    const auto& list = plan_.last_lists[i];
    if (!list) return none;
    const Stack elements{list->element, list->shape};
    return op(list->popped ? "EmptyTensorList" : "TensorListReserve", ElementShape(elements),
              constant(list->length, DType::kInt32), ElementType(elements), Attr("shape_type", DType::kInt32));
  }
  V Sum(size_t i, FunctionAuthor* author, const Values& parts) const {
    return plan_.is_flow(i) ? SumOfLists(parts) : (*author)->Sum(parts);
  }

  bool IsStateful(const std::string& function) const {
    const auto record = differentiator_->Find(function);
    return record != nullptr && record->fdef().signature().is_stateful();
  }

  // That a loop runs no longer than its bound is true anyway; where it says so, the next derivative can read it.
  V Bounded(const V& condition, const V& iterations) const {
    return plan_.trips.most < 0 ? condition : logical_and(condition, iterations < plan_.trips.most);
  }

  // A While node over variables, whose shapes are those of all iterations.
  V EmitLoop(FunctionAuthor* author, const FunctionAuthor::Function& cond, const FunctionAuthor::Function& body,
             const Values& variables) const {
    tf::NodeDef node;
    node.set_op(cond.stateful || body.stateful ? "While" : "StatelessWhile");
    auto& attrs = *node.mutable_attr();
    CopyRuntimeAttrs(*plan_.node, &node);
    attrs["cond"].mutable_func()->set_name(cond.name);
    attrs["body"].mutable_func()->set_name(body.name);
    attrs["parallel_iterations"] = plan_.node->attr().at("parallel_iterations");
    SetTypes(variables, &attrs["T"]);
    for (const V& v : variables) author->StaticShapeOf(v).AsProto(attrs["output_shapes"].mutable_list()->add_shape());
    return (*author)->EmitNode(std::move(node), variables, Dtypes(variables));
  }

  // Whether an iteration sees the state that those before it change: then all that they do is to happen.
  bool Sees() const {
    const std::string& cond = plan_.node->attr().at("cond").func().name();
    const bool sees = (differentiator_->EffectsOf(cond) | differentiator_->EffectsOf(split_.forward)) & kStateful;
    return sees && differentiator_->EffectsOf(split_.whole) & kWrites;
  }

  // -- Forward: the loop's variables, a count of the iterations, the stacks.

  absl::StatusOr<FunctionAuthor::Function> Forward(bool whole_body, SplitVjp* result) {
    FunctionAuthor author(differentiator_);
    Values variables;
    for (size_t i = 0; i < n_; ++i) variables.push_back(author.Arg(plan_.dtypes[i], plan_.shapes[i]));
    variables.push_back(constant(0, DType::kInt32));
    const V length = Length(variables);
    for (const Stack& stack : plan_.stacks) variables.push_back(EmptyStack(stack, length));
    const tf::DataTypeVector types = Dtypes(variables);
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function cond, ForwardCond(types));
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function body, ForwardBody(whole_body, types));
    const V loop = EmitLoop(&author, cond, body, variables);
    Values results = Outputs(loop, types.size());
    for (size_t k = 0; plan_.compiled && k < plan_.stacks.size(); ++k) {
      V& stack = results[n_ + 1 + k];
      stack = ToTensor(plan_.stacks[k], stack);
    }
    if (plan_.trips.exact) results.erase(results.begin() + static_cast<int>(n_));  // the count
    if (!split_.invariants.empty()) {
      Values invariants;
      for (size_t i = 0; i < n_; ++i)
        if (plan_.invariant[i]) invariants.push_back(variables[i]);
      const Values computed =
          Outputs(author->Call(split_.invariants, split_.stateful_invariants, invariants, split_.invariant_dtypes),
                  split_.invariant_dtypes.size());
      results.insert(results.end(), computed.begin(), computed.end());
    }
    for (const int i : plan_.Ahead()) results.push_back(loop.out(i));
    // A carried variable that nobody has a cotangent for starts from zeros like its last value.
    for (size_t i = 0; i < n_; ++i)
      if (plan_.carried[i] && !plan_.seeded(i) && !Zeros(i)) results.push_back(loop.out(static_cast<int>(i)));
    for (size_t k = n_; k < results.size(); ++k) {
      result->residuals.push_back(ToTf(results[k].dtype()));
      result->residual_shapes.push_back(author.StaticShapeOf(results[k]));
    }
    return author.Finish("while", results);
  }

  absl::StatusOr<FunctionAuthor::Function> ForwardCond(const tf::DataTypeVector& types) {
    FunctionAuthor author(differentiator_);
    const Values all = author.Args(types), variables(all.begin(), all.begin() + static_cast<int>(n_));
    const std::string& f = plan_.node->attr().at("cond").func().name();
    return author.Finish("cond", {Bounded(author->Call(f, IsStateful(f), variables, {tf::DT_BOOL}), all[n_])});
  }

  absl::StatusOr<FunctionAuthor::Function> ForwardBody(bool whole, const tf::DataTypeVector& types) {
    FunctionAuthor author(differentiator_);
    const Values all = author.Args(types), variables(all.begin(), all.begin() + static_cast<int>(n_));
    tf::DataTypeVector outputs = split_.results;
    outputs.insert(outputs.end(), split_.residuals.begin(), split_.residuals.end());
    const V call = whole ? author->Call(split_.whole, split_.stateful_whole, variables, outputs)
                         : author->Call(split_.forward, split_.stateful_forward, variables, outputs);
    Values results, kept;
    for (size_t i = 0; i < n_; ++i)
      results.push_back(plan_.invariant[i] ? variables[i]
                        : plan_.counter[i] ? variables[i] + *CounterStep(*plan_.body, static_cast<int>(i))
                                           : call.out(static_cast<int>(i)));
    results.push_back(all[n_] + 1);
    for (const int a : split_.args)
      if (plan_.stacked(a)) kept.push_back(variables[a]);
    for (size_t r = 0; r < split_.residuals.size(); ++r)
      if (plan_.next[r] < 0) kept.push_back(call.out(static_cast<int>(n_ + r)));
    for (size_t k = 0; k < kept.size(); ++k) results.push_back(Push(all[n_ + 1 + k], all[n_], kept[k]));
    return author.Finish("body", results);
  }

  // -- Pullback.

  absl::Status BuildPullback(SplitVjp* result) {
    FunctionAuthor author(differentiator_);
    const Backward start = Start(&author, result);
    const Values variables = start.All();
    const tf::DataTypeVector types = Dtypes(variables);
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function cond, BackwardCond(start, types));
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function body, BackwardBody(start, types));
    const Backward end = start.With(Outputs(EmitLoop(&author, cond, body, variables), variables.size()));

    Values rows, results;
    for (size_t k = 0; k < plan_.operands.size(); ++k)
      rows.push_back(Concatenation(plan_.operands[k], end.operands[k]));
    const V finished =
        rows.empty() ? none : author->Call(split_.finish, /*stateful=*/false, rows, split_.finished_dtypes);
    for (size_t i = 0; i < n_; ++i) {
      V dx = plan_.carried[i] ? end.carried[i] : end.summed[i];
      if (split_.finished[i] >= 0) dx = author->Sum({dx, finished.out(split_.finished[i])});
      if (!dx || !wants_[i]) continue;
      result->gradients[i] = static_cast<int>(results.size());
      result->gradient_dtypes.push_back(ToTf(dx.dtype()));
      results.push_back(dx);
    }
    TF_ASSIGN_OR_RETURN(const auto pullback, author.Finish("while_pullback", results));
    result->pullback = pullback.name;
    result->stateful_pullback = pullback.stateful;
    return absl::OkStatus();
  }

  // What the backward loop begins with. The arguments are those variables of the loop that are used as they are, the
  // residuals in the order in which Forward returns them, and the cotangents.
  Backward Start(FunctionAuthor* author, SplitVjp* result) const {
    Backward start;
    for (Values* part : {&start.carried, &start.summed, &start.direct, &start.ahead}) part->resize(n_);
    const auto is_direct = [&](size_t i) {
      return !plan_.stacked(i) && std::find(split_.args.begin(), split_.args.end(), i) != split_.args.end();
    };
    const auto from_zeros = [&](size_t i) { return plan_.summed[i] && !plan_.seeded(i) && split_.finished[i] < 0; };
    for (size_t i = 0; i < n_; ++i) {
      if (!is_direct(i) && !from_zeros(i)) continue;
      result->args.push_back(static_cast<int>(i));
      const V arg = author->Arg(plan_.dtypes[i], plan_.shapes[i]);
      if (is_direct(i)) start.direct[i] = arg;
      if (from_zeros(i)) start.summed[i] = ZerosOf(arg, split_.gradient_dtypes[split_.gradients[i]], plan_.flows[i]);
    }
    start.done = constant(0, DType::kInt32);
    start.total = plan_.trips.exact ? constant(plan_.trips.most, DType::kInt32)
                                    : author->Arg(tf::DT_INT32, tf::PartialTensorShape({}));
    for (const Stack& stack : plan_.stacks) {
      if (plan_.compiled) start.stacks.push_back(FromTensor(stack, author->Arg(stack.dtype, TensorShape(stack))));
      else start.stacks.push_back(author->Arg(tf::DT_VARIANT, tf::PartialTensorShape({})));
    }
    for (size_t k = 0; k < split_.invariant_dtypes.size(); ++k)
      start.computed.push_back(author->Arg(split_.invariant_dtypes[k], split_.invariant_shapes[k]));
    for (const int i : plan_.Ahead()) start.ahead[i] = author->Arg(plan_.dtypes[i], plan_.shapes[i]);
    for (size_t i = 0; i < n_; ++i)
      if (plan_.carried[i] && !plan_.seeded(i)) {
        start.carried[i] = Zeros(i);
        if (!start.carried[i]) start.carried[i] = op("ZerosLike", author->Arg(plan_.dtypes[i], plan_.shapes[i]));
      }
    for (size_t i = 0; i < n_; ++i) {
      if (!plan_.seeded(i)) continue;
      const bool scalar = plan_.is_flow(i);  // a list
      const V dy = author->Arg(plan_.cotangent_dtypes[i], scalar ? tf::PartialTensorShape({}) : plan_.shapes[i]);
      if (plan_.carried[i]) start.carried[i] = dy;
      else if (plan_.summed[i]) start.summed[i] = dy;
    }
    V length = constant(plan_.trips.most, DType::kInt32);
    if (plan_.trips.most < 0 && plan_.trips.formula && !start.stacks.empty())
      length = op("TensorListLength", start.stacks[0]);
    for (const Stack& operand : plan_.operands) start.operands.push_back(EmptyStack(operand, length));
    return start;
  }

  absl::StatusOr<FunctionAuthor::Function> BackwardCond(const Backward& structure, const tf::DataTypeVector& types) {
    FunctionAuthor author(differentiator_);
    const Backward now = structure.With(author.Args(types));
    return author.Finish("cond_pullback", {Bounded(now.done < now.total, now.done)});
  }

  absl::StatusOr<FunctionAuthor::Function> BackwardBody(const Backward& structure, const tf::DataTypeVector& types) {
    FunctionAuthor author(differentiator_);
    const Backward now = structure.With(author.Args(types));
    Backward next = now;
    next.done = now.done + 1;
    size_t top = 0;
    const auto pop = [&] {
      const Stack& stack = plan_.stacks[top];
      if (is_set())
        return op("TensorListGetItem", now.stacks[top++], now.total - next.done, ElementShape(stack),
                  ElementType(stack));
      const V popped = op("TensorListPopBack", now.stacks[top], ElementShape(stack), ElementType(stack));
      next.stacks[top++] = popped;
      return popped.out(1);
    };
    const auto count = [&](int i) {
      const V iteration = cast(now.total - next.done, static_cast<DType>(plan_.dtypes[i]));
      return now.direct[i] + iteration * *CounterStep(*plan_.body, i);
    };
    Values inputs;
    for (const int a : split_.args) {
      inputs.push_back(plan_.counter[a] ? count(a) : plan_.invariant[a] ? now.direct[a] : pop());
      if (now.ahead[a]) next.ahead[a] = inputs.back();
    }
    for (const int i : plan_.next) inputs.push_back(i >= 0 ? now.ahead[i] : pop());
    inputs.insert(inputs.end(), now.computed.begin(), now.computed.end());
    for (size_t i = 0; i < n_; ++i)
      if (plan_.carried[i]) inputs.push_back(now.carried[i]);
    tf::DataTypeVector outputs = split_.gradient_dtypes;
    outputs.insert(outputs.end(), split_.operands.begin(), split_.operands.end());
    const V pullback =
        outputs.empty() ? none : author->Call(split_.pullback, split_.stateful_pullback, inputs, outputs);
    const auto output = [&](size_t k) { return pullback.out(static_cast<int>(k)); };
    for (size_t k = 0; k < plan_.operands.size(); ++k)
      next.operands[k] = Push(now.operands[k], now.done, output(split_.gradient_dtypes.size() + k));
    for (size_t i = 0; i < n_; ++i) {
      const V dx = split_.gradients[i] >= 0 ? output(split_.gradients[i]) : none;
      if (plan_.carried[i]) next.carried[i] = dx ? dx : op("ZerosLike", now.carried[i]);
      if (now.summed[i].is_tensor() && dx.is_tensor()) next.summed[i] = Sum(i, &author, {now.summed[i], dx});
    }
    return author.Finish("body_pullback", next.All());
  }

  Differentiator* const differentiator_;
  const LoopPlan& plan_;
  const SplitVjp& split_;  // of the body
  const std::vector<bool>& wants_;
  const size_t n_;
};

}  // namespace

absl::StatusOr<SplitVjp> SplitLoop(Differentiator* differentiator, const Body& body, const Frame& frame) {
  TF_ASSIGN_OR_RETURN(const LoopPlan plan, LoopPlan::Make(differentiator, body, frame));
  return LoopSplit(differentiator, plan, frame.wants).Build();
}

}  // namespace symgrad
