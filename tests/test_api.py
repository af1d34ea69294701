"""tf_symgrad.symbolic_gradient and tf_symgrad.raw_ops: every kind of f, in every place, under every other gradient."""

import doctest
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, types_pb2
from tensorflow.python.eager import backprop_util, context
from tensorflow.python.framework import function as defun

import tf_symgrad
from tf_symgrad import _op, _specs, symbolic_gradient

X = np.array([0.5, -1.0, 2.0], np.float32)
DY = np.array([1.0, 10.0, -2.0], np.float32)
SPEC = tf.TensorSpec([3], tf.float32)


def cubed(x: Any) -> Any:
    return x * x * x


def total(x: Any) -> Any:
    return tf.reduce_sum(cubed(x))


def concrete(f: Callable[..., Any], *specs: Any) -> Any:
    return tf.function(f).get_concrete_function(*(specs or [SPEC]))


# ---- Places: run(f, *x) calls f on tensors of those values and returns NumPy arrays. ----


def in_eager_mode(f: Callable[..., Any], *x: Any) -> Any:
    return tf.nest.map_structure(lambda y: y.numpy(), f(*map(tf.constant, x)))


def in_function(f: Callable[..., Any], *x: Any) -> Any:
    return in_eager_mode(tf.function(f, autograph=False), *x)


def in_autograph(f: Callable[..., Any], *x: Any) -> Any:
    return in_eager_mode(tf.function(lambda *x: f(*x)), *x)


def in_nested_function(f: Callable[..., Any], *x: Any) -> Any:
    inner = tf.function(f, autograph=False)
    return in_function(lambda *x: inner(*x), *x)


def in_cond(f: Callable[..., Any], *x: Any) -> Any:
    def g(*x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x[0]) < 1e9, lambda: f(*x), lambda: tf.nest.map_structure(tf.zeros_like, f(*x)))

    return in_function(g, *x)


def in_while(f: Callable[..., Any], *x: Any) -> Any:
    def g(*x: Any) -> Any:
        shapes = tf.function(f).get_concrete_function(*x).structured_outputs
        start = tf.nest.map_structure(lambda y: tf.zeros(y.shape, y.dtype), shapes)
        return tf.while_loop(lambda i, _: i < 3, lambda i, _: (i + 1, f(*x)), (0, start))[1]

    return in_function(g, *x)


def in_v1_graph(f: Callable[..., Any], *x: Any) -> Any:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        return session.run(f(*map(tf.constant, x)))


PLACES = [in_eager_mode, in_function, in_autograph, in_nested_function, in_cond, in_while, in_v1_graph]
everywhere = pytest.mark.parametrize("run", PLACES, ids=lambda f: f.__name__)
simply = pytest.mark.parametrize("run", [in_eager_mode, in_function, in_v1_graph], ids=lambda f: f.__name__)


# ---- Kinds of f. ----


@defun.Defun(tf.float32)
def typed_defun(x: Any) -> Any:
    return cubed(x)


@defun.Defun()
def untyped_defun(x: Any) -> Any:
    return cubed(x)


class Cube:
    def __call__(self, x: Any) -> Any:
        return cubed(x)

    def method(self, x: Any) -> Any:
        return cubed(x)


def named() -> str:
    f = concrete(cubed)
    f.add_to_graph(tf.compat.v1.get_default_graph())
    named.kept = f  # a function lives as long as its ConcreteFunction
    return tf.compat.as_str(f.name)


KINDS: dict[str, Callable[[], Any]] = {
    "ConcreteFunction": lambda: concrete(cubed),
    "ConcreteFunction of unknown shape": lambda: concrete(cubed, tf.TensorSpec(None, tf.float32)),
    "tf.function": lambda: tf.function(cubed),
    "tf.function with input_signature": lambda: tf.function(cubed, input_signature=[SPEC]),
    "callable": lambda: cubed,
    "lambda": lambda: lambda x: x**3,
    "object": lambda: Cube(),
    "method": lambda: Cube().method,
    "Defun": lambda: typed_defun,
    "untyped Defun": lambda: untyped_defun,
    "name": named,
    "NameAttrList": lambda: attr_value_pb2.NameAttrList(name=named()),
    "AtomicFunction": lambda: concrete(cubed)._inference_function,
    "function with nested functions": lambda: tf.function(lambda x: x * tf.function(tf.square)(x)),
}


