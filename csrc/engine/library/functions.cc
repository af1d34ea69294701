#include "csrc/engine/library/functions.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/emit/literal.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/library/references.h"

namespace symgrad {
namespace {

bool CallsFunctions(const tf::OpDef& op) {
  return std::any_of(op.attr().begin(), op.attr().end(), [](const tf::OpDef::AttrDef& attr) {
    return attr.type() == "func" || attr.type() == "list(func)";
  });
}

int64_t MaxNodes() {
  constexpr int64_t kDefault = 5'000'000;
  int64_t most = 0;
  const char* value = std::getenv("TF_SYMGRAD_MAX_NODES");
  return value != nullptr && absl::SimpleAtoi(value, &most) && most > 0 ? most : kDefault;
}

}  // namespace

bool IsCall(const tf::NodeDef& node, const tf::OpRegistrationData& op) {
  return op.is_function_op || node.op() == "PartitionedCall" || node.op() == "StatefulPartitionedCall";
}

bool IsLoop(const tf::NodeDef& node) { return node.op() == "While" || node.op() == "StatelessWhile"; }

bool IsBranch(const tf::NodeDef& node) {
  return node.op() == "If" || node.op() == "StatelessIf" || node.op() == "Case" || node.op() == "StatelessCase";
}

std::vector<tf::NameAttrList> Branches(const tf::NodeDef& node) {
  const auto& attrs = node.attr();
  if (attrs.contains("then_branch")) return {attrs.at("then_branch").func(), attrs.at("else_branch").func()};
  const auto& list = attrs.at("branches").list().func();
  return {list.begin(), list.end()};
}

bool IsStructure(const tf::NodeDef& node, const tf::OpRegistrationData& op) {
  return op.is_function_op ||
         std::find(std::begin(kStructureOps), std::end(kStructureOps), node.op()) != std::end(kStructureOps);
}

tf::NameAttrList Callee(const tf::NodeDef& node) {
  const auto f = node.attr().find("f");
  if (f != node.attr().end() && f->second.has_func()) return f->second.func();
  tf::NameAttrList callee;
  callee.set_name(node.op());
  *callee.mutable_attr() = node.attr();
  return callee;
}

tf::PartialTensorShape StaticShape(const Shape& shape) {
  if (InferenceContext::Rank(shape) < 0) return tf::PartialTensorShape();
  std::vector<int64_t> dims;
  for (int i = 0; i < InferenceContext::Rank(shape); ++i)
    dims.push_back(InferenceContext::Value(InferenceContext::DimKnownRank(shape, i)));
  tf::PartialTensorShape known;  // stays unknown where the shape is none that TensorFlow can have
  if (!tf::PartialTensorShape::MakePartialShape(dims.data(), static_cast<int>(dims.size()), &known).ok())
    return tf::PartialTensorShape();
  return known;
}

tf::NameAttrList WithInputs(tf::NameAttrList f, const Body& body, absl::Span<const Port> inputs) {
  auto* shapes = (*f.mutable_attr())[kInputShapes].mutable_list();
  auto* dtypes = (*f.mutable_attr())[kInputDtypes].mutable_list();
  shapes->Clear();
  dtypes->Clear();
  for (const Port& p : inputs) {
    const Output& in = body.output(p);
    const auto handle = body.handles.find(body.output_index(p));
    const bool variable = in.dtype == tf::DT_RESOURCE && handle != body.handles.end();
    StaticShape(variable ? handle->second[0].shape : in.shape).AsProto(shapes->add_shape());
    dtypes->add_type(variable ? handle->second[0].dtype : in.dtype == tf::DT_RESOURCE ? tf::DT_INVALID : in.dtype);
  }
  // Of a list, its length and shape: the zeros of its cotangent are a constant then. XLA must know integers, too.
  const auto known = [&](const Port& p) {
    const Output& in = body.output(p);
    const bool told =
        in.dtype == tf::DT_VARIANT || (body.compiled && (in.dtype == tf::DT_INT32 || in.dtype == tf::DT_INT64));
    return told && in.ints != nullptr && in.ints->known() ? in.ints.get() : nullptr;
  };
  if (std::any_of(inputs.begin(), inputs.end(), known)) {
    auto* values = (*f.mutable_attr())[kInputValues].mutable_list();
    values->Clear();
    for (const Port& p : inputs) {
      tf::TensorProto* value = values->add_tensor();
      const tf::DataType dtype = body.output(p).dtype == tf::DT_VARIANT ? tf::DT_INT64 : body.output(p).dtype;
      if (const Ints* ints = known(p); ints != nullptr && !FillInts(*ints, dtype, value)) value->Clear();
    }
  }
  if (body.compiled) (*f.mutable_attr())[kCompiled].set_b(true);
  if (body.flows.empty()) return f;
  auto* flows = (*f.mutable_attr())[kInputFlows].mutable_list();
  flows->Clear();
  for (const Port& p : inputs) flows->add_type(body.flow(p));
  return f;
}

tf::NameAttrList WithVariableDtypes(tf::NameAttrList f, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout,
                                    const std::vector<bool>& wrt) {
  if (std::find(tin.begin(), tin.end(), tf::DT_RESOURCE) == tin.end()) return f;
  auto* dtypes = (*f.mutable_attr())[kInputDtypes].mutable_list();
  const size_t inputs = std::min(tin.size(), wrt.empty() ? tout.size() : wrt.size());
  for (size_t i = 0, k = 0; i < inputs; ++i) {
    const bool wanted = (wrt.empty() || wrt[i]) && k < tout.size();
    const tf::DataType gradient = wanted ? tout[k++] : tf::DT_INVALID;
    const tf::DataType dtype = tin[i] == tf::DT_RESOURCE ? gradient : tin[i];
    if (const int k = static_cast<int>(i); k >= dtypes->type_size()) dtypes->add_type(dtype);
    else if (dtypes->type(k) == tf::DT_INVALID) dtypes->set_type(k, dtype);
  }
  return f;
}

Asked AskedBy(const tf::NodeDef& node, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout) {
  Asked asked;
  const auto& attrs = node.attr();
  if (const auto it = attrs.find("wrt"); it != attrs.end())
    asked.wrt.assign(it->second.list().b().begin(), it->second.list().b().end());
  if (const auto it = attrs.find("values"); it != attrs.end()) asked.values = it->second.b();
  asked.f = WithVariableDtypes(attrs.at("f").func(), tin, tout, asked.wrt);
  if (const auto it = attrs.find("checkpoint"); it != attrs.end() && !it->second.s().empty())
    (*asked.f.mutable_attr())[kCheckpoint].set_s(it->second.s());
  return asked;
}

Functions::Functions(const tf::FunctionLibraryDefinition& library)
    : library_(library), generated_(library.default_registry(), tf::FunctionDefLibrary()) {}

tf::core::RefCountPtr<tf::FunctionRecord> Functions::Find(const std::string& name) const {
  auto record = generated_.FindRecord(name);
  return record != nullptr ? std::move(record) : library_.FindRecord(name);
}

absl::Status Functions::LookUp(const std::string& op, const tf::OpRegistrationData** data) const {
  return generated_.Contains(op) ? generated_.LookUp(op, data) : library_.LookUp(op, data);
}

absl::StatusOr<std::string> Functions::AddNamedByContent(absl::string_view stem, tf::FunctionDef fdef) {
  fdef.mutable_signature()->clear_name();
  std::string name = absl::StrCat("__symgrad_", stem, "_", ContentHash(fdef));
  fdef.mutable_signature()->set_name(name);
  if (const auto record = generated_.FindRecord(name); record != nullptr) {
    if (tf::FunctionDefsEqual(record->fdef(), fdef)) return name;
    return absl::InternalError(absl::StrCat("two functions that differ would be called '", name, "'"));
  }
  TF_RETURN_IF_ERROR(generated_.AddFunctionDef(std::move(fdef)));
  return name;
}

absl::Status Functions::Spend(int64_t made) {
  spent_ += made;
  const int64_t most = MaxNodes();
  if (spent_ <= most) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the gradient would have more than ", most, " nodes and tensors: lower the order, or wrap what calls much, many ",
      "times over, in a loop; or raise the bound by the environment variable TF_SYMGRAD_MAX_NODES"));
}

