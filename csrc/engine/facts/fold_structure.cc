// Ops that make, move and choose elements of small integer tensors.
#include <algorithm>

#include "csrc/engine/facts/fold.h"

namespace symgrad::fold {
namespace {

constexpr int64_t kMaxBound = int64_t{1} << 40;  // far from overflow

OutputInts Range(const Folding& c) {
  int64_t begin, end, step;
  if (!c.Scalar(0, &begin) || !c.Scalar(1, &end) || !c.Scalar(2, &step) || step == 0) return {};
  if (std::abs(begin) > kMaxBound || std::abs(end) > kMaxBound || std::abs(step) > kMaxBound) return {};
  if ((end - begin) / step > Ints::kMaxElements) return {};
  Elements elements;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) elements.push_back({i, {}});
  return Vector(std::move(elements));
}

// Moves elements to the shape that TensorFlow inferred for the result, if it is known. Order stays.
OutputInts Reshape(const Folding& c) {
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

OutputInts ExpandDims(const Folding& c) {
  const Ints* x = c.in(0);
  int64_t axis;
  if (x == nullptr || !c.Scalar(1, &axis)) return {};
  std::vector<int64_t> dims = x->dims;
  if (axis < 0) axis += static_cast<int64_t>(dims.size()) + 1;
  if (axis < 0 || axis > static_cast<int64_t>(dims.size())) return {};
  dims.insert(dims.begin() + axis, 1);
  return One(dims, x->elements);
}

OutputInts Squeeze(const Folding& c) {
  const Ints* x = c.in(0);
  if (x == nullptr || x->elements.size() != 1) return {};  // scalars are what shapes are squeezed to
  const auto axes = c.def->attr().find("squeeze_dims");
  if (axes != c.def->attr().end() && axes->second.list().i_size() > 0 &&
      axes->second.list().i_size() != static_cast<int>(x->dims.size()))
    return {};
  return One({}, x->elements);
}

// Scalars to a vector; vectors to the rows or, with axis 1, the columns of a matrix.
OutputInts Pack(const Folding& c) {
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

OutputInts ConcatVectors(const Folding& c, int first, int count) {
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
  return any ? Vector(std::move(elements)) : OutputInts{};
}
OutputInts ConcatV2(const Folding& c) { return ConcatVectors(c, 0, static_cast<int>(c.inputs.size()) - 1); }
OutputInts Concat(const Folding& c) { return ConcatVectors(c, 1, static_cast<int>(c.inputs.size()) - 1); }

// x[begin : begin + size] of a vector, or of the rows and columns of a matrix.
OutputInts Slice(const Folding& c) {
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
OutputInts StridedSlice(const Folding& c) {
  const Ints* x = c.in(0);
  int64_t begin, end, step;
  if (x == nullptr || x->dims.size() != 1 || c.attr("ellipsis_mask", 0) || c.attr("new_axis_mask", 0)) return {};
  if (!c.Scalar(1, &begin) || !c.Scalar(2, &end) || !c.Scalar(3, &step) || step == 0) return {};
  const int64_t n = x->dims[0];
  step = std::clamp(step, -n - 1, n + 1);  // as far as any step goes, and no overflow
  if (c.attr("shrink_axis_mask", 0) & 1) {
    if (begin < 0) begin += n;
    return begin < 0 || begin >= n ? OutputInts{} : One({}, {x->elements[begin]});
  }
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  const auto clamp = [&](int64_t i) { return std::clamp(i < 0 ? i + n : i, low, high); };
  begin = c.attr("begin_mask", 0) & 1 ? (step > 0 ? 0 : n - 1) : clamp(begin);
  end = c.attr("end_mask", 0) & 1 ? (step > 0 ? n : -1) : clamp(end);
  Elements elements;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) elements.push_back(x->elements[i]);
  return Vector(std::move(elements));
}

OutputInts Gather(const Folding& c) {
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

OutputInts InvertPermutation(const Folding& c) {
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

OutputInts ListDiff(const Folding& c) {
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

OutputInts Where(const Folding& c) {
  const Ints* x = c.in(0);
  if (x == nullptr || !x->known() || x->dims.size() != 1) return {};
  Elements elements;
  for (size_t i = 0; i < x->elements.size(); ++i)
    if (x->elements[i].value) elements.push_back({static_cast<int64_t>(i), {}});
  const int64_t n = static_cast<int64_t>(elements.size());
  return One({n, 1}, std::move(elements));
}

OutputInts FillOp(const Folding& c) {
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

OutputInts BroadcastArgs(const Folding& c) {
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

}  // namespace

const FoldTable& StructureFolds() {
  static const auto* const folds = new FoldTable{{"Range", Range},
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

}  // namespace symgrad::fold