@simply
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, run: Any) -> None:
    (dx,) = run(lambda x, dy: symbolic_gradient([x, dy], f=KINDS[kind]()), X, DY)
    np.testing.assert_allclose(dx, 3 * X**2 * DY, rtol=1e-6)


@everywhere
def test_places(run: Any) -> None:
    (dx,) = run(lambda x, dy: symbolic_gradient([x, dy], [tf.float32], cubed, name="somewhere"), X, DY)
    np.testing.assert_allclose(dx, 3 * X**2 * DY, rtol=1e-6)


@everywhere
def test_dy_of_a_scalar_may_be_left_out(run: Any) -> None:
    (dx,) = run(lambda x: symbolic_gradient([x], f=total), X)
    np.testing.assert_allclose(dx, 3 * X**2, rtol=1e-6)


@simply
def test_several_inputs_and_outputs(run: Any) -> None:
    def f(a: Any, b: Any) -> Any:
        return tf.linalg.matvec(a, b), b * b

    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    u, v = np.float32([1, -1]), DY
    da, db = run(lambda *x: symbolic_gradient(x, f=f), a, X, u, v)
    np.testing.assert_allclose(da, np.outer(u, X), rtol=1e-6)
    np.testing.assert_allclose(db, a.T @ u + 2 * X * v, rtol=1e-6)


@simply
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128])
def test_dtypes(dtype: Any, run: Any) -> None:
    def f(x: Any) -> Any:
        y = tf.cast(x, dtype)
        (dy,) = symbolic_gradient([y, tf.ones_like(y)], f=tf.square)
        assert dy.dtype == dtype
        return tf.cast(dy, tf.complex64)

    np.testing.assert_allclose(run(f, X), 2 * X, rtol=1e-2)


@simply
def test_integer_inputs_get_zeros(run: Any) -> None:
    def f(x: Any, i: Any) -> Any:
        return tf.gather(x, i)

    i = np.int32([2, 2, 0])
    dx, di = run(lambda *x: symbolic_gradient(x, f=f), X, i, DY)
    np.testing.assert_allclose(dx, [DY[2], 0, DY[0] + DY[1]])
    assert di.dtype == np.int32
    np.testing.assert_array_equal(di, np.zeros(3))


@simply
def test_input_that_f_ignores_gets_zeros(run: Any) -> None:
    dx, dz = run(
        lambda x, z: symbolic_gradient([x, z, tf.ones_like(x)], f=lambda x, z: x * 2.0), X, np.float32([[7.0]])
    )
    np.testing.assert_allclose(dx, [2, 2, 2])
    np.testing.assert_array_equal(dz, [[0.0]])


def test_optional_parameters_of_a_callable() -> None:
    def f(x: Any, scale: Any = 2.0, *, power: int = 3) -> Any:
        return scale * x**power

    (dx,) = symbolic_gradient([X, DY], f=f)
    np.testing.assert_allclose(dx, 6 * X**2 * DY, rtol=1e-6)
    dx, dscale = symbolic_gradient([X, tf.constant(3.0), DY], f=f)
    np.testing.assert_allclose(dx, 9 * X**2 * DY, rtol=1e-6)
    np.testing.assert_allclose(dscale, np.sum(X**3 * DY), rtol=1e-6)


def test_variadic_callable() -> None:
    (da, db) = symbolic_gradient([X, DY, DY], f=lambda *x: tf.add_n([2 * x[0], x[1] * x[1]]))
    np.testing.assert_allclose(da, 2 * DY)
    np.testing.assert_allclose(db, 2 * DY * DY)


def test_variadic_callable_of_a_scalar_needs_no_cotangent() -> None:
    gradients = symbolic_gradient([X, DY, DY], f=lambda x, *w: tf.reduce_sum(x * w[0] * w[1]))
    np.testing.assert_allclose(gradients[0], DY * DY)
    assert len(gradients) == 3


def test_structures_of_inputs() -> None:
    def f(weights: Any, x: Any) -> Any:
        return weights["w"] * x + weights["b"]

    db, dw, dx = symbolic_gradient([{"w": tf.constant(DY), "b": tf.constant(1.0)}, X, np.ones(3, np.float32)], f=f)
    np.testing.assert_allclose(db, 3.0)
    np.testing.assert_allclose(dw, X)
    np.testing.assert_allclose(dx, DY)


