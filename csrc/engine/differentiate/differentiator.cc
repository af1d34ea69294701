#include "csrc/engine/differentiate/differentiator.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/body/errors.h"
#include "csrc/engine/differentiate/given.h"
#include "csrc/engine/differentiate/resources.h"
#include "csrc/engine/read/import.h"
#include "csrc/engine/read/op_function.h"
#include "csrc/engine/remat/flatten.h"
#include "csrc/engine/remat/rematerialise.h"
#include "csrc/engine/tensorflow1/flows.h"
#include "csrc/engine/vjp/row_sum.h"
#include "csrc/engine/vjp/sweep.h"
#include "csrc/engine/write/author.h"
#include "csrc/engine/write/export.h"
#include "csrc/rules/traits/arrays.h"
#include "xla/tsl/lib/strings/proto_serialization.h"

namespace symgrad {
namespace {

// Functions that call functions that … : deeper than this is taken for a mistake before it is a stack overflow.
constexpr size_t kMaxDepth = 200;

std::string MaskText(const std::vector<bool>& mask) {
  std::string text;
  for (const bool b : mask) text += b ? '1' : '0';
  return text;
}

// Equal for equal functions; plain serialization orders attrs at random.
std::string MemoKey(const google::protobuf::Message& f) {
  std::string key;
  tsl::SerializeToStringDeterministic(f, &key);
  return key;
}

// While this lives, f is being differentiated.
class Activation {
 public:
  Activation(absl::flat_hash_set<std::string>* active, std::string key)
      : active_(active), key_(std::move(key)), fresh_(active->insert(key_).second) {}
  ~Activation() {
    if (fresh_) active_->erase(key_);
  }
  Activation(const Activation&) = delete;
  absl::Status Check(const tf::NameAttrList& f) const {
    if (!fresh_)
      return absl::UnimplementedError(
          absl::StrCat("function '", f.name(), "' calls itself: recursion can't be unrolled"));
    if (active_->size() > kMaxDepth)
      return absl::ResourceExhaustedError(absl::StrCat("function '", f.name(), "' is reached through more than ",
                                                       kMaxDepth,
                                                       " nested calls, branches and loops: inline some of these"));
    return absl::OkStatus();
  }

