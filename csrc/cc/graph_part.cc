#include "csrc/cc/graph_part.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "csrc/cc/private_member.h"
#include "csrc/engine/body/node_check.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/vjp/registry.h"
#include "csrc/engine/vjp/sweep.h"
#include "tensorflow/cc/framework/scope_internal.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/graph/node_builder.h"

namespace symgrad {

// A scope infers shapes, but gives no access to what it has inferred.
struct Refiner {
  using Type = std::shared_ptr<tf::ShapeRefiner> tf::Scope::Impl::*;
  friend Type Member(Refiner);
};

template struct PrivateMember<Refiner, &tf::Scope::Impl::refiner_>;

namespace {

// How far back integers are followed.
constexpr int kMaxDepth = 16;

const tf::Output kNone(nullptr, -1);

absl::Status IsRefused(const tf::Node& node) {
  const Rule* rule = FindRule(node.type_string());
  if (rule == nullptr || rule->gradient == nullptr || !absl::StartsWith(node.type_string(), "TensorArray"))
    return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("node '", node.name(), "' (op ", node.type_string(), "): arrays of TensorFlow 1 are differentiated ",
                   "within a function alone: make one of what uses them (TF_GraphToFunction), and call it"));
}

}  // namespace

GraphPart::GraphPart(const tf::Scope& scope)
    : scope_(scope),
      graph_(scope.graph()),
      refiner_((scope.impl()->*Member(Refiner())).get()),
      differentiator_(graph_->flib_def()),
      builder_(&body_) {
  differentiator_.ExpectArrays();
}

Port GraphPart::AddArg(const tf::Output& tensor) {
  const Port p{body_.AddArg(absl::StrCat("x_", body_.args.size()), tf::BaseType(tensor.type())), 0};
  tensors_.resize(body_.num_nodes());
  tensors_[p.node] = tensor;
  ReadFacts(tensor, p);
  return ports_[{tensor.node()->id(), tensor.index()}] = p;
}

Port GraphPart::Find(const tf::Output& tensor) { return AddInts(tensor, 0); }

Port GraphPart::AddInts(const tf::Output& tensor, int depth) {
  const std::pair<int, int> key(tensor.node()->id(), tensor.index());
  if (const auto it = ports_.find(key); it != ports_.end()) return it->second;
  tf::Node* node = tensor.node();
  const bool computed = IsIntegral(tensor.type()) && !node->op_def().is_stateful() && node->num_outputs() == 1 &&
                        node->type_string() != "Placeholder" && !node->IsControlFlow() && depth < kMaxDepth;
  if (computed) {
    std::vector<Port> inputs(node->num_inputs());
    for (const tf::Edge* edge : node->in_edges())
      if (!edge->IsControlEdge())
        inputs[edge->dst_input()] = AddInts(tf::Output(edge->src(), edge->src_output()), depth + 1);
    if (const absl::StatusOr<int> id = AddNode(node, inputs); id.ok()) return ports_.at(key);
  }
  return AddArg(tensor);
}

absl::StatusOr<int> GraphPart::AddNode(tf::Node* node) {
  std::vector<Port> inputs(node->num_inputs());
  for (const tf::Edge* edge : node->in_edges())
    if (!edge->IsControlEdge()) inputs[edge->dst_input()] = Find(tf::Output(edge->src(), edge->src_output()));
  return AddNode(node, inputs);
}

absl::StatusOr<int> GraphPart::AddNode(tf::Node* node, const std::vector<Port>& inputs) {
  TF_RETURN_IF_ERROR(IsRefused(*node));
  const tf::NodeDef* def = &node->def();
  if (def->op() == kGradientOp) {
    TF_ASSIGN_OR_RETURN(def, ResolveGradient(*node));
  }
  const tf::OpRegistrationData* op = nullptr;
  TF_RETURN_IF_ERROR(differentiator_.LookUp(def->op(), &op));
  if (!IsComplete(*def, op->op_def)) {
    tf::NodeDef* complete = body_.NewDef();
    *complete = CompleteNode(*def, op->op_def, {});
    def = complete;
  }
  const int id = body_.AddNode(op, def, inputs, node->output_types(), -1);
  for (const tf::Edge* edge : node->in_edges()) {
    if (!edge->IsControlEdge()) continue;
    const auto before = ids_.find(edge->src()->id());
    if (before != ids_.end()) body_.node(id).controls.push_back(before->second);
  }
  ids_[node->id()] = id;
  tensors_.resize(id + 1);
  sources_.resize(id + 1, nullptr);
  sources_[id] = node;
  TF_RETURN_IF_ERROR(InferFacts(&body_, id));
  for (int i = 0; i < node->num_outputs(); ++i) {
    ReadFacts(tf::Output(node, i), {id, i});
    ports_[{node->id(), i}] = {id, i};
  }
  return id;
}

