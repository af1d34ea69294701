"""Where TensorFlow's shape functions claim what need not be: numbers are right all the same, at any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

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


def softened(x: Any, labels: Any) -> Any:
    return tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=x, labels=tf.nn.softmax(labels)).loss


def by_hand(x: Any, labels: Any) -> Any:
    return -tf.reduce_sum(tf.nn.softmax(labels) * tf.nn.log_softmax(x), -1)


def above(x: Any) -> Any:
    return tf.linalg.diag(x, k=1)


# A claim that reaches TensorFlow's optimizers: the function, the same without a claim, and shapes as above.
MEANS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Shape], list[Shape]]] = {
    "labels of one row": (softened, by_hand, [[None, 3], [1, 3]], [[4, 3], [1, 3]]),
    "features of one row": (softened, by_hand, [[1, 3], [None, 3]], [[1, 3], [4, 3]]),
    "either": (softened, by_hand, [[None, 3], [None, 3]], [[4, 3], [1, 3]]),
    "a diagonal above the main one": (above, above, [[None]], [[3]]),
}


@pytest.mark.parametrize("jit", [False, True], ids=["function", "jit"])
@pytest.mark.parametrize("claim", MEANS)
def test_a_claim_is_hidden_from_grappler(claim: str, jit: bool) -> None:
    """It folds what it takes for known: the size that the mean divides by, the axes over which a sum is one of one."""
    f, plain, known, given = MEANS[claim]
    random = np.random.default_rng(0)
    x = [tf.constant(random.uniform(0.5, 1.5, shape)) for shape in given]
    specs = [tf.TensorSpec(shape, tf.float64) for shape in known]
    one = tf.ones([], tf.float64)

    def loss(*x: Any) -> Any:
        return tf.reduce_mean(f(*x) ** 2)

    def summed(*x: Any) -> Any:
        return tf.add_n([tf.reduce_sum(tf.sin(dx)) for dx in symbolic_gradient([*x, one], f=traced)])

    with tf.GradientTape() as second:
        second.watch(x)
        with tf.GradientTape() as first:
            first.watch(x)
            y = tf.reduce_mean(plain(*x) ** 2)
        dx = first.gradient(y, x)
        s = tf.add_n([tf.reduce_sum(tf.sin(t)) for t in dx])
    right = [dx, second.gradient(s, x)]
    for function, order in ((loss, 0), (summed, 1)):
        traced = tf.function(function).get_concrete_function(*specs)
        run = tf.function(lambda *x, f=traced: symbolic_gradient([*x, one], f=f), specs, jit_compile=jit)
        for a, b in zip(run(*x), right[order], strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, 1e-10, 1e-12)


@pytest.mark.parametrize("layers", [0, 12], ids=["small", "called"])
def test_a_call_with_other_shapes_than_the_function_was_traced_for(layers: int) -> None:
    """TensorFlow runs it."""

    def mean(x: Any) -> Any:
        for _ in range(layers):
            x = tf.sin(x)
        return tf.reduce_mean(x**2)

    traced = tf.function(mean, autograph=False).get_concrete_function(tf.TensorSpec([3]))

    def calling(x: Any) -> Any:
        traced.add_to_graph()
        return tf.raw_ops.PartitionedCall(args=[x], Tout=[tf.float32], f=traced)[0]

    x = tf.constant([0.1, 0.2, 0.3, 0.4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = mean(x)
    f = tf.function(calling, autograph=False).get_concrete_function(tf.TensorSpec([4]))
    np.testing.assert_allclose(f(x), y)
    (dx,) = symbolic_gradient([x, tf.constant(1.0)], f=f)
    np.testing.assert_allclose(dx, tape.gradient(y, x), rtol=1e-6)


def test_the_mark_of_a_veil_is_not_believed() -> None:
    """Whoever writes a function can write our attr, on a node that changes shapes."""

    def f(x: Any) -> Any:
        y = tf.raw_ops.Reshape(tensor=x, shape=[6])
        y.op._set_attr("_symgrad_veil", attr_value_pb2.AttrValue(b=True))
        return tf.reduce_sum(y[::-1] ** 2 * tf.range(6.0)) + tf.cast(tf.shape(y)[0], tf.float32) * tf.reduce_sum(y)

    x = tf.reshape(tf.range(1.0, 7.0), [2, 3])
    (dx,) = symbolic_gradient([x, tf.constant(1.0)], f=tf.function(f).get_concrete_function(x))
    np.testing.assert_allclose(tf.reshape(dx, [6]), 2 * tf.range(1.0, 7.0) * tf.range(6.0)[::-1] + 6)
