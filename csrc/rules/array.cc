// Ops that move, select, copy and pad elements.
#include <algorithm>
#include <cstdint>

#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

Values Cotangents(const Op& o) {
  Values dys;
  for (int i = 0; i < o.num_out(); ++i) dys.push_back(o.dy(i));
  return dys;
}

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
  return split(o.dy(), Sizes(xs, axis), n, split_axis);
}

// ---- Gathering and scattering ----

// y[j..., i...] = params[indices[j...], i...]
V GatherRows(const V& params_shape, const V& indices, const V& dy) {
  if (indices.rank() == 1) return rows(indices, dy, params_shape);
  const V inner = tail(shape(dy), rank(indices));
  const auto sizes = known(inner);
  const bool inferable = sizes && std::count(sizes->begin(), sizes->end(), 0) == 0;
  const V count = inferable ? ints({-1}) : expand_dims(size(indices), 0);
  return rows(flatten(indices), reshape(dy, concat({count, inner}, 0)), params_shape);
}

// y[b..., o..., j..., i...] = params[b..., o..., indices[b..., j...], i...], where b are the first `batch_dims`
// dimensions and b and o together the first `axis`. With each run of dimensions taken as one, the cotangent is a
// segment sum whose ids are (row of b and o) * n + index.
V GatherGrad(const V& params_shape, const V& indices, const V& axis, const V& batch_dims, const V& dy) {
  if (known(axis) == std::vector<int64_t>{0}) return GatherRows(params_shape, indices, dy);
  const V s = cast(params_shape, DType::kInt64), n = gather(s, axis);
  const V b = prod(head(s, batch_dims)), o = prod(part(s, batch_dims, axis));
  const V i = prod(tail(s, axis + 1)), j = prod(tail(shape(indices, DType::kInt64), batch_dims));
  if (known(i) == std::vector<int64_t>{1} && known(batch_dims) == std::vector<int64_t>{0}) {
    // Rows of one element take longer to add up than those of the transpose, which are of o, and both transposes.
    const V columns = segment_sum(swap_last_two(reshape(dy, pack({o, j}))), flatten(indices), n);
    return reshape(swap_last_two(columns), params_shape);
  }
  const V ids = reshape(range(0, b * o) * n, pack({b, o, 1})) + reshape(cast(indices, DType::kInt64), pack({b, 1, j}));
  return reshape(segment_sum(reshape(dy, pack({b, o, j, i})), ids, b * o * n), params_shape);
}

V BatchDims(const Op& o, const V& indices) {
  const int64_t n = o.integer("batch_dims");
  return n < 0 ? rank(indices) + n : constant(n, DType::kInt32);
}

Grads GatherV2Grad(const Op& o) {
  const V x = IN(params), indices = IN(indices), axis = FromFront(cast(IN(axis), DType::kInt32), x);
  return only(IN(params), GatherGrad(shape(x), Widen(indices), axis, BatchDims(o, indices), o.dy()));
}

