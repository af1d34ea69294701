// Ops that make, move and choose elements of small integer tensors; and the door to all folding.
#include "csrc/engine/facts/fold.h"

#include <algorithm>

#include "tensorflow/core/framework/tensor.h"

namespace symgrad {
namespace fold {
namespace {

Elements ShapeElements(const Shape& s) {
  Elements elements;
  for (int i = 0; i < InferenceContext::Rank(s); ++i) {
    const Dim d = InferenceContext::DimKnownRank(s, i);
    elements.push_back(InferenceContext::ValueKnown(d) ? Element{InferenceContext::Value(d), {}}
                                                       : Element{Ints::kUnknown, d});
  }
  return elements;
}

// -- Sources.

template <typename T>
Folded FromTensor(const tf::Tensor& t) {
  Elements elements;
  const auto flat = t.flat<T>();
  for (int64_t i = 0; i < t.NumElements(); ++i) elements.push_back({static_cast<int64_t>(flat(i)), {}});
  const auto dims = t.shape().dim_sizes();
  return One({dims.begin(), dims.end()}, std::move(elements));
}

Folded Values(const tf::TensorProto& proto) {
  if (!IsIntegral(proto.dtype())) return {};
  int64_t n = 1;
  for (const auto& d : proto.tensor_shape().dim()) {
    if (d.size() < 0 || d.size() > Ints::kMaxElements) return {};
    n *= d.size();
    if (n > Ints::kMaxElements) return {};
  }
  tf::Tensor t;
  if (!t.FromProto(proto)) return {};
  if (t.dtype() == tf::DT_INT32) return FromTensor<int32_t>(t);
  if (t.dtype() == tf::DT_INT64) return FromTensor<int64_t>(t);
  return FromTensor<bool>(t);
}

Folded Const(const Call& c) {
  const auto it = c.def->attr().find("value");
  return it == c.def->attr().end() ? Folded{} : Values(it->second.tensor());
}

Folded ShapeOp(const Call& c) {
  Folded all;
  for (const Port& p : c.inputs) {
    if (c.body->rank(p) < 0) {
      all.push_back(nullptr);
    } else {
      all.push_back(Vector(ShapeElements(c.body->output(p).shape))[0]);
    }
  }
  return all;
}

Folded VariableShape(const Call& c) {
  const auto handle = c.body->handles.find(c.body->output_index(c.inputs[0]));
  if (handle == c.body->handles.end() || InferenceContext::Rank(handle->second[0].shape) < 0) return {};
  return Vector(ShapeElements(handle->second[0].shape));
}

Folded RankOp(const Call& c) {
  const int rank = c.body->rank(c.inputs[0]);
  return rank < 0 ? Folded{} : Number(rank);
}

Folded SizeOp(const Call& c) {
  if (!c.body->FullyDefined(c.inputs[0])) return {};
  int64_t size = 1;
  for (int i = 0; i < c.body->rank(c.inputs[0]); ++i) size *= c.body->dim(c.inputs[0], i);
  return Number(size);
}

constexpr int64_t kMaxBound = int64_t{1} << 40;  // far from overflow

Folded Range(const Call& c) {
  int64_t begin, end, step;
  if (!c.Scalar(0, &begin) || !c.Scalar(1, &end) || !c.Scalar(2, &step) || step == 0) return {};
  if (std::abs(begin) > kMaxBound || std::abs(end) > kMaxBound || std::abs(step) > kMaxBound) return {};
  if ((end - begin) / step > Ints::kMaxElements) return {};
  Elements elements;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) elements.push_back({i, {}});
  return Vector(std::move(elements));
}

// -- Structure.

// Moves elements to the shape that TensorFlow inferred for the result, if it is known. Order stays.
Folded Reshape(const Call& c) {
  const Ints* x = c.in(0);
  if (x == nullptr) return {};
  const Ints* to = c.in(1);
  if (to == nullptr || !to->known()) return {};
  std::vector<int64_t> dims;
  int64_t known = 1;
  for (const Element& e : to->elements) {
    dims.push_back(e.value);
    if (e.value >= 0 && __builtin_mul_overflow(known, e.value, &known)) return {};
  }
  const int64_t size = static_cast<int64_t>(x->elements.size());
  for (int64_t& d : dims)
    if (d < 0) d = known == 0 ? 0 : size / known;
  for (const int64_t d : dims)
    if (d < 0 || d > Ints::kMaxElements) return {};
  if (dims.size() > kMaxRank || Size(dims) != size) return {};
  return One(dims, x->elements);
}

Folded ExpandDims(const Call& c) {
  const Ints* x = c.in(0);
  int64_t axis;
  if (x == nullptr || !c.Scalar(1, &axis)) return {};
  std::vector<int64_t> dims = x->dims;
  if (axis < 0) axis += static_cast<int64_t>(dims.size()) + 1;
  if (axis < 0 || axis > static_cast<int64_t>(dims.size())) return {};
  dims.insert(dims.begin() + axis, 1);
  return One(dims, x->elements);
}

Folded Squeeze(const Call& c) {
  const Ints* x = c.in(0);
  if (x == nullptr || x->elements.size() != 1) return {};  // scalars are what shapes are squeezed to
  const auto axes = c.def->attr().find("squeeze_dims");
  if (axes != c.def->attr().end() && axes->second.list().i_size() > 0 &&
      axes->second.list().i_size() != static_cast<int>(x->dims.size()))
    return {};
  return One({}, x->elements);
}

// Scalars to a vector; vectors to the rows or, with axis 1, the columns of a matrix.
Folded Pack(const Call& c) {
  std::vector<const Ints*> parts;
  const Ints* shape = nullptr;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    parts.push_back(c.in(i));
    if (parts.back() != nullptr) shape = parts.back();
    else if (c.body->rank(c.inputs[i]) != 0) return {};
  }
  if (shape == nullptr || shape->dims.size() > 1) return {};
  const size_t n = parts.size(), size = shape->elements.size();
  Elements elements;
  for (const Ints* part : parts) {
    if (part != nullptr && part->dims != shape->dims) return {};
    if (part == nullptr) elements.push_back({});
    else elements.insert(elements.end(), part->elements.begin(), part->elements.end());
  }
  const int64_t axis = c.attr("axis", 0), rows = static_cast<int64_t>(n), columns = static_cast<int64_t>(size);
  if (shape->dims.empty()) return One({rows}, std::move(elements));
  if (axis == 0 || axis == -2) return One({rows, columns}, std::move(elements));
  Elements transposed;
  for (size_t j = 0; j < size; ++j)
    for (size_t i = 0; i < n; ++i) transposed.push_back(elements[i * size + j]);
  return One({columns, rows}, std::move(transposed));
}

Folded ConcatVectors(const Call& c, int first, int count) {
  Elements elements;
  bool any = false;
  for (int i = first; i < first + count; ++i) {
    const Ints* x = c.in(i);
    if (x == nullptr) {  // a vector of known length whose elements are not known
      if (c.body->rank(c.inputs[i]) != 1 || c.body->dim(c.inputs[i], 0) < 0) return {};
      if (c.body->dim(c.inputs[i], 0) > Ints::kMaxElements) return {};
      elements.resize(elements.size() + c.body->dim(c.inputs[i], 0));
      continue;
    }
    if (x->dims.size() != 1) return {};
    any = true;
    elements.insert(elements.end(), x->elements.begin(), x->elements.end());
  }
  return any ? Vector(std::move(elements)) : Folded{};
}
Folded ConcatV2(const Call& c) { return ConcatVectors(c, 0, static_cast<int>(c.inputs.size()) - 1); }
Folded Concat(const Call& c) { return ConcatVectors(c, 1, static_cast<int>(c.inputs.size()) - 1); }

// x[begin : begin + size] of a vector, or of the rows and columns of a matrix.
Folded Slice(const Call& c) {
  const Ints *x = c.in(0), *begin = c.in(1), *size = c.in(2);
  if (size != nullptr && size->elements.size() == 1 && size->elements[0].value == 0) return Vector({});
  if (x == nullptr || begin == nullptr || size == nullptr || !begin->known() || !size->known()) return {};
  const size_t rank = x->dims.size();
  if (rank == 0 || rank > 2 || begin->elements.size() != rank || size->elements.size() != rank) return {};
  std::vector<int64_t> at(rank), n(rank);
  for (size_t i = 0; i < rank; ++i) {
    at[i] = begin->elements[i].value;
    n[i] = size->elements[i].value;
    if (at[i] < 0 || at[i] > x->dims[i]) return {};
    if (n[i] < 0) n[i] = x->dims[i] - at[i];
    if (n[i] < 0 || n[i] > x->dims[i] - at[i]) return {};
  }
  Elements elements;
  const int64_t columns = rank == 2 ? x->dims[1] : 1, first = rank == 2 ? at[1] : 0, count = rank == 2 ? n[1] : 1;
  for (int64_t i = at[0]; i < at[0] + n[0]; ++i)
    for (int64_t j = first; j < first + count; ++j) elements.push_back(x->elements[i * columns + j]);
  return One(n, std::move(elements));
}

// Of a vector: x[i], x[i:j:k], x[i:], …
Folded StridedSlice(const Call& c) {
  const Ints* x = c.in(0);
  int64_t begin, end, step;
  if (x == nullptr || x->dims.size() != 1 || c.attr("ellipsis_mask", 0) || c.attr("new_axis_mask", 0)) return {};
  if (!c.Scalar(1, &begin) || !c.Scalar(2, &end) || !c.Scalar(3, &step) || step == 0) return {};
  const int64_t n = x->dims[0];
  step = std::clamp(step, -n - 1, n + 1);  // as far as any step goes, and no overflow
  if (c.attr("shrink_axis_mask", 0) & 1) {
    if (begin < 0) begin += n;
    return begin < 0 || begin >= n ? Folded{} : One({}, {x->elements[begin]});
  }
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  const auto clamp = [&](int64_t i) { return std::clamp(i < 0 ? i + n : i, low, high); };
  begin = c.attr("begin_mask", 0) & 1 ? (step > 0 ? 0 : n - 1) : clamp(begin);
  end = c.attr("end_mask", 0) & 1 ? (step > 0 ? n : -1) : clamp(end);
  Elements elements;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) elements.push_back(x->elements[i]);
  return Vector(std::move(elements));
}

