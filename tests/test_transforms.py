"""value_and_grad, grad, vjp, jvp, linearize, jacobian, hessian, hvp, per_example_grad: every kind of f, in every place,
against GradientTape.
"""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.impl import api

import tf_symgrad
from tests.test_api import in_eager_mode, in_function, in_v1_graph
from tf_symgrad._calls import Call

X = np.array([0.5, -1.0, 2.0], np.float32)
Y = np.array([1.0, 10.0, -2.0], np.float32)


def in_jit(f: Callable[..., Any], *x: Any) -> Any:
    return in_eager_mode(tf.function(f, autograph=False, jit_compile=True), *x)


PLACES = [in_eager_mode, in_function, in_jit, in_v1_graph]
everywhere = pytest.mark.parametrize("run", PLACES, ids=lambda f: f.__name__)
in_tf2 = pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)


def loss(x: Any, y: Any) -> Any:
    return tf.reduce_sum(tf.sin(x) * y**2)


KINDS: dict[str, Callable[[], Any]] = {
    "function": lambda: loss,
    "tf.function": lambda: tf.function(loss),
    "ConcreteFunction": lambda: tf.function(loss).get_concrete_function(
        tf.TensorSpec([3], tf.float32), tf.TensorSpec([3], tf.float32)
    ),
}


# A ConcreteFunction can be called in the graph alone that it was made in.
@pytest.mark.parametrize(
    ("kind", "run"),
    [(kind, run) for kind in KINDS for run in PLACES if (kind, run) != ("ConcreteFunction", in_v1_graph)],
)
def test_value_and_grad(kind: str, run: Any) -> None:
    f = KINDS[kind]()
    value, (dy, dx) = run(lambda x, y: tf_symgrad.value_and_grad(f, wrt=(1, 0))(x, y), X, Y)
    np.testing.assert_allclose(value, np.sum(np.sin(X) * Y**2), rtol=1e-5)
    np.testing.assert_allclose(dx, np.cos(X) * Y**2, rtol=1e-5)
    np.testing.assert_allclose(dy, 2 * np.sin(X) * Y, rtol=1e-5)


@in_tf2
def test_the_forward_pass_runs_once(run: Any) -> None:
    """The gradient is that of the draw that gave the value, and what f does happens once."""
    count = tf.Variable(0)

    def f(x: Any) -> Any:
        count.assign_add(1)
        mask = tf.nn.dropout(tf.ones([1000]), 0.5)
        return tf.reduce_sum(mask * x[0])

    value, dx = run(tf_symgrad.value_and_grad(f), X)
    np.testing.assert_allclose(value, dx[0] * X[0], rtol=1e-5)
    assert count.numpy() == 1
    tf_symgrad.vjp(f, tf.constant(X))[1](tf.constant(1.0))
    y, pullback = tf_symgrad.vjp(f, tf.constant(X))
    for _ in range(2):
        np.testing.assert_allclose(pullback(tf.constant(1.0))[0][0] * X[0], y, rtol=1e-5)


@in_tf2
def test_structures(run: Any) -> None:
    def f(weights: Any, *, x: Any, scale: float = 1.0) -> Any:
        return scale * tf.reduce_sum(weights["w"] * x["x"] + weights["b"][0])

    def call(w: Any, x: Any) -> Any:
        weights = {"w": w, "b": [tf.constant(3.0), tf.constant(1)]}
        g = tf_symgrad.value_and_grad(f, wrt={"of weights": 0, "of x": "x"})
        value, gradients = g(weights, x={"x": x}, scale=2.0)
        assert gradients["of weights"]["b"][1] is None
        b = gradients["of weights"]["b"][0]
        return value, gradients["of weights"]["w"], b, gradients["of x"]["x"]

    value, dw, db, dx = run(call, X, Y)
    np.testing.assert_allclose(value, 2 * (np.sum(X * Y) + 9), rtol=1e-5)
    np.testing.assert_allclose(dw, 2 * Y)
    np.testing.assert_allclose(db, 6)
    np.testing.assert_allclose(dx, 2 * X)


