"""Elementwise mathematics, reductions, scans, products and segments (csrc/rules/math.cc)."""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_einsum

from tests.harness import Case, Rand, case, rand

REAL, COMPLEX = "hbfd", "cz"
KINK = "no derivative here: a convention is tested"
CONJ = "Python forgets to conjugate"
NAN = "Python has NaN"
COARSE = "too coarse for differences"
SMOOTH = "Python has another form"
HIGHER = "more is not defined, or not finite"


def unary(op: str, lo: float = -1.0, hi: float = 1.0, **options: Any) -> Case:
    return case(op, dict(x=rand(2, 3, lo=lo, hi=hi)), **options)


def binary(op: str, x: Rand, y: Any, **options: Any) -> Case:
    return case(op, dict(x=x, y=y), **options)


def broadcasts(op: str, lo: float = -1.0, hi: float = 1.0, **options: Any) -> list[Case]:
    """Equal shapes, shapes that are both stretched, and an empty one."""
    shapes: list[tuple[list[int], list[int]]] = [([2, 3], [2, 3]), ([2, 1, 3], [4, 1]), ([0, 3], [1, 1])]
    return [binary(op, rand(*x, lo=lo, hi=hi), rand(*y, lo=lo, hi=hi), **options) for x, y in shapes]


def but_conj(op: str, lo: float = -1.0, hi: float = 1.0, why: str = CONJ) -> list[Case]:
    """An op of real and complex numbers that Python is wrong about if they are complex."""
    return [
        *broadcasts(op, lo, hi, dtypes=REAL),
        *broadcasts(op, lo, hi, dtypes=COMPLEX, python=False, why=why),
    ]


def zero(*shape: int) -> Rand:
    return rand(*shape, lo=0.0, hi=0.0)


def with_zeros(op: str, data: str, zeros: int, of: int, **attrs: Any) -> Case:
    """Some rows of zeros between others."""

    def fn(x: Any, z: Any, rest: Any) -> Any:
        return getattr(tf.raw_ops, op)(**{data: tf.concat([x, z, rest], 0)}, **attrs)

    args = dict(x=rand(1, 2), z=zero(zeros, 2), rest=rand(of - zeros - 1, 2))
    tag = ",".join([f"{zeros} zeros", *(f"{v}" for v in attrs.values() if not isinstance(v, np.ndarray))])
    why = "Python is wrong or has NaN at zeros"
    dtypes = "dz" if zeros == 2 else "d"
    return case(op, args, fn=fn, dtypes=dtypes, orders=3, python=False, unknown=False, why=why, tag=tag)


