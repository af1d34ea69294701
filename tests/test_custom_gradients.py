"""Gradients that Python defines, traced when the op is made and native afterwards,
against GradientTape at order 1 and 2.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import script_ops

import tf_symgrad

Fn = Callable[..., Any]

VECTOR = np.array([0.3, 0.8, 0.5])
OTHER = np.array([0.9, 0.2, 0.7])
MATRIX = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.4], [0.6, 0.8, 0.9]])
LARGE = tf.constant(np.linspace(1.0, 2.0, 300))  # more elements than TensorFlow makes a Const of when it captures


# ---- Custom gradients. None is the true gradient, so that the true one would be noticed. ----


@tf.custom_gradient
def quintuple(x: Any) -> Any:
    return x * 1.0, lambda dy: 5.0 * dy * x


@tf.custom_gradient
def two_by_two(x: Any, y: Any) -> Any:
    def gradient(da: Any, db: Any) -> Any:
        return 2.0 * da * y + db, 3.0 * da + 4.0 * db * x

    return (x + y, x * y), gradient


@tf.custom_gradient
def unconnected(x: Any, y: Any) -> Any:
    return x * y, lambda dy: (7.0 * dy, None)


@tf.custom_gradient
def nested(x: Any) -> Any:
    return quintuple(x) * x, lambda dy: dy * tf.cos(x)


@tf.custom_gradient
def sine(x: Any) -> Any:
    """Its gradient has a gradient of its own, and so on without end."""
    return tf.sin(x), lambda dy: 2.0 * dy * cosine(x)


@tf.custom_gradient
def cosine(x: Any) -> Any:
    return tf.cos(x), lambda dy: -3.0 * dy * sine(x)


@tf.custom_gradient
def made_later(x: Any) -> Any:
    """Its gradient takes what is made of its result."""
    y = tf.exp(x)
    later: list[Any] = []

    def gradient(dy: Any) -> Any:
        return dy * later[0]

    z = tf.identity(y)
    later.append(tf.tanh(z) * y)
    return z, gradient


@tf.custom_gradient
def with_large_constant(x: Any) -> Any:
    return x * 2.0, lambda dy: dy * tf.reduce_sum(LARGE) * x


@tf.custom_gradient
def gathered(table: Any) -> Any:
    def gradient(dy: Any) -> Any:
        return tf.IndexedSlices(3.0 * dy, tf.constant([2, 0, 2]), tf.shape(table))

    return tf.gather(table, [2, 0, 2]), gradient


@tf.custom_gradient
def integer_too(x: Any, n: Any) -> Any:
    return (x * tf.cast(n, x.dtype), n + 1), lambda dy, dn: (dy * x, None)


def checked(x: Any) -> Any:
    return tf.recompute_grad(lambda x: tf.tanh(x) * tf.recompute_grad(lambda x: tf.sin(x) * x)(x))(x)


@tf.custom_gradient
def calls_a_function(x: Any) -> Any:
    return x * 1.0, lambda dy: square_of(x) * dy


@tf.function
def square_of(x: Any) -> Any:
    return 9.0 * x * x


@tf.custom_gradient
def loops(x: Any) -> Any:
    def gradient(dy: Any) -> Any:
        return tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * tf.sin(x)), (0, dy))[1]

    return x * x, gradient


@tf.custom_gradient
def nothing(x: Any) -> Any:
    return x * x, lambda dy: None


# ---- Where they are ----


@tf.function
def inlined(x: Any) -> Any:
    return quintuple(tf.sin(x))


@tf.function(experimental_attributes={"_noinline": True})
def not_inlined(x: Any) -> Any:
    return quintuple(tf.sin(x))


@tf.function
def caller(x: Any) -> Any:
    return not_inlined(inlined(x)) * x


def loop(count: int, body: Fn, *variables: Any) -> Any:
    """The first variable after `count` times body."""
    return tf.while_loop(lambda i, *_: i < count, lambda i, *v: (i + 1, *body(i, *v)), (0, *variables))[1]


def override_in_loop(x: Any) -> Any:
    """Of an op whose own gradient is none."""

    def body(i: Any, total: Any, x: Any) -> Any:
        with tf.compat.v1.get_default_graph().gradient_override_map({"Round": "SymgradTestHalf"}):
            return i + 1, total + tf.round(3.0 * x), tf.sin(x)

    return tf.while_loop(lambda i, *_: i < 3, body, (0, tf.ones_like(x), x))[1]


def gradient_override(x: Any) -> Any:
    with tf.compat.v1.get_default_graph().gradient_override_map({"Tanh": "SymgradTestHalf"}):
        return tf.tanh(x) * x


@tf.RegisterGradient("SymgradTestHalf")
def half(op: Any, dy: Any) -> Any:
    return 0.5 * dy * op.outputs[0]


def silus(x: Any) -> Any:
    """Of several shapes and factors, which may be what they are applied to."""
    y = tf.nn.silu(tf.nn.silu(x, 0.5), 2.0)
    a, b = x[0], tf.reduce_sum(x)
    return tf.nn.silu(y, a) + tf.nn.silu(b, b) + tf.nn.silu(a, b) + tf.nn.silu(a, a) + tf.nn.silu(tf.nn.silu(x[:2])[0])


def by_branch(x: Any) -> Any:
    return tf.cond(x[0] > 0.0, lambda: quintuple(x) * x, lambda: x)


def by_index(x: Any) -> Any:
    return tf.switch_case(tf.cast(x[1] * 2.0, tf.int32), [lambda: x, lambda: quintuple(x) * x, lambda: sine(x)])


def python(x: Any) -> Any:
    y = tf.py_function(lambda x: tf.sin(x) * x if float(tf.reduce_sum(x)) > 0.0 else x, [x], x.dtype)
    return tf.ensure_shape(y, x.shape)


def pythons(x: Any, y: Any) -> Any:
    results = tf.py_function(
        lambda x, n, y: (x * y, n, tf.exp(x) * tf.cast(n, y.dtype)), [x, 3, y], [x.dtype, tf.int32, x.dtype]
    )
    return [tf.ensure_shape(results[0], x.shape), tf.ensure_shape(results[2], x.shape)]


def called_again(x: Any) -> Any:
    f = tf.function(python)
    return f(f(x) + x) * f(x)


def scaled_by(scale: Any) -> Any:
    """A custom gradient that takes what its function does not."""

    @tf.custom_gradient
    def f(x: Any) -> Any:
        return tf.sin(x), lambda dy: dy * scale * x

    return f


def outside_of_loop(x: Any, y: Any) -> Any:
    scale = tf.exp(y)
    return loop(3, lambda i, v: (scaled_by(scale)(v) * x,), x) * y


def outside_of_branch(x: Any, y: Any) -> Any:
    scale = tf.exp(y)
    y1 = tf.cond(x[0] > 0.0, lambda: scaled_by(scale)(x), lambda: x * x)
    return tf.cond(x[0] > 1.0, lambda: scaled_by(scale)(x), lambda: x * y1)


def outside_of_all(x: Any, y: Any) -> Any:
    scale = tf.exp(y)

    def branch(v: Any) -> Any:
        return loop(2, lambda j, u: (scaled_by(scale)(u) * x,), v)

    return loop(3, lambda i, v: (tf.cond(i < 2, lambda: branch(v), lambda: v),), x)


# Name, function, inputs, order.
FUNCTIONS: list[tuple[str, Fn, tuple[Any, ...], int]] = [
    ("alone", lambda x: quintuple(x), (VECTOR,), 2),
    ("in the middle", lambda x: quintuple(tf.sin(x)) * x, (VECTOR,), 2),
    ("twice", lambda x: quintuple(quintuple(x) * x), (VECTOR,), 2),
    ("two inputs, two outputs", lambda x, y: tf.stack(two_by_two(x, y * x)), (VECTOR, OTHER), 2),
    ("one output of two", lambda x, y: two_by_two(x, y)[1] * y, (VECTOR, OTHER), 2),
    ("an input without gradient", lambda x, y: unconnected(x, y) * y, (VECTOR, OTHER), 2),
    ("no gradient at all", lambda x: nothing(x) * x, (VECTOR,), 2),
    ("an integer input and output", lambda x: integer_too(x * x, tf.constant(3))[0], (VECTOR,), 2),
    ("in one another", lambda x: nested(x * 2.0) * x, (VECTOR,), 2),
    ("a gradient with a gradient, without end", lambda x: sine(x) * x, (VECTOR,), 2),
    ("a tensor made later", lambda x: made_later(x) * x, (VECTOR,), 2),
    ("a constant of eager mode", lambda x: with_large_constant(x) * x, (VECTOR,), 2),
    ("rows", lambda x: gathered(x * x) * x, (MATRIX,), 2),
    ("a gradient that calls", lambda x: calls_a_function(x) * x, (VECTOR,), 2),
    ("a gradient that loops", lambda x: loops(x) * x, (VECTOR,), 2),
    ("in a called function", lambda x: inlined(x) * x, (VECTOR,), 2),
    ("in a called function that is not inlined", lambda x: not_inlined(x) * x, (VECTOR,), 2),
    ("in functions that call", lambda x: caller(x) + caller(x * x), (VECTOR,), 2),
    ("in a branch", by_branch, (VECTOR,), 2),
    ("in a branch not taken", lambda x: tf.cond(x[0] > 1.0, lambda: quintuple(x), lambda: x * x), (VECTOR,), 2),
    ("in a case", by_index, (VECTOR,), 2),
    ("in a loop", lambda x: loop(3, lambda i, v: (quintuple(v) * x,), x), (VECTOR,), 2),
    ("in a loop, without end", lambda x: loop(3, lambda i, v: (sine(v) * x,), x), (VECTOR,), 2),
    ("in a loop, in a function", lambda x: loop(2, lambda i, v: (caller(v) * x,), x), (VECTOR,), 2),
    ("in map_fn", lambda x: tf.map_fn(lambda e: quintuple(e) * x[0], x), (VECTOR,), 2),
    ("in vectorized_map", lambda x: tf.vectorized_map(lambda e: quintuple(e) * x[0], x), (VECTOR,), 2),
    ("recompute_grad", lambda x: tf.recompute_grad(lambda x: tf.sin(x) * x)(x), (VECTOR,), 1),
    ("recompute_grad in recompute_grad", lambda x: checked(x) * x, (VECTOR,), 1),
    ("stop_gradient", lambda x: tf.stop_gradient(tf.sin(x)) * x + tf.stop_gradient(x), (VECTOR,), 2),
    ("grad_pass_through", lambda x: tf.grad_pass_through(tf.round)(x * 3.0) * x, (VECTOR,), 2),
    ("gradient_override_map", lambda x: tf.function(gradient_override)(x) + x, (VECTOR,), 2),
    ("gradient_override_map in a loop", lambda x: tf.function(override_in_loop)(x), (VECTOR,), 1),
    ("silu", lambda x: tf.nn.silu(x) * x, (VECTOR,), 2),
    ("silus that share a trace", lambda x: silus(x) * x, (VECTOR,), 2),
    ("optional", lambda x: tf.experimental.Optional.from_value(x * x).get_value() * x, (VECTOR,), 2),
    ("py_function", lambda x: python(x * x) * x, (VECTOR,), 2),
    ("py_function of several", lambda x, y: tf.add_n(pythons(x, y * x)), (VECTOR, OTHER), 2),
    ("py_function, called again", called_again, (VECTOR,), 2),
    ("py_function in a loop", lambda x: loop(3, lambda i, v: (python(v) * x,), x), (VECTOR,), 2),
    ("py_function in map_fn", lambda x: tf.map_fn(lambda e: python(e) * x[0], x), (VECTOR,), 2),
    ("numpy_function", lambda x: tf.numpy_function(np.sin, [x], tf.float64) * x, (VECTOR,), 2),
    ("a tensor from outside of a loop", outside_of_loop, (VECTOR, OTHER), 2),
    ("a tensor from outside of branches", outside_of_branch, (VECTOR, OTHER), 2),
    ("a tensor from outside of a loop in a branch in a loop", outside_of_all, (VECTOR, OTHER), 2),
    (
        "dense ctc",
        lambda x: tf.nn.ctc_loss([[1, 2]], x, [2], [4], logits_time_major=True, blank_index=0),
        (np.linspace(-1.0, 1.0, 12).reshape(4, 1, 3).astype("f") ** 3,),
        1,
    ),
]


@contextlib.contextmanager
def python_called_directly() -> Iterator[None]:
    """What a tape over tf.py_function can't do, it can do over the Python function itself."""
    py_function = tf.py_function
    tf.py_function = lambda f, inputs, _: f(*map(tf.convert_to_tensor, inputs))
    try:
        yield
    finally:
        tf.py_function = py_function


