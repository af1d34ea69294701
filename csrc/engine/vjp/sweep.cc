#include "csrc/engine/vjp/sweep.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/body/node_check.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/tensorflow1/flows.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/rules/traits/arrays.h"
#include "csrc/rules/traits/trait.h"
#include "tensorflow/core/framework/types.h"

namespace symgrad {
namespace {

// Cotangents gather at the outputs of nodes, in lists that are summed up when the sweep arrives there: then all that
// will ever come has come.
class Sweep {
 public:
  Sweep(Builder* builder, NodeGradients* nodes, const std::vector<bool>& wrt, const std::vector<bool>& seeds,
        FlowSeeds flow_seeds, const std::vector<Port>& inner)
      : builder_(builder),
        body_(builder->body()),
        nodes_(nodes),
        wrt_(wrt),
        seeds_(seeds),
        flow_seeds_(flow_seeds),
        inner_(inner),
        inner_cotangents_(inner.size()) {}

  absl::StatusOr<std::vector<V>> Run() {
    MarkDependent();
    nodes_->MarkDivergent(body_);
    AddSeeds();
    int made = 0;
    for (int id = body_->num_forward - 1; id >= 0; --id) {
      if (depends_[id] && !body_->node(id).is_arg()) Visit(id);
      TF_RETURN_IF_ERROR(exhausted_);
      TF_RETURN_IF_ERROR(nodes_->SpendOn(body_->num_outputs() - std::exchange(made, body_->num_outputs())));
    }
    if (!errors_.empty()) {
      const std::string what =
          body_->function.empty() ? std::string("the graph") : absl::StrCat("function '", body_->function, "'");
      return errors_.ToStatus(code_, absl::StrCat(what, " can't be differentiated"));
    }

    std::vector<V> cotangents;
    for (size_t i = 0; i < wrt_.size(); ++i)
      if (wrt_[i]) cotangents.push_back(Cotangent({body_->args[i], 0}));
    cotangents.insert(cotangents.end(), inner_cotangents_.begin(), inner_cotangents_.end());
    TF_RETURN_IF_ERROR(builder_->TakeStatus());
    return cotangents;
  }

 private:
  // Which nodes a wanted argument reaches through tensors that carry gradients.
  void MarkDependent() {
    depends_.assign(body_->num_nodes(), false);
    for (size_t i = 0; i < wrt_.size(); ++i)
      depends_[body_->args[i]] = wrt_[i] && IsDifferentiable(body_->output({body_->args[i], 0}).dtype);
    for (int id = 0; id < body_->num_forward; ++id) {
      const Node& n = body_->node(id);
      if (n.is_arg()) continue;
      if (HasNoGradient(n)) continue;
      for (const Port& p : n.inputs)
        if (Wanted(p)) depends_[id] = true;
    }
  }

  bool MayDiverge(int id) const {
    const auto diverges = [this](const Port& p) { return body_->output(p).diverges; };
    const auto& inputs = body_->node(id).inputs;
    return FindTrait(Op(id), Trait::kDiverges) != nullptr || std::any_of(inputs.begin(), inputs.end(), diverges);
  }

  bool Wanted(Port p) const { return depends_[p.node] && IsDifferentiable(body_->output(p).dtype); }

  void AddSeeds() {
    cotangents_.resize(body_->num_outputs());
    const std::vector<Port> results = body_->results;
    for (size_t i = 0; i < results.size(); ++i) {
      if (!seeds_[i]) continue;
      const bool flow = body_->flow_element(results[i]) != tf::DT_INVALID;
      const bool list = flow && flow_seeds_ == FlowSeeds::kLists;
      const auto handle = body_->handles.find(body_->output_index(results[i]));
      tf::DataType dtype = list ? tf::DT_VARIANT : tf::BaseType(body_->output(results[i]).dtype);
      Shape shape = body_->output(results[i]).shape;
      if (dtype == tf::DT_RESOURCE && handle != body_->handles.end() && handle->second.size() == 1) {
        dtype = handle->second[0].dtype;  // the cotangent of a handle is that of its variable
        shape = handle->second[0].shape;
      }
      const int dy = body_->AddArg(absl::StrCat("dy_", i), dtype);
      body_->output({dy, 0}).shape = shape;
      if (handle != body_->handles.end() && body_->output({dy, 0}).dtype == tf::DT_VARIANT)
        body_->handles[body_->output_index({dy, 0})] = std::vector(handle->second);  // of a sparse matrix, say
      if (Wanted(results[i]) && flow == list) cotangents_[body_->output_index(results[i])].push_back(V::Tensor(dy, 0));
    }
  }

