// Sparse tensors as indices [n, rank], values [n] and a shape; ragged ones as row splits and values; sparse segments;
// sparse matrices in a variant (CSR).
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

V Dim(const V& x, int axis) { return gather(shape(x), axis); }

V GatherNd(const V& x, const V& indices) { return op("GatherNd", x, indices); }

V ScatterNd(const V& indices, const V& values, const V& shape) { return op("ScatterNd", indices, values, shape); }

// The values of a sparse tensor at some of, or other than, its indices: zero where it has none. Both in order.
V Find(const V& wanted, const V& indices, const V& values) {
  return cast_like(op("SparseAddGrad", single(values), wanted, wanted, indices), values);
}

// ---- Sparse tensors ----

// Where the op puts its values: itself, applied to their positions, tells.
V Permuted(const V& positions, const V& dy) { return gather(dy, invert_permutation(positions)); }

Grads SparseConcatGrad(const Op& o) {
  const int n = o.num_in() / 3;
  const Values values = o.ins(n, 2 * n);
  Values begins, sizes, positions;
  V end = 0;
  for (const V& v : values) {
    begins.push_back(end);
    sizes.push_back(Dim(v, 0));
    end = end + sizes.back();
    positions.push_back(range(begins.back(), end));
  }
  const V all =
      Permuted(o.like("SparseConcat", list(o.ins(0, n)), list(positions), list(o.ins(2 * n, 3 * n))).out(1), o.dy(1));
  Grads grads(static_cast<size_t>(3 * n));
  for (int i = 0; i < n; ++i) grads[n + i] = slice(all, pack({begins[i]}), pack({sizes[i]}));
  return grads;
}

// The parts of the positions tell where each value went.
Grads SparseSplitGrad(const Op& o) {
  const int n = static_cast<int>(o.integer("num_split"));
  const V values = o.in(2), parts = o.like("SparseSplit", o.in(0), o.in(1), range(0, Dim(values, 0)), o.in(3));
  Values positions, cotangents;
  for (int i = n; i < 2 * n; ++i) {
    positions.push_back(parts.out(i));
    cotangents.push_back(o.dy(i));
  }
  return {none, none, Permuted(concat(positions, 0), concat(cotangents, 0)), none};
}

// ---- Ragged tensors ----

// The splits of rows of rows ... of values, combined: an outermost row has the values between two of them.
V ValueSplits(const Values& splits) {
  V combined = splits.front();
  for (size_t i = 1; i < splits.size(); ++i) combined = gather(splits[i], combined);
  return combined;
}

Grads RaggedGatherGrad(const Op& o) {
  const int n = o.num_in() - 2;
  const V splits = ValueSplits(o.ins(0, n)), values = o.in(n), row = flatten(o.in(n + 1));
  const V taken = op("RaggedRange", gather(splits, row), gather(splits, row + 1), 1).out(1);
  Grads grads(static_cast<size_t>(n + 2));
  grads[n] = rows(taken, o.dy(o.num_out() - 1), shape(values));
  return grads;
}

// The positions of the values, padded with -1, tell what was put where.
Grads RaggedTensorToTensorGrad(const Op& o) {
  const V values = o.in(1), dy = o.dy(), inner = rank(values) - 1;
  const V outer_shape = slice(shape(dy), ints({0}), pack({rank(dy) - inner}));
  const V positions =
      o.like("RaggedTensorToTensor", outer_shape, range(0, Dim(values, 0)), -1, list(o.ins(3, o.num_in())));
  const V ones = fill(pack({inner}), constant(1, DType::kInt32)),
          padding = reshape(positions < 0, concat({outer_shape, ones}, 0));
  Grads grads(static_cast<size_t>(o.num_in()));
  grads[1] = op("UnsortedSegmentSum", dy, positions, Dim(values, 0));
  if (o.wants(2)) grads[2] = sum_to(select(padding, dy, 0), o.in(2));
  return grads;
}