ELEMENTWISE = [
    *(unary(op) for op in ("Neg", "Square", "Exp", "Expm1", "Sigmoid", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Tanh")),
    *(unary(op, 0.3, 2.0) for op in ("Sqrt", "Rsqrt", "Inv", "Reciprocal", "Log", "Log1p")),
    *(unary(op, -0.7, 0.7) for op in ("Asin", "Acos", "Atan", "Asinh", "Atanh")),
    unary("Acosh", 1.3, 3.0),
    unary("Abs", 0.2, 1.0),
    unary("Abs", -1.0, -0.2, tag="negative"),
    unary("Abs", 0.0, 0.0, tag="zero", fd=False, why=KINK),
    *broadcasts("Atan2", 0.3, 1.0, dtypes=REAL, fn=lambda x, y: tf.raw_ops.Atan2(y=x, x=y)),
    *(
        case(op, dict(y=rand(2, 3, lo=0.4, hi=1.0), dy=rand(2, 3)))
        for op in ("SigmoidGrad", "TanhGrad", "SqrtGrad", "RsqrtGrad", "ReciprocalGrad", "InvGrad")
    ),
]

SUBGRADIENT: dict[str, Any] = dict(
    python=False,
    expected=lambda *x: [tf.zeros_like(v) for v in x[:-1]],
    fd=False,
    why="Python's is NaN; ours is the subgradient zero, and that of an angle that does not exist",
)

# What Python gives where a function has no derivative, or none that is finite, is the convention.
EDGES = [
    *(
        unary(op, at, at, dtypes="fd", orders=1, fd=False, why=KINK, tag=f"at {at}")
        for ops, at in (
            (("Sqrt", "Rsqrt", "Reciprocal", "Log", "Acosh", "Erfinv", "Tanh", "BesselI0e", "BesselI1e"), 0.0),
            (("Lgamma", "Expint", "BesselK0", "BesselK1", "BesselY0", "BesselY1", "Spence"), 0.0),
            (("Asin", "Acos", "Acosh", "Atanh", "Erfinv"), 1.0),
            (("Asin", "Acos", "Atanh", "Log1p"), -1.0),
        )
        for op in ops
    ),
    *(
        binary(op, rand(2, lo=x, hi=x), rand(2, lo=y, hi=y), dtypes="fd", orders=1, fd=False, why=KINK, tag=f"{x},{y}")
        for op, x, y in (
            *((op, x, 0.0) for op in ("RealDiv", "Div", "DivNoNan") for x in (0.0, 1.0)),
            *(("Pow", x, y) for x, y in ((0.0, 0.5), (0.0, 2.0), (-2.0, 0.5), (-2.0, -1.0))),
            *(("Xlog1py", x, y) for x, y in ((0.0, -1.0), (1.0, -1.0), (0.0, -2.0))),
        )
    ),
    case("Atan2", dict(y=zero(2), x=zero(2)), dtypes="fd", tag="zero", **SUBGRADIENT),
    *(
        case(op, args, dtypes="d", orders=1, fd=False, why=KINK)
        for op in ("Maximum", "Minimum")
        for args in (dict(x=rand(2), y=np.array([np.nan, np.inf])), dict(x=np.array([np.nan, np.inf]), y=rand(2)))
    ),
]

SHAPES = dict(a=np.array([0.7, 1.0, 2.5]), b=np.array([1.5, 1.0, 0.6]))  # parameters of the incomplete functions
GAMMA = [(0.2, 0.2), (0.5, 1.5), (30.0, 20.0), (30.0, 40.0), (3.0, 0.01)]
PARTLY: dict[str, Any] = dict(dtypes="d", python=False, why="Python has some of the derivatives only")
SPECIAL = [
    *(unary(op) for op in ("Erf", "Erfc", "Dawsn", "FresnelCos", "FresnelSin", "BesselI0", "BesselJ0")),
    unary("Erfinv", -0.7, 0.7),
    unary("Ndtri", 0.2, 0.8),
    *(unary(op, 0.5, 3.0) for op in ("Lgamma", "Expint")),
    unary("Digamma", 0.5, 3.0, dtypes="fd"),
    unary("Digamma", 0.5, 3.0, dtypes="h", python=False, why="Python's has no kernel", tag="half"),
    unary("Spence", 0.3, 0.9),
    unary("Spence", 1.0, 1.0, orders=3, python=False, why=NAN, tag="one"),
    unary("Spence", 0.9, 1.1, dtypes="d", orders=3, python=False, why="Python's cancels near one", tag="near one"),
    *(unary(op, 0.3, 2.0) for op in ("BesselI1", "BesselI0e", "BesselI1e", "BesselJ1")),
    *(unary(op, -2.0, -0.3, tag="negative") for op in ("BesselI0e", "BesselI1e")),
    *(unary(op, 0.5, 3.0) for op in ("BesselK0", "BesselK0e", "BesselK1", "BesselK1e", "BesselY0", "BesselY1")),
    unary("BesselK1e", 0.0, 0.0, dtypes="d", orders=1, fd=False, why="-inf", tag="zero"),
    *(
        unary(op, -at, at, orders=3, tag=f"near zero,{at}", python=False, why="Python's cancels near zero")
        for op in ("BesselI0", "BesselI1", "BesselJ0", "BesselJ1")
        for at in (0.0, 1e-20, 1e-2)
    ),
    *(
        unary(op, 1e-2, 0.1, dtypes="d", orders=3, tag="near zero", python=False, why="Python's cancels near zero")
        for op in ("BesselI0e", "BesselI1e")
    ),
    *(
        unary(op, 1.99, 2.01, dtypes="d", orders=3, tag="where the form changes", python=False, why=SMOOTH)
        for op in ("BesselI1", "BesselI1e", "BesselJ1")
    ),
    case("Polygamma", dict(a=np.array([[1.0], [3.0]]), x=rand(3, lo=0.5, hi=3.0)), dtypes="d"),
    case("Zeta", dict(x=np.array([[2.0], [3.5]]), q=rand(3, lo=0.5, hi=3.0)), dtypes="d"),
    *(
        case("Zeta", dict(x=rand(2, 1, lo=x, hi=x + 1), q=rand(3, lo=0.3, hi=q)), **PARTLY)
        for x, q in ((1.2, 3.0), (4.0, 40.0), (20.0, 2.0))
    ),
    case("Igamma", dict(a=rand(2, 1, lo=0.5, hi=3.0), x=rand(3, lo=0.5, hi=3.0))),
    case("Igammac", dict(a=rand(2, 1, lo=0.5, hi=3.0), x=rand(3, lo=0.5, hi=3.0))),
    *(
        case("IgammaGradA", dict(a=rand(3, lo=a, hi=1.5 * a), x=rand(3, lo=x, hi=1.5 * x)), **PARTLY, tag=f"{a},{x}")
        for a, x in GAMMA
    ),
    *(
        case(
            "RandomGammaGrad",
            dict(alpha=rand(3, lo=a, hi=1.5 * a), sample=rand(3, lo=x, hi=1.5 * x)),
            **PARTLY,
            tag=f"{a},{x}",
        )
        for a, x in GAMMA
    ),
    *(case(op, dict(a=SHAPES["a"], x=rand(3, lo=0.5, hi=3.0)), dtypes="d") for op in ("Igamma", "Igammac")),
    case(
        "IgammaGradA", dict(a=SHAPES["a"], x=rand(3, lo=0.5, hi=3.0)), dtypes="d", python=False, why="Python has none"
    ),
    case("Betainc", dict(**SHAPES, x=rand(3, lo=0.2, hi=0.8)), dtypes="d"),
    case("Betainc", dict(**SHAPES, x=rand(lo=0.2, hi=0.8)), dtypes="d"),
    case("Betainc", dict(a=np.float64(1.5), b=np.float64(2.5), x=rand(3, lo=0.2, hi=0.8)), dtypes="d"),
    *(
        case(
            "Betainc",
            dict(a=rand(4, lo=a, hi=1.5 * a), b=rand(4, lo=b, hi=1.5 * b), x=rand(4, lo=x, hi=x + 0.1)),
            **PARTLY,
            tag=f"{a},{b},{x}",
        )
        for a, b, x in ((0.7, 1.4, 0.3), (3.0, 0.3, 0.8), (0.2, 0.2, 0.1), (20.0, 10.0, 0.5))
    ),
    case(
        "Betainc",
        dict(a=rand(2, 2, lo=0.5, hi=2.0), b=rand(2, 2, lo=0.5, hi=2.0), x=np.array([[0.0, 1.0], [1.0, 0.0]])),
        dtypes="d",
        orders=3,
        python=False,
        why="Python has it by x only",
        tag="ends",
    ),
]

COMPLEX_AND_CASTS = [
    case("Sign", dict(x=rand(2, 3, lo=0.2)), dtypes=REAL),
    case("Sign", dict(x=rand(2, 3, lo=0.2)), dtypes=COMPLEX, python=False, why="Python takes it for constant"),
    case("ComplexAbs", dict(x=rand(2, 3, lo=0.2, dtype="c")), dtypes="f"),
    case("ComplexAbs", dict(x=rand(2, 3, lo=0.2), Tout=tf.float64), dtypes="z"),
    case("ComplexAbs", dict(x=zero(2), Tout=tf.float64), dtypes="z", fd=False, orders=1, why=KINK, tag="zero"),
    *(case(op, dict(input=rand(2, 3, lo=0.2)), dtypes="c") for op in ("Real", "Imag", "Angle")),
    *(case(op, dict(input=rand(2, 3, lo=0.2), Tout=tf.float64), dtypes="z") for op in ("Real", "Imag", "Angle")),
    case("Conj", dict(input=rand(2, 3))),
    case("Complex", dict(real=rand(2, 3), imag=rand(2, 3)), dtypes="f"),
    case("Complex", dict(real=rand(2, 1), imag=rand(3), Tout=tf.complex128), dtypes="d"),
    *(case("Cast", dict(x=rand(2, 3), DstT=to), dtypes="d") for to in (tf.float64, tf.complex128)),
    *(case("Cast", dict(x=rand(2, 3), DstT=to), dtypes="f") for to in (tf.float64, tf.complex64)),
    *(case("Cast", dict(x=rand(2, 3), DstT=to), dtypes="z") for to in (tf.float64, tf.complex128)),
    case("Cast", dict(x=rand(2, 3), DstT=tf.float32), dtypes="hb", fd=False, why=COARSE),
    case("Cast", dict(x=rand(2, 3), DstT=tf.float16), dtypes="f", fd=False, why=COARSE),
    case("Cast", dict(x=rand(2, 3), DstT=tf.float32, Truncate=True), dtypes="d"),
    case(
        "Cast",
        dict(x=rand(2, 3)),
        fn=lambda x: x + tf.cast(tf.cast(10 * x, tf.int32), x.dtype),
        dtypes="d",
        python=False,
        expected=lambda x, dy: [tf.identity(dy)],
        fd=False,
        why="through integers it is zero by definition",
        tag="through integers",
    ),
]

ARITHMETIC = [
    *(c for op in ("Add", "AddV2", "Sub", "Mul") for c in broadcasts(op)),
    *(binary(op, *args) for op in ("AddV2", "Mul") for args in ((rand(2, 3), rand()), (rand(), rand(3)))),
    *(c for op in ("Div", "RealDiv", "DivNoNan") for c in broadcasts(op, 0.4, 1.0)),
    *but_conj("SquaredDifference", why="Python forgets that it is |x - y|^2"),
    *but_conj("MulNoNan"),
    *(c for op in ("Xlogy", "Xlog1py", "Xdivy") for c in but_conj(op, 0.3, 2.0)),
    binary("DivNoNan", rand(3), zero(3), fd=False, why=KINK, tag="zero"),
    binary("MulNoNan", rand(3), zero(3), dtypes=REAL, tag="zero"),
    *(
        binary(op, zero(3), zero(3), dtypes="fd", orders=1, fd=False, why=KINK, tag="zero,zero")
        for op in ("Xlogy", "Xdivy")
    ),
    *(
        binary(op, zero(3), y, dtypes="dz", orders=3, python=False, why="Python is wrong here", tag="zero,other")
        for op, y in (
            *((op, rand(3, lo=0.3, hi=2.0)) for op in ("Xlogy", "Xlog1py", "Xdivy")),
            ("Xdivy", rand(3, lo=-2.0, hi=-0.3)),
            ("Xlog1py", rand(3, lo=-0.5, hi=0.5)),
        )
    ),
    *broadcasts("FloorMod", 0.4, 1.0, dtypes="fd"),
    *(
        c
        for op in ("Mod", "TruncateMod")
        for c in broadcasts(op, 0.4, 1.0, python=False, dtypes="d", why="Python has none")
    ),
    *broadcasts("Pow", 0.3, 2.0),
    binary("Pow", rand(2, 3, lo=-2.0, hi=-1.0), rand(2, 3, lo=2.0, hi=2.0), wrt="x", tag="negative base"),
    *(binary("Pow", rand(3, lo=0.3, hi=2.0), np.float64(p), tag=f"x^{p}") for p in (-1.0, 0.5, 1.0, 2.0, 2.5, 3.0)),
    *(binary("Pow", rand(2, 3, lo=-2.0, hi=-1.0), np.float64(p), tag=f"(-x)^{p}") for p in (-1.0, 2.0, 3.0)),
    *(binary("Pow", rand(3, lo=0.3, hi=2.0), np.array([p, p, q])) for p in (1.0, 2.0) for q in (2.0, 3.0)),
    binary("Pow", rand(1, lo=0.3, hi=2.0), np.array([[2.0, 2.0], [2.0, 2.0]]), tag="a square of many"),
    *(binary("Pow", zero(3), np.float64(p), dtypes="d", tag=f"0^{p}") for p in (2.0, 3.0, 4.0)),
    *(binary("Pow", zero(3), np.float64(p), dtypes="d", python=False, why=NAN, tag=f"0^{p}") for p in (0.0, 1.0)),
    binary("Pow", zero(3), rand(3, lo=1.5, hi=3.0), dtypes="d", orders=1, fd=False, why=HIGHER, tag="0^p"),
    case("AddN", dict(inputs=[rand(2, 3), rand(2, 3), rand(2, 3)])),
    case("AccumulateNV2", dict(inputs=[rand(2, 3), rand(2, 3)], shape=[2, 3]), dtypes="f", graph_only=True),
    case("Cross", dict(a=rand(2, 3), b=rand(2, 3))),
    case("NextAfter", dict(x1=rand(2, 1), x2=rand(3))),
]

CHOICES = [
    *(c for op in ("Maximum", "Minimum") for c in broadcasts(op)),
    *(
        binary(op, rand(3, lo=0.5, hi=0.5), rand(3, lo=0.5, hi=0.5), fd=False, why=KINK, tag="ties")
        for op in ("Maximum", "Minimum")
    ),
    *(
        case("ClipByValue", dict(t=rand(4, 5), clip_value_min=low, clip_value_max=high), dtypes=REAL)
        for low, high in (
            (rand(lo=-0.5, hi=-0.4), rand(lo=0.4, hi=0.5)),
            (rand(4, 5, lo=-0.5, hi=-0.1), rand(4, 5, lo=0.1, hi=0.5)),
        )
    ),
    *(
        case("Select", dict(condition=np.array(condition), x=rand(2, 2), y=rand(2, 2)))
        for condition in ([[True, False], [False, True]], [True, False], False)
    ),
    case("SelectV2", dict(condition=np.array([True, False, True]), t=rand(2, 1), e=rand())),
    case("SelectV2", dict(condition=np.array(True), t=rand(2, 3), e=rand(3))),
]


def reduction_of_computed_axes(op: str) -> Any:
    """A reduction of axes [2, 1] that are not known before it runs."""

    def fn(input: Any) -> Any:  # noqa: A002
        axes = tf.cast(tf.size(input) < 99, tf.int32) + tf.cast(input[0, 0, 0] < 9, tf.int32) * [1, 0]
        return getattr(tf.raw_ops, op)(input=input, axis=axes)

    return fn


AXES: list[Any] = [[], [0], [-1], [1, 2], [2, 0], [0, 1, 2], 1]
LONG_AXES = np.array([-2, 0])
REDUCTIONS = [
    *(
        case(op, dict(input=rand(2, 3, 2, lo=0.2), axis=axis, keep_dims=keep), dtypes="bd")
        for op in ("Sum", "Mean", "Max", "EuclideanNorm")
        for axis in (AXES if op != "EuclideanNorm" else AXES[1:])
        for keep in ((False, True) if op == "Sum" else (False,))
    ),
    *(case(op, dict(input=rand(2, 3, 2), axis=[1, 2], keep_dims=True)) for op in ("Sum", "Mean", "Max", "Min")),
    *(case("Prod", dict(input=rand(2, 3, 2, lo=0.4, hi=1.5), axis=axis), dtypes="fd") for axis in AXES),
    case("Prod", dict(input=rand(2, 3, 2), axis=[2, 0], keep_dims=True), dtypes=COMPLEX, python=False, why=CONJ),
    case("EuclideanNorm", dict(input=rand(2, 3, lo=0.2), axis=[-1], keep_dims=True), dtypes=REAL),
    case("EuclideanNorm", dict(input=rand(2, 3, lo=0.2), axis=[-1]), dtypes=COMPLEX, python=False, why=CONJ),
    case("EuclideanNorm", dict(input=zero(2), axis=[0]), dtypes="d", tag="zero", **SUBGRADIENT),
    *(
        case(op, dict(input=rand(*shape, lo=0.2), axis=axis), dtypes="d", tag=f"empty,{shape}")
        for op in ("Sum", "Mean", "Max", "Prod", "EuclideanNorm")
        for shape, axis in (((2, 0, 3), [1] if op != "EuclideanNorm" else [0]), ((0, 3), [1]))
    ),
    *(
        case(op, dict(input=rand(2, 3, 2), axis=LONG_AXES), dtypes="d", python=False, why="Python's fails for int64")
        for op in ("Sum", "Mean", "Max", "Min", "Prod")
    ),
    *(
        case(op, dict(input=rand(2, 3, lo=0.5, hi=0.5), axis=[-1]), fd=False, why=KINK, tag="ties")
        for op in ("Max", "Min")
    ),
    *(case(op, dict(input=rand(), axis=[]), dtypes="d") for op in ("Sum", "Mean", "Max", "Prod")),
    *(
        case(op, dict(input=rand(2, 3, 2, lo=0.2)), fn=reduction_of_computed_axes(op), dtypes="d", tag="computed axes")
        for op in ("Sum", "Mean", "Min", "Prod", "EuclideanNorm")
    ),
    *(with_zeros("Prod", "input", n, 4, axis=axis) for n in (1, 2) for axis in ([0], [0, 1])),
]

WAYS = [(False, False), (False, True), (True, False), (True, True)]
SCANS = [
    *(
        case("Cumsum", dict(x=rand(2, 3), axis=axis, exclusive=e, reverse=r), dtypes="d")
        for axis in (0, -1)
        for e, r in WAYS
    ),
    *(
        case("Cumprod", dict(x=rand(3, 3, lo=0.4), axis=axis, exclusive=e, reverse=r), dtypes="d")
        for axis in (0, -1)
        for e, r in WAYS
    ),
    case("Cumsum", dict(x=rand(2, 3), axis=np.int64(1))),
    case("Cumprod", dict(x=rand(2, 3, lo=0.4), axis=np.int64(1)), dtypes=REAL),
    case("Cumprod", dict(x=rand(2, 3), axis=1), dtypes=COMPLEX, python=False, why=CONJ),
    *(case(op, dict(x=rand(0, 2), axis=0), dtypes="d") for op in ("Cumsum", "Cumprod", "CumulativeLogsumexp")),
    *(with_zeros("Cumprod", "x", n, 5, axis=0, exclusive=e, reverse=r) for n in (1, 2) for e, r in WAYS),
    *(
        case("CumulativeLogsumexp", dict(x=rand(2, 4), axis=axis, reverse=r), dtypes=REAL)
        for axis, r in ((1, False), (-2, True))
    ),
    *(
        case(
            "CumulativeLogsumexp",
            dict(x=rand(4, 2)),
            # The sum of nothing is the lowest number, which differences can't bear.
            fn=lambda x, r=r: tf.raw_ops.CumulativeLogsumexp(x=x, axis=0, exclusive=True, reverse=r)[1 - r : 4 - r],
            dtypes="fd",
            python=False,
            why=NAN,
            tag=f"exclusive,{r}",
        )
        for r in (False, True)
    ),
    case(
        "CumulativeLogsumexp",
        dict(x=rand(4, lo=-300.0, hi=300.0), axis=0),
        dtypes="fd",
        python=False,
        why="at order 2 Python has rounding errors only",
        tag="wide range",
    ),
    case(
        "CumulativeLogsumexp",
        dict(x=rand(4), z=zero(4)),
        fn=lambda x, z: z * tf.raw_ops.CumulativeLogsumexp(x=x, axis=0),
        python=False,
        why="Python takes the logarithm of the cotangent, which is zero",
        tag="no cotangent",
    ),
    case(
        "CumulativeLogsumexp",
        dict(x=rand(3)),
        fn=lambda x: tf.raw_ops.CumulativeLogsumexp(
            x=tf.concat([x[:1], tf.constant([-np.inf], x.dtype), x[1:]], 0), axis=0
        ),
        python=False,
        why=NAN,
        tag="log 0",
    ),
]


def factors(a: bool, b: bool, *batch: int) -> dict[str, Rand]:
    """The factors of a product of which either is said to be transposed."""
    return dict(a=rand(*batch, *((3, 2) if a else (2, 3))), b=rand(*batch, *((4, 3) if b else (3, 4))))


def batched(op: str, a: bool, b: bool, *batch: int, **options: Any) -> Case:
    x, y = factors(a, b, *batch).values()
    return case(
        op, dict(x=x, y=y, adj_x=a, adj_y=b, **({"Tout": tf.float64} if op == "BatchMatMulV3" else {})), **options
    )


PRODUCTS = [
    *(case("MatMul", dict(**factors(a, b), transpose_a=a, transpose_b=b)) for a, b in WAYS),
    case("MatMul", dict(a=rand(2, 3), b=rand(3, 4), grad_a=True), dtypes="f"),
    *(
        case(
            "SparseMatMul",
            dict(**factors(a, b), transpose_a=a, transpose_b=b, a_is_sparse=a, b_is_sparse=not a),
            dtypes="f",
        )
        for a, b in WAYS
    ),
    case(
        "SparseMatMul",
        dict(a=rand(2, 3, dtype="b"), b=rand(3, 4)),
        dtypes="f",
        python=False,
        expected=lambda a, b, dy: [tf.cast(dy @ tf.transpose(b), a.dtype), tf.transpose(tf.cast(a, b.dtype)) @ dy],
        fd=False,
        why="too coarse for differences; Python's fails",
    ),
    *(batched(op, a, b, 5) for op in ("BatchMatMul", "BatchMatMulV2") for a, b in WAYS),
    *(batched("BatchMatMulV3", a, b, 5, dtypes="d") for a, b in WAYS),
    *(
        case("BatchMatMulV2", dict(x=rand(*x, 2, 3), y=rand(*y, 3, 2)), dtypes="d")
        for x, y in (((), (2,)), ((1,), (2,)), ((), ()), ((2, 1), (1, 3)))
    ),
    case("BatchMatMulV2", dict(x=rand(2, 1, 3, 2), y=rand(3, 2, 3), adj_x=True, adj_y=True)),
    case("BatchMatMulV2", dict(x=rand(0, 3, 2), y=rand(1, 2, 3)), dtypes="d"),
    *(case("MatMul", dict(a=rand(*a), b=rand(*b)), dtypes="d") for a, b in (((0, 2), (2, 3)), ((2, 0), (0, 3)))),
    case("BatchMatMulV3", dict(x=rand(2, 1, 2, 3), y=rand(3, 3, 2), Tout=tf.complex128), dtypes="z"),
    case(
        "XlaEinsum",
        dict(a=rand(2, 3, 2), b=rand(2, 4, 3), equation="abc,cdb->dac"),
        fn=xla_einsum,
        dtypes="f",
        compiled=True,
    ),
    case("XlaEinsum", dict(a=rand(2, 3), b=rand(3, 4), equation="ab,bc->ac"), fn=xla_einsum, dtypes="f", compiled=True),
]

IDS, GAP, SCATTERED = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 2, 2, 2]), np.array([2, 0, -1, 2, 1])
TABLE = np.array([[0, 1, 1], [1, -1, 0]], np.int32)
SEGMENTS = [
    *(
        case(op, dict(data=rand(5, 2, lo=0.3, hi=1.5), segment_ids=IDS), dtypes=dtypes)
        for op, dtypes in (("Sum", None), ("Mean", None), ("Max", None), ("Min", None), ("Prod", REAL))
        for op in [f"Segment{op}"]
    ),
    *(
        case(op, dict(data=rand(5, lo=0.3, hi=1.5), segment_ids=GAP), dtypes="d", python=False, why=NAN)
        for op in ("SegmentSum", "SegmentMean", "SegmentMax", "SegmentMin", "SegmentProd")
    ),
    *(
        case(op, dict(data=rand(5, 2, lo=0.3, hi=1.5), segment_ids=SCATTERED, num_segments=3), dtypes=dtypes)
        for op, dtypes in (("Sum", None), ("Max", None), ("Min", None), ("Prod", REAL))
        for op in [f"UnsortedSegment{op}"]
    ),
    *(
        case(
            op,
            dict(data=rand(2, 3, 2, lo=0.3, hi=1.5), segment_ids=TABLE, num_segments=3),
            dtypes="d",
            python=False,
            why=NAN,
        )
        for op in ("UnsortedSegmentSum", "UnsortedSegmentMax", "UnsortedSegmentProd")
    ),
    case("SegmentProd", dict(data=rand(5, 2), segment_ids=IDS), dtypes=COMPLEX, python=False, why=CONJ),
    *(
        case(op, dict(data=rand(5, lo=0.5, hi=0.5), segment_ids=IDS), dtypes="d", fd=False, why=KINK, tag="ties")
        for op in ("SegmentMax", "SegmentMin")
    ),
    case(
        "UnsortedSegmentMax",
        dict(data=rand(5, lo=0.5, hi=0.5), segment_ids=SCATTERED, num_segments=3),
        dtypes="d",
        fd=False,
        why=KINK,
        tag="ties",
    ),
    *(with_zeros("SegmentProd", "data", n, 5, segment_ids=IDS) for n in (1, 2, 3)),
    *(with_zeros("UnsortedSegmentProd", "data", n, 5, segment_ids=SCATTERED, num_segments=3) for n in (1, 2, 3)),
]

