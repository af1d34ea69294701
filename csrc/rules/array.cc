// Ops that move, select, copy and pad elements.
#include <algorithm>
#include <cstdint>

#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// Identities and straight-through estimators: output i's cotangent is input i's, sparse rows included.
Grads PassOn(const Op& o) {
  Grads dx(o.num_in());
  for (int i = 0; i < o.num_out(); ++i) dx[i] = o.raw_dy(i);
  return dx;
}

Values Cotangents(const Op& o) {
  Values dys;
  for (int i = 0; i < o.num_out(); ++i) dys.push_back(o.dy(i));
  return dys;
}

Values Outputs(const V& node, int count) {
  Values outputs;
  for (int i = 0; i < count; ++i) outputs.push_back(node.out(i));
  return outputs;
}

V Total(const V& x) { return sum(x, range(0, rank(x))); }

// Not every op takes the 16-bit indices that Gather, StridedSlice and some scatters do.
V Widen(const V& indices) {
  const DType t = indices.dtype();
  return t == DType::kInt16 || t == DType::kUInt16 ? cast(indices, DType::kInt32) : indices;
}

// ---- Concatenation ----

// `axis` counted from the front.
V FromFront(const V& axis, const V& x) {
  const auto value = known(axis);
  return value && value->at(0) >= 0 ? axis : axis % cast_like(rank(x), axis);
}

// The sizes of `xs` along `axis`, for SplitV: it infers one that is not known.
V Sizes(const Values& xs, const V& axis) {
  const auto static_axis = known(axis);
  std::vector<int64_t> sizes;
  for (const V& x : xs) sizes.push_back(static_axis ? x.dim(static_cast<int>(static_axis->at(0))) : -1);
  if (std::count(sizes.begin(), sizes.end(), -1) <= 1) return constant(ints(sizes), DType::kInt32);
  Values shapes;
  for (const V& x : xs) shapes.push_back(shape(x));
  return gather(pack(shapes), FromFront(axis, xs[0]), 1);
}

Grads ConcatGrad(const Op& o, const V& axis, const Values& xs) {
  const int n = static_cast<int>(xs.size());
  // A constant if it is known: without its value SplitV's shape function takes the last axis, and Grappler believes it.
  const auto static_axis = known(axis);
  const V split_axis = cast(static_axis ? V(static_axis->at(0)) : axis, DType::kInt32);
  return Outputs(op("SplitV", o.dy(), Sizes(xs, axis), split_axis, Attr{"num_split", n}), n);
}

// ---- Gathering and scattering ----

// Dimensions [begin, end) of a shape, and those from begin on.
V Part(const V& shape, const V& begin, const V& end) {
  return slice(shape, expand_dims(begin, 0), expand_dims(end - begin, 0));
}
V Tail(const V& shape, const V& begin) { return slice(shape, expand_dims(begin, 0), ints({-1})); }

// y[j..., i...] = params[indices[j...], i...]
V GatherRows(const V& params_shape, const V& indices, const V& dy) {
  if (indices.rank() == 1) return rows(indices, dy, params_shape);
  const V tail = Tail(shape(dy), rank(indices));
  const auto sizes = known(tail);
  const bool inferable = sizes && std::count(sizes->begin(), sizes->end(), 0) == 0;
  const V count = inferable ? ints({-1}) : expand_dims(size(indices), 0);
  return rows(flatten(indices), reshape(dy, concat({count, tail}, 0)), params_shape);
}

// y[b..., o..., j..., i...] = params[b..., o..., indices[b..., j...], i...], where b are the first `batch_dims`
// dimensions and b and o together the first `axis`. With each run of dimensions taken as one, the cotangent is a
// segment sum whose ids are (row of b and o) * n + index.
V GatherGrad(const V& params_shape, const V& indices, const V& axis, const V& batch_dims, const V& dy) {
  if (known(axis) == std::vector<int64_t>{0}) return GatherRows(params_shape, indices, dy);
  const V s = cast(params_shape, DType::kInt64), begin = constant(0, DType::kInt32), n = gather(s, axis);
  const V b = prod(Part(s, begin, batch_dims)), o = prod(Part(s, batch_dims, axis));
  const V i = prod(Tail(s, axis + 1)), j = prod(Tail(shape(indices, DType::kInt64), batch_dims));
  const V ids = reshape(range(0, b * o) * n, pack({b, o, 1})) + reshape(cast(indices, DType::kInt64), pack({b, 1, j}));
  return reshape(op("UnsortedSegmentSum", reshape(dy, pack({b, o, j, i})), ids, b * o * n), params_shape);
}

