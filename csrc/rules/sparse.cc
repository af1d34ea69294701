// Sparse tensors as indices [n, rank], values [n] and a shape; ragged ones as row splits and values; sparse segments;
// sparse matrices in a variant (CSR); counts.
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// The values of a sparse tensor at some of, or other than, its indices: zero where it has none. Both in order.
V Find(const V& wanted, const V& indices, const V& values) {
  return cast_like(op("SparseAddGrad", single(values), wanted, wanted, indices), values);
}

// ---- Sparse tensors ----

// Where the op puts its values: itself, applied to their positions, tells.
V Permuted(const V& positions, const V& dy) { return gather(dy, invert_permutation(positions)); }

Grads SparseConcatGrad(const Op& o) {
  const Values values = INS(values);
  const int n = static_cast<int>(values.size());
  Values begins, sizes, positions;
  V end = 0;
  for (const V& v : values) {
    begins.push_back(end);
    sizes.push_back(dim(v, 0));
    end = end + sizes.back();
    positions.push_back(range(begins.back(), end));
  }
  const V all = Permuted(o.like("SparseConcat", list(INS(indices)), list(positions), list(INS(shapes))).out(1),
                         DY(output_values));
  Grads grads(static_cast<size_t>(3 * n));
  for (int i = 0; i < n; ++i) grads[n + i] = slice(all, pack({begins[i]}), pack({sizes[i]}));
  return grads;
}

// The parts of the positions tell where each value went.
Grads SparseSplitGrad(const Op& o) {
  const int n = static_cast<int>(o.integer("num_split"));
  const V values = IN(values),
          parts = o.like("SparseSplit", IN(split_dim), IN(indices), range(0, dim(values, 0)), IN(shape));
  Values positions, cotangents;
  for (int i = n; i < 2 * n; ++i) {
    positions.push_back(parts.out(i));
    cotangents.push_back(o.dy(i));
  }
  return only(IN(values), Permuted(concat(positions, 0), concat(cotangents, 0)));
}

// ---- Ragged tensors ----

// The splits of rows of rows ... of values, combined: an outermost row has the values between two of them.
V ValueSplits(const Values& splits) {
  V combined = splits.front();
  for (size_t i = 1; i < splits.size(); ++i) combined = gather(splits[i], combined);
  return combined;
}

Grads RaggedGatherGrad(const Op& o) {
  const V splits = ValueSplits(INS(params_nested_splits)), row = flatten(IN(indices));
  const V taken = op("RaggedRange", gather(splits, row), gather(splits, row + 1), 1).out(1);
  const V values = IN(params_dense_values);
  return only(IN(params_dense_values), rows(taken, DY(output_dense_values), shape(values)));
}

// The positions of the values, padded with -1, tell what was put where.
Grads RaggedTensorToTensorGrad(const Op& o) {
  const V values = IN(values), dy = o.dy(), inner = rank(values) - 1;
  const V outer_shape = head(shape(dy), rank(dy) - inner), n = dim(values, 0);
  const V positions = o.like("RaggedTensorToTensor", outer_shape, range(0, n), -1, list(INS(row_partition_tensors)));
  return GRADS(none, segment_sum(dy, positions, n), sum_to(keep(positions < 0, dy), IN(default_value)));
}

// Ragged tensors in variants, whole or row by row. Their cotangents are such variants, too; where a row was not taken,
// its place holds no ragged tensor, and the op that decodes them reads zeros there, as many as the splits say.
Grads RaggedTensorToVariantGrad(const Op& o) {
  const Values nested = INS(rt_nested_splits);
  const V values = IN(rt_dense_values);
  const bool by_row = o.flag("batched_input");
  if (by_row && nested.empty())
    return o.unsupported(
        "TensorFlow takes the rows of a dense tensor for one fewer than there are; give it row splits");
  const V splits = by_row ? ValueSplits(nested) : pack({0, dim(values, 0)});
  // A single row comes out as it was encoded, whatever the shape that is given: one of another rank keeps the reshape.
  const V given = concat({shape(values), ints({1})}, 0);
  const V g = op("RaggedTensorToVariantGradient", o.dy(), splits, given, Attr("Tvalues", values.dtype()));
  return only(IN(rt_dense_values), reshape_like(g, values));
}

// Rows of dense values.
Grads RaggedTensorToVariantGradientGrad(const Op& o) {
  const V encoded = IN(encoded_ragged_grad), splits = IN(row_splits);
  const List all = splits.rank() == 1 && encoded.rank() != 0 ? list({splits}) : list({});
  return {op("RaggedTensorToVariant", all, o.dy(), Attr("batched_input", encoded.rank() != 0),
             Attr("Tsplits", splits.dtype()))};
}