NO_SEGMENT: dict[str, Any] = dict(dtypes="d", python=False, why="Python has NaN at order 2")
SEGMENTS += [
    *(
        case(op, dict(data=rand(0, 2), segment_ids=np.zeros(0, np.int64)), dtypes="d")
        for op in ("SegmentSum", "SegmentMean", "SegmentMax", "SegmentProd")
    ),
    *(
        case(op, dict(data=rand(3, 2, lo=0.3), segment_ids=np.int64([0, 0, 1])), dtypes="d")
        for op in ("SegmentSum", "SegmentMean", "SegmentMin", "SegmentProd")
    ),
    *(
        case(f"UnsortedSegment{op}", dict(data=rand(3, lo=0.3), segment_ids=1, num_segments=np.int64(2)), **NO_SEGMENT)
        for op in ("Sum", "Max", "Prod")
    ),
]


def many(op: str, data: str, lo: float = 0.5, scale: int = 1, **attrs: Any) -> Case:
    """The mean of, or the ties between, more elements than half precision can count."""
    size = 3000 * scale

    def fn(x: Any) -> Any:
        return scale * getattr(tf.raw_ops, op)(**{data: x}, **attrs)

    def expected(x: Any, dy: Any) -> list[Any]:
        return [tf.cast(tf.fill([size], tf.cast(tf.reshape(dy, [-1])[0], tf.float32) / 3000), x.dtype)]

    args = dict(x=rand(size, lo=lo, hi=0.5))
    why = "Python counts in half precision"
    return case(op, args, fn=fn, dtypes="hb", python=False, expected=expected, fd=False, why=why, tag="many")