 private:
  absl::flat_hash_set<std::string>* const active_;
  const std::string key_;
  const bool fresh_;
};

absl::StatusOr<Policy> PolicyOf(const tf::NameAttrList& f) {
  const auto it = f.attr().find(kCheckpoint);
  return ParsePolicy(it == f.attr().end() ? std::string() : it->second.s());
}

// The gradient of an argument that nothing depends on: zeros of its shape.
absl::StatusOr<V> ZerosFor(Builder* builder, int arg) {
  Body* body = builder->body();
  const Port p{arg, 0};
  builder->set_origin(-1);
  if (tf::BaseType(body->output(p).dtype) != tf::DT_RESOURCE) return zeros_like(ToValue(p));
  const auto handle = body->handles.find(body->output_index(p));
  if (handle == body->handles.end() || handle->second.empty())
    return absl::InvalidArgumentError(absl::StrCat(
        "function '", body->function, "': argument '", body->name(arg), "' is a variable that nothing depends on and ",
        "whose dtype the function does not tell: leave it out of the wanted inputs (wrt)"));
  return ZerosOf(ToValue(p), handle->second[0].dtype, tf::DT_INVALID);
}

// Resources that are no variables have no gradient: an error that names them all, if some are wanted.
absl::Status CheckResources(const Functions& functions, const tf::NameAttrList& f, const Body& body,
                            const std::vector<bool>& wrt) {
  Errors errors;
  for (size_t i = 0; i < wrt.size(); ++i) {
    if (!wrt[i] || body.output({body.args[i], 0}).dtype != tf::DT_RESOURCE) continue;
    const std::string use = UseAsOtherResource(functions, f.name(), static_cast<int>(i));
    if (!use.empty()) errors.Add(absl::StrCat("input ", i, " '", body.name(body.args[i]), "': see ", use));
  }
  if (errors.empty()) return absl::OkStatus();
  return errors.ToStatus(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat(
          "function '", f.name(), "' has inputs that are resources but no variables, and so have no gradient. ",
          "Leave them out of the wanted inputs, by attr wrt of the op, a flag for each input of the function"));
}

void SetShape(Body* body, Port p, const tf::PartialTensorShape& shape) {
  Shape known;
  if (body->shapes()->MakeShapeFromPartialTensorShape(shape, &known).ok()) body->output(p).shape = known;
}

std::vector<Port> ArgPorts(const std::vector<int>& args) {
  std::vector<Port> ports;
  for (const int arg : args) ports.push_back({arg, 0});
  return ports;
}

}  // namespace

V ZerosOf(const V& x, tf::DataType dtype, tf::DataType flow) {
  if (flow != tf::DT_INVALID) return EmptyList(static_cast<DType>(flow));
  return x.dtype() == DType::kResource ? zeros(ShapeOf(x), static_cast<DType>(dtype)) : zeros_like(x);
}

V ShapeOf(const V& x) { return x.dtype() == DType::kResource ? op("VariableShape", x) : shape(x); }

V SplitVjp::Gradient(size_t i, const V& results, const V& x) const {
  const V dx = results.out(i < finished.size() && finished[i] >= 0 ? finished[i] : gradients[i]);
  return is_rows(i) ? rows(results.out(indices[i]), dx, ShapeOf(x)) : dx;
}

absl::StatusOr<std::string> Differentiator::Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values,
                                                     std::vector<int>* indices) {
  if (const tf::OpRegistrationData* op = nullptr; Find(f.name()) == nullptr && LookUp(f.name(), &op).ok()) {
    TF_ASSIGN_OR_RETURN(tf::FunctionDef fdef, FunctionOfOp(op->op_def, f));
    tf::NameAttrList function;
    TF_ASSIGN_OR_RETURN(*function.mutable_name(), AddNamedByContent(f.name(), std::move(fdef)));
    for (const char* told : {kInputShapes, kInputDtypes, kInputValues, kCheckpoint})
      if (const auto it = f.attr().find(told); it != f.attr().end()) (*function.mutable_attr())[told] = it->second;
    return Gradient(function, std::move(wrt), values, indices);
  }
  if (f.attr().contains(kCheckpoint)) {
    TF_ASSIGN_OR_RETURN(const tf::NameAttrList flat, Flatten(this, f));
    if (flat.name() != f.name()) return Gradient(flat, std::move(wrt), values, indices);
  }
  const std::string key = absl::StrCat("gradient:", MemoKey(f), "|", MaskText(wrt), values ? "+values" : "",
                                       indices != nullptr ? "+rows" : "");
  const auto [it, added] = gradients_.try_emplace(key);
  if (!added && !it->second.empty() && indices == nullptr) return it->second;
  const Activation activation(&active_, key);
  TF_RETURN_IF_ERROR(activation.Check(f));
  if (!has_arrays_) has_arrays_ = HasArrays(*this, f.name());

  TF_ASSIGN_OR_RETURN(std::unique_ptr<Body> body, ImportFunction(this, f));
  const std::vector<int> args = body->args;
  if (wrt.empty()) wrt.assign(args.size(), true);
  if (wrt.size() != args.size())
    return absl::InvalidArgumentError(absl::StrCat("function '", f.name(), "' has ", args.size(),
                                                   " inputs, but wrt has ", wrt.size(),
                                                   " flags: give one for each input"));
  if (!GradientDef(f.name()).empty()) {
    TF_ASSIGN_OR_RETURN(const std::string given, GivenGradient(this, f, *body, wrt));
    if (indices != nullptr) indices->assign(std::count(wrt.begin(), wrt.end(), true), -1);
    return gradients_[key] = given;
  }
  TF_RETURN_IF_ERROR(CheckResources(*this, f, *body, wrt));
  Builder builder(body.get());
  Builder::Scope scope(&builder);
  const std::vector<bool> seeds(body->results.size(), true);
  TF_ASSIGN_OR_RETURN(const std::vector<V> cotangents, ReverseSweep(&builder, this, wrt, seeds, FlowSeeds::kNumbers));
  Signature signature;
  std::vector<Port> last;
  for (size_t i = 0, k = 0; i < args.size(); ++i) {
    if (!wrt[i]) continue;
    V dx = cotangents[k++];
    const bool sparse = indices != nullptr && dx.kind() == V::Kind::kRows;
    if (indices != nullptr) indices->push_back(sparse ? static_cast<int>(last.size()) : -1);
    if (sparse) last.push_back(ToPort(builder.rows(dx).indices));
    dx = sparse ? builder.rows(dx).values : builder.Dense(dx);
    if (!dx || body->flow({args[i], 0}) != tf::DT_INVALID) {
      TF_ASSIGN_OR_RETURN(dx, ZerosFor(&builder, args[i]));
    }
    TF_RETURN_IF_ERROR(builder.TakeStatus());
    signature.results.push_back(ToPort(dx));
  }
  if (values) signature.results.insert(signature.results.end(), body->results.begin(), body->results.end());
  if (indices != nullptr)
    for (int& k : *indices)
      if (k >= 0) k += static_cast<int>(signature.results.size());
  signature.results.insert(signature.results.end(), last.begin(), last.end());
  TF_ASSIGN_OR_RETURN(const Policy policy, PolicyOf(f));
  TF_RETURN_IF_ERROR(Rematerialise(*this, body.get(), policy, &signature.results));
  signature.args = ArgPorts(body->args);
  signature.keeps = values ? Keeps::kEffects : Keeps::kChecks;
  signature.results_wait = true;
  TF_RETURN_IF_ERROR(Lighten(body.get(), signature));
  tf::FunctionDef gradient = ExportFunction(*this, *body, "", signature, Find(f.name())->fdef());
  TF_ASSIGN_OR_RETURN(const std::string name, AddNamedByContent(f.name(), std::move(gradient)));
  return gradients_[key] = name;
}

