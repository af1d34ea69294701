#include "csrc/engine/structure/slots.h"

#include <algorithm>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "csrc/engine/emit/literal.h"

namespace symgrad {
namespace {

// Either all of a shape is known, or nothing.
tf::PartialTensorShape Known(const tf::PartialTensorShape& shape) {
  return shape.IsFullyDefined() ? shape : tf::PartialTensorShape();
}
bool IsOneShape(const TensorSpec& tensor) { return tensor.dtype != tf::DT_VARIANT && tensor.shape.IsFullyDefined(); }

}  // namespace

Slots::Slots(const std::vector<SplitVjp>& splits, bool compiled) {
  absl::flat_hash_map<std::string, std::vector<int>> alike;  // slots that branches share, by dtype and shape
  for (const SplitVjp& split : splits) {
    const auto is_same = [&](const SplitVjp& other) {
      return other.forward.name == split.forward.name && other.residuals == split.residuals;
    };
    const auto first = std::find_if(splits.begin(), splits.end(), is_same) - splits.begin();
    if (first < static_cast<int64_t>(of.size())) {
      of.push_back(std::vector<int>(of[first]));
      continue;
    }
    absl::flat_hash_map<std::string, size_t> taken;  // how many of those
    std::vector<int>& mine = of.emplace_back();
    crosses.resize(split.num_results, false);
    for (size_t r = 0; r < split.residuals.size(); ++r) {
      if (const auto result = static_cast<size_t>(split.residuals[r]); result < split.num_results) {
        crosses[result] = true;
        mine.push_back(~split.residuals[r]);
        continue;
      }
      const TensorSpec& residual = split.residual(r);
      const TensorSpec wanted{residual.dtype, compiled ? residual.shape : Known(residual.shape)};
      const bool shared = compiled ? !wanted.shape.unknown_rank() : IsOneShape(wanted);
      const std::string like = absl::StrCat(wanted.dtype, shared ? wanted.shape.DebugString() : "");
      std::vector<int>& slots = alike[like];
      const size_t slot = shared ? taken[like]++ : slots.size();
      if (slot == slots.size()) {
        slots.push_back(static_cast<int>(tensors.size()));
        tensors.push_back(wanted);
      }
      mine.push_back(slots[slot]);
    }
  }
}

absl::Status Slots::CheckFillers() const {
  for (size_t s = 0; s < tensors.size(); ++s)
    for (const std::vector<int>& mine : of)
      if (!tensors[s].shape.IsFullyDefined() && std::find(mine.begin(), mine.end(), static_cast<int>(s)) == mine.end())
        return absl::UnimplementedError(absl::StrCat("XLA can't compile its gradient, as a branch keeps a ",
                                                     tf::DataTypeString(tensors[s].dtype), " tensor of shape ",
                                                     tensors[s].shape.DebugString(), ", which must be static"));
  return absl::OkStatus();
}

V Filler(FunctionAuthor* branch, const TensorSpec& slot, bool refused_by_xla) {
  if (slot.dtype == tf::DT_VARIANT) {
    const Attr element("element_dtype", DType::kFloat);
    const V list = op("EmptyTensorList", constant(-1, DType::kInt32), 0, element);
    return refused_by_xla ? op("TensorListConcatLists", list, list, element) : list;
  }
  const bool is_known = slot.shape.IsFullyDefined();
  if (!is_known && !refused_by_xla) return constant(0, static_cast<DType>(slot.dtype));
  tf::NodeDef& node = *(*branch)->body()->NewDef();
  node.set_op("FakeParam");
  (*node.mutable_attr())["dtype"].set_type(slot.dtype);
  (is_known ? slot.shape : tf::PartialTensorShape({})).AsProto((*node.mutable_attr())["shape"].mutable_shape());
  return (*branch)->EmitNode(&node, {}, {slot.dtype});
}

}  // namespace symgrad
