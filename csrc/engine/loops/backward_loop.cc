#include "csrc/engine/loops/backward_loop.h"

#include <algorithm>

#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/loops/backward.h"
#include "csrc/engine/loops/loop_writer.h"
#include "csrc/engine/loops/stack.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/rules/traits/arrays.h"

namespace symgrad {
namespace {

// Of a block, at least: iterations, and rows of the matrices that are multiplied once for each block. Shorter blocks
// cost more sums, longer ones wait longer for what could be done beside the next: of 4, 8 and 16, 8 was best.
constexpr int64_t kBlockIterations = 8, kBlockRows = 64;

// Where gradients are products over the rows of all iterations, the loop goes back block by block, as a loop of loops:
//
//   for each block: for each of its iterations: pop, dx = pullback(x, residuals, dx'), stack rows
//                   sums += finish(rows of the block)
//
// so that what a block's rows give is computed beside the next block, which doesn't wait for it, and no more rows are
// held than those of a few blocks. All rows are one block where XLA compiles the loop, as it does one thing after the
// other anyway, and where the loop is one of a derivative, whose derivative has many: they would take TensorFlow twice
// as long to prepare, and there is more to do at once anyway.
class BackwardLoop : LoopWriter {
 public:
  BackwardLoop(Splitter* splitter, const LoopPlan& plan, bool in_place, const std::vector<bool>& wants)
      : LoopWriter(splitter, plan, in_place), wants_(wants), block_(BlockLength()) {}

