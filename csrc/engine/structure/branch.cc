// If and Case: each branch becomes a forward and a pullback half, and the node a forward and a pullback node.
#include <algorithm>

#include "csrc/engine/differentiate/differentiator.h"
#include "csrc/engine/write/author.h"

namespace symgrad {
namespace {

void SetBranches(const std::vector<FunctionAuthor::Function>& functions, tf::NodeDef* node) {
  auto& attrs = *node->mutable_attr();
  if (node->op() == "If" || node->op() == "StatelessIf") {
    attrs["then_branch"].mutable_func()->set_name(functions[0].name);
    attrs["else_branch"].mutable_func()->set_name(functions[1].name);
  } else {
    for (const auto& f : functions) attrs["branches"].mutable_list()->add_func()->set_name(f.name);
  }
}

// What crosses from forward to pullback, the same for all branches: a slot serves each branch that has a residual of
// its dtype and static shape. XLA wants all branches to return tensors of the same shapes.
struct Slots {
  tf::DataTypeVector dtypes;
  std::vector<tf::PartialTensorShape> shapes;
  std::vector<std::vector<int>> of;  // branch, residual -> slot

  Slots(const std::vector<SplitVjp>& splits, bool compiled) {
    for (const SplitVjp& split : splits) {
      std::vector<bool> taken(dtypes.size(), false);
      std::vector<int>& mine = of.emplace_back();
      for (size_t r = 0; r < split.residuals.size(); ++r) {
        const tf::DataType t = split.residuals[r];
        const tf::PartialTensorShape shape = compiled ? split.residual_shapes[r] : Known(split.residual_shapes[r]);
        size_t slot = 0;
        while (slot < dtypes.size() && (taken[slot] || dtypes[slot] != t || !shapes[slot].IsIdenticalTo(shape))) ++slot;
        if (compiled && shape.unknown_rank()) slot = dtypes.size();
        if (slot == dtypes.size()) dtypes.push_back(t), shapes.push_back(shape), taken.push_back(false);
        taken[slot] = true;
        mine.push_back(static_cast<int>(slot));
      }
    }
  }

  // XLA, which takes tensors of one shape alone, ends the process where the branches' differ in rank.
  absl::Status CheckFillers() const {
    for (size_t s = 0; s < dtypes.size(); ++s)
      for (const std::vector<int>& mine : of)
        if (!shapes[s].IsFullyDefined() && std::find(mine.begin(), mine.end(), static_cast<int>(s)) == mine.end())
          return absl::UnimplementedError(absl::StrCat("XLA can't compile its gradient, as a branch keeps a ",
                                                       tf::DataTypeString(dtypes[s]), " tensor of shape ",
                                                       shapes[s].DebugString(), ", which must be static"));
    return absl::OkStatus();
  }

  // Either all of a shape is known, or nothing.
  static tf::PartialTensorShape Known(const tf::PartialTensorShape& shape) {
    return shape.IsFullyDefined() ? shape : tf::PartialTensorShape();
  }
};

// What a branch that has nothing to say puts into a slot: where the shape is known, a tensor of it that is allocated
// once and never written; else something small.
V Filler(FunctionAuthor* branch, tf::DataType dtype, const tf::PartialTensorShape& shape) {
  if (dtype == tf::DT_VARIANT) return op("EmptyTensorList", ints({}), 0, Attr("element_dtype", DType::kFloat));
  if (!shape.IsFullyDefined()) return constant(0, static_cast<DType>(dtype));
  tf::NodeDef node;
  node.set_op("FakeParam");
  (*node.mutable_attr())["dtype"].set_type(dtype);
  shape.AsProto((*node.mutable_attr())["shape"].mutable_shape());
  return (*branch)->EmitNode(std::move(node), {}, {dtype});
}

class BranchSplit {
 public:
  BranchSplit(Differentiator* differentiator, const Body& body, const Frame& frame)
      : differentiator_(differentiator), body_(body), frame_(frame), node_(*body.node(frame.node).def) {
    const Node& n = body.node(frame.node);
    inputs_.assign(n.inputs.begin() + 1, n.inputs.end());
    selector_ = tf::BaseType(body.output(n.inputs[0]).dtype);
    for (const Port& p : inputs_) {
      input_dtypes_.push_back(tf::BaseType(body.output(p).dtype));
      flows_.push_back(body.flow(p));
    }
    for (int i = 0; i < n.num_outputs; ++i) result_dtypes_.push_back(tf::BaseType(body.output({frame.node, i}).dtype));
    for (const V& dy : frame.cotangents)
      if (dy) cotangent_dtypes_.push_back(ToTf(dy.dtype()));
  }