// A gradient op is a call of the gradient function, as it is in a function.
absl::StatusOr<const tf::NodeDef*> GraphPart::ResolveGradient(const tf::Node& node) {
  const Asked asked = AskedBy(node.def(), node.input_types(), node.output_types());
  TF_ASSIGN_OR_RETURN(const std::string gradient, differentiator_.Gradient(asked.f, asked.wrt, asked.values));
  tf::NodeDef* call = body_.NewDef();
  *call = node.def();
  const bool stateful = differentiator_.Find(gradient)->signature().is_stateful();
  call->set_op(stateful ? "StatefulPartitionedCall" : "PartitionedCall");
  (*call->mutable_attr())["f"].mutable_func()->set_name(gradient);
  return call;
}

// Dimensions that are no numbers are all different: the graph takes those of all elements of a list to be the same.
Shape GraphPart::ToArena(const Shape& shape) {
  Shape known;
  const absl::Status status = body_.shapes()->MakeShapeFromPartialTensorShape(StaticShape(shape), &known);
  return status.ok() ? known : body_.shapes()->UnknownShape();
}

// What the graph knows of a tensor, where that is more than the body does.
void GraphPart::ReadFacts(const tf::Output& tensor, Port p) {
  InferenceContext* known = refiner_ == nullptr ? nullptr : refiner_->GetContext(tensor.node());
  if (known == nullptr || tensor.index() >= known->num_outputs()) return;
  const Shape shape = known->output(tensor.index());
  if (body_.rank(p) < 0 || (!body_.FullyDefined(p) && known->FullyDefined(shape)))
    body_.output(p).shape = ToArena(shape);
  const auto* handle = known->output_handle_shapes_and_types(tensor.index());
  if (handle == nullptr || handle->empty() || body_.handles.contains(body_.output_index(p))) return;
  std::vector<tf::shape_inference::ShapeAndType> values = *handle;
  for (auto& value : values) value.shape = ToArena(value.shape);
  body_.handles[body_.output_index(p)] = std::move(values);
}

absl::StatusOr<GraphPart::Gradients> GraphPart::Differentiate(const std::vector<Port>& results,
                                                              const std::vector<tf::Output>* dy,
                                                              const std::vector<bool>& wrt,
                                                              const std::vector<Port>& inner, bool copies) {
  body_.results = results;
  body_.num_forward = body_.num_nodes();
  Builder::Scope scope(&builder_);
  std::vector<bool> seeds;
  Values ones;
  for (size_t i = 0; i < results.size(); ++i) {
    seeds.push_back(dy == nullptr || (*dy)[i].node() != nullptr);
    if (dy == nullptr) ones.push_back(ones_like(ToValue(results[i])));
  }
  const int num_args = static_cast<int>(body_.args.size());
  TF_ASSIGN_OR_RETURN(std::vector<V> cotangents,
                      ReverseSweep(&builder_, &differentiator_, wrt, seeds, FlowSeeds::kLists, inner));
  tensors_.resize(body_.num_nodes());
  for (size_t i = 0, next = num_args; i < results.size(); ++i) {
    if (!seeds[i]) continue;
    const int arg = body_.args[next++];
    if (dy == nullptr) values_[arg] = ToPort(ones[i]);
    else tensors_[arg] = (*dy)[i];
  }

  std::vector<Port> wanted;
  for (V& dx : cotangents) {
    dx = builder_.Dense(dx);
    if (dx) wanted.push_back(ToPort(dx));
  }
  TF_RETURN_IF_ERROR(builder_.TakeStatus());
  if (copies) {
    wanted.insert(wanted.end(), results.begin(), results.end());
    // They take the place of what the graph has, with all that it does.
    for (const auto& [id, call] : body_.whole) {
      body_.node(id).op = call.op;
      body_.node(id).def = call.def;
    }
  }
  TF_RETURN_IF_ERROR(Write(wanted));

  Gradients gradients;
  const size_t num_wrt = std::count(wrt.begin(), wrt.end(), true);
  for (size_t k = 0; k < cotangents.size(); ++k)
    (k < num_wrt ? gradients.args : gradients.inner).push_back(cotangents[k] ? Written(ToPort(cotangents[k])) : kNone);
  if (copies)
    for (const Port& p : results) gradients.copies.push_back(Written(p));
  return gradients;
}

// A forward node of which something is taken that it does not return is not in the graph, nor is what comes after it.
void GraphPart::FindCopies() {
  sources_.resize(body_.num_nodes(), nullptr);
  std::vector<bool> returns_more(body_.num_nodes(), false);
  for (int id = body_.num_forward; id < body_.num_nodes(); ++id)
    for (const Port& p : body_.node(id).inputs)
      if (p.node < body_.num_forward && sources_[p.node] != nullptr && p.index >= sources_[p.node]->num_outputs())
        returns_more[p.node] = true;
  written_ = sources_;
  for (int id = 0; id < body_.num_forward; ++id) {
    const Node& n = body_.node(id);
    if (n.is_arg()) continue;
    const auto missing = [&](Port p) { return !body_.node(p.node).is_arg() && written_[p.node] == nullptr; };
    if (returns_more[id] || std::any_of(n.inputs.begin(), n.inputs.end(), missing)) written_[id] = nullptr;
  }
}