absl::StatusOr<std::vector<InputGradient>> Differentiator::Inputs(const tf::NameAttrList& f) {
  if (!has_arrays_) has_arrays_ = HasArrays(*this, f.name());
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Body> body, ImportFunction(this, f));
  std::vector<InputGradient> inputs;
  std::vector<bool> wrt;
  for (size_t i = 0; i < body->args.size(); ++i) {
    const Port p{body->args[i], 0};
    tf::DataType dtype = tf::BaseType(body->output(p).dtype);
    const bool other = dtype == tf::DT_RESOURCE && !UseAsOtherResource(*this, f.name(), static_cast<int>(i)).empty();
    wrt.push_back(IsDifferentiable(dtype) && !other);
    const auto handle = body->handles.find(body->output_index(p));
    if (dtype == tf::DT_RESOURCE && !other && handle != body->handles.end() && !handle->second.empty())
      dtype = handle->second[0].dtype;
    inputs.push_back({dtype, false});
  }
  Builder builder(body.get());
  Builder::Scope scope(&builder);
  const std::vector<bool> seeds(body->results.size(), true);
  TF_ASSIGN_OR_RETURN(const std::vector<V> cotangents, ReverseSweep(&builder, this, wrt, seeds, FlowSeeds::kNumbers));
  for (size_t i = 0, k = 0; i < inputs.size(); ++i)
    if (wrt[i]) inputs[i].connected = static_cast<bool>(cotangents[k++]);
  return inputs;
}

absl::StatusOr<const SplitVjp*> Differentiator::Split(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                                      const std::vector<bool>& seeds, const LoopArguments* loop,
                                                      bool dense) {
  std::string mask = absl::StrCat(MaskText(wrt), "|", MaskText(seeds), dense ? "|dense" : "");
  if (loop != nullptr)
    absl::StrAppend(&mask, "|", MaskText(loop->invariant), "|", MaskText(loop->counter), "|", MaskText(loop->written));
  const std::string memo = absl::StrCat(MemoKey(f), "|", mask);
  const auto found = splits_.find(memo);
  if (found != splits_.end()) return &found->second;
  const Activation activation(&active_, absl::StrCat("split:", memo));
  TF_RETURN_IF_ERROR(activation.Check(f));
  TF_ASSIGN_OR_RETURN(SplitVjp split, BuildSplit(f, wrt, seeds, loop, dense));
  return &splits_.emplace(memo, std::move(split)).first->second;
}

absl::StatusOr<const SplitVjp*> Differentiator::Split(const tf::NameAttrList& f, const std::vector<bool>& wrt) {
  if (f.attr().contains(kCheckpoint)) {
    TF_ASSIGN_OR_RETURN(const tf::NameAttrList flat, Flatten(this, f));
    if (flat.name() != f.name()) return Split(flat, wrt);
  }
  if (!has_arrays_) has_arrays_ = HasArrays(*this, f.name());
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<Body> body, ImportFunction(this, f));
  TF_RETURN_IF_ERROR(CheckResources(*this, f, *body, wrt));
  return Split(f, wrt, std::vector<bool>(body->results.size(), true), nullptr, /*dense=*/true);
}

