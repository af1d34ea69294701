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
V RowShape(const V& x) { return tail(shape(x), 1); }

// The shape of the elements that x is a concatenation of.
V PieceShape(const V& x) { return concat({ints({-1}), RowShape(x)}, 0); }

// Several rows may have been gathered from one of n elements: each row scattered is the sum of them.
V Totals(const V& rows, const V& indices, const V& n) {
  return distinct(indices) ? rows : gather(segment_sum(rows, indices, n), indices);
}

Grads ListGatherGrad(const Op& o) {
  const V list = IN(input_handle), indices = IN(indices), total = Totals(o.dy(), indices, Length(list));
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
  const V list = IN(input_handle), rows = IN(tensor), indices = IN(indices), dy = o.dy();
  const V others = op("TensorListScatterIntoExistingList", dy, zeros_like(rows), indices);
  return GRADS(op("TensorListResize", others, Length(list)), ScatteredGrad(dy, rows, indices));
}

Grads SetItemGrad(const Op& o) {
  const V list = IN(input_handle), index = IN(index), item = IN(item), dy = o.dy();
  const V others = op("TensorListSetItem", dy, index, zeros_like(item));
  return GRADS(o.flag("resize_if_index_out_of_bounds") ? op("TensorListResize", others, Length(list)) : others, none,
               o.like("TensorListGetItem", dy, index, shape(item)));
}

Grads ListConcatGrad(const Op& o) { return {op("TensorListSplit", o.dy(), PieceShape(o.out()), OUT(lengths))}; }

// A row each for the lists of a vector. There is no op that takes one from each: it takes nodes for each list.
Grads PushBackBatchGrad(const Op& o) {
  constexpr int kMost = 1 << 16;
  const V rows = IN(tensor), dy = o.dy();
  const int64_t n = rows.dim(0);
  if (n < 0) return o.unsupported("the number of lists must be known when building");
  if (n > kMost) return o.unsupported("of so many lists: push to smaller batches of them, or use one list of rows");
  if (n == 0) return {dy, zeros_like(rows)};
  Values lists, items;
  for (const V& list : unpack(dy, static_cast<int>(n))) {
    lists.push_back(op("TensorListPopBack", list, RowShape(rows), Attr("element_dtype", rows.dtype())));
    items.push_back(lists.back().out(1));
  }
  return {pack(lists), pack(items)};
}

// The first list's elements, then the second one's, which are of one shape.
Grads ConcatListsGrad(const Op& o) {
  const V a = IN(input_a), b = IN(input_b), dy = o.dy(), n = Length(a);
  if (a.rank() != 0) return o.unsupported("it is differentiable for single lists only: take those of the batch apart");
  const Attr dtype("element_dtype", o.type("element_dtype"));
  const V element = op("TensorListElementShape", b, Attr("shape_type", DType::kInt32));
  auto rest = [&] { return op("TensorListGather", dy, range(n, n + Length(b)), element, dtype); };
  return GRADS(op("TensorListResize", dy, n), op("TensorListFromTensor", rest(), element));
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
  const Taken taken(o.dy(), IN(key), IN(value));
  return {taken.rest, none, taken.at_key};
}