// Ragged tensors in variants, whole or row by row. Their cotangents are such variants, too; where a row was not taken,
// its place holds no ragged tensor, and the op that decodes them reads zeros there, as many as the splits say.
Grads RaggedTensorToVariantGrad(const Op& o) {
  const int n = o.num_in() - 1;
  const V values = o.in(n);
  const bool by_row = o.flag("batched_input");
  if (by_row && n == 0)
    return o.unsupported(
        "TensorFlow takes the rows of a dense tensor for one fewer than there are; give it row splits");
  const V splits = by_row ? ValueSplits(o.ins(0, n)) : pack({0, Dim(values, 0)});
  Grads grads(static_cast<size_t>(n + 1));
  // A single row comes out as it was encoded, whatever the shape that is given: one of another rank keeps the reshape.
  const V given = concat({shape(values), ints({1})}, 0);
  grads[n] =
      reshape_like(op("RaggedTensorToVariantGradient", o.dy(), splits, given, Attr("Tvalues", values.dtype())), values);
  return grads;
}

// Rows of dense values.
Grads RaggedTensorToVariantGradientGrad(const Op& o) {
  const V encoded = o.in(0), splits = o.in(1);
  const List all = splits.rank() == 1 && encoded.rank() != 0 ? list({splits}) : list({});
  return {op("RaggedTensorToVariant", all, o.dy(), Attr("batched_input", encoded.rank() != 0),
             Attr("Tsplits", splits.dtype()))};
}

Grads RaggedTensorFromVariantGrad(const Op& o) {
  const V x = o.in(0);
  const int n = o.num_out() - 1, inner = static_cast<int>(o.integer("input_ragged_rank"));
  const int rank = x.rank() >= 0 ? x.rank() : inner >= 0 ? n - inner : n > 0 ? 1 : 0;
  Values splits;
  for (int i = rank > 0 ? rank - 1 : 0; i < n; ++i) splits.push_back(o.out(i));
  const V encoded = op("RaggedTensorToVariant", list(splits), o.dy(n), Attr("batched_input", rank > 0),
                       Attr("Tsplits", o.type("Tsplits")));
  return {rank > 1 ? reshape(encoded, shape(x)) : encoded};
}

V FillEmptyRowsGradGrad(const Op& o) {
  const V taken = expand_dims(o.in(0), 1), rest = o.dy(1);
  return ScatterNd(taken, o.dy() - rest, shape(o.in(1), DType::kInt64)) + rest;
}

// Of a and b at the same index the larger (or smaller) one remains; what is missing counts as zero.
Grads SparseSparseExtremeGrad(const Op& o, bool largest) {
  const V a_indices = o.in(0), a = o.in(1), b_indices = o.in(3), b = o.in(4), indices = o.out(0), dy = o.dy(1);
  const V b_at_a = Find(a_indices, b_indices, b), a_at_b = Find(b_indices, a_indices, a);
  auto gradient = [&](const V& chosen, const V& at) {
    const V g = Find(at, indices, dy);
    return select(chosen, g, zeros_like(g));
  };
  return {none, gradient(largest ? a >= b_at_a : a <= b_at_a, a_indices), none,
          none, gradient(largest ? b > a_at_b : b < a_at_b, b_indices),   none};
}

// The dense operand is broadcast: where it is read for each value of the sparse one.
V DenseIndices(const V& indices, const V& sparse_shape, const V& dense) {
  const V rank_of_dense = rank(dense), added = size(sparse_shape) - rank_of_dense;
  const V inner = slice(indices, pack({0, added}), ints({-1, -1}));
  return minimum(inner, shape(dense, DType::kInt64) - 1);
}

