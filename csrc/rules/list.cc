// Lists of tensors and optional tensors, held in variants, and arrays. The cotangent of a list is a list of the same
// length; an element that was never set stands for zeros.
#include "csrc/rules/compiled.h"
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

V Length(const V& list) { return op("TensorListLength", list); }

// Zeros that take no memory, but for lists of lists, which have no shape to make them of later, and for lists that XLA
// may have filled in part.
V ZeroList(const V& list, DType dtype) {
  if (dtype == DType::kVariant || (Compiled() && !known(Length(list)))) return zeros_like(list);
  return op("TensorListReserve", op("TensorListElementShape", list, Attr("shape_type", DType::kInt32)), Length(list),
            Attr("element_dtype", dtype));
}

// The shape of the elements that are the rows of x.
V RowShape(const V& x) { return slice(shape(x), ints({1}), ints({-1})); }

// The shape of the elements that x is a concatenation of.
V PieceShape(const V& x) { return concat({ints({-1}), RowShape(x)}, 0); }

// Several rows may have been gathered from one of n elements: each row scattered is the sum of them.
V Totals(const V& rows, const V& indices, const V& n) {
  return distinct(indices) ? rows : gather(op("UnsortedSegmentSum", rows, indices, n), indices);
}

Grads GatherGrad(const Op& o) {
  const V list = o.in(0), indices = o.in(1), total = Totals(o.dy(), indices, Length(list));
  return {op("TensorListScatterIntoExistingList", ZeroList(list, total.dtype()), total, indices)};
}

// The rows' cotangents, where the last one of several rows for one element is in the list and the others are lost.
V ScatteredGrad(const V& dlist, const V& rows, const V& indices) {
  V dy = op("TensorListGather", dlist, indices, RowShape(rows), Attr("element_dtype", rows.dtype()));
  if (distinct(indices)) return dy;
  const V numbers = range(0, size(indices));
  const V last = op("UnsortedSegmentMax", numbers, indices, Length(dlist));
  return keep(equal(gather(last, indices), numbers), dy);
}

// Scattering, like setting an item, may have made the list longer.
Grads ScatterIntoExistingListGrad(const Op& o) {
  const V list = o.in(0), rows = o.in(1), indices = o.in(2), dy = o.dy();
  const V others = op("TensorListScatterIntoExistingList", dy, zeros_like(rows), indices);
  return {op("TensorListResize", others, Length(list)), o.wants(1) ? ScatteredGrad(dy, rows, indices) : none};
}

Grads SetItemGrad(const Op& o) {
  const V list = o.in(0), index = o.in(1), item = o.in(2), dy = o.dy();
  const V others = op("TensorListSetItem", dy, index, zeros_like(item));
  return {o.flag("resize_if_index_out_of_bounds") ? op("TensorListResize", others, Length(list)) : others, none,
          o.wants(2) ? o.like("TensorListGetItem", dy, index, shape(item)) : none};
}

Grads ConcatGrad(const Op& o) { return {op("TensorListSplit", o.dy(), PieceShape(o.out()), o.out(1))}; }

// A row each for the lists of a vector.
Grads PushBackBatchGrad(const Op& o) {
  const V rows = o.in(1), dy = o.dy();
  const int n = static_cast<int>(rows.dim(0));
  if (n < 0) return o.unsupported("the number of lists must be known when building");
  if (n == 0) return {dy, zeros_like(rows)};
  const V each = op("Unpack", dy, Attr("num", n));
  Values lists, items;
  for (int i = 0; i < n; ++i) {
    lists.push_back(op("TensorListPopBack", each.out(i), RowShape(rows), Attr("element_dtype", rows.dtype())));
    items.push_back(lists.back().out(1));
  }
  return {pack(lists), pack(items)};
}

// The first list's elements, then the second one's, which are of one shape.
Grads ConcatListsGrad(const Op& o) {
  const V a = o.in(0), b = o.in(1), dy = o.dy(), n = Length(a);
  if (a.rank() != 0) return o.unsupported("it is differentiable for single lists only: take those of the batch apart");
  const Attr dtype("element_dtype", o.type("element_dtype"));
  const V element = op("TensorListElementShape", b, Attr("shape_type", DType::kInt32));
  auto rest = [&] { return op("TensorListGather", dy, range(n, n + Length(b)), element, dtype); };
  return {op("TensorListResize", dy, n), o.wants(1) ? op("TensorListFromTensor", rest(), element) : none};
}