def test_python_values_take_the_dtype_of_f() -> None:
    f = concrete(tf.square, tf.TensorSpec([2], tf.float64))
    (dx,) = symbolic_gradient([[1.0, 2.0], [1.0, 1.0]], f=f)
    assert dx.dtype == tf.float64
    np.testing.assert_allclose(dx, [2.0, 4.0])


@pytest.mark.parametrize("run", [in_eager_mode, in_function, in_autograph], ids=lambda f: f.__name__)
def test_autograph_converts_f(run: Any) -> None:
    def f(x: Any) -> Any:
        n = 0
        for i in tf.range(4):
            n += i
        return x * tf.cast(n, x.dtype)

    (dx,) = run(lambda x, dy: symbolic_gradient([x, dy], f=f), X, DY)
    np.testing.assert_allclose(dx, 6 * DY)


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_floats_of_eight_bits_are_no_numbers_to_tensorflow(run: Any) -> None:
    """Their gradient is zero, as that of integers, and what they are cast to has one."""

    def g(x: Any) -> Any:
        narrow = tf.cast(x, tf.dtypes.experimental.float8_e4m3fn)
        f = concrete(lambda p, x: tf.cast(p, x.dtype) * x, tf.TensorSpec([3], narrow.dtype), SPEC)
        dp, dx = symbolic_gradient([narrow, x, tf.ones_like(x)], f=f)
        assert dp.dtype == narrow.dtype
        return tf.cast(dp, tf.float32), dx

    dp, dx = run(g, X)
    np.testing.assert_allclose(dp, np.zeros(3))
    np.testing.assert_allclose(dx, X)


def test_what_can_have_a_gradient() -> None:
    """What TensorFlow trains, references among it."""
    types = map(tf.as_dtype, types_pb2.DataType.values()[1:])
    values = [dtype for dtype in types if dtype.base_dtype not in (tf.resource, tf.variant)]
    assert [dtype for dtype in values if _specs.continuous(dtype)] == [*filter(backprop_util.IsTrainable, values)]
    assert tf.float32._as_ref in values


# ---- Captures and variables. ----


@simply
def test_captured_tensor(run: Any) -> None:
    def g(x: Any, w: Any) -> Any:
        f = tf.function(lambda x: x * w).get_concrete_function(x)
        (dx,) = symbolic_gradient([x, tf.ones_like(x)], f=f)
        dx_, dw = symbolic_gradient([x, tf.ones_like(x)], f=f, capture_gradients=True)
        return dx, dx_, dw

    dx, dx_, dw = run(g, X, DY)
    np.testing.assert_allclose(dx, DY)
    np.testing.assert_allclose(dx_, DY)
    np.testing.assert_allclose(dw, X)


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_captured_variable(run: Any) -> None:
    v = tf.Variable(DY)
    f = concrete(lambda x: tf.reduce_sum(x * v * v))
    dx, dv = run(lambda x: symbolic_gradient([x], f=f, capture_gradients=True), X)
    np.testing.assert_allclose(dx, DY**2, rtol=1e-6)
    np.testing.assert_allclose(dv, 2 * X * DY, rtol=1e-6)
    assert len(symbolic_gradient([X], [tf.float32], f)) == 1
    assert len(symbolic_gradient([X], [tf.float32, tf.float32], f)) == 1


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_variable_as_input(run: Any) -> None:
    v = tf.Variable(DY)
    by_value = run(lambda x: symbolic_gradient([x, v], f=lambda x, v: tf.reduce_sum(x * v)), X)
    f = concrete(lambda x, v: tf.reduce_sum(x * v.read_value()), SPEC, v)
    by_reference = run(lambda x: symbolic_gradient([x, v], f=f), X)
    for dx, dv in (by_value, by_reference):
        np.testing.assert_allclose(dx, DY)
        np.testing.assert_allclose(dv, X)


# ---- What is wanted, and what there is. ----


@simply
def test_wrt(run: Any) -> None:
    (dy,) = run(
        lambda x, y: symbolic_gradient([x, y], f=lambda x, y: tf.reduce_sum(x * y**2), wrt=[False, True]), X, DY
    )
    np.testing.assert_allclose(dy, 2 * X * DY, rtol=1e-6)