struct DenseOperand {
  V indices, values, shape;
  explicit DenseOperand(const Op& o)
      : indices(DenseIndices(o.in(0), o.in(2), o.in(3))),
        values(GatherNd(o.in(3), indices)),
        shape(symgrad::shape(o.in(3), DType::kInt64)) {}
  V Scatter(const V& g) const { return ScatterNd(indices, g, shape); }
};

// dy has size 1, or no dimension, where the sum took an axis: all values along the axis get that element.
V SparseReduceSumGrad(const V& indices, const V& dense_shape, const V& axes, const V& dy) {
  const V rank = size(dense_shape), one = constant(1, DType::kInt64);
  const V kept = op("Prod", op("OneHot", flatten(axes) % rank, rank, constant(0, DType::kInt64), one), 0);
  return GatherNd(reshape(dy, (dense_shape - 1) * kept + 1), indices * kept);
}

// Values that tie share the cotangent.
V SparseReduceMaxGrad(const Op& o, const V& y, const V& dy) {
  const V indices = o.in(0), values = o.in(1), shape = o.in(2), axes = o.in(3);
  auto spread = [&](const V& reduced) { return SparseReduceSumGrad(indices, shape, axes, reduced); };
  const V g = single(dy), hit = cast_like(equal(values, spread(y)), g);
  const V ties = op("SparseReduceSum", indices, hit, shape, axes, Attr{"keep_dims", o.flag("keep_dims")});
  return cast_like(hit * spread(div_no_nan(g, ties)), dy);
}

// The sparse result of an op as a dense one. ScatterNd has no scalar: a dimension in front is added for it.
V Dense(const Op& o, const V& values) {
  const V one = constant(ints({1}), DType::kInt64);
  const V indices = op("Pad", o.out(0), reshape(ints({0, 0, 1, 0}), ints({2, 2})));
  return reshape(ScatterNd(indices, values, concat({one, o.out(2)}, 0)), o.out(2));
}

// Each weight is in the bin that its row and its value number; beyond the last bin it is dropped. No weights stand for
// ones. `rows` has as many columns as the bins have dimensions beside the last.
V BinWeightsGrad(const V& dbins, const V& rows, const V& values, const V& weights) {
  const V n = rank(dbins), last = cast(equal(range(0, n), n - 1), DType::kInt32);
  const V dropped = op("Pad", dbins, pack({zeros_like(last), last}, 1));
  const V bin = cast(flatten(values), DType::kInt64), bins = gather(shape(dbins, DType::kInt64), n - 1);
  const V g = GatherNd(dropped, concat({rows, expand_dims(minimum(bin, bins), 1)}, 1));
  return reshape(slice(g, ints({0}), pack({size(weights)})), shape(weights));
}

V AllButLast(const V& indices) { return slice(indices, ints({0, 0}), pack({-1, Dim(indices, 1) - 1})); }
V RowOfElement(const V& values) { return AllButLast(where(values >= 0)); }

// The row of each value of a ragged matrix.
V RowOfValue(const V& splits, const V& values) {
  const V positions = cast(range(0, Dim(values, 0)), splits.dtype());
  const V ends_before =
      op("UpperBound", expand_dims(splits, 0), expand_dims(positions, 0), Attr{"out_type", DType::kInt64});
  return swap_last_two(ends_before - 1);
}

// With A a sparse, B a dense matrix, dB = A^H dy, and of dA = dy B^H what is at the indices of A.
Grads SparseTensorDenseMatMulGrad(const Op& o) {
  const V indices = o.in(0), b = o.in(3), dy = o.dy();
  const bool adjoint_a = o.flag("adjoint_a"), adjoint_b = o.flag("adjoint_b");
  auto da = [&] {
    const V axes = op("Unpack", indices, Attr{"num", 2}, Attr{"axis", 1});
    const V left = gather(dy, axes.out(adjoint_a ? 1 : 0));
    const V right = gather(adjoint_b ? adjoint(b) : b, axes.out(adjoint_a ? 0 : 1));
    return sum(adjoint_a ? conj(left) * right : left * conj(right), 1);
  };
  auto db = [&] {
    const V g = op("SparseTensorDenseMatMul", indices, o.in(1), o.in(2), dy, Attr{"adjoint_a", !adjoint_a});
    return adjoint_b ? adjoint(g) : g;
  };
  return {none, o.wants(1) ? da() : none, none, o.wants(3) ? db() : none};
}