// ---- Maps of tensors: the cotangent of a map is a map of the same keys, or of some; the others' are zeros ----

V Single(const V& key, const V& value) { return op("TensorMapInsert", op("EmptyTensorMap"), key, value); }

// What the map of cotangents has at a key, and the map without it. With zeros like the value added it is surely there.
struct Taken {
  Taken(const V& dmap, const V& key, const V& value) {
    const V sure = op("AddN", list({dmap, Single(key, zeros_like(value))}));
    const Attr dtype("value_dtype", value.dtype());
    at_key = op("TensorMapLookup", sure, key, dtype);
    rest = op("TensorMapErase", sure, key, dtype);
  }
  V at_key, rest;
};

Grads MapInsertGrad(const Op& o) {
  const Taken taken(o.dy(), o.in(1), o.in(2));
  return {taken.rest, none, taken.at_key};
}

// Nothing is passed to what was erased: its key may have been inserted again.
Grads MapEraseGrad(const Op& o) {
  const V map = o.in(0), key = o.in(1);
  return {Taken(o.dy(), key, o.like("TensorMapLookup", map, key)).rest, none};
}

// ---- Several tensors in a variant ----

// What has no cotangent stands for itself in a variant that is one.
List Components(const Op& o) {
  Values components;
  for (int i = 0; i < o.num_out(); ++i) {
    const DType t = o.out(i).dtype();
    const bool whole = t == DType::kInt32 || t == DType::kInt64 || t == DType::kBool || t == DType::kString;
    components.push_back(o.has_dy(i) || !whole ? o.dy(i) : o.out(i));
  }
  return list(components);
}

// An output of `gradient` for each input.
Grads Outputs(const Op& o, const V& gradient) {
  Grads grads;
  for (int i = 0; i < o.num_in(); ++i) grads.push_back(gradient.out(i));
  return grads;
}

Grads OptionalFromValueGrad(const Op& o) {
  std::vector<int64_t> dtypes;
  for (int i = 0; i < o.num_in(); ++i) dtypes.push_back(static_cast<int64_t>(o.in(i).dtype()));
  return Outputs(o, op("OptionalGetValue", o.dy(), Attr("output_types", dtypes), Attr("output_shapes", o.num_in())));
}

// ---- Arrays of TensorFlow 1: their cotangents are lists, which the flow carries (engine/tensorflow1/flows.h) ----

// A list is as long as the elements that have a cotangent. The others' are zeros.
V OfLength(const V& list, const V& length) { return op("TensorListResize", list, length); }
V AtLeast(const V& list, const V& length) { return OfLength(list, maximum(Length(list), length)); }
V EndOf(const V& indices) { return op("Max", concat({ints({-1}), indices}, 0), 0) + 1; }

Grads ArrayReadGrad(const Op& o) {
  const V i = o.in(1), dy = o.dy();
  const V zeros = op("TensorListReserve", -1, i + 1, Attr("element_dtype", dy.dtype()), Attr("shape_type", i.dtype()));
  return {none, none, op("TensorListSetItem", zeros, i, dy)};
}

// Nobody has read the element before it was written.
Grads ArrayWriteGrad(const Op& o) {
  const V i = o.in(1), value = o.in(2), dlist = o.dy();
  auto item = [&] {
    return op("TensorListGetItem", AtLeast(dlist, i + 1), i, shape(value), Attr("element_dtype", value.dtype()));
  };
  return {none, none, o.wants(2) ? item() : none, dlist};
}

Grads ArrayGatherGrad(const Op& o) {
  const V indices = o.in(1), n = EndOf(indices);
  return {none, none, op("TensorListScatterV2", Totals(o.dy(), indices, n), indices, -1, n)};
}