Folded Gather(const Call& c) {
  const Ints *x = c.in(0), *indices = c.in(1);
  if (x == nullptr || indices == nullptr || x->dims.size() != 1 || !indices->known() || c.attr("batch_dims", 0))
    return {};
  Elements elements;
  for (const Element& e : indices->elements) {
    if (e.value < 0 || e.value >= x->dims[0]) return {};
    elements.push_back(x->elements[e.value]);
  }
  return One(indices->dims, std::move(elements));
}

Folded InvertPermutation(const Call& c) {
  const Ints* x = c.in(0);
  if (x == nullptr || !x->known() || x->dims.size() != 1) return {};
  Elements elements(x->elements.size());
  for (size_t i = 0; i < elements.size(); ++i) {
    const int64_t to = x->elements[i].value;
    if (to < 0 || to >= x->dims[0]) return {};
    elements[to] = {static_cast<int64_t>(i), {}};
  }
  return Vector(std::move(elements));
}

Folded ListDiff(const Call& c) {
  const Ints *x = c.in(0), *y = c.in(1);
  if (x == nullptr || y == nullptr || !x->known() || !y->known() || x->dims.size() != 1) return {};
  Elements out, index;
  for (size_t i = 0; i < x->elements.size(); ++i) {
    const auto same = [&](const Element& e) { return e.value == x->elements[i].value; };
    if (std::any_of(y->elements.begin(), y->elements.end(), same)) continue;
    out.push_back(x->elements[i]);
    index.push_back({static_cast<int64_t>(i), {}});
  }
  return {Vector(out)[0], Vector(index)[0]};
}