def tape(f: Fn, xs: list[Any], dy: Any) -> list[Any]:
    with tf.GradientTape() as t:
        t.watch(xs)
        y = f(*xs)
    gradients = t.gradient(y, xs, output_gradients=dy)
    return [tf.zeros_like(x) if g is None else tf.convert_to_tensor(g) for g, x in zip(gradients, xs, strict=True)]


def equal(got: list[Any], expected: list[Any]) -> None:
    for a, b in zip(got, expected, strict=True):
        tolerance = 1e-12 if b.dtype == tf.float64 else 1e-5
        np.testing.assert_allclose(tf.convert_to_tensor(a), tf.convert_to_tensor(b), rtol=tolerance, atol=tolerance)


def ramp(y: Any) -> Any:
    return tf.reshape(tf.cast(tf.range(1, 1 + tf.size(y)), y.dtype), tf.shape(y)) / 3.0


@pytest.mark.parametrize(("name", "f", "values", "order"), FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
def test_like_the_tape(name: str, f: Fn, values: tuple[Any, ...], order: int) -> None:
    if f is outside_of_branch and os.environ.get("TF_SYMGRAD_DISABLE_PASS") == "1":
        pytest.skip("Grappler has renamed arguments of the branch before the kernel sees it, but not in our attrs")
    xs = [tf.constant(v) for v in values]
    concrete = tf.function(f).get_concrete_function(*xs)
    dy = ramp(concrete(*xs))

    def native(*xs: Any) -> list[Any]:
        return tf_symgrad.symbolic_gradient([*xs, dy], f=concrete)

    with python_called_directly():
        expected = tape(f, xs, dy)
    in_graph = tf.function(native).get_concrete_function(*xs)
    equal(native(*xs), expected)
    equal(in_graph(*xs), expected)
    if order == 1:
        return

    def total(g: Fn) -> Fn:
        return lambda *xs: tf.add_n([tf.reduce_sum(dx) for dx in g(*xs)])

    with python_called_directly():
        twice = tape(total(lambda *xs: tape(f, list(xs), dy)), xs, None)
    ones = [tf.ones_like(x) for x in xs]
    equal(tf_symgrad.symbolic_gradient([*xs, *ones], f=in_graph), twice)
    equal(tf_symgrad.symbolic_gradient(xs, f=total(native)), twice)
    equal(tape(total(native), xs, None), twice)
    equal(tf.function(lambda *xs: tape(total(native), list(xs), None))(*xs), twice)


# ---- Variables ----


def check_variables(f: Fn, variables: list[tf.Variable]) -> None:
    """A scalar function of a vector and of variables, against the tape: eager, in a graph, and a tape over the op."""
    x = tf.constant(VECTOR)
    concrete = tf.function(f).get_concrete_function(x)
    order = [next(i for i, v in enumerate(variables) if v.handle is c) for c in concrete.captured_inputs]

    def native(x: Any) -> list[Any]:
        return tf_symgrad.symbolic_gradient([x], f=concrete, capture_gradients=True)

    # Over a tf.function a tape does not find the variables that only a custom gradient takes.
    tf.config.run_functions_eagerly(True)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as t:
            t.watch(x)
            y = f(x)
        dx, *dv = t.gradient(y, [x, *variables], unconnected_gradients="zero")
    twice = outer.gradient(dx, [x, *variables], unconnected_gradients="zero")
    tf.config.run_functions_eagerly(False)

    equal(native(x), [dx, *[dv[i] for i in order]])
    equal(tf.function(native)(x), [dx, *[dv[i] for i in order]])
    for run in (native, tf.function(native)):
        with tf.GradientTape() as outer:
            outer.watch(x)
            dx = run(x)[0]
        equal(outer.gradient(dx, [x, *variables], unconnected_gradients="zero"), twice)


def test_a_gradient_of_variables() -> None:
    v, w = tf.Variable(OTHER), tf.Variable(MATRIX)

    @tf.custom_gradient
    def layer(x: Any) -> Any:
        def gradient(dy: Any, variables: Any = None) -> Any:
            assert variables is not None
            scale = {v.ref(): 3.0 * dy * x, w.ref(): 7.0 * dy[:, None] * x * w}
            return tf.linalg.matvec(w, dy) * v, [scale[variable.ref()] for variable in variables]

        return tf.linalg.matvec(w, x) * v, gradient

    check_variables(lambda x: tf.reduce_sum(layer(x * x) * v), [v, w])
    check_variables(lambda x: tf.reduce_sum(tf.function(layer)(x * x) * v), [v, w])
    check_variables(lambda x: tf.reduce_sum(loop(3, lambda i, u: (layer(u) * x,), x) * v), [v, w])


def test_a_variable_that_only_the_gradient_takes() -> None:
    """It reaches the function as one more capture; in a loop, through the loop."""
    strength, v = tf.Variable(OTHER), tf.Variable(OTHER)

    @tf.custom_gradient
    def reversed_gradient(x: Any) -> Any:
        return tf.identity(x), lambda dy: -strength * dy * x

    @tf.function
    def called(x: Any) -> Any:
        return reversed_gradient(x) * x

    check_variables(lambda x: tf.reduce_sum(reversed_gradient(x * v) * x), [v, strength])
    check_variables(lambda x: tf.reduce_sum(called(called(x) * v)), [v, strength])
    check_variables(lambda x: tf.reduce_sum(loop(3, lambda i, u: (called(u) * v,), x)), [v, strength])
    check_variables(lambda x: tf.reduce_sum(tf.cond(x[0] > 0.0, lambda: called(x) * v, lambda: x * v)), [v, strength])


def test_recompute_grad_of_layers() -> None:
    layers = [tf.keras.layers.Dense(3, activation="tanh", dtype="float64") for _ in range(3)]
    for layer in layers:
        layer.build([None, 3])
    x = tf.constant(MATRIX)
    variables = [v.value for layer in layers for v in layer.trainable_variables]
    block = tf.recompute_grad(lambda x: layers[1](layers[0](x)) + x)
    plain = tf.function(lambda x: tf.reduce_sum(layers[2](layers[1](layers[0](x)) + x) ** 2)).get_concrete_function(x)
    saving = tf.function(lambda x: tf.reduce_sum(layers[2](block(x)) ** 2)).get_concrete_function(x)

    def gradients(f: Any) -> dict[int, Any]:
        dx, *dv = tf_symgrad.symbolic_gradient([x], f=f, capture_gradients=True)
        return {-1: dx} | {
            i: d for i, v in enumerate(variables) for c, d in zip(f.captured_inputs, dv, strict=True) if c is v.handle
        }

    got, expected = gradients(saving), gradients(plain)
    assert got.keys() == expected.keys() == {*range(-1, 6)}
    equal([got[i] for i in range(-1, 6)], [expected[i] for i in range(-1, 6)])


# ---- When Python runs ----


def test_python_runs_when_the_gradient_is_made_and_never_again() -> None:
    calls = []

    @tf.custom_gradient
    def counted(x: Any) -> Any:
        def gradient(dy: Any) -> Any:
            calls.append(1)
            return dy * 2.0

        return x * x, gradient

    f = tf.function(lambda x: tf.reduce_sum(counted(x))).get_concrete_function(tf.TensorSpec([3], tf.float64))
    in_graph = tf.function(lambda x: tf_symgrad.symbolic_gradient([x], f=f))
    for i in range(4):
        x = tf.constant(VECTOR + i)
        equal(in_graph(x), [tf.fill([3], 2.0)])
        equal(tf_symgrad.symbolic_gradient([x], f=f), [tf.fill([3], 2.0)])
    assert len(calls) == 1


def test_writes_of_the_gradient_happen() -> None:
    count = tf.Variable(0.0, dtype=tf.float64)

    @tf.custom_gradient
    def counting(x: Any) -> Any:
        def gradient(dy: Any) -> Any:
            before = count.read_value()
            count.assign_add(1.0)
            return dy * (before + 10.0 * count)

        return x * x, gradient

    f = tf.function(lambda x: counting(x) * x).get_concrete_function(tf.TensorSpec([], tf.float64))
    in_graph = tf.function(lambda x: tf_symgrad.symbolic_gradient([x], f=f)[0])
    for i, run in enumerate([in_graph, in_graph, lambda x: tf_symgrad.symbolic_gradient([x], f=f)[0]]):
        equal([run(tf.constant(1.0, tf.float64))], [tf.constant(i + 10.0 * (i + 1) + 1.0, tf.float64)])
    assert count.numpy() == 3.0


def test_equal_gradients_of_tensorflow_are_traced_once() -> None:
    def deep(x: Any) -> Any:
        for i in range(20):
            x = tf.nn.silu(tf.concat([x, x[:1]], 0) if i % 4 == 3 else x)  # of several shapes
        return tf.reduce_sum(x)

    f = tf.function(deep).get_concrete_function(tf.TensorSpec([3], tf.float32))
    _, library = tf_symgrad.gradient_function(f)
    assert sum(g.signature.name.startswith("symgrad_gradient_of") for g in library.function) == 1


def test_an_error_of_the_gradient_is_the_callers() -> None:
    @tf.custom_gradient
    def broken(x: Any) -> Any:
        def gradient(dy: Any) -> Any:
            raise ArithmeticError("no gradient today")

        return x * x, gradient

    with pytest.raises(ArithmeticError, match="no gradient today"):
        tf_symgrad.symbolic_gradient([1.0], f=broken)


def test_a_gradient_of_another_shape_than_the_input() -> None:
    """That of `tf.nn.silu` by betas that are no scalar: a tape returns it, and what it is added to broadcasts."""
    x, betas = tf.constant([0.3, 0.4]), tf.constant([0.3, 0.5])

    def f(x: Any, betas: Any) -> Any:
        return tf.reduce_sum(tf.nn.silu(x, betas) * betas)

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x, betas)
    np.testing.assert_allclose(tf_symgrad.grad(f)(x, betas), tape.gradient(y, x), rtol=1e-6)
    with pytest.raises(tf.errors.UnimplementedError, match=r"input\[2\].*its custom gradient gives has another shape"):
        tf_symgrad.grad(f, wrt=1)(x, betas)

    def by_tape(x: Any, betas: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, betas])
            y = tf.nn.silu(x, betas)
        return tape.gradient(y, [x, betas])

    expected = tf.function(by_tape)(x, betas)
    with tf_symgrad.native():  # is as before
        for e, g in zip(expected, tf.function(by_tape)(x, betas), strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-6)