Effects Functions::EffectsOf(const Body& body, int id) const {
  const auto whole = body.whole.find(id);
  if (whole == body.whole.end()) return EffectsOf(body.node(id));
  return EffectsOf(*whole->second.def, *whole->second.op, 0);
}

Effects Functions::EffectsOf(const tf::NodeDef& node, const tf::OpRegistrationData& op, int depth) const {
  if (!op.is_function_op && !op.op_def.is_stateful() && !CallsFunctions(op.op_def)) return EffectsOfOp(op.op_def);
  const std::vector<std::string> functions = CalledFunctions(node, op.is_function_op);
  if (functions.empty()) return EffectsOfOp(op.op_def);
  const bool is_one = IsStructure(node, op) || node.op() == kGradientOp;
  Effects effects = is_one ? kNoEffects : EffectsOfOp(op.op_def);
  for (const std::string& f : functions) effects |= EffectsOf(f, depth + 1);
  return effects;
}

Effects Functions::EffectsOf(const std::string& function, int depth) const {
  constexpr int kMaxDepth = 200;
  const auto record = Find(function);
  if (record == nullptr || depth > kMaxDepth) return kAllEffects;
  const auto [it, added] = effects_.try_emplace(function, kAllEffects);  // what recursion meets
  if (!added) return it->second;
  Effects effects = kNoEffects;
  for (const tf::NodeDef& node : record->fdef().node_def()) {
    const tf::OpRegistrationData* op = nullptr;
    effects |= LookUp(node.op(), &op).ok() ? EffectsOf(node, *op, depth) : kAllEffects;
    if (effects == kAllEffects) break;
  }
  return effects_[function] = effects;
}

tf::FunctionDefLibrary Functions::Generated(const std::string& name) const {
  tf::FunctionDefLibrary functions;
  std::vector<std::string> pending = {name};
  absl::flat_hash_set<std::string> seen = {name};
  const auto meet = [&](const std::string& f) {
    if (generated_.Contains(f) && seen.insert(f).second) pending.push_back(f);
  };
  while (!pending.empty()) {
    tf::FunctionDef* fdef = functions.add_function();
    *fdef = generated_.FindRecord(pending.back())->fdef();
    pending.pop_back();
    for (const tf::NodeDef& node : fdef->node_def()) VisitReferences(node, meet);
  }
  return functions;
}

}  // namespace symgrad
