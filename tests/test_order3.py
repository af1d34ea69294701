"""The third derivative: the gradient of the gradient of the gradient, of a sample of ops of all families."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests import structure
from tests.cases import FAMILIES, cases
from tests.harness import Gradient, native
from tests.oracles import Tensor
from tests.spec import Case, Point, possible_dtypes

# Those with more than one formula, or with a formula that changes from order to order; few that are linear.
OPS = """
    Acosh Asinh Atan Atan2 BesselI0 BesselJ1 Cosh Digamma Div DivNoNan Erf Erfinv EuclideanNorm Exp Expm1 FresnelSin Inv
    Lgamma Log1p Mul Ndtri Pow Prod RealDiv Reciprocal Rsqrt RsqrtGrad Sigmoid SigmoidGrad Sin Spence Sqrt Square
    SquaredDifference Tan Tanh TanhGrad Xdivy Xlog1py Xlogy
    Cumprod CumulativeLogsumexp Max Maximum Mean SegmentProd SelectV2 Sum UnsortedSegmentProd
    BatchMatMulV2 Cholesky Einsum LogMatrixDeterminant MatMul MatrixDeterminant MatrixInverse MatrixSolve
    MatrixTriangularSolve TridiagonalMatMul TridiagonalSolve
    BiasAdd Conv2D Conv3D DepthwiseConv2dNative Elu LogSoftmax Selu Softmax SoftmaxCrossEntropyWithLogits Softplus
    SoftplusGrad Softsign SparseSoftmaxCrossEntropyWithLogits
    GatherV2 MatrixDiagV3 ScatterNd StridedSlice TensorScatterMax Tile
    DynamicStitch RFFT RGBToHSV
    SparseDenseCwiseDiv SparseDenseCwiseMul SparseSoftmax SparseTensorDenseMatMul
"""
SAMPLE = OPS.split()

STEP = 1e-5
TOLERANCE = 1e-6


def suitable(op: str) -> Iterator[Case]:
    """The cases of an op that are smooth in double precision at order 2."""
    for family in FAMILIES:
        for case in cases(family):
            smooth = case.fd and case.orders >= 2 and not case.graph_only
            if case.op == op and smooth and "d" in (case.dtypes or possible_dtypes(case)):
                yield case


def mismatches(case: Case, gradient: Gradient = native) -> list[str]:
    """Which derivatives of order 3 differ from the differences, along a random line, of those of order 2."""
    point = Point(case, "d")
    inputs, names = point.x, point.names
    f = structure.concrete(point.f, inputs)
    dy = point.cotangents(f(*inputs))
    for order in (1, 2, 3):
        inputs, names = [*inputs, *dy], [*names, *(f"{'d' * order}y[{i}]" for i in range(len(dy)))]
        lower, f = f, structure.concrete(lambda *x, f=f, order=order: gradient(list(x), f, order), inputs)
        if order < 3:
            dy = point.cotangents(f(*inputs))

    def weighted(x: list[Tensor]) -> float:
        return sum(float(np.vdot(w, y).real) for w, y in zip(dy, lower(*x), strict=True))

    wrong = []
    x = inputs[: len(inputs) - len(dy)]
    dx = f(*inputs)[: len(x)]  # order 2 is linear in the weights: what follows are its own values
    for i, (name, d) in enumerate(zip(names, dx, strict=False)):
        direction = np.asarray(point.cotangents([x[i]])[0])
        ends = [weighted([*x[:i], x[i] + step * direction, *x[i + 1 :]]) for step in (STEP, -STEP)]
        expected, got = (ends[0] - ends[1]) / (2 * STEP), float(np.vdot(direction, d).real)
        size = float(np.vdot(abs(direction), abs(d.numpy()))) + abs(weighted(x)) + 1
        if not abs(got - expected) <= TOLERANCE * size:
            wrong.append(f"d/d{name}: expected {expected:.9g}, got {got:.9g}")
    return wrong


def test_sample_is_large() -> None:
    assert len(set(SAMPLE)) == len(SAMPLE) >= 60


@pytest.mark.parametrize("op", SAMPLE)
def test_order_3(op: str) -> None:
    case = next(suitable(op))
    assert not mismatches(case), str(case)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_wrong_is_found(which: int) -> None:
    """The test's test: 0.1 % too much in one input's gradient of order 3."""

    def wrong(inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
        dx = native(inputs, f, order)
        if order == 3:
            at = which % (len(dx) - len(f.outputs))
            dx[at] *= 1.001
        return dx

    assert len(mismatches(next(suitable("Pow")), wrong)) == 1
