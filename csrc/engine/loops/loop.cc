#include "csrc/engine/loops/loop.h"

#include <algorithm>
#include <limits>

#include "csrc/engine/library/effects.h"
#include "csrc/engine/loops/backward.h"
#include "csrc/engine/loops/loop_plan.h"
#include "csrc/engine/loops/stack.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/write/author.h"
#include "csrc/rules/traits/arrays.h"

namespace symgrad {
namespace {

// Writes, by a plan, the forward loop with its stacks and the backward loop that pops them: a function for each, which
// holds the While node and what comes before and behind it.
class LoopSplit {
 public:
  LoopSplit(Splitter* splitter, const LoopPlan& plan, const std::vector<bool>& wants, InPlace* in_place)
      : splitter_(splitter),
        plan_(plan),
        split_(plan.split),
        loop_(plan.variables),
        wants_(wants),
        in_place_(in_place),
        n_(loop_.size()) {}

  absl::StatusOr<SplitVjp> Build() {
    SplitVjp result;
    result.num_results = n_;
    result.gradients.resize(n_);
    if (in_place_ != nullptr) {
      TF_RETURN_IF_ERROR(ForwardInPlace());
    } else {
      // Where iterations see what those before them have changed, the least that a body does is all.
      const bool sees = Sees();
      TF_ASSIGN_OR_RETURN(result.forward, Forward(sees ? split_.whole : split_.forward));
      result.whole = result.forward;
      if (split_.whole.name != split_.forward.name && !sees) {
        TF_ASSIGN_OR_RETURN(result.whole, Forward(split_.whole));
      }
    }
    result.residuals = residuals_;
    if (std::find(wants_.begin(), wants_.end(), true) != wants_.end()) TF_RETURN_IF_ERROR(Pullback(&result));
    return result;
  }

 private:
  // A stack of what XLA compiles leaves the loop as one tensor, but for a loop that stays where it stands.
  bool leaves_as_tensor() const { return plan_.compiled && in_place_ == nullptr; }
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