  absl::StatusOr<SplitVjp> Build() {
    const std::vector<bool> wants(frame_.wants.begin() + 1, frame_.wants.end());
    std::vector<bool> seeds;
    for (const V& dy : frame_.cotangents) seeds.push_back(static_cast<bool>(dy));
    for (const tf::NameAttrList& f : Branches(node_)) {
      TF_ASSIGN_OR_RETURN(const SplitVjp* split, differentiator_->Split(WithInputs(f, body_, inputs_), wants, seeds));
      splits_.push_back(*split);
    }
    const Slots slots(splits_, body_.compiled);
    if (body_.compiled) TF_RETURN_IF_ERROR(slots.CheckFillers());
    SplitVjp result;
    result.results = result_dtypes_;
    result.residuals = slots.dtypes;
    result.residual_shapes = slots.shapes;
    TF_ASSIGN_OR_RETURN(const FunctionAuthor::Function forward, Forward(slots, /*whole_branches=*/false));
    FunctionAuthor::Function whole = forward;
    if (std::any_of(splits_.begin(), splits_.end(), [](const SplitVjp& s) { return s.whole != s.forward; })) {
      TF_ASSIGN_OR_RETURN(whole, Forward(slots, /*whole_branches=*/true));
    }
    result.forward = forward.name;
    result.stateful_forward = forward.stateful;
    result.whole = whole.name;
    result.stateful_whole = whole.stateful;
    TF_RETURN_IF_ERROR(BuildPullback(slots, &result));
    return result;
  }

 private:
  // The node that takes one of the branches; its outputs.
  Values Emit(FunctionAuthor* whole, const std::vector<FunctionAuthor::Function>& branches, const V& selector,
              Values inputs, const tf::DataTypeVector& outputs) const {
    const bool is_if = node_.op() == "If" || node_.op() == "StatelessIf";
    const bool stateful = std::any_of(branches.begin(), branches.end(), [](const auto& f) { return f.stateful; });
    tf::NodeDef node;
    node.set_op(absl::StrCat(stateful ? "" : "Stateless", is_if ? "If" : "Case"));
    CopyRuntimeAttrs(node_, &node);
    auto& attrs = *node.mutable_attr();
    if (is_if) attrs["Tcond"].set_type(selector_);
    SetBranches(branches, &node);
    SetTypes(inputs, &attrs["Tin"]);
    SetTypes(outputs, &attrs["Tout"]);
    inputs.insert(inputs.begin(), selector);
    const V taken = (*whole)->EmitNode(std::move(node), inputs, outputs);
    Values results;
    for (size_t i = 0; i < outputs.size(); ++i) results.push_back(taken.out(static_cast<int>(i)));
    return results;
  }

  absl::StatusOr<FunctionAuthor::Function> Forward(const Slots& slots, bool whole_branches) {
    tf::DataTypeVector outputs = result_dtypes_;
    outputs.insert(outputs.end(), slots.dtypes.begin(), slots.dtypes.end());
    std::vector<FunctionAuthor::Function> branches;
    for (size_t k = 0; k < splits_.size(); ++k) {
      const SplitVjp& split = splits_[k];
      FunctionAuthor branch(differentiator_);
      tf::DataTypeVector own = split.results;
      own.insert(own.end(), split.residuals.begin(), split.residuals.end());
      const V call = whole_branches
                         ? branch->Call(split.whole, split.stateful_whole, branch.Args(input_dtypes_), own)
                         : branch->Call(split.forward, split.stateful_forward, branch.Args(input_dtypes_), own);
      Values results(outputs.size());
      for (size_t i = 0; i < result_dtypes_.size(); ++i) results[i] = call.out(static_cast<int>(i));
      for (size_t r = 0; r < split.residuals.size(); ++r)
        results[result_dtypes_.size() + slots.of[k][r]] = call.out(static_cast<int>(result_dtypes_.size() + r));
      for (size_t s = 0; s < slots.dtypes.size(); ++s)
        if (V& v = results[result_dtypes_.size() + s]; !v) v = Filler(&branch, slots.dtypes[s], slots.shapes[s]);
      TF_ASSIGN_OR_RETURN(auto written, branch.Finish("branch", results));
      branches.push_back(written);
    }

    FunctionAuthor whole(differentiator_);
    const V selector = whole.Arg(selector_);
    const Values results = Emit(&whole, branches, selector, whole.Args(input_dtypes_), outputs);
    return whole.Finish("if", results);
  }

  // Of the rows that the gradient of input i is; DT_INVALID if it is dense. It is where a branch's is, and under XLA,
  // which wants one shape of all branches, where that of their rows differs.
  tf::DataType IndicesDtype(size_t i) const {
    tf::DataType dtype = tf::DT_INVALID;
    const tf::PartialTensorShape* shape = nullptr;
    for (const SplitVjp& split : splits_) {
      const int k = split.gradients[i];
      if (k < 0 && !body_.compiled) continue;
      if (k < 0 || !split.is_rows(i)) return tf::DT_INVALID;
      dtype = split.gradient_dtypes[split.indices[i]];
      if (body_.compiled && !split.gradient_shapes[k].IsFullyDefined()) return tf::DT_INVALID;
      if (body_.compiled && shape != nullptr && !shape->IsIdenticalTo(split.gradient_shapes[k])) return tf::DT_INVALID;
      shape = &split.gradient_shapes[k];
    }
    return dtype;
  }