V BatchDims(const Op& o, const V& indices) {
  const int64_t n = o.integer("batch_dims");
  return n < 0 ? rank(indices) + n : constant(n, DType::kInt32);
}

Grads GatherV2Grad(const Op& o) {
  const V params = o.in(0), indices = o.in(1), axis = FromFront(cast(o.in(2), DType::kInt32), params);
  return {GatherGrad(shape(params), Widen(indices), axis, BatchDims(o, indices), o.dy())};
}

Grads ResourceGatherGrad(const Op& o) {
  const V indices = o.in(1), batch_dims = BatchDims(o, indices);  // which is the axis as well
  return {GatherGrad(op("VariableShape", o.in(0)), indices, batch_dims, batch_dims, o.dy())};
}

// y[j..., i...] = params[indices[j..., :], i...]. Rows where indices have one component, unless wrong ones are ignored.
V GatherNdGrad(const Op& o, const V& params_shape, const V& indices) {
  const bool ignore = o.has_attr("bad_indices_policy") && o.text("bad_indices_policy") == "IGNORE";
  if (indices.dim(-1) == 1 && !ignore) return GatherRows(params_shape, squeeze(indices, {-1}), o.dy());
  if (indices.dim(-1) == 0) return sum(o.dy(), range(0, rank(indices) - 1));  // ScatterNd takes no such indices
  if (indices.rank() > 1) return o.like("ScatterNd", indices, o.dy(), params_shape);
  return o.like("ScatterNd", expand_dims(indices, 0), expand_dims(o.dy(), 0), params_shape);  // nor a single index
}

// Of several updates of one place one wins: it is that whose number, scattered in the same way, is found in the place.
Grads TensorScatterUpdateGrad(const Op& o) {
  const V x = o.in(0), indices = o.in(1), wide = Widen(indices), dy = o.dy();
  auto dupdates = [&] {
    const V g = o.like("GatherNd", dy, wide);
    if (distinct(indices)) return g;
    const V depth = gather(shape(indices), -1 + rank(indices)), n = shape(indices);
    const V rows = slice(n, ints({0}), pack({rank(indices) - 1})), numbers = reshape(range(0, prod(rows)), rows);
    const V nobody = fill(slice(shape(x), ints({0}), pack({depth})), constant(-1, DType::kInt32));
    return keep(equal(o.like("GatherNd", o.like("TensorScatterUpdate", nobody, indices, numbers), wide), numbers), g);
  };
  return {o.like("TensorScatterUpdate", dy, indices, zeros_like(o.in(2))), none, o.wants(2) ? dupdates() : none};
}

// Rows of x replaced; of several for one place the last one wins.
Grads InplaceUpdateGrad(const Op& o) {
  const V x = o.in(0), n = gather(shape(x), 0), i = o.in(1) % n, v = o.in(2), dy = o.dy(), numbers = range(0, size(i));
  const V wins = equal(gather(op("UnsortedSegmentMax", numbers, i, n), i), numbers);
  const V column = concat({shape(wins), fill(expand_dims(rank(v) - 1, 0), 1)}, 0);
  return {op("TensorScatterUpdate", dy, expand_dims(i, -1), zeros_like(v)), none,
          select(reshape(wins, column), gather(dy, i), 0)};
}

