#include "csrc/engine/loops/loop.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "csrc/engine/emit/literal.h"
#include "csrc/engine/library/effects.h"
#include "csrc/engine/loops/loop_plan.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/write/author.h"
#include "csrc/rules/traits/arrays.h"

namespace symgrad {
namespace {

// A shape as list ops take it: a vector, or -1 where not even the rank is known.
V ElementShape(const TensorSpec& stack) {
  if (stack.shape.unknown_rank()) return -1;
  std::vector<int64_t> dims;
  for (const int64_t d : stack.shape.dim_sizes()) dims.push_back(d);
  return ints(dims);
}
Attr ElementType(const TensorSpec& stack) { return Attr("element_dtype", static_cast<DType>(stack.dtype)); }

tf::DataTypeVector DtypesOf(const Values& values) {
  tf::DataTypeVector dtypes;
  for (const V& v : values) dtypes.push_back(ToTf(v.dtype()));
  return dtypes;
}

// The backward loop's variables.
struct Backward {
  V done, total;  // iterations that it has gone back, and has to; the latter `none` where that is the same each time
  // By loop variable (stacks, computed, operands: in order); `none` where there is none.
  Values carried, summed;   // cotangents that go from iteration to iteration, that add up
  Values stacks;            // what is left of them
  Values direct, computed;  // variables that the pullback takes as they are, of a counter the first value; and what is
                            // computed of invariants
  Values ahead;             // next values
  Values operands;          // lists of those of gradients that are computed after the loop

  Values All() const {
    Values all = {done};
    if (total) all.push_back(total);
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
    if (total) other.total = all[next++];
    for (Values* part :
         {&other.carried, &other.summed, &other.stacks, &other.direct, &other.computed, &other.ahead, &other.operands})
      for (V& v : *part)
        if (v) v = all[next++];
    return other;
  }
};

// Writes, by a plan, the forward loop with its stacks and the backward loop that pops them: a function for each, which
// holds the While node and what comes before and behind it.
class LoopSplit {
 public:
  LoopSplit(Splitter* splitter, const LoopPlan& plan, const std::vector<bool>& wants)
      : splitter_(splitter), plan_(plan), split_(plan.split), loop_(plan.variables), wants_(wants), n_(loop_.size()) {}

  absl::StatusOr<SplitVjp> Build() {
    SplitVjp result;
    result.num_results = n_;
    result.gradients.resize(n_);
    // Where iterations see what those before them have changed, the least that a body does is all.
    const bool sees = Sees();
    TF_ASSIGN_OR_RETURN(result.forward, Forward(sees ? split_.whole : split_.forward));
    result.whole = result.forward;
    if (split_.whole.name != split_.forward.name && !sees) {
      TF_ASSIGN_OR_RETURN(result.whole, Forward(split_.whole));
    }
    if (std::find(wants_.begin(), wants_.end(), true) != wants_.end()) TF_RETURN_IF_ERROR(Pullback(&result));
    return result;
  }

 private:
  // A list of fixed length, where the length is known, is what XLA can compile. Where it compiles a loop that may end
  // early, elements are set, not pushed: then the list is as long as the tensor that it leaves the loop as.
  bool is_set() const { return plan_.compiled && !plan_.trips.exact && (plan_.trips.most >= 0 || plan_.trips.formula); }
  V EmptyStack(const TensorSpec& stack, const V& length) const {
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
    const V &counter = variables[trips.counter], &limit = variables[trips.limit];
    V distance = trips.down ? counter - limit : limit - counter;
    if (trips.step > 1) distance = (distance + (trips.equal ? 0 : trips.step - 1)) / trips.step;
    if (trips.equal) distance = distance + 1;
    return cast(minimum(maximum(distance, 0), std::numeric_limits<int32_t>::max()), DType::kInt32);
  }