  // The cotangent of a forward tensor; all that flows into it has been seen.
  V Cotangent(Port p) {
    std::vector<V> parts = std::exchange(cotangents_[body_->output_index(p)], {});
    const bool flow = body_->flow_element(p) != tf::DT_INVALID;
    V sum = parts.size() == 1 ? parts[0] : flow && !parts.empty() ? SumOfLists(parts) : builder_->Sum(parts);
    // A cotangent has the shape of its primal, whatever else is known of it.
    if (sum.is_tensor() && body_->output(p).dtype != tf::DT_RESOURCE && !body_->FullyDefined(ToPort(sum)) &&
        body_->rank(p) >= 0)
      body_->output(ToPort(sum)).shape = body_->output(p).shape;
    for (size_t i = 0; i < inner_.size(); ++i)
      if (inner_[i] == p) inner_cotangents_[i] = sum;
    return sum;
  }

  void Visit(int id) {
    const Node& n = body_->node(id);
    VjpQuery query;
    query.node = id;
    query.diverges = MayDiverge(id);
    bool any = false;
    builder_->set_origin(id);
    for (int i = 0; i < n.num_outputs; ++i) {
      query.cotangents.push_back(Cotangent({id, i}));
      any = any || static_cast<bool>(query.cotangents.back());
    }
    if (!any) return;
    for (const Port& p : n.inputs) query.wants.push_back(Wanted(p));

    const absl::StatusOr<Grads> grads = Pull(std::move(query));
    if (grads.ok()) Distribute(id, *grads);
    else NodeError(id, grads.status().code(), grads.status().message());
  }

  // The cotangents of a node's inputs: by a gradient of its own, by the functions that it stands for, or by its op's
  // rule.
  absl::StatusOr<Grads> Pull(VjpQuery query) {
    const Node& n = body_->node(query.node);
    if (n.def->attr().contains(kCustomGradient)) return nodes_->CustomGradient(builder_, query);
    if (const auto custom = n.def->attr().find("_gradient_op_type"); custom != n.def->attr().end())
      return absl::UnimplementedError(absl::StrCat(
          "its gradient is '", custom->second.s(), "', which was defined in Python (tf.custom_gradient, ",
          "Graph.gradient_override_map) and was not handed over: differentiate the ConcreteFunction itself"));
    if (UsesGradientArray(*body_, n))
      return absl::UnimplementedError(
          "it belongs to a gradient that TensorFlow made, of which there is no further one: differentiate the "
          "function before that, twice");
    if (IsStructure(*n.def, *n.op)) return nodes_->StructureGradient(builder_, query);
    if (ComputesFlow(*body_, query.node))
      return absl::InvalidArgumentError("a TensorArray takes a result of it for its flow, and flows come from arrays");
    const Rule* rule = FindRule(n.type());
    if (rule == nullptr)
      return absl::UnimplementedError(
          "no gradient is registered for this op: put tf.stop_gradient around it if none should flow, or register a "
          "rule (docs/writing-a-rule.md)");
    const int id = query.node;
    builder_->query() = std::move(query);
    Grads grads = rule->gradient(Op(id));
    TF_RETURN_IF_ERROR(builder_->TakeStatus());
    return grads;
  }

