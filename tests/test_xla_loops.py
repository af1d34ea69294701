"""Loops, branches and arrays in functions that XLA compiles: at any order, and in compiled functions of others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import taped
from tf_symgrad import symbolic_gradient

X = tf.constant([0.5, -1.0, 2.0])
SPEC = tf.TensorSpec([3], tf.float32)


def compiled(f: Callable[..., Any], **options: Any) -> Any:
    return tf.function(f, jit_compile=True, autograph=False, **options)


def gradient(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: symbolic_gradient([x], f=f)[0]


def squared_norm(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tf.reduce_sum(tf.square(f(x)))


def check(g: Callable[[Any], Any], x: Any = X) -> None:
    np.testing.assert_allclose(compiled(g)(x), tf.function(g, autograph=False)(x), rtol=1e-4)


# ---- Loops of a number of iterations that is known ----


def power_loop(x: Any, end: Any = 3) -> Any:
    return tf.reduce_sum(tf.while_loop(lambda i, _: i < end, lambda i, y: (i + 1, tf.sin(y) * x), (0, x))[1])


def wrapped_end(x: Any) -> Any:
    """To the 3 that int32 makes of it."""
    return power_loop(x, tf.cast(tf.constant(2**32 + 3, tf.int64), tf.int32))


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


def written_in_a_loop(x: Any) -> Any:
    read, written = tf.TensorArray(tf.float32, 3).unstack(x * x), tf.TensorArray(tf.float32, 3, element_shape=[])

    def body(i: Any, written: Any, y: Any) -> Any:
        return i + 1, written.write(i, tf.sin(read.read(i)) * y), tf.tanh(y + read.read(i))

    return tf.reduce_sum(tf.while_loop(lambda i, *_: i < 3, body, (0, written, x[0]))[1].stack() ** 3)


def map_in_map(x: Any) -> Any:
    return tf.reduce_sum(tf.map_fn(lambda t: tf.reduce_sum(tf.map_fn(lambda u: tf.sin(u * t) * u, x)), x))


def map_in_scan(x: Any) -> Any:
    rows = tf.reshape(tf.concat([x, x * x], 0), [3, 2])
    return tf.reduce_sum(tf.scan(lambda a, r: a * 0.5 + tf.map_fn(lambda t: tf.sin(x[0] * t), r), rows) ** 2)


def cond_in_a_loop(x: Any) -> Any:
    body = lambda i, y: (i + 1, tf.cond(i > 1, lambda: tf.sin(y) * x, lambda: y * y))  # noqa: E731
    return tf.reduce_sum(tf.while_loop(lambda i, _: i < 3, body, (0, x))[1])


def scan_of_two(x: Any) -> Any:
    scanned = tf.scan(lambda a, t: (a[0] * t, a[1] + t * a[0]), x, (x[0], x[0]), reverse=True)
    return tf.add_n([tf.reduce_sum(y) for y in scanned])


def popped(from_a_loop: bool) -> Callable[[Any], Any]:
    """Of a list that has room for more than is pushed, and more than is popped."""

    def f(x: Any) -> Any:
        scalar = tf.zeros([0], tf.int32)
        push = lambda i, xs: (i + 1, tf.raw_ops.TensorListPushBack(input_handle=xs, tensor=x[i] ** 2))  # noqa: E731
        pair = 0, tf.raw_ops.EmptyTensorList(element_shape=scalar, max_num_elements=5, element_dtype=tf.float32)
        if from_a_loop:
            pair = tf.while_loop(lambda i, _: i < 3, push, pair)
        else:
            for _ in range(3):
                pair = push(*pair)
        xs = pair[1]
        xs, a = tf.raw_ops.TensorListPopBack(input_handle=xs, element_shape=scalar, element_dtype=tf.float32)
        xs, b = tf.raw_ops.TensorListPopBack(input_handle=xs, element_shape=scalar, element_dtype=tf.float32)
        return a * tf.sin(b)

    return f


# The tape's gradients of most of these do not compile: its stacks have no fixed size.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "while_loop": power_loop,
    "to what wraps around": wrapped_end,
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
    "map_fn in map_fn": map_in_map,
    "map_fn in scan": map_in_scan,
    "TensorArray in a loop": written_in_a_loop,
    "list, popped": popped(from_a_loop=False),
    "list of a loop, popped": popped(from_a_loop=True),
    "cond in a loop": cond_in_a_loop,
    "map_fn in cond": lambda x: tf.cond(x[0] > 0, lambda: tf.reduce_sum(tf.map_fn(tf.sin, x)), lambda: x[1] ** 2),
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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivative(name: str) -> None:
    check(gradient(squared_norm(gradient(FUNCTIONS[name]))))


BY_TAPE = [
    "nested",
    "map_fn",
    "map_fn in scan",
    "TensorArray in a loop",
    "TensorArray, unstacked and read",
    "switch_case",
]


@pytest.mark.parametrize("name", BY_TAPE)
def test_second_derivative_by_tape(name: str) -> None:
    check(taped(squared_norm(gradient(FUNCTIONS[name]))))


@pytest.mark.parametrize("name", ["while_loop", "ends early", "nested, to the outer counter", "cond, two loops"])
def test_third_derivative(name: str) -> None:
    check(gradient(squared_norm(gradient(squared_norm(gradient(FUNCTIONS[name]))))))


@pytest.mark.parametrize("layer", ["GRU", "LSTM"])
def test_second_derivative_of_keras(layer: str) -> None:
    """Its loop reads variables, and says of its state that the batch is not known."""
    tf.keras.utils.set_random_seed(0)
    cell = getattr(tf.keras.layers, layer)(2)
    cell.build((1, 3, 1))
    check(gradient(squared_norm(gradient(lambda x: tf.reduce_sum(cell(tf.reshape(x, [1, 3, 1])))))))


def test_loop_of_an_unknown_number_of_iterations() -> None:
    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.while_loop(lambda y: tf.reduce_sum(y) < 20, lambda y: (y * x + 1,), (x,))[0])

    with pytest.raises(tf.errors.InvalidArgumentError, match="requires a fixed tensor list size"):
        compiled(gradient(f))(X)


# ---- A compiled function in one that is not ----


def check_callee(f: Callable[[Any], Any], g: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> None:
    """g of a function that calls f, compiled, in a function that is not."""
    inner = compiled(f)
    got = tf.function(g(lambda x: 2 * inner(x)), autograph=False)(X)
    np.testing.assert_allclose(got, tf.function(g(lambda x: 2 * f(x)), autograph=False)(X), rtol=1e-4)


CALLEES = ["while_loop", "ends early", "nested", "map_fn", "scan", "foldl", "map_fn in map_fn", "cond", "switch_case"]


@pytest.mark.parametrize("name", CALLEES)
def test_compiled_callee(name: str) -> None:
    """Its halves are compiled each for itself: what crosses are tensors."""
    check_callee(FUNCTIONS[name], gradient)


@pytest.mark.parametrize("name", ["ends early", "nested", "map_fn", "cond"])
def test_second_derivative_of_a_compiled_callee(name: str) -> None:
    check_callee(FUNCTIONS[name], lambda f: gradient(squared_norm(gradient(f))))


@pytest.mark.parametrize("name", ["map_fn", "cond, two loops"])
def test_compiled_callee_that_differentiates(name: str) -> None:
    """The op in it is left to XLA."""
    check_callee(squared_norm(gradient(FUNCTIONS[name])), gradient)
    check_callee(gradient(squared_norm(gradient(FUNCTIONS[name]))), lambda f: f)