  // A stack that crosses from one loop to the other as one tensor, and back.
  V ToTensor(const TensorSpec& stack, const V& list) const {
    return op("TensorListStack", list, ElementShape(stack), ElementType(stack),
              Attr("num_elements", static_cast<int>(plan_.trips.most)));
  }
  static V FromTensor(const TensorSpec& stack, const V& tensor) {
    return op("TensorListFromTensor", tensor, ElementShape(stack));
  }
  V Concatenation(const TensorSpec& stack, const V& list) const {
    if (!plan_.compiled || !stack.shape.IsFullyDefined())
      return op("TensorListConcatV2", list, ElementShape(stack), constant(ints({}), DType::kInt64), ElementType(stack));
    std::vector<int64_t> dims = {-1};
    for (int d = 1; d < stack.shape.dims(); ++d) dims.push_back(stack.shape.dim_size(d));
    return reshape(ToTensor(stack, list), ints(dims));
  }
  tf::PartialTensorShape TensorShape(const TensorSpec& stack) const {
    return tf::PartialTensorShape({plan_.trips.most}).Concatenate(stack.shape);
  }

  // The zeros that the cotangent of a variable begins with, where its value is not needed to make them; else `none`.
  V Zeros(size_t i) const {
    if (loop_[i].is_flow()) return EmptyList(static_cast<DType>(loop_[i].flow_element));
    if (loop_[i].dtype != tf::DT_VARIANT && loop_[i].dtype != tf::DT_RESOURCE && loop_[i].shape.IsFullyDefined())
      return zeros(ElementShape({loop_[i].dtype, loop_[i].shape}), static_cast<DType>(loop_[i].dtype));
    const auto& list = loop_[i].last;
    if (!list) return none;
    const TensorSpec elements{list->element, list->shape};
    return op(list->popped ? "EmptyTensorList" : "TensorListReserve", ElementShape(elements),
              constant(list->length, DType::kInt32), ElementType(elements), Attr("shape_type", DType::kInt32));
  }
  V Sum(size_t i, FunctionAuthor* author, const Values& parts) const {
    return loop_[i].is_flow() ? SumOfLists(parts) : (*author)->Sum(parts);
  }

  // The loop's condition.
  Callable Condition() const {
    const std::string& f = plan_.node->attr().at("cond").func().name();
    const tf::FunctionDef* fdef = splitter_->Find(f);
    return {f, fdef != nullptr && fdef->signature().is_stateful(), WithoutShapes({tf::DT_BOOL})};
  }

  // How many iterations the backward loop has to go back.
  V Total(const Backward& now) const {
    return plan_.trips.exact ? constant(plan_.trips.most, DType::kInt32) : now.total;
  }

  // A While node over variables, whose shapes are those of all iterations.
  V EmitLoop(FunctionAuthor* author, const Callable& cond, const Callable& body, const Values& variables) const {
    tf::NodeDef& node = *(*author)->body()->NewDef();
    node.set_op(cond.stateful || body.stateful ? "While" : "StatelessWhile");
    auto& attrs = *node.mutable_attr();
    CopyRuntimeAttrs(*plan_.node, &node);
    attrs["cond"].mutable_func()->set_name(cond.name);
    attrs["body"].mutable_func()->set_name(body.name);
    attrs["parallel_iterations"] = plan_.node->attr().at("parallel_iterations");
    SetTypes(variables, &attrs["T"]);
    for (const V& v : variables) author->StaticShapeOf(v).AsProto(attrs["output_shapes"].mutable_list()->add_shape());
    return (*author)->EmitNode(&node, variables, DtypesOf(variables));
  }

  // Of variable i, of which the body's pullback has one.
  tf::DataType DtypeOfGradient(size_t i) const { return split_.pullback.results[split_.gradients[i].values].dtype; }

  // Whether an iteration sees the state that those before it change: then all that they do is to happen.
  bool Sees() const {
    const std::string& cond = plan_.node->attr().at("cond").func().name();
    const bool sees = (splitter_->EffectsOf(cond) | splitter_->EffectsOf(split_.forward.name)) & kStateful;
    return sees && splitter_->EffectsOf(split_.whole.name) & kWrites;
  }