def test_wrt_of_another_length() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="1 input .* wrt has 2"):
        symbolic_gradient([X], f=total, wrt=[True, False])


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_unconnected_gradients(run: Any) -> None:
    """A path that does not exist can be told from zero."""

    def f(x: Any, y: Any, i: Any, z: Any) -> Any:
        return tf.reduce_sum(x * 0.0 + tf.stop_gradient(y)) + tf.cast(i, tf.float32)

    def call(x: Any, y: Any) -> Any:
        gradients = symbolic_gradient([x, y, 3, y], f=f, unconnected_gradients="none")
        assert [dx is None for dx in gradients] == [False, True, True, True]
        return gradients[0], symbolic_gradient([x, y, 3, y], f=f)

    dx, all_four = run(call, X, DY)
    np.testing.assert_array_equal(dx, np.zeros(3))
    assert all(not np.any(dx) for dx in all_four)
    with pytest.raises(ValueError, match="nothing"):
        symbolic_gradient([X], f=total, unconnected_gradients="nothing")


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_gradients_of_variables(run: Any) -> None:
    """In the order that is asked for, whatever that of the captures."""
    a, b, unread = tf.Variable(DY), tf.Variable(2.0), tf.Variable(1.0)
    kernel = tf.keras.Variable(3.0)
    f = concrete(lambda x: tf.reduce_sum(b * x * a + kernel))

    def call(x: Any) -> Any:
        dx, da, none, db, dk = symbolic_gradient([x], f=f, variables=[a, unread, b, kernel])
        assert none is None
        return dx, da, db, dk

    dx, da, db, dk = run(call, X)
    np.testing.assert_allclose(dx, 2 * DY)
    np.testing.assert_allclose(da, 2 * X)
    np.testing.assert_allclose(db, np.sum(X * DY), rtol=1e-6)
    np.testing.assert_allclose(dk, 3.0)
    with pytest.raises(ValueError, match="capture_gradients or variables"):
        symbolic_gradient([X], f=f, variables=[a], capture_gradients=True)
    with pytest.raises(TypeError, match="must be a list of variables"):
        symbolic_gradient([X], f=f, variables=[X])


def table() -> Any:
    keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
    return tf.lookup.StaticHashTable(keys, 0.0)


def read_table(table: Any) -> Callable[..., Any]:
    return lambda x: tf.reduce_sum(x * table.lookup(tf.constant(["a", "b", "a"])))


# A function keeps neither of these two: their owners must live.
QUEUE = tf.queue.FIFOQueue(20, [tf.float32], [[3]])


def read_queue() -> Callable[..., Any]:
    for _ in range(10):
        QUEUE.enqueue([tf.constant([1.0, 2.0, 1.0])])
    return lambda x: tf.reduce_sum(x * QUEUE.dequeue())


def read_strings() -> Callable[..., Any]:
    layer = tf.keras.layers.StringLookup(vocabulary=["a", "b"], num_oov_indices=0)
    return lambda x: tf.reduce_sum(x * tf.cast(layer(tf.constant(["a", "b", "a"])) + 1, tf.float32))


def read_iterator() -> Callable[..., Any]:
    iterator = iter(tf.data.Dataset.from_tensors([1.0, 2.0, 1.0]).repeat())
    return lambda x: tf.reduce_sum(x * next(iterator))


GENERATOR = tf.random.Generator.from_seed(1)


def read_generator() -> Callable[..., Any]:
    return lambda x: tf.reduce_sum(x * [1.0, 2.0, 1.0]) + GENERATOR.uniform([])


RESOURCES: dict[str, Callable[[], Callable[..., Any]]] = {
    "table": lambda: read_table(table()),
    "queue": read_queue,
    "StringLookup": read_strings,
    "iterator": read_iterator,
    "generator": read_generator,
}


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", RESOURCES)
def test_resources_that_are_no_variables(case: str, run: Any) -> None:
    f = concrete(RESOURCES[case]())

    def call(x: Any) -> Any:
        dx, *captured = symbolic_gradient([x], f=f, capture_gradients=True)
        if case != "generator":  # whose state is a variable
            assert None in captured
        return dx

    np.testing.assert_allclose(run(call, X), [1.0, 2.0, 1.0])


def test_iterator_as_an_input() -> None:
    iterator = iter(tf.data.Dataset.from_tensors(tf.constant(DY)).repeat())
    dx, none = symbolic_gradient([X, iterator], f=lambda x, i: tf.reduce_sum(x * next(i)))
    np.testing.assert_allclose(dx, DY)
    assert none is None