// Of several values for one place, which only the unvalidated have, one wins: it is that whose number is found there.
Grads SparseToDenseGrad(const Op& o) {
  const V indices = o.in(0), values = o.in(2), dy = o.dy();
  auto dense = [&](const V& v, const V& rest) { return o.like("SparseToDense", indices, o.in(1), v, rest); };
  // A vector, or a scalar, of indices is of a vector.
  const V points = indices.rank() == 2 ? indices : reshape(indices, pack({-1, size(o.in(1))}));
  V g = GatherNd(dy, points);
  if (!o.flag("validate_indices") && !distinct(points)) {
    const V numbers = range(0, Dim(points, 0)), one_each = indices.rank() == 0 ? reshape(numbers, ints({})) : numbers;
    g = keep(equal(GatherNd(dense(one_each, -1), points), numbers), g);
  }
  auto drest = [&] { return sum(flatten(dy * dense(zeros_like(values), constant(1, dy.dtype()))), 0); };
  return {none, none, sum_to(g, values), o.wants(3) ? drest() : none};
}

// ---- Sparse segments ----

Grads SparseSegmentGrad(const Op& o, const char* gradient, const char* sparse_gradient) {
  const V x = o.in(0), dim = Dim(x, 0);
  if (!o.has_attr("sparse_gradient") || !o.flag("sparse_gradient")) {
    const V dx = op(gradient, o.dy(), o.in(1), o.in(2), dim);  // which leaves memory as it is where there is no index
    return {o.in(1).dim(0) > 0 ? dx : select(size(o.in(1)) > 0, dx, 0)};
  }
  const V g = op(sparse_gradient, o.dy(), o.in(1), o.in(2), dim);
  return {rows(g.out(1), g, shape(x))};
}

// The gradient of the gradient is the segment op itself; of the sparse one it reads rows as numbered there.
V SparseSegmentAgain(const Op& o, const char* segment, const V& indices) {
  return op(segment, o.dy(), indices, o.in(2), Dim(o.in(0), 0));
}
V RowNumbers(const Op& o) { return squeeze(op("LowerBound", expand_dims(o.out(1), 0), expand_dims(o.in(1), 0)), {0}); }

// ---- Sparse matrices. Their cotangents have their pattern. ----

V ToCsr(const V& indices, const V& values, const V& shape) {
  return op("SparseTensorToCSRSparseMatrix", indices, values, shape);
}
// Indices, values, shape.
V ToCoo(const V& csr, DType dtype) { return op("CSRSparseMatrixToSparseTensor", csr, Attr{"type", dtype}); }

V Prune(const V& csr, const V& like, DType dtype) {
  const V g = ToCoo(csr, dtype), pattern = ToCoo(like, dtype);
  return ToCsr(pattern, Find(pattern, g, g.out(1)), pattern.out(2));
}

// Of a matrix, or of a batch of them, as an operand says.
enum class Form { kPlain, kTransposed, kAdjoint };
Form FormOf(const Op& o, const char* transpose, const char* adjoint) {
  return o.flag(adjoint) ? Form::kAdjoint : o.flag(transpose) ? Form::kTransposed : Form::kPlain;
}
V Formed(const V& x, Form form) {
  return form == Form::kPlain ? x : form == Form::kAdjoint ? adjoint(x) : swap_last_two(x);
}