@in_tf2
def test_variables_and_modules(run: Any) -> None:
    class Affine(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b, self.other = tf.Variable(X), tf.Variable(1.0), tf.Variable(5.0)

        def __call__(self, x: Any) -> Any:
            return self.w * x + self.b

    module = Affine()

    def f(x: Any) -> Any:
        return tf.reduce_sum(module(x) ** 2)

    def call(x: Any) -> Any:
        _, (of_module, db) = tf_symgrad.value_and_grad(f, wrt=(module, module.b))(x)
        assert [v is None for v in of_module] == [v is module.other for v in module.trainable_variables]
        return [dv for dv in of_module if dv is not None], db

    gradients, db = run(call, Y)
    with tf.GradientTape() as tape:
        y = f(tf.constant(Y))
    expected = [dv for dv in tape.gradient(y, module.trainable_variables) if dv is not None]
    for got, dv in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, dv, rtol=1e-5)
    np.testing.assert_allclose(db, tape_gradient(f, module.b), rtol=1e-5)


def tape_gradient(f: Any, variable: Any) -> Any:
    with tf.GradientTape() as tape:
        y = f(tf.constant(Y))
    return tape.gradient(y, variable)


@in_tf2
def test_keras_model(run: Any) -> None:
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [tf.keras.Input([3]), tf.keras.layers.Dense(4, activation="tanh"), tf.keras.layers.Dense(1)]
    )
    rows, targets = np.stack([X, Y]), np.float32([[1.0], [0.0]])

    def f(x: Any, y: Any) -> Any:
        error = model(x, training=True) - y
        return tf.reduce_mean(error**2), error

    (value, error), gradients = run(tf_symgrad.value_and_grad(f, wrt=model, has_aux=True), rows, targets)
    with tf.GradientTape() as tape:
        expected, aux = f(rows, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(error, aux, rtol=1e-5, atol=1e-6)
    for got, dv in zip(gradients, tape.gradient(expected, model.trainable_variables), strict=True):
        np.testing.assert_allclose(got, dv, rtol=1e-4, atol=1e-6)


def test_none_or_zeros() -> None:
    x = tf.constant(X)
    for f in (
        lambda x: tf.constant(1.0),
        lambda x: tf.reduce_sum(tf.stop_gradient(x)),
        lambda x: tf.reduce_sum(tf.sign(x)),
    ):
        value, dx = tf_symgrad.value_and_grad(f)(x)
        assert dx is None
        np.testing.assert_allclose(value, f(x))
        np.testing.assert_array_equal(tf_symgrad.grad(f, unconnected_gradients="zero")(x), np.zeros(3))


@in_tf2
def test_ragged_and_sparse(run: Any) -> None:
    def f(x: Any, dense: Any) -> Any:
        total = tf.reduce_sum(x.values**2) if isinstance(x, tf.SparseTensor) else tf.reduce_sum(x.flat_values**2)
        return total * dense

    def call(values: Any) -> Any:
        ragged = tf.RaggedTensor.from_row_lengths(values, [2, 0, 1])
        sparse = tf.SparseTensor([[0, 0], [1, 2], [2, 1]], values, [3, 3])
        of_ragged = tf_symgrad.grad(f)(ragged, tf.constant(2.0))
        of_sparse = tf_symgrad.grad(f)(sparse, tf.constant(3.0))
        assert isinstance(of_ragged, tf.RaggedTensor)
        return of_ragged.to_tensor(), tf.sparse.to_dense(of_sparse)

    of_ragged, of_sparse = run(call, X)
    np.testing.assert_allclose(of_ragged, 4 * np.float32([[X[0], X[1]], [0, 0], [X[2], 0]]))
    np.testing.assert_allclose(of_sparse, 6 * np.float32([[X[0], 0, 0], [0, 0, X[1]], [0, X[2], 0]]))


@in_tf2
def test_complex(run: Any) -> None:
    z = (X + 1j * Y).astype(np.complex64)
    value, dz = run(tf_symgrad.value_and_grad(lambda z: tf.reduce_sum(tf.abs(z) ** 2)), z)
    np.testing.assert_allclose(value, np.sum(np.abs(z) ** 2), rtol=1e-5)
    np.testing.assert_allclose(dz, 2 * z, rtol=1e-5)


@everywhere
def test_grad_of_grad(run: Any) -> None:
    third = tf_symgrad.grad(tf_symgrad.grad(tf_symgrad.grad(lambda x: x**4)))
    np.testing.assert_allclose(run(third, np.float32(1.5)), 36.0, rtol=1e-5)


@in_tf2
def test_tape_over_value_and_grad(run: Any) -> None:
    def call(x: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            value, dx = tf_symgrad.value_and_grad(lambda x: tf.reduce_sum(x**3))(x)
            both = value + tf.reduce_sum(dx)
        return tape.gradient(value, x), tape.gradient(dx, x), tape.gradient(both, x)

    first, second, both = run(call, X)
    np.testing.assert_allclose(first, 3 * X**2, rtol=1e-5)
    np.testing.assert_allclose(second, 6 * X, rtol=1e-5)
    np.testing.assert_allclose(both, 3 * X**2 + 6 * X, rtol=1e-5)


def test_a_function_that_changes_is_traced_anew_and_a_tf_function_once() -> None:
    traces, factor = [], 2.0

    def f(x: Any) -> Any:
        traces.append(x)
        return factor * x

    kept = tf_symgrad.grad(tf.function(f))
    for value in (2.0, 5.0):
        factor = value
        assert tf_symgrad.grad(f)(tf.constant(1.0)).numpy() == value
        assert kept(tf.constant(1.0)).numpy() == 2.0
    assert len(traces) == 3


def inner(x: Any, w: Any) -> Any:
    y = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.tanh(tf.linalg.matvec(w, y))), (0, x))[1]
    return {"a": y * x, "b": [tf.reduce_sum(y**2)]}