  // A stack that crosses from one loop to the other as one tensor, and back.
  V ToTensor(const TensorSpec& stack, const V& list) const {
    return op("TensorListStack", list, ElementShape(stack), ElementType(stack),
              Attr("num_elements", static_cast<int>(plan_.trips.most)));
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

  // -- Forward: the loop's variables, a count of the iterations, the stacks; but for what is a variable anyway.

  Values FirstValues(const V& length) const {
    Values values;
    if (plan_.count < 0) values.push_back(constant(0, DType::kInt32));
    for (size_t k = 0; k < plan_.stacks.size(); ++k)
      if (plan_.lists[k] < 0) values.push_back(EmptyStack(plan_.stacks[k], length));
    return values;
  }

  absl::StatusOr<Callable> Forward(const Callable& half) {
    FunctionAuthor author(splitter_);
    Values variables;
    for (const LoopVariable& x : loop_) variables.push_back(author.Arg(x.dtype, x.shape));
    for (const V& first : FirstValues(StackLength(plan_.trips, variables))) variables.push_back(first);
    const tf::DataTypeVector types = DtypesOf(variables);
    TF_ASSIGN_OR_RETURN(const Callable cond, ForwardCond(types));
    TF_ASSIGN_OR_RETURN(const Callable body, ForwardBody(half, types));
    const V loop = EmitLoop(&author, cond, body, variables);
    Values results = OutputsOf(loop, n_);
    residuals_.clear();
    const auto cross = [&](const V& value) {
      residuals_.push_back(static_cast<int>(results.size()));
      results.push_back(value);
    };
    if (!plan_.trips.exact) cross(loop.out(plan_.Count()));
    const std::vector<int> stacks = plan_.Stacks();
    for (size_t k = 0; k < stacks.size(); ++k) {
      const V stack = loop.out(stacks[k]);
      if (plan_.lists[k] >= 0) residuals_.push_back(stacks[k]);
      else cross(leaves_as_tensor() ? ToTensor(plan_.stacks[k], stack) : stack);
    }
    if (const Callable& f = split_.invariants; !f.name.empty()) {
      Values invariants;
      for (size_t i = 0; i < n_; ++i)
        if (loop_[i].invariant) invariants.push_back(variables[i]);
      for (const V& computed : OutputsOf(author->Call(f, invariants), f.results.size())) cross(computed);
    }
    for (const int i : Last()) residuals_.push_back(i);
    return author.Finish("while", results);
  }

  // The variables whose last values the pullback takes.
  std::vector<int> Last() const {
    std::vector<int> last = plan_.Ahead();
    // A carried variable that nobody has a cotangent for starts from zeros like its last value.
    for (size_t i = 0; i < n_; ++i)
      if (loop_[i].carried && !loop_[i].seeded() && !Zeros(i)) last.push_back(static_cast<int>(i));
    return last;
  }

  absl::Status ForwardInPlace() {
    if (!plan_.trips.exact) residuals_.push_back(plan_.Count());
    for (const int k : plan_.Stacks()) residuals_.push_back(k);
    for (const int i : Last()) residuals_.push_back(i);
    in_place_->def = *plan_.node;
    const bool has_stacks = std::count(plan_.lists.begin(), plan_.lists.end(), -1) == 0;
    if (has_stacks && (plan_.trips.exact || plan_.count >= 0)) return absl::OkStatus();

    FunctionAuthor author(splitter_);
    Values variables(n_);
    if (plan_.trips.most < 0 && plan_.trips.formula)
      for (const int i : {plan_.trips.formula->counter, plan_.trips.formula->limit}) {
        if (variables[i]) continue;
        variables[i] = author.Arg(loop_[i].dtype, loop_[i].shape);
        in_place_->start_args.push_back(i);
      }
    TF_ASSIGN_OR_RETURN(in_place_->start,
                        author.Finish("loop_start", FirstValues(StackLength(plan_.trips, variables))));
    in_place_->outputs = in_place_->start.results;

    tf::DataTypeVector types;
    for (const LoopVariable& x : loop_) types.push_back(x.dtype);
    for (const TensorSpec& more : in_place_->outputs) types.push_back(more.dtype);
    TF_ASSIGN_OR_RETURN(const Callable cond, ForwardCond(types));
    TF_ASSIGN_OR_RETURN(const Callable body, ForwardBody(split_.whole, types));
    auto& attrs = *in_place_->def.mutable_attr();
    attrs["cond"].mutable_func()->set_name(cond.name);
    attrs["body"].mutable_func()->set_name(body.name);
    SetTypes(types, &attrs["T"]);
    return absl::OkStatus();
  }

  // That a loop runs no longer than its bound is true anyway; where it says so, the next derivative can read it. It
  // says nothing else where it has no choice: on a GPU each part of a condition goes from memory to memory.
  absl::StatusOr<Callable> ForwardCond(const tf::DataTypeVector& types) {
    FunctionAuthor author(splitter_);
    const Values all = author.Args(types), variables(all.begin(), all.begin() + static_cast<int>(n_));
    const Callable condition = Condition();
    const V within = plan_.trips.most < 0 ? none : all[plan_.Count()] < plan_.trips.most;
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
    // A push stays where the next derivative sees it.
    for (size_t k = 0; plan_.has_lists && k < split_.lists.size(); ++k)
      if (const int list = split_.lists[k]; list >= 0)
        results[list] =
            op("TensorListPushBack", variables[list],
               k < split_.args.size() ? variables[split_.args[k]] : call.out(split_.residuals[k - split_.args.size()]));
    if (plan_.count < 0) results.push_back(all[n_] + 1);
    for (const int a : split_.args)
      if (loop_[a].stacked()) kept.push_back(variables[a]);
    for (size_t r = 0; r < plan_.next.size(); ++r)
      if (plan_.next[r] < 0) kept.push_back(call.out(split_.residuals[r]));
    const std::vector<int> stacks = plan_.Stacks();
    for (size_t k = 0; k < kept.size(); ++k)
      if (plan_.lists[k] < 0) results.push_back(Push(all[stacks[k]], all[plan_.Count()], kept[k]));
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
      if (leaves_as_tensor()) start.stacks.push_back(FromTensor(stack, author->Arg(stack.dtype, TensorShape(stack))));
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
  InPlace* const in_place_;
  std::vector<int> residuals_;  // of the split
  const size_t n_;
};

}  // namespace

absl::StatusOr<SplitVjp> SplitLoop(Splitter* splitter, const Body& body, const VjpQuery& query, InPlace* in_place) {
  TF_ASSIGN_OR_RETURN(const LoopPlan plan, LoopPlan::Make(splitter, body, query, in_place != nullptr));
  return LoopSplit(splitter, plan, query.wants, in_place).Build();
}

}  // namespace symgrad