absl::StatusOr<SplitVjp> Differentiator::BuildSplit(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                                    const std::vector<bool>& seeds, const LoopArguments* loop,
                                                    bool dense) {
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Body> body, ImportFunction(this, f));
  const std::vector<int> args = body->args;
  if (wrt.size() != args.size() || seeds.size() != body->results.size())
    return absl::InvalidArgumentError(absl::StrCat("function '", f.name(), "' is called with ", wrt.size(),
                                                   " inputs and ", seeds.size(), " outputs, but has ", args.size(),
                                                   " and ", body->results.size()));
  if (!GradientDef(f.name()).empty()) return SplitGiven(this, f, *body, wrt, seeds);
  Builder builder(body.get());
  Builder::Scope scope(&builder);
  TF_ASSIGN_OR_RETURN(const std::vector<V> cotangents, ReverseSweep(&builder, this, wrt, seeds, FlowSeeds::kLists));

  std::vector<int> inputs;      // those that have a gradient
  std::vector<Port> gradients;  // of rows the values
  std::vector<V> indices;       // of rows, else `none`
  for (size_t i = 0, k = 0; i < args.size(); ++i) {
    if (!wrt[i]) continue;
    V dx = cotangents[k++];
    // A loop adds up the gradients of its iterations.
    const bool sparse = !dense && loop == nullptr && dx.kind() == V::Kind::kRows;
    indices.push_back(sparse ? builder.rows(dx).indices : none);
    dx = sparse ? builder.rows(dx).values : builder.Dense(dx);
    TF_RETURN_IF_ERROR(builder.TakeStatus());
    if (!dx) {
      indices.pop_back();
      continue;
    }
    inputs.push_back(static_cast<int>(i));
    gradients.push_back(ToPort(dx));
  }

  SplitVjp split;
  Signature forward, pullback, finish;
  split.gradients.assign(args.size(), -1);
  split.finished.assign(args.size(), -1);
  split.indices.assign(args.size(), -1);
  std::vector<bool> invariant;
  for (const int i : inputs) invariant.push_back(loop != nullptr && loop->invariant[i]);
  const RowSums sums = FindRowSums(body.get(), gradients, invariant);
  for (size_t k = 0; k < gradients.size(); ++k) {
    const bool sparse = static_cast<bool>(indices[k]), late = sums.transformed[k];
    std::vector<Port>& results = late ? finish.results : pullback.results;
    (late ? split.finished : split.gradients)[inputs[k]] = static_cast<int>(results.size());
    if (sparse) split.indices[inputs[k]] = static_cast<int>(results.size()) + 1;
    std::vector<Port> returned = {gradients[k]};
    if (sparse) returned.push_back(ToPort(indices[k]));
    for (const Port& p : returned) {
      (late ? split.finished_dtypes : split.gradient_dtypes).push_back(tf::BaseType(body->output(p).dtype));
      if (!late) split.gradient_shapes.push_back(StaticShape(body->output(p).shape));
      results.push_back(p);
    }
  }
  for (const Port& p : sums.operands) {
    pullback.results.push_back(p);
    finish.args.push_back(p);
    split.operands.push_back(tf::BaseType(body->output(p).dtype));
    split.operand_shapes.push_back(StaticShape(body->output(p).shape));
  }

  TF_ASSIGN_OR_RETURN(const Policy policy, PolicyOf(f));
  TF_RETURN_IF_ERROR(Rematerialise(*this, body.get(), policy, &pullback.results));
  const Cut cut = CutBody(*this, *body, pullback.results, loop);
  for (size_t i = 0; i < args.size(); ++i) {
    forward.args.push_back({args[i], 0});
    if (!cut.args[i]) continue;
    split.args.push_back(static_cast<int>(i));
    pullback.args.push_back({args[i], 0});
  }
  forward.results = body->results;
  for (const Port& p : body->results) split.results.push_back(tf::BaseType(body->output(p).dtype));
  for (const Port& p : cut.residuals) {
    forward.results.push_back(p);
    pullback.args.push_back(p);
    split.residuals.push_back(tf::BaseType(body->output(p).dtype));
    split.residual_shapes.push_back(StaticShape(body->output(p).shape));
    const auto result = std::find_if(body->results.begin(), body->results.end(),
                                     [&](Port q) { return Origin(*body, q) == Origin(*body, p); });
    split.residual_results.push_back(result == body->results.end() ? -1
                                                                   : static_cast<int>(result - body->results.begin()));
  }
  for (const Port& p : cut.invariants) {
    pullback.args.push_back(p);
    split.invariant_dtypes.push_back(tf::BaseType(body->output(p).dtype));
    split.invariant_shapes.push_back(StaticShape(body->output(p).shape));
  }
  for (size_t i = args.size(); i < body->args.size(); ++i) pullback.args.push_back({body->args[i], 0});

  const auto write = [&](const char* half, const Signature& signature, const tf::FunctionDef& source, bool* stateful) {
    tf::FunctionDef fdef = ExportFunction(*this, *body, "", signature, source);
    if (stateful != nullptr) *stateful = fdef.signature().is_stateful();
    return AddNamedByContent(absl::StrCat(half, "_", f.name()), std::move(fdef));
  };
  const auto source = Find(f.name());
  TF_RETURN_IF_ERROR(WriteForward(body.get(), forward, f.name(), &split));
  TF_ASSIGN_OR_RETURN(split.pullback, write("pullback", pullback, source->fdef(), &split.stateful_pullback));
  if (!finish.args.empty()) {
    TF_ASSIGN_OR_RETURN(split.finish, write("finish", finish, tf::FunctionDef(), nullptr));
  }
  if (!cut.invariants.empty()) {
    Signature invariants{{}, cut.invariants};
    for (size_t i = 0; i < args.size(); ++i)
      if (loop->invariant[i]) invariants.args.push_back({args[i], 0});
    TF_ASSIGN_OR_RETURN(split.invariants,
                        write("invariants", invariants, tf::FunctionDef(), &split.stateful_invariants));
  }
  return split;
}

