"""Gradients of tables that are looked up: rows, through calls, branches and loops, up to Python's IndexedSlices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from tests.structure import nodes
from tf_symgrad import _resolve, symbolic_gradient

TABLE = np.random.RandomState(0).uniform(0.5, 1.5, [20, 3]).astype(np.float32)
IDS = np.int32([1, 5, 1, 0])


@tf.function
def product(table: Any, ids: Any) -> Any:
    return tf.reduce_sum(tf.gather(table, ids) * tf.sin(tf.gather(table, ids[::-1])))


@tf.function
def nested(table: Any, ids: Any) -> Any:
    return product(table, ids) * tf.reduce_sum(tf.gather(table, ids[:2]) ** 2)


def loop(table: Any, ids: Any) -> Any:
    body = lambda i, y: (i + 1, y * tf.reduce_sum(tf.gather(table, ids[i : i + 2]) ** 2))  # noqa: E731
    return tf.while_loop(lambda i, y: i < 3, body, (0, 1.0), maximum_iterations=3)[1]


def mixed(table: Any, ids: Any) -> Any:
    """Rows from within and behind a loop of calls, and one row alone."""
    body = lambda i, y: (i + 1, y * tf.sin(tf.gather(table, ids[i])[0]) + product(table, ids[i : i + 1]))  # noqa: E731
    y = tf.while_loop(lambda i, y: i < 3, body, (0, 1.0), maximum_iterations=3)[1]
    return y * nested(table, ids)


PROGRAMS: dict[str, Callable[..., Any]] = {
    "call": lambda table, ids: product(table, ids) + tf.reduce_sum(tf.gather(table, ids)),
    "calls in calls": nested,
    "branches": lambda table, ids: tf.cond(
        tf.reduce_sum(ids) > 0, lambda: nested(table, ids), lambda: product(table, ids[:2])
    ),
    "a branch without": lambda table, ids: (
        tf.cond(tf.reduce_sum(ids) > 9, lambda: tf.constant(3.0), lambda: product(table, ids)) * product(table, ids)
    ),
    "the other branch": lambda table, ids: tf.cond(
        tf.reduce_sum(ids) > 0, lambda: tf.constant(3.0), lambda: product(table, ids)
    ),
    "switch": lambda table, ids: tf.switch_case(
        ids[0], [lambda: tf.constant(1.0), lambda: product(table, ids), lambda: nested(table, ids)]
    ),
    "loop": loop,
    "all of them": mixed,
    "loop of calls": lambda table, ids: tf.while_loop(
        lambda i, y: i < 3,
        lambda i, y: (i + 1, y + tf.sin(product(table, (ids + i) % 7))),
        (0, 1.0),
        maximum_iterations=3,
    )[1],
    "no iterations": lambda table, ids: tf.while_loop(
        lambda i, y: i < ids[3], lambda i, y: (i + 1, y * product(table, ids)), (0, 1.0)
    )[1],
    "a row in each iteration": lambda table, ids: tf.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, y * tf.sin(tf.gather(table, ids[i])[0])), (0, 1.0)
    )[1],
    "loops in loops": lambda table, ids: tf.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, y + loop(table, ids[::-1]) * product(table, ids[:2])), (0, 1.0)
    )[1],
    "map": lambda table, ids: tf.reduce_sum(
        tf.map_fn(lambda i: tf.sin(tf.gather(table, i)), ids, fn_output_signature=tf.float32) ** 2
    ),
    "loop in a branch": lambda table, ids: tf.cond(
        tf.reduce_sum(ids) > 0, lambda: loop(table, ids), lambda: product(table, ids[:2])
    ),
}
# Branches whose rows are so many or so many, and loops that may end early, are dense under XLA, which must know that it
# compiles them.
# In loops XLA must know the sizes of slices, and how often they run.
NO_XLA = ("loop", "all of them", "loops in loops", "no iterations", "loop in a branch")
COMPILED = ("call", "calls in calls", "a row in each iteration")


def of_tape(f: Callable[..., Any], table: Any, ids: Any) -> Any:
    @tf.function
    def call(table: Any, ids: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(table)
            y = f(table, ids)
        dx = tape.gradient(y, table)
        return tf.zeros_like(table) if dx is None else tf.convert_to_tensor(dx)

    return call(table, ids)


def sparse(f: Callable[..., Any], table: Any, ids: Any) -> Any:
    (dx,) = symbolic_gradient([table, ids], f=f, wrt=[True, False], sparse=True)
    assert isinstance(dx, tf.IndexedSlices)
    return dx


def dense(f: Callable[..., Any], table: Any, ids: Any) -> Any:
    return symbolic_gradient([table, ids], f=f, wrt=[True, False])[0]


@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_values(name: str, mode: str) -> None:
    if mode == "jit" and name in NO_XLA:
        pytest.skip("XLA does not compile the loop's gradient")
    f = PROGRAMS[name]
    run = {"eager": lambda g: g, "function": tf.function, "jit": lambda g: tf.function(g, jit_compile=True)}[mode]
    table, ids = tf.constant(TABLE), tf.constant(IDS)
    expected = of_tape(f, table, ids)
    tolerance = 1e-4 if (name, mode) == ("loop of calls", "jit") else 1e-5  # XLA adds up in another order
    np.testing.assert_allclose(run(lambda t, i: dense(f, t, i))(table, ids), expected, rtol=tolerance)
    if mode != "jit" or name in COMPILED:
        rows = run(lambda t, i: sparse(f, t, i))(table, ids)
        np.testing.assert_allclose(tf.convert_to_tensor(rows), expected, rtol=1e-5)
        assert rows.indices.dtype == tf.int32


def test_loops_that_carry_their_table_or_use_it_up_are_dense() -> None:
    """One that writes the table in each iteration; one that looks all of its rows up; one that returns it."""
    table, ids = tf.constant(TABLE), tf.constant(IDS)

    def carried(table: Any, ids: Any) -> Any:
        body = lambda i, t: (i + 1, t * tf.reduce_sum(tf.gather(t, ids)))  # noqa: E731
        return tf.reduce_sum(tf.while_loop(lambda i, t: i < 3, body, (0, table))[1])

    def used_up(table: Any, ids: Any) -> Any:
        body = lambda i, y: (i + 1, y * tf.reduce_mean(tf.gather(table, (tf.range(20) + ids[0]) % 20)))  # noqa: E731
        return tf.while_loop(lambda i, y: i < 3, body, (0, 1.0))[1]

    def also_a_result(table: Any, ids: Any) -> Any:
        body = lambda i, y, t: (i + 1, y * product(t, ids), t)  # noqa: E731
        _, y, t = tf.while_loop(lambda i, y, t: i < 3, body, (0, 1.0, table))
        return y * tf.reduce_sum(t**2)

    for f in (carried, used_up, also_a_result):
        dx = symbolic_gradient([table, ids], f=f, wrt=[True, False], sparse=True)[0]
        assert not isinstance(dx, tf.IndexedSlices)
        np.testing.assert_allclose(dx, of_tape(f, table, ids), rtol=1e-4)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_table_is_scattered_once_or_not_at_all(name: str) -> None:
    specs = tf.TensorSpec([1_000_000, 64], tf.float32), tf.TensorSpec([4], tf.int32)
    concrete = tf.function(PROGRAMS[name]).get_concrete_function(*specs)
    table = {"UnsortedSegmentSum", "ScatterNd", "TensorScatterAdd"}

    def scatters(library: Any) -> int:
        return sum(node.op in table for node in nodes(library))

    assert scatters(tf_symgrad.gradient_function(concrete, wrt=[True, False])[1]) == 1
    gradient, indices = _resolve.resolve(concrete, []).sparse_gradient([True, False])
    assert indices == [1]
    assert scatters(gradient.definitions()) == 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_second_derivatives(name: str) -> None:
    f = PROGRAMS[name]
    weights = tf.constant(np.random.RandomState(1).uniform(-1, 1, TABLE.shape).astype(np.float32))
    table, ids = tf.constant(TABLE), tf.constant(IDS)

    def by_tape(g: Callable[..., Any]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(table)
            y = tf.reduce_sum(tf.convert_to_tensor(g(f, table, ids)) * weights)
        dx = tape.gradient(y, table)
        return tf.zeros_like(table) if dx is None else tf.convert_to_tensor(dx)

    expected = by_tape(of_tape)
    np.testing.assert_allclose(by_tape(sparse), expected, rtol=1e-4, atol=1e-5)
    once = lambda table, ids: tf.reduce_sum(dense(f, table, ids) * weights)  # noqa: E731
    np.testing.assert_allclose(dense(once, table, ids), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("run", [lambda g: g, tf.function])
def test_variables_and_what_is_dense(run: Callable[..., Any]) -> None:
    """A captured table gets rows; an input that is used whole a tensor; one without influence None."""
    v, w, x = tf.Variable(TABLE), tf.Variable([2.0, 3.0]), tf.constant(2.0)
    f = tf.function(lambda x, z, ids: x * product(v, ids) * tf.reduce_sum(w))

    @run
    def call(x: Any, ids: Any) -> Any:
        inputs = [x, tf.constant(1.0), ids]
        return symbolic_gradient(inputs, f=f, variables=[w, v], sparse=True, unconnected_gradients="none")

    dx, dz, _, dw, dv = call(x, tf.constant(IDS))
    assert dz is None
    assert isinstance(dv, tf.IndexedSlices)
    assert not isinstance(dw, tf.IndexedSlices)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x, tf.constant(1.0), tf.constant(IDS))
    for got, expected in zip((dx, dw, dv), tape.gradient(y, [x, w, v]), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(got), tf.convert_to_tensor(expected), rtol=1e-5)


def gathered(x: Any, table: Any, ids: Any) -> Any:
    return tf.reduce_sum(tf.sin(x * tf.gather(table, ids)) * x)


@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
def test_a_tape_over_the_op_gets_rows(mode: str) -> None:
    """As it does of a gather: of a table, of a variable, and of those again."""
    run = {"eager": lambda g: g, "function": tf.function, "jit": lambda g: tf.function(g, jit_compile=True)}[mode]
    v, ids = tf.Variable(TABLE), tf.constant(IDS)

    def by(derivative: Callable[..., Any], table: Any) -> Any:
        def g(x: Any) -> Any:
            with tf.GradientTape() as outer:
                outer.watch(table)
                with tf.GradientTape() as tape:
                    tape.watch(table)
                    y = tf.reduce_sum(derivative(lambda x: gathered(x, table, ids), x) ** 2)
                dx = tape.gradient(y, table)
                z = tf.reduce_sum(dx.values[:, 0] ** 2)
            second = outer.gradient(z, table)
            return *((d.values, d.indices) for d in (dx, second)), dx.dense_shape

        first, second, shape = run(g)(tf.constant(1.5))
        np.testing.assert_array_equal(shape, TABLE.shape)
        return [tf.convert_to_tensor(tf.IndexedSlices(*d, tf.constant(TABLE.shape))) for d in (first, second)]

    def by_tape(f: Callable[[Any], Any], x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    for table in tf.constant(TABLE), v:
        got = by(lambda f, x: symbolic_gradient([x], f=f, capture_gradients=True)[0], table)
        for a, b in zip(got, by(by_tape, table), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["branches", "switch", "a branch without"])
def test_branches_of_unequal_rows_are_dense_to_xla(name: str) -> None:
    f = PROGRAMS[name]
    table, ids = tf.constant(TABLE), tf.constant(IDS)
    g = lambda t, i: symbolic_gradient([t, i], f=f, wrt=[True, False], sparse=True)[0]  # noqa: E731
    dx = tf.function(g, jit_compile=True)(table, ids)
    np.testing.assert_allclose(tf.convert_to_tensor(dx), of_tape(f, table, ids), rtol=1e-5)


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_forward_over_the_op(mode: str) -> None:
    """The tangent of a table's gradient is that of a table: an accumulator transposes a gradient that is dense."""
    table, tangent = tf.constant(TABLE), tf.constant(np.cos(TABLE))
    f = lambda t: tf.reduce_sum(tf.sin(tf.gather(t, IDS)) ** 2)  # noqa: E731

    def hvp(table: Any, tangent: Any) -> Any:
        with tf.autodiff.ForwardAccumulator(table, tangent) as accumulator:
            (dx,) = symbolic_gradient([table], f=f)
        return accumulator.jvp(dx)

    got = (tf.function(hvp) if mode == "function" else hvp)(table, tangent)
    counts = np.bincount(IDS, minlength=20)[:, None]
    np.testing.assert_allclose(got, counts * 2 * np.cos(2 * TABLE) * np.cos(TABLE), rtol=1e-5, atol=1e-6)
