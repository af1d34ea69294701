"""Einsum, determinants, systems of equations, decompositions and functions of matrices (csrc/rules/linalg.cc)."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.harness import Case, case, rand
from tests.spec import Rand

Shape = tuple[int, ...]
raw: Any = tf.raw_ops


def einsum(equation: str, *shapes: Shape, **options: Any) -> Case:
    operands = [rand(*shape) for shape in shapes]
    return case("Einsum", dict(inputs=operands, equation=equation), **options)


def shifted(op: str, by: float = 3.0) -> Any:
    """The op of `matrix` and a multiple of the unit matrix, so that it is far from singular."""

    def fn(**args: Any) -> Any:
        name = next(iter(args))
        matrix = args.pop(name)
        unit = tf.eye(tf.shape(matrix)[-1], dtype=matrix.dtype)
        return getattr(raw, op)(**{name: matrix + by * unit}, **args)

    return fn


def hermitian(x: Any) -> Any:
    return x + tf.linalg.adjoint(x)


def positive(x: Any) -> Any:
    return tf.matmul(x, x, adjoint_b=True) + tf.eye(tf.shape(x)[-1], dtype=x.dtype)


def stretched(x: Any) -> Any:
    """A matrix whose eigenvalues, or singular values, are well apart."""
    ramp = tf.cast(3 * tf.range(1, tf.minimum(tf.shape(x)[-1], tf.shape(x)[-2]) + 1), x.dtype)
    rest = tf.zeros_like(x)
    return x + tf.linalg.set_diag(rest, ramp + tf.linalg.diag_part(rest))


def projector(v: Any, count: int) -> Any:
    """What the first columns span: it doesn't depend on their signs or phases, nor on which basis they are."""
    return tf.matmul(v[..., :count], v[..., :count], adjoint_b=True)


def svd(**attrs: Any) -> Any:
    def fn(x: Any) -> Any:
        return raw.Svd(input=stretched(x), **attrs)

    return fn


def svd_invariants(shape: Shape, full_matrices: bool) -> Any:
    k = min(shape)

    def fn(x: Any) -> Any:
        s, u, v = raw.Svd(input=stretched(x), compute_uv=True, full_matrices=full_matrices)
        spans = [projector(w, k) for w, n in zip((u, v), shape, strict=True) if n > k]
        return [s, projector(u, 1), tf.matmul(u[..., :2], v[..., :2], adjoint_b=True), *spans]

    return fn


def eig_invariants(x: Any) -> Any:
    e, v = raw.Eig(input=stretched(x), Tout=tf.complex128, compute_v=True)
    return [e, projector(v, 1), v[..., :1] * tf.linalg.inv(v)[..., :1, :]]


def self_adjoint_invariants(x: Any) -> Any:
    e, v = raw.SelfAdjointEigV2(input=hermitian(stretched(x)), compute_v=True)
    return [e, projector(v, 1), projector(v, 2)]


def qr_invariants(x: Any) -> Any:
    q, r = raw.Qr(input=x, full_matrices=True)
    return [q[..., :2], r, tf.matmul(q[..., 2:], q[..., 2:], adjoint_b=True)]


def least_squares(
    matrix: Rand, rhs: Rand, dtypes: str, regularizer: float = 0.1, fast: bool = True, **options: Any
) -> Case:
    args = dict(matrix=matrix, rhs=rhs, l2_regularizer=np.float64(regularizer), fast=fast)
    return case("MatrixSolveLs", args, dtypes=dtypes, tol=10, tag=f"{matrix},{rhs},{dtypes},fast={fast}", **options)


def triangular(lower: bool, adjoint: bool, a: Shape = (3, 3), b: Shape = (3, 2), **options: Any) -> Case:
    args = dict(matrix=rand(*a), rhs=rand(*b), lower=lower, adjoint=adjoint)
    return case("MatrixTriangularSolve", args, fn=shifted("MatrixTriangularSolve"), **options)


def banded(lower: bool, adjoint: bool, a: Shape = (2, 4), b: Shape = (4, 2), **options: Any) -> Case:
    args = dict(matrix=rand(*a, lo=1, hi=2), rhs=rand(*b), lower=lower, adjoint=adjoint)
    return case("BandedTriangularSolve", args, **options)


