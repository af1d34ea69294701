"""Under tf_symgrad.enable(): gradients are asked for in a branch, a loop or a function, of what was made around it."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad

pytestmark = pytest.mark.usefixtures("said")
RANDOM = np.random.default_rng(0)
X = tf.constant(RANDOM.uniform(0.1, 1.0, size=3))
V = tf.Variable(RANDOM.uniform(0.1, 1.0, size=3))


def function(f: Callable[..., Any]) -> Any:
    return tf.function(f, autograph=False)


def watched(f: Callable[..., Any], x: Any) -> tuple[Any, Any]:
    """A tape that goes on, and f(x)."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = f(x)
    return tape, y


def branch(x: Any, then: Callable[[], Any], length: int) -> Any:
    return tf.cond(x[0] > 0, then, lambda: [x] * length)


CASES: dict[str, Callable[[Any], Any]] = {}


def case(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[f.__name__.replace("_", " ")] = f
    return f


@case
def a_branch(x: Any) -> Any:
    tape, (y, z) = watched(lambda x: ((y := tf.sin(x) * V), y * tf.cumsum(x)), x)
    return branch(x, lambda: tape.gradient(z, [x, y, V]), 3)


@case
def a_jacobian_by_a_loop(x: Any) -> Any:
    tape, (y, z) = watched(lambda x: ((y := tf.sin(x) * tf.reduce_sum(V * x) ** 2), y * tf.cumsum(x)), x)
    return tape.jacobian(z, [x, y, V], experimental_use_pfor=False)


@case
def a_loop(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.sin(x) * V

        def step(i: Any, total: Any) -> Any:
            return i + 1, total + tape.gradient(y * tf.cast(i, x.dtype), x) + tape.gradient(y, V)

        return tf.while_loop(lambda i, _: i < 3, step, (0, tf.zeros_like(x)))[1]


@case
def a_call(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.sin(x) * V
        return function(lambda k: tape.gradient(y * k, [x, V]))(tf.constant(2.0, x.dtype))


@case
def rows(x: Any) -> Any:
    tape, y = watched(lambda x: tf.gather(V, [0, 2, 0]) * tf.gather(V, [1, 1, 1]) + x, x)
    return branch(x, lambda: [tf.convert_to_tensor(tape.gradient(y, V))], 1)


@case
def a_branch_in_a_branch(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.sin(x) * V

        def inner() -> Any:
            z = y * x
            return branch(x, lambda: tape.gradient(z * y * x, [x, V, y, z]), 4)

        return branch(x, inner, 4)


@case
def zeros(x: Any) -> Any:
    tape, y = watched(tf.sin, x)
    return branch(x, lambda: tape.gradient(y, [x, V], unconnected_gradients="zero"), 2)


@case
def a_tape_within_a_tape(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.sin(x) * V

        def then() -> Any:
            with tf.GradientTape() as inner:
                inner.watch(y)
                z = tf.sin(y * x) * y
            dy = inner.gradient(z, y)
            return [tape.gradient(dy, x), *tape.gradient(z, [x, V]), tape.gradient(y, V)]

        return branch(x, then, 4)


@case
def by_gradients(x: Any) -> Any:
    y = tf.sin(x) * V

    def then() -> Any:
        z = tf.exp(y * x)
        return [*tf.gradients(z * y, [x, z, y]), *tf.gradients(z, x, stop_gradients=y), *tf.gradients(y, x)]

    return branch(x, then, 5)


@case
def hessians(x: Any) -> Any:
    return tf.hessians(tf.reduce_sum(tf.map_fn(lambda v: tf.sin(v) * v, x) * x) ** 2, x)


def same(expected: Any, got: Any) -> None:
    for e, g in zip(tf.nest.flatten(expected), tf.nest.flatten(got), strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, said: list[str]) -> None:
    expected = function(CASES[name])(X)
    with tf_symgrad.native():
        same(expected, function(CASES[name])(X))
    assert not said


COUNT = tf.Variable(0.0, dtype=X.dtype)


def counted(x: Any) -> Any:
    COUNT.assign_add(x[0])
    return x


SECOND = {
    "a branch": lambda x: tf.cond(x[0] > 0, lambda: x * tf.sin(x), lambda: x),
    "a branch with an effect": lambda x: tf.cond(x[0] > 0, lambda: x * x, lambda: counted(x)),
    "a map": lambda x: tf.map_fn(lambda v: tf.sin(v) * v, x),
    "a loop": lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y) * x), (0, x))[1],
}


def second(f: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """A tape, and a gradient that it has recorded."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = f(x)
        dx = inner.gradient(y, x)
    return tape, dx


def beside_x(tape: Any, dx: Any, x: Any) -> Any:
    """By TensorFlow's Python, as the tape has recorded it."""
    return tape.gradient([dx, x], x)


WAYS = {
    "in the same graph": lambda tape, dx, x: tape.gradient(dx, x),
    "in a branch": lambda tape, dx, x: branch(x, lambda: [tape.gradient(dx, x)], 1),
    "by Python": beside_x,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SECOND)
def test_of_a_function_that_was_differentiated_before(name: str, way: str) -> None:
    """Its call gets outputs for the first derivative, which a tape that has recorded it is to be told of."""
    f = function(SECOND[name])

    def diagonal(x: Any) -> Any:
        tape, dx = second(f, x)
        return WAYS[way](tape, dx, x)

    expected = function(diagonal)(X)
    with tf_symgrad.native():
        same(expected, function(diagonal)(X))


def test_all_is_planned_before_anything_is_added(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """What an inner graph had got would happen beside what TensorFlow makes in its place."""
    level, backward = (importlib.import_module(f"tf_symgrad.{name}") for name in ("_levels", "_backward"))
    plan = level.GraphLevel.way_back

    def of_inner_graphs(self: Any, *args: Any) -> Any:
        if self.leading_out:
            return plan(self, *args)
        raise backward.NotNativeError("that is far out")

    monkeypatch.setattr(level.GraphLevel, "way_back", of_inner_graphs)
    expected = function(CASES["by gradients"])(X)
    with tf_symgrad.native():
        concrete = function(CASES["by gradients"]).get_concrete_function(X)
    assert set(said) == {"that is far out"}
    names = [f.signature.name for f in concrete.graph.as_graph_def().library.function]
    assert not [name for name in names if "__symgrad" in name]
    same(expected, concrete(X))
