"""Each kind of f, of argument and of result, in each place: gradients against GradientTape's, products against them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from tests.test_api import in_eager_mode, in_function, in_v1_graph
from tests.test_transforms import in_jit

X = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], np.float32)
W = np.array([0.3, -0.7, 1.1], np.float32)


class Model(tf.Module):
    """A loss of x with a variable; its function is also a signature."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(W)
        self.unread = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def run(self, x: Any) -> Any:
        return {"loss": tf.reduce_sum(tf.tanh(x * self.w) ** 2)}

    def __call__(self, x: Any) -> Any:
        return self.run(x)["loss"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    model = Model()
    tf.saved_model.save(model, path, signatures={"serving_default": model.run})
    return path


def plain(x: Any, w: Any) -> Any:
    return tf.reduce_sum(tf.tanh(x * w) ** 2)


def of_keras(layer: bool) -> tuple[Callable[..., Any], Any]:
    dense = tf.keras.layers.Dense(3, use_bias=False, activation="tanh")
    dense.build([None, 3])
    dense.kernel.assign(np.diag(W))
    model = dense if layer else tf.keras.Sequential([tf.keras.Input([3]), dense])
    return lambda x: tf.reduce_sum(model(x) ** 2), model


def loaded(path: Path) -> tuple[Callable[..., Any], Any]:
    model = tf.saved_model.load(path)
    return lambda x: model.run(x)["loss"], model


def signature(path: Path) -> tuple[Callable[..., Any], Any]:
    model = tf.saved_model.load(path)
    return lambda x: model.signatures["serving_default"](x=x)["loss"], model


def module(f: Callable[[Any], Any]) -> tuple[Callable[..., Any], Any]:
    model = Model()
    return f(model), model


# f(x), whose loss is that of `plain`, and what has its variables.
KINDS: dict[str, Callable[[Path], tuple[Callable[..., Any], Any]]] = {
    "callable": lambda _: module(lambda model: lambda x: plain(x, model.w)),
    "tf.function": lambda _: module(lambda model: tf.function(lambda x: plain(x, model.w))),
    "ConcreteFunction": lambda _: module(
        lambda model: tf.function(lambda x: plain(x, model.w)).get_concrete_function(tf.TensorSpec([2, 3]))
    ),
    "module": lambda _: module(lambda model: model),
    "Keras model": lambda _: of_keras(layer=False),
    "Keras layer": lambda _: of_keras(layer=True),
    "function of a loaded model": loaded,
    "signature of a loaded model": signature,
}
PLACES = [in_eager_mode, in_function, in_jit]
everywhere = pytest.mark.parametrize("run", PLACES, ids=lambda f: f.__name__)


def expected() -> tuple[Any, Any, Any]:
    """The loss, and its gradients by x and w."""
    x, w = tf.constant(X), tf.constant(W)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = plain(x, w)
    return (y, *tape.gradient(y, [x, w]))


def of_weights(gradients: list[Any]) -> Any:
    """The gradient of w, of those of all variables; a layer's kernel has it on its diagonal."""
    (dw,) = [dv for dv in gradients if dv is not None]
    return tf.linalg.diag_part(dw) if dw.shape.rank == 2 else dw


@everywhere
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_functions(kind: str, run: Any, saved: Path) -> None:
    f, owner = KINDS[kind](saved)

    def call(x: Any) -> list[Any]:
        value, (dx, dv) = tf_symgrad.value_and_grad(f, wrt=(0, owner))(x)
        y, pullback = tf_symgrad.vjp(f, x)
        _, tangent = tf_symgrad.jvp(f, [x], [tf.ones_like(x)])
        return [value, dx, of_weights(dv), y, pullback(tf.constant(1.0))[0], tangent]

    y, dx, dw = expected()
    for got, want in zip(run(call, X), [y, dx, dw, y, dx, tf.reduce_sum(dx)], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_in_a_version_1_graph() -> None:
    """Whose variables are made in it."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = Model()
        x = tf.constant(X)
        f = lambda x: plain(x, model.w)  # noqa: E731
        value, (dx, dv) = tf_symgrad.value_and_grad(f, wrt=(0, model))(x)
        tangent = tf_symgrad.jvp(f, [x], [tf.ones_like(x)])[1]
        session.run(tf.compat.v1.global_variables_initializer())
        got = session.run([value, dx, of_weights(dv), tangent])
    y, dx, dw = expected()
    for g, want in zip(got, [y, dx, dw, tf.reduce_sum(dx)], strict=True):
        np.testing.assert_allclose(g, want, rtol=1e-4, atol=1e-6)


SLICES = dict(indices=[2, 0], dense_shape=[4, 3])

# Of x: an argument made of it, and a function of that with a loss like sum(x^2 * 3).
ARGUMENTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "structure": (
        lambda x: {"a": [x, tf.constant(3)], "b": (tf.constant(3.0), None)},
        lambda p: tf.reduce_sum(p["a"][0] ** 2) * p["b"][0],
        lambda d: d["a"][0],
    ),
    "ragged": (
        lambda x: tf.RaggedTensor.from_row_lengths(x, [2, 0]),
        lambda r: 3.0 * tf.reduce_sum(r.flat_values**2),
        lambda d: d.flat_values,
    ),
    "sparse": (
        lambda x: tf.SparseTensor([[0, 0], [0, 2], [1, 1]], x[0], [2, 3]),
        lambda s: 3.0 * tf.reduce_sum(tf.sparse.to_dense(s) ** 2),
        lambda d: tf.stack([d.values, tf.zeros(3)]),
    ),
    "IndexedSlices": (
        lambda x: tf.IndexedSlices(x, tf.constant(SLICES["indices"]), tf.constant(SLICES["dense_shape"])),
        lambda s: 3.0 * tf.reduce_sum(tf.convert_to_tensor(s) ** 2),
        lambda d: d.values,
    ),
    "complex": (
        lambda x: tf.complex(x, 2.0 * x),
        lambda z: 3.0 * tf.reduce_sum(tf.abs(z) ** 2),
        lambda d: tf.math.real(d) + 0.0 * tf.math.imag(d),
    ),
}


@pytest.mark.parametrize("run", [*PLACES, in_v1_graph], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", ARGUMENTS)
def test_kinds_of_arguments(what: str, run: Any) -> None:
    make, f, take = ARGUMENTS[what]

    def call(x: Any) -> list[Any]:
        value, gradient = tf_symgrad.value_and_grad(f)(make(x))
        by_name = tf_symgrad.grad(lambda *, p: f(p), wrt="p")(p=make(x))
        _, pullback = tf_symgrad.vjp(f, make(x))
        return [value, take(gradient), take(by_name), take(pullback(tf.constant(1.0))[0])]

    value, *gradients = run(call, X)
    want = 6 * X if what != "sparse" else np.stack([6 * X[0], np.zeros(3)])
    scale = 5 if what == "complex" else 1
    rows = X[0] if what == "sparse" else X
    np.testing.assert_allclose(value, scale * 3 * np.sum(rows**2), rtol=1e-5)
    for got in gradients:
        np.testing.assert_allclose(got, want, rtol=1e-5)


RESULTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "structure": (lambda x: {"y": [x**2, None, tf.size(x)]}, lambda y: {"y": [tf.ones_like(y["y"][0]), None, None]}),
    "ragged": (lambda x: tf.RaggedTensor.from_row_lengths(x**2, [1, 1]), lambda y: y.with_flat_values(tf.ones([2, 3]))),
    "sparse": (
        lambda x: tf.SparseTensor([[0], [1], [2], [3], [4], [5]], tf.reshape(x**2, [-1]), [6]),
        lambda y: tf.SparseTensor(y.indices, tf.ones([6]), y.dense_shape),
    ),
    "IndexedSlices": (
        lambda x: tf.IndexedSlices(x**2, tf.constant([0, 1]), tf.constant([4, 3])),
        lambda y: tf.IndexedSlices(tf.ones([2, 3]), y.indices, y.dense_shape),
    ),
}


@pytest.mark.parametrize("run", [*PLACES, in_v1_graph], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", RESULTS)
def test_kinds_of_results(what: str, run: Any) -> None:
    f, ones = RESULTS[what]

    def call(x: Any) -> list[Any]:
        y, pullback = tf_symgrad.vjp(f, x)
        _, tangent = tf_symgrad.jvp(f, [x], [tf.ones_like(x)])
        parts = [t for t in tf.nest.flatten(tangent, expand_composites=True) if t is not None]
        (moved,) = [t for t in parts if t.dtype == tf.float32]
        return [pullback(ones(y))[0], tf.reshape(moved, [2, 3])]

    for got in run(call, X):
        np.testing.assert_allclose(got, 2 * X, rtol=1e-5)


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_variables_as_arguments(run: Any) -> None:
    """They have gradients, and tangents, like tensors, wherever they are in an argument."""
    v, keras, owner = tf.Variable(W), tf.keras.Variable(W), Model()

    def f(p: Any, k: Any, m: Any) -> Any:
        return tf.reduce_sum(p["x"] * p["v"] * tf.convert_to_tensor(k) ** 2 * m.w)

    def call(x: Any) -> list[Any]:
        dp, dk, dm = tf_symgrad.grad(f, wrt=(0, 1, 2))({"v": v, "x": x}, keras, owner)
        pulled = tf_symgrad.vjp(f, {"v": v, "x": x}, keras, owner)[1](tf.constant(1.0))
        _, tangent = tf_symgrad.jvp(lambda p, k: f(p, k, owner), [{"v": v, "x": x}, keras], [{"v": x[0], "x": None}, W])
        flat = [dp["v"], dp["x"], dk, of_weights(dm)]
        return [*flat, pulled[0]["v"], pulled[0]["x"], pulled[1], of_weights(pulled[2]), tangent]

    *got, tangent = run(call, X)
    column, power = X.sum(0), W**3
    want = [column * power, np.tile(W**4, (2, 1)), 2 * column * power, column * power]
    for g, w in zip(got, [*want, *want], strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tangent, np.sum(want[0] * X[0]) + np.sum(want[2] * W), rtol=1e-5)


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_jacobians_of_structures(run: Any) -> None:
    def f(p: Any, scale: Any) -> Any:
        return {
            "product": p["a"] * p["b"][0],
            "sum": scale * tf.reduce_sum(p["a"]),
            "constant": tf.constant([1.0, 2.0]),
        }

    def call(x: Any) -> list[Any]:
        p = {"a": x[0], "b": [x[1]]}
        of_p = tf_symgrad.jacobian(f)(p, scale=tf.constant(2.0))
        of_scale = tf_symgrad.jacobian(f, wrt="scale")(p, scale=tf.constant(2.0))
        hessian = tf_symgrad.hessian(lambda p: tf.reduce_sum(p["a"] ** 2 * p["b"][0]))(p)
        flat = tf.nest.flatten(of_p), tf.nest.flatten(of_scale), tf.nest.flatten(hessian)
        return [x for part in flat for x in part]

    got = run(call, X)
    a, b, zero = X[0], X[1], np.zeros
    want = [zero((2, 3)), zero((2, 3)), np.diag(b), np.diag(a), np.full(3, 2.0), zero(3)]  # by the names of results
    want += [zero(2), zero(3), np.sum(a)]
    want += [np.diag(2 * b), np.diag(2 * a), np.diag(2 * a), zero((3, 3))]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


@everywhere
def test_dropout_draws_once(run: Any) -> None:
    """The gradient is that of the draw that the value was computed with: in a Keras model, too."""
    model = tf.keras.Sequential([tf.keras.Input([1000]), tf.keras.layers.Dropout(0.5)])

    def call(x: Any) -> list[Any]:
        f = lambda x: tf.reduce_sum(model(x, training=True))  # noqa: E731
        value, dx = tf_symgrad.value_and_grad(f)(x)
        y, pullback = tf_symgrad.vjp(f, x)
        return [value, tf.reduce_sum(dx), y, tf.reduce_sum(pullback(tf.constant(1.0))[0]), tf.reduce_min(dx)]

    value, total, y, pulled, least = run(call, np.ones([1, 1000], np.float32))
    np.testing.assert_allclose(value, total, rtol=1e-6)
    np.testing.assert_allclose(y, pulled, rtol=1e-6)
    assert least == 0.0


def test_per_example_says_when_it_makes_a_loop(caplog: pytest.LogCaptureFixture) -> None:
    def f(w: Any, x: Any) -> Any:
        return tf.reduce_sum(w * tf.raw_ops.Lu(input=tf.linalg.diag(x), output_idx_type=tf.int32)[0])

    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        dw = tf_symgrad.per_example_grad(f)(tf.constant(W), tf.constant(X))
    finally:
        logger.removeHandler(caplog.handler)
    np.testing.assert_allclose(dw, X, rtol=1e-5)
    assert any("Lu" in record.getMessage() for record in caplog.records)
