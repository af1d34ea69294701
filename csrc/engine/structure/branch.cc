// If and Case: each branch becomes a forward and a pullback half, and the node a forward and a pullback node.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/emit/literal.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/structure/slots.h"
#include "csrc/engine/structure/structure.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/write/author.h"

namespace symgrad {
namespace {

void SetBranches(const std::vector<Callable>& functions, tf::NodeDef* node) {
  auto& attrs = *node->mutable_attr();
  if (node->op() == "If" || node->op() == "StatelessIf") {
    attrs["then_branch"].mutable_func()->set_name(functions[0].name);
    attrs["else_branch"].mutable_func()->set_name(functions[1].name);
  } else {
    attrs["branches"].Clear();
    for (const Callable& f : functions) attrs["branches"].mutable_list()->add_func()->set_name(f.name);
  }
}

// Splits the branches, and writes around the halves of each what makes them alike: all forward branches return the
// results and all slots, all pullback branches the gradients that some branch has, with zeros for those it has not.
class BranchSplit {
 public:
  BranchSplit(Splitter* splitter, const Body& body, const VjpQuery& query)
      : splitter_(splitter), body_(body), query_(query), node_(*body.node(query.node).def) {
    const Node& n = body.node(query.node);
    inputs_.assign(n.inputs.begin() + 1, n.inputs.end());
    selector_ = tf::BaseType(body.output(n.inputs[0]).dtype);
    for (const Port& p : inputs_) {
      input_dtypes_.push_back(tf::BaseType(body.output(p).dtype));
      flow_elements_.push_back(body.flow_element(p));
      input_shapes_.push_back(StaticShapeOfValue(body, p));
    }
    for (int i = 0; i < n.num_outputs; ++i) result_dtypes_.push_back(tf::BaseType(body.output({query.node, i}).dtype));
    for (const V& dy : query.cotangents)
      if (dy) cotangent_dtypes_.push_back(ToTf(dy.dtype()));
  }

  absl::StatusOr<SplitVjp> Build(InPlace* in_place) {
    const std::vector<bool> wants(query_.wants.begin() + 1, query_.wants.end());
    std::vector<bool> seeds;
    for (const V& dy : query_.cotangents) seeds.push_back(static_cast<bool>(dy));
    for (const tf::NameAttrList& f : Branches(node_)) {
      TF_ASSIGN_OR_RETURN(const SplitVjp* split, splitter_->Split(WithInputs(f, body_, inputs_), wants, seeds));
      splits_.push_back(*split);
    }
    const Slots slots(splits_, body_.compiled);
    if (body_.compiled) TF_RETURN_IF_ERROR(slots.CheckFillers());
    SplitVjp result;
    result.num_results = result_dtypes_.size();
    for (size_t s = 0; s < slots.tensors.size(); ++s)
      result.residuals.push_back(static_cast<int>(result_dtypes_.size() + s));
    for (size_t i = 0; i < slots.crosses.size(); ++i)
      if (slots.crosses[i]) result.residuals.push_back(static_cast<int>(i));
    if (in_place != nullptr) {
      TF_RETURN_IF_ERROR(ForwardInPlace(slots, in_place));
    } else {
      TF_ASSIGN_OR_RETURN(result.forward, Forward(slots, &SplitVjp::forward));
      result.whole = result.forward;
      if (std::any_of(splits_.begin(), splits_.end(), [](const auto& s) { return s.whole.name != s.forward.name; })) {
        TF_ASSIGN_OR_RETURN(result.whole, Forward(slots, &SplitVjp::whole));
      }
    }
    TF_RETURN_IF_ERROR(Pullback(slots, &result));
    return result;
  }

 private:
  bool IsIf() const { return node_.op() == "If" || node_.op() == "StatelessIf"; }

