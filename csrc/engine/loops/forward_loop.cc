#include "csrc/engine/loops/forward_loop.h"

#include <algorithm>

#include "csrc/engine/library/effects.h"
#include "csrc/engine/loops/loop_writer.h"
#include "csrc/engine/loops/stack.h"

namespace symgrad {
namespace {

// The loop's variables, a count of the iterations, the stacks; but for what is a variable anyway.
class ForwardLoop : LoopWriter {
 public:
  ForwardLoop(Splitter* splitter, const LoopPlan& plan, InPlace* in_place)
      : LoopWriter(splitter, plan, in_place != nullptr), def_(in_place) {}

  absl::Status Write(SplitVjp* result) {
    if (def_ != nullptr) {
      TF_RETURN_IF_ERROR(ForwardInPlace());
    } else {
      // Where iterations see what those before them have changed, the least that a body does is all.
      const bool sees = Sees();
      TF_ASSIGN_OR_RETURN(result->forward, Forward(sees ? split_.whole : split_.forward));
      result->whole = result->forward;
      if (split_.whole.name != split_.forward.name && !sees) {
        TF_ASSIGN_OR_RETURN(result->whole, Forward(split_.whole));
      }
    }
    result->residuals = residuals_;
    return absl::OkStatus();
  }

 private:
  // The loop's condition.
  Callable Condition() const {
    const std::string& f = plan_.node->attr().at("cond").func().name();
    const tf::FunctionDef* fdef = splitter_->Find(f);
    return {f, fdef != nullptr && fdef->signature().is_stateful(), WithoutShapes({tf::DT_BOOL})};
  }

  // Whether an iteration sees the state that those before it change: then all that they do is to happen.
  bool Sees() const {
    const std::string& cond = plan_.node->attr().at("cond").func().name();
    const bool sees = (splitter_->EffectsOf(cond) | splitter_->EffectsOf(split_.forward.name)) & kStateful;
    return sees && splitter_->EffectsOf(split_.whole.name) & kWrites;
  }

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
    if (!plan_.trips.exact) {
      if (plan_.count >= 0) residuals_.push_back(plan_.count);
      else cross(loop.out(plan_.Count()));
    }
    const std::vector<int> stacks = plan_.Stacks();
    for (size_t k = 0; k < stacks.size(); ++k) {
      const V stack = loop.out(stacks[k]);
      if (plan_.lists[k] >= 0) residuals_.push_back(stacks[k]);
      else cross(leaves_as_tensor() ? ToTensor(plan_.stacks[k], stack) : stack);
    }
    if (const Callable& f = split_.reads; !f.name.empty()) {
      Values invariants;
      for (size_t i = 0; i < n_; ++i)
        if (loop_[i].invariant) invariants.push_back(variables[i]);
      for (const V& read : OutputsOf(author->Call(f, invariants), f.results.size())) cross(read);
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
    def_->def = *plan_.node;
    const bool has_stacks = std::count(plan_.lists.begin(), plan_.lists.end(), -1) == 0;
    if (has_stacks && (plan_.trips.exact || plan_.count >= 0)) return absl::OkStatus();

    FunctionAuthor author(splitter_);
    Values variables(n_);
    if (plan_.trips.most < 0 && plan_.trips.formula)
      for (const int i : {plan_.trips.formula->counter, plan_.trips.formula->limit}) {
        if (variables[i]) continue;
        variables[i] = author.Arg(loop_[i].dtype, loop_[i].shape);
        def_->start_args.push_back(i);
      }
    TF_ASSIGN_OR_RETURN(def_->start, author.Finish("loop_start", FirstValues(StackLength(plan_.trips, variables))));
    def_->outputs = def_->start.results;

    tf::DataTypeVector types;
    for (const LoopVariable& x : loop_) types.push_back(x.dtype);
    for (const TensorSpec& more : def_->outputs) types.push_back(more.dtype);
    TF_ASSIGN_OR_RETURN(const Callable cond, ForwardCond(types));
    TF_ASSIGN_OR_RETURN(const Callable body, ForwardBody(split_.whole, types));
    auto& attrs = *def_->def.mutable_attr();
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

  InPlace* const def_;
  std::vector<int> residuals_;  // of the split
};

}  // namespace

absl::Status WriteForwardLoop(Splitter* splitter, const LoopPlan& plan, InPlace* in_place, SplitVjp* split) {
  return ForwardLoop(splitter, plan, in_place).Write(split);
}

}  // namespace symgrad
