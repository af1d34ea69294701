"""Loops, branches and arrays in functions that XLA compiles: at any order, and in compiled functions of others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_symgrad import symbolic_gradient

X = tf.constant([0.5, -1.0, 2.0])
SPEC = tf.TensorSpec([3], tf.float32)


def compiled(f: Callable[..., Any], **options: Any) -> Any:
    return tf.function(f, jit_compile=True, autograph=False, **options)


def gradient(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: symbolic_gradient([x], f=f)[0]


def tape(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def g(x: Any) -> Any:
        with tf.GradientTape() as t:
            t.watch(x)
            y = f(x)
        return t.gradient(y, x)

    return g


def squared_norm(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tf.reduce_sum(tf.square(f(x)))


def check(g: Callable[[Any], Any], x: Any = X) -> None:
    np.testing.assert_allclose(compiled(g)(x), tf.function(g, autograph=False)(x), rtol=1e-4)


# ---- Loops of a number of iterations that is known ----


def power_loop(x: Any) -> Any:
    return tf.reduce_sum(tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y) * x), (0, x))[1])


def ends_early(x: Any) -> Any:
    def condition(i: Any, y: Any) -> Any:
        return tf.logical_and(i < 6, tf.reduce_sum(y) < 20)

    return tf.reduce_sum(tf.while_loop(condition, lambda i, y: (i + 1, y * x + 1), (0, x))[1])


def maximum_iterations(x: Any) -> Any:
    loop = tf.while_loop(lambda y: tf.reduce_sum(y) < 20, lambda y: (y * x + 1,), (x,), maximum_iterations=4)
    return tf.reduce_sum(loop[0])


def nested(first: Callable[[Any], Any], last: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A loop of four iterations around one that goes from first(i) to last(i)."""

    def body(i: Any, y: Any) -> Any:
        last_i = last(i)
        return i + 1, tf.while_loop(lambda j, _: j < last_i, lambda j, z: (j + 1, tf.sin(z) * x_[0]), (first(i), y))[1]

    x_: list[Any] = []

    def f(x: Any) -> Any:
        x_[:] = [x]
        return tf.reduce_sum(tf.while_loop(lambda i, _: i < 4, body, (0, x))[1])

    return f


def written_and_stacked(x: Any) -> Any:
    array = tf.TensorArray(tf.float32, 3, element_shape=[])
    for i in range(3):
        array = array.write(i, tf.sin(x[i]) * x[0])
    return tf.reduce_sum(array.stack() ** 2)


def unstacked_and_read(x: Any) -> Any:
    array = tf.TensorArray(tf.float32, 3, element_shape=[]).unstack(x * x)
    return array.read(0) * array.read(1) * tf.sin(array.read(2))


def scan_of_two(x: Any) -> Any:
    scanned = tf.scan(lambda a, t: (a[0] * t, a[1] + t * a[0]), x, (x[0], x[0]), reverse=True)
    return tf.add_n([tf.reduce_sum(y) for y in scanned])


# The tape's gradients of most of these do not compile: its stacks have no fixed size.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "while_loop": power_loop,
    "maximum_iterations": maximum_iterations,
    "ends early": ends_early,
    "nested": nested(lambda _: 0, lambda _: 2),
    "nested, to the outer counter": nested(lambda _: 0, lambda i: i),
    "nested, from the outer counter": nested(lambda i: i, lambda _: 4),
    "nested, to what is computed of the outer counter": nested(lambda _: 0, lambda i: 2 * i + 1),
    "map_fn": lambda x: tf.reduce_sum(tf.map_fn(lambda t: t * tf.sin(t), x)),
    "scan": lambda x: tf.reduce_sum(tf.scan(lambda a, t: a * t + t, x)),
    "scan backwards, of two": scan_of_two,
    "foldl": lambda x: tf.reduce_sum(tf.foldl(lambda a, t: a * t + tf.sin(t), x)),
    "foldr": lambda x: tf.reduce_sum(tf.foldr(lambda a, t: a * t + tf.sin(t), x)),
    "TensorArray, written and stacked": written_and_stacked,
    "TensorArray, unstacked and read": unstacked_and_read,
    "cond": lambda x: tf.cond(x[0] > 0, lambda: power_loop(x), lambda: tf.reduce_sum(x * x)),
    "cond, other branch": lambda x: tf.cond(x[0] > 0, lambda: tf.reduce_sum(x * x), lambda: power_loop(x)),
    "cond, two loops": lambda x: tf.cond(x[0] > 0, lambda: power_loop(x), lambda: maximum_iterations(x)),
    "switch_case": lambda x: tf.switch_case(
        tf.cast(x[0] > 0, tf.int32), [lambda: tf.reduce_sum(x * x), lambda: ends_early(x)]
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient(name: str) -> None:
    check(gradient(FUNCTIONS[name]))


@pytest.mark.parametrize("name", ["map_fn", "scan", "foldl"])
def test_gradient_of_one_element(name: str) -> None:
    """The loop over the rest runs never; XLA compiles its body all the same."""
    check(gradient(FUNCTIONS[name]), tf.constant([0.7]))


TWICE = [
    "while_loop",
    "maximum_iterations",
    "ends early",
    "foldl",
    "foldr",
    "TensorArray, written and stacked",
    "TensorArray, unstacked and read",
]


@pytest.mark.parametrize("name", TWICE)
def test_second_derivative(name: str) -> None:
    check(gradient(squared_norm(gradient(FUNCTIONS[name]))))


@pytest.mark.parametrize("name", ["foldl", "TensorArray, unstacked and read"])
def test_second_derivative_by_tape(name: str) -> None:
    check(tape(squared_norm(gradient(FUNCTIONS[name]))))


def test_second_derivative_of_a_branch_that_ends_no_process() -> None:
    """XLA aborts where the branches of a Case differ in rank."""
    with pytest.raises(tf.errors.OpError):
        compiled(gradient(squared_norm(gradient(FUNCTIONS["switch_case"]))))(X)


def test_loop_of_an_unknown_number_of_iterations() -> None:
    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.while_loop(lambda y: tf.reduce_sum(y) < 20, lambda y: (y * x + 1,), (x,))[0])

    with pytest.raises(tf.errors.InvalidArgumentError, match="requires a fixed tensor list size"):
        compiled(gradient(f))(X)


# ---- A compiled function in one that is not ----


@pytest.mark.parametrize("name", ["while_loop", "ends early", "nested", "cond"])
def test_compiled_callee(name: str) -> None:
    """Its halves are compiled each for itself: what crosses are tensors."""
    f = FUNCTIONS[name]
    inner = compiled(f)
    np.testing.assert_allclose(
        tf.function(gradient(lambda x: 2 * inner(x)), autograph=False)(X), 2 * gradient(f)(X), rtol=1e-5
    )