ALL_OF_ONE = np.zeros(3000, np.int32)
MANY = [
    many("Max", "input", axis=[0]),
    many("Min", "input", axis=0),
    many("Mean", "input", lo=0.1, scale=64, axis=[0]),
    *(many(f"Segment{op}", "data", segment_ids=ALL_OF_ONE) for op in ("Max", "Min", "Mean")),
    *(many(f"UnsortedSegment{op}", "data", segment_ids=ALL_OF_ONE, num_segments=1) for op in ("Max", "Min")),
]

BEYOND: dict[str, Any] = dict(python=False, why="Python has no such gradient")
SEQUENCES = [
    *(
        case(
            "Range",
            dict(start=rand(), limit=limit, delta=delta),
            dtypes="d",
            python=False,
            expected=lambda start, delta, dy: [
                tf.reduce_sum(dy),
                tf.reduce_sum(dy * tf.range(tf.cast(tf.size(dy), dy.dtype))) + 0 * delta,
            ],
            why="Python has no such gradient",
        )
        for limit, delta in ((2.0, rand(lo=0.3, hi=0.4)), (-2.0, rand(lo=-0.4, hi=-0.3)))
    ),
    *(case("LinSpace", dict(start=rand(), stop=rand(), num=num), dtypes="fd", **BEYOND) for num in (1, 2, 5)),
]

CASES = [
    *ELEMENTWISE,
    *EDGES,
    *SPECIAL,
    *COMPLEX_AND_CASTS,
    *ARITHMETIC,
    *CHOICES,
    *REDUCTIONS,
    *SCANS,
    *SEQUENCES,
    *PRODUCTS,
    *SEGMENTS,
    *MANY,
]