@simply
def test_raw_op_with_values(run: Any) -> None:
    f = concrete(lambda a, b: (a * b, tf.argmax(a)), SPEC, SPEC)

    def call(x: Any, y: Any) -> Any:
        return tf_symgrad.raw_ops.SymbolicGradient(
            input=[x, y, tf.ones_like(x), tf.constant(0, tf.int64)],
            Tout=[tf.float32, tf.float32, tf.int64],
            f=f,
            wrt=[False, True],
            values=True,
        )

    db, product, place = run(call, X, DY)
    np.testing.assert_allclose(db, X)
    np.testing.assert_allclose(product, X * DY)
    assert place == 2


def test_raw_op_with_values_needs_wrt() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="with values, wrt must be given"):
        tf_symgrad.raw_ops.SymbolicGradient(
            input=[X, DY], Tout=[tf.float32, tf.float32], f=concrete(cubed), values=True
        )


def test_shape_of_a_variables_gradient_is_known() -> None:
    v = tf.Variable(DY)
    f = concrete(lambda x: tf.reduce_sum(x * v))

    @tf.function
    def g(x: Any) -> Any:
        dx, dv = symbolic_gradient([x], f=f, capture_gradients=True)
        assert dx.shape == dv.shape == [3]
        return dx

    g(X)


@pytest.mark.parametrize("shape", [[3], [None], None, [2, None], []])
def test_static_shapes(shape: Any) -> None:
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, shape)
        (dx,) = symbolic_gradient([x, tf.ones_like(x)], f=tf.square)
        assert dx.shape.as_list() == shape if shape is not None else dx.shape.rank is None


def test_name() -> None:
    with tf.Graph().as_default(), tf.name_scope("scope"):
        (dx,) = symbolic_gradient([tf.constant(1.0)], f=tf.square, name="mine")
        assert dx.op.name == "scope/mine"
        assert dx.op.type == "TfSymgrad>SymbolicGradient"
        (dx,) = symbolic_gradient([tf.constant(1.0)], f=tf.square)
        assert dx.op.name == "scope/SymbolicGradient"


# ---- Gradients of the gradient. ----


def third(x: Any) -> Any:
    """The third derivative of the sum of x^5, one op in another."""

    def first(x: Any) -> Any:
        return symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**5))[0]

    def second(x: Any) -> Any:
        return symbolic_gradient([x], f=lambda x: tf.reduce_sum(first(x)))[0]

    return symbolic_gradient([x], f=lambda x: tf.reduce_sum(second(x)))[0]


@simply
def test_nested(run: Any) -> None:
    np.testing.assert_allclose(run(third, X), 60 * X**2, rtol=1e-5)


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_tape_through_the_op(order: int, run: Any) -> None:
    def derivative(n: int, x: Any) -> Any:
        if n == 1:
            return symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**5))[0]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = derivative(n - 1, x)
        return tape.gradient(y, x)

    factor, power = {2: (20, 3), 3: (60, 2), 4: (120, 1)}[order]
    np.testing.assert_allclose(run(lambda x: derivative(order, x), X), factor * X**power, rtol=1e-5)


@simply
def test_tape_with_respect_to_dy(run: Any) -> None:
    def f(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, dy])
            (dx,) = symbolic_gradient([x, dy], f=cubed)
        return tape.gradient(dx, [x, dy])

    x, dy = run(f, X, DY)
    np.testing.assert_allclose(x, 6 * X * DY, rtol=1e-6)
    np.testing.assert_allclose(dy, 3 * X**2, rtol=1e-6)


def test_tape_around_a_function() -> None:
    g = tf.function(lambda x: symbolic_gradient([x], f=total)[0])
    x = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = g(x)
        dy = tape.gradient(y, x)
    np.testing.assert_allclose(dy, 6 * X, rtol=1e-6)
    np.testing.assert_allclose(outer.gradient(dy, x), [6, 6, 6], rtol=1e-6)