def tridiagonal(op: str, *batch: int, partial_pivoting: bool = True, **options: Any) -> Case:
    m, n = 4, 2
    if op == "TridiagonalSolve":
        args = dict(diagonals=rand(*batch, 3, m, lo=0.2), rhs=rand(*batch, m, n), partial_pivoting=partial_pivoting)
        return case(op, args, **options)
    diagonals = dict(superdiag=rand(*batch, 1, m), maindiag=rand(*batch, 1, m), subdiag=rand(*batch, 1, m))
    return case(op, dict(**diagonals, rhs=rand(*batch, m, n)), **options)


SYMMETRIC = "Python solves for the transposed, not the adjoint matrix"

EINSUM = [
    # One operand: a permutation, sums, diagonals and traces in and out.
    einsum("ij->ji", (2, 3)),
    einsum("ij->ij", (2, 3)),
    einsum("ij->", (2, 3)),
    einsum("ijk->ik", (2, 3, 2)),
    einsum("ijkl->lj", (2, 3, 2, 4)),
    einsum("ii->i", (3, 3)),
    einsum("i->ii", (3,)),
    einsum("ii->", (3, 3)),
    einsum("iij->j", (3, 3, 2)),
    einsum("aabbcd->ca", (2, 2, 3, 3, 4, 2)),
    einsum("...ij->...ji", (2, 2, 3)),
    einsum("...ij->i...", (2, 2, 3)),
    einsum("i...jk->...j", (2, 3, 2, 4)),
    einsum("...ii->...", (2, 3, 3)),
    einsum("...ij->ij", (2, 3)),
    # Two.
    einsum("ij,jk->ik", (2, 3), (3, 4)),
    einsum("abij,abkj->abik", (2, 2, 3, 4), (2, 2, 2, 4)),
    einsum("bthd,hde->bte", (2, 3, 2, 4), (2, 4, 5)),
    einsum("i,j->ij", (2,), (3,)),
    einsum("i,i->", (3,), (3,)),
    einsum(",ij->ij", (), (2, 3)),
    einsum("ij,ij->ij", (2, 3), (2, 3)),
    einsum("ij,jk->k", (2, 3), (3, 4)),
    einsum("abc,cd->ad", (2, 3, 2), (2, 4)),
    einsum("ii,ij->j", (3, 3), (3, 2)),
    einsum("iik,j->j", (3, 3, 2), (2,)),
    einsum("ij,jk->iik", (2, 3), (3, 2)),
    # Broadcasting.
    einsum("...ij,...jk->...ik", (2, 2, 3), (2, 3, 4)),
    einsum("...ij,...jk->...ik", (2, 1, 2, 3), (4, 3, 2)),
    einsum("...ij,jk->...ik", (2, 2, 3), (3, 4)),
    einsum("ij,...jk->...ik", (2, 3), (2, 2, 3, 2)),
    einsum("i...j,j...k->...ik", (2, 3, 1, 3), (3, 2, 4)),
    einsum("i...,...i->...", (2, 3, 1), (3, 2, 2)),
    einsum("...ij,j->...", (2, 1, 2, 3), (3,)),
    einsum("...ab,...c->...c", (2, 1, 2, 3), (3, 4), python=False, why="Python broadcasts before it sums"),
    einsum("...,...->...", (2, 1), (3,)),
    einsum("...ij,jk->ik", (2, 3), (3, 4), python=False, why="Python fails at the ellipsis"),
]

DETERMINANTS = [
    case("MatrixDeterminant", dict(input=rand(3, 3)), dtypes="fd"),
    case(
        "MatrixDeterminant",
        dict(input=rand(2, 2, 2)),
        dtypes="cz",
        python=False,
        why="Python doesn't conjugate the output",
    ),
    case("LogMatrixDeterminant", dict(input=rand(2, 3, 3)), dtypes="fd"),
    case(
        "LogMatrixDeterminant",
        dict(input=rand(2, 2, 2)),
        dtypes="cz",
        python=False,
        why="Python takes the sign for a constant, and the logarithm for a holomorphic function",
    ),
    case("MatrixInverse", dict(input=rand(2, 3, 3)), fn=shifted("MatrixInverse"), dtypes="fdcz"),
    case("MatrixInverse", dict(input=rand(3, 3), adjoint=True), fn=shifted("MatrixInverse"), dtypes="fdcz"),
]

