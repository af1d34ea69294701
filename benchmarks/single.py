"""`python -m benchmarks.single`: steps of the gradients of single ops, by turns with the tape's.

Where a rule costs more than Python's does is not to be seen in models, of which it is a small part. The ops are those
that losses are written with, on tensors large enough that arithmetic counts.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.__main__ import selected
from benchmarks.methods import METHODS
from benchmarks.report import OURS
from benchmarks.steps import rounds
from benchmarks.workloads import Problem, Workload

PEER = "GradientTape"
MATRIX, IMAGES, SQUARES, SEQUENCES = (600, 1000), (8, 56, 56, 32), (64, 24, 24), (32, 50, 64)
UNARY = (
    *("abs", "acos", "asin", "asinh", "atan", "atanh", "cos", "cosh", "digamma", "erf", "erfc", "erfinv", "exp"),
    *("expm1", "lgamma", "log", "log1p", "log_sigmoid", "ndtri", "negative", "reciprocal", "rsqrt", "sigmoid", "sin"),
    *("sinh", "softplus", "softsign", "sqrt", "square", "tan", "tanh"),
)
ACTIVATIONS = ("elu", "gelu", "leaky_relu", "relu", "relu6", "selu", "silu", "softmax", "log_softmax")
BINARY = (
    *("add", "subtract", "multiply", "divide", "divide_no_nan", "maximum", "minimum", "pow", "squared_difference"),
    *("atan2", "xlogy", "xdivy"),
)
REDUCTIONS = (
    *("reduce_sum", "reduce_mean", "reduce_max", "reduce_prod", "reduce_logsumexp", "reduce_std", "reduce_variance"),
    *("reduce_euclidean_norm", "l2_normalize"),
)
EXPONENTS = (-1.0, 0.5, 2.0, 2.2, 3.0)
Op = tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]  # of tensors of these shapes


def _definite(x: Any) -> Any:
    return tf.matmul(x, x, transpose_b=True) + 24 * tf.eye(24, dtype=x.dtype)


def _layer_norm(x: Any, scale: Any) -> Any:
    mean, variance = tf.nn.moments(x, [1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-5) * scale + scale


def elementwise() -> Iterator[tuple[str, Op]]:
    for name in UNARY:
        yield name, (getattr(tf.math, name), (MATRIX,))
    yield "acosh", (lambda x: tf.math.acosh(x + 1), (MATRIX,))
    for name in ACTIVATIONS:
        yield f"nn.{name}", (getattr(tf.nn, name), (MATRIX,))
    yield "nn.gelu approximate", (lambda x: tf.nn.gelu(x, approximate=True), (MATRIX,))
    for name in BINARY:
        f = getattr(tf.math, name)
        yield name, (f, (MATRIX, MATRIX))
        yield f"{name} of rows", (f, (MATRIX, MATRIX[1:]))
        yield f"{name} of 0.7", (lambda x, f=f: f(x, tf.constant(0.7, x.dtype)), (MATRIX,))
    for p in EXPONENTS:
        yield f"x**{p:g}", (lambda x, p=p: x**p, (MATRIX,))
    yield "1/x", (lambda x: 1 / x, (MATRIX,))
    yield "clip_by_value", (lambda x: tf.clip_by_value(x, 0.3, 0.7), (MATRIX,))
    yield "where", (lambda x: tf.where(x > 0.5, tf.sin(x), x), (MATRIX,))
    yield "dropout", (lambda x: tf.nn.dropout(x, 0.3, seed=1), (MATRIX,))


def reductions() -> Iterator[tuple[str, Op]]:
    for name in REDUCTIONS:
        for axis in (0, 1):
            yield f"{name} of axis {axis}", (functools.partial(getattr(tf.math, name), axis=axis), (MATRIX,))
    for name in ("cumsum", "cumprod"):
        yield name, (functools.partial(getattr(tf.math, name), axis=1), (MATRIX,))
    yield "layer norm", (_layer_norm, (MATRIX, MATRIX[1:]))
    yield "sort", (tf.sort, (MATRIX,))
    yield "top_k", (lambda x: tf.math.top_k(x, 10)[0], (MATRIX,))
    ids = np.arange(MATRIX[0]) // 12
    for name in ("segment_sum", "segment_mean", "segment_max"):
        f = getattr(tf.math, name)
        yield name, (lambda x, f=f: f(x, ids), (MATRIX,))
    for name in ("sum", "mean", "max", "prod"):
        f = getattr(tf.math, f"unsorted_segment_{name}")
        yield f"unsorted_segment_{name}", (lambda x, f=f: f(x, ids, 50), (MATRIX,))


def products() -> Iterator[tuple[str, Op]]:
    for a in (False, True):
        for b in (False, True):
            f = functools.partial(tf.matmul, transpose_a=a, transpose_b=b)
            yield f"matmul {a:d}{b:d}", (f, ((400, 400), (400, 400)))
            yield f"matmul of batches {a:d}{b:d}", (f, (SQUARES, SQUARES))
    yield "matmul with one", (tf.matmul, (SQUARES, SQUARES[1:]))
    for equation, shapes in (
        ("bij,bkj->bik", (SQUARES, SQUARES)),
        ("bsd,de->bse", (SEQUENCES, (64, 64))),
        ("bij,bij->b", (SQUARES, SQUARES)),
    ):
        yield f"einsum {equation.replace(',', ' ')}", (functools.partial(tf.einsum, equation), shapes)
    yield "matvec", (tf.linalg.matvec, (MATRIX, MATRIX[1:]))
    for strides, padding in ((1, "SAME"), (2, "VALID")):
        f = functools.partial(tf.nn.conv2d, strides=strides, padding=padding)
        yield f"conv2d {strides} {padding}", (f, (IMAGES, (3, 3, 32, 32)))
    depthwise = functools.partial(tf.nn.depthwise_conv2d, strides=[1, 1, 1, 1], padding="SAME")
    yield "depthwise_conv2d", (depthwise, (IMAGES, (3, 3, 32, 1)))
    yield (
        "conv2d_transpose",
        (lambda x, k: tf.nn.conv2d_transpose(x, k, [8, 112, 112, 32], 2), (IMAGES, (3, 3, 32, 32))),
    )
    yield "max_pool2d", (lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), (IMAGES,))
    yield "avg_pool2d", (lambda x: tf.nn.avg_pool2d(x, 3, 1, "SAME"), (IMAGES,))
    yield "batch norm", (lambda x, s: tf.compat.v1.nn.fused_batch_norm(x, s, s)[0], (IMAGES, (32,)))


def arrays() -> Iterator[tuple[str, Op]]:
    rows = np.random.default_rng(0).integers(0, MATRIX[0], 2000)
    labels = rows[: MATRIX[0]]
    for name, f in {
        "gather": lambda x: tf.gather(x, rows),
        "gather of axis 1": lambda x: tf.gather(x, rows, axis=1),
        "gather_nd": lambda x: tf.gather_nd(x, rows[:, None]),
        "boolean_mask": lambda x: tf.boolean_mask(x, x > 0.5),
        "scatter_nd": lambda x: tf.scatter_nd(labels[:, None], x, MATRIX),
        "concat": lambda x: tf.concat([x, 2 * x, x], 1),
        "stack": lambda x: tf.stack([x, 2 * x], 1),
        "split": lambda x: tf.add_n(tf.split(x, 4, 1)),
        "strided slice": lambda x: x[10:500, 3:800:2],
        "rows": lambda x: x[0] + x[5] + x[7],
        "tile": lambda x: tf.tile(x, [2, 1]),
        "pad": lambda x: tf.pad(x, [[1, 1], [2, 2]]),
        "transpose": tf.transpose,
        "reverse": lambda x: tf.reverse(x, [1]),
        "cast": lambda x: tf.cast(2 * tf.cast(x, tf.float64), x.dtype),
        "sparse cross entropy": lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x),
        "sigmoid cross entropy": lambda x: tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(x), x),
    }.items():
        yield name, (f, (MATRIX,))
    yield "resize", (lambda x: tf.image.resize(x, [112, 112]), (IMAGES,))


def linear_algebra() -> Iterator[tuple[str, Op]]:
    for name in ("cholesky", "inv", "logdet", "eigvalsh"):
        f = getattr(tf.linalg, name)
        yield name, (lambda x, f=f: f(_definite(x)), (SQUARES,))
    yield "solve", (lambda x, b: tf.linalg.solve(_definite(x), b), (SQUARES, SQUARES))
    yield "svd", (functools.partial(tf.linalg.svd, compute_uv=False), (SQUARES,))
    yield "norm", (lambda x: tf.norm(x, axis=1), (MATRIX,))


def ops() -> dict[str, Op]:
    return dict(pair for family in (elementwise, reductions, products, arrays, linear_algebra) for pair in family())


def problem(op: Op, dtype: tf.DType, order: int, xp: Any) -> Problem:
    """A loss whose derivative has a cotangent that is no constant at the op. Of order 2, by the first tensor."""
    f, shapes = op
    random = np.random.default_rng(0)
    tensors = tuple(random.uniform(0.2, 0.9, shape).astype(dtype.as_numpy_dtype) for shape in shapes)

    def loss(*xs: Any) -> Any:
        y = f(*xs)
        weights = tf.stop_gradient(y) if order == 1 else y  # so that a linear op has a second derivative
        return tf.reduce_sum(y * weights)

    def of_derivative(x: Any, *others: Any) -> Any:
        return tf.reduce_sum(tf.sin(xp.derivative(lambda x: loss(x, *others))(x)))

    return Problem(loss if order == 1 else of_derivative, tensors)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.single", description=__doc__.partition(": ")[2])
    names = "names, separated by commas; * stands for anything"
    parser.add_argument("--only", metavar="OPS", default="*", help=names)
    parser.add_argument("--method", default=OURS, choices=METHODS)
    parser.add_argument("--peer", default=PEER, choices=METHODS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--order", type=int, choices=(1, 2), default=1)
    parser.add_argument("--rounds", type=int, default=12, help="whose median counts")
    parser.add_argument("--worse", type=float, default=0.95, help="shows what is at most so many times as fast")
    options = parser.parse_args(arguments)
    every = ops()
    found = []
    for name in selected(every, options.only, "op"):
        make = functools.partial(problem, every[name], tf.as_dtype(options.dtype), options.order)
        steps, failed = rounds(Workload(name, make), (options.method, options.peer), options.rounds)
        if failed:
            print(f"{name}: {failed}", flush=True)
            continue
        ours, theirs = (statistics.median(steps[method]) for method in (options.method, options.peer))
        found.append((theirs / ours, name, ours))
    print(f"\n| | {options.method} | {options.peer} over it |\n|---|---:|---:|")
    for ratio, name, ours in sorted(found):
        if ratio <= options.worse:
            print(f"| {name} | {1e3 * ours:.3g} ms | {ratio:.2f} |")
    ratios = [ratio for ratio, _, _ in found] or [float("nan")]
    print(f"\n{len(found)} ops; {options.peer} over {options.method}: the median is {statistics.median(ratios):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
