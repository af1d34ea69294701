"""function_gradient: a gradient as a ConcreteFunction, to call, to save, to differentiate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad

X, N, DY = tf.constant([0.5, -1.0]), tf.constant(1), tf.constant([2.0, 3.0])


@pytest.fixture
def v() -> tf.Variable:
    return tf.Variable([1.0, 2.0])


@pytest.fixture
def f(v: tf.Variable) -> Any:
    cubed = tf.function(lambda x, n: (x * v) ** 3 + tf.cast(n, tf.float32))
    return cubed.get_concrete_function(tf.TensorSpec([None]), tf.TensorSpec([], tf.int32))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is traced meanwhile."""
    found: list[Any] = []
    function = tf.function

    def noted(f: Any, **options: Any) -> Any:
        found.append(f)
        return function(f, **options)

    monkeypatch.setattr(tf, "function", noted)
    return found


def test_an_eager_call_traces_nothing(f: Any, v: tf.Variable, traced: list[Any]) -> None:
    g = tf_symgrad.function_gradient(f)
    dx, dv = g(X, N, DY)
    np.testing.assert_allclose(dx, DY * 3 * X**2 * v**3)
    np.testing.assert_allclose(dv, DY * 3 * v**2 * X**3)
    (dv,) = tf_symgrad.function_gradient(f, [False, False, True])(X, N, DY)
    np.testing.assert_allclose(dv, DY * 3 * v**2 * X**3)
    assert not traced
    assert [y.shape.as_list() for y in g.outputs] == [[None], [2]]
    assert len(traced) == 1


def test_values_come_last(f: Any, v: tf.Variable) -> None:
    _, dv, y = tf_symgrad.function_gradient(f, values=True)(X, N, DY)
    np.testing.assert_allclose(dv, DY * 3 * v**2 * X**3)
    np.testing.assert_allclose(y, (X * v) ** 3 + 1)


def test_it_is_a_concrete_function(f: Any, v: tf.Variable) -> None:
    g = tf_symgrad.function_gradient(f)
    assert isinstance(g, tf.types.experimental.ConcreteFunction)
    assert [x.dtype for x in g.structured_input_signature[0]] == [tf.float32, tf.int32, tf.float32]
    assert [x.ref() for x in g.variables] == [v.ref()]
    expected = [x.numpy() for x in g(X, N, DY)]
    for result in (
        g(x_0=X, x_1=N, dy_0=DY),
        g(X.numpy(), 1, DY),
        tf.function(g)(X, N, DY),
        tf.function(g, jit_compile=True)(X, N, DY),
    ):
        np.testing.assert_allclose(result[0], expected[0])
        np.testing.assert_allclose(result[1], expected[1])


def test_wrong_inputs_are_named(f: Any) -> None:
    g = tf_symgrad.function_gradient(f)
    with pytest.raises(TypeError, match="missing a required argument"):
        g(X, N)
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected to be a float tensor"):
        g(X, N, tf.constant([1, 2]))
    with pytest.raises(AttributeError, match="no attribute 'gradient'"):
        g.gradient  # noqa: B018


@pytest.mark.parametrize("native", [False, True])
def test_a_tape_differentiates_it(f: Any, v: tf.Variable, native: bool) -> None:
    g = tf_symgrad.function_gradient(f)

    def second(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            dx = g(x, N, DY)[0]
        return tape.gradient(dx, [x, v])

    for run in second, tf.function(second):
        if native:
            with tf_symgrad.native():
                dx, dv = run(X)
        else:
            dx, dv = run(X)
        np.testing.assert_allclose(dx, DY * 6 * X * v**3)
        np.testing.assert_allclose(dv, DY * 9 * X**2 * v**2)


def test_it_is_differentiated_again(f: Any, v: tf.Variable) -> None:
    again = tf_symgrad.function_gradient(tf_symgrad.function_gradient(f), [True, False, False, True])
    dx, dv = again(X, N, DY, tf.ones(2), tf.zeros(2))
    np.testing.assert_allclose(dx, DY * 6 * X * v**3)
    np.testing.assert_allclose(dv, DY * 9 * X**2 * v**2)


def test_it_can_be_saved(f: Any, v: tf.Variable, tmp_path: Path) -> None:
    module = tf.Module()
    module.v, module.g = v, tf_symgrad.function_gradient(f)
    tf.saved_model.save(module, str(tmp_path))
    v.assign([7.0, 7.0])
    dx, _ = tf.saved_model.load(str(tmp_path)).g(X, N, DY)
    np.testing.assert_allclose(dx, DY * 3 * X**2 * np.array([1.0, 2.0]) ** 3)


def switch(x: Any) -> Any:
    """Branches of which one keeps a list."""

    def loop() -> Any:
        return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, tf.sin(y) * y), [0, x], maximum_iterations=2)[1]

    return tf.switch_case(tf.cast(x, tf.int32), [loop, lambda: x * x, lambda: 2.0 * x])


def test_it_is_built_again_for_xla() -> None:
    x = tf.constant(0.3)
    g = tf_symgrad.function_gradient(tf.function(switch, autograph=False).get_concrete_function(x))
    compiled = tf.function(lambda x: g(x, tf.constant(1.0)), autograph=False, jit_compile=True)
    np.testing.assert_allclose(compiled(x), g(x, tf.constant(1.0)), rtol=1e-6)
    np.testing.assert_allclose(compiled(tf.constant(1.5)), [3.0], rtol=1e-6)


@pytest.mark.parametrize("way", ["vjp", "tape"])
def test_what_is_not_built_for_xla_is_refused(way: str) -> None:
    """XLA itself would end the process: the branches' results are of several shapes."""
    f = tf.function(switch, autograph=False)

    def by_vjp(x: Any) -> Any:
        return tf_symgrad.vjp(f, x)[1](tf.constant(1.0))[0]

    def by_tape(x: Any) -> Any:
        with tf_symgrad.native(), tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    x = tf.constant(0.3)
    derivative = tf.function(by_vjp if way == "vjp" else by_tape, autograph=False)
    derivative(x)
    with pytest.raises(tf.errors.OpError, match="XLA|tf2xla"):
        tf.function(lambda x: derivative(x) * 2, autograph=False, jit_compile=True)(x)
