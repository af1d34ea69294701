#include "csrc/engine/differentiate/node_gradients.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/emit/literal.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/library/effects.h"
#include "csrc/engine/loops/loop.h"
#include "csrc/engine/structure/structure.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/write/author.h"

namespace symgrad {
namespace {

void SetShape(Body* body, Port p, const tf::PartialTensorShape& shape) {
  Shape known;
  if (body->shapes()->MakeShapeFromPartialTensorShape(shape, &known).ok()) body->output(p).shape = known;
}

using Args = google::protobuf::RepeatedPtrField<tf::OpDef::ArgDef>;

// Whether tensors of these dtypes may stand for a function's arguments or results: whoever splits it counts them, and
// knows what attrs make of it.
bool Fit(const tf::DataTypeVector& dtypes, const Args& args) {
  return static_cast<int>(dtypes.size()) != args.size() ||
         std::equal(args.begin(), args.end(), dtypes.begin(), [](const tf::OpDef::ArgDef& arg, tf::DataType dtype) {
           return arg.type() == tf::DT_INVALID || tf::BaseType(arg.type()) == tf::BaseType(dtype);
         });
}

// TensorFlow compares what a node says of its functions with what they are when it runs them.
absl::Status CheckFunctions(const Functions& functions, const Body& body, int id) {
  const Node& node = body.node(id);
  tf::DataTypeVector inputs, outputs;
  for (const Port& p : node.inputs) inputs.push_back(body.output(p).dtype);
  for (int i = 0; i < node.num_outputs; ++i) outputs.push_back(body.output({id, i}).dtype);
  std::vector<tf::NameAttrList> called;
  if (IsBranch(*node.def)) called = Branches(*node.def);
  else called = {IsLoop(*node.def) ? node.def->attr().at("body").func() : Callee(*node.def)};
  if (IsBranch(*node.def) || node.type() == "RemoteCall") inputs.erase(inputs.begin());  // which branch, or where
  for (const tf::NameAttrList& f : called) {
    const auto record = functions.Find(f.name());
    if (record == nullptr) continue;
    const tf::OpDef& signature = record->signature();
    if (!Fit(inputs, signature.input_arg()) || !Fit(outputs, signature.output_arg()))
      return absl::InvalidArgumentError(absl::StrCat("it maps ", tf::DataTypeVectorString(inputs), " to ",
                                                     tf::DataTypeVectorString(outputs), ", but its function '",
                                                     f.name(), "' has other dtypes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitVjp> SplitCall(Splitter* splitter, const Body& body, const VjpQuery& query) {
  const Node& node = body.node(query.node);
  std::vector<bool> seeds;
  for (const V& dy : query.cotangents) seeds.push_back(static_cast<bool>(dy));
  tf::NameAttrList callee = WithInputs(Callee(*node.def), body, node.inputs);
  const auto compiled = node.def->attr().find("_XlaMustCompile");
  if (compiled != node.def->attr().end() && compiled->second.b()) (*callee.mutable_attr())[kCompiled].set_b(true);
  TF_ASSIGN_OR_RETURN(const SplitVjp* split, splitter->Split(callee, query.wants, seeds));
  return *split;
}

absl::StatusOr<SplitVjp> SplitCallInPlace(Splitter* splitter, const Body& body, const VjpQuery& query,
                                          InPlace* in_place) {
  TF_ASSIGN_OR_RETURN(SplitVjp split, SplitCall(splitter, body, query));
  in_place->def = *body.node(query.node).def;
  in_place->outputs.assign(split.forward.results.begin() + static_cast<int>(split.num_results),
                           split.forward.results.end());
  if (in_place->outputs.empty()) return split;
  auto& attrs = *in_place->def.mutable_attr();
  attrs["f"].mutable_func()->set_name(split.whole.name);
  SetTypes(Dtypes(split.whole.results), &attrs["Tout"]);
  return split;
}

// The halves of the node that the query is of.
absl::StatusOr<SplitVjp> SplitNode(Splitter* splitter, const Body& body, const VjpQuery& query,
                                   InPlace* in_place = nullptr) {
  const Node& node = body.node(query.node);
  TF_RETURN_IF_ERROR(CheckFunctions(*splitter, body, query.node));
  if (in_place != nullptr) *in_place = InPlace();
  if (IsLoop(*node.def)) return SplitLoop(splitter, body, query, in_place);
  if (node.type() == "RemoteCall") return SplitRemote(splitter, body, query);
  if (!IsCall(*node.def, *node.op)) return SplitBranch(splitter, body, query, in_place);
  return in_place == nullptr ? SplitCall(splitter, body, query) : SplitCallInPlace(splitter, body, query, in_place);
}

// A call of a half, with the name and the place of the node whose function has that half.
absl::StatusOr<Body::Call> CallOf(const Functions& functions, Body* body, const Node& node, const Callable& half) {
  tf::DataTypeVector inputs;
  for (const Port& p : node.inputs) inputs.push_back(tf::BaseType(body->output(p).dtype));
  tf::NodeDef* def = body->NewDef();
  def->set_name(node.def->name());
  def->set_device(node.def->device());
  def->set_op(half.stateful ? "StatefulPartitionedCall" : "PartitionedCall");
  CopyRuntimeAttrs(*node.def, def);
  auto& attrs = *def->mutable_attr();
  attrs["f"].mutable_func()->set_name(half.name);
  SetTypes(inputs, &attrs["Tin"]);
  SetTypes(Dtypes(half.results), &attrs["Tout"]);
  Body::Call call{nullptr, def};
  TF_RETURN_IF_ERROR(functions.LookUp(def->op(), &call.op));
  tf::AddDefaultsToNodeDef(call.op->op_def, def);
  return call;
}

// Puts the forward half in the place of a node, and what does all (see Body::whole) beside it.
absl::Status ReplaceByForward(const Functions& functions, Body* body, int node, const SplitVjp& split) {
  Node& call = body->node(node);
  const bool does_all = split.whole.name == split.forward.name;
  Callable half = split.forward;
  half.stateful |= does_all && IsCall(*call.def, *call.op) && call.op->op_def.is_stateful();
  TF_ASSIGN_OR_RETURN(const Body::Call forward, CallOf(functions, body, call, half));
  if (!does_all) {
    TF_ASSIGN_OR_RETURN(body->whole[node], CallOf(functions, body, call, split.whole));
  }
  call.op = forward.op;
  call.def = forward.def;
  body->ReplaceOutputs(node, Dtypes(half.results));
  for (size_t i = split.num_results; i < half.results.size(); ++i)
    SetShape(body, {node, static_cast<int>(i)}, half.results[i].shape);
  return absl::OkStatus();
}

// Calls the pullback of a node, which is its forward half now.
absl::StatusOr<Grads> PullBack(Builder* builder, const VjpQuery& query, const SplitVjp& split) {
  Body* body = builder->body();
  const Node& call = body->node(query.node);
  std::vector<V> inputs;
  for (const int i : split.args) inputs.push_back(ToValue(call.inputs[i]));
  for (const int i : split.residuals) inputs.push_back(V::Tensor(query.node, i));
  for (const V& dy : query.cotangents)
    if (dy) inputs.push_back(dy);
  const V pullback = builder->Call(split.pullback, inputs, call.def);
  TF_RETURN_IF_ERROR(builder->TakeStatus());
  for (size_t k = 0; k < split.pullback.results.size(); ++k)
    SetShape(body, ToPort(pullback.out(static_cast<int>(k))), split.pullback.results[k].shape);
  Grads grads(call.inputs.size());
  for (size_t i = 0; i < grads.size(); ++i)
    if (split.gradients[i].exists()) grads[i] = split.Gradient(i, pullback, ToValue(call.inputs[i]));
  return grads;
}

// Whether an input that a gradient is wanted of has none.
bool LacksGradients(const SplitVjp& split, const VjpQuery& query) {
  for (size_t i = 0; i < query.wants.size(); ++i)
    if (query.wants[i] && (i >= split.gradients.size() || !split.gradients[i].exists())) return true;
  return false;
}

// The query with zeros where an output has no cotangent.
VjpQuery WithZeros(const Body& body, VjpQuery query) {
  for (size_t i = 0; i < query.cotangents.size(); ++i) {
    const Port y{query.node, static_cast<int>(i)};
    const tf::DataType dtype = tf::BaseType(body.output(y).dtype);
    const bool carries = IsDifferentiable(dtype) && dtype != tf::DT_RESOURCE;
    if (!query.cotangents[i] && carries) query.cotangents[i] = ZerosOf(ToValue(y), dtype, body.flow_element(y));
  }
  return query;
}

// The node now returns residuals, too, unless they are results of it anyway.
absl::Status BecomeForward(const Functions& functions, Body* body, int node, const SplitVjp& split) {
  const bool same = split.forward.results.size() == split.num_results && split.whole.name == split.forward.name;
  return same ? absl::OkStatus() : ReplaceByForward(functions, body, node, split);
}

void AddOutputs(Body* body, int node, InPlace* in_place) {
  tf::DataTypeVector dtypes;
  for (int i = 0; i < body->node(node).num_outputs; ++i) dtypes.push_back(body->output({node, i}).dtype);
  const size_t n = dtypes.size();
  for (const TensorSpec& output : in_place->outputs) dtypes.push_back(output.dtype);
  body->ReplaceOutputs(node, dtypes);
  for (size_t i = n; i < dtypes.size(); ++i)
    SetShape(body, {node, static_cast<int>(i)}, in_place->outputs[i - n].shape);
  const auto shapes = in_place->def.mutable_attr()->find("output_shapes");
  if (shapes == in_place->def.mutable_attr()->end() || shapes->second.list().shape_size() != static_cast<int>(n))
    return;
  for (const TensorSpec& output : in_place->outputs) output.shape.AsProto(shapes->second.mutable_list()->add_shape());
}

// Zeros for an input of a loop that nothing depends on.
absl::StatusOr<V> ZerosFor(const Body& body, Port x) {
  tf::DataType dtype = tf::BaseType(body.output(x).dtype);
  if (dtype == tf::DT_RESOURCE) {
    const auto handle = body.handles.find(body.output_index(x));
    if (handle == body.handles.end() || handle->second.empty())
      return absl::UnimplementedError("of a variable that it takes, the dtype is not known");
    dtype = handle->second[0].dtype;
    if (!IsDifferentiable(dtype)) return none;
  }
  return ZerosOf(ToValue(x), dtype, body.flow_element(x));
}

}  // namespace

absl::StatusOr<Grads> StructureGradient(Splitter* splitter, Builder* builder, const VjpQuery& query) {
  TF_ASSIGN_OR_RETURN(const SplitVjp split, SplitNode(splitter, *builder->body(), query));
  if (!split.has_pullback()) return Grads(query.wants.size());
  TF_RETURN_IF_ERROR(BecomeForward(*splitter, builder->body(), query.node, split));
  return PullBack(builder, query, split);
}

absl::StatusOr<Grads> StructureGradientAsPython(Splitter* splitter, Builder* builder, VjpQuery query,
                                                InPlace* in_place) {
  Body* body = builder->body();
  const Node& node = body->node(query.node);
  const bool loop = IsLoop(*node.def);
  query.as_python = true;
  TF_ASSIGN_OR_RETURN(SplitVjp split, SplitNode(splitter, *body, query, in_place));
  if (!loop && LacksGradients(split, query)) {
    query = WithZeros(*body, query);
    TF_ASSIGN_OR_RETURN(split, SplitNode(splitter, *body, query, in_place));
  }
  Grads grads(query.wants.size());
  if (split.has_pullback()) {
    if (in_place != nullptr) AddOutputs(body, query.node, in_place);
    else TF_RETURN_IF_ERROR(BecomeForward(*splitter, body, query.node, split));
    TF_ASSIGN_OR_RETURN(grads, PullBack(builder, query, split));
  } else if (in_place != nullptr) {
    *in_place = InPlace();
  }
  for (size_t i = 0; loop && i < grads.size(); ++i) {
    if (grads[i]) {
      grads[i] = builder->Dense(grads[i]);
    } else if (query.wants[i]) {
      TF_ASSIGN_OR_RETURN(grads[i], ZerosFor(*body, node.inputs[i]));
    }
  }
  return grads;
}

absl::Status Lighten(Splitter* splitter, Body* body, const Signature& signature) {
  std::vector<int> changing;
  for (int id = 0; id < body->num_forward; ++id) {
    const Node& n = body->node(id);
    if (!n.is_arg() && IsStructure(*n.def, *n.op) && !body->whole.contains(id) && splitter->EffectsOf(n) & kChanges)
      changing.push_back(id);
  }
  if (changing.empty()) return absl::OkStatus();
  const Part part = FindPart(*splitter, *body, signature);
  for (const int id : changing) {
    if (!part.kept[id] || part.awaited[id]) continue;
    VjpQuery query;
    query.node = id;
    query.cotangents.resize(body->node(id).num_outputs);
    query.wants.resize(body->node(id).inputs.size(), false);
    const absl::StatusOr<SplitVjp> split = SplitNode(splitter, *body, query);
    // What can't be split can be run as it is.
    if (split.ok() && split->whole.name != split->forward.name)
      TF_RETURN_IF_ERROR(ReplaceByForward(*splitter, body, id, *split));
  }
  return absl::OkStatus();
}

absl::StatusOr<Grads> CustomGradient(const Functions& functions, Builder* builder, const VjpQuery& query) {
  Body* body = builder->body();
  const Node& node = body->node(query.node);
  const auto& attrs = node.def->attr();
  const std::string& name = attrs.at(kCustomGradient).func().name();
  const tf::FunctionDef* fdef = functions.Find(name);
  if (fdef == nullptr)
    return absl::NotFoundError(absl::StrCat("its gradient function '", name, "' is not in the library"));
  const tf::OpDef& signature = fdef->signature();

  Values inputs;
  if (const auto it = body->custom_inputs.find(query.node); it != body->custom_inputs.end())
    for (const Port& p : it->second) inputs.push_back(ToValue(p));
  for (int i = 0; i < node.num_outputs; ++i)
    inputs.push_back(query.cotangents[i] ? builder->Dense(query.cotangents[i]) : zeros_like(V::Tensor(query.node, i)));
  TF_RETURN_IF_ERROR(builder->TakeStatus());
  bool fits = signature.input_arg_size() == static_cast<int>(inputs.size());
  for (size_t i = 0; fits && i < inputs.size(); ++i)
    fits = signature.input_arg(static_cast<int>(i)).type() == ToTf(inputs[i].dtype());
  if (!fits)
    return absl::InvalidArgumentError(absl::StrCat("its gradient function '", name, "' must take ", inputs.size(),
                                                   " tensors: those that ", kCustomInputs,
                                                   " names, and the cotangents"));
  Callable gradient{name, signature.is_stateful(), {}};
  for (const auto& arg : signature.output_arg()) gradient.results.push_back({arg.type(), tf::PartialTensorShape()});
  const V call = builder->Call(gradient, inputs);
  TF_RETURN_IF_ERROR(builder->TakeStatus());
  Grads grads(node.inputs.size());
  const auto outputs = attrs.find(kCustomOutputs);
  for (size_t i = 0; i < grads.size(); ++i) {
    int64_t output = static_cast<int64_t>(i);
    if (outputs != attrs.end())
      output =
          static_cast<int>(i) < outputs->second.list().i_size() ? outputs->second.list().i(static_cast<int>(i)) : -1;
    if (output == kMisshapen) grads[i] = V::Missing("the one that its custom gradient gives has another shape");
    else if (output >= 0 && output < static_cast<int64_t>(gradient.results.size()))
      grads[i] = call.out(static_cast<int>(output));
  }
  return grads;
}

}  // namespace symgrad