Grads ResourceGatherGrad(const Op& o) {
  const V indices = IN(indices), batch_dims = BatchDims(o, indices);  // which is the axis as well
  return {GatherGrad(op("VariableShape", IN(resource)), indices, batch_dims, batch_dims, o.dy())};
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
// There may be more updates than an int32 counts.
Grads TensorScatterUpdateGrad(const Op& o) {
  const V x = IN(tensor), indices = IN(indices), wide = Widen(indices), dy = o.dy();
  auto dupdates = [&] {
    V g = o.like("GatherNd", dy, wide);
    if (distinct(indices)) return g;
    const V rows = head(shape(indices, DType::kInt64), rank(indices) - 1);
    const V numbers = reshape(range(0, prod(rows)), rows);
    const V nobody = fill(head(shape(x), dim(indices, -1)), constant(-1, DType::kInt64));
    return keep(equal(o.like("GatherNd", o.like("TensorScatterUpdate", nobody, indices, numbers), wide), numbers), g);
  };
  return GRADS(o.like("TensorScatterUpdate", dy, indices, zeros_like(IN(updates))), none, dupdates());
}

// Rows of x replaced; of several for one place the last one wins.
Grads InplaceUpdateGrad(const Op& o) {
  const V x = IN(x), n = dim(x, 0), i = IN(i) % n, v = IN(v), dy = o.dy();
  const V numbers = range(0, size(i, DType::kInt64));
  const V wins = equal(gather(op("UnsortedSegmentMax", numbers, i, n), i), numbers);
  return {op("TensorScatterUpdate", dy, expand_dims(i, -1), zeros_like(v)), none, keep(wins, gather(dy, i))};
}

// Where several of the tensor's element and the updates are equal to the extremum, they share its cotangent equally.
Grads TensorScatterExtremumGrad(const Op& o) {
  const V x = IN(tensor), indices = IN(indices), updates = IN(updates), y = o.out(), dy = single(o.dy());
  const V x_wins = cast_like(equal(x, y), dy);
  const V update_wins = cast_like(equal(updates, o.like("GatherNd", y, indices)), dy);
  const V winners = x_wins + o.like("ScatterNd", indices, update_wins, shape(x, indices.dtype()));
  const V share = dy / winners;
  return GRADS(cast_like(share * x_wins, x), none, cast_like(o.like("GatherNd", share, indices) * update_wins, x));
}

// patches[b, p, c] = image[b, index(p), c] for all b and c: the patches of an image of its own indices tell what
// index(p) is, and the cotangents add up by it. Indices count from 1, for 0 is the padding, dropped at the end. They
// are float64 because not every device has an integer kernel.
Grads PatchesGrad(const Op& o, const char* type) {
  const V x = o.in(0), s = shape(x, DType::kInt64), batch = gather(s, 0), one = ints({1});
  const int space = static_cast<int>(o.integers("ksizes").size()) - 2;
  const V area = part(s, 1, space + 1), n = prod(area) + 1, channels = tail(s, space + 1);
  const V image = reshape(cast(range(1, n), DType::kDouble), concat({one, area, one}, 0));
  const V index = reshape(cast(o.like(type, image), DType::kInt64), ints({1, -1}));
  const V ids = reshape(range(0, batch) * n, ints({-1, 1})) + index;
  const V sums = segment_sum(reshape(o.dy(), concat({shape(ids, DType::kInt64), channels}, 0)), ids, batch * n);
  const V images = reshape(sums, concat({pack({batch, n}), channels}, 0));
  return {reshape(slice(images, ints({0, 1, 0}), ints({-1, -1, -1})), s)};
}

// ---- Diagonals ----

// The cotangent of a scalar that fills the elements of y which x did not, where x got dx.
V PaddingGrad(const V& dy, const V& dx) { return cast_like(total(single(dy)) - total(single(dx)), dy); }

Grads MatrixDiagGrad(const Op& o, const char* part) {  // (diagonal, k, num_rows, num_cols, padding_value)
  const V dx = o.like(part, o.dy(), IN(k), constant(0, o.dy().dtype()));
  return GRADS(dx, none, none, none, PaddingGrad(o.dy(), dx));
}

Grads MatrixDiagPartGrad(const Op& o, const char* set_diag) {  // (matrix, k, padding_value)
  const V dx = o.like(set_diag, zeros_like(IN(input)), o.dy(), IN(k));
  return GRADS(dx, none, PaddingGrad(o.dy(), dx));
}

Grads MatrixSetDiagGrad(const Op& o, const char* set_diag, const char* part) {  // (matrix, diagonal, k)
  const V dy = o.dy(), k = IN(k);
  return GRADS(o.like(set_diag, dy, zeros_like(IN(diagonal)), k), o.like(part, dy, k, constant(0, dy.dtype())));
}

// ---- Padding ----

Grads PadGrad(const Op& o) {  // (x, paddings) or (x, paddings, constant)
  const V x = IN(input), paddings = IN(paddings);
  const V dx = slice(o.dy(), flatten(slice(paddings, ints({0, 0}), ints({-1, 1}))), shape(x, paddings.dtype()));
  if (o.num_in() == 2) return {dx};
  return GRADS(dx, none, PaddingGrad(o.dy(), dx));
}

// Elements are `on` at the indices and `off` elsewhere.
Grads OneHotGrad(const Op& o) {  // (indices, depth, on, off)
  const V dy = o.dy(), hot = o.like("OneHot", IN(indices), IN(depth), constant(1, dy.dtype()), constant(0, dy.dtype()));
  const V on = total(dy * hot);
  return GRADS(none, none, on, PaddingGrad(dy, on));
}

// ---- Quantisation ----

// The op gives (dx, dmin, dmax) = (dy * inside, sum(dy * below), sum(dy * above)), with masks by x, min and max; it is
// linear in dy. Of what is outside, that which is smaller than its quantised value is below.
Grads FakeQuantGradGrad(const Op& o, const char* gradient, const char* quantise) {
  const V x = IN(inputs), min = IN(min), max = IN(max);
  V dy = o.like(gradient, o.dy(0), x, min, max);
  if (o.has_dy(1) || o.has_dy(2)) {
    const V outside = 1 - o.like(gradient, ones_like(x), x, min, max);
    dy = dy + outside * select(x < o.like(quantise, x, min, max), DY(backprop_wrt_min), DY(backprop_wrt_max));
  }
  return only(IN(gradients), dy);  // the masks are piecewise constant
}

// Equal elements, or slices along an axis, share the cotangent of the one that stands for them.
Grads UniqueGrad(const Op& o) {
  const V x = IN(x), dy = o.dy(), idx = OUT(idx);
  const V axis = o.num_in() == 2 ? sum(IN(axis), ints({0})) % cast_like(rank(x), IN(axis)) : V(0);  // none is axis 0
  const V n = segment_sum(ones_like(idx), idx, gather(shape(dy), axis));
  return {gather(dy, idx, axis) / cast_like(align(gather(n, idx), rank(x) - cast(axis, DType::kInt32)), dy)};
}

// clang-format off
constexpr Rule kRules[] = {
    NO_GRAD(BroadcastArgs) NO_GRAD(BroadcastGradientArgs) NO_GRAD(ConcatOffset) NO_GRAD(Const) NO_GRAD(EditDistance)
    NO_GRAD(InvertPermutation)  NO_GRAD(LowerBound) NO_GRAD(OnesLike) NO_GRAD(Rank) NO_GRAD(Shape) NO_GRAD(ShapeN)
    NO_GRAD(Size) NO_GRAD(StopGradient) NO_GRAD(UpperBound) NO_GRAD(Where) NO_GRAD(ZerosLike)

    // Identities.
    PASS(_EagerConst) PASS(Copy) PASS(CopyHost) PASS(DebugGradientIdentity) PASS(DebugGradientRefIdentity)
    PASS(DebugIdentity) PASS(DebugIdentityV2) PASS(DebugIdentityV3) PASS(DeepCopy) PASS(EnsureShape) PASS(GuaranteeConst)
    PASS(Identity) PASS(IdentityN) PASS(PlaceholderWithDefault) PASS(Print) PASS(RefIdentity) PASS(Snapshot)
    PASS(XlaOptimizationBarrier)
    UNARY(CheckNumerics, o.like("CheckNumerics", dy, Attr{"message", "in the gradient: " + o.text("message")}))
    UNARY(CheckNumericsV2, o.like("CheckNumericsV2", dy, Attr{"message", "in the gradient: " + o.text("message")}))
    RULE(PreventGradient, return o.unsupported("the model disables this gradient: " + o.text("message"));)

    // Shapes.
    UNARY(ExpandDims, reshape_like(dy, x))
    UNARY(Reshape, reshape_like(dy, x))
    UNARY(Squeeze, reshape_like(dy, x))
    UNARY(BroadcastTo, sum_to(dy, x))
    ONLY(Fill, value, total(dy))
    // Every dimension is split in (multiple, size): the multiples are summed away.
    RULE(Tile, const V n = IN(multiples);
         return {sum(reshape(dy, flatten(pack({n, shape(x, n.dtype())}, 1))), range(0, rank(x)) * 2)};)

    // Permutations.
    UNARY(Transpose, transpose(dy, invert_permutation(IN(perm))))
    UNARY(ConjugateTranspose, op("ConjugateTranspose", dy, invert_permutation(IN(perm))))
    SELF_ADJOINT(Reverse) SELF_ADJOINT(ReverseV2) SELF_ADJOINT(ReverseSequence)
    UNARY(Roll, o.like("Roll", dy, -IN(shift), IN(axis)))
    ADJOINTS(SpaceToDepth, DepthToSpace)
    ADJOINTS(SpaceToBatch, BatchToSpace)
    ADJOINTS(SpaceToBatchND, BatchToSpaceND)

    // Joining and splitting.
    RULE(Pack, return outputs(o.like("Unpack", dy, Attr{"num", o.num_in()}), o.num_in());)
    RULE(ParallelConcat, return split(dy, o.num_in(), 0);)
    RULE(Unpack, return {o.like("Pack", list(Cotangents(o)))};)
    RULE(Concat, Grads dx = ConcatGrad(o, IN(concat_dim), INS(values)); dx.insert(dx.begin(), none); return dx;)
    RULE(ConcatV2, return ConcatGrad(o, IN(axis), INS(values));)
    ONLY(Split, value, concat(Cotangents(o), x))
    ONLY(SplitV, value, concat(Cotangents(o), IN(split_dim)))

    // Slices and padding.
    RULE(Slice, const V begin = IN(begin); const DType t = begin.dtype();
         return {pad(dy, pack({begin, shape(x, t) - shape(y, t) - begin}, 1))};)
    RULE(StridedSlice, V begin = Widen(IN(begin));
         return {o.like("StridedSliceGrad", shape(x, begin.dtype()), begin, Widen(IN(end)), Widen(IN(strides)), dy)};)
    ONLY(StridedSliceGrad, dy, o.like("StridedSlice", o.dy(), IN(begin), IN(end), IN(strides)))
    RULE(TensorStridedSliceUpdate, const V begin = IN(begin), end = IN(end), strides = IN(strides);
         return only(IN(input), o.like("TensorStridedSliceUpdate", dy, begin, end, strides, constant(0, dy.dtype())),
                     IN(value), sum_to(o.like("StridedSlice", dy, begin, end, strides), IN(value)));)
    {"Pad", PadGrad},
    {"PadV2", PadGrad},
    ADJOINTS(MirrorPad, MirrorPadGrad)

    // Gathering and scattering.
    ONLY(ListDiff, x, rows(OUT(idx), dy, shape(x)))   // the elements of x at output 1
    ONLY(Gather, params, GatherRows(shape(x), IN(indices), dy))
    {"GatherV2", GatherV2Grad},
    {"ResourceGather", ResourceGatherGrad},
    RULE(GatherNd, V indices = Widen(IN(indices)); return {GatherNdGrad(o, shape(x, indices.dtype()), indices)};)
    RULE(ResourceGatherNd, V indices = IN(indices);
         return {GatherNdGrad(o, op("VariableShape", x, Attr{"out_type", indices.dtype()}), indices)};)
    ONLY(ScatterNd, updates, o.like("GatherNd", dy, x))
    RULE(ScatterNdNonAliasingAdd, return {o.raw_dy(), none, o.like("GatherNd", dy, IN(indices))};)
    RULE(TensorScatterAdd, return {o.raw_dy(), none, o.like("GatherNd", dy, IN(indices))};)
    RULE(TensorScatterSub, return {o.raw_dy(), none, -o.like("GatherNd", dy, IN(indices))};)
    {"TensorScatterUpdate", TensorScatterUpdateGrad},
    {"InplaceUpdate", InplaceUpdateGrad},
    RULE(InplaceAdd, return {o.raw_dy(), none, gather(dy, IN(i) % dim(x, 0))};)
    RULE(InplaceSub, return {o.raw_dy(), none, -gather(dy, IN(i) % dim(x, 0))};)
    {"TensorScatterMax", TensorScatterExtremumGrad},
    {"TensorScatterMin", TensorScatterExtremumGrad},
    {"OneHot", OneHotGrad},
    RULE(ExtractImagePatches, return PatchesGrad(o, "ExtractImagePatches");)
    RULE(ExtractVolumePatches, return PatchesGrad(o, "ExtractVolumePatches");)

    // Diagonals and bands.
    ADJOINTS(Diag, DiagPart)
    SELF_ADJOINT(MatrixBandPart)
    UNARY(MatrixDiag, diag_part(dy))
    RULE(MatrixDiagV2, return MatrixDiagGrad(o, "MatrixDiagPartV2");)
    RULE(MatrixDiagV3, return MatrixDiagGrad(o, "MatrixDiagPartV3");)
    UNARY(MatrixDiagPart, op("MatrixSetDiag", zeros_like(x), dy))
    RULE(MatrixDiagPartV2, return MatrixDiagPartGrad(o, "MatrixSetDiagV2");)
    RULE(MatrixDiagPartV3, return MatrixDiagPartGrad(o, "MatrixSetDiagV3");)
    RULE(MatrixSetDiag, return GRADS(op("MatrixSetDiag", dy, zeros_like(IN(diagonal))), diag_part(dy));)
    RULE(MatrixSetDiagV2, return MatrixSetDiagGrad(o, "MatrixSetDiagV2", "MatrixDiagPartV2");)
    RULE(MatrixSetDiagV3, return MatrixSetDiagGrad(o, "MatrixSetDiagV3", "MatrixDiagPartV3");)

    // Quantisation: straight-through estimators, those of the later ops within the range only.
    PASS(QuantizeAndDequantize) PASS(QuantizeAndDequantizeV2) PASS(QuantizeAndDequantizeV3)
    RULE(QuantizeAndDequantizeV4,
         return outputs(o.like("QuantizeAndDequantizeV4Grad", dy, x, IN(input_min), IN(input_max)), 3);)
    ONLY(QuantizeAndDequantizeV4Grad, gradients,   // its outputs 1 and 2 are zeros
         o.like("QuantizeAndDequantizeV4Grad", dy, IN(input), IN(input_min), IN(input_max)))
    UNARY(FakeQuantWithMinMaxArgs, o.like("FakeQuantWithMinMaxArgsGradient", dy, x))
    ONLY(FakeQuantWithMinMaxArgsGradient, gradients,   // dy * mask(x), and the mask is piecewise constant
         o.like("FakeQuantWithMinMaxArgsGradient", dy, IN(inputs)))
    RULE(FakeQuantWithMinMaxVars,
         return outputs(o.like("FakeQuantWithMinMaxVarsGradient", dy, x, IN(min), IN(max)), 3);)
    RULE(FakeQuantWithMinMaxVarsGradient,
         return FakeQuantGradGrad(o, "FakeQuantWithMinMaxVarsGradient", "FakeQuantWithMinMaxVars");)
    RULE(FakeQuantWithMinMaxVarsPerChannel,
         return outputs(o.like("FakeQuantWithMinMaxVarsPerChannelGradient", dy, x, IN(min), IN(max)), 3);)
    RULE(FakeQuantWithMinMaxVarsPerChannelGradient,
         return FakeQuantGradGrad(o, "FakeQuantWithMinMaxVarsPerChannelGradient", "FakeQuantWithMinMaxVarsPerChannel");)

    {"Unique", UniqueGrad}, {"UniqueV2", UniqueGrad}, {"UniqueWithCounts", UniqueGrad}, {"UniqueWithCountsV2", UniqueGrad},
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