  absl::Status BuildPullback(const Slots& slots, SplitVjp* result) {
    // The inputs that some branch has a gradient for, and those that some pullback, or a branch's zeros, or the shape
    // of rows that are made dense, need.
    const size_t n = input_dtypes_.size();
    std::vector<tf::DataType> gradient_dtype(n, tf::DT_INVALID), indices_dtype(n, tf::DT_INVALID);
    std::vector<bool> used(n, false);
    for (const SplitVjp& split : splits_) {
      for (const int a : split.args) used[a] = true;
      for (size_t i = 0; i < n; ++i)
        if (split.gradients[i] >= 0) gradient_dtype[i] = split.gradient_dtypes[split.gradients[i]];
    }
    result->gradients.assign(n + 1, -1);
    result->indices.assign(n + 1, -1);
    for (size_t i = 0; i < n; ++i) {
      if (gradient_dtype[i] == tf::DT_INVALID) continue;
      result->gradients[i + 1] = static_cast<int>(result->gradient_dtypes.size());
      result->gradient_dtypes.push_back(gradient_dtype[i]);
      indices_dtype[i] = IndicesDtype(i);
      for (const SplitVjp& split : splits_)
        if (split.gradients[i] < 0 || (split.is_rows(i) && indices_dtype[i] == tf::DT_INVALID)) used[i] = true;
      if (indices_dtype[i] == tf::DT_INVALID) continue;
      result->indices[i + 1] = static_cast<int>(result->gradient_dtypes.size());
      result->gradient_dtypes.push_back(indices_dtype[i]);
    }
    if (result->gradient_dtypes.empty()) return absl::OkStatus();
    tf::DataTypeVector arg_dtypes;
    result->args = {0};
    for (size_t i = 0; i < n; ++i) {
      if (!used[i]) continue;
      result->args.push_back(static_cast<int>(i) + 1);
      arg_dtypes.push_back(input_dtypes_[i]);
    }

    std::vector<FunctionAuthor::Function> branches;
    for (size_t k = 0; k < splits_.size(); ++k) {
      const SplitVjp& split = splits_[k];
      FunctionAuthor branch(differentiator_);
      Values args(n);
      for (size_t i = 0; i < n; ++i)
        if (used[i]) args[i] = branch.Arg(input_dtypes_[i]);
      const Values slot = branch.Args(slots.dtypes), dys = branch.Args(cotangent_dtypes_);
      Values inputs;
      for (const int a : split.args) inputs.push_back(args[a]);
      for (const int s : slots.of[k]) inputs.push_back(slot[s]);
      inputs.insert(inputs.end(), dys.begin(), dys.end());
      const V pullback = split.gradient_dtypes.empty()
                             ? none
                             : branch->Call(split.pullback, split.stateful_pullback, inputs, split.gradient_dtypes);
      Values results;
      for (size_t i = 0; i < n; ++i) {
        if (gradient_dtype[i] == tf::DT_INVALID) continue;
        const auto indices = static_cast<DType>(indices_dtype[i]);
        if (indices != DType::kInvalid && split.gradients[i] >= 0) {
          results.push_back(pullback.out(split.gradients[i]));
          results.push_back(cast(pullback.out(split.indices[i]), indices));
        } else if (indices != DType::kInvalid) {
          const V row = slice(ShapeOf(args[i]), ints({1}), ints({-1}));
          results.push_back(zeros(concat({ints({0}), row}, 0), static_cast<DType>(gradient_dtype[i])));
          results.push_back(constant(ints({}), indices));
        } else if (split.gradients[i] >= 0) {
          results.push_back(branch->Dense(split.Gradient(i, pullback, args[i])));
        } else {
          results.push_back(ZerosOf(args[i], gradient_dtype[i], flows_[i]));
        }
      }
      TF_ASSIGN_OR_RETURN(auto written, branch.Finish("branch", results));
      branches.push_back(written);
    }

    FunctionAuthor whole(differentiator_);
    const V selector = whole.Arg(selector_);
    arg_dtypes.insert(arg_dtypes.end(), slots.dtypes.begin(), slots.dtypes.end());
    arg_dtypes.insert(arg_dtypes.end(), cotangent_dtypes_.begin(), cotangent_dtypes_.end());
    const Values results = Emit(&whole, branches, selector, whole.Args(arg_dtypes), result->gradient_dtypes);
    TF_ASSIGN_OR_RETURN(const auto pullback, whole.Finish("if_pullback", results));
    result->pullback = pullback.name;
    result->stateful_pullback = pullback.stateful;
    return absl::OkStatus();
  }

  Differentiator* const differentiator_;
  const Body& body_;
  const Frame& frame_;
  const tf::NodeDef& node_;
  std::vector<Port> inputs_;  // without the selector
  tf::DataType selector_;
  tf::DataTypeVector input_dtypes_, result_dtypes_, cotangent_dtypes_;
  tf::DataTypeVector flows_;  // of inputs that are flows of arrays the element dtypes, for others DT_INVALID
  std::vector<SplitVjp> splits_;
};

}  // namespace

absl::StatusOr<SplitVjp> SplitBranch(Differentiator* differentiator, const Body& body, const Frame& frame) {
  return BranchSplit(differentiator, body, frame).Build();
}

}  // namespace symgrad
