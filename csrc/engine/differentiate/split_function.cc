#include "csrc/engine/differentiate/split_function.h"

#include <algorithm>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/differentiate/node_gradients.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/library/effects.h"
#include "csrc/engine/remat/rematerialise.h"
#include "csrc/engine/vjp/row_sum.h"
#include "csrc/engine/write/export.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {
namespace {

// Sweep, cut, write: the steps of Build. Until they are written, the halves are Signatures, parts of the one body.
class FunctionSplit {
 public:
  FunctionSplit(Splitter* splitter, const tf::NameAttrList& f, Body* body, const LoopArguments* loop)
      : splitter_(splitter), f_(f), name_(f.name()), body_(body), loop_(loop), args_(body->args) {}

  absl::StatusOr<SplitVjp> Build(NodeGradients* nodes, const std::vector<bool>& wrt, const std::vector<bool>& seeds,
                                 bool dense) {
    TF_RETURN_IF_ERROR(FindGradients(nodes, wrt, seeds, dense));
    PlaceGradients();
    TF_ASSIGN_OR_RETURN(const Policy policy, PolicyOf(f_));
    TF_RETURN_IF_ERROR(Rematerialise(*splitter_, body_, policy, &pullback_.results));
    const Cut cut = CutBody(*splitter_, *body_, pullback_.results, loop_);
    TF_RETURN_IF_ERROR(CheckReferences(cut));
    Separate(cut.pullback);
    Cross(cut, dense);
    TF_RETURN_IF_ERROR(WriteForward());
    TF_ASSIGN_OR_RETURN(split_.pullback, Write("pullback", pullback_));
    if (!finish_.args.empty()) {
      TF_ASSIGN_OR_RETURN(split_.finish, WriteNew("finish", finish_));
    }
    TF_RETURN_IF_ERROR(WriteSame(cut));
    return std::move(split_);
  }

 private:
  // What the sweep has found.
  struct Gradient {
    size_t input;
    Port values;  // of sparse rows their values
    V indices;    // of sparse rows, else `none`
  };

  absl::Status FindGradients(NodeGradients* nodes, const std::vector<bool>& wrt, const std::vector<bool>& seeds,
                             bool dense) {
    Builder builder(body_);
    Builder::Scope scope(&builder);
    TF_ASSIGN_OR_RETURN(const std::vector<V> cotangents, ReverseSweep(&builder, nodes, wrt, seeds, FlowSeeds::kLists));
    for (size_t i = 0, k = 0; i < args_.size(); ++i) {
      if (!wrt[i]) continue;
      const V& dx = cotangents[k++];
      const bool sparse =
          !dense && dx.kind() == V::Kind::kRows && (loop_ == nullptr || AreGathered(i, builder.rows(dx)));
      const V values = sparse ? builder.rows(dx).values : builder.Dense(dx);
      TF_RETURN_IF_ERROR(builder.TakeStatus());
      if (values) gradients_.push_back({i, ToPort(values), sparse ? builder.rows(dx).indices : none});
    }
    return absl::OkStatus();
  }

  // A loop adds up the gradients of its iterations. It gathers their rows instead where they can be put together,
  // unless they are known to be no fewer than the gradient has.
  bool AreGathered(size_t i, const RowsValue& rows) const {
    if (!(*loop_)[i].invariant) return false;
    for (const V& part : {rows.values, rows.indices}) {
      const Port p = ToPort(part);
      if (body_->compiled ? !body_->FullyDefined(p) : !HasKnownRows(*body_, p)) return false;
    }
    const Port arg{args_[i], 0};
    const auto handle = body_->handles.find(body_->output_index(arg));
    const tf::PartialTensorShape shape =
        StaticShape(handle == body_->handles.end() ? body_->output(arg).shape : handle->second[0].shape);
    const int64_t all = shape.unknown_rank() || shape.dims() == 0 ? -1 : shape.dim_size(0);
    return all < 0 || body_->dim(ToPort(rows.values), 0) < all;
  }