  // -- Forward: the loop's variables, a count of the iterations, the stacks.

  absl::StatusOr<Callable> Forward(const Callable& half) {
    FunctionAuthor author(splitter_);
    Values variables;
    for (const LoopVariable& x : loop_) variables.push_back(author.Arg(x.dtype, x.shape));
    variables.push_back(constant(0, DType::kInt32));
    const V length = Length(variables);
    for (const TensorSpec& stack : plan_.stacks) variables.push_back(EmptyStack(stack, length));
    const tf::DataTypeVector types = DtypesOf(variables);
    TF_ASSIGN_OR_RETURN(const Callable cond, ForwardCond(types));
    TF_ASSIGN_OR_RETURN(const Callable body, ForwardBody(half, types));
    const V loop = EmitLoop(&author, cond, body, variables);
    Values results = OutputsOf(loop, types.size());
    for (size_t k = 0; plan_.compiled && k < plan_.stacks.size(); ++k) {
      V& stack = results[n_ + 1 + k];
      stack = ToTensor(plan_.stacks[k], stack);
    }
    if (plan_.trips.exact) results.erase(results.begin() + static_cast<int>(n_));  // the count
    if (const Callable& f = split_.invariants; !f.name.empty()) {
      Values invariants;
      for (size_t i = 0; i < n_; ++i)
        if (loop_[i].invariant) invariants.push_back(variables[i]);
      const Values computed = OutputsOf(author->Call(f, invariants), f.results.size());
      results.insert(results.end(), computed.begin(), computed.end());
    }
    for (const int i : plan_.Ahead()) results.push_back(loop.out(i));
    // A carried variable that nobody has a cotangent for starts from zeros like its last value.
    for (size_t i = 0; i < n_; ++i)
      if (loop_[i].carried && !loop_[i].seeded() && !Zeros(i)) results.push_back(loop.out(static_cast<int>(i)));
    return author.Finish("while", results);
  }

  // That a loop runs no longer than its bound is true anyway; where it says so, the next derivative can read it. It
  // says nothing else where it has no choice: on a GPU each part of a condition goes from memory to memory.
  absl::StatusOr<Callable> ForwardCond(const tf::DataTypeVector& types) {
    FunctionAuthor author(splitter_);
    const Values all = author.Args(types), variables(all.begin(), all.begin() + static_cast<int>(n_));
    const Callable condition = Condition();
    const V within = plan_.trips.most < 0 ? none : all[n_] < plan_.trips.most;
    if (plan_.trips.exact && !condition.stateful) return author.Finish("cond", {within});
    const V goes_on = author->Call(condition, variables);
    return author.Finish("cond", {within ? logical_and(goes_on, within) : goes_on});
  }

  absl::StatusOr<Callable> ForwardBody(const Callable& half, const tf::DataTypeVector& types) {
    FunctionAuthor author(splitter_);
    const Values all = author.Args(types), variables(all.begin(), all.begin() + static_cast<int>(n_));
    const V call = author->Call(half, variables);
    Values results, kept;
    for (size_t i = 0; i < n_; ++i)
      results.push_back(loop_[i].invariant ? variables[i]
                        : loop_[i].counter ? variables[i] + CounterStep(*plan_.body, static_cast<int>(i)).value_or(0)
                                           : call.out(static_cast<int>(i)));
    results.push_back(all[n_] + 1);
    for (const int a : split_.args)
      if (loop_[a].stacked()) kept.push_back(variables[a]);
    for (size_t r = 0; r < plan_.next.size(); ++r)
      if (plan_.next[r] < 0) kept.push_back(call.out(static_cast<int>(n_ + r)));
    for (size_t k = 0; k < kept.size(); ++k) results.push_back(Push(all[n_ + 1 + k], all[n_], kept[k]));
    return author.Finish("body", results);
  }

  // -- Pullback.