Folded Where(const Call& c) {
  const Ints* x = c.in(0);
  if (x == nullptr || !x->known() || x->dims.size() != 1) return {};
  Elements elements;
  for (size_t i = 0; i < x->elements.size(); ++i)
    if (x->elements[i].value) elements.push_back({static_cast<int64_t>(i), {}});
  const int64_t n = static_cast<int64_t>(elements.size());
  return One({n, 1}, std::move(elements));
}

Folded FillOp(const Call& c) {
  const Ints *dims = c.in(0), *value = c.in(1);
  if (dims == nullptr || value == nullptr || !dims->known() || value->elements.size() != 1) return {};
  std::vector<int64_t> shape;
  int64_t size = 1;
  for (const Element& e : dims->elements) {
    if (e.value < 0 || e.value > Ints::kMaxElements) return {};
    size *= e.value;
    if (size > Ints::kMaxElements) return {};
    shape.push_back(e.value);
  }
  return One(shape, Elements(size, value->elements[0]));
}

Folded BroadcastArgs(const Call& c) {
  const Ints *a = c.in(0), *b = c.in(1);
  if (a == nullptr || b == nullptr) return {};
  const size_t n = std::max(a->elements.size(), b->elements.size());
  Elements elements(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t from_end = n - i;
    const Element one{1, {}};
    const Element& p = from_end <= a->elements.size() ? a->elements[a->elements.size() - from_end] : one;
    const Element& q = from_end <= b->elements.size() ? b->elements[b->elements.size() - from_end] : one;
    // A 1 gives way. A known size that is not 1 beside an unknown one is what comes out: the other is that, too, or 1.
    if (SameElement(p, q) || q.value == 1 || (p.known() && p.value != 1)) {
      elements[i] = p;
    } else if (p.value == 1 || q.known()) {
      elements[i] = q;
    }
  }
  return Vector(std::move(elements));
}