SYSTEMS = [
    *(
        case(
            "MatrixSolve",
            dict(matrix=rand(*a), rhs=rand(*b), adjoint=adjoint),
            fn=shifted("MatrixSolve"),
            dtypes="fdcz",
        )
        for a, b, adjoint in [((3, 3), (3, 2), False), ((2, 2, 2), (2, 2, 1), True)]
    ),
    *(triangular(lower, adjoint, dtypes="fdcz") for lower in (True, False) for adjoint in (True, False)),
    triangular(True, False, (2, 1, 3, 3), (2, 3, 2)),
    triangular(False, True, (3, 3), (2, 3, 2)),
    *(banded(lower, adjoint) for lower in (True, False) for adjoint in (True, False)),
    banded(True, False, (2, 1, 2, 3), (2, 3, 2)),
    banded(True, False, (3, 3), (2, 3, 2)),
    banded(True, False, (1, 3), (3, 2), python=False, why="Python drops the dimension of a single band"),
    least_squares(rand(4, 2), rand(4, 3), dtypes="fd"),
    least_squares(rand(2, 4), rand(2, 3), dtypes="fd"),
    least_squares(rand(2, 3, 3), rand(2, 3, 1), regularizer=0.5, dtypes="fd"),
    least_squares(rand(4, 2), rand(4, 3), dtypes="cz", python=False, why=SYMMETRIC),
    least_squares(rand(2, 4), rand(2, 3), dtypes="cz", python=False, why=SYMMETRIC),
    least_squares(rand(4, 2), rand(4, 3), fast=False, dtypes="d", python=False, why="Python has fast=True alone"),
    least_squares(rand(2, 4), rand(2, 3), fast=False, dtypes="d", python=False, why="Python has fast=True alone"),
    case(
        "MatrixSolveLs",
        dict(matrix=rand(4, 2), rhs=rand(4, 1), l2_regularizer=rand(lo=0.5, hi=1, dtype="d")),
        dtypes="fd",
        wrt="l2_regularizer",
        tag="regularizer,deep",
    ),
    case(
        "MatrixSolveLs",
        dict(matrix=rand(2, 4), rhs=rand(2, 1), l2_regularizer=rand(lo=0.5, hi=1, dtype="d")),
        dtypes="fd",
        wrt="l2_regularizer",
        tag="regularizer,wide",
    ),
    tridiagonal("TridiagonalMatMul"),
    tridiagonal("TridiagonalMatMul", 2),
    tridiagonal("TridiagonalSolve", dtypes="fd", tol=10),
    tridiagonal("TridiagonalSolve", 2, dtypes="fd", tol=10),
    tridiagonal("TridiagonalSolve", partial_pivoting=False, dtypes="d", tol=10),
    tridiagonal("TridiagonalSolve", dtypes="cz", tag="complex", tol=10, python=False, why=SYMMETRIC),
]

