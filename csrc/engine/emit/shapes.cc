// The words of words.h that are about shapes: what is known of them is decided when building.
#include <algorithm>
#include <limits>
#include <optional>

#include "csrc/engine/emit/builder.h"
#include "csrc/engine/facts/facts.h"
#include "csrc/rules/words.h"

namespace symgrad {
namespace {

Body* body() { return Builder::Current()->body(); }

// Whether `s` is sure to be the shape that x has already.
bool IsShapeOf(const V& s, const V& x) {
  if (!x.is_tensor() || x.rank() < 0) return false;
  const int rank = x.rank();
  if (!s.is_tensor()) {
    const auto dims = known(s);
    if (!dims || static_cast<int>(dims->size()) != rank) return false;
    for (int i = 0; i < rank; ++i)
      if (x.dim(i) < 0 || x.dim(i) != (*dims)[i]) return false;
    return true;
  }
  const IntsPtr ints = body()->output(ToPort(s)).ints;
  if (ints == nullptr || static_cast<int>(ints->elements.size()) != rank) return false;
  for (int i = 0; i < rank; ++i) {
    const Dim d = InferenceContext::DimKnownRank(body()->output(ToPort(x)).shape, i);
    const Ints::Element& e = ints->elements[i];
    const bool same =
        e.known() ? InferenceContext::ValueKnown(d) && InferenceContext::Value(d) == e.value : d.SameHandle(e.dim);
    if (!same) return false;
  }
  return true;
}

// What a chain of reshapes that were emitted begins with.
V BeforeReshapes(V x) {
  while (x.is_tensor()) {
    const Node& n = body()->node(x.node());
    if (x.node() < body()->num_forward || n.is_arg() || n.type() != "Reshape" || n.def->attr().contains(kVeil)) break;
    x = ToValue(n.inputs[0]);
  }
  return x;
}

// The sizes of all dimensions, where they are known and nothing out of the ordinary.
std::optional<std::vector<int64_t>> StaticDims(const V& x) {
  if (!x.is_tensor() || x.rank() > 16 || !body()->FullyDefined(ToPort(x))) return std::nullopt;
  std::vector<int64_t> dims;
  for (int i = 0; i < x.rank(); ++i) dims.push_back(x.dim(i));
  const auto small = [](int64_t dim) { return dim <= std::numeric_limits<int32_t>::max(); };
  return std::all_of(dims.begin(), dims.end(), small) ? std::optional(std::move(dims)) : std::nullopt;
}

}  // namespace

V shape(const V& x, DType dtype) {
  if (x.kind() == V::Kind::kRows) return cast(Builder::Current()->rows(x).dense_shape, dtype);
  if (auto dims = StaticDims(x)) return constant(ints(*std::move(dims)), dtype);
  return op("Shape", x, Attr{"out_type", dtype});
}
V rank(const V& x) { return x.rank() >= 0 ? V(x.rank()) : op("Rank", x); }
V size(const V& x, DType dtype) { return op("Size", x, Attr{"out_type", dtype}); }
V range(const V& begin, const V& end) {
  if (begin.kind() == V::Kind::kNumber && end.kind() == V::Kind::kNumber) {
    std::vector<int64_t> values;
    for (int64_t i = static_cast<int64_t>(begin.number()); static_cast<double>(i) < end.number(); ++i)
      values.push_back(i);
    return ints(values);
  }
  return op("Range", begin, end, 1);
}
V prod(const V& vector) { return op("Prod", vector, 0); }
V reshape(const V& x, const V& shape) {
  if (IsShapeOf(shape, x)) return x;
  const V first = BeforeReshapes(x);
  return !first || IsShapeOf(shape, first) ? first : op("Reshape", first, shape);
}
V reshape_like(const V& x, const V& like) { return same_shape(x, like) ? x : reshape(x, shape(like)); }
V flatten(const V& x) { return x.rank() == 1 ? x : reshape(x, ints({-1})); }
V align(const V& x, const V& to_rank) {
  const V behind = fill(pack({to_rank - rank(x)}), constant(1, DType::kInt32));
  return reshape(x, concat({shape(x), behind}, 0));
}
V dim(const V& x, const V& axis) {
  const auto at = known(axis);
  return gather(shape(x), at && at->at(0) < 0 ? rank(x) + axis : axis);
}
V head(const V& vector, const V& end) { return slice(vector, ints({0}), pack({end})); }
V tail(const V& vector, const V& begin) { return slice(vector, pack({begin}), ints({-1})); }
V part(const V& vector, const V& begin, const V& end) { return slice(vector, pack({begin}), pack({end - begin})); }
V broadcast_to(const V& x, const V& shape) { return !x || IsShapeOf(shape, x) ? x : op("BroadcastTo", x, shape); }
V broadcast_like(const V& x, const V& like) { return same_shape(x, like) ? x : broadcast_to(x, shape(like)); }

}  // namespace symgrad