// Where several of the tensor's element and the updates are equal to the extremum, they share its cotangent equally.
Grads TensorScatterExtremumGrad(const Op& o) {
  const V x = o.in(0), indices = o.in(1), updates = o.in(2), y = o.out(), dy = single(o.dy());
  const V x_wins = cast_like(equal(x, y), dy);
  const V update_wins = cast_like(equal(updates, o.like("GatherNd", y, indices)), dy);
  const V winners = x_wins + o.like("ScatterNd", indices, update_wins, shape(x, indices.dtype()));
  const V share = dy / winners;
  return {cast_like(share * x_wins, x), none, cast_like(o.like("GatherNd", share, indices) * update_wins, x)};
}

// patches[b, p, c] = image[b, index(p), c] for all b and c: the patches of an image of its own indices tell what
// index(p) is, and the cotangents add up by it. Indices count from 1, for 0 is the padding, dropped at the end. They
// are float64 because not every device has an integer kernel.
Grads PatchesGrad(const Op& o, const char* type) {
  const V x = o.in(0), s = shape(x), batch = gather(s, 0), one = ints({1});
  const int space = static_cast<int>(o.integers("ksizes").size()) - 2;
  const V area = slice(s, one, ints({space})), n = prod(area) + 1, channels = slice(s, ints({space + 1}), one);
  const V image = reshape(cast(range(1, n), DType::kDouble), concat({one, area, one}, 0));
  const V index = reshape(cast(o.like(type, image), DType::kInt32), ints({1, -1}));
  const V ids = reshape(range(0, batch) * n, ints({-1, 1})) + index;
  const V sums = op("UnsortedSegmentSum", reshape(o.dy(), concat({shape(ids), channels}, 0)), ids, batch * n);
  const V images = reshape(sums, concat({pack({batch, n}), channels}, 0));
  return {reshape(slice(images, ints({0, 1, 0}), ints({-1, -1, -1})), s)};
}

// ---- Diagonals ----

// The cotangent of input i, a scalar that fills the elements of y which x did not, where x got dx.
V PaddingGrad(const Op& o, int i, const V& dx) {
  return o.wants(i) ? cast_like(Total(single(o.dy())) - Total(single(dx)), o.dy()) : none;
}

Grads MatrixDiagGrad(const Op& o, const char* part) {  // (diagonal, k, num_rows, num_cols, padding_value)
  const V dx = o.like(part, o.dy(), o.in(1), constant(0, o.dy().dtype()));
  return {dx, none, none, none, PaddingGrad(o, 4, dx)};
}

Grads MatrixDiagPartGrad(const Op& o, const char* set_diag) {  // (matrix, k, padding_value)
  const V dx = o.like(set_diag, zeros_like(o.in(0)), o.dy(), o.in(1));
  return {dx, none, PaddingGrad(o, 2, dx)};
}

Grads MatrixSetDiagGrad(const Op& o, const char* set_diag, const char* part) {  // (matrix, diagonal, k)
  const V dy = o.dy(), k = o.in(2);
  return {o.like(set_diag, dy, zeros_like(o.in(1)), k), o.like(part, dy, k, constant(0, dy.dtype()))};
}

// ---- Padding ----

Grads PadGrad(const Op& o) {  // (x, paddings) or (x, paddings, constant)
  const V x = o.in(0), paddings = o.in(1);
  const V dx = slice(o.dy(), flatten(slice(paddings, ints({0, 0}), ints({-1, 1}))), shape(x, paddings.dtype()));
  if (o.num_in() == 2) return {dx};
  return {dx, none, PaddingGrad(o, 2, dx)};
}

// Elements are `on` at the indices and `off` elsewhere.
Grads OneHotGrad(const Op& o) {  // (indices, depth, on, off)
  const V dy = o.dy(), hot = o.like("OneHot", o.in(0), o.in(1), constant(1, dy.dtype()), constant(0, dy.dtype()));
  const V on = Total(dy * hot);
  return {none, none, on, PaddingGrad(o, 3, on)};
}

// ---- Quantisation ----