def test_in_a_version_1_graph() -> None:
    if os.environ.get("TF_SYMGRAD_DISABLE_PASS") == "1":
        pytest.skip("a session's Grappler has taken the custom gradients out of f before the kernel sees f")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x, y = tf.constant(VECTOR), tf.constant(OTHER)
        (dx,) = tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=lambda x: scaled_by(y)(sine(x)) * python(x))
        (ddx,) = tf.gradients(dx, x)
        got = session.run([dx, ddx])
    x, y = tf.constant(VECTOR), tf.constant(OTHER)
    with python_called_directly():
        dx = tape(lambda x: scaled_by(y)(sine(x)) * python(x), [x], tf.ones_like(x))
        ddx = tape(lambda x: tape(lambda x: scaled_by(y)(sine(x)) * python(x), [x], tf.ones_like(x))[0], [x], None)
    equal(got, [*dx, *ddx])


def test_a_python_function_that_is_gone() -> None:
    f = tf.function(python).get_concrete_function(tf.TensorSpec([3], tf.float64))
    (node,) = (n for n in f.function_def.node_def if n.op == "EagerPyFunc")
    script_ops._py_funcs.remove(node.attr["token"].s.decode())
    with pytest.raises(
        tf.errors.UnimplementedError, match=rf"node '{node.name}' \(op EagerPyFunc\): no Python function"
    ):
        tf_symgrad.symbolic_gradient([VECTOR, VECTOR], f=f)