// y = A B with A of some form, then transposed and conjugated: dB = A^H dy, and of dA = dy B^H what is in the pattern
// of A.
Grads SparseMatrixMatMulGrad(const Op& o) {
  const V a = o.in(0), b = o.in(1);
  const Form form_a = FormOf(o, "transpose_a", "adjoint_a"), form_b = FormOf(o, "transpose_b", "adjoint_b");
  V dy = o.flag("conjugate_output") ? conj(o.dy()) : o.dy();
  if (o.flag("transpose_output")) dy = swap_last_two(dy);
  auto da = [&] {
    const V coo = ToCoo(a, b.dtype()), r = rank(b);
    auto columns = [&](const V& begin, const V& n) { return slice(coo, pack({0, begin}), pack({-1, n})); };
    const V by_row = columns(0, r - 1), by_column = concat({columns(0, r - 2), columns(r - 1, 1)}, 1);
    const bool swapped = form_a != Form::kPlain;
    const V g = sum(
        GatherNd(dy, swapped ? by_column : by_row) * conj(GatherNd(Formed(b, form_b), swapped ? by_row : by_column)),
        1);
    return ToCsr(coo, form_a == Form::kAdjoint ? conj(g) : g, coo.out(2));
  };
  auto db = [&] {
    V g;
    if (form_a == Form::kTransposed) g = conj(op("SparseMatrixMatMul", a, conj(dy)));
    else g = op("SparseMatrixMatMul", a, dy, Attr{"adjoint_a", form_a == Form::kPlain});
    return Formed(g, form_b);
  };
  return {o.wants(0) ? da() : none, o.wants(1) ? db() : none};
}

Grads SparseMatrixSparseMatMulGrad(const Op& o) {
  const V a = o.in(0), b = o.in(1), dy = o.dy();
  const DType dtype = o.type("type");
  const Form form_a = FormOf(o, "transpose_a", "adjoint_a"), form_b = FormOf(o, "transpose_b", "adjoint_b");
  auto turned = [&](const V& x, Form form) {
    if (form == Form::kPlain) return x;
    return op("SparseMatrixTranspose", x, Attr{"type", dtype}, Attr{"conjugate", form == Form::kAdjoint});
  };
  // The adjoint of the adjoint is plain; that of the transposed is the transposed of the adjoint.
  auto da = [&] {
    const V g = op("SparseMatrixSparseMatMul", dy, form_b == Form::kTransposed ? turned(b, Form::kAdjoint) : b,
                   Attr{"type", dtype}, Attr{"transpose_b", form_b == Form::kTransposed},
                   Attr{"adjoint_b", form_b == Form::kPlain});
    return Prune(turned(g, form_a), a, dtype);
  };
  auto db = [&] {
    const V g = op("SparseMatrixSparseMatMul", form_a == Form::kTransposed ? turned(a, Form::kAdjoint) : a, dy,
                   Attr{"type", dtype}, Attr{"transpose_a", form_a == Form::kTransposed},
                   Attr{"adjoint_a", form_a == Form::kPlain});
    return Prune(turned(g, form_b), b, dtype);
  };
  return {o.wants(0) ? da() : none, o.wants(1) ? db() : none};
}

// y = alpha A + beta B.
Grads SparseMatrixAddGrad(const Op& o) {
  const V dy = o.dy();
  auto operand = [&](int i) { return op("SparseMatrixMul", Prune(dy, o.in(i), o.type("T")), conj(o.in(i + 2))); };
  auto factor = [&](int i) {
    const V x = ToCoo(o.in(i), o.type("T")), g = ToCoo(dy, o.type("T"));
    return sum(Find(x, g, g.out(1)) * conj(x.out(1)), 0);
  };
  Grads grads(4);
  for (int i = 0; i < 2; ++i) {
    if (o.wants(i)) grads[i] = operand(i);
    if (o.wants(i + 2)) grads[i + 2] = factor(i);
  }
  return grads;
}