DECOMPOSITIONS = [
    case("Cholesky", dict(x=rand(3, 3)), fn=lambda x: raw.Cholesky(input=positive(x)), dtypes="fdcz"),
    case("Cholesky", dict(x=rand(2, 2, 2)), fn=lambda x: raw.Cholesky(input=positive(x)), dtypes="fdcz"),
    case("Lu", dict(input=rand(3, 3)), dtypes="fdcz", tol=10, python=False, why="Python has no such gradient"),
    case(
        "Lu",
        dict(input=rand(2, 1, 4, 4), output_idx_type=tf.int64),
        dtypes="dz",
        tol=10,
        python=False,
        why="Python has no such gradient",
    ),
    *(
        case(
            "Qr",
            dict(input=rand(*shape), full_matrices=full),
            dtypes=dtypes,
            tol=10,
            tag=f"{shape},full={full},{dtypes}",
        )
        for shape, full, dtypes in [
            ((3, 3), False, "fd"),
            ((3, 3), False, "cz"),
            ((4, 2), False, "fd"),
            ((2, 4, 2), False, "cz"),
            ((2, 4), False, "fd"),
            ((2, 4), False, "cz"),
            ((2, 4), True, "fd"),
            ((3, 3), True, "d"),
        ]
    ),
    case(
        "Qr",
        dict(x=rand(4, 2)),
        fn=qr_invariants,
        dtypes="dz",
        tag="full,deep",
        python=False,
        why="Python has no such gradient",
    ),
    case("SelfAdjointEigV2", dict(x=rand(3, 3)), fn=self_adjoint_invariants, dtypes="fdcz", tag="invariants"),
    case("SelfAdjointEigV2", dict(x=rand(2, 3, 3)), fn=self_adjoint_invariants, dtypes="d", tag="invariants,batch"),
    case(
        "SelfAdjointEigV2",
        dict(x=rand(3, 3)),
        tag="vectors",
        dtypes="d",
        tol=10,
        fn=lambda x: raw.SelfAdjointEigV2(input=hermitian(stretched(x)), compute_v=True),
    ),
    case(
        "SelfAdjointEigV2",
        dict(x=rand(3, 3)),
        tag="values alone",
        dtypes="fdcz",
        outputs=(0,),
        fn=lambda x: raw.SelfAdjointEigV2(input=hermitian(stretched(x)), compute_v=False),
    ),
    case("SelfAdjointEigV2", dict(input=rand(3, 3), compute_v=False), dtypes="fd", outputs=(0,), tag="lower triangle"),
    case("Eig", dict(x=rand(3, 3)), fn=eig_invariants, dtypes="dz", tag="invariants", tol=10),
    case("Eig", dict(x=rand(2, 2, 2)), fn=eig_invariants, dtypes="dz", tag="invariants,batch", tol=10),
    case(
        "Eig",
        dict(x=rand(2, 3, 3)),
        dtypes="dz",
        tag="values alone",
        outputs=(0,),
        fn=lambda x: raw.Eig(input=stretched(x), Tout=tf.complex128, compute_v=False),
    ),
    *(
        case("Svd", dict(x=rand(*shape)), fn=svd(compute_uv=True), dtypes="fd", tol=10)
        for shape in [(3, 3), (4, 2), (2, 4), (2, 3, 2)]
    ),
    *(
        case(
            "Svd",
            dict(x=rand(*shape)),
            fn=svd(compute_uv=False),
            dtypes="fd",
            outputs=(0,),
            tag=f"values alone,{shape}",
        )
        for shape in [(3, 3), (4, 2), (2, 2, 4)]
    ),
    case(
        "Svd",
        dict(x=rand(4, 2)),
        fn=svd(compute_uv=False),
        dtypes="cz",
        outputs=(0,),
        tag="values alone,complex",
        python=False,
        why="Python takes the values for complex numbers",
    ),
    case(
        "Svd",
        dict(x=rand(2, 4)),
        fn=svd(compute_uv=True, full_matrices=True),
        dtypes="fd",
        outputs=(0,),
        tag="values,full",
        python=False,
        why="Python has no such gradient",
    ),
    *(
        case(
            "Svd",
            dict(x=rand(*shape)),
            fn=svd_invariants(shape, full),
            dtypes="dz",
            tag=f"invariants,{shape},full={full}",
            tol=10,
            python=False,
            why="Python has the gradient for nearly square matrices alone",
        )
        for shape in [(3, 3), (4, 2), (2, 4)]
        for full in (False, True)
    ),
]

DECOMPOSITIONS += [
    case(
        "CholeskyGrad",
        dict(l=rand(2, 3, 3, lo=0.5, hi=1.5), grad=rand(2, 3, 3)),
        fn=lambda l, grad: tf.raw_ops.CholeskyGrad(l=tf.linalg.band_part(l, -1, 0), grad=grad),
        python=False,
        why="Python has no such gradient",
    ),
]

FUNCTIONS = [
    case("MatrixSquareRoot", dict(input=rand(3, 3)), fn=shifted("MatrixSquareRoot"), dtypes="fd", tol=10),
    case("MatrixSquareRoot", dict(input=rand(2, 2, 2)), fn=shifted("MatrixSquareRoot"), dtypes="fd", tol=10),
    case(
        "MatrixSquareRoot",
        dict(input=rand(3, 3)),
        fn=shifted("MatrixSquareRoot"),
        dtypes="cz",
        tag="complex",
        tol=10,
        python=False,
        why=SYMMETRIC,
    ),
    case(
        "MatrixLogarithm",
        dict(input=rand(3, 3)),
        fn=shifted("MatrixLogarithm"),
        dtypes="cz",
        tol=10,
        python=False,
        why="Python has no such gradient",
    ),
]

CASES = EINSUM + DETERMINANTS + SYSTEMS + DECOMPOSITIONS + FUNCTIONS