  // The node that takes one of the branches; its outputs.
  Values Emit(FunctionAuthor* author, const std::vector<Callable>& branches, const V& selector, Values inputs,
              const tf::DataTypeVector& outputs) const {
    const bool stateful = std::any_of(branches.begin(), branches.end(), [](const auto& f) { return f.stateful; });
    tf::NodeDef& node = *(*author)->body()->NewDef();
    node.set_op(absl::StrCat(stateful ? "" : "Stateless", IsIf() ? "If" : "Case"));
    CopyRuntimeAttrs(node_, &node);
    auto& attrs = *node.mutable_attr();
    if (IsIf()) attrs["Tcond"].set_type(selector_);
    SetBranches(branches, &node);
    SetTypes(inputs, &attrs["Tin"]);
    SetTypes(outputs, &attrs["Tout"]);
    inputs.insert(inputs.begin(), selector);
    return OutputsOf((*author)->EmitNode(&node, inputs, outputs), outputs.size());
  }

  // -- Forward: the results, then the slots.

  absl::StatusOr<Callable> Forward(const Slots& slots, Callable SplitVjp::* half) {
    TF_ASSIGN_OR_RETURN(const std::vector<Callable> branches, ForwardBranches(slots, half));
    FunctionAuthor author(splitter_);
    const V selector = author.Arg(selector_);
    TF_ASSIGN_OR_RETURN(Callable forward, author.Finish("if", Emit(&author, branches, selector,
                                                                   author.Args(input_dtypes_), Outputs(slots))));
    for (size_t s = 0; s < slots.tensors.size(); ++s) forward.results[result_dtypes_.size() + s] = slots.tensors[s];
    return forward;
  }

  absl::Status ForwardInPlace(const Slots& slots, InPlace* in_place) {
    TF_ASSIGN_OR_RETURN(const std::vector<Callable> branches, ForwardBranches(slots, &SplitVjp::whole));
    in_place->def = node_;
    SetBranches(branches, &in_place->def);
    SetTypes(Outputs(slots), &(*in_place->def.mutable_attr())["Tout"]);
    in_place->outputs = slots.tensors;
    return absl::OkStatus();
  }

  tf::DataTypeVector Outputs(const Slots& slots) const {
    tf::DataTypeVector outputs = result_dtypes_;
    for (const TensorSpec& slot : slots.tensors) outputs.push_back(slot.dtype);
    return outputs;
  }

  absl::StatusOr<std::vector<Callable>> ForwardBranches(const Slots& slots, Callable SplitVjp::* half) {
    std::vector<Callable> branches;
    for (size_t k = 0; k < splits_.size(); ++k) {
      TF_ASSIGN_OR_RETURN(Callable branch, ForwardBranch(splits_[k], splits_[k].*half, slots, slots.of[k]));
      branches.push_back(std::move(branch));
    }
    return branches;
  }

  absl::StatusOr<Callable> ForwardBranch(const SplitVjp& split, const Callable& half, const Slots& slots,
                                         const std::vector<int>& mine) {
    const size_t n = result_dtypes_.size();
    FunctionAuthor branch(splitter_);
    const Values outputs = OutputsOf(branch->Call(half, branch.Args(input_dtypes_)), half.results.size());
    Values results(outputs.begin(), outputs.begin() + static_cast<int>(n));
    results.resize(n + slots.tensors.size());
    for (size_t r = 0; r < mine.size(); ++r)
      if (mine[r] >= 0) results[n + mine[r]] = outputs[split.residuals[r]];
    for (size_t s = 0; s < slots.tensors.size(); ++s)
      if (V& v = results[n + s]; !v) v = Filler(&branch, slots.tensors[s], !IsIf() && !body_.compiled);
    return branch.Finish("branch", results);
  }

  // -- Pullback: of each branch's gradients those that some branch has.

  // The gradient of an input, of the same dtypes in all branches; DT_INVALID: there is none, it is dense.
  struct Gradient {
    tf::DataType dtype = tf::DT_INVALID, indices = tf::DT_INVALID;
    bool exists() const { return dtype != tf::DT_INVALID; }
    bool is_rows() const { return indices != tf::DT_INVALID; }
  };