// clang-format off
#define SPARSE_SEGMENT(name)                                                                                           \
    RULE(SparseSegment##name,                                                                                          \
         return SparseSegmentGrad(o, "SparseSegment" #name "Grad", "SparseSegment" #name "GradV2");)                   \
    RULE(SparseSegment##name##WithNumSegments,                                                                         \
         return SparseSegmentGrad(o, "SparseSegment" #name "Grad", "SparseSegment" #name "GradV2");)                   \
    UNARY(SparseSegment##name##Grad, SparseSegmentAgain(o, "SparseSegment" #name "WithNumSegments", o.in(1)))          \
    UNARY(SparseSegment##name##GradV2, SparseSegmentAgain(o, "SparseSegment" #name "WithNumSegments", RowNumbers(o)))

constexpr Rule kRules[] = {
    NO_GRAD(DenseToDenseSetOperation)
    NO_GRAD(DenseToSparseSetOperation)
    NO_GRAD(SparseToSparseSetOperation)
    NO_GRAD(SetSize)
    NO_GRAD(SparseMatrixNNZ)
    NO_GRAD(SparseMatrixZeros)

    // Structure.
    RULE(SparseReorder, const V positions = op("SparseReorder", x, range(0, Dim(x, 0)), o.in(2)).out(1);
         return {none, Permuted(positions, o.dy(1)), none};)
    {"SparseConcat", SparseConcatGrad},
    {"SparseSplit", SparseSplitGrad},
    RULE(SparseSlice, return {none, op("SparseSliceGrad", o.dy(1), x, o.in(3), y), none, none, none};)
    RULE(SparseSliceGrad, return {Find(o.in(3) + o.in(2), o.in(1), dy), none, none, none};)
    RULE(SparseFillEmptyRows, const V g = op("SparseFillEmptyRowsGrad", o.out(3), o.dy(1));
         return {none, g, none, g.out(1)};)
    RULE(SparseFillEmptyRowsGrad, return {none, FillEmptyRowsGradGrad(o)};)
    {"SparseToDense", SparseToDenseGrad},

    // Ragged tensors.
    RULE(RaggedFillEmptyRows, const V g = op("RaggedFillEmptyRowsGrad", o.out(3), o.dy(1));
         return {none, g, none, g.out(1)};)
    RULE(RaggedFillEmptyRowsGrad, return {none, FillEmptyRowsGradGrad(o)};)
    {"RaggedGather", RaggedGatherGrad},
    {"RaggedTensorToVariant", RaggedTensorToVariantGrad},
    {"RaggedTensorToVariantGradient", RaggedTensorToVariantGradientGrad},
    {"RaggedTensorFromVariant", RaggedTensorFromVariantGrad},
    RULE(RaggedTensorToSparse, Grads grads(static_cast<size_t>(o.num_in()));
         grads.back() = reshape_like(o.dy(1), o.in(o.num_in() - 1)); return grads;)
    {"RaggedTensorToTensor", RaggedTensorToTensorGrad},

    // Arithmetic.
    RULE(SparseAdd, const V g = op("SparseAddGrad", o.dy(1), x, o.in(3), y);
         return {none, g, none, none, g.out(1), none, none};)   // the threshold only chooses what is kept
    RULE(SparseAddGrad, const V sum = o.in(3);
         return {Find(sum, o.in(1), dy) + Find(sum, o.in(2), o.dy(1)), none, none, none};)
    RULE(SparseTensorDenseAdd, return {none, GatherNd(dy, x), none, dy};)
    RULE(SparseDenseCwiseAdd, return {none, dy, none, o.wants(3) ? DenseOperand(o).Scatter(dy) : none};)
    RULE(SparseDenseCwiseMul, const DenseOperand b(o);
         return {none, dy * b.values, none, o.wants(3) ? b.Scatter(dy * o.in(1)) : none};)
    RULE(SparseDenseCwiseDiv, const DenseOperand b(o); const V da = dy / b.values;
         return {none, da, none, o.wants(3) ? b.Scatter(-da * y) : none};)
    RULE(SparseSparseMaximum, return SparseSparseExtremeGrad(o, true);)
    RULE(SparseSparseMinimum, return SparseSparseExtremeGrad(o, false);)
    RULE(SparseReduceSum, return {none, SparseReduceSumGrad(x, o.in(2), o.in(3), dy), none, none};)
    RULE(SparseReduceSumSparse, return {none, SparseReduceSumGrad(x, o.in(2), o.in(3), Dense(o, o.dy(1))), none, none};)
    RULE(SparseReduceMax, return {none, SparseReduceMaxGrad(o, y, dy), none, none};)
    RULE(SparseReduceMaxSparse, return {none, SparseReduceMaxGrad(o, Dense(o, o.out(1)), Dense(o, o.dy(1))), none, none};)
    RULE(SparseSoftmax, const V total = op("SparseReduceSum", x, dy * y, o.in(2), ints({-1}), Attr{"keep_dims", true});
         return {none, op("SparseDenseCwiseAdd", x, dy, o.in(2), -total) * y, none};)
    {"SparseTensorDenseMatMul", SparseTensorDenseMatMulGrad},

    RULE(SparseBincount, const V values = o.in(1), weights = o.in(4);
         return {none, none, none, none,
                 o.flag("binary_output") ? none : BinWeightsGrad(dy, AllButLast(x), values, weights)};)
    RULE(RaggedBincount, const V values = o.in(1), weights = o.in(3);
         return {none, none, none,
                 o.flag("binary_output") ? none : BinWeightsGrad(dy, RowOfValue(x, values), values, weights)};)
    RULE(DenseCountSparseOutput, const V weights = o.in(1);
         return {none, o.flag("binary_output") ? none : BinWeightsGrad(Dense(o, o.dy(1)), RowOfElement(x), x, weights)};)
    RULE(SparseCountSparseOutput, const V values = o.in(1), weights = o.in(3);
         return {none, none, none, o.flag("binary_output")
                     ? none : BinWeightsGrad(Dense(o, o.dy(1)), AllButLast(x), values, weights)};)
    RULE(RaggedCountSparseOutput, const V values = o.in(1), weights = o.in(2);
         return {none, none, o.flag("binary_output")
                     ? none : BinWeightsGrad(Dense(o, o.dy(1)), RowOfValue(x, values), values, weights)};)

    SPARSE_SEGMENT(Sum)
    SPARSE_SEGMENT(Mean)
    SPARSE_SEGMENT(SqrtN)

    // Sparse matrices.
    UNARY(DenseToCSRSparseMatrix, op("CSRSparseMatrixToDense", dy, Attr{"type", x.dtype()}))
    RULE(CSRSparseMatrixToDense, const V indices = ToCoo(x, dy.dtype());
         return {ToCsr(indices, GatherNd(dy, indices), shape(dy, DType::kInt64))};)
    RULE(SparseTensorToCSRSparseMatrix, return {none, ToCoo(dy, o.in(1).dtype()).out(1), none};)
    UNARY(CSRSparseMatrixToSparseTensor, ToCsr(y, o.dy(1), o.out(2)))
    UNARY(SparseMatrixTranspose, o.like("SparseMatrixTranspose", dy))
    UNARY(SparseMatrixSoftmax, o.like("SparseMatrixSoftmaxGrad", y, dy))
    RULE(SparseMatrixSoftmaxGrad, return o.unsupported("TensorFlow defines none; use SparseSoftmax, which has it");)
    {"SparseMatrixMatMul", SparseMatrixMatMulGrad},
    {"SparseMatrixSparseMatMul", SparseMatrixSparseMatMulGrad},
    {"SparseMatrixAdd", SparseMatrixAddGrad},
    RULE(SparseMatrixMul, return o.unsupported("TensorFlow defines none; multiply the values instead");)
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