// The forward half, and the one that has all effects, where that is another.
absl::Status Differentiator::WriteForward(Body* body, Signature forward, const std::string& f, SplitVjp* split) {
  const auto source = Find(f);
  forward.keeps = Keeps::kChecks;
  TF_RETURN_IF_ERROR(Lighten(body, forward));
  tf::FunctionDef least = ExportFunction(*this, *body, "", forward, source->fdef());
  split->stateful_forward = split->stateful_whole = least.signature().is_stateful();
  TF_ASSIGN_OR_RETURN(split->forward, AddNamedByContent(absl::StrCat("forward_", f), std::move(least)));
  split->whole = split->forward;
  if (!(EffectsOf(f) & kChanges)) return absl::OkStatus();
  forward.keeps = Keeps::kEffects;
  tf::FunctionDef whole = ExportFunction(*this, *body, "", forward, source->fdef());
  split->stateful_whole = whole.signature().is_stateful();
  // Where the two are equal, so are their names.
  TF_ASSIGN_OR_RETURN(split->whole, AddNamedByContent(absl::StrCat("forward_", f), std::move(whole)));
  return absl::OkStatus();
}

absl::Status Differentiator::Lighten(Body* body, const Signature& signature) {
  std::vector<int> changing;
  for (int id = 0; id < body->num_forward; ++id) {
    const Node& n = body->node(id);
    if (!n.is_arg() && IsStructure(*n.def, *n.op) && !body->whole.contains(id) && EffectsOf(n) & kChanges)
      changing.push_back(id);
  }
  if (changing.empty()) return absl::OkStatus();
  const Part part = FindPart(*this, *body, signature);
  for (const int id : changing) {
    if (!part.kept[id] || part.awaited[id]) continue;
    Frame frame;
    frame.node = id;
    frame.cotangents.resize(body->node(id).num_outputs);
    frame.wants.resize(body->node(id).inputs.size(), false);
    const absl::StatusOr<SplitVjp> split = SplitNode(*body, frame);
    // What can't be split can be run as it is.
    if (split.ok() && split->whole != split->forward) TF_RETURN_IF_ERROR(ReplaceByForward(body, id, *split));
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitVjp> Differentiator::SplitNode(const Body& body, const Frame& frame) {
  const Node& node = body.node(frame.node);
  if (IsLoop(*node.def)) return SplitLoop(this, body, frame);
  if (node.type() == "RemoteCall") return SplitRemote(this, body, frame);
  if (!IsCall(*node.def, *node.op)) return SplitBranch(this, body, frame);
  std::vector<bool> seeds;
  for (const V& dy : frame.cotangents) seeds.push_back(static_cast<bool>(dy));
  tf::NameAttrList callee = WithInputs(Callee(*node.def), body, node.inputs);
  const auto compiled = node.def->attr().find("_XlaMustCompile");
  if (compiled != node.def->attr().end() && compiled->second.b()) (*callee.mutable_attr())[kCompiled].set_b(true);
  TF_ASSIGN_OR_RETURN(const SplitVjp* split, Split(callee, frame.wants, seeds));
  return *split;
}

absl::Status Differentiator::ReplaceByForward(Body* body, int node, const SplitVjp& split) {
  Node& call = body->node(node);
  tf::DataTypeVector inputs, outputs = split.results;
  for (const Port& p : call.inputs) inputs.push_back(tf::BaseType(body->output(p).dtype));
  outputs.insert(outputs.end(), split.residuals.begin(), split.residuals.end());
  const bool stays_stateful =
      IsCall(*call.def, *call.op) && call.op->op_def.is_stateful() && split.whole == split.forward;
  const auto write = [&](const std::string& f, bool stateful) -> absl::StatusOr<Body::Call> {
    tf::NodeDef* def = body->NewDef();
    def->set_name(call.def->name());
    def->set_device(call.def->device());
    def->set_op(stateful ? "StatefulPartitionedCall" : "PartitionedCall");
    CopyRuntimeAttrs(*call.def, def);
    auto& attrs = *def->mutable_attr();
    attrs["f"].mutable_func()->set_name(f);
    SetTypes(inputs, &attrs["Tin"]);
    SetTypes(outputs, &attrs["Tout"]);
    Body::Call written{nullptr, def};
    TF_RETURN_IF_ERROR(LookUp(def->op(), &written.op));
    tf::AddDefaultsToNodeDef(written.op->op_def, def);
    return written;
  };
  TF_ASSIGN_OR_RETURN(const Body::Call forward, write(split.forward, split.stateful_forward || stays_stateful));
  if (split.whole != split.forward) {
    TF_ASSIGN_OR_RETURN(body->whole[node], write(split.whole, split.stateful_whole));
  }
  call.op = forward.op;
  call.def = forward.def;
  body->ReplaceOutputs(node, outputs);
  for (size_t i = 0; i < split.residuals.size(); ++i) {
    const Port residual{node, static_cast<int>(split.results.size() + i)};
    SetShape(body, residual, split.residual_shapes[i]);
  }
  return absl::OkStatus();
}

absl::StatusOr<Grads> Differentiator::StructureGradient(Builder* builder, const Frame& frame) {
  Body* body = builder->body();
  Node& call = body->node(frame.node);
  TF_ASSIGN_OR_RETURN(const SplitVjp vjp, SplitNode(*body, frame));
  const SplitVjp* const split = &vjp;
  if (split->gradient_dtypes.empty()) return Grads(call.inputs.size());

  // The forward call now returns residuals, too, unless they are results of it anyway.
  const auto result_of = [&](size_t residual) {
    return residual < split->residual_results.size() ? split->residual_results[residual] : -1;
  };
  bool has_all = true;
  for (size_t i = 0; i < split->residuals.size(); ++i) has_all = has_all && result_of(i) >= 0;
  if (!has_all || split->whole != split->forward) TF_RETURN_IF_ERROR(ReplaceByForward(body, frame.node, *split));

  std::vector<V> inputs;
  for (const int i : split->args) inputs.push_back(ToValue(call.inputs[i]));
  for (size_t i = 0; i < split->residuals.size(); ++i)
    inputs.push_back(V::Tensor(frame.node, has_all ? result_of(i) : static_cast<int>(split->results.size() + i)));
  for (const V& dy : frame.cotangents)
    if (dy) inputs.push_back(dy);
  const V pullback = builder->Call(split->pullback, split->stateful_pullback, inputs, split->gradient_dtypes, call.def);
  TF_RETURN_IF_ERROR(builder->TakeStatus());
  for (size_t k = 0; k < split->gradient_shapes.size(); ++k)
    SetShape(body, ToPort(pullback.out(static_cast<int>(k))), split->gradient_shapes[k]);
  Grads grads(call.inputs.size());
  for (size_t i = 0; i < grads.size(); ++i)
    if (split->gradients[i] >= 0) grads[i] = split->Gradient(i, pullback, ToValue(call.inputs[i]));
  return grads;
}

absl::StatusOr<Grads> Differentiator::CustomGradient(Builder* builder, const Frame& frame) {
  Body* body = builder->body();
  const Node& node = body->node(frame.node);
  const auto& attrs = node.def->attr();
  const std::string& name = attrs.at(kCustomGradient).func().name();
  const auto record = Find(name);
  if (record == nullptr)
    return absl::NotFoundError(absl::StrCat("its gradient function '", name, "' is not in the library"));
  const tf::OpDef& signature = record->fdef().signature();

  Values inputs;
  if (const auto it = body->custom_inputs.find(frame.node); it != body->custom_inputs.end())
    for (const Port& p : it->second) inputs.push_back(ToValue(p));
  for (int i = 0; i < node.num_outputs; ++i)
    inputs.push_back(frame.cotangents[i] ? builder->Dense(frame.cotangents[i]) : zeros_like(V::Tensor(frame.node, i)));
  TF_RETURN_IF_ERROR(builder->TakeStatus());
  bool fits = signature.input_arg_size() == static_cast<int>(inputs.size());
  for (size_t i = 0; fits && i < inputs.size(); ++i)
    fits = signature.input_arg(static_cast<int>(i)).type() == tf::BaseType(ToTf(inputs[i].dtype()));
  if (!fits)
    return absl::InvalidArgumentError(absl::StrCat("its gradient function '", name, "' must take ", inputs.size(),
                                                   " tensors: those that ", kCustomInputs,
                                                   " names, and the cotangents"));
  tf::DataTypeVector dtypes;
  for (const auto& arg : signature.output_arg()) dtypes.push_back(arg.type());
  const V call = builder->Call(name, signature.is_stateful(), inputs, dtypes);
  TF_RETURN_IF_ERROR(builder->TakeStatus());
  Grads grads(node.inputs.size());
  const auto outputs = attrs.find(kCustomOutputs);
  for (size_t i = 0; i < grads.size(); ++i) {
    int64_t output = static_cast<int64_t>(i);
    if (outputs != attrs.end())
      output =
          static_cast<int>(i) < outputs->second.list().i_size() ? outputs->second.list().i(static_cast<int>(i)) : -1;
    if (output >= 0 && output < static_cast<int64_t>(dtypes.size())) grads[i] = call.out(static_cast<int>(output));
  }
  return grads;
}

const std::vector<ResultFacts>& Differentiator::FactsOfResults(const tf::NameAttrList& f) {
  const std::string key = MemoKey(f);
  const auto [it, added] = result_facts_.try_emplace(key);
  static const std::vector<ResultFacts> unknown;
  if (!added || active_.size() > kMaxDepth) return it->second;  // empty while f itself is being read: recursion
  const Activation activation(&active_, absl::StrCat("facts:", key));
  const absl::StatusOr<std::unique_ptr<Body>> body = ImportFunction(this, f);
  if (!body.ok()) return unknown;  // whoever differentiates the call reports it
  std::vector<ResultFacts> facts;
  for (const Port& p : (*body)->results) {
    const Output& result = (*body)->output(p);
    facts.push_back({StaticShape(result.shape), nullptr});
    if (result.ints == nullptr || !result.ints->known()) continue;
    auto ints = std::make_shared<Ints>(*result.ints);
    for (Ints::Element& e : ints->elements) e.dim = {};  // which dies with the body
    facts.back().ints = std::move(ints);
  }
  return result_facts_[key] = std::move(facts);
}

const Flows& Differentiator::FlowsOf(const tf::NameAttrList& f) {
  static const Flows none;
  const std::string key = MemoKey(f);
  const auto [it, added] = flows_.try_emplace(key);
  if (!added || active_.size() > kMaxDepth) return it->second;  // empty while f itself is being read: recursion
  const Activation activation(&active_, absl::StrCat("flows:", key));
  const absl::StatusOr<std::unique_ptr<Body>> body = ImportFunction(this, f);
  if (!body.ok()) return none;  // whoever differentiates the call reports it
  return flows_[key] = FindFlows(this, body->get());
}

}  // namespace symgrad