Grads RaggedTensorFromVariantGrad(const Op& o) {
  const V x = IN(encoded_ragged);
  const int n = o.num_out() - 1, inner = static_cast<int>(o.integer("input_ragged_rank"));
  const int rank = x.rank() >= 0 ? x.rank() : inner >= 0 ? n - inner : n > 0 ? 1 : 0;
  Values splits;
  for (int i = rank > 0 ? rank - 1 : 0; i < n; ++i) splits.push_back(o.out(i));
  const V encoded = op("RaggedTensorToVariant", list(splits), o.dy(n), Attr("batched_input", rank > 0),
                       Attr("Tsplits", o.type("Tsplits")));
  return {rank > 1 ? reshape(encoded, shape(x)) : encoded};
}

V FillEmptyRowsGradGrad(const Op& o) {
  const V taken = expand_dims(IN(reverse_index_map), 1), rest = DY(d_default_value);
  return scatter_nd(taken, o.dy() - rest, shape(IN(grad_values), DType::kInt64)) + rest;
}

// Of a and b at the same index the larger (or smaller) one remains; what is missing counts as zero.
Grads SparseSparseExtremeGrad(const Op& o, bool largest) {
  const V a_indices = IN(a_indices), a = IN(a_values), b_indices = IN(b_indices), b = IN(b_values), indices = o.out(0),
          dy = DY(output_values);
  const V b_at_a = Find(a_indices, b_indices, b), a_at_b = Find(b_indices, a_indices, a);
  auto gradient = [&](const V& chosen, const V& at) {
    const V g = Find(at, indices, dy);
    return select(chosen, g, zeros_like(g));
  };
  return only(IN(a_values), gradient(largest ? a >= b_at_a : a <= b_at_a, a_indices), IN(b_values),
              gradient(largest ? b > a_at_b : b < a_at_b, b_indices));
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
      : indices(DenseIndices(IN(sp_indices), IN(sp_shape), IN(dense))),
        values(gather_nd(IN(dense), indices)),
        shape(symgrad::shape(IN(dense), DType::kInt64)) {}
  V Scatter(const V& g) const { return scatter_nd(indices, g, shape); }
};

// dy has size 1, or no dimension, where the sum took an axis: all values along the axis get that element.
V SparseReduceSumGrad(const V& indices, const V& dense_shape, const V& axes, const V& dy) {
  const V rank = size(dense_shape), one = constant(1, DType::kInt64);
  const V kept = op("Prod", op("OneHot", flatten(axes) % rank, rank, constant(0, DType::kInt64), one), 0);
  return gather_nd(reshape(dy, (dense_shape - 1) * kept + 1), indices * kept);
}

// Values that tie share the cotangent.
V SparseReduceMaxGrad(const Op& o, const V& y, const V& dy) {
  const V indices = IN(input_indices), values = IN(input_values), shape = IN(input_shape), axes = IN(reduction_axes);
  auto spread = [&](const V& reduced) { return SparseReduceSumGrad(indices, shape, axes, reduced); };
  const V g = single(dy), hit = cast_like(equal(values, spread(y)), g);
  const V ties = op("SparseReduceSum", indices, hit, shape, axes, Attr{"keep_dims", o.flag("keep_dims")});
  return cast_like(hit * spread(div_no_nan(g, ties)), dy);
}

// The sparse result of an op as a dense one. ScatterNd has no scalar: a dimension in front is added for it.
V Dense(const Op& o, const V& values) {
  const V one = constant(ints({1}), DType::kInt64);
  const V indices = pad(o.out(0), reshape(ints({0, 0, 1, 0}), ints({2, 2}))), dense_shape = o.out(2);
  return reshape(scatter_nd(indices, values, concat({one, dense_shape}, 0)), dense_shape);
}

// Each weight is in the bin that its row and its value number; beyond the last bin it is dropped. No weights stand for
// ones. `rows` has as many columns as the bins have dimensions beside the last.
V BinWeightsGrad(const Op& o, const V& dbins, const V& rows, const V& values) {
  if (o.has_attr("binary_output") && o.flag("binary_output")) return none;
  const V weights = IN(weights);
  const V n = rank(dbins), last = cast(equal(range(0, n), n - 1), DType::kInt32);
  const V dropped = pad(dbins, pack({zeros_like(last), last}, 1));
  const V bin = cast(flatten(values), DType::kInt64), bins = cast(dim(dbins, -1), DType::kInt64);
  const V g = gather_nd(dropped, concat({rows, expand_dims(minimum(bin, bins), 1)}, 1));
  return reshape(head(g, size(weights)), shape(weights));
}

