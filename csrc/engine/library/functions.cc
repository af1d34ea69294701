#include "csrc/engine/library/functions.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/library/gradient_op.h"
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

tf::DataTypeVector Dtypes(absl::Span<const TensorSpec> tensors) {
  tf::DataTypeVector dtypes;
  for (const TensorSpec& tensor : tensors) dtypes.push_back(tensor.dtype);
  return dtypes;
}

TensorSpecs WithoutShapes(const tf::DataTypeVector& dtypes) {
  TensorSpecs tensors;
  for (const tf::DataType t : dtypes) tensors.push_back({t, tf::PartialTensorShape()});
  return tensors;
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

bool Functions::Reaches(const std::string& f, absl::FunctionRef<bool(const std::string& op)> is_sought) const {
  std::vector<std::string> pending = {f};
  absl::flat_hash_set<std::string> seen = {f};
  const auto meet = [&](const std::string& name) {
    if (seen.insert(name).second) pending.push_back(name);
  };
  while (!pending.empty()) {
    const auto record = Find(pending.back());
    pending.pop_back();
    if (record == nullptr) continue;
    for (const tf::NodeDef& node : record->fdef().node_def()) {
      if (is_sought(node.op())) return true;
      VisitReferences(node, meet);
    }
  }
  return false;
}

absl::Status Functions::Spend(int64_t made) {
  spent_ += made;
  if (most_ == 0) most_ = MaxNodes();  // not for each node: the environment is searched
  if (spent_ <= most_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the gradient would have more than ", most_,
                   " nodes and tensors: lower the order, or wrap what calls much, many ",
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