// Only integers are folded; these ops make some of values of any dtype.
// -- Lists. What is known of a list is the shape of the tensor that its elements are the rows of.

Folded ListFromTensor(const Call& c) {
  return c.body->rank(c.inputs[0]) < 1 ? Folded{} : Vector(ShapeElements(c.body->output(c.inputs[0]).shape));
}

Folded ListReserve(const Call& c) {
  const Ints* shape = c.in(0);
  int64_t length;
  if (shape == nullptr || shape->dims.size() != 1 || !shape->known() || !c.Scalar(1, &length)) return {};
  Elements elements = {{length, {}}};
  elements.insert(elements.end(), shape->elements.begin(), shape->elements.end());
  const auto unknown = [](const Element& e) { return e.value < 0; };
  return std::any_of(elements.begin(), elements.end(), unknown) ? Folded{} : Vector(std::move(elements));
}

// The list as it was, if the new element has the shape of the others.
Folded ListSetItem(const Call& c) {
  const Ints* list = c.in(0);
  if (list == nullptr || c.body->rank(c.inputs[2]) < 0 || c.attr("resize_if_index_out_of_bounds", 0)) return {};
  const Elements item = ShapeElements(c.body->output(c.inputs[2]).shape);
  const bool same = std::equal(item.begin(), item.end(), list->elements.begin() + 1, list->elements.end(), SameElement);
  return same ? Folded{c.body->output(c.inputs[0]).ints} : Folded{};
}

Folded ListLength(const Call& c) {
  const Ints* list = c.in(0);
  return list == nullptr || !list->elements[0].known() ? Folded{} : Number(list->elements[0].value);
}

Folded ListElementShape(const Call& c) {
  const Ints* list = c.in(0);
  return list == nullptr ? Folded{} : Vector({list->elements.begin() + 1, list->elements.end()});
}

bool MakesFacts(absl::string_view op) {
  return op == "Const" || op == "Shape" || op == "ShapeN" || op == "Rank" || op == "Size" || op == "VariableShape" ||
         op == "TensorListFromTensor" || op == "TensorListReserve" || op == "TensorListSetItem" ||
         op == "TensorListLength" || op == "TensorListElementShape";
}

}  // namespace

const FoldTable& StructureFolds() {
  static const auto* const folds = new FoldTable{{"Const", Const},
                                                 {"Shape", ShapeOp},
                                                 {"ShapeN", ShapeOp},
                                                 {"VariableShape", VariableShape},
                                                 {"TensorListFromTensor", ListFromTensor},
                                                 {"TensorListReserve", ListReserve},
                                                 {"TensorListSetItem", ListSetItem},
                                                 {"TensorListLength", ListLength},
                                                 {"TensorListElementShape", ListElementShape},
                                                 {"Rank", RankOp},
                                                 {"Size", SizeOp},
                                                 {"Range", Range},
                                                 {"Reshape", Reshape},
                                                 {"ExpandDims", ExpandDims},
                                                 {"Squeeze", Squeeze},
                                                 {"Pack", Pack},
                                                 {"ConcatV2", ConcatV2},
                                                 {"Concat", Concat},
                                                 {"Slice", Slice},
                                                 {"StridedSlice", StridedSlice},
                                                 {"GatherV2", Gather},
                                                 {"Gather", Gather},
                                                 {"InvertPermutation", InvertPermutation},
                                                 {"ListDiff", ListDiff},
                                                 {"Where", Where},
                                                 {"Fill", FillOp},
                                                 {"BroadcastArgs", BroadcastArgs}};
  return *folds;
}

}  // namespace fold

IntsPtr ReadInts(const tf::TensorProto& value) {
  const fold::Folded folded = fold::Values(value);
  return folded.empty() ? nullptr : folded[0];
}

std::vector<IntsPtr> FoldInts(Body* body, const std::string& op, const tf::NodeDef& def,
                              absl::Span<const Port> inputs) {
  const fold::FoldFn* fold = nullptr;
  for (const fold::FoldTable* table : {&fold::StructureFolds(), &fold::MathFolds()})
    if (const auto it = table->find(op); it != table->end()) fold = &it->second;
  if (fold == nullptr) return {};
  const tf::DataType first = inputs.empty() ? tf::DT_INVALID : body->output(inputs[0]).dtype;
  if (!fold::MakesFacts(op) && !IsIntegral(first) && !(op == "Identity" && first == tf::DT_VARIANT)) return {};
  return (*fold)(fold::Call{body, &def, inputs});
}

}  // namespace symgrad