V AllButLast(const V& indices) { return slice(indices, ints({0, 0}), pack({-1, dim(indices, 1) - 1})); }
V RowOfElement(const V& values) { return AllButLast(where(values >= 0)); }

// The row of each value of a ragged matrix.
V RowOfValue(const V& splits, const V& values) {
  const V positions = cast(range(0, dim(values, 0)), splits.dtype());
  const V ends_before =
      op("UpperBound", expand_dims(splits, 0), expand_dims(positions, 0), Attr{"out_type", DType::kInt64});
  return swap_last_two(ends_before - 1);
}

// With A a sparse, B a dense matrix, dB = A^H dy, and of dA = dy B^H what is at the indices of A.
Grads SparseTensorDenseMatMulGrad(const Op& o) {
  const V indices = IN(a_indices), b = IN(b), dy = o.dy();
  const bool adjoint_a = o.flag("adjoint_a"), adjoint_b = o.flag("adjoint_b");
  auto da = [&] {
    const Values axes = unpack(indices, 2, 1);
    const V left = gather(dy, axes[adjoint_a ? 1 : 0]);
    const V right = gather(adjoint_b ? adjoint(b) : b, axes[adjoint_a ? 0 : 1]);
    return sum(adjoint_a ? conj(left) * right : left * conj(right), 1);
  };
  auto db = [&] {
    const V g = op("SparseTensorDenseMatMul", indices, IN(a_values), IN(a_shape), dy, Attr{"adjoint_a", !adjoint_a});
    return adjoint_b ? adjoint(g) : g;
  };
  return GRADS(none, da(), none, db());
}

// Of several values for one place, which only the unvalidated have, one wins: it is that whose number is found there.
Grads SparseToDenseGrad(const Op& o) {
  const V indices = IN(sparse_indices), values = IN(sparse_values), dy = o.dy();
  auto dense = [&](const V& v, const V& rest) { return o.like("SparseToDense", indices, IN(output_shape), v, rest); };
  // A vector, or a scalar, of indices is of a vector.
  const V points = indices.rank() == 2 ? indices : reshape(indices, pack({-1, size(IN(output_shape))}));
  V g = gather_nd(dy, points);
  if (!o.flag("validate_indices") && !distinct(points)) {
    const V numbers = range(0, dim(points, 0)), one_each = indices.rank() == 0 ? reshape(numbers, ints({})) : numbers;
    g = keep(equal(gather_nd(dense(one_each, -1), points), numbers), g);
  }
  return GRADS(none, none, sum_to(g, values), total(dy * dense(zeros_like(values), constant(1, dy.dtype()))));
}

// ---- Sparse segments ----

Grads SparseSegmentGrad(const Op& o, const char* gradient, const char* sparse_gradient) {
  const V x = o.in(0), indices = o.in(1), ids = o.in(2), n = dim(x, 0);
  if (!o.has_attr("sparse_gradient") || !o.flag("sparse_gradient")) {
    const V dx = op(gradient, o.dy(), indices, ids, n);  // which leaves memory as it is where there is no index
    return {indices.dim(0) > 0 ? dx : select(size(indices) > 0, dx, 0)};
  }
  const V g = op(sparse_gradient, o.dy(), indices, ids, n);
  return {rows(g.out(1), g, shape(x))};
}