def test_nothing_piles_up_but_what_tensorflow_keeps() -> None:
    """TensorFlow keeps each custom gradient, and with it the graph; of ours the traced function stays beside it."""

    def use() -> None:
        @tf.custom_gradient
        def doubled(x: Any) -> Any:
            return x * 1.0, lambda dy: 2.0 * dy

        f = tf.function(lambda x: tf.reduce_sum(doubled(x))).get_concrete_function(tf.TensorSpec([3], tf.float32))
        tf_symgrad.symbolic_gradient([tf.ones([3])], f=f)

    def functions() -> int:
        gc.collect()
        return len(context.context().list_function_names())

    use()
    before = functions()
    for _ in range(5):
        use()
    assert functions() <= before + 5


# ---- SavedModels ----


class Model(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v = tf.Variable(OTHER)

    @tf.function(input_signature=[tf.TensorSpec([3], tf.float64)])
    def __call__(self, x: Any) -> Any:
        v = self.v

        @tf.custom_gradient
        def scaled(x: Any) -> Any:
            def gradient(dy: Any, variables: Any = None) -> Any:
                return 5.0 * dy * tf.sin(x) * v, [3.0 * dy * x]

            return x * v, gradient

        return tf.reduce_sum(scaled(scaled(x) * quintuple(x)))


def slope(x: Any) -> Any:
    """Python that has a tape of its own."""
    with tf.GradientTape() as t:
        t.watch(x)
        y = tf.reduce_sum(x**3)
    return t.gradient(y, x)


def test_a_tape_in_a_py_function() -> None:
    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.stop_gradient(tf.py_function(slope, [x], x.dtype)) * x)

    x = tf.constant(VECTOR)
    equal(tf_symgrad.symbolic_gradient([x], f=f), [3.0 * x**2])
    equal(tf.function(lambda x: tf_symgrad.symbolic_gradient([x], f=f))(x), [3.0 * x**2])