  void Distribute(int id, const Grads& grads) {
    const Node& n = body_->node(id);
    if (grads.size() > n.inputs.size())
      return NodeError(id, absl::StatusCode::kInternal, "its rule returns more gradients than it has inputs");
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const Port p = n.inputs[i];
      if (!Wanted(p)) continue;
      const tf::DataType dtype = body_->output(p).dtype;
      if (i >= grads.size())
        return NodeError(id, absl::StatusCode::kInternal, absl::StrCat("its rule omits input ", i));
      if (!grads[i]) continue;
      if (grads[i].kind() == V::Kind::kMissing) {
        if (body_->unasked.contains(p.node)) continue;
        NodeError(id, absl::StatusCode::kUnimplemented,
                  absl::StrCat("no gradient by its input '", InputName(*n.def, n.op->op_def, i), "': ", grads[i].why(),
                               "; put tf.stop_gradient around that input if none should flow"));
        continue;
      }
      const tf::DataType expected = body_->flow_element(p) != tf::DT_INVALID ? tf::DT_VARIANT : tf::BaseType(dtype);
      if (dtype != tf::DT_RESOURCE && ToTf(grads[i].dtype()) != expected)
        return NodeError(
            id, absl::StatusCode::kInternal,
            absl::StrCat("its rule gives input ", i, " a gradient of dtype ",
                         tf::DataTypeString(ToTf(grads[i].dtype())), ", not ", tf::DataTypeString(expected)));
      if (dtype != tf::DT_RESOURCE && grads[i].is_tensor() && Differ(ToPort(grads[i]), p))
        return NodeError(id, absl::StatusCode::kInternal,
                         absl::StrCat("its rule gives input ", i, " a gradient of shape ", ShapeText(ToPort(grads[i])),
                                      ", not ", ShapeText(p)));
      cotangents_[body_->output_index(p)].push_back(grads[i]);
    }
  }

  std::string ShapeText(Port p) const { return StaticShape(body_->output(p).shape).DebugString(); }

  // Whether two tensors can't have one shape. It would be wrong to add them up: they may broadcast.
  bool Differ(Port a, Port b) const {
    const int rank = body_->rank(a);
    if (rank < 0 || body_->rank(b) < 0) return false;
    if (rank != body_->rank(b)) return true;
    for (int k = 0; k < rank; ++k)
      if (body_->dim(a, k) >= 0 && body_->dim(b, k) >= 0 && body_->dim(a, k) != body_->dim(b, k)) return true;
    return false;
  }

  void NodeError(int id, absl::StatusCode code, absl::string_view what) {
    // What is too large, or nested too deeply, is so for all that called it: nothing more can be said of it.
    if (code == absl::StatusCode::kResourceExhausted) return exhausted_.Update(absl::Status(code, what));
    // An op that nobody can differentiate is for the caller to mend; anything else comes first.
    if (errors_.empty() || code != absl::StatusCode::kUnimplemented) code_ = code;
    errors_.Add(absl::StrCat("node '", body_->name(id), "' (op ", body_->node(id).type(),
                             "): ", absl::StrReplaceAll(what, {{"\n", "\n    "}})));
    // The sweep goes on, with any cotangents, to what else is wrong behind this node.
    for (const Port& p : body_->node(id).inputs) {
      const tf::DataType dtype = tf::BaseType(body_->output(p).dtype);
      if (Wanted(p) && dtype != tf::DT_RESOURCE && dtype != tf::DT_VARIANT && body_->flow_element(p) == tf::DT_INVALID)
        cotangents_[body_->output_index(p)].push_back(zeros_like(ToValue(p)));
    }
  }

  Builder* const builder_;
  Body* const body_;
  NodeGradients* const nodes_;
  const std::vector<bool>&wrt_, &seeds_;
  const FlowSeeds flow_seeds_;
  const std::vector<Port>& inner_;
  std::vector<V> inner_cotangents_;
  std::vector<bool> depends_;               // by forward node
  std::vector<std::vector<V>> cotangents_;  // by output: what has flowed into it so far
  Errors errors_;
  absl::Status exhausted_;
  absl::StatusCode code_ = absl::StatusCode::kUnimplemented;
};

}  // namespace

absl::StatusOr<std::vector<V>> ReverseSweep(Builder* builder, NodeGradients* nodes, const std::vector<bool>& wrt,
                                            const std::vector<bool>& seeds, FlowSeeds flow_seeds,
                                            const std::vector<Port>& inner) {
  return Sweep(builder, nodes, wrt, seeds, flow_seeds, inner).Run();
}

}  // namespace symgrad
