"""tf_symgrad.enable(): code that stays as it is gets the gradients that it had, built by the engine."""

import collections
import importlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.python.eager import imperative_grad
from tensorflow.python.ops import gradients_util

import tf_symgrad
from tests.spec import Point, possible_dtypes

_enable, _log, _part = (importlib.import_module(f"tf_symgrad.{name}") for name in ("_enable", "_log", "_part"))
pytestmark = pytest.mark.usefixtures("said")
RANDOM = np.random.default_rng(0)
X = tf.constant(RANDOM.normal(size=(3, 4)), tf.float32)


def variable(*shape: int, trainable: bool = True) -> tf.Variable:
    return tf.Variable(RANDOM.normal(size=shape), trainable=trainable, dtype=tf.float32)


W, FROZEN, TABLE = variable(4, 4), variable(4, 4, trainable=False), variable(10, 4)


def watching(f: Callable[[Any], Any], of: Sequence[Any] = (), persistent: bool = False) -> Callable[[Any], Any]:
    """The gradients of f by x and others, by a tape."""

    def gradients(x: Any) -> Any:
        with tf.GradientTape(persistent=persistent) as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, [x, *of])

    return gradients


@tf.custom_gradient  # type: ignore[untyped-decorator]
def times_42(x: Any) -> Any:
    return x * 2, lambda dy: dy * 42 * x


CASES: dict[str, Callable[[Any], Any]] = {}
# Those that are left to Python, and what is said.
LEFT = {
    "forward over reverse": "ForwardAccumulator",
    "a target that is a source": "target is a source",
}