Grads ArrayScatterGrad(const Op& o) {
  const V indices = o.in(1), rows = o.in(2), dlist = o.dy();
  auto gathered = [&] {
    return op("TensorListGather", AtLeast(dlist, EndOf(indices)), indices, RowShape(rows),
              Attr("element_dtype", rows.dtype()));
  };
  return {none, none, o.wants(2) ? gathered() : none, dlist};
}

Grads ArrayConcatGrad(const Op& o) { return {none, op("TensorListSplit", o.dy(), PieceShape(o.out()), o.out(1))}; }

Grads ArraySplitGrad(const Op& o) {
  const V x = o.in(1), lengths = o.in(2), dlist = o.dy();
  auto pieces = [&] {
    return op("TensorListConcatV2", OfLength(dlist, size(lengths)), PieceShape(x), lengths,
              Attr("element_dtype", x.dtype()));
  };
  return {none, o.wants(1) ? pieces() : none, none, dlist};
}

// clang-format off
#define ARRAY(name, gradient)                                                                                          \
    {"TensorArray" #name, gradient}, {"TensorArray" #name "V2", gradient}, {"TensorArray" #name "V3", gradient},

constexpr Rule kRules[] = {
    NO_GRAD(EmptyTensorList) NO_GRAD(OptionalHasValue) NO_GRAD(OptionalNone)
    NO_GRAD(TensorListElementShape) NO_GRAD(TensorListLength)
    NO_GRAD(TensorListReserve)

    // One element.
    RULE(TensorListPushBack, const V popped = o.like("TensorListPopBack", dy, shape(o.in(1)));
         return {popped, popped.out(1)};)
    RULE(TensorListPopBack, const DType dtype = o.type("element_dtype");
         return {op("TensorListPushBack", o.has_dy(0) ? o.dy(0) : ZeroList(y, dtype), o.dy(1))};)
    UNARY(TensorListGetItem, op("TensorListSetItem", ZeroList(x, dy.dtype()), o.in(1), dy))
    {"TensorListSetItem", SetItemGrad},
    {"TensorListPushBackBatch", PushBackBatchGrad},

    // All elements.
    UNARY(TensorListStack, op("TensorListFromTensor", dy, RowShape(y)))
    UNARY(TensorListFromTensor, o.like("TensorListStack", dy, RowShape(x), Attr("num_elements", x.dim(0))))
    {"TensorListConcat", ConcatGrad},
    {"TensorListConcatV2", ConcatGrad},
    UNARY(TensorListSplit, o.like("TensorListConcatV2", dy, PieceShape(x), o.in(2)))
    UNARY(TensorListResize, op("TensorListResize", dy, Length(x)))

    {"TensorListConcatLists", ConcatListsGrad},

    // Some elements.
    {"TensorListGather", GatherGrad},
    UNARY(TensorListScatter, ScatteredGrad(dy, x, o.in(1)))
    UNARY(TensorListScatterV2, ScatteredGrad(dy, x, o.in(1)))
    {"TensorListScatterIntoExistingList", ScatterIntoExistingListGrad},

    NO_GRAD(EmptyTensorMap) NO_GRAD(TensorMapHasKey) NO_GRAD(TensorMapSize) NO_GRAD(TensorMapStackKeys)
    RULE(TensorMapLookup, return {Single(o.in(1), dy), none};)
    {"TensorMapErase", MapEraseGrad},
    {"TensorMapInsert", MapInsertGrad},

    {"OptionalFromValue", OptionalFromValueGrad},
    RULE(OptionalGetValue, return {op("OptionalFromValue", Components(o))};)
    RULE(CompositeTensorVariantFromComponents, return Outputs(o, o.like("CompositeTensorVariantToComponents", dy));)
    RULE(CompositeTensorVariantToComponents,
         return {o.like("CompositeTensorVariantFromComponents", Components(o))};)

    ARRAY(Read, ArrayReadGrad) ARRAY(Write, ArrayWriteGrad)
    ARRAY(Gather, ArrayGatherGrad) ARRAY(Scatter, ArrayScatterGrad)
    ARRAY(Concat, ArrayConcatGrad) ARRAY(Split, ArraySplitGrad)
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