  // Of the rows that the gradient of input i is; DT_INVALID if it is dense. It is where a branch's is, for Python where
  // all are, and under XLA, which wants one shape of all branches, where that of their values differs.
  tf::DataType IndicesDtype(size_t i) const {
    tf::DataType dtype = tf::DT_INVALID;
    const tf::PartialTensorShape* shape = nullptr;
    for (const SplitVjp& split : splits_) {
      const GradientPlace& place = split.gradients[i];
      if (!place.exists() && !body_.compiled) continue;
      if (!place.exists() || (!place.is_rows() && !query_.as_python)) return tf::DT_INVALID;
      const TensorSpec& values = split.pullback.results[place.values];
      if (body_.compiled && !values.shape.IsFullyDefined()) return tf::DT_INVALID;
      if (body_.compiled && shape != nullptr && !shape->IsIdenticalTo(values.shape)) return tf::DT_INVALID;
      shape = &values.shape;
      if (!place.is_rows()) continue;
      const tf::DataType own = split.pullback.results[place.indices].dtype;
      dtype = dtype == tf::DT_INVALID || dtype == own ? own : tf::DT_INT64;
    }
    return dtype;
  }

  absl::Status Pullback(const Slots& slots, SplitVjp* result) {
    const tf::DataTypeVector results = PlaceGradients(&result->gradients);
    if (results.empty()) return absl::OkStatus();
    const std::vector<bool> used = UsedInputs();
    tf::DataTypeVector args;
    result->args = {0};
    for (size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) continue;
      result->args.push_back(static_cast<int>(i) + 1);
      args.push_back(input_dtypes_[i]);
    }
    for (const TensorSpec& slot : slots.tensors) args.push_back(slot.dtype);
    for (size_t i = 0; i < slots.crosses.size(); ++i)
      if (slots.crosses[i]) args.push_back(result_dtypes_[i]);
    args.insert(args.end(), cotangent_dtypes_.begin(), cotangent_dtypes_.end());

    std::vector<Callable> branches;
    for (size_t k = 0; k < splits_.size(); ++k) {
      TF_ASSIGN_OR_RETURN(Callable branch, PullbackBranch(splits_[k], slots, slots.of[k], used));
      branches.push_back(std::move(branch));
    }
    FunctionAuthor author(splitter_);
    const V selector = author.Arg(selector_);
    TF_ASSIGN_OR_RETURN(result->pullback,
                        author.Finish("if_pullback", Emit(&author, branches, selector, author.Args(args), results)));
    return absl::OkStatus();
  }

  // Which inputs have a gradient, and where; the dtypes of the results that these are.
  tf::DataTypeVector PlaceGradients(std::vector<GradientPlace>* places) {
    tf::DataTypeVector results;
    const size_t n = input_dtypes_.size();
    gradients_.resize(n);
    places->resize(n + 1);  // none of the selector
    for (size_t i = 0; i < n; ++i) {
      Gradient& gradient = gradients_[i];
      for (const SplitVjp& split : splits_)
        if (const GradientPlace& place = split.gradients[i]; place.exists())
          gradient.dtype = split.pullback.results[place.values].dtype;
      if (!gradient.exists()) continue;
      GradientPlace& place = (*places)[i + 1];
      place.half = GradientPlace::kPullback;
      place.values = static_cast<int>(results.size());
      results.push_back(gradient.dtype);
      gradient.indices = IndicesDtype(i);
      if (!gradient.is_rows()) continue;
      place.indices = static_cast<int>(results.size());
      results.push_back(gradient.indices);
    }
    return results;
  }

  // The inputs that some branch's pullback needs, or its zeros, or the shape of rows that are made dense.
  std::vector<bool> UsedInputs() const {
    std::vector<bool> used(input_dtypes_.size(), false);
    for (const SplitVjp& split : splits_) {
      for (const int a : split.args) used[a] = true;
      for (size_t i = 0; i < used.size(); ++i) {
        const GradientPlace& place = split.gradients[i];
        if (gradients_[i].exists() && (!place.exists() || (place.is_rows() && !gradients_[i].is_rows())))
          used[i] = used[i] || !IsKnown(i);
      }
    }
    return used;
  }