absl::Status GraphPart::Write(const std::vector<Port>& wanted) {
  FindCopies();
  std::vector<bool> needed(body_.num_nodes(), false);
  std::vector<int> pending;
  const auto need = [&](int id) {
    if (const auto value = values_.find(id); value != values_.end()) id = value->second.node;
    if (needed[id] || body_.node(id).is_arg() || written_[id] != nullptr) return;
    needed[id] = true;
    pending.push_back(id);
  };
  for (const Port& p : wanted) need(p.node);
  while (!pending.empty()) {
    const Node& n = body_.node(pending.back());
    pending.pop_back();
    for (const Port& p : n.inputs) need(p.node);
    for (const int control : n.controls) need(control);
  }
  TF_RETURN_IF_ERROR(WriteFunctions(needed));
  for (int id = 0; id < body_.num_nodes(); ++id)
    if (needed[id]) TF_RETURN_IF_ERROR(WriteNode(id));
  return absl::OkStatus();
}

// Names are content hashes: what is there already is the same.
absl::Status GraphPart::WriteFunctions(const std::vector<bool>& needed) {
  for (int id = 0; id < body_.num_nodes(); ++id) {
    if (!needed[id]) continue;
    for (const auto& [name, value] : body_.node(id).def->attr()) {
      if (!value.has_func() || !differentiator_.IsGenerated(value.func().name())) continue;
      const auto functions = differentiator_.Generated({value.func().name()});
      for (const tf::FunctionDef& f : functions->function())
        if (!graph_->flib_def().Contains(f.signature().name())) TF_RETURN_IF_ERROR(graph_->AddFunctionDef(f, {}));
    }
  }
  return absl::OkStatus();
}

const tf::Scope& GraphPart::ScopeOf(int origin) {
  if (origin < 0 || sources_[origin] == nullptr) return scope_;
  auto it = scopes_.find(origin);
  if (it == scopes_.end()) it = scopes_.emplace(origin, scope_.NewSubScope(sources_[origin]->name())).first;
  return it->second;
}

absl::Status GraphPart::WriteNode(int id) {
  const Node& n = body_.node(id);
  const tf::Scope& scope = ScopeOf(id < body_.num_forward ? id : n.origin);
  const std::string type(n.type());
  tf::NodeBuilder node(scope.GetUniqueNameForOp(type), type, graph_->op_registry());
  size_t next = 0;
  for (const tf::OpDef::ArgDef& arg : n.op->op_def.input_arg()) {
    std::vector<tf::NodeBuilder::NodeOut> tensors;
    for (int64_t count = ArgCount(arg, n.def->attr()); count > 0; --count) {
      const tf::Output tensor = Written(n.inputs[next++]);
      tensors.emplace_back(tensor.node(), tensor.index());
    }
    if (arg.number_attr().empty() && arg.type_list_attr().empty()) node.Input(tensors[0]);
    else node.Input(tensors);
  }
  for (const int control : n.controls) node.ControlInput(written_[control]);
  if (id < body_.num_forward)  // what it was ordered after, of what is not in the part
    for (const tf::Edge* edge : sources_[id]->in_edges())
      if (edge->IsControlEdge() && !ids_.contains(edge->src()->id())) node.ControlInput(edge->src());
  for (const auto& [name, value] : n.def->attr()) node.Attr(name, value);
  node.Device(n.def->device());
  scope.UpdateBuilder(&node);
  TF_RETURN_IF_ERROR(node.Finalize(graph_, &written_[id]));
  TF_RETURN_IF_ERROR(scope.DoShapeInference(written_[id]));
  WriteShapes(id, written_[id]);
  return absl::OkStatus();
}

// The graph would know nothing of what a call returns.
void GraphPart::WriteShapes(int id, const tf::Node* node) {
  InferenceContext* known = refiner_ == nullptr ? nullptr : refiner_->GetContext(node);
  if (known == nullptr) return;
  for (int i = 0; i < std::min(body_.node(id).num_outputs, known->num_outputs()); ++i) {
    if (!body_.FullyDefined({id, i}) || known->FullyDefined(known->output(i))) continue;
    Shape shape;
    if (known->MakeShapeFromPartialTensorShape(StaticShape(body_.output({id, i}).shape), &shape).ok())
      refiner_->SetShape(node, i, shape).IgnoreError();  // it is told, not needed
  }
}

tf::Output GraphPart::Written(Port p) const {
  if (const auto value = values_.find(p.node); value != values_.end()) p = value->second;
  return body_.node(p.node).is_arg() ? tensors_[p.node] : tf::Output(written_[p.node], p.index);
}

}  // namespace symgrad