@tf.custom_gradient
def described(x: Any) -> Any:
    """Two of its outputs can have no cotangent: Python's gradient is told of none."""

    def gradient(dy: Any, dcount: Any, dtext: Any) -> Any:
        assert dcount is None
        assert dtext is None
        return 5.0 * dy

    return (x * 1.0, tf.size(x), tf.constant("text")), gradient


def test_outputs_without_cotangents() -> None:
    def f(x: Any) -> Any:
        y, count, text = described(x)
        return tf.reduce_sum(y) * tf.cast(count, x.dtype) + tf.cast(tf.strings.length(text), x.dtype)

    x = tf.constant(VECTOR)
    equal(tf_symgrad.symbolic_gradient([x], f=f), [np.full(3, 15.0)])


def test_a_saved_model_with_custom_gradients(tmp_path: Path) -> None:
    model, x = Model(), tf.constant(VECTOR)
    expected = tf_symgrad.symbolic_gradient([x], f=model, capture_gradients=True)
    with tf.GradientTape() as t:
        t.watch(x)
        y = model(x)
    equal(expected, t.gradient(y, [x, model.v]))

    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(model, tmp_path, model.__call__, options=options)
    loaded = tf.saved_model.load(tmp_path)
    concrete = loaded.__call__.get_concrete_function()
    signature = loaded.signatures["serving_default"]
    equal(tf_symgrad.symbolic_gradient([x], f=concrete, capture_gradients=True), expected)
    equal(tf_symgrad.symbolic_gradient([x], f=signature, capture_gradients=True), expected)
    in_graph = tf.function(lambda x: tf_symgrad.symbolic_gradient([x], f=concrete, capture_gradients=True))
    equal(in_graph(x), expected)