@pytest.mark.parametrize("run", [in_eager_mode, in_function, in_v1_graph], ids=lambda f: f.__name__)
def test_one_function_at_several_shapes(run: Any) -> None:
    f = concrete(lambda x, y: tf.reduce_sum(x * y), tf.TensorSpec(None, tf.float32), tf.TensorSpec(None, tf.float32))

    def g(a: Any, b: Any, s: Any) -> Any:
        results = []
        for x, y in ((a, b), (a, s), (s, b), (a[0], b)):
            dx, dy = symbolic_gradient([x, y], f=f)
            tf.debugging.assert_equal(tf.shape(dx), tf.shape(x))
            d2x = tf.gradients(tf.reduce_sum(dy * dy), x)[0] if not tf.executing_eagerly() else dx
            results.append((dx, dy, d2x))
        return results

    a, b = np.ones((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    results = run(g, a, b, np.float32(2))
    np.testing.assert_allclose(results[0][0], b)
    np.testing.assert_allclose(results[1][0], np.full((2, 3), 2))
    np.testing.assert_allclose(results[1][1], 6)
    np.testing.assert_allclose(results[2][0], b.sum())
    np.testing.assert_allclose(results[3][0], b.sum(0))
    np.testing.assert_allclose(results[3][1], a)


def test_persistent_tape_and_jacobian() -> None:
    x = tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        (dx,) = symbolic_gradient([x], f=total)
    np.testing.assert_allclose(tape.gradient(dx, x), 6 * X, rtol=1e-6)
    np.testing.assert_allclose(tape.jacobian(dx, x, experimental_use_pfor=False), np.diag(6 * X), rtol=1e-6)


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_forward_accumulator(run: Any) -> None:
    def f(x: Any) -> Any:
        tangent = tf.constant(DY)
        with tf.autodiff.ForwardAccumulator(x, tangent) as outer:
            (dx,) = symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**4) * x[0])
            with tf.GradientTape() as tape:
                tape.watch(x)
                (dy,) = symbolic_gradient([x], f=total)
            d2y = tape.gradient(dy, x)
        return outer.jvp(dx), outer.jvp(d2y)

    with tf.GradientTape() as outer:
        x = tf.constant(X)
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(x**4) * x[0]
        dx = inner.gradient(y, x)
    expected = tf.linalg.matvec(outer.jacobian(dx, x), DY)
    jvp, third = run(f, X)
    np.testing.assert_allclose(jvp, expected, rtol=1e-5)
    np.testing.assert_allclose(third, 6 * DY, rtol=1e-6)


WEIGHTS = np.linspace(-1.0, 1.0, 9, dtype=np.float32).reshape(3, 3)
inner_sine = tf.function(lambda x: tf.sin(x) * x, experimental_attributes={"_noinline": True})
BATCHED: dict[str, Callable[..., Any]] = {
    "ops": lambda x, w: tf.reduce_sum(tf.tanh(tf.linalg.matvec(w, x)) ** 2),
    "call": lambda x, w: tf.reduce_sum(inner_sine(tf.linalg.matvec(w, inner_sine(x)))),
    "branch": lambda x, w: tf.cond(x[0] > 0.0, lambda: tf.reduce_sum(w * x), lambda: tf.exp(x[2])),
    "loop": lambda x, w: tf.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(tf.linalg.matvec(w, y))), (0, x)
    )[1][0],
}


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", BATCHED)
def test_vectorized_map(case: str, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.stack([X, DY, X - DY])
    f = tf.function(BATCHED[case], autograph=False)
    batch = run(lambda rows: tf.vectorized_map(lambda x: symbolic_gradient([x, WEIGHTS], f=f), rows), rows)
    expected = [symbolic_gradient([x, WEIGHTS], f=f) for x in rows]
    for got, each in zip(batch, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(got, np.stack(each), rtol=1e-4, atol=1e-5)
    assert "TfSymgrad" not in caplog.text  # "Using a while_loop for converting TfSymgrad>SymbolicGradient"


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_jacobian_by_tape(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    def f(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            (dx,) = symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**3) * x[0])
        return tape.jacobian(dx, x)

    a, b, c = X
    expected = [[12 * a**2, 3 * b**2, 3 * c**2], [3 * b**2, 6 * a * b, 0], [3 * c**2, 0, 6 * a * c]]
    np.testing.assert_allclose(run(f, X), expected, rtol=1e-5)
    assert "TfSymgrad" not in caplog.text


@pytest.mark.parametrize("f", [tf.math.cumprod, lambda x: tf.reduce_prod(x) * tf.reduce_sum(x)])
def test_jacobian_by_tape_of_a_product(f: Any) -> None:
    """Vectorized, each scan and roll goes along its own axis."""
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        (dx,) = symbolic_gradient([x], f=lambda x: tf.reduce_sum(f(x)))
    expected = tf_symgrad.hessian(lambda x: tf.reduce_sum(f(x)))(x)
    np.testing.assert_allclose(tape.jacobian(dx, x), expected, rtol=1e-5)


def test_tf_gradients_twice() -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.constant(X)
        (dx,) = symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**5))
        (d2x,) = tf.gradients(dx, x)
        (d3x,) = tf.gradients(d2x, x)
        d2, d3 = session.run((d2x, d3x))
    np.testing.assert_allclose(d2, 20 * X**3, rtol=1e-5)
    np.testing.assert_allclose(d3, 60 * X**2, rtol=1e-5)