// The gradient of the gradient is the segment op itself; of the sparse one it reads rows as numbered there.
V SparseSegmentAgain(const Op& o, const char* segment, const V& indices) {
  return op(segment, o.dy(), indices, IN(segment_ids), dim(IN(grad), 0));
}
V RowNumbers(const Op& o) {
  return squeeze(op("LowerBound", expand_dims(OUT(sorted_unique_indices), 0), expand_dims(IN(indices), 0)), {0});
}

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
  const V a = IN(a), b = IN(b);
  const Form form_a = FormOf(o, "transpose_a", "adjoint_a"), form_b = FormOf(o, "transpose_b", "adjoint_b");
  V dy = o.flag("conjugate_output") ? conj(o.dy()) : o.dy();
  if (o.flag("transpose_output")) dy = swap_last_two(dy);
  auto da = [&] {
    const V coo = ToCoo(a, b.dtype()), r = rank(b);
    auto columns = [&](const V& begin, const V& n) { return slice(coo, pack({0, begin}), pack({-1, n})); };
    const V by_row = columns(0, r - 1), by_column = concat({columns(0, r - 2), columns(r - 1, 1)}, 1);
    const bool swapped = form_a != Form::kPlain;
    const V g = sum(
        gather_nd(dy, swapped ? by_column : by_row) * conj(gather_nd(Formed(b, form_b), swapped ? by_row : by_column)),
        1);
    return ToCsr(coo, form_a == Form::kAdjoint ? conj(g) : g, coo.out(2));
  };
  auto db = [&] {
    V g;
    if (form_a == Form::kTransposed) g = conj(op("SparseMatrixMatMul", a, conj(dy)));
    else g = op("SparseMatrixMatMul", a, dy, Attr{"adjoint_a", form_a == Form::kPlain});
    return Formed(g, form_b);
  };
  return GRADS(da(), db());
}

Grads SparseMatrixSparseMatMulGrad(const Op& o) {
  const V a = IN(a), b = IN(b), dy = o.dy();
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
  return GRADS(da(), db());
}

// y = alpha A + beta B.
Grads SparseMatrixAddGrad(const Op& o) {
  const V dy = o.dy();
  const DType dtype = o.type("T");
  auto operand = [&](const V& x, const V& factor) { return op("SparseMatrixMul", Prune(dy, x, dtype), conj(factor)); };
  auto factor = [&](const V& x) {
    const V coo = ToCoo(x, dtype), g = ToCoo(dy, dtype);
    return sum(Find(coo, g, g.out(1)) * conj(coo.out(1)), 0);
  };
  return GRADS(operand(IN(a), IN(alpha)), operand(IN(b), IN(beta)), factor(IN(a)), factor(IN(b)));
}