W = np.linspace(-1.0, 1.0, 9, dtype=np.float32).reshape(3, 3)


@in_tf2
def test_vjp_and_linearize(run: Any) -> None:
    def call(x: Any, w: Any, da: Any) -> Any:
        y, pullback = tf_symgrad.vjp(inner, x, w)
        y2, pushforward = tf_symgrad.linearize(inner, x, w)
        y3, tangent = tf_symgrad.jvp(inner, [x, w], [da, w])
        return y, pullback({"a": da, "b": [tf.constant(2.0)]}), y2, pushforward(da, w), y3, tangent

    y, (dx, dw), y2, pushed, y3, tangent = run(call, X, W, Y)
    x, w = tf.constant(X), tf.constant(W)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        expected = inner(x, w)
        total = tf.reduce_sum(expected["a"] * Y) + 2 * expected["b"][0]
    for got, want in zip([dx, dw], tape.gradient(total, [x, w]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    with tf.autodiff.ForwardAccumulator([x, w], [tf.constant(Y), w]) as accumulator:
        out = inner(x, w)
    for got in (pushed, tangent):
        np.testing.assert_allclose(got["a"], accumulator.jvp(out["a"]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["b"][0], accumulator.jvp(out["b"][0]), rtol=1e-4, atol=1e-5)
    for got in (y, y2, y3):
        np.testing.assert_allclose(got["a"], expected["a"], rtol=1e-5)


@in_tf2
def test_tape_over_a_pullback(run: Any) -> None:
    def call(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, pullback = tf_symgrad.vjp(lambda x: x**3, x)
            (dx,) = pullback(tf.ones_like(x))
            total = tf.reduce_sum(dx) + tf.reduce_sum(y)
        return tape.gradient(total, x)

    np.testing.assert_allclose(run(call, X), 6 * X + 3 * X**2, rtol=1e-5)


@in_tf2
@pytest.mark.parametrize("rows", [True, False])
def test_jacobian(rows: bool, run: Any) -> None:
    def f(x: Any) -> Any:
        y = tf.linalg.matvec(W[:2] if rows else np.concatenate([W, W]), tf.sin(x))
        return y[:, None] * tf.constant([[1.0, 2.0]]) if not rows else y

    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    np.testing.assert_allclose(run(tf_symgrad.jacobian(f), X), tape.jacobian(y, x), rtol=1e-5, atol=1e-6)
    of_matrix = run(tf_symgrad.jacobian(lambda a, x: tf.linalg.matvec(a, x) ** 2), W, X)
    with tf.GradientTape() as tape:
        a = tf.constant(W)
        tape.watch(a)
        y = tf.linalg.matvec(a, X) ** 2
    np.testing.assert_allclose(of_matrix, tape.jacobian(y, a), rtol=1e-5, atol=1e-6)


@in_tf2
def test_hessian_and_hvp(run: Any) -> None:
    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.sin(x) * x[0] * x)

    x = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        dx = tape.gradient(y, x)
    expected = outer.jacobian(dx, x).numpy()
    np.testing.assert_allclose(run(tf_symgrad.hessian(f), X), expected, rtol=1e-4, atol=1e-5)
    (product,) = run(lambda x, v: tf_symgrad.hvp(f, [x], [v]), X, Y)
    np.testing.assert_allclose(product, expected @ Y, rtol=1e-4, atol=1e-4)


@in_tf2
def test_per_example_grad(run: Any) -> None:
    b = tf.Variable(X)

    def f(w: Any, x: Any, y: Any) -> Any:
        return tf.reduce_sum((tf.linalg.matvec(w, x) + b - y) ** 2)

    xs, ys = np.stack([X, Y, X - Y, X * Y]), np.stack([Y, Y, X, X])
    dw, db = run(tf_symgrad.per_example_grad(f, wrt=(0, b)), W, xs, ys)
    one = tf_symgrad.grad(f, wrt=(0, b))
    each = [one(W, x, y) for x, y in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(dw, [g[0] for g in each], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(db, [g[1] for g in each], rtol=1e-4, atol=1e-4)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no scalar": (
        lambda: tf_symgrad.grad(lambda x: x)(X),
        ValueError,
        r"real scalar; it returns \['float32\(3,\)'\].*vjp",
    ),
    "integer": (lambda: tf_symgrad.grad(lambda x: tf.argmax(x))(X), ValueError, "real scalar"),
    "position": (lambda: tf_symgrad.grad(loss, wrt=2)(X, Y), TypeError, "argument 2, but the call has 2 positional"),
    "name": (lambda: tf_symgrad.grad(loss, wrt="z")(X, Y), TypeError, "argument 'z'"),
    "wrt": (lambda: tf_symgrad.grad(loss, wrt=1.5)(X, Y), TypeError, "positions or names .* not 1.5"),
    "f": (lambda: tf_symgrad.grad(3), TypeError, "must be a function"),
    "cotangent": (lambda: tf_symgrad.vjp(loss, X, Y)[1]([1.0, 2.0]), ValueError, "cotangent must have the structure"),
    "tangent": (lambda: tf_symgrad.jvp(loss, [X, Y], [X, [Y]]), ValueError, "tangent must have the structure"),
    "tangents": (lambda: tf_symgrad.hvp(loss, [X, Y], [X]), ValueError, "2 primals and 1 tangents"),
    "shape": (lambda: tf_symgrad.vjp(tf.sin, X)[1](1.0), ValueError, r"shape of what it belongs to, \(3,\), not \(\)"),
    "object": (
        lambda: tf_symgrad.grad(lambda p: loss(p.x, Y))(SimpleNamespace(x=X)),
        TypeError,
        "there is namespace.*no tensor",
    ),
    "batches": (
        lambda: tf_symgrad.per_example_grad(lambda w, x, y: loss(w * x, y))(X, np.ones([2, 3]), np.ones([4, 3])),
        ValueError,
        r"different sizes: \[2, 4\]",
    ),
    "explain": (lambda: tf_symgrad.explain(loss), tf.errors.InvalidArgumentError, r"no signature.*explain\(f, args="),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_calls(what: str) -> None:
    call, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "name", ["value_and_grad", "grad", "vjp", "linearize", "jvp", "jacobian", "hessian", "hvp", "per_example_grad"]
)
def test_docstrings(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    function = getattr(tf_symgrad, name)
    tests = doctest.DocTestFinder(recurse=False).find(function, name, globs={"tf": tf, "tf_symgrad": tf_symgrad})
    assert tests[0].examples
    for test in tests:
        assert runner.run(test).failed == 0


@pytest.mark.parametrize("name", ["jvp", "hvp"])
def test_primals_and_tangents_are_lists(name: str) -> None:
    product = getattr(tf_symgrad, name)
    x = tf.constant([1.0, 2.0])
    with pytest.raises(TypeError, match=rf"{name}: primals must be a list.*{name}\(f, \[x\], \[v\]\)"):
        product(tf.reduce_sum, x, [x])
    with pytest.raises(TypeError, match=rf"{name}: tangents must be a list"):
        product(tf.reduce_sum, [x], x)


@pytest.mark.parametrize("mode", ["eager", "function", "jit"])
@pytest.mark.parametrize("f", ["loop", "cond"])
def test_a_tape_over_a_pullback_passes_through_lists(f: str, mode: str) -> None:
    """What a loop keeps for its pullback is on lists."""
    run = {"eager": lambda g: g, "function": tf.function, "jit": lambda g: tf.function(g, jit_compile=True)}[mode]

    def loop(x: Any) -> Any:
        return tf.reduce_sum(tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y) * x), (0, x))[1])

    functions = {"loop": loop, "cond": lambda x: tf.cond(x[0] > 0, lambda: loop(x), lambda: tf.reduce_sum(x))}

    def second(gradient: Callable[[Any], Any], x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(gradient(x) ** 2)
        return tape.gradient(y, x)

    def by_tape(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = functions[f](x)
        return tape.gradient(y, x)

    x = tf.constant([0.5, -1.0, 2.0])
    got = run(lambda x: second(lambda x: tf_symgrad.vjp(functions[f], x)[1](tf.constant(1.0))[0], x))(x)
    np.testing.assert_allclose(got, tf.function(lambda x: second(by_tape, x))(x), rtol=1e-4)


def test_a_tf_function_is_not_traced_again() -> None:
    """But for one whose calls XLA compiles, or that takes more than tensors."""

    def traces(f: Any, *args: Any) -> bool:
        concrete = f.get_concrete_function(*args)
        by_trace = [Call(g, args, {}, None).concrete is not concrete for g in (f, concrete)]
        assert by_trace[0] == by_trace[1]
        return by_trace[0]

    x = tf.constant(X)
    assert not traces(tf.function(lambda x: (tf.reduce_sum(x), {"a": x, "none": None})), x)
    assert traces(tf.function(lambda x: tf.reduce_sum(x), jit_compile=True), x)
    assert traces(tf.function(lambda x: tf.reduce_sum(x[0])), [x])
    power = tf.function(lambda x, p: tf.reduce_sum(x) ** p)
    assert Call(power, (x, 2), {}, None).concrete is not power.get_concrete_function(x, 2)


def turns(x: Any) -> Any:
    """That AutoGraph must convert."""
    y = tf.zeros_like(x)
    for i in tf.range(3):
        if tf.reduce_sum(x) > 0.0:
            y += x**2
        else:
            y -= tf.cast(i, x.dtype) * x
    return y


def total(x: Any) -> Any:
    return tf.reduce_sum(turns(x))


def total_and_turns(x: Any) -> Any:
    return total(x), turns(x)


# Of x, by everything that takes a function.
ASKED: dict[str, Callable[[Any], Any]] = {
    "grad": lambda x: tf_symgrad.grad(total)(x),
    "a tf.function": lambda x: tf_symgrad.grad(tf.function(total))(x),
    "aux": lambda x: tf_symgrad.value_and_grad(total_and_turns, has_aux=True)(x)[1],
    "vjp": lambda x: tf_symgrad.vjp(turns, x)[1](tf.ones_like(x))[0],
    "jvp": lambda x: tf_symgrad.jvp(turns, [x], [tf.ones_like(x)])[1],
    "linearize": lambda x: tf_symgrad.linearize(turns, x)[1](tf.ones_like(x)),
    "jacobian": lambda x: tf.reduce_sum(tf_symgrad.jacobian(turns)(x), 0),
    "hessian": lambda x: tf.reduce_sum(tf_symgrad.hessian(total)(x), 0),
    "hvp": lambda x: tf_symgrad.hvp(total, [x], [x])[0],
    "per_example_grad": lambda x: tf_symgrad.per_example_grad(lambda w, b: total(w * b))(x, tf.stack([x, x]))[0],
    "op": lambda x: tf_symgrad.symbolic_gradient([x], f=total)[0],
    "function_gradient": lambda x: tf_symgrad.function_gradient(SAID)(x, tf.constant(1.0))[0],
    "raw op": lambda x: tf_symgrad.raw_ops.SymbolicGradient(input=[x, tf.ones([])], Tout=[tf.float32], f=SAID)[0],
}
SAID = tf.function(total).get_concrete_function(tf.TensorSpec([3], tf.float32))


@pytest.mark.parametrize("name", ASKED)
def test_autograph_converts_what_users_wrote_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To convert this package, too, would take half a second, and warn of what AutoGraph doesn't know."""
    ours: list[str] = []
    convert: Any = api._convert_actual

    def counting(entity: Any, context: Any) -> Any:
        module = str(getattr(entity, "__module__", ""))
        ours.extend([entity.__qualname__] if module.partition(".")[0] == "tf_symgrad" else [])
        return convert(entity, context)

    monkeypatch.setattr(api, "_convert_actual", counting)
    x = tf.constant(X)
    expected = ASKED[name](x)
    np.testing.assert_allclose(tf.function(ASKED[name])(x), expected, rtol=1e-5)
    np.testing.assert_allclose(tf.function(ASKED[name], autograph=False)(x), expected, rtol=1e-5)
    assert set(ours) <= {"Call._trace.<locals>.of_tensors"}  # which calls what users wrote


def product(x: Any) -> Any:
    return total(x) * tf.reduce_sum(x)


@in_tf2
def test_what_tensorflow_can_not_vectorise(
    run: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch in a loop, at the second order. The log says so once."""
    monkeypatch.setattr(importlib.import_module("tf_symgrad._log"), "_said", set())

    @tf.function
    def expected(x: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = product(x)
            dx = inner.gradient(y, x)
        return outer.jacobian(dx, x, experimental_use_pfor=False)

    for _ in range(2):
        np.testing.assert_allclose(run(tf_symgrad.hessian(product), X), expected(tf.constant(X)), rtol=1e-4)
    assert caplog.text.count("can't vectorise") == 1


def test_an_error_of_an_example_is_that_of_f() -> None:
    def f(w: Any, x: Any) -> Any:
        return tf.reduce_sum(w @ x)

    with pytest.raises(ValueError, match="must be rank"):
        tf_symgrad.per_example_grad(f)(tf.constant(X), tf.constant([X, X]))


def test_no_gradient_is_missing_that_nobody_asks_for() -> None:
    """A polygamma function has none by its order, whether that is an argument or made of one."""
    order, x = tf.constant(1.0), tf.constant(1.5)
    for f in (tf.math.polygamma, lambda n, x: tf.math.polygamma(n * 1.0, x)):
        np.testing.assert_allclose(tf_symgrad.grad(f, wrt=1)(order, x), tf.math.polygamma(2.0, x), rtol=1e-5)
        with pytest.raises(tf.errors.UnimplementedError, match="the order of a derivative is a whole number"):
            tf_symgrad.grad(f)(order, x)
