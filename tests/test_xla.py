"""The op in functions that XLA compiles as a whole (jit_compile=True), where it meets csrc/xla; and in clusters."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import python_gradient
from tf_symgrad import gradient_function, load, raw_ops, symbolic_gradient

ROOT = Path(__file__).resolve().parent.parent
OP = "TfSymgrad>SymbolicGradient"
X = np.array([0.5, -1.0, 2.0], np.float32)
SPEC = tf.TensorSpec([3], tf.float32)


def compiled(f: Callable[..., Any], **options: Any) -> Any:
    return tf.function(f, jit_compile=True, autograph=False, **options)


def normal(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(sum(shape)).standard_normal(shape), tf.float32)


def uniform(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(sum(shape)).uniform(0.5, 2.0, shape), tf.float32)


def cube(x: Any) -> Any:
    return x * x * x


def cubed_gradient(x: Any) -> Any:
    """3 x^2, by the op."""
    return symbolic_gradient([x, tf.ones_like(x)], f=cube)[0]


def check(f: Callable[..., Any], *x: Any) -> None:
    """Compares with what GradientTape computes of a scalar function where XLA compiles that."""
    one = tf.constant(1.0)
    want = compiled(python_gradient(lambda *x: [f(*x)], len(x)))(*x, one)
    got = compiled(lambda *x: symbolic_gradient([*x, one], f=f))(*x)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# ---- Where the tape's gradient compiles, so does the op's. ----


def square_sum(*y: Any) -> Any:
    return tf.add_n([tf.reduce_sum(tf.square(t)) for t in y])


def convolutional(x: Any, w: Any, scale: Any, offset: Any) -> Any:
    y, _, _ = tf.compat.v1.nn.fused_batch_norm(tf.nn.conv2d(x, w, 1, "SAME"), scale, offset)
    return square_sum(tf.nn.avg_pool2d(tf.nn.max_pool2d(tf.nn.relu(y), 2, 2, "VALID"), 2, 2, "SAME"))


def attention(q: Any, k: Any, v: Any) -> Any:
    weights = tf.nn.softmax(tf.einsum("bihd,bjhd->bhij", q, k) / 2)
    return square_sum(tf.einsum("bhij,bjhd->bihd", weights, v))


def positive(a: Any) -> Any:
    return tf.matmul(a, a, transpose_b=True) + 4 * tf.eye(3)


A = normal(3, 3)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
    "perceptron": (
        lambda x, w, b, v: square_sum(tf.nn.gelu(x @ w + b) @ v),
        [A, normal(3, 5), normal(5), normal(5, 2)],
    ),
    "batch norm": (convolutional, [normal(2, 8, 8, 3), normal(3, 3, 3, 4), normal(4), normal(4)]),
    "depthwise": (
        lambda x, w: square_sum(tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")),
        [normal(2, 6, 6, 3), normal(3, 3, 3, 2)],
    ),
    "transposed": (
        lambda x, w: square_sum(tf.nn.conv2d_transpose(x, w, [2, 8, 8, 2], 2)),
        [normal(2, 4, 4, 3), normal(3, 3, 2, 3)],
    ),
    "dilated": (
        lambda x, w: square_sum(tf.nn.conv2d(x, w, 1, "SAME", dilations=2)),
        [normal(1, 8, 8, 3), normal(3, 3, 3, 2)],
    ),
    "attention": (attention, [normal(2, 5, 2, 3), normal(2, 4, 2, 3), normal(2, 4, 2, 3)]),
    "layer norm": (
        lambda x: square_sum(tf.nn.l2_normalize(x - tf.reduce_mean(x, -1, keepdims=True), -1) * [1.0, 2, 3]),
        [A],
    ),
    "gather": (lambda x: square_sum(tf.gather(x, [0, 2, 2]), tf.gather(x, [1, 1], axis=1)), [A]),
    "gather_nd": (lambda x: square_sum(tf.gather_nd(x, [[0, 2], [1, 1]])), [A]),
    "scatter": (lambda x, u: square_sum(tf.tensor_scatter_nd_update(x, [[0], [2]], u)), [A, normal(2, 3)]),
    "cumulative": (
        lambda x: square_sum(tf.cumsum(x, 1, exclusive=True), tf.math.cumprod(x, 1), tf.math.cumulative_logsumexp(x)),
        [A],
    ),
    "cross entropy": (
        lambda x, y: tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(y), x)),
        [A, normal(3, 3) + 1],
    ),
    "sparse cross entropy": (
        lambda x: tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits([1, 0, 2], x)),
        [A],
    ),
    "einsum": (lambda a, b: square_sum(tf.einsum("...ij,jk->...ik", a, b)), [normal(2, 3, 4), normal(4, 5)]),
    "resize": (lambda x: square_sum(tf.image.resize(x, [7, 5])), [normal(1, 4, 4, 2)]),
    "sort": (lambda x: square_sum(tf.sort(x) * [1.0, 2, 3], tf.math.top_k(x, 2)[0]), [A]),
    "cholesky": (lambda a: square_sum(tf.linalg.cholesky(positive(a))), [A]),
    "triangular_solve": (
        lambda a, b: square_sum(tf.linalg.triangular_solve(a + 3 * tf.eye(3), b)),
        [A, normal(3, 2)],
    ),
    "solve": (lambda a, b: square_sum(tf.linalg.solve(positive(a), b), tf.linalg.inv(positive(a))), [A, normal(3, 2)]),
    "qr": (lambda a: tf.add_n([tf.reduce_sum(t**3) for t in tf.linalg.qr(a)]), [normal(4, 3)]),
    "svd": (lambda a: square_sum(tf.linalg.svd(a)[0]), [A]),
    "eigh": (lambda a: square_sum(tf.linalg.eigh(positive(a))[0]), [A]),
    "reductions": (
        lambda x: tf.reduce_max(x) + tf.reduce_prod(x) + square_sum(tf.reduce_mean(x, 1), tf.reduce_min(x, 0)),
        [A],
    ),
    "segments": (
        lambda x: square_sum(
            tf.math.unsorted_segment_sum(x, [0, 1, 0], 2),
            tf.math.unsorted_segment_max(x, [0, 1, 0], 2),
            tf.math.unsorted_segment_mean(x, [0, 1, 0], 2),
        ),
        [A],
    ),
    "where": (lambda a, b: square_sum(tf.where(a > 0, a * b, tf.exp(b)), tf.maximum(a, b)), [A, normal(3, 1)]),
    "broadcasting": (lambda a, b: square_sum(a * b + b / a), [uniform(2, 3, 1), normal(4)]),
    "slices": (lambda x: square_sum(x[1:, ::2], tf.slice(x, [0, 1], [2, -1]), x[..., tf.newaxis, -1]), [A]),
    "joins": (
        lambda a, b: square_sum(tf.concat([a, b, a], 1), tf.stack([a, a]), *tf.unstack(b), *tf.split(b, [1, 2, 1], 1)),
        [normal(3, 2), normal(3, 4)],
    ),
    "paddings": (lambda x: square_sum(tf.pad(x, [[1, 2], [0, 1]]), tf.pad(x, [[1, 1], [1, 1]], "REFLECT")), [A]),
    "tiles": (lambda x: square_sum(tf.tile(x, [2, 3]), tf.repeat(x, 3, 1), tf.broadcast_to(x, [2, 3, 3])), [A]),
    "fft": (lambda x: square_sum(tf.abs(tf.signal.rfft(x))), [normal(3, 8)]),
    "complex": (lambda a, b: tf.abs(tf.reduce_sum(tf.complex(a, b) * tf.exp(tf.complex(b, a)))), [A, normal(3, 1)]),
    "special": (
        lambda x: tf.reduce_sum(tf.math.lgamma(x) + tf.math.igamma(x, 2.0) + tf.math.erfinv(x / 3)),
        [uniform(4)],
    ),
    "clip": (lambda x: square_sum(tf.clip_by_value(x, -1, 1), tf.clip_by_norm(x, 1.0), x % 0.3), [A]),
    "dropout": (lambda x: square_sum(tf.nn.experimental.stateless_dropout(x, 0.5, [1, 2])), [A]),
    "casts": (lambda x: square_sum(tf.cast(tf.tanh(tf.cast(x, tf.bfloat16)), tf.float32)), [A]),
    "cond": (lambda x: tf.cond(x[0, 0] > 0, lambda: square_sum(x), lambda: tf.reduce_sum(cube(x))), [A]),
    "switch_case": (
        lambda x: tf.switch_case(
            tf.cast(x[0, 0] > 0, tf.int32), [lambda: square_sum(x), lambda: tf.reduce_sum(cube(x))]
        ),
        [A],
    ),
    "custom gradient": (lambda x: tf.reduce_sum(tf.custom_gradient(lambda y: (y * y, lambda dy: 7 * dy))(x)), [A]),
    "stop_gradient": (lambda x: tf.reduce_sum(tf.stop_gradient(x) * x), [A]),
    "reverse_sequence": (lambda x: square_sum(tf.reverse_sequence(x, [1, 2, 3], 1) * x), [A]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    f, x = FUNCTIONS[name]
    check(f, *x)


# ---- Inputs and outputs ----


def test_one_compilation_for_each_shape() -> None:
    g = compiled(cubed_gradient, input_signature=[tf.TensorSpec(None)])
    for x in X, X[:0], X.reshape(3, 1), X[0], 2 * X:
        np.testing.assert_allclose(g(x), 3 * x**2)


def test_several_outputs_and_unused_inputs() -> None:
    def g(x: Any, n: Any, unused: Any, dy: Any) -> Any:
        return symbolic_gradient([x, n, unused, dy, dy, n], f=lambda x, n, unused: (x * x, tf.exp(x), n + 1))

    n = tf.constant([1, 2])
    dx, dn, dunused = compiled(g)(X, n, normal(2, 2), tf.ones(3))
    np.testing.assert_allclose(dx, 2 * X + np.exp(X), rtol=1e-6)
    np.testing.assert_array_equal(dn, [0, 0])
    np.testing.assert_array_equal(dunused, np.zeros((2, 2)))
    assert dn.dtype == tf.int32


def test_constant_gradients() -> None:
    dx, db = compiled(lambda x, b: symbolic_gradient([x, b], f=lambda x, b: tf.reduce_sum(2 * x) + 3 * b))(X, 1.0)
    np.testing.assert_array_equal(dx, [2, 2, 2])
    assert db == 3


def test_a_gradient_that_is_needed_at_compile_time() -> None:
    def g(x: Any) -> Any:
        _, dn = symbolic_gradient([x, tf.constant([3, 1])], f=lambda x, n: tf.reduce_sum(x))
        return tf.reshape(x, tf.constant([1, 3]) + dn)

    np.testing.assert_array_equal(compiled(g)(X), [X])


def test_raw_op() -> None:
    f = tf.function(cube).get_concrete_function(SPEC)
    (dx,) = compiled(lambda x: raw_ops.SymbolicGradient(input=[x, tf.ones(3)], Tout=[tf.float32], f=f))(X)
    np.testing.assert_allclose(dx, 3 * X**2)


# The first input is differentiated; the others are what XLA must know when it compiles.
AT_COMPILE_TIME = {
    "reshape": (lambda x, shape: square_sum(tf.reshape(x, shape) * [[1.0, 2, 3]]), [[-1, 3]]),
    "reduce_sum": (lambda x, axis: square_sum(tf.reduce_sum(x, axis)), [[0]]),
    "tile": (lambda x, multiples: square_sum(tf.tile(x, multiples)), [[2, 1]]),
    "slice": (lambda x, begin, size: square_sum(tf.slice(x, begin, size)), [[0, 1], [2, -1]]),
    "strided_slice": (lambda x, end: square_sum(x[: end[0], 1 : end[1]]), [[2, 3]]),
    "transpose": (lambda x, order: square_sum(tf.transpose(x, order) * [[1.0], [2], [3], [4]]), [[1, 0]]),
    "pad": (lambda x, paddings: square_sum(tf.pad(x, paddings)), [[[1, 0], [0, 2]]]),
    "split": (lambda x, sizes: square_sum(tf.split(x, sizes, axis=1, num=2)[0]), [[1, 3]]),
    "range": (lambda x, n: square_sum(x[0] * tf.cast(tf.range(n), tf.float32)), [4]),
    "fill": (lambda x, shape: square_sum(x * tf.fill(shape, 2.0)), [[3, 4]]),
    "random": (lambda x, seed: square_sum(x * tf.random.stateless_normal([4], seed)), [[1, 2]]),
}


@pytest.mark.parametrize("name", AT_COMPILE_TIME)
def test_input_that_is_needed_at_compile_time(name: str) -> None:
    f, values = AT_COMPILE_TIME[name]
    x, known = normal(3, 4), [tf.constant(value) for value in values]
    check(lambda x: f(x, *known), x)  # captured by f

    def gradient(inputs: Sequence[Any]) -> Any:
        return compiled(lambda x: symbolic_gradient([x, *inputs], f=f)[0])(x)

    (want,) = compiled(python_gradient(lambda x: [f(x, *known)], 1))(x, tf.constant(1.0))
    for inputs in values, known:
        np.testing.assert_allclose(gradient(inputs), want, rtol=1e-4, atol=1e-5)


# ---- Places ----


def test_in_nested_functions() -> None:
    inner = tf.function(cubed_gradient)
    never_inlined = tf.function(lambda x: inner(x) + 1, experimental_attributes={"_noinline": True})
    np.testing.assert_allclose(compiled(lambda x: never_inlined(x) * inner(x))(X), (3 * X**2 + 1) * 3 * X**2)


def test_compiled_function_in_a_function_that_is_not() -> None:
    inner = compiled(cubed_gradient)
    np.testing.assert_allclose(tf.function(lambda x: inner(x) + inner(2 * x))(X), 15 * X**2)


def test_in_cond() -> None:
    g = compiled(lambda x: tf.cond(x[0] > 0, lambda: cubed_gradient(x), lambda: 2 * cubed_gradient(x)))
    np.testing.assert_allclose(g(X), 3 * X**2)
    np.testing.assert_allclose(g(-X), 6 * X**2)


def test_an_axis_from_the_end_in_a_branch() -> None:
    """XLA looks at what the other branch has in place of what is computed of it, unless that is a constant."""

    def scanned(y: Any) -> Any:
        return y * tf.reduce_mean(tf.math.cumprod(y[:, :3], axis=-1, reverse=True))

    def f(x: Any) -> Any:
        y = tf.reduce_sum(x, 0, keepdims=True) * x
        return tf.reduce_sum(tf.cond(tf.reduce_sum(y) > 0.0, lambda: y, lambda: scanned(y)))

    check(f, uniform(2, 3))


def test_in_switch_case() -> None:
    g = compiled(lambda i, x: tf.switch_case(i, [lambda: cubed_gradient(x), lambda: x, lambda: cubed_gradient(-2 * x)]))
    for i, y in enumerate([3 * X**2, X, 12 * X**2]):
        np.testing.assert_allclose(g(tf.constant(i), X), y)


def test_in_while_loop() -> None:
    g = compiled(lambda n, x: tf.while_loop(lambda i, _: i < n, lambda i, x: (i + 1, cubed_gradient(x) / 3), (0, x))[1])
    np.testing.assert_allclose(g(3, X), X**8, rtol=1e-5)


def test_in_map_fn() -> None:
    g = compiled(lambda x: tf.map_fn(cubed_gradient, x))
    np.testing.assert_allclose(g(tf.stack([X, 2 * X])), [3 * X**2, 12 * X**2])


def test_function_of_the_gradient_calls_functions() -> None:
    layer = tf.function(lambda x: tf.tanh(x) * x)
    never_inlined = tf.function(lambda x: layer(layer(x)), experimental_attributes={"_noinline": True})
    check(lambda x: square_sum(never_inlined(x), layer(x)), tf.constant(X))


# ---- Higher orders ----


def test_op_in_op() -> None:
    def second(x: Any) -> Any:
        return symbolic_gradient([x, tf.ones_like(x)], f=cubed_gradient)[0]

    def third(x: Any) -> Any:
        return symbolic_gradient([x, tf.ones_like(x)], f=second)[0]

    np.testing.assert_allclose(compiled(second)(X), 6 * X, rtol=1e-6)
    np.testing.assert_allclose(compiled(third)(X), [6, 6, 6], rtol=1e-6)


def test_tape_over_op() -> None:
    def g(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = cubed_gradient(x)
        return tape.gradient(y, x)

    np.testing.assert_allclose(compiled(g)(tf.constant(X)), 6 * X, rtol=1e-6)


def test_tape_outside_of_the_compiled_function() -> None:
    g = compiled(cubed_gradient)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = g(x)
    np.testing.assert_allclose(tape.gradient(y, x), 6 * X, rtol=1e-6)


# ---- Variables ----


def test_captured_variables() -> None:
    w, b = tf.Variable(normal(3, 2)), tf.Variable([1.0, 2.0])

    def f(x: Any) -> Any:
        return square_sum(tf.tanh(tf.linalg.matvec(w, x, transpose_a=True) + b))

    def g(x: Any) -> Any:
        return symbolic_gradient([x], f=f, capture_gradients=True)

    def tape(x: Any) -> Any:
        with tf.GradientTape() as t:
            t.watch(x)
            y = f(x)
        return t.gradient(y, [x, w, b])

    step = compiled(g)
    for _ in range(2):
        for a, e in zip(step(tf.constant(X)), tape(tf.constant(X)), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4)
        w.assign_add(tf.ones([3, 2]))


def test_resource_input() -> None:
    v = tf.Variable([1.0, 2.0, 3.0])
    f = tf.function(lambda x, v: tf.reduce_sum(x * v**2)).get_concrete_function(SPEC, v)
    dx, dv = compiled(lambda x: symbolic_gradient([x, v], f=f, capture_gradients=True))(X)
    np.testing.assert_allclose(dx, np.array([1.0, 4.0, 9.0]))
    np.testing.assert_allclose(dv, 2 * X * [1, 2, 3])


def test_variables_that_change_around_the_op() -> None:
    v = tf.Variable(2.0)

    @compiled
    def step(x: Any) -> Any:
        before = symbolic_gradient([x], f=lambda x: tf.reduce_sum(v * x))[0]
        v.assign_add(1.0)
        after = symbolic_gradient([x], f=lambda x: tf.reduce_sum(v * x))[0]
        return before, after

    for k in 2.0, 3.0:
        before, after = step(X)
        np.testing.assert_array_equal(before, [k] * 3)
        np.testing.assert_array_equal(after, [k + 1] * 3)
    assert v.numpy() == 4.0


def test_training_step() -> None:
    w = tf.Variable(normal(3, 1))

    def loss(x: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.square(x @ w - y))

    @compiled
    def step(x: Any, y: Any) -> Any:
        *_, dw = symbolic_gradient([x, y], f=loss, capture_gradients=True)
        w.assign_sub(0.1 * dw)

    x, y = normal(16, 3), normal(16, 3) @ tf.constant([[1.0], [-2.0], [3.0]])
    for _ in range(200):
        step(x, y)
    np.testing.assert_allclose(w.numpy()[:, 0], [1, -2, 3], atol=1e-3)


# ---- Parts that XLA compiles ----


@pytest.fixture
def autoclustering() -> Iterator[None]:
    tf.config.optimizer.set_jit("autoclustering")
    yield
    tf.config.optimizer.set_jit(False)


@pytest.mark.usefixtures("autoclustering")
def test_autoclustering() -> None:
    f = tf.function(lambda x: square_sum(tf.tanh(x @ x) @ x))
    g = tf.function(lambda x: symbolic_gradient([x], f=f)[0])
    (want,) = python_gradient(lambda x: [f(x)], 1)(A, tf.constant(1.0))
    np.testing.assert_allclose(g(A), want, rtol=1e-4, atol=1e-4)


def test_jit_scope() -> None:
    def scoped(x: Any) -> Any:
        with tf.xla.experimental.jit_scope():
            return cubed_gradient(tf.sin(x)) * 2

    np.testing.assert_allclose(tf.function(scoped)(X), 6 * np.sin(X) ** 2, rtol=1e-5)
    check(lambda x: tf.reduce_sum(scoped(x)), tf.constant(X))


def test_compiled_callee_in_a_function_that_is_not_compiled() -> None:
    """Both halves of its gradient are compiled like itself."""
    inner = compiled(lambda x: tf.sin(x) * tf.exp(x))
    f = tf.function(lambda x: tf.reduce_sum(inner(x) * x)).get_concrete_function(SPEC)
    g = tf.function(lambda x: symbolic_gradient([x], f=f)[0])
    (want,) = python_gradient(lambda x: [f(x)], 1)(tf.constant(X), tf.constant(1.0))
    np.testing.assert_allclose(g(X), want, rtol=1e-5)
    _, library = gradient_function(f)
    calls = [node for node in library.function[0].node_def if "PartitionedCall" in node.op]
    assert len(calls) == 2
    assert all(node.attr["_XlaMustCompile"].b for node in calls)


# ---- Errors ----


def without_gradient(x: Any) -> Any:
    return tf.reduce_sum(tf.raw_ops.Bitcast(input=x, type=tf.float32, name="bits"))


def test_op_without_gradient() -> None:
    with pytest.raises(tf.errors.UnimplementedError, match=r"node 'bits' \(op Bitcast"):
        compiled(lambda x: symbolic_gradient([x], f=without_gradient))(X)


def raw(f: Any, *inputs: Any, tout: Sequence[Any] = (tf.float32,)) -> Any:
    """The op as XLA may find it in a graph, without what the package checks beforehand."""
    function = tf.function(f, autograph=False).get_concrete_function(SPEC)

    def g(*inputs: Any) -> Any:
        function.add_to_graph(tf.compat.v1.get_default_graph())
        return load().tf_symgrad_symbolic_gradient(input=inputs, Tout=tout, f=function)

    return compiled(g)(*map(tf.constant, inputs))


def test_op_without_gradient_that_xla_meets() -> None:
    with pytest.raises(tf.errors.UnimplementedError, match=r"node 'bits' \(op Bitcast"):
        raw(without_gradient, X, 1.0)


def test_wrong_calls() -> None:
    np.testing.assert_allclose(raw(cube, X, X)[0], 3 * X**3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"input\[1\] is int32, must be float"):
        raw(cube, X, [1, 2, 3])
    with pytest.raises(tf.errors.InvalidArgumentError, match="input has length 1, needs 2"):
        raw(cube, X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="ncompatible shapes"):
        raw(cube, X, [1.0, 2.0])


def test_ops_that_xla_cannot_compile_are_listed() -> None:
    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.linalg.lu(x)[0]) * tf.linalg.det(x)

    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA can't compile the gradient of function") as error:
        compiled(lambda x: symbolic_gradient([x], f=f))(A)
    assert "node 'Lu': Lu" in str(error.value)
    assert "node 'MatrixDeterminant': MatrixDeterminant" in str(error.value)


def test_shape_that_is_known_at_run_time_only() -> None:
    v = tf.Variable([1, 3])
    g = compiled(lambda x: symbolic_gradient([x], f=lambda x: tf.reduce_sum(tf.reshape(x, v)), capture_gradients=True))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be a compile-time constant"):
        g(X)


# ---- Loading ----


def test_saved_model_in_a_process_that_has_compiled_before(tmp_path: Path) -> None:
    """XLA makes its kernels when it first compiles: the op's comes later here."""
    module = tf.Module()
    module.g = compiled(cubed_gradient, input_signature=[SPEC])
    tf.saved_model.save(module, str(tmp_path))
    code = (
        "import sys, tensorflow as tf, tf_symgrad\n"
        "assert tf.function(lambda x: x + 1, jit_compile=True)(1.0) == 2.0\n"
        "tf_symgrad.load()\n"
        "print(*tf.saved_model.load(sys.argv[1]).g(tf.constant([1.0, 2.0, 3.0])).numpy())\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "3.0 12.0 27.0\n", done.stderr