// The op gives (dx, dmin, dmax) = (dy * inside, sum(dy * below), sum(dy * above)), with masks by x, min and max; it is
// linear in dy. Of what is outside, that which is smaller than its quantised value is below.
Grads FakeQuantGradGrad(const Op& o, const char* gradient, const char* quantise) {
  const V x = o.in(1), min = o.in(2), max = o.in(3);
  V dy = o.like(gradient, o.dy(0), x, min, max);
  if (o.has_dy(1) || o.has_dy(2)) {
    const V outside = 1 - o.like(gradient, ones_like(x), x, min, max);
    dy = dy + outside * select(x < o.like(quantise, x, min, max), o.dy(1), o.dy(2));
  }
  return {dy, none, none, none};  // the masks are piecewise constant
}

// Equal elements, or slices along an axis, share the cotangent of the one that stands for them.
Grads UniqueGrad(const Op& o) {
  const V x = o.in(0), dy = o.dy(), idx = o.out(1);
  const V axis = o.num_in() == 2 ? sum(o.in(1), ints({0})) % cast_like(rank(x), o.in(1)) : V(0);  // none is axis 0
  const V n = op("UnsortedSegmentSum", ones_like(idx), idx, gather(shape(dy), axis));
  const V inner = fill(expand_dims(rank(x) - 1 - cast(axis, DType::kInt32), 0), 1);
  return {gather(dy, idx, axis) / cast_like(reshape(gather(n, idx), concat({shape(idx), inner}, 0)), dy)};
}

