"""Sparse tensors, sparse segments and sparse matrices (csrc/rules/sparse.cc)."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.harness import Case, case, rand

raw: Any = tf.raw_ops

A = np.array([[0, 1], [1, 0], [1, 2], [2, 1]], np.int64)
B = np.array([[0, 0], [1, 0], [1, 2]], np.int64)
UNORDERED = A[[2, 0, 3, 1]]
SHAPE = np.array([3, 4], np.int64)
CUBE = np.array([[0, 0, 1], [0, 2, 0], [1, 0, 1], [1, 1, 0]], np.int64)
CUBE_SHAPE = np.array([2, 3, 2], np.int64)

SOFTMAX = dict(sp_indices=CUBE, sp_values=rand(4), sp_shape=CUBE_SHAPE)

NOT_IMPLEMENTED = "Python raises NotImplementedError"
COLUMN = "Python fails where a default is stretched inside"
BEYOND: dict[str, Any] = dict(python=False, why="Python has no such gradient")
COUNTED = np.array([[0, 3, 1], [1, 1, 0]], np.int32)

BINS = dict(indices=A, values=np.array([0, 3, 1, 0], np.int32), dense_shape=SHAPE)
SPLITS = np.array([0, 1, 1, 4], np.int64)
GRAD_GRAD = dict(python=False, why="Python has no gradient of the gradient op")


def axes(*values: int) -> Any:
    return np.array(values, np.int32)


def dense_operand(op: str, *dense: int, **options: Any) -> Case:
    """A sparse [2, 3, 2] and a dense tensor that is broadcast to it."""
    args = dict(sp_indices=CUBE, sp_values=rand(4), sp_shape=CUBE_SHAPE, dense=rand(*dense, lo=0.5, hi=2))
    return case(op, args, **options)


def extreme(op: str) -> Case:
    a, b = dict(a_indices=A, a_values=rand(4), a_shape=SHAPE), dict(b_indices=B, b_values=rand(3), b_shape=SHAPE)
    return case(op, dict(**a, **b), dtypes="hbfd", python=False, why=NOT_IMPLEMENTED)


def reduced(op: str, *along: int, keep_dims: bool = False, **options: Any) -> Case:
    args = dict(input_indices=CUBE, input_values=rand(4), input_shape=CUBE_SHAPE, reduction_axes=axes(*along))
    return case(f"SparseReduce{op}", dict(**args, keep_dims=keep_dims), tag=f"axes={along},{keep_dims=}", **options)


def matmul(adjoint_a: bool, adjoint_b: bool, **options: Any) -> Case:
    b = (3, 2) if adjoint_a else (4, 2)
    args = dict(a_indices=A, a_values=rand(4), a_shape=SHAPE, b=rand(*(b[::-1] if adjoint_b else b)))
    return case("SparseTensorDenseMatMul", dict(**args, adjoint_a=adjoint_a, adjoint_b=adjoint_b), **options)


def segments(kind: str, **attrs: Any) -> Case:
    """Rows are repeated and left out, and so is a segment."""
    indices, ids = axes(0, 2, 0, 4), axes(0, 0, 2, 2)
    op = f"SparseSegment{kind}" + ("WithNumSegments" if "num_segments" in attrs else "")
    return case(op, dict(data=rand(5, 2), indices=indices, segment_ids=ids, **attrs))


def no_segments(kind: str, **attrs: Any) -> Case:
    op = f"SparseSegment{kind}" + ("WithNumSegments" if "num_segments" in attrs else "")
    args = dict(data=rand(2, 2), indices=axes(), segment_ids=axes(), **attrs)
    return case(op, args, tag="no segments", python=False, why="Python's gradient is memory that nobody has written to")


def segments_grad(kind: str, version: str, *, count: int = 3) -> Case:
    """The gradient op of the same segments: rows of data are repeated and left out."""
    dim = "dense_output_dim0" if version else "output_dim0"
    args = dict(grad=rand(count, 2), indices=axes(0, 2, 0, 4), segment_ids=axes(0, 0, 2, 2), **{dim: np.int32(5)})
    return case(f"SparseSegment{kind}Grad{version}", args, tag=f"{count} segments", **GRAD_GRAD)


def to_csr(values: Any, indices: Any = A, shape: Any = SHAPE) -> Any:
    return raw.SparseTensorToCSRSparseMatrix(indices=indices, values=values, dense_shape=shape)


def to_dense(csr: Any, dtype: Any) -> Any:
    return raw.CSRSparseMatrixToDense(sparse_input=csr, type=dtype)


def transposed(attrs: dict[str, bool], side: str) -> bool:
    return attrs.get(f"transpose_{side}", False) or attrs.get(f"adjoint_{side}", False)


def csr_matmul(batch: bool = False, **attrs: bool) -> Case:
    rows, columns = (3, 2) if batch else (3, 4)
    inner = rows if transposed(attrs, "a") else columns
    b = (5, inner) if transposed(attrs, "b") else (inner, 5)

    def fn(values: Any, b: Any) -> Any:
        a = to_csr(values, CUBE, CUBE_SHAPE) if batch else to_csr(values)
        return raw.SparseMatrixMatMul(a=a, b=b, **attrs)

    args = dict(values=rand(4), b=rand(2, *b) if batch else rand(*b))
    tag = ",".join(attrs) + (",batch" if batch else "")
    return case("SparseMatrixMatMul", args, fn=fn, dtypes="fdcz", tag=tag)


def csr_product(**attrs: bool) -> Case:
    a = SHAPE[::-1] if transposed(attrs, "a") else SHAPE
    b = SHAPE if transposed(attrs, "b") else SHAPE[::-1]

    def fn(a_values: Any, b_values: Any) -> Any:
        x = to_csr(a_values, A if a is SHAPE else A[:, ::-1][np.lexsort(A.T)], a)
        y = to_csr(b_values, B if b is SHAPE else B[:, ::-1][np.lexsort(B.T)], b)
        return to_dense(raw.SparseMatrixSparseMatMul(a=x, b=y, type=a_values.dtype, **attrs), a_values.dtype)

    args = dict(a_values=rand(4), b_values=rand(3))
    return case(
        "SparseMatrixSparseMatMul",
        args,
        fn=fn,
        dtypes="fdcz",
        tag=",".join(attrs),
        python=False,
        orders=1,
        why="Python's gradient is of graphs alone; the second order adds sparse matrices, which has no kernel",
    )


def encoded(*splits: Any, batched: bool = False, **attrs: Any) -> Any:
    """A function of ragged values that goes to a variant, or to one of rows, and back."""

    def fn(x: Any) -> Any:
        n = len(splits)
        variant = raw.RaggedTensorToVariant(rt_nested_splits=splits, rt_dense_values=x * x, batched_input=batched)
        back = dict(input_ragged_rank=n - batched, output_ragged_rank=n, Tvalues=x.dtype, Tsplits=tf.int64) | attrs
        if batched:
            variant = tf.stack(tf.unstack(variant, num=2)[::-1])
        return raw.RaggedTensorFromVariant(encoded_ragged=variant, **back)[1] ** 2

    return fn


def encoded_rows(x: Any) -> Any:
    """Rows, each in a variant, two by two."""
    splits = np.array([0, 1, 1, 3, 4])
    rows = raw.RaggedTensorToVariant(rt_nested_splits=[splits], rt_dense_values=x * x, batched_input=True)
    attrs = dict(input_ragged_rank=0, output_ragged_rank=2, Tvalues=x.dtype, Tsplits=tf.int64)
    return raw.RaggedTensorFromVariant(encoded_ragged=tf.reshape(rows, [2, 2]), **attrs)[1] ** 2


def encoded_row(*splits: Any) -> Any:
    """One of the rows of ragged values, each in a variant: nothing reaches the others."""

    def fn(x: Any) -> Any:
        row = raw.RaggedTensorToVariant(rt_nested_splits=splits, rt_dense_values=x * x, batched_input=True)[1]
        n = len(splits) - 1
        back = dict(input_ragged_rank=n, output_ragged_rank=n, Tvalues=x.dtype, Tsplits=tf.int64)
        return raw.RaggedTensorFromVariant(encoded_ragged=row, **back)[1] ** 2

    return fn


def ragged_rows(x: Any) -> Any:
    """What each row of a ragged tensor is decoded to, by an op that TensorFlow has for gradients alone."""
    rows = raw.RaggedTensorToVariant(rt_nested_splits=[SPLITS], rt_dense_values=x * x, batched_input=True)
    values = raw.RaggedTensorToVariantGradient(
        encoded_ragged_grad=rows, row_splits=SPLITS, dense_values_shape=tf.shape(x), Tvalues=x.dtype
    )
    return values**2


OUTER = np.array([0, 2, 3], np.int64)

MATRICES = [
    case("CSRSparseMatrixToDense", dict(x=rand(4)), dtypes="fdcz", fn=lambda x: to_dense(to_csr(x), x.dtype)),
    case(
        "CSRSparseMatrixToDense",
        dict(x=rand(4)),
        dtypes="fdcz",
        fn=lambda x: to_dense(to_csr(x, CUBE, CUBE_SHAPE), x.dtype),
        tag="batch",
    ),
    case(
        "DenseToCSRSparseMatrix",
        dict(x=rand(3, 4)),
        dtypes="fdcz",
        unknown=False,
        why="the op needs a known rank",
        fn=lambda x: to_dense(raw.DenseToCSRSparseMatrix(dense_input=x, indices=A), x.dtype),
    ),
    case("SparseTensorToCSRSparseMatrix", dict(x=rand(4)), dtypes="fdcz", fn=lambda x: to_dense(to_csr(x), x.dtype)),
    case(
        "CSRSparseMatrixToSparseTensor",
        dict(x=rand(4)),
        dtypes="fdcz",
        fn=lambda x: raw.CSRSparseMatrixToSparseTensor(sparse_matrix=to_csr(x), type=x.dtype),
    ),
    *(
        case(
            "SparseMatrixTranspose",
            dict(x=rand(4), conjugate=conjugate),
            dtypes="fdcz",
            fn=lambda x, conjugate: to_dense(
                raw.SparseMatrixTranspose(input=to_csr(x), conjugate=conjugate, type=x.dtype), x.dtype
            ),
        )
        for conjugate in (False, True)
    ),
    case(
        "SparseMatrixSoftmax",
        dict(x=rand(4)),
        fn=lambda x: to_dense(raw.SparseMatrixSoftmax(logits=to_csr(x), type=x.dtype), x.dtype),
        graph_only=True,
    ),
    csr_matmul(),
    csr_matmul(transpose_a=True),
    csr_matmul(adjoint_a=True),
    csr_matmul(transpose_b=True),
    csr_matmul(adjoint_b=True),
    csr_matmul(transpose_a=True, adjoint_b=True),
    csr_matmul(adjoint_a=True, transpose_b=True, transpose_output=True),
    csr_matmul(transpose_output=True, conjugate_output=True),
    csr_matmul(batch=True, adjoint_a=True),
    csr_product(),
    csr_product(transpose_a=True),
    csr_product(adjoint_b=True),
    csr_product(transpose_b=True),
    csr_product(adjoint_a=True, transpose_b=True),
    csr_product(transpose_a=True, adjoint_b=True),
]

CASES = [
    case("SparseReorder", dict(input_indices=UNORDERED, input_values=rand(4), input_shape=SHAPE)),
    case(
        "SparseConcat",
        dict(indices=[A, B, A], values=[rand(4), rand(3), rand(4)], shapes=[SHAPE] * 3, concat_dim=1),
        tag="three",
    ),
    case("SparseConcat", dict(indices=[A, B], values=[rand(4), rand(3)], shapes=[SHAPE] * 2, concat_dim=-2), tag="two"),
    case(
        "SparseSlice",
        dict(indices=A, values=rand(4), shape=SHAPE, start=np.array([1, 0], np.int64), size=np.array([2, 2], np.int64)),
    ),
    case(
        "SparseFillEmptyRows",
        dict(
            indices=A + np.array([[1, 0]]), values=rand(4), dense_shape=np.array([6, 4], np.int64), default_value=rand()
        ),
    ),
    case(
        "SparseSliceGrad",
        dict(
            backprop_val_grad=rand(2),
            input_indices=A,
            input_start=np.array([1, 0], np.int64),
            output_indices=np.array([[0, 0], [1, 1]], np.int64),
        ),
        **GRAD_GRAD,
    ),
    case(
        "SparseFillEmptyRowsGrad",
        dict(reverse_index_map=np.array([1, 2, 3, 4], np.int64), grad_values=rand(6)),
        **GRAD_GRAD,
    ),
    *(
        case(
            "SparseToDense",
            dict(
                sparse_indices=indices,
                output_shape=shape,
                sparse_values=rand(*values),
                default_value=rand(),
                validate_indices=False,
            ),
            python=False,
            why="Python gives their cotangent to values that are overwritten, too",
        )
        for indices, shape, values in (
            (axes(0, 1, 1), axes(3), (3,)),
            (axes(0, 1, 1), axes(3), ()),
            (np.int64([[0, 1], [1, 0], [0, 1]]), axes(2, 2), (3,)),
        )
    ),
    case("SparseToDense", dict(sparse_indices=A, output_shape=SHAPE, sparse_values=rand(4), default_value=rand())),
    case(
        "SparseToDense",
        dict(sparse_indices=A, output_shape=SHAPE, sparse_values=rand(), default_value=rand()),
        python=False,
        why="Python gives a scalar of values a vector of gradients",
    ),
    case(
        "SparseToDense",
        dict(sparse_indices=axes(0, 2, 3), output_shape=axes(5), sparse_values=rand(3), default_value=rand()),
        python=False,
        why="Python takes a vector of indices for one point",
    ),
    case(
        "SparseToDense",
        dict(sparse_indices=np.int32(2), output_shape=axes(5), sparse_values=rand(), default_value=rand()),
        python=False,
        why="Python takes a scalar index for no point",
    ),
    case(
        "SparseAdd",
        dict(a_indices=A, a_values=rand(4), a_shape=SHAPE, b_indices=B, b_values=rand(3), b_shape=SHAPE, thresh=0.0),
        dtypes="f",
        tag="all",
    ),
    case(
        "SparseAdd",
        dict(
            a_indices=A,
            a_values=rand(4),
            a_shape=SHAPE,
            b_indices=B,
            b_values=rand(3),
            b_shape=SHAPE,
            thresh=np.float64(0.3),
        ),
        dtypes="dz",
        tag="threshold",
    ),
    case(
        "SparseAddGrad",
        dict(backprop_val_grad=rand(5), a_indices=A, b_indices=B, sum_indices=np.unique([*A, *B], axis=0)),
    ),
    case("SparseTensorDenseAdd", dict(a_indices=A, a_values=rand(4), a_shape=SHAPE, b=rand(3, 4))),
    *(
        dense_operand(op, *dense, **options)
        for op, options in [
            ("SparseDenseCwiseAdd", dict(python=False, why=NOT_IMPLEMENTED)),
            ("SparseDenseCwiseMul", {}),
            ("SparseDenseCwiseDiv", {}),
        ]
        for dense in [(2, 3, 2), (3, 1), (2, 1, 2)]
    ),
    extreme("SparseSparseMaximum"),
    extreme("SparseSparseMinimum"),
    reduced("Sum", 1),
    reduced("Sum", 0, -1),
    case(
        "SparseReduceSum",
        dict(input_indices=CUBE, input_values=rand(4), input_shape=CUBE_SHAPE, reduction_axes=np.int32(1)),
        tag="scalar axis",
    ),
    reduced("Sum", -2, keep_dims=True),
    reduced("Sum", 0, 1, 2),
    *(
        reduced(op, *along, keep_dims=keep_dims, **BEYOND)
        for op in ("Max", "MaxSparse", "SumSparse")
        for along, keep_dims in [((1,), False), ((0, -1), False), ((-2,), True), ((0, 1, 2), False)]
    ),
    case(
        "SparseReduceMax",
        dict(input_indices=A, input_values=rand(4, lo=0.5, hi=0.5), input_shape=SHAPE, reduction_axes=axes(1)),
        fn=lambda input_values, **args: raw.SparseReduceMax(input_values=input_values, **args),
        dtypes="d",
        orders=1,
        tag="ties",
        expected=lambda values, dy: [tf.gather(dy, [0, 1, 1, 2]) * [1, 0.5, 0.5, 1]],
        fd=False,
        python=False,
        why="no derivative here: those that tie share the cotangent",
    ),
    case(
        "DenseCountSparseOutput",
        dict(values=BINS["values"], weights=rand(0), minlength=-1, maxlength=3, binary_output=False),
        unknown=False,
        python=False,
        why="Python has no such gradient; TensorFlow infers that unknown weights are as many as values",
    ),
    case("RaggedTensorToSparse", dict(rt_nested_splits=[np.array([0, 2, 3]), SPLITS], rt_dense_values=rand(4, 1))),
    case(
        "RaggedFillEmptyRows",
        dict(value_rowids=np.array([0, 2, 2]), values=rand(3), nrows=np.int64(4), default_value=rand()),
    ),
    case(
        "RaggedFillEmptyRowsGrad",
        dict(reverse_index_map=np.array([0, 2, 3]), grad_values=rand(5)),
        **BEYOND,
    ),
    *(
        case(
            "RaggedGather",
            dict(
                params_nested_splits=splits,
                params_dense_values=rand(4, 2),
                indices=np.array(indices),
                OUTPUT_RAGGED_RANK=len(splits) - 1 + np.ndim(indices),
            ),
        )
        for splits, indices in [([SPLITS], [2, 0, 2]), ([np.array([0, 2, 3]), SPLITS], [[1, 0], [1, 1]])]
    ),
    *(
        case(
            "RaggedTensorToTensor",
            dict(
                shape=np.array(shape, np.int64),
                values=rand(4, *inner),
                default_value=rand(*default),
                row_partition_tensors=partition,
                row_partition_types=types,
            ),
            tag=f"{shape},{inner},{default},{types}",
            **options,
        )
        for shape, inner, default, partition, types, options in [
            ([-1, -1], (), (), [SPLITS], ["ROW_SPLITS"], {}),
            ([3, 2], (), (), [SPLITS], ["ROW_SPLITS"], {}),
            ([4, -1, 2], (2,), (2,), [SPLITS], ["ROW_SPLITS"], {}),
            ([-1, 4, 2, 3], (2, 3), (2, 1), [SPLITS], ["ROW_SPLITS"], dict(python=False, why=COLUMN)),
            (-1, (2,), (), [np.array([0, 2, 3]), SPLITS], ["ROW_SPLITS"] * 2, {}),
            ([-1, -1, 2], (2,), (1,), [np.int64(4), np.array([0, 2, 2, 3])], ["FIRST_DIM_SIZE", "VALUE_ROWIDS"], {}),
        ]
    ),
    *(
        case(
            "SparseSplit",
            dict(split_dim=np.int64(axis), indices=CUBE, values=rand(4), shape=CUBE_SHAPE, num_split=n),
            **BEYOND,
        )
        for axis, n in [(0, 2), (-2, 3), (1, 2)]
    ),
    *(case("Bincount", dict(arr=COUNTED, size=size, weights=rand(2, 3)), **BEYOND) for size in (3, 5, 0)),
    case("Bincount", dict(arr=COUNTED, size=3, weights=rand(0)), **BEYOND),
    *(
        case("DenseBincount", dict(input=values, size=3, weights=rand(*values.shape), binary_output=binary), **BEYOND)
        for values, binary in [(COUNTED, False), (COUNTED[0], False), (COUNTED, True)]
    ),
    case("DenseBincount", dict(input=COUNTED, size=5, weights=rand(0)), **BEYOND),
    *(
        case("SparseBincount", dict(**bins, size=size, weights=rand(n), binary_output=binary), **BEYOND)
        for bins in (BINS, dict(indices=A[:, :1], values=BINS["values"], dense_shape=SHAPE[:1]))
        for size, n, binary in [(3, 4, False), (5, 4, False), (3, 0, False), (3, 4, True)]
    ),
    *(
        case(
            "RaggedBincount",
            dict(splits=SPLITS, values=BINS["values"], size=size, weights=rand(n), binary_output=binary),
            **BEYOND,
        )
        for size, n, binary in [(3, 4, False), (5, 4, False), (3, 0, False), (3, 4, True)]
    ),
    *(
        case(op, dict(**rows, minlength=low, maxlength=high, binary_output=binary, weights=rand(*shape)), **BEYOND)
        for op, rows, shape in [
            ("DenseCountSparseOutput", dict(values=BINS["values"].reshape(2, 2)), (2, 2)),
            ("DenseCountSparseOutput", dict(values=BINS["values"]), (4,)),
            ("SparseCountSparseOutput", BINS, (4,)),
            ("RaggedCountSparseOutput", dict(splits=SPLITS, values=BINS["values"]), (4,)),
        ]
        for low, high, binary in [(-1, -1, False), (3, 3, False), (-1, -1, True)]
    ),
    case("SparseSoftmax", dict(**SOFTMAX), orders=1, why="Python has no second order"),
    case(
        "SparseSoftmax", dict(**SOFTMAX), tag="second order", dtypes="d", python=False, why="Python has no second order"
    ),
    *(matmul(adjoint_a, adjoint_b) for adjoint_a in (True, False) for adjoint_b in (True, False)),
    *(segments(kind) for kind in ("Sum", "Mean", "SqrtN")),
    *(segments(kind, num_segments=np.int32(4)) for kind in ("Sum", "Mean", "SqrtN")),
    *(no_segments(kind, num_segments=np.int32(2)) for kind in ("Sum", "Mean", "SqrtN")),
    no_segments("Sum"),
    *(segments(kind, sparse_gradient=True) for kind in ("Sum", "Mean", "SqrtN")),
    *(segments(kind, num_segments=np.int32(4), sparse_gradient=True) for kind in ("Sum", "Mean", "SqrtN")),
    *(segments_grad(kind, version) for kind in ("Sum", "Mean", "SqrtN") for version in ("", "V2")),
    *(segments_grad("Mean", version, count=4) for version in ("", "V2")),
    case("RaggedTensorToVariant", dict(x=rand(4, 2)), fn=encoded(SPLITS), tag="whole"),
    case("RaggedTensorToVariant", dict(x=rand(4, 2)), fn=encoded(OUTER, SPLITS), tag="whole, two splits"),
    case("RaggedTensorToVariant", dict(x=rand(4, 2)), fn=encoded(np.array([0, 1, 4]), batched=True), tag="rows"),
    case("RaggedTensorToVariant", dict(x=rand(4)), fn=encoded(OUTER, SPLITS, batched=True), tag="ragged rows"),
    case(
        "RaggedTensorToVariant",
        dict(x=rand(4)),
        fn=encoded(OUTER, SPLITS, batched=True, input_ragged_rank=-1),
        tag="rank -1",
    ),
    case("RaggedTensorToVariant", dict(x=rand(4, 2)), fn=encoded_row(np.array([0, 1, 3, 4])), tag="one row"),
    case("RaggedTensorToVariant", dict(x=rand(4)), fn=encoded_row(OUTER, SPLITS), tag="one ragged row", **BEYOND),
    case("RaggedTensorFromVariant", dict(x=rand(4, 2)), fn=encoded_rows, tag="rows of rows", **BEYOND),
    case("RaggedTensorFromVariant", dict(x=rand(4, 2)), fn=encoded(SPLITS), tag="whole", **BEYOND),
    case("RaggedTensorToVariantGradient", dict(x=rand(4, 2)), fn=ragged_rows, **BEYOND),
    *MATRICES,
]