  absl::Status Pullback(SplitVjp* result) {
    FunctionAuthor author(splitter_);
    const Backward start = Start(&author, &result->args);
    const Values variables = start.All();
    const tf::DataTypeVector types = DtypesOf(variables);
    TF_ASSIGN_OR_RETURN(const Callable cond, BackwardCond(start, types));
    TF_ASSIGN_OR_RETURN(const Callable body, BackwardBody(start, types));
    const Backward end = start.With(OutputsOf(EmitLoop(&author, cond, body, variables), variables.size()));

    Values rows, results;
    const absl::Span<const TensorSpec> operands = split_.operands();
    for (size_t k = 0; k < operands.size(); ++k) rows.push_back(Concatenation(operands[k], end.operands[k]));
    const V finished = rows.empty() ? none : author->Call(split_.finish, rows);
    for (size_t i = 0; i < n_; ++i) {
      V dx = loop_[i].carried ? end.carried[i] : end.summed[i];
      const GradientPlace& place = split_.gradients[i];
      const bool rows_only = place.finished() && place.is_rows() && !dx;
      if (rows_only) dx = finished.out(place.values);
      else if (place.finished()) dx = author->Dense(author->Sum({dx, split_.Gradient(i, finished, dx)}));
      if (!dx || !wants_[i]) continue;
      result->gradients[i].half = GradientPlace::kPullback;
      result->gradients[i].values = static_cast<int>(results.size());
      results.push_back(dx);
      if (!rows_only) continue;
      result->gradients[i].indices = static_cast<int>(results.size());
      results.push_back(finished.out(place.indices));
    }
    TF_ASSIGN_OR_RETURN(result->pullback, author.Finish("while_pullback", results));
    return absl::OkStatus();
  }

  // What the backward loop begins with. The arguments are those variables of the loop that are used as they are, the
  // residuals in the order in which Forward returns them, and the cotangents.
  Backward Start(FunctionAuthor* author, std::vector<int>* args) const {
    Backward start;
    for (Values* part : {&start.carried, &start.summed, &start.direct, &start.ahead}) part->resize(n_);
    const auto is_direct = [&](size_t i) {
      return !loop_[i].stacked() && std::find(split_.args.begin(), split_.args.end(), i) != split_.args.end();
    };
    const auto from_zeros = [&](size_t i) {
      return loop_[i].summed && !loop_[i].seeded() && !split_.gradients[i].finished();
    };
    for (size_t i = 0; i < n_; ++i) {
      if (!is_direct(i) && !from_zeros(i)) continue;
      args->push_back(static_cast<int>(i));
      const V arg = author->Arg(loop_[i].dtype, loop_[i].shape);
      if (is_direct(i)) start.direct[i] = arg;
      if (from_zeros(i)) start.summed[i] = ZerosOf(arg, DtypeOfGradient(i), loop_[i].flow_element);
    }
    start.done = constant(0, DType::kInt32);
    if (!plan_.trips.exact) {
      start.total = author->Arg(tf::DT_INT32, tf::PartialTensorShape({}));
      if (plan_.trips.most >= 0) start.total = minimum(start.total, plan_.trips.most);  // the next derivative reads it
    }
    for (const TensorSpec& stack : plan_.stacks) {
      if (plan_.compiled) start.stacks.push_back(FromTensor(stack, author->Arg(stack.dtype, TensorShape(stack))));
      else start.stacks.push_back(author->Arg(tf::DT_VARIANT, tf::PartialTensorShape({})));
    }
    for (const TensorSpec& invariant : split_.invariants.results)
      start.computed.push_back(author->Arg(invariant.dtype, invariant.shape));
    for (const int i : plan_.Ahead()) start.ahead[i] = author->Arg(loop_[i].dtype, loop_[i].shape);
    for (size_t i = 0; i < n_; ++i)
      if (loop_[i].carried && !loop_[i].seeded()) {
        start.carried[i] = Zeros(i);
        if (!start.carried[i]) start.carried[i] = op("ZerosLike", author->Arg(loop_[i].dtype, loop_[i].shape));
      }
    for (size_t i = 0; i < n_; ++i) {
      if (!loop_[i].seeded()) continue;
      const bool scalar = loop_[i].is_flow();  // a list
      const V dy = author->Arg(loop_[i].cotangent_dtype, scalar ? tf::PartialTensorShape({}) : loop_[i].shape);
      if (loop_[i].carried) start.carried[i] = dy;
      else if (loop_[i].summed) start.summed[i] = dy;
    }
    V length = constant(plan_.trips.most, DType::kInt32);
    if (plan_.trips.most < 0 && plan_.trips.formula && !start.stacks.empty())
      length = op("TensorListLength", start.stacks[0]);
    for (const TensorSpec& operand : split_.operands()) start.operands.push_back(EmptyStack(operand, length));
    return start;
  }