def test_a_saved_model_without_its_custom_gradients(tmp_path: Path) -> None:
    tf.saved_model.save(Model(), tmp_path, options=tf.saved_model.SaveOptions(experimental_custom_gradients=False))
    loaded = tf.saved_model.load(tmp_path)
    concrete = loaded.__call__.get_concrete_function()
    with pytest.raises((tf.errors.UnimplementedError, LookupError), match=r"custom_gradient"):
        tf_symgrad.symbolic_gradient([VECTOR], f=concrete)


# ---- Ops that only the engine can differentiate, in gradients that Python takes ----


def remainder(x: Any) -> Any:
    """x mod 0.7, whose derivative is 1; TensorFlow has none."""
    return tf.raw_ops.Mod(x=x, y=tf.constant(0.7, tf.float64))


def by_tape(dy: Any, x: Any) -> Any:
    with tf.GradientTape() as t:
        t.watch(x)
        y = remainder(x) * x
    return t.gradient(y, x, output_gradients=dy)


def colored(x: Any) -> Any:
    """TensorFlow declares HSVToRGB to have no gradient."""
    return tf.image.hsv_to_rgb(tf.reshape(x, [1, 1, 3]))[0, 0] * x


def growing(x: Any) -> Any:
    return tf.sin(x) * x