  // Which half returns a gradient, and as which of its results. Operands are the last results of the pullback.
  void PlaceGradients() {
    std::vector<Port> values;
    std::vector<bool> invariant;
    for (const Gradient& gradient : gradients_) {
      values.push_back(gradient.values);
      invariant.push_back(loop_ != nullptr && (*loop_)[gradient.input].invariant && !gradient.indices);
    }
    RowSums sums = FindRowSums(body_, values, invariant);
    split_.gradients.resize(args_.size());
    for (size_t k = 0; k < gradients_.size(); ++k) {
      GradientPlace& place = split_.gradients[gradients_[k].input];
      const bool gathered = loop_ != nullptr && static_cast<bool>(gradients_[k].indices);
      place.half = gathered || sums.transformed[k] ? GradientPlace::kFinish : GradientPlace::kPullback;
      std::vector<Port>& results = (place.finished() ? finish_ : pullback_).results;
      place.values = static_cast<int>(results.size());
      results.push_back(gradients_[k].values);
      if (!gradients_[k].indices) continue;
      place.indices = static_cast<int>(results.size());
      results.push_back(ToPort(gradients_[k].indices));
      if (!gathered) continue;
      for (const Port& p : {gradients_[k].values, ToPort(gradients_[k].indices)})
        if (std::find(sums.operands.begin(), sums.operands.end(), p) == sums.operands.end()) sums.operands.push_back(p);
    }
    split_.num_operands = sums.operands.size();
    finish_.args = sums.operands;
    finish_.any_rows = true;
    pullback_.results.insert(pullback_.results.end(), sums.operands.begin(), sums.operands.end());
  }

  // What crosses is a value, also of a variable, table or queue of TensorFlow 1: no op can write it, or take from it.
  absl::Status CheckReferences(const Cut& cut) const {
    const auto is_reference = [&](const Port& p) { return tf::IsRefType(body_->output(p).dtype); };
    if (std::none_of(cut.residuals.begin(), cut.residuals.end(), is_reference)) return absl::OkStatus();
    Errors errors;
    for (int id = 0; id < body_->num_nodes(); ++id) {
      const Node& n = body_->node(id);
      tf::DataTypeVector in, out;
      if (!cut.pullback[id] || n.is_arg() || !tf::InOutTypesForNode(*n.def, n.op->op_def, &in, &out).ok()) continue;
      for (size_t i = 0; i < n.inputs.size() && i < in.size(); ++i)
        if (tf::IsRefType(in[i]) && !cut.pullback[n.inputs[i].node])
          errors.Add(absl::StrCat("node '", body_->name(id), "' (op ", n.type(),
                                  ") is wanted on the way back, and takes '", body_->name(n.inputs[i].node),
                                  "' by reference: use resource variables, tables, queues"));
    }
    if (errors.empty()) return absl::OkStatus();
    return errors.ToStatus(absl::StatusCode::kUnimplemented,
                           absl::StrCat("function '", name_, "' can't be differentiated"));
  }

  // Takes out the control edges between the halves, which would bring parts of the one into the other: the pullback is
  // called after all of the forward half anyway.
  void Separate(const std::vector<bool>& pullback) {
    for (int id = 0; id < body_->num_nodes(); ++id) {
      if (body_->node(id).is_arg()) continue;
      auto& controls = body_->node(id).controls;
      const auto crosses = [&](int c) { return pullback[c] != pullback[id]; };
      controls.erase(std::remove_if(controls.begin(), controls.end(), crosses), controls.end());
    }
  }

  // What the pullback takes: arguments as they are, residuals, what is the same in a loop, the cotangents that the
  // sweep has added to the arguments. A caller from outside, who wants dense gradients, has all residuals after the
  // results.
  void Cross(const Cut& cut, bool apart) {
    for (size_t i = 0; i < args_.size(); ++i) {
      forward_.args.push_back({args_[i], 0});
      if (!cut.args[i]) continue;
      split_.args.push_back(static_cast<int>(i));
      pullback_.args.push_back({args_[i], 0});
    }
    forward_.results = body_->results;
    split_.num_results = body_->results.size();
    absl::flat_hash_map<int, int> results;  // by output: which result it is first
    for (size_t i = 0; !apart && i < body_->results.size(); ++i)
      results.try_emplace(body_->output_index(Origin(*body_, body_->results[i])), static_cast<int>(i));
    for (const Port& p : cut.residuals) {
      const int next = static_cast<int>(forward_.results.size());
      const auto [result, added] = results.try_emplace(body_->output_index(Origin(*body_, p)), next);
      if (added || apart) forward_.results.push_back(p);
      pullback_.args.push_back(p);
      split_.residuals.push_back(apart ? next : result->second);
    }
    if (loop_ != nullptr) FindLists();
    for (const std::vector<Port>* same : {&cut.reads, &cut.invariants})
      pullback_.args.insert(pullback_.args.end(), same->begin(), same->end());
    for (size_t i = args_.size(); i < body_->args.size(); ++i) pullback_.args.push_back({body_->args[i], 0});
  }