def test_a_graph_with_generated_functions_tells_its_shapes() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.constant(X)
        (dx,) = symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**5))
        tf.gradients(dx, x)
        graph_def = graph.as_graph_def(add_shapes=True)
    generated = [f for f in graph_def.library.function if f.signature.name.startswith("__symgrad_")]
    assert generated
    assert all("_output_shapes" in node.attr for f in generated for node in f.node_def)


def test_tape_through_a_captured_variable() -> None:
    v = tf.Variable(DY)
    f = concrete(lambda x: tf.reduce_sum(x * x * v * v))
    with tf.GradientTape() as tape:
        (dx,) = symbolic_gradient([X], f=f)
    np.testing.assert_allclose(tape.gradient(dx, v), 4 * X * DY, rtol=1e-6)


def test_gradient_in_a_loop_that_is_differentiated() -> None:
    @tf.function
    def descend(x: Any) -> Any:
        for _ in tf.range(3):
            x -= 0.1 * symbolic_gradient([x], f=lambda x: tf.reduce_sum(x * x))[0]
        return x

    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = descend(x)
    np.testing.assert_allclose(y, X * 0.8**3, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(y, x), np.full(3, 0.8**3), rtol=1e-5)


# ---- The raw op, and the package. ----


@everywhere
def test_raw_op(run: Any) -> None:
    f = concrete(cubed)
    (dx,) = run(lambda x, dy: tf_symgrad.raw_ops.SymbolicGradient(input=[x, dy], Tout=[tf.float32], f=f), X, DY)
    np.testing.assert_allclose(dx, 3 * X**2 * DY, rtol=1e-6)


def test_raw_op_takes_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        tf_symgrad.raw_ops.SymbolicGradient([X, DY], [tf.float32], concrete(cubed))


@simply
def test_polymorphic_function(run: Any) -> None:
    definition = function_pb2.FunctionDef()
    definition.signature.name = "polymorphic_square"
    definition.signature.attr.add(name="T", type="type")
    definition.signature.input_arg.add(name="x", type_attr="T")
    definition.signature.output_arg.add(name="y", type_attr="T")
    node = definition.node_def.add(name="square", op="Square", input=["x"])
    node.attr["T"].placeholder = "T"
    definition.ret["y"] = "square:y:0"
    if not context.context().has_function(definition.signature.name):
        context.context().add_function_def(definition)
    f = attr_value_pb2.NameAttrList(name=definition.signature.name)
    f.attr["T"].type = types_pb2.DT_FLOAT
    (dx,) = run(lambda x, dy: symbolic_gradient([x, dy], f=f), X, DY)
    np.testing.assert_allclose(dx, 2 * X * DY, rtol=1e-6)


def test_functions_are_released() -> None:
    def use() -> None:
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            (dx,) = symbolic_gradient([x], f=concrete(lambda x: tf.reduce_sum(tf.tanh(x))))
        tape.gradient(dx, x)

    use()
    before = context.context().list_function_names()
    for _ in range(5):
        use()
    gc.collect()
    assert len(context.context().list_function_names()) <= len(before) + 1


# ---- A callable is traced anew; a tf.function is how to say that it need not be. ----


