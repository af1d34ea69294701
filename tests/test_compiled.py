"""Eager calls that are traced: they do no Python work again, and are never stale."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

import tf_symgrad
from tf_symgrad import _api, _compiled, _transforms

X = tf.constant([0.5, -1.0, 2.0])


def square(x: Any) -> Any:
    return tf.reduce_sum(x**2)


def by_value_and_grad(f: Any) -> Callable[[Any], Any]:
    both = tf_symgrad.value_and_grad(f)
    return lambda x: both(x)[1]


def by_op(f: Any) -> Callable[[Any], Any]:
    return lambda x: tf_symgrad.symbolic_gradient([x], f=f)[0]


def by_vjp(f: Any) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        y, pullback = tf_symgrad.vjp(f, x)
        return pullback(tf.ones_like(y))[0]

    return call


CALLS = {"value_and_grad": by_value_and_grad, "op": by_op, "vjp": by_vjp}


@pytest.mark.parametrize("kind", ["tf.function", "ConcreteFunction"])
def test_the_third_call_does_nothing_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = tf.function(square) if kind == "tf.function" else tf.function(square).get_concrete_function(X)
    made: list[Any] = []
    for module in (_api, _transforms):
        stock = module.differentiate
        monkeypatch.setattr(
            module, "differentiate", lambda *args, stock=stock, **kw: made.append(1) or stock(*args, **kw)
        )
    for call in (by_value_and_grad(f), by_op(f)):
        made.clear()
        for calls in (1, 2, 2, 2):  # the second call traces
            np.testing.assert_allclose(call(X), 2 * X)
            assert len(made) == calls


@pytest.mark.parametrize("variables", [False, True])
@pytest.mark.parametrize("kind", ["tf.function", "ConcreteFunction"])
def test_a_pullback_is_built_once(kind: str, variables: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    v = tf.Variable(1.0)
    f = tf.function(lambda x: square(x) * v if variables else square(x))
    f = f if kind == "tf.function" else f.get_concrete_function(X)
    native, made = tf_symgrad._loader.native(), []
    for name in ("build_vjp", "build_gradient"):
        stock = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *args, stock=stock: made.append(1) or stock(*args))
    np.testing.assert_allclose(by_vjp(f)(X), 2 * X)
    first = len(made)
    assert first > 0
    for _ in range(3):
        v.assign_add(1.0)
        np.testing.assert_allclose(by_vjp(f)(X), 2 * X * (v if variables else 1.0))
        tangent = tf_symgrad.jvp(f, [X], [tf.ones_like(X)])[1]
        np.testing.assert_allclose(tangent, tf.reduce_sum(2 * X) * (v if variables else 1.0))
    assert len(made) == first + 1  # the pushforward


def test_variables_are_read_at_each_call() -> None:
    v = tf.Variable(2.0)
    both = tf_symgrad.value_and_grad(tf.function(lambda x: tf.reduce_sum(v * x)), wrt=(0, v))
    for value in (2.0, 3.0, 4.0, 5.0):
        v.assign(value)
        _, (dx, dv) = both(X)
        np.testing.assert_allclose(dx, [value] * 3)
        np.testing.assert_allclose(dv, tf.reduce_sum(X))


def test_what_wrt_stands_for_may_change() -> None:
    module = tf.Module()
    module.a, module.b = tf.Variable(2.0), tf.Variable(3.0)
    gradients = tf_symgrad.grad(tf.function(lambda x: tf.reduce_sum(x) * module.a * module.b), wrt=module)
    for _ in range(3):
        np.testing.assert_allclose(gradients(X), [4.5, 3.0])
    module.b = None
    for _ in range(3):
        np.testing.assert_allclose(gradients(X), [4.5])
    positions: list[Any] = [0]
    gradients = tf_symgrad.grad(tf.function(lambda x, y: tf.reduce_sum(x * y)), wrt=positions)
    for _ in range(3):
        assert len(gradients(X, X)) == 1
    positions.append(1)
    assert len(gradients(X, X)) == 2


@pytest.mark.parametrize("kind", CALLS)
def test_captures_that_are_looked_up_at_each_call_are(kind: str) -> None:
    factor = [1.0]

    def f(x: Any) -> Any:
        held = ops.get_default_graph().capture_call_time_value(lambda: tf.constant(factor[0]), tf.TensorSpec([]))
        return tf.reduce_sum(x) * held

    for g in (tf.function(f), tf.function(f).get_concrete_function(X)):
        call = CALLS[kind](g)
        for value in (1.0, 2.0, 3.0, 4.0):
            factor[0] = value
            np.testing.assert_allclose(call(X), [value] * 3)


@pytest.mark.parametrize("kind", CALLS)
def test_shapes_dtypes_and_tapes(kind: str) -> None:
    f = tf.function(square)
    call = CALLS[kind](f)
    for _ in range(3):
        for x in (X, X[:2], tf.cast(X, tf.float64)):
            dx = call(x)
            assert dx.dtype == x.dtype
            np.testing.assert_allclose(dx, 2 * x)
        with tf.GradientTape() as tape:
            tape.watch(X)
            dx = call(X)
        np.testing.assert_allclose(tape.gradient(dx, X), [2.0] * 3)


@pytest.mark.parametrize("kind", CALLS)
def test_functions_are_not_kept(kind: str) -> None:
    def use() -> weakref.ref[Any]:
        f = tf.function(square)
        call = CALLS[kind](f)
        for _ in range(3):
            call(X)
        return weakref.ref(f)

    kept = use()
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_many_shapes_are_few_traces(call: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    f = tf.function(square, reduce_retracing=True).get_concrete_function(tf.TensorSpec([None], tf.float32))
    gradient, traces = call(f), []
    trace = _compiled.Compiled._trace
    monkeypatch.setattr(_compiled.Compiled, "_trace", lambda self, *args: (traces.append(1), trace(self, *args))[1])
    for size in range(1, 12):
        x = tf.range(size, dtype=tf.float32)
        np.testing.assert_allclose(gradient(x), 2 * x)
    assert len(traces) <= 3
