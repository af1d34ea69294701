#include "csrc/engine/library/functions.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/body/calls.h"
#include "csrc/engine/body/limits.h"
#include "csrc/engine/library/fingerprint.h"
#include "csrc/engine/library/gradient_op.h"
#include "csrc/engine/library/references.h"
#include "google/protobuf/arena.h"
#include "tensorflow/core/framework/common_shape_fns.h"

namespace symgrad {
namespace {

bool CallsFunctions(const tf::OpDef& op) {
  return std::any_of(op.attr().begin(), op.attr().end(), [](const tf::OpDef::AttrDef& attr) {
    return attr.type() == "func" || attr.type() == "list(func)";
  });
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

const tf::FunctionDef* Functions::Find(const std::string& name) const {
  if (const auto it = generated_.find(name); it != generated_.end()) return it->second.fdef.get();
  auto it = found_.find(name);
  if (it == found_.end()) {
    auto record = library_.FindRecord(name);
    if (record == nullptr) return nullptr;
    it = found_.emplace(name, std::move(record)).first;
  }
  return &it->second->fdef();
}

absl::Status Functions::LookUp(const std::string& op, const tf::OpRegistrationData** data) const {
  const auto it = generated_.find(op);
  if (it == generated_.end()) {
    Find(op);  // keeps it
    return library_.LookUp(op, data);
  }
  auto& known = it->second.op;
  if (known == nullptr)
    known = std::make_unique<tf::OpRegistrationData>(it->second.fdef->signature(), tf::shape_inference::UnknownShape,
                                                     /*is_function=*/true);
  *data = known.get();
  return absl::OkStatus();
}

absl::StatusOr<std::string> Functions::AddNamedByContent(absl::string_view stem,
                                                         std::shared_ptr<tf::FunctionDef> fdef) {
  fdef->mutable_signature()->clear_name();
  std::string name = absl::StrCat(kGenerated, stem, "_", ContentHash(*fdef));
  fdef->mutable_signature()->set_name(name);
  const auto [it, added] = generated_.try_emplace(name);
  if (!added && !SameContent(*it->second.fdef, *fdef))
    return absl::InternalError(absl::StrCat("two functions that differ would be called '", name, "'"));
  if (added) it->second.fdef = std::move(fdef);
  return name;
}

bool Functions::Reaches(const std::string& f, absl::FunctionRef<bool(const std::string& op)> is_sought) const {
  std::vector<std::string> pending = {f};
  absl::flat_hash_set<std::string> seen = {f};
  const auto meet = [&](const std::string& name) {
    if (seen.insert(name).second) pending.push_back(name);
  };
  while (!pending.empty()) {
    const tf::FunctionDef* fdef = Find(pending.back());
    pending.pop_back();
    if (fdef == nullptr) continue;
    for (const tf::NodeDef& node : fdef->node_def()) {
      if (is_sought(node.op())) return true;
      VisitReferences(node, meet);
    }
  }
  return false;
}

absl::Status Functions::Spend(int64_t made) {
  spent_ += made;
  if (most_ == 0) most_ = Limit("TF_SYMGRAD_MAX_NODES", 5'000'000);
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
  if (const auto it = op_effects_.find(&op); it != op_effects_.end()) return it->second;
  if (!op.is_function_op && !CallsFunctions(op.op_def)) return op_effects_[&op] = EffectsOfOp(op.op_def);
  const std::vector<std::string> functions = CalledFunctions(node, op.is_function_op);
  if (functions.empty()) return EffectsOfOp(op.op_def);
  const bool is_one = IsStructure(node, op) || node.op() == kGradientOp;
  Effects effects = is_one ? kNoEffects : EffectsOfOp(op.op_def);
  for (const std::string& f : functions) effects |= EffectsOf(f, depth + 1);
  return effects;
}

Effects Functions::EffectsOf(const std::string& function, int depth) const {
  constexpr int kMaxDepth = 200;
  const tf::FunctionDef* fdef = Find(function);
  if (fdef == nullptr || depth > kMaxDepth) return kAllEffects;
  const auto [it, added] = effects_.try_emplace(function, kAllEffects);  // what recursion meets
  if (!added) return it->second;
  Effects effects = kNoEffects;
  for (const tf::NodeDef& node : fdef->node_def()) {
    const tf::OpRegistrationData* op = nullptr;
    effects |= LookUp(node.op(), &op).ok() ? EffectsOf(node, *op, depth) : kAllEffects;
    if (effects == kAllEffects) break;
  }
  return effects_[function] = effects;
}

std::shared_ptr<const tf::FunctionDefLibrary> Functions::Generated(const std::vector<std::string>& names) const {
  // In an arena, a library may refer to functions that are not its own.
  struct Shared {
    google::protobuf::Arena arena;
    std::vector<std::shared_ptr<tf::FunctionDef>> functions;
  };
  const auto shared = std::make_shared<Shared>();
  auto* library = google::protobuf::Arena::Create<tf::FunctionDefLibrary>(&shared->arena);
  std::vector<std::string> pending;
  absl::flat_hash_set<std::string> seen;
  const auto meet = [&](const std::string& f) {
    if (generated_.contains(f) && seen.insert(f).second) pending.push_back(f);
  };
  for (const std::string& name : names) {
    meet(name);
    while (!pending.empty()) {
      const auto& fdef = shared->functions.emplace_back(generated_.at(pending.back()).fdef);
      pending.pop_back();
      library->mutable_function()->UnsafeArenaAddAllocated(fdef.get());
      for (const tf::NodeDef& node : fdef->node_def()) VisitReferences(node, meet);
    }
  }
  return {shared, library};
}

}  // namespace symgrad