  absl::StatusOr<Callable> BackwardCond(const Backward& structure, const tf::DataTypeVector& types) {
    FunctionAuthor author(splitter_);
    const Backward now = structure.With(author.Args(types));
    return author.Finish("cond_pullback", {now.done < Total(now)});
  }

  absl::StatusOr<Callable> BackwardBody(const Backward& structure, const tf::DataTypeVector& types) {
    FunctionAuthor author(splitter_);
    const Backward now = structure.With(author.Args(types));
    Backward next = now;
    next.done = now.done + 1;
    size_t top = 0;
    const auto pop = [&] {
      const TensorSpec& stack = plan_.stacks[top];
      if (is_set())
        return op("TensorListGetItem", now.stacks[top++], Total(now) - next.done, ElementShape(stack),
                  ElementType(stack));
      const V popped = op("TensorListPopBack", now.stacks[top], ElementShape(stack), ElementType(stack));
      next.stacks[top++] = popped;
      return popped.out(1);
    };
    const auto count = [&](int i) {
      const V iteration = cast(Total(now) - next.done, static_cast<DType>(loop_[i].dtype));
      return now.direct[i] + iteration * CounterStep(*plan_.body, i).value_or(0);
    };
    Values inputs;
    for (const int a : split_.args) {
      inputs.push_back(loop_[a].counter ? count(a) : loop_[a].invariant ? now.direct[a] : pop());
      if (now.ahead[a]) next.ahead[a] = inputs.back();
    }
    for (const int i : plan_.next) inputs.push_back(i >= 0 ? now.ahead[i] : pop());
    inputs.insert(inputs.end(), now.computed.begin(), now.computed.end());
    for (size_t i = 0; i < n_; ++i)
      if (loop_[i].carried) inputs.push_back(now.carried[i]);
    const V pullback = split_.has_pullback() ? author->Call(split_.pullback, inputs) : none;
    const auto output = [&](size_t k) { return pullback.out(static_cast<int>(k)); };
    const size_t num_gradients = split_.pullback.results.size() - split_.num_operands;
    for (size_t k = 0; k < split_.num_operands; ++k)
      next.operands[k] = Push(now.operands[k], now.done, output(num_gradients + k));
    for (size_t i = 0; i < n_; ++i) {
      const GradientPlace& place = split_.gradients[i];
      const V dx = place.in_pullback() ? output(place.values) : none;
      if (loop_[i].carried) next.carried[i] = dx ? dx : op("ZerosLike", now.carried[i]);
      if (now.summed[i].is_tensor() && dx.is_tensor()) next.summed[i] = Sum(i, &author, {now.summed[i], dx});
    }
    return author.Finish("body_pullback", next.All());
  }

  Splitter* const splitter_;
  const LoopPlan& plan_;
  const SplitVjp& split_;  // of the body
  const std::vector<LoopVariable>& loop_;
  const std::vector<bool>& wants_;
  const size_t n_;
};

}  // namespace

absl::StatusOr<SplitVjp> SplitLoop(Splitter* splitter, const Body& body, const VjpQuery& query) {
  TF_ASSIGN_OR_RETURN(const LoopPlan plan, LoopPlan::Make(splitter, body, query));
  return LoopSplit(splitter, plan, query.wants).Build();
}

}  // namespace symgrad