  absl::Status Write(SplitVjp* result) const {
    FunctionAuthor author(splitter_);
    Backward start = Start(&author, &result->args);
    if (block_ == 0) start.operands = EmptyOperands(RowsLength(start));
    const Values variables = start.All();
    TF_ASSIGN_OR_RETURN(const V loop,
                        block_ > 0 ? Blocks(&author, start, variables) : Iterations(&author, start, variables));
    const Backward end = start.With(OutputsOf(loop, variables.size()));
    const V finished = Finish(&author, end);
    Values results;
    for (size_t i = 0; i < n_; ++i) {
      V dx = loop_[i].carried ? end.carried[i] : end.summed[i];
      const GradientPlace& place = split_.gradients[i];
      const bool finishes = place.finished() && block_ == 0;
      const bool rows_only = finishes && place.is_rows() && !dx;
      if (rows_only) dx = finished.out(place.values);
      else if (finishes) dx = author->Dense(author->Sum({dx, split_.Gradient(i, finished, dx)}));
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

 private:
  // How many iterations a block has; 0 where there are no blocks.
  int BlockLength() const {
    const absl::Span<const TensorSpec> operands = split_.operands();
    if (operands.empty() || plan_.compiled || HasGeneratedName(plan_.node->attr().at("body").func().name())) return 0;
    for (const GradientPlace& place : split_.gradients)
      if (place.finished() && place.is_rows()) return 0;  // rows of all iterations are the gradient
    int64_t length = kBlockIterations;
    for (const TensorSpec& operand : operands)
      if (!operand.shape.unknown_rank() && operand.shape.dims() > 0 && operand.shape.dim_size(0) > 0)
        length = std::max(length, (kBlockRows - 1) / operand.shape.dim_size(0) + 1);
    return plan_.trips.most < 0 || plan_.trips.most > 2 * length ? static_cast<int>(length) : 0;
  }

  // How many iterations the backward loop has to go back.
  V Total(const Backward& now) const {
    return plan_.trips.exact ? constant(plan_.trips.most, DType::kInt32) : now.total;
  }

  // The gradient of variable i, of which the body has one.
  const TensorSpec& GradientSpec(size_t i) const {
    const GradientPlace& place = split_.gradients[i];
    return (place.finished() ? split_.finish : split_.pullback).results[place.values];
  }
  // Whether the gradient of variable i is a sum over iterations, or blocks, that begins with zeros.
  bool FromZeros(size_t i) const {
    return loop_[i].summed && !loop_[i].seeded() && (block_ > 0 || !split_.gradients[i].finished());
  }
  // These, where the value of the variable is not needed to make them; else `none`.
  V StaticZeros(size_t i) const {
    const TensorSpec& gradient = GradientSpec(i);
    if (loop_[i].is_flow() || gradient.dtype == tf::DT_VARIANT || !gradient.shape.IsFullyDefined()) return none;
    return zeros(ElementShape(gradient), static_cast<DType>(gradient.dtype));
  }

  // The stacks of rows. They are no longer than all iterations, or a block.
  Values EmptyOperands(const V& length) const {
    Values operands;
    for (const TensorSpec& operand : split_.operands()) operands.push_back(EmptyStack(operand, length));
    return operands;
  }
  V RowsLength(const Backward& start) const {
    if (plan_.trips.most < 0 && plan_.trips.formula && !start.stacks.empty())
      return op("TensorListLength", start.stacks[0]);
    return constant(plan_.trips.most, DType::kInt32);
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
  V Sum(size_t i, FunctionAuthor* author, const Values& parts) const {
    return loop_[i].is_flow() ? SumOfLists(parts) : (*author)->Sum(parts);
  }

  // The gradients that are products over rows, of those that a loop has left.
  V Finish(FunctionAuthor* author, const Backward& end) const {
    Values rows;
    for (size_t k = 0; k < end.operands.size(); ++k)
      rows.push_back(Concatenation(split_.operands()[k], end.operands[k]));
    return rows.empty() ? none : (*author)->Call(split_.finish, rows);
  }

  // What the backward loop begins with. The arguments are those variables of the loop that are used as they are, the
  // residuals in the order in which Forward returns them, and the cotangents.
  Backward Start(FunctionAuthor* author, std::vector<int>* args) const {
    Backward start;
    for (Values* part : {&start.carried, &start.summed, &start.direct, &start.ahead}) part->resize(n_);
    const auto is_direct = [&](size_t i) {
      return !loop_[i].stacked() && std::find(split_.args.begin(), split_.args.end(), i) != split_.args.end();
    };
    const auto& of_invariants = split_.invariant_args;
    Values invariants;
    for (size_t i = 0; i < n_; ++i) {
      if (FromZeros(i)) start.summed[i] = StaticZeros(i);
      const bool like_value = FromZeros(i) && !start.summed[i];
      const bool of_invariant = std::find(of_invariants.begin(), of_invariants.end(), i) != of_invariants.end();
      if (!is_direct(i) && !like_value && !of_invariant) continue;
      args->push_back(static_cast<int>(i));
      const V arg = author->Arg(loop_[i].dtype, loop_[i].shape);
      if (is_direct(i)) start.direct[i] = arg;
      if (like_value) start.summed[i] = ZerosOf(arg, GradientSpec(i).dtype, loop_[i].flow_element);
      if (of_invariant) invariants.push_back(arg);
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
    for (const TensorSpec& read : split_.reads.results) start.computed.push_back(author->Arg(read.dtype, read.shape));
    if (const Callable& f = split_.invariants; !f.name.empty())
      for (const V& computed : author->Call(f, invariants)) start.computed.push_back(computed);
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
    return start;
  }

  // The loop over iterations, up to `end` if there is one, else all.
  absl::StatusOr<V> Iterations(FunctionAuthor* author, const Backward& start, const Values& variables) const {
    const tf::DataTypeVector types = DtypesOf(variables);
    TF_ASSIGN_OR_RETURN(const Callable cond, Cond(start, types));
    TF_ASSIGN_OR_RETURN(const Callable body, Body(start, types));
    return EmitLoop(author, cond, body, variables);
  }

  // The loop over blocks. The next derivative reads one loop in its place: of a loop of loops each order would have one
  // that is twice as deep.
  absl::StatusOr<V> Blocks(FunctionAuthor* author, const Backward& start, const Values& variables) const {
    TF_ASSIGN_OR_RETURN(const Callable cond, Cond(start, DtypesOf(variables)));
    TensorSpecs specs;
    for (const V& v : variables) specs.push_back({ToTf(v.dtype()), author->StaticShapeOf(v)});
    TF_ASSIGN_OR_RETURN(const Callable body, Block(start, specs, block_));
    TF_ASSIGN_OR_RETURN(const Callable all, Block(start, specs, -1));
    return EmitLoop(author, cond, body, variables, all.name);
  }

  // What some iterations, or all that there are (-1), make of the variables.
  absl::StatusOr<Callable> Block(const Backward& structure, const TensorSpecs& specs, int length) const {
    FunctionAuthor author(splitter_);
    Values args;
    for (const TensorSpec& spec : specs) args.push_back(author.Arg(spec.dtype, spec.shape));
    const Backward now = structure.With(args);
    Backward start = now;
    const V end = length < 0 ? none : now.done + length;
    if (end) start.end = minimum(end, Total(now));
    start.operands = EmptyOperands(length < 0 ? RowsLength(now) : length);
    for (size_t i = 0; i < n_; ++i)
      if (split_.gradients[i].finished()) start.summed[i] = none;
    const Values variables = start.All();
    TF_ASSIGN_OR_RETURN(const V loop, Iterations(&author, start, variables));
    const Backward last = start.With(OutputsOf(loop, variables.size()));
    const V finished = Finish(&author, last);

    Backward next = now;  // with what is the same for all blocks as it came
    next.done = end ? end : last.done;
    next.carried = last.carried;
    next.stacks = last.stacks;
    next.ahead = last.ahead;
    for (size_t i = 0; i < n_; ++i) {
      if (!now.summed[i]) continue;
      next.summed[i] = !split_.gradients[i].finished()
                           ? last.summed[i]
                           : author->Dense(author->Sum({now.summed[i], split_.Gradient(i, finished, now.summed[i])}));
    }
    return author.Finish("block_pullback", next.All());
  }

  absl::StatusOr<Callable> Cond(const Backward& structure, const tf::DataTypeVector& types) const {
    FunctionAuthor author(splitter_);
    const Backward now = structure.With(author.Args(types));
    return author.Finish("cond_pullback", {now.done < (now.end ? now.end : Total(now))});
  }

  absl::StatusOr<Callable> Body(const Backward& structure, const tf::DataTypeVector& types) const {
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

  const std::vector<bool>& wants_;
  const int block_;  // iterations of a block; 0 where there are none
};

}  // namespace

absl::Status WriteBackwardLoop(Splitter* splitter, const LoopPlan& plan, bool in_place, const std::vector<bool>& wants,
                               SplitVjp* split) {
  return BackwardLoop(splitter, plan, in_place, wants).Write(split);
}

}  // namespace symgrad