// Nothing is passed to what was erased: its key may have been inserted again.
Grads MapEraseGrad(const Op& o) {
  const V map = IN(input_handle), key = IN(key);
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

Grads OptionalFromValueGrad(const Op& o) {
  std::vector<int64_t> dtypes;
  for (const V& x : INS(components)) dtypes.push_back(static_cast<int64_t>(x.dtype()));
  return outputs(op("OptionalGetValue", o.dy(), Attr("output_types", dtypes), Attr("output_shapes", o.num_in())),
                 o.num_in());
}

// ---- Arrays of TensorFlow 1: their cotangents are lists, which the flow carries (csrc/engine/read/flows.h) ----

// A list is as long as the elements that have a cotangent. The others' are zeros.
V OfLength(const V& list, const V& length) { return op("TensorListResize", list, length); }
V AtLeast(const V& list, const V& length) { return OfLength(list, maximum(Length(list), length)); }
V EndOf(const V& indices) { return op("Max", concat({ints({-1}), indices}, 0), 0) + 1; }

Grads ArrayReadGrad(const Op& o) {
  const V i = IN(index), dy = o.dy();
  const V zeros = op("TensorListReserve", -1, i + 1, Attr("element_dtype", dy.dtype()), Attr("shape_type", i.dtype()));
  return {none, none, op("TensorListSetItem", zeros, i, dy)};
}

// Nobody has read the element before it was written.
Grads ArrayWriteGrad(const Op& o) {
  const V i = IN(index), value = IN(value), dlist = o.dy();
  auto item = [&] {
    return op("TensorListGetItem", AtLeast(dlist, i + 1), i, shape(value), Attr("element_dtype", value.dtype()));
  };
  return GRADS(none, none, item(), dlist);
}

Grads ArrayGatherGrad(const Op& o) {
  const V indices = IN(indices), n = EndOf(indices);
  return {none, none, op("TensorListScatterV2", Totals(o.dy(), indices, n), indices, -1, n)};
}

Grads ArrayScatterGrad(const Op& o) {
  const V indices = IN(indices), rows = IN(value), dlist = o.dy();
  auto gathered = [&] {
    return op("TensorListGather", AtLeast(dlist, EndOf(indices)), indices, RowShape(rows),
              Attr("element_dtype", rows.dtype()));
  };
  return GRADS(none, none, gathered(), dlist);
}

Grads ArrayConcatGrad(const Op& o) { return {none, op("TensorListSplit", o.dy(), PieceShape(o.out()), OUT(lengths))}; }

Grads ArraySplitGrad(const Op& o) {
  const V x = IN(value), lengths = IN(lengths), dlist = o.dy();
  auto pieces = [&] {
    return op("TensorListConcatV2", OfLength(dlist, size(lengths)), PieceShape(x), lengths,
              Attr("element_dtype", x.dtype()));
  };
  return GRADS(none, pieces(), none, dlist);
}

// clang-format off
#define ARRAY(name, gradient)                                                                                          \
    {"TensorArray" #name, gradient}, {"TensorArray" #name "V2", gradient}, {"TensorArray" #name "V3", gradient},

constexpr Rule kRules[] = {
    NO_GRAD(EmptyTensorList) NO_GRAD(OptionalHasValue) NO_GRAD(OptionalNone)
    NO_GRAD(TensorListElementShape) NO_GRAD(TensorListLength)
    NO_GRAD(TensorListReserve)

    // One element.
    RULE(TensorListPushBack, const V popped = o.like("TensorListPopBack", dy, shape(IN(tensor)));
         return {popped, popped.out(1)};)
    RULE(TensorListPopBack, const DType dtype = o.type("element_dtype");
         return {op("TensorListPushBack", o.has_dy(0) ? o.dy(0) : ZeroList(y, dtype), DY(tensor))};)
    UNARY(TensorListGetItem, op("TensorListSetItem", ZeroList(x, dy.dtype()), IN(index), dy))
    {"TensorListSetItem", SetItemGrad},
    {"TensorListPushBackBatch", PushBackBatchGrad},

    // All elements.
    UNARY(TensorListStack, op("TensorListFromTensor", dy, RowShape(y)))
    UNARY(TensorListFromTensor, o.like("TensorListStack", dy, RowShape(x), Attr("num_elements", x.dim(0))))
    {"TensorListConcat", ListConcatGrad},
    {"TensorListConcatV2", ListConcatGrad},
    UNARY(TensorListSplit, o.like("TensorListConcatV2", dy, PieceShape(x), IN(lengths)))
    UNARY(TensorListResize, op("TensorListResize", dy, Length(x)))

    {"TensorListConcatLists", ConcatListsGrad},

    // Some elements.
    {"TensorListGather", ListGatherGrad},
    UNARY(TensorListScatter, ScatteredGrad(dy, x, IN(indices)))
    UNARY(TensorListScatterV2, ScatteredGrad(dy, x, IN(indices)))
    {"TensorListScatterIntoExistingList", ScatterIntoExistingListGrad},

    NO_GRAD(EmptyTensorMap) NO_GRAD(TensorMapHasKey) NO_GRAD(TensorMapSize) NO_GRAD(TensorMapStackKeys)
    ONLY(TensorMapLookup, input_handle, Single(IN(key), dy))
    {"TensorMapErase", MapEraseGrad},
    {"TensorMapInsert", MapInsertGrad},

    {"OptionalFromValue", OptionalFromValueGrad},
    RULE(OptionalGetValue, return {op("OptionalFromValue", Components(o))};)
    RULE(CompositeTensorVariantFromComponents,
         return outputs(o.like("CompositeTensorVariantToComponents", dy), o.num_in());)
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