// clang-format off
constexpr Rule kRules[] = {
    NO_GRAD(BroadcastArgs) NO_GRAD(BroadcastGradientArgs) NO_GRAD(ConcatOffset) NO_GRAD(Const) NO_GRAD(EditDistance)
    NO_GRAD(InvertPermutation)  NO_GRAD(LowerBound) NO_GRAD(OnesLike) NO_GRAD(Rank) NO_GRAD(Shape) NO_GRAD(ShapeN)
    NO_GRAD(Size) NO_GRAD(StopGradient) NO_GRAD(UpperBound) NO_GRAD(Where) NO_GRAD(ZerosLike)

    // Identities.
    {"_EagerConst", PassOn},
    {"Copy", PassOn},
    {"CopyHost", PassOn},
    {"DebugGradientIdentity", PassOn},
    {"DebugGradientRefIdentity", PassOn},
    {"DebugIdentity", PassOn},
    {"DebugIdentityV2", PassOn},
    {"DebugIdentityV3", PassOn},
    {"DeepCopy", PassOn},
    {"EnsureShape", PassOn},
    {"GuaranteeConst", PassOn},
    {"Identity", PassOn},
    {"IdentityN", PassOn},
    {"PlaceholderWithDefault", PassOn},
    {"Print", PassOn},
    {"RefIdentity", PassOn},
    {"Snapshot", PassOn},
    {"XlaOptimizationBarrier", PassOn},
    UNARY(CheckNumerics, o.like("CheckNumerics", dy, Attr{"message", "in the gradient: " + o.text("message")}))
    UNARY(CheckNumericsV2, o.like("CheckNumericsV2", dy, Attr{"message", "in the gradient: " + o.text("message")}))
    RULE(PreventGradient, return o.unsupported("the model disables this gradient: " + o.text("message"));)

    // Shapes.
    UNARY(ExpandDims, reshape_like(dy, x))
    UNARY(Reshape, reshape_like(dy, x))
    UNARY(Squeeze, reshape_like(dy, x))
    UNARY(BroadcastTo, sum_to(dy, x))
    RULE(Fill, return {none, Total(dy)};)
    // Every dimension is split in (multiple, size): the multiples are summed away.
    UNARY(Tile, sum(reshape(dy, flatten(pack({o.in(1), shape(x, o.in(1).dtype())}, 1))), range(0, rank(x)) * 2))

    // Permutations.
    UNARY(Transpose, transpose(dy, invert_permutation(o.in(1))))
    UNARY(ConjugateTranspose, op("ConjugateTranspose", dy, invert_permutation(o.in(1))))
    UNARY(Reverse, o.like("Reverse", dy, o.in(1)))
    UNARY(ReverseV2, o.like("ReverseV2", dy, o.in(1)))
    UNARY(ReverseSequence, o.like("ReverseSequence", dy, o.in(1)))
    UNARY(Roll, o.like("Roll", dy, -o.in(1), o.in(2)))
    UNARY(SpaceToDepth, o.like("DepthToSpace", dy))
    UNARY(DepthToSpace, o.like("SpaceToDepth", dy))
    UNARY(SpaceToBatch, o.like("BatchToSpace", dy, o.in(1)))
    UNARY(BatchToSpace, o.like("SpaceToBatch", dy, o.in(1)))
    UNARY(SpaceToBatchND, o.like("BatchToSpaceND", dy, o.in(1), o.in(2)))
    UNARY(BatchToSpaceND, o.like("SpaceToBatchND", dy, o.in(1), o.in(2)))

    // Joining and splitting.
    RULE(Pack, return Outputs(o.like("Unpack", dy, Attr{"num", o.num_in()}), o.num_in());)
    RULE(ParallelConcat, return Outputs(op("Split", 0, dy, Attr{"num_split", o.num_in()}), o.num_in());)
    RULE(Unpack, return {o.like("Pack", list(Cotangents(o)))};)
    RULE(Concat, Grads dx = ConcatGrad(o, x, o.ins(1, o.num_in())); dx.insert(dx.begin(), none); return dx;)
    RULE(ConcatV2, return ConcatGrad(o, o.in(o.num_in() - 1), o.ins(0, -1));)
    RULE(Split, return {none, concat(Cotangents(o), x)};)
    RULE(SplitV, return {concat(Cotangents(o), o.in(2))};)

    // Slices and padding.
    RULE(Slice, V begin = o.in(1); const DType t = begin.dtype();
         return {op("Pad", dy, pack({begin, shape(x, t) - shape(y, t) - begin}, 1))};)
    RULE(StridedSlice, V begin = Widen(o.in(1));
         return {o.like("StridedSliceGrad", shape(x, begin.dtype()), begin, Widen(o.in(2)), Widen(o.in(3)), dy)};)
    RULE(StridedSliceGrad, return {none, none, none, none, o.like("StridedSlice", o.dy(), o.in(1), o.in(2), o.in(3))};)
    RULE(TensorStridedSliceUpdate, V begin = o.in(1), end = o.in(2), strides = o.in(3), zero = constant(0, dy.dtype());
         return {o.like("TensorStridedSliceUpdate", dy, begin, end, strides, zero), none, none, none,
                 sum_to(o.like("StridedSlice", dy, begin, end, strides), o.in(4))};)
    {"Pad", PadGrad},
    {"PadV2", PadGrad},
    UNARY(MirrorPad, o.like("MirrorPadGrad", dy, o.in(1)))
    UNARY(MirrorPadGrad, o.like("MirrorPad", dy, o.in(1)))

    // Gathering and scattering.
    RULE(ListDiff, return {rows(o.out(1), dy, shape(x)), none};)   // the elements of x at output 1
    RULE(Gather, return {GatherRows(shape(x), o.in(1), dy)};)
    {"GatherV2", GatherV2Grad},
    {"ResourceGather", ResourceGatherGrad},
    RULE(GatherNd, V indices = Widen(o.in(1)); return {GatherNdGrad(o, shape(x, indices.dtype()), indices)};)
    RULE(ResourceGatherNd, V indices = o.in(1);
         return {GatherNdGrad(o, op("VariableShape", x, Attr{"out_type", indices.dtype()}), indices)};)
    RULE(ScatterNd, return {none, o.like("GatherNd", dy, x)};)
    RULE(ScatterNdNonAliasingAdd, return {o.raw_dy(), none, o.like("GatherNd", dy, o.in(1))};)
    RULE(TensorScatterAdd, return {o.raw_dy(), none, o.like("GatherNd", dy, o.in(1))};)
    RULE(TensorScatterSub, return {o.raw_dy(), none, -o.like("GatherNd", dy, o.in(1))};)
    {"TensorScatterUpdate", TensorScatterUpdateGrad},
    {"InplaceUpdate", InplaceUpdateGrad},
    RULE(InplaceAdd, return {o.raw_dy(), none, gather(dy, o.in(1) % gather(shape(x), 0))};)
    RULE(InplaceSub, return {o.raw_dy(), none, -gather(dy, o.in(1) % gather(shape(x), 0))};)
    {"TensorScatterMax", TensorScatterExtremumGrad},
    {"TensorScatterMin", TensorScatterExtremumGrad},
    {"OneHot", OneHotGrad},
    RULE(ExtractImagePatches, return PatchesGrad(o, "ExtractImagePatches");)
    RULE(ExtractVolumePatches, return PatchesGrad(o, "ExtractVolumePatches");)

    // Diagonals and bands.
    UNARY(Diag, op("DiagPart", dy))
    UNARY(DiagPart, op("Diag", dy))
    UNARY(MatrixBandPart, o.like("MatrixBandPart", dy, o.in(1), o.in(2)))
    UNARY(MatrixDiag, op("MatrixDiagPart", dy))
    RULE(MatrixDiagV2, return MatrixDiagGrad(o, "MatrixDiagPartV2");)
    RULE(MatrixDiagV3, return MatrixDiagGrad(o, "MatrixDiagPartV3");)
    UNARY(MatrixDiagPart, op("MatrixSetDiag", zeros_like(x), dy))
    RULE(MatrixDiagPartV2, return MatrixDiagPartGrad(o, "MatrixSetDiagV2");)
    RULE(MatrixDiagPartV3, return MatrixDiagPartGrad(o, "MatrixSetDiagV3");)
    RULE(MatrixSetDiag, return {op("MatrixSetDiag", dy, zeros_like(o.in(1))), op("MatrixDiagPart", dy)};)
    RULE(MatrixSetDiagV2, return MatrixSetDiagGrad(o, "MatrixSetDiagV2", "MatrixDiagPartV2");)
    RULE(MatrixSetDiagV3, return MatrixSetDiagGrad(o, "MatrixSetDiagV3", "MatrixDiagPartV3");)

    // Quantisation: straight-through estimators, those of the later ops within the range only.
    {"QuantizeAndDequantize", PassOn},
    {"QuantizeAndDequantizeV2", PassOn},
    {"QuantizeAndDequantizeV3", PassOn},
    RULE(QuantizeAndDequantizeV4, return Outputs(o.like("QuantizeAndDequantizeV4Grad", dy, x, o.in(1), o.in(2)), 3);)
    RULE(QuantizeAndDequantizeV4Grad,   // its outputs 1 and 2 are zeros
         return {o.like("QuantizeAndDequantizeV4Grad", dy, o.in(1), o.in(2), o.in(3)), none, none, none};)
    UNARY(FakeQuantWithMinMaxArgs, o.like("FakeQuantWithMinMaxArgsGradient", dy, x))
    RULE(FakeQuantWithMinMaxArgsGradient,   // dy * mask(x), and the mask is piecewise constant
         return {o.like("FakeQuantWithMinMaxArgsGradient", dy, o.in(1)), none};)
    RULE(FakeQuantWithMinMaxVars,
         return Outputs(o.like("FakeQuantWithMinMaxVarsGradient", dy, x, o.in(1), o.in(2)), 3);)
    RULE(FakeQuantWithMinMaxVarsGradient,
         return FakeQuantGradGrad(o, "FakeQuantWithMinMaxVarsGradient", "FakeQuantWithMinMaxVars");)
    RULE(FakeQuantWithMinMaxVarsPerChannel,
         return Outputs(o.like("FakeQuantWithMinMaxVarsPerChannelGradient", dy, x, o.in(1), o.in(2)), 3);)
    RULE(FakeQuantWithMinMaxVarsPerChannelGradient,
         return FakeQuantGradGrad(o, "FakeQuantWithMinMaxVarsPerChannelGradient", "FakeQuantWithMinMaxVarsPerChannel");)

    {"Unique", UniqueGrad}, {"UniqueV2", UniqueGrad}, {"UniqueWithCounts", UniqueGrad}, {"UniqueWithCountsV2", UniqueGrad},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