// clang-format off
#define SPARSE_SEGMENT(name)                                                                                           \
    RULE(SparseSegment##name,                                                                                          \
         return SparseSegmentGrad(o, "SparseSegment" #name "Grad", "SparseSegment" #name "GradV2");)                   \
    RULE(SparseSegment##name##WithNumSegments,                                                                         \
         return SparseSegmentGrad(o, "SparseSegment" #name "Grad", "SparseSegment" #name "GradV2");)                   \
    UNARY(SparseSegment##name##Grad, SparseSegmentAgain(o, "SparseSegment" #name "WithNumSegments", IN(indices)))    \
    UNARY(SparseSegment##name##GradV2, SparseSegmentAgain(o, "SparseSegment" #name "WithNumSegments", RowNumbers(o)))

constexpr Rule kRules[] = {
    NO_GRAD(DenseToDenseSetOperation) NO_GRAD(DenseToSparseSetOperation) NO_GRAD(SparseToSparseSetOperation)
    NO_GRAD(SetSize) NO_GRAD(SparseMatrixNNZ) NO_GRAD(SparseMatrixZeros)

    // Structure.
    RULE(SparseReorder, const V positions = op("SparseReorder", x, range(0, dim(x, 0)), IN(input_shape)).out(1);
         return only(IN(input_values), Permuted(positions, DY(output_values)));)
    {"SparseConcat", SparseConcatGrad},
    {"SparseSplit", SparseSplitGrad},
    ONLY(SparseSlice, values, op("SparseSliceGrad", DY(output_values), x, IN(start), y))
    ONLY(SparseSliceGrad, backprop_val_grad, Find(IN(output_indices) + IN(input_start), IN(input_indices), dy))
    RULE(SparseFillEmptyRows, const V g = op("SparseFillEmptyRowsGrad", OUT(reverse_index_map), DY(output_values));
         return only(IN(values), g, IN(default_value), g.out(1));)
    ONLY(SparseFillEmptyRowsGrad, grad_values, FillEmptyRowsGradGrad(o))
    {"SparseToDense", SparseToDenseGrad},

    // Ragged tensors.
    RULE(RaggedFillEmptyRows, const V g = op("RaggedFillEmptyRowsGrad", OUT(reverse_index_map), DY(output_values));
         return only(IN(values), g, IN(default_value), g.out(1));)
    ONLY(RaggedFillEmptyRowsGrad, grad_values, FillEmptyRowsGradGrad(o))
    {"RaggedGather", RaggedGatherGrad},
    {"RaggedTensorToVariant", RaggedTensorToVariantGrad},
    {"RaggedTensorToVariantGradient", RaggedTensorToVariantGradientGrad},
    {"RaggedTensorFromVariant", RaggedTensorFromVariantGrad},
    ONLY(RaggedTensorToSparse, rt_dense_values, reshape_like(DY(sparse_values), IN(rt_dense_values)))
    {"RaggedTensorToTensor", RaggedTensorToTensorGrad},

    // Arithmetic.
    RULE(SparseAdd, const V g = op("SparseAddGrad", DY(sum_values), x, IN(b_indices), y);
         return only(IN(a_values), g, IN(b_values), g.out(1));)   // the threshold only chooses what is kept
    RULE(SparseAddGrad, const V sum = IN(sum_indices);
         return only(IN(backprop_val_grad), Find(sum, IN(a_indices), dy) + Find(sum, IN(b_indices), DY(b_val_grad)));)
    RULE(SparseTensorDenseAdd, return only(IN(a_values), gather_nd(dy, IN(a_indices)), IN(b), dy);)
    RULE(SparseDenseCwiseAdd, return GRADS(none, dy, none, DenseOperand(o).Scatter(dy));)
    RULE(SparseDenseCwiseMul, const DenseOperand b(o);
         return GRADS(none, dy * b.values, none, b.Scatter(dy * IN(sp_values)));)
    RULE(SparseDenseCwiseDiv, const DenseOperand b(o); const V da = dy / b.values;
         return GRADS(none, da, none, b.Scatter(-da * y));)
    RULE(SparseSparseMaximum, return SparseSparseExtremeGrad(o, true);)
    RULE(SparseSparseMinimum, return SparseSparseExtremeGrad(o, false);)
    ONLY(SparseReduceSum, input_values, SparseReduceSumGrad(x, IN(input_shape), IN(reduction_axes), dy))
    ONLY(SparseReduceSumSparse, input_values,
         SparseReduceSumGrad(x, IN(input_shape), IN(reduction_axes), Dense(o, DY(output_values))))
    ONLY(SparseReduceMax, input_values, SparseReduceMaxGrad(o, y, dy))
    ONLY(SparseReduceMaxSparse, input_values,
         SparseReduceMaxGrad(o, Dense(o, OUT(output_values)), Dense(o, DY(output_values))))
    RULE(SparseSoftmax, const V shape = IN(sp_shape);
         const V sums = op("SparseReduceSum", x, dy * y, shape, ints({-1}), Attr{"keep_dims", true});
         return only(IN(sp_values), op("SparseDenseCwiseAdd", x, dy, shape, -sums) * y);)
    {"SparseTensorDenseMatMul", SparseTensorDenseMatMulGrad},

    // Counts.
    ONLY(Bincount, weights, BinWeightsGrad(o, dy, RowOfElement(flatten(x)), x))
    ONLY(DenseBincount, weights, BinWeightsGrad(o, dy, RowOfElement(x), x))
    ONLY(SparseBincount, weights, BinWeightsGrad(o, dy, AllButLast(IN(indices)), IN(values)))
    ONLY(RaggedBincount, weights, BinWeightsGrad(o, dy, RowOfValue(IN(splits), IN(values)), IN(values)))
    ONLY(DenseCountSparseOutput, weights, BinWeightsGrad(o, Dense(o, DY(output_values)), RowOfElement(x), x))
    ONLY(SparseCountSparseOutput, weights,
         BinWeightsGrad(o, Dense(o, DY(output_values)), AllButLast(IN(indices)), IN(values)))
    ONLY(RaggedCountSparseOutput, weights,
         BinWeightsGrad(o, Dense(o, DY(output_values)), RowOfValue(IN(splits), IN(values)), IN(values)))

    SPARSE_SEGMENT(Sum)
    SPARSE_SEGMENT(Mean)
    SPARSE_SEGMENT(SqrtN)

    // Sparse matrices.
    UNARY(DenseToCSRSparseMatrix, op("CSRSparseMatrixToDense", dy, Attr{"type", x.dtype()}))
    RULE(CSRSparseMatrixToDense, const V indices = ToCoo(x, dy.dtype());
         return {ToCsr(indices, gather_nd(dy, indices), shape(dy, DType::kInt64))};)
    ONLY(SparseTensorToCSRSparseMatrix, values, ToCoo(dy, IN(values).dtype()).out(1))
    UNARY(CSRSparseMatrixToSparseTensor, ToCsr(y, DY(values), OUT(dense_shape)))
    SELF_ADJOINT(SparseMatrixTranspose)
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
