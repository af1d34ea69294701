#include "csrc/engine/differentiate/differentiator.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "csrc/engine/differentiate/given.h"
#include "csrc/engine/differentiate/node_gradients.h"
#include "csrc/engine/differentiate/resources.h"
#include "csrc/engine/differentiate/split_function.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/engine/facts/known_inputs.h"
#include "csrc/engine/flatten/flatten.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/read/import.h"
#include "csrc/engine/read/op_function.h"
#include "csrc/engine/remat/rematerialise.h"
#include "csrc/engine/tensorflow1/flows.h"
#include "csrc/engine/vjp/cotangent.h"
#include "csrc/engine/write/export.h"
#include "csrc/rules/traits/trait.h"

namespace symgrad {
namespace {

// Functions that call functions that … : deeper than this is taken for a mistake before it is a stack overflow.
constexpr size_t kMaxDepth = 200;

std::string MaskText(const std::vector<bool>& mask) {
  std::string text;
  for (const bool b : mask) text += b ? '1' : '0';
  return text;
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

std::vector<Port> ArgPorts(const std::vector<int>& args) {
  std::vector<Port> ports;
  for (const int arg : args) ports.push_back({arg, 0});
  return ports;
}

}  // namespace

absl::StatusOr<std::string> Differentiator::Gradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values,
                                                     std::vector<int>* indices) {
  if (const tf::OpRegistrationData* op = nullptr; Find(f.name()) == nullptr && LookUp(f.name(), &op).ok()) {
    TF_ASSIGN_OR_RETURN(const tf::NameAttrList function, AddOpFunction(op->op_def, f));
    return Gradient(function, std::move(wrt), values, indices);
  }
  const std::string key = absl::StrCat("gradient:", ContentText(f), "|", MaskText(wrt), values ? "+values" : "",
                                       indices != nullptr ? "+rows" : "");
  const auto [it, added] = gradients_.try_emplace(key);
  if (!added && !it->second.empty() && indices == nullptr) return it->second;
  if (const auto failed = failed_.find(key); failed != failed_.end()) return failed->second;
  const Activation activation(&active_, key);
  TF_RETURN_IF_ERROR(activation.Check(f));
  const absl::StatusOr<std::string> gradient = MakeGradient(f, std::move(wrt), values, indices);
  if (gradient.ok()) gradients_[key] = *gradient;
  else failed_[key] = gradient.status();
  return gradient;
}

absl::StatusOr<std::string> Differentiator::MakeGradient(const tf::NameAttrList& f, std::vector<bool> wrt, bool values,
                                                         std::vector<int>* indices) {
  if (f.attr().contains(kCheckpoint)) {
    TF_ASSIGN_OR_RETURN(const tf::NameAttrList flat, Flatten(this, f));
    if (flat.name() != f.name()) return Gradient(flat, std::move(wrt), values, indices);
  }
  LookForArrays(f);

  TF_ASSIGN_OR_RETURN(std::unique_ptr<Body> body, ImportFunction(this, f));
  if (wrt.empty()) wrt.assign(body->args.size(), true);
  if (wrt.size() != body->args.size())
    return absl::InvalidArgumentError(absl::StrCat("function '", f.name(), "' has ", body->args.size(),
                                                   " inputs, but wrt has ", wrt.size(),
                                                   " flags: give one for each input"));
  if (!GradientDef(f.name()).empty()) {
    TF_ASSIGN_OR_RETURN(std::string given, GivenGradient(this, f, *body, wrt));
    if (indices != nullptr) indices->assign(std::count(wrt.begin(), wrt.end(), true), -1);
    return given;
  }
  TF_RETURN_IF_ERROR(CheckResources(*this, f, *body, wrt));
  TF_ASSIGN_OR_RETURN(Signature signature, Differentiate(body.get(), wrt, values, indices));
  TF_ASSIGN_OR_RETURN(const Policy policy, PolicyOf(f));
  TF_RETURN_IF_ERROR(Rematerialise(*this, body.get(), policy, &signature.results));
  TF_RETURN_IF_ERROR(Lighten(this, body.get(), signature));
  TF_ASSIGN_OR_RETURN(const Callable gradient, WriteFunction(this, *body, f.name(), signature, *Find(f.name())));
  return gradient.name;
}

absl::StatusOr<tf::NameAttrList> Differentiator::AddOpFunction(const tf::OpDef& op, const tf::NameAttrList& f) {
  TF_ASSIGN_OR_RETURN(tf::FunctionDef fdef, FunctionOfOp(op, f));
  tf::NameAttrList function;
  TF_ASSIGN_OR_RETURN(*function.mutable_name(),
                      AddNamedByContent(f.name(), std::make_shared<tf::FunctionDef>(std::move(fdef))));
  for (const char* known : {kInputShapes, kInputDtypes, kInputValues, kCheckpoint})
    if (const auto it = f.attr().find(known); it != f.attr().end()) (*function.mutable_attr())[known] = it->second;
  return function;
}

absl::StatusOr<Signature> Differentiator::Differentiate(Body* body, const std::vector<bool>& wrt, bool values,
                                                        std::vector<int>* indices) {
  const std::vector<int> args = body->args;
  Builder builder(body);
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
    if (!dx || body->flow_element({args[i], 0}) != tf::DT_INVALID) {
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
  signature.args = ArgPorts(body->args);
  signature.keeps = values ? Keeps::kEffects : Keeps::kChecks;
  signature.results_wait = true;
  return signature;
}

absl::StatusOr<std::vector<InputGradient>> Differentiator::Inputs(const tf::NameAttrList& f,
                                                                  const std::vector<bool>& asked) {
  LookForArrays(f);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Body> body, ImportFunction(this, f));
  std::vector<InputGradient> inputs;
  std::vector<bool> wrt;
  ResourceUses uses(*this);
  for (size_t i = 0; i < body->args.size(); ++i) {
    const Port p{body->args[i], 0};
    tf::DataType dtype = tf::BaseType(body->output(p).dtype);
    const bool other = dtype == tf::DT_RESOURCE && !uses.AsOther(f.name(), static_cast<int>(i)).empty();
    wrt.push_back(IsDifferentiable(dtype) && !other && (asked.empty() || (i < asked.size() && asked[i])));
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
    for (const LoopArgument& arg : *loop)
      absl::StrAppend(&mask, "|", MaskText({arg.invariant, arg.counter, arg.written, arg.apart, arg.idle}));
  const std::string memo = absl::StrCat(ContentText(f), "|", mask);
  const auto found = splits_.find(memo);
  if (found != splits_.end()) return &found->second;
  const std::string key = absl::StrCat("split:", memo);
  if (const auto failed = failed_.find(key); failed != failed_.end()) return failed->second;
  const Activation activation(&active_, key);
  TF_RETURN_IF_ERROR(activation.Check(f));
  absl::StatusOr<SplitVjp> split = MakeSplit(f, wrt, seeds, loop, dense);
  if (!split.ok()) return failed_[key] = split.status();
  return &splits_.emplace(memo, *std::move(split)).first->second;
}

absl::StatusOr<SplitVjp> Differentiator::MakeSplit(const tf::NameAttrList& f, const std::vector<bool>& wrt,
                                                   const std::vector<bool>& seeds, const LoopArguments* loop,
                                                   bool dense) {
  TF_ASSIGN_OR_RETURN(std::unique_ptr<Body> body, ImportFunction(this, f));
  if (wrt.size() != body->args.size() || seeds.size() != body->results.size())
    return absl::InvalidArgumentError(absl::StrCat("function '", f.name(), "' is called with ", wrt.size(),
                                                   " inputs and ", seeds.size(), " outputs, but has ",
                                                   body->args.size(), " and ", body->results.size()));
  if (!GradientDef(f.name()).empty()) return SplitGiven(this, f, *body, wrt, seeds);
  return SplitFunction(this, this, f, body.get(), wrt, seeds, loop, dense);
}

absl::StatusOr<const SplitVjp*> Differentiator::SplitAll(const tf::NameAttrList& f, const std::vector<bool>& wrt) {
  if (f.attr().contains(kCheckpoint)) {
    TF_ASSIGN_OR_RETURN(const tf::NameAttrList flat, Flatten(this, f));
    if (flat.name() != f.name()) return SplitAll(flat, wrt);
  }
  LookForArrays(f);
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<Body> body, ImportFunction(this, f));
  TF_RETURN_IF_ERROR(CheckResources(*this, f, *body, wrt));
  return Split(f, wrt, std::vector<bool>(body->results.size(), true), nullptr, /*dense=*/true);
}

absl::StatusOr<Grads> Differentiator::StructureGradient(Builder* builder, const VjpQuery& query) {
  return symgrad::StructureGradient(this, builder, query);
}
absl::StatusOr<Grads> Differentiator::CustomGradient(Builder* builder, const VjpQuery& query) {
  return symgrad::CustomGradient(*this, builder, query);
}

void Differentiator::LookForArrays(const tf::NameAttrList& f) {
  if (!has_arrays_) has_arrays_ = HasArrays(*this, f.name());
}

const std::vector<ResultFacts>& Differentiator::FactsOfResults(const tf::NameAttrList& f) {
  const std::string key = ContentText(f);
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

const std::vector<bool>& Differentiator::DivergentResults(const tf::NameAttrList& f) {
  static const std::vector<bool> none;
  const auto diverges = [](const std::string& op) { return HasTrait(op, Trait::kDiverges); };
  const auto [reaches, unknown] = may_diverge_.try_emplace(f.name());
  if (unknown) reaches->second = Reaches(f.name(), diverges);
  if (!reaches->second && !f.attr().contains(kInputDivergent)) return none;
  const std::string key = ContentText(f);
  const auto [it, added] = divergent_results_.try_emplace(key);
  if (!added || active_.size() > kMaxDepth) return it->second;  // empty while f itself is being read: recursion
  const Activation activation(&active_, absl::StrCat("divergent:", key));
  const absl::StatusOr<std::unique_ptr<Body>> body = ImportFunction(this, f);
  if (!body.ok()) return none;  // whoever differentiates the call reports it
  Builder builder(body->get());
  Builder::Scope scope(&builder);
  MarkDivergent(body->get());
  std::vector<bool> results;
  for (const Port& p : (*body)->results) results.push_back((*body)->output(p).diverges);
  return divergent_results_[key] = std::move(results);
}

const FunctionFlows& Differentiator::FlowsOf(const tf::NameAttrList& f) {
  static const FunctionFlows none;
  const std::string key = ContentText(f);
  const auto [it, added] = flows_.try_emplace(key);
  if (!added || active_.size() > kMaxDepth) return it->second;  // empty while f itself is being read: recursion
  const Activation activation(&active_, absl::StrCat("flows:", key));
  const absl::StatusOr<std::unique_ptr<Body>> body = ImportFunction(this, f);
  if (!body.ok()) return none;  // whoever differentiates the call reports it
  return flows_[key] = FindFlows(this, body->get());
}

}  // namespace symgrad