  absl::StatusOr<Callable> PullbackBranch(const SplitVjp& split, const Slots& slots, const std::vector<int>& mine,
                                          const std::vector<bool>& used) {
    FunctionAuthor branch(splitter_);
    Values args(used.size());
    for (size_t i = 0; i < used.size(); ++i)
      if (used[i]) args[i] = branch.Arg(input_dtypes_[i]);
    const Values slot = branch.Args(slots.tensors);
    Values crossing(slots.crosses.size());
    for (size_t i = 0; i < crossing.size(); ++i)
      if (slots.crosses[i]) crossing[i] = branch.Arg(result_dtypes_[i]);
    const Values dys = branch.Args(cotangent_dtypes_);
    Values inputs;
    for (const int a : split.args) inputs.push_back(args[a]);
    for (const int s : mine) inputs.push_back(s < 0 ? crossing[~s] : slot[s]);
    inputs.insert(inputs.end(), dys.begin(), dys.end());
    const V pullback = split.has_pullback() ? branch->Call(split.pullback, inputs) : none;
    Values results;
    for (size_t i = 0; i < used.size(); ++i)
      if (gradients_[i].exists()) AddGradient(&branch, split, i, pullback, args[i], &results);
    return branch.Finish("branch", results);
  }

  // Whether zeros for input i, and its dense shape, need no input.
  bool IsKnown(size_t i) const { return input_shapes_[i].IsFullyDefined() && gradients_[i].dtype != tf::DT_VARIANT; }
  V DenseShape(size_t i, const V& x) const {
    if (!IsKnown(i)) return ShapeOf(x);
    const auto dims = input_shapes_[i].dim_sizes();
    return constant(ints({dims.begin(), dims.end()}), DType::kInt32);
  }
  V Zeros(size_t i, const V& x) const {
    if (flow_elements_[i] != tf::DT_INVALID || !IsKnown(i)) return ZerosOf(x, gradients_[i].dtype, flow_elements_[i]);
    return zeros(DenseShape(i, x), static_cast<DType>(gradients_[i].dtype));
  }

  // The gradient of input i, which is x, of one branch, in the form that all have.
  void AddGradient(FunctionAuthor* branch, const SplitVjp& split, size_t i, const V& pullback, const V& x,
                   Values* results) const {
    const GradientPlace& place = split.gradients[i];
    const Gradient& gradient = gradients_[i];
    const auto dtype = static_cast<DType>(gradient.dtype), indices = static_cast<DType>(gradient.indices);
    if (!gradient.is_rows()) {
      if (!place.exists()) results->push_back(Zeros(i, x));
      else if (!place.is_rows()) results->push_back(pullback.out(place.values));
      else
        results->push_back(
            (*branch)->Dense(rows(pullback.out(place.indices), pullback.out(place.values), DenseShape(i, x))));
    } else if (place.is_rows()) {
      results->push_back(pullback.out(place.values));
      results->push_back(cast(pullback.out(place.indices), indices));
    } else if (query_.as_python) {  // all rows
      results->push_back(place.exists() ? pullback.out(place.values) : Zeros(i, x));
      results->push_back(cast(range(0, gather(DenseShape(i, x), 0)), indices));
    } else {  // no rows
      const V row = slice(DenseShape(i, x), ints({1}), ints({-1}));
      results->push_back(zeros(concat({ints({0}), row}, 0), dtype));
      results->push_back(constant(ints({}), indices));
    }
  }

  Splitter* const splitter_;
  const Body& body_;
  const VjpQuery& query_;
  const tf::NodeDef& node_;
  std::vector<Port> inputs_;  // without the selector
  tf::DataType selector_;
  tf::DataTypeVector input_dtypes_, result_dtypes_, cotangent_dtypes_;
  std::vector<tf::PartialTensorShape> input_shapes_;  // of a variable that of its value
  tf::DataTypeVector flow_elements_;  // of inputs that are flows of arrays the element dtypes, for others DT_INVALID
  std::vector<SplitVjp> splits_;
  std::vector<Gradient> gradients_;  // by input
};

}  // namespace

absl::StatusOr<SplitVjp> SplitBranch(Splitter* splitter, const Body& body, const VjpQuery& query, InPlace* in_place) {
  return BranchSplit(splitter, body, query).Build(in_place);
}

}  // namespace symgrad