class Scale:
    """Two of them are equal, whatever they hold."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: Any) -> Any:
        return self.factor * x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale)

    def __hash__(self) -> int:
        return 0


@simply
def test_what_a_callable_reads_may_change(run: Any) -> None:
    factor, scale, held = 2.0, Scale(2.0), {"factor": 2.0}
    callables = [lambda x: factor * x, scale, lambda x: held["factor"] * x]
    for value in (2.0, 5.0):
        factor = scale.factor = held["factor"] = value
        for f in callables:
            (dx,) = run(lambda x, dy: symbolic_gradient([x, dy], f=f), X, DY)  # noqa: B023
            np.testing.assert_allclose(dx, value * DY)
    np.testing.assert_allclose(symbolic_gradient([X, DY], f=Scale(2.0))[0], 2 * DY)


def test_callables_are_not_kept() -> None:
    def use() -> weakref.ref[Any]:
        table = np.ones(1000, np.float32)
        symbolic_gradient([X, DY], f=lambda x: x * tf.reduce_sum(tf.constant(table)))
        return weakref.ref(table)

    kept = use()
    gc.collect()
    assert kept() is None


def test_kernels_of_callables_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow keeps one for each callable that there ever was. They go many at a time, without being asked."""
    let_go, times = _op.let_kernels_go, list[int]()
    monkeypatch.setattr(_op, "let_kernels_go", lambda: let_go() or times.append(1))
    monkeypatch.setattr(_op, "_kernels", _op._Kernels())
    for k in range(300):
        (dx,) = symbolic_gradient([X, DY], f=lambda x, c=float(k): c * x)
    np.testing.assert_allclose(dx, 299 * DY)
    assert len(times) == 2


@simply
def test_outputs_of_dtypes_without_gradient(run: Any) -> None:
    def f(x: Any, name: Any = None) -> Any:
        return tf.square(x, name), tf.strings.as_string(x), tf.argmax(x)

    (dx,) = run(lambda x, dy: symbolic_gradient([x, dy, ["", "", ""], tf.constant(0, tf.int64)], f=f), X, DY)
    np.testing.assert_allclose(dx, 2 * X * DY)


def test_load_registers_the_gradient() -> None:
    code = (
        "import tensorflow as tf, tf_symgrad; ops = tf_symgrad.load();"
        "f = tf.function(lambda x: x**3).get_concrete_function(tf.TensorSpec([]))\n"
        "with tf.GradientTape() as tape:\n"
        "  x = tf.Variable(2.0)\n"
        "  dx = ops.tf_symgrad_symbolic_gradient(input=[x, 1.0], Tout=[tf.float32], f=f)\n"
        "assert tape.gradient(dx, x).numpy() == 12"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_is_cheap() -> None:
    code = (
        "import sys, tf_symgrad; assert 'tensorflow' not in sys.modules; print(tf_symgrad.__version__, dir(tf_symgrad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(tf_symgrad.__version__)
    assert "symbolic_gradient" in done.stdout


def test_gradient_function() -> None:
    f = concrete(lambda a, b: tf.tanh(a * b), SPEC, SPEC)
    name, library = tf_symgrad.gradient_function(f, wrt=[False, True])
    definition = next(g for g in library.function if g.signature.name == name)
    assert len(definition.signature.input_arg) == 3
    assert len(definition.signature.output_arg) == 1
    assert {node.op for node in definition.node_def} == {"Mul", "Tanh", "TanhGrad"}
    assert tf_symgrad.gradient_function(f, wrt=[False, True]) == (name, library)
    with pytest.raises(tf.errors.InvalidArgumentError, match="2 inputs .* wrt has 1"):
        tf_symgrad.gradient_function(f, wrt=[True])


@pytest.mark.parametrize(
    "function", [symbolic_gradient, tf_symgrad.gradient_function, tf_symgrad.raw_ops.SymbolicGradient]
)
def test_docstrings(function: Any) -> None:
    for section in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert section in function.__doc__
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(recurse=False).find(
        function, "example", globs={"tf": tf, "tf_symgrad": tf_symgrad}
    ):
        assert runner.run(test).failed == 0


@simply
def test_a_primitive_op(run: Any) -> None:
    square = attr_value_pb2.NameAttrList(name="Square")
    square.attr["T"].type = types_pb2.DT_FLOAT
    total = attr_value_pb2.NameAttrList(name="AddN")
    total.attr["T"].type, total.attr["N"].i = types_pb2.DT_FLOAT, 2

    def gradients(x: Any, dy: Any) -> Any:
        return [*symbolic_gradient([x, dy], f=square), *symbolic_gradient([x, x, dy], f=total)]

    dx, *parts = run(gradients, np.float32([1, 2]), np.float32([1, 10]))
    np.testing.assert_array_equal(dx, [2, 40])
    np.testing.assert_array_equal(parts, [[1, 10]] * 2)


def test_a_primitive_op_without_its_attrs() -> None:
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="'Square': argument 'x' has no valid dtype. Give attr 'T'"
    ):
        symbolic_gradient([tf.constant(1.0), 1.0], f="Square")