def again(x: Any) -> Any:
    return tf.recompute_grad(growing)(x)


def seven_times(x: Any) -> Any:
    return SEVEN * growing(x)


SEVEN = tf.Variable(7.0, dtype=tf.float64)
AGAIN: dict[str, tuple[Fn, Fn]] = {
    "alone": (again, growing),
    "in one another": (tf.recompute_grad(lambda x: again(x) * x), lambda x: growing(x) * x),
    "in a function": (lambda x: not_inlined_again(x) * x, lambda x: growing(x) * x),
    "in a loop": (lambda x: loop(2, lambda i, v: (again(v) * x,), x), lambda x: growing(growing(x) * x) * x),
    "in a branch": (lambda x: tf.cond(x[0] < 9.0, lambda: again(x), lambda: x), growing),
    "of a variable": (tf.recompute_grad(seven_times), seven_times),
}
not_inlined_again = tf.function(again, experimental_attributes={"_noinline": True})


def derivative(f: Fn, order: int, gradient: Callable[[Fn, Any], Any]) -> Fn:
    if order == 0:
        return f
    lower = derivative(f, order - 1, gradient)
    return lambda x: gradient(lambda x: tf.reduce_sum(lower(x)), x)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("case", AGAIN)
def test_what_is_computed_again_has_all_derivatives(case: str, order: int) -> None:
    """A tape raises NotImplementedError, as TensorFlow wraps the gradient in a gradient that does."""
    f, plain = AGAIN[case]

    def by_tape(f: Fn, x: Any) -> Any:
        return tape(f, [x], None)[0]

    def by_engine(f: Fn, x: Any) -> Any:
        return tf_symgrad.grad(f)(x)

    def built(f: Fn, gradient: Callable[[Fn, Any], Any]) -> Any:
        return tf.function(derivative(f, order, gradient), autograph=False)(tf.constant(VECTOR))

    expected = built(plain, by_tape)
    with pytest.raises((NotImplementedError, AssertionError)):  # the latter in a branch
        built(f, by_tape)
    equal([built(f, by_engine)], [expected])
    with tf_symgrad.native():
        equal([built(f, by_tape)], [expected])