def case(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[f.__name__.replace("_", " ")] = f
    return f


CASES["a tape"] = watching(lambda x: tf.reduce_sum(tf.tanh(x @ W) ** 2) * tf.reduce_mean(x), [W])
CASES["tf.gradients"] = lambda x: tf.gradients(tf.exp(x @ W) * tf.reduce_sum(x), [x, W, TABLE])
CASES["tf.gradients of a variable"] = lambda x: tf.gradients([W, W * x[0, 0]], [W, x])
FLOAT8 = tf.dtypes.experimental.float8_e4m3fn
CASES["eight bits"] = lambda x: tf.gradients(tf.cast(tf.cast(x, FLOAT8), tf.float32) * x, x)
CASES["floor"] = watching(lambda x: tf.floor(x @ W) + tf.stop_gradient(x), [W])
CASES["rows"] = watching(lambda x: x + tf.gather(TABLE, [1, 2, 1]) * tf.gather(TABLE, [[0, 3]] * 3)[:, 0], [TABLE])
CASES["rows and all"] = watching(lambda x: tf.gather(TABLE, [1, 2, 1]) @ W + tf.reduce_sum(TABLE), [TABLE])
CASES["rows of a tensor"] = watching(lambda x: tf.gather(x, [1, 1]) ** 2)
CASES["silu"] = watching(lambda x: tf.nn.silu(tf.nn.silu(x) @ W), [W])
CASES["a branch"] = watching(lambda x: tf.exp(tf.cond(x[0, 0] > 0, lambda: x @ W, lambda: tf.tanh(x))), [W])
CASES["a branch that looks up"] = watching(
    lambda x: tf.cond(x[0, 0] > 9, lambda: tf.gather(TABLE, [1, 2, 1]), lambda: x * 2), [TABLE]
)
CASES["a custom gradient"] = watching(lambda x: tf.sin(times_42(x @ W)), [W])
CASES["zeros of tf.gradients"] = lambda x: tf.gradients(x @ W, [x, W, x * 2], unconnected_gradients="zero")
CASES["hessian"] = lambda x: tf.hessians(tf.reduce_sum(tf.tanh(x @ W)), x)
CASES["stop gradients"] = lambda x: tf.gradients((y := x**2) * x * y, [x, y], stop_gradients=[y])
CASES["inner tensors"] = lambda x: tf.gradients((y := tf.sin(x)) * (z := y * x) + z, [x, y, z])
CASES["cotangents"] = lambda x: tf.gradients([x**2, y := x @ W], [x, y], grad_ys=[x, 2 * x])
CASES["a tensor twice"] = lambda x: tf.gradients([x**2, x * 3, x], [x, x])
CASES["identity_n"] = lambda x: tf.gradients(tf.identity_n([x, W])[0], [x, W])
CASES["batch norm"] = watching(
    lambda x: tf.compat.v1.nn.fused_batch_norm(x[None, None], W[0], W[1], W[2], W[3] ** 2, is_training=False)[0], [W]
)


@case
def a_persistent_tape(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.tanh(x @ W)
        z = y**2
    return tape.gradient(y, x), tape.gradient(z, [W, x]), tape.gradient(z, y)


@case
def nested_tapes(x: Any) -> Any:
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(tf.tanh(x @ W) ** 3)
        dx = inner.gradient(y, x)
        penalty = tf.reduce_sum((tf.norm(dx, axis=1) - 1) ** 2)
    return outer.gradient(penalty, [x, W])


@case
def within_its_own_context(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x**3
        dy = tape.gradient(y, x)
        ddy = tape.gradient(dy, x)
    return dy, ddy, tape.gradient(ddy, x)


@case
def stop_recording(x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        a = x * 2
        with tape.stop_recording():
            b = a * 3
        y = a * b
    return tape.gradient(y, x)


@case
def watched_under_stop_recording(x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        a = x * 2
        with tape.stop_recording():
            b = a * 3
            tape.watch(b)
        y = a * b
    return tape.gradient(y, [x, b])


@case
def watched_by_another_tape(x: Any) -> Any:
    with tf.GradientTape() as outer:
        outer.watch(x)
        a = tf.sin(x)
        with tf.GradientTape() as inner:
            inner.watch(a)
            b = a**3
        da = inner.gradient(b, a)
        y = tf.reduce_sum(da * b)
    return outer.gradient(y, x)


@case
def a_gradient_penalty(x: Any) -> Any:
    """An inner tape watches what an outer one has recorded."""
    with tf.GradientTape(persistent=True) as outer:
        fake = tf.tanh(x @ W)
        mixed = x + 0.3 * (fake - x)
        with tf.GradientTape() as inner:
            inner.watch(mixed)
            score = tf.reduce_sum(tf.sin(mixed @ W) ** 2, axis=1)
        norms = tf.norm(inner.gradient(score, mixed), axis=1)
        loss = tf.reduce_mean(score) + 10.0 * tf.reduce_mean((norms - 1.0) ** 2)
    return outer.gradient(loss, W), outer.gradient(norms, [W, mixed])


@case
def watched_outputs(x: Any) -> Any:
    """One of several outputs of an op that is not on the tape, and outputs of one that is."""
    a, b = tf.split(tf.sin(x), 2, axis=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, a])
        c, d = tf.split(tf.cos(x), 2, axis=1)
        tape.watch(c)
        y = a * b * tf.exp(c) * d
    return tape.gradient(y, [x, a, b, c, d])


@case
def gradients_of_gradients(x: Any) -> Any:
    y = tf.tanh(x @ W) ** 3
    (dx,) = tf.gradients(y, x)
    (ddx,) = tf.gradients(dx * dx, x)
    return dx, ddx, tf.gradients(ddx, [x, W])


@case
def jacobians_of_gradients(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape(persistent=True) as inner:
            h = 2.0 * x
            inner.watch(h)
            y = tf.reduce_sum(tf.tanh(h @ W) ** 3, axis=1)
        dh = inner.gradient(y, h)
    return outer.jacobian(dh, x), outer.batch_jacobian(dh, x), outer.jacobian(dh, W)


@case
def reset(x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        a = x * 2
        tape.reset()
        tape.watch(x)
        y = a * x
    return tape.gradient(y, x)


@case
def before_and_after(x: Any) -> Any:
    before, read = x * 3, W.read_value()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = (before + x) @ W + tf.reduce_sum(read)
    after = y * 2
    return tape.gradient(y, [x, W]), tape.gradient(after, [x, W])


@case
def unwatched_variables(x: Any) -> Any:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(W)
        y = x @ W @ FROZEN
    return tape.gradient(y, [x, W, FROZEN])


@case
def untrainable(x: Any) -> Any:
    return watching(lambda x: x @ W @ FROZEN, [W, FROZEN])(x)


@case
def zeros_of_a_tape(x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x**2
    return tape.gradient(y, [x, W], unconnected_gradients="zero")


@case
def several_targets(x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = [x**2, tf.sin(x @ W), tf.cast(tf.round(x), tf.int32)]
    return tape.gradient(y[:2], [x, W], output_gradients=[2 * x, x])


@case
def a_target_that_is_a_source(x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x**2
    return tape.gradient([x, y], [x])


@case
def jacobians(x: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.sin(x @ W)
    return tape.jacobian(y, x), tape.batch_jacobian(y, x)


@case
def forward_over_reverse(x: Any) -> Any:
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        dx = watching(lambda x: tf.reduce_sum(x**3))(x)
    return accumulator.jvp(dx)


@case
def a_loop(x: Any) -> Any:
    def f(x: Any) -> Any:
        _, y = tf.while_loop(
            lambda i, _: i < 3, lambda i, y: (i + 1, tf.tanh(y @ W) + x), (0, tf.sin(x)), maximum_iterations=3
        )
        return y * x

    return watching(f, [W])(x)


@case
def a_loop_of_a_tensor_array(x: Any) -> Any:
    def f(x: Any) -> Any:
        array = tf.TensorArray(tf.float32, 3).unstack(x)
        out = tf.TensorArray(tf.float32, 3)
        _, out, h = tf.while_loop(
            lambda i, *_: i < 3,
            lambda i, out, h: (i + 1, out.write(i, h), tf.tanh(h @ W + array.read(i))),
            (0, out, x[:1]),
        )
        return tf.reduce_sum(out.concat() ** 2) + tf.reduce_sum(h)

    return watching(f, [W])(x)


@case
def calls(x: Any) -> Any:
    layer = tf.function(lambda x, y: (tf.tanh(x @ W), y**2), autograph=False)

    def f(x: Any) -> Any:
        y, _ = layer(2 * x, x)
        z, _ = layer(y + x, x)
        return y * z

    y, _ = layer(2 * x, x)
    return watching(f, [W])(x), tf.gradients(y, [x, W])


@case
def across_graphs(x: Any) -> Any:
    y = tf.sin(x)
    inner = tf.function(lambda: tf.gradients(y * 2, x), autograph=False)
    return inner()


def same(expected: Any, got: Any) -> None:
    tf.nest.assert_same_structure(expected, got)
    for e, g in zip(tf.nest.flatten(expected), tf.nest.flatten(got), strict=True):
        assert (e is None) == (g is None)
        assert isinstance(e, tf.IndexedSlices) == isinstance(g, tf.IndexedSlices)
        if e is None:
            continue
        assert e.shape == g.shape
        np.testing.assert_allclose(tf.convert_to_tensor(g), tf.convert_to_tensor(e), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, said: list[str]) -> None:
    expected = tf.function(CASES[name], autograph=False)(X)
    with tf_symgrad.native():
        got = tf.function(CASES[name], autograph=False)(X)
    same(expected, got)
    if name in LEFT:
        assert said
        assert all(LEFT[name] in reason for reason in said)
    else:
        assert not said


@pytest.mark.parametrize("name", ["a tape", "nested tapes", "a branch", "a loop", "calls"])
def test_compiled(name: str, said: list[str]) -> None:
    expected = tf.function(CASES[name], autograph=False, jit_compile=True)(X)
    with tf_symgrad.native():
        got = tf.function(CASES[name], autograph=False, jit_compile=True)(X)
    for e, g in zip(tf.nest.flatten(expected), tf.nest.flatten(got), strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-6)
    assert not said


def test_eager_tapes_over_functions(said: list[str]) -> None:
    def gradients() -> Any:
        f = tf.function(lambda x: tf.reduce_sum(tf.tanh(x @ W) ** 2), autograph=False)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(X)
            dx = watching(f)(X)
            y = f(X) + tf.reduce_sum(dx[0] ** 2)
        with tf.autodiff.ForwardAccumulator(X, tf.ones_like(X)) as accumulator:
            z = f(X)
        return tape.gradient(y, [X, W]), dx, accumulator.jvp(z)

    expected = gradients()
    with tf_symgrad.native():
        got = gradients()
    same(expected, got)
    assert not said


def kinds(f: Callable[[Any], Any]) -> collections.Counter[str]:
    graph = tf.function(f, autograph=False).get_concrete_function(tf.TensorSpec([3, 4])).graph
    return collections.Counter(op.type for op in graph.get_operations())


def test_the_forward_pass_is_in_the_graph_once_and_the_pullback_is_one_call() -> None:
    def f(x: Any) -> Any:
        h = tf.nn.dropout(tf.nn.softmax(x @ W + tf.gather(TABLE, [1, 2, 1])), 0.5)
        return tf.reduce_sum(tf.nn.relu(h @ W) ** 2) + tf.reduce_mean(tf.sqrt(tf.abs(x)))

    forward = kinds(f)
    with tf_symgrad.native():
        both = kinds(watching(f, [W, TABLE]))
    both -= forward
    assert both.pop("PartitionedCall") == 1
    assert set(both) <= {"Const", "Identity"}  # cotangents of one, dense shapes, results


def test_gradients_of_identity_n_are_told_apart_if_somebody_asks() -> None:
    with tf.Graph().as_default(), tf_symgrad.native():
        a, b = tf.constant(1.0), tf.constant(2.0)
        _, d = tf.identity_n([a, b])
        assert gradients_util._GradientsHelper(d, a)[0] is not None
        assert gradients_util._GradientsHelper(d, a, optimize_identity_n=True)[0] is None
        assert gradients_util._GradientsHelper(d, b, optimize_identity_n=True)[0] is not None


def test_equal_constants_are_one_in_a_pullback() -> None:
    def f(x: Any) -> Any:
        for _ in range(5):
            x = tf.sin(0.5 * x) + 2.0 * x
        return x

    with tf_symgrad.native():
        graph = tf.function(watching(f), autograph=False).get_concrete_function(tf.TensorSpec([3, 4])).graph
    pullback = next(f for f in graph.as_graph_def().library.function if "pullback" in f.signature.name)
    assert collections.Counter(node.op for node in pullback.node_def)["Const"] == 2


# Functions of x and a constant.
OF_A_CONSTANT: dict[str, Callable[[Any, Any], Any]] = {
    "a product": lambda x, w: w * tf.sin(x),
    "a power": lambda x, w: tf.abs(x) ** w,
    "a call": lambda x, w: tf.function(lambda x, w: w * tf.sin(x), autograph=False)(x, w),
    "a branch": lambda x, w: tf.cond(x[0, 0] > 0.0, lambda: w * tf.sin(x), lambda: w * tf.cos(x)),
    "a loop": lambda x, w: tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, tf.sin(y * w)), [0, x])[1],
    "a custom gradient": lambda x, w: tf.custom_gradient(lambda x: (x * w, lambda dy: dy * w**3))(x),
    "TensorFlow's custom gradient": tf.nn.silu,
}


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name in OF_A_CONSTANT for shape in ([], [4]) if not shape or "'s" not in name]
)
def test_gradients_are_functions_of_constants(name: str, shape: list[int]) -> None:
    """A tape that watches one may ask how gradients by others change with it."""
    f = OF_A_CONSTANT[name]

    def mixed(x: Any) -> Any:
        w = tf.constant(1.5, shape=shape)
        with tf.GradientTape() as tape:
            tape.watch(w)
            dx = watching(lambda x: f(x, w))(x)
        return tape.gradient(dx, w)

    def by_tf_gradients(x: Any) -> Any:
        w = tf.constant([1.5, 0.5, 2.0, 1.0])
        return tf.gradients(tf.gradients(f(x, w), x), w)

    asked = [mixed, by_tf_gradients] if shape else [mixed]
    expected = [tf.function(g, autograph=False)(X) for g in asked]
    with tf_symgrad.native():
        got = [tf.function(g, autograph=False)(X) for g in asked]
    same(expected, got)
    assert expected[0] is not None


def test_a_constant_that_gradients_took_for_a_number() -> None:
    def ask(of: Callable[[Any], Any], too: bool = False) -> Any:
        def gradient(x: Any) -> Any:
            w = of(tf.constant(1.5))
            y = w * tf.sin(x)
            return tf.gradients(tf.gradients(y, [x, w] if too else [x])[0], w)

        return tf.function(gradient, autograph=False)(X)

    expected = ask(lambda w: w)
    with tf_symgrad.native():
        same(expected, ask(tf.identity))
        same(expected, ask(lambda w: w, too=True))
        with pytest.raises(ValueError, match="'Const:0' is a constant, and taken for a number"):
            ask(lambda w: w)


@pytest.mark.parametrize("by", ["tape", "tf.gradients"])
def test_of_a_graph_that_part_is_read_which_gradients_pass(by: str, monkeypatch: Any, said: list[str]) -> None:
    """Many small gradients in one function cost no more each than one does."""
    serialized, sizes = _part.serialized, []

    def counting(*args: Any) -> Any:
        result = serialized(*args)
        sizes.append(len(graph_pb2.GraphDef.FromString(result[0]).node))
        return result

    monkeypatch.setattr(_part, "serialized", counting)

    def f(x: Any) -> Any:
        for _ in range(8):
            energy = lambda x: tf.reduce_sum(tf.tanh(x @ W) ** 2 * tf.cast(tf.shape(x)[0] + 1, tf.float32))  # noqa: E731
            dx = tf.gradients(energy(x), x)[0] if by == "tf.gradients" else watching(energy)(x)[0]
            x = x - 0.1 * dx
        return x

    expected = tf.function(f, autograph=False)(X)
    with tf_symgrad.native():
        got = tf.function(f, autograph=False)(X)
    same(expected, got)
    assert not said
    assert len(sizes) == 8
    assert len(set(sizes[4:])) == 1, sizes


def test_a_gradient_that_takes_what_is_elsewhere(monkeypatch: Any, said: list[str]) -> None:
    """The whole graph is read for a custom gradient that takes more than the part at hand has."""
    serialized, whole, read = _part.serialized, _part.whole, []
    monkeypatch.setattr(_part, "serialized", lambda *args: (serialized(*args)[0], set()))
    monkeypatch.setattr(_part, "whole", lambda graph: read.append(graph) or whole(graph))
    expected = tf.function(CASES["silu"], autograph=False)(X)
    with tf_symgrad.native():
        got = tf.function(CASES["silu"], autograph=False)(X)
    same(expected, got)
    assert read
    assert not said


def test_masks_are_not_drawn_again_nor_variables_read_again() -> None:
    v = tf.Variable(2.0)

    def f(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.nn.dropout(x, 0.5) * v)
        v.assign(100.0)
        return y, tape.gradient(y, x)

    with tf_symgrad.native():
        y, dx = tf.function(f)(tf.ones([1000]))
    assert set(np.unique(dx)) == {0.0, 4.0}
    assert float(y) == float(tf.reduce_sum(dx))


def fit(model: Callable[[], Any], optimizer: Callable[[], Any], x: Any, **options: Any) -> list[Any]:
    tf.keras.utils.set_random_seed(1)
    built = model()
    built.compile(optimizer(), loss="sparse_categorical_crossentropy", jit_compile=False, **options)
    history = built.fit(x, np.arange(len(x)) % 3, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(history.history["loss"]), *built.get_weights()]


def dense() -> Any:
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [layers.Dense(8, "swish"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(3, "softmax")]
    )


def recurrent() -> Any:
    layers = tf.keras.layers
    return tf.keras.Sequential([layers.Embedding(9, 4), layers.LSTM(5), layers.Dense(3, "softmax")])


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(
    ("model", "x"),
    [(dense, RANDOM.normal(size=(8, 5)).astype(np.float32)), (recurrent, RANDOM.integers(0, 9, (8, 6)))],
    ids=["dense", "recurrent"],
)
def test_keras_fit(model: Any, x: Any, optimizer: str, said: list[str]) -> None:
    def make() -> Any:
        return getattr(tf.keras.optimizers, optimizer)(0.01)

    expected = fit(model, make, x)
    with tf_symgrad.native():
        got = fit(model, make, x)
    for e, g in zip(expected, got, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-6)
    assert not said


@pytest.mark.parametrize("optimizer", ["Adagrad", "Adam", "Ftrl", "GradientDescent", "Momentum", "RMSProp"])
def test_optimizers_of_tensorflow_1(optimizer: str, said: list[str]) -> None:
    """Dense gradients, and rows."""
    x, initial = X.numpy(), W.numpy()

    def weights(resources: bool) -> Any:
        v1 = tf.compat.v1
        with tf.Graph().as_default(), v1.variable_scope("", use_resource=resources):
            w = v1.get_variable("w", initializer=initial)
            table = v1.get_variable("table", initializer=initial)
            loss = tf.reduce_sum(tf.tanh((tf.constant(x) + tf.gather(table, [1, 3, 1])) @ w) ** 2)
            options = {"momentum": 0.9} if optimizer == "Momentum" else {}
            step = getattr(v1.train, f"{optimizer}Optimizer")(0.1, **options).minimize(loss)
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                for _ in range(2):
                    session.run(step)
                return session.run([w, table, loss])

    for resources in (True, False):
        expected = weights(resources)
        with tf_symgrad.native():
            got = weights(resources)
        for e, g in zip(expected, got, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-6)
        assert bool(said) == (not resources)


def test_what_the_engine_can_not_do_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(_log, "_said", set())
    with caplog.at_level(logging.WARNING, "tf_symgrad"), tf_symgrad.native():
        for _ in range(2):
            tf.function(CASES["a target that is a source"], autograph=False)(X)
    records = [r.getMessage() for r in caplog.records if r.name == "tf_symgrad"]
    assert len(records) == 1
    assert "target is a source" in records[0]


def test_it_is_undone() -> None:
    def stock() -> bool:
        return not any(
            hasattr(f, "__wrapped__") for f in (gradients_util._GradientsHelper, imperative_grad.imperative_grad)
        )

    assert stock()
    with tf_symgrad.native():
        assert not stock()
        with tf_symgrad.native():
            assert not stock()
        assert not stock()
        tf_symgrad.disable()
        assert not stock()
    assert stock()
    tf_symgrad.enable()
    tf_symgrad.enable()
    with tf_symgrad.native():
        pass
    assert not stock()
    tf_symgrad.disable()
    assert stock()


def mod(x: Any) -> Any:
    return tf.raw_ops.Mod(x=x, y=tf.constant(0.7))


def test_ops_that_python_has_no_gradient_of(said: list[str]) -> None:
    def of_a_source(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = mod(x) * x
        return tape.gradient([x, y], [x])

    gradients = watching(lambda x: mod(x) * x)
    expected = mod(X) + X
    with tf_symgrad.native():
        same([expected], gradients(X))
        same([expected], tf.function(gradients, autograph=False)(X))
        same([expected], tf.function(lambda x: tf.gradients(mod(x) * x, x), autograph=False)(X))
        assert not said
        same([expected + 1], tf.function(of_a_source, autograph=False)(X))
        assert said  # Python did that, by the engine's rule
        assert gradients_util.ops.gradient_registry.lookup("Sin").__module__.startswith("tensorflow")
    with pytest.raises(LookupError):
        gradients(X)


def test_who_wraps_it_too_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tf_symgrad.enable()
    ours = gradients_util._GradientsHelper
    monkeypatch.setattr(gradients_util, "_GradientsHelper", lambda *args, **kwargs: ours(*args, **kwargs))
    theirs = gradients_util._GradientsHelper
    tf_symgrad.disable()
    assert gradients_util._GradientsHelper is theirs
    assert kinds(CASES["tf.gradients"])["PartitionedCall"] == 0
    monkeypatch.undo()
    monkeypatch.setattr(gradients_util, "_GradientsHelper", ours.__wrapped__)
    monkeypatch.setattr(_enable, "_say", lambda reason: None)


def test_saved(tmp_path: Any) -> None:
    """A model that was saved has what it needs: no program that loads it needs this package."""
    module = tf.Module()
    module.w = tf.Variable([[2.0, 3.0]])

    @tf.function(input_signature=[tf.TensorSpec([None, 2])], autograph=False)  # type: ignore[untyped-decorator]
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.silu(tf.where(x[0, 0] > 0, x * module.w, x)) ** 2)
        gradient = tape.gradient(loss, module.w)
        module.w.assign_sub(0.1 * gradient)
        return gradient

    module.step = step
    with tf_symgrad.native():
        step.get_concrete_function()
        tf.saved_model.save(module, str(tmp_path))
    code = "import sys, tensorflow as tf; m = tf.saved_model.load(sys.argv[1]); print(m.step(tf.ones([3, 2])).numpy())"
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(step(tf.ones([3, 2])).numpy())


def test_threads() -> None:
    results: dict[int, Any] = {}

    def work(k: int) -> None:
        with tf_symgrad.native():
            results[k] = tf.function(CASES["nested tapes"], autograph=False)(X)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = tf.function(CASES["nested tapes"], autograph=False)(X)
    for result in results.values():
        same(expected, result)
    assert len(results) == 4


def test_a_tape_that_has_recorded_what_is_no_op_of_the_graph() -> None:
    """TensorFlow's forward mode records ops that it does not make. What it has traced it keeps, for other tests too."""
    x = tf.constant([[0.3, -0.7, 1.9]], tf.float64)

    def tangent(x: Any) -> Any:
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y = tf.nn.elu(x) * tf.sin(x)
        return accumulator.jvp(y)

    with tf_symgrad.native():
        dy = tf.function(tangent, autograph=False)(x)
    expected = np.where(x > 0, 1, np.exp(x)) * np.sin(x) + np.where(x > 0, x, np.exp(x) - 1) * np.cos(x)
    np.testing.assert_allclose(dy, expected)


def test_a_variable_in_a_loop_in_a_loop() -> None:
    """Second derivatives, of functions that pass the handle of a variable through."""
    v, x, e = tf.Variable(1.0), tf.constant(1.0), 1e-3

    def twice(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, f(y)), (0, x))[1]

    with tf_symgrad.native():
        inner = watching(twice(lambda y: tf.cos(v + y)))
        f = tf.function(twice(lambda y: inner(y)[0]), autograph=False)
        dx, dv = watching(f, [v])(x)

    def step(y: float, v: float) -> float:
        return float(np.sin(v + y) * np.sin(v + np.cos(v + y)))

    def value(y: float, v: float) -> float:
        return step(step(y, v), v)

    np.testing.assert_allclose(dx, (value(1 + e, 1) - value(1 - e, 1)) / (2 * e), rtol=1e-4)
    np.testing.assert_allclose(dv, (value(1, 1 + e) - value(1, 1 - e)) / (2 * e), rtol=1e-4)


def test_a_tape_that_was_begun_before(said: list[str]) -> None:
    def f(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x**2
        with tf_symgrad.native():
            dx = watching(tf.sin)(x)
            assert not said
            return tape.gradient(y, x), dx

    dy, (dx,) = tf.function(f, autograph=False)(X)
    np.testing.assert_allclose(dy, 2 * X)
    np.testing.assert_allclose(dx, tf.cos(X), rtol=1e-6)
    assert "begun before" in said[0]


FAMILIES = ["array", "ctc", "data_flow", "image", "linalg", "list", "math", "nn", "random", "signal", "sparse"]


def kind(gradient: Any) -> str:
    return "none" if gradient is None else "rows" if isinstance(gradient, tf.IndexedSlices) else "dense"


@pytest.mark.parametrize("family", FAMILIES)
def test_none_zeros_and_rows_are_where_they_were(family: str) -> None:
    """Of all cases of all rules."""
    wrong = []
    for case in importlib.import_module(f"tests.cases.{family}").CASES:
        letter = next((letter for letter in "fdchbz" if letter in (case.dtypes or possible_dtypes(case))), None)
        if letter is None or case.op.startswith("TensorArray"):
            continue
        point = Point(case, letter)
        with tf.Graph().as_default():
            x = [tf.compat.v1.placeholder(t.dtype, t.shape) for t in point.x]
            try:
                y = point.f(*x)
                expected = gradients_util._GradientsHelper(y, x)
            except Exception:  # Python has no gradient, or no such op
                continue
            with tf_symgrad.native():
                got = gradients_util._GradientsHelper(y, x)
        if [*map(kind, got)] != [*map(kind, expected)]:
            wrong.append(f"{case} ({letter}): {[*map(kind, got)]}, not {[*map(kind, expected)]}")
    assert not wrong, "\n".join(wrong)