  // On which lists of its own a loop's body pushes what crosses.
  void FindLists() {
    absl::flat_hash_map<int, int> pushed;  // by output
    for (size_t j = 0; j < args_.size() && j < body_->results.size(); ++j) {
      const Node& push = body_->node(Origin(*body_, body_->results[j]).node);
      if (push.is_arg() || push.type() != "TensorListPushBack") continue;
      if (Origin(*body_, push.inputs[0]) == Port{args_[j], 0})
        pushed.try_emplace(body_->output_index(Origin(*body_, push.inputs[1])), static_cast<int>(j));
    }
    for (size_t k = 0; k < split_.args.size() + split_.residuals.size(); ++k) {
      const auto list = pushed.find(body_->output_index(Origin(*body_, pullback_.args[k])));
      split_.lists.push_back(list == pushed.end() ? -1 : list->second);
    }
  }

  // The forward half, and the one that has all effects, where that is another.
  absl::Status WriteForward() {
    forward_.keeps = Keeps::kChecks;
    TF_RETURN_IF_ERROR(Lighten(splitter_, body_, forward_));
    TF_ASSIGN_OR_RETURN(split_.forward, Write("forward", forward_));
    split_.whole = split_.forward;
    if (!(splitter_->EffectsOf(name_) & kChanges)) return absl::OkStatus();
    forward_.keeps = Keeps::kEffects;
    // Where the two are equal, so are their names.
    TF_ASSIGN_OR_RETURN(split_.whole, Write("forward", forward_));
    return absl::OkStatus();
  }

  // What is the same in all iterations of a loop.
  absl::Status WriteSame(const Cut& cut) {
    Signature reads{{}, cut.reads}, invariants{{}, cut.invariants};
    for (size_t i = 0; i < args_.size() && loop_ != nullptr; ++i) {
      if ((*loop_)[i].invariant) reads.args.push_back({args_[i], 0});
      if (!cut.invariant_args[i]) continue;
      split_.invariant_args.push_back(static_cast<int>(i));
      invariants.args.push_back({args_[i], 0});
    }
    if (!cut.reads.empty()) {
      TF_ASSIGN_OR_RETURN(split_.reads, WriteNew("reads", reads));
    }
    if (!cut.invariants.empty()) {
      TF_ASSIGN_OR_RETURN(split_.invariants, WriteNew("invariants", invariants));
    }
    return absl::OkStatus();
  }

  // A function of f's arguments, or of others.
  absl::StatusOr<Callable> Write(const char* half, const Signature& signature) {
    return WriteFunction(splitter_, *body_, absl::StrCat(half, "_", name_), signature, *splitter_->Find(name_));
  }
  absl::StatusOr<Callable> WriteNew(const char* half, const Signature& signature) {
    return WriteFunction(splitter_, *body_, absl::StrCat(half, "_", name_), signature, tf::FunctionDef());
  }

  Splitter* const splitter_;
  const tf::NameAttrList& f_;
  const std::string name_;
  Body* const body_;
  const LoopArguments* const loop_;
  const std::vector<int> args_;  // of f; the sweep adds more to the body
  std::vector<Gradient> gradients_;
  Signature forward_, pullback_, finish_;
  SplitVjp split_;
};

}  // namespace

absl::StatusOr<Policy> PolicyOf(const tf::NameAttrList& f) {
  const auto it = f.attr().find(kCheckpoint);
  return ParsePolicy(it == f.attr().end() ? std::string() : it->second.s());
}

absl::StatusOr<SplitVjp> SplitFunction(Splitter* splitter, NodeGradients* nodes, const tf::NameAttrList& f, Body* body,
                                       const std::vector<bool>& wrt, const std::vector<bool>& seeds,
                                       const LoopArguments* loop, bool dense) {
  return FunctionSplit(splitter, f, body, loop).Build(nodes, wrt, seeds, dense);
}

}  // namespace symgrad