NATIVE: dict[str, tuple[Fn, Fn]] = {
    "recompute_grad": (lambda x: tf.recompute_grad(lambda x: remainder(x) * x)(x), lambda x: remainder(x) * x),
    "recompute_grad, declared to have none": (lambda x: tf.recompute_grad(colored)(x), colored),
    "recompute_grad of a function": (
        lambda x: tf.recompute_grad(lambda x: tf.function(remainder)(x) * x)(x),
        lambda x: remainder(x) * x,
    ),
    "tape": (
        tf.custom_gradient(lambda x: (tf.identity(x), lambda dy: by_tape(dy, x))),
        lambda x: remainder(x) * x,
    ),
    "tf.gradients": (
        tf.custom_gradient(lambda x: (tf.identity(x), lambda dy: tf.gradients(remainder(x) * x, x, dy)[0])),
        lambda x: remainder(x) * x,
    ),
}


@pytest.mark.parametrize("case", NATIVE)
def test_ops_without_gradient_in_python(case: str) -> None:
    f, plain = NATIVE[case]
    x, dy = tf.constant(VECTOR), tf.constant(OTHER)
    got = tf_symgrad.symbolic_gradient([x, dy], f=tf.function(lambda x: f(x * 1.0)).get_concrete_function(x))
    expected = tf_symgrad.symbolic_gradient([x, dy], f=plain)
    assert np.abs(expected[0]).max() > 0.1
    equal(got, expected)


def test_rules_of_the_engine_are_lent_to_traces_alone() -> None:
    test_ops_without_gradient_in_python("recompute_grad")
    x = tf.constant(VECTOR)
    with tf.GradientTape() as t:
        t.watch(x)
        y = remainder(x)
    with pytest.raises(LookupError, match="Mod"):
        t.gradient(y, x)


def test_gradient_of_no_module() -> None:
    def gradient(op: Any, dy: Any) -> Any:
        return 3.0 * dy

    gradient.__module__ = None  # type: ignore[assignment]
    tf.RegisterGradient("SymgradTestOfNoModule")(gradient)
    override = {"Tanh": "SymgradTestOfNoModule"}

    def f(x: Any) -> Any:
        with tf.compat.v1.get_default_graph().gradient_override_map(override):
            return tf.tanh(x)

    @tf.custom_gradient
    def g(x: Any) -> Any:
        def of_g(dy: Any) -> Any:
            return 5.0 * dy

        of_g.__module__ = None  # type: ignore[assignment]
        return tf.identity(x), of_g

    np.testing.assert_allclose(tf_symgrad.symbolic_gradient([VECTOR, OTHER], f=lambda x: g(f(x)))[0], 15 * OTHER)


def test_names_of_traced_gradients_are_those_of_every_process() -> None:
    """No counter is in them: a model saved twice is the same, and two traces of one gradient are one function."""

    def names() -> list[str]:
        @tf.custom_gradient
        def f(x: Any) -> Any:
            return x * 1.0, lambda dy: 7.0 * dy

        concrete = tf.function(lambda x: f(x) * f(2 * x)).get_concrete_function(tf.TensorSpec([3]))
        _, library = tf_symgrad.gradient_function(concrete)
        traced = [g.signature.name for g in library.function if "symgrad_gradient_of" in g.signature.name]
        calls = [n for g in library.function for n in g.node_def if "f" in n.attr]
        return traced or sorted({n.attr["f"].func.name for n in calls})

    first, second = names(), names()
    assert first
    assert first == second
