"""Where TensorFlow's shape functions claim what need not be: numbers are right all the same, at any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_symgrad import symbolic_gradient

Shape = Sequence[int | None]


def cross_entropy(output: int) -> Callable[..., Any]:
    """The gradient that the kernel returns assumes labels that sum to one."""
    return lambda x, labels: tf.raw_ops.SoftmaxCrossEntropyWithLogits(
        features=x, labels=tf.raw_ops.Softmax(logits=labels)
    )[output]


def diagonal(op: str, k: Any) -> Callable[..., Any]:
    return lambda x: getattr(tf.raw_ops, op)(diagonal=x, k=k, num_rows=-1, num_cols=-1, padding_value=0)


# The function, what is known of the shapes of its inputs, and the shapes that they have; or inputs.
CLAIMS: dict[str, tuple[Callable[..., Any], list[Shape], list[Any]]] = {
    "labels of one row, a batch that may be any": (cross_entropy(1), [[None, 3], [1, 3]], [(4, 3), (1, 3)]),
    "features of one row": (cross_entropy(1), [[1, 3], [None, 3]], [(1, 3), (4, 3)]),
    "a diagonal above the main one": (diagonal("MatrixDiagV3", 1), [[None]], [(3,)]),
    "one below it": (diagonal("MatrixDiagV3", -2), [[2, None]], [(2, 3)]),
    "a band": (diagonal("MatrixDiagV3", [0, 1]), [[2, None]], [(2, 3)]),
    "a diagonal, version 2": (diagonal("MatrixDiagV2", 1), [[None]], [(3,)]),
}


def both_orders(f: Any, shapes: Sequence[Shape], x: list[Any], dy: Any, ddx: list[Any]) -> list[Any]:
    """The gradients of f, and those of these, where the shapes of x are all that is known."""

    def traced(f: Any, *shapes: Shape, inputs: list[Any]) -> Any:
        specs = [tf.TensorSpec(shape, t.dtype) for shape, t in zip(shapes, inputs, strict=True)]
        return tf.function(f, autograph=False).get_concrete_function(*specs)

    forward = traced(f, *shapes, inputs=x)

    def gradient(*inputs: Any) -> Any:
        return [dx for dx in symbolic_gradient(list(inputs), f=forward) if dx.dtype.is_floating]

    once = traced(gradient, *shapes, [None] * dy.shape.rank, inputs=[*x, dy])
    return [*once(*x, dy), *symbolic_gradient([*x, dy, *ddx], f=once)]


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_not_believed(claim: str) -> None:
    f, known, given = CLAIMS[claim]
    random = np.random.default_rng(0)

    def draw(shape: Any) -> Any:
        return tf.constant(random.uniform(0.5, 1.5, shape))

    x = [draw(v) if isinstance(v, tuple) else tf.constant(v) for v in given]
    dy, ddx = draw(f(*x).shape), [draw(t.shape) for t in x if t.dtype.is_floating]
    static = both_orders(f, [t.shape for t in x], x, dy, ddx)
    for a, b in zip(both_orders(f, known, x, dy, ddx), static, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, 1e-12, 1e-12)
