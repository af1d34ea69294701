"""Who optimises gradient functions, `optimize=`: the same results, in every place."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2

import tf_symgrad
from benchmarks import counting
from tests.test_api import PLACES
from tests.test_transforms import in_jit
from tf_symgrad import _op

X = np.array([0.5, -1.0, 2.0], np.float32)
SPEC = tf.TensorSpec([3], tf.float32)
both = pytest.mark.parametrize("optimize", ["grappler", "native"])
everywhere = pytest.mark.parametrize("run", [*PLACES, in_jit], ids=lambda f: f.__name__)


def straight(x: Any) -> Any:
    return tf.reduce_sum(tf.sin(x) * x**2)


def branch(x: Any) -> Any:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.reduce_sum(x**3), lambda: tf.reduce_prod(x))


def loop(x: Any) -> Any:
    return tf.reduce_sum(tf.while_loop(lambda i, y: i < 4, lambda i, y: (i + 1, tf.sin(y) * x), (0, x))[1])


@tf.function
def _squared(x: Any) -> Any:
    return x * x


def calls(x: Any) -> Any:
    return tf.reduce_sum(_squared(tf.tanh(_squared(x))))


@everywhere
@pytest.mark.parametrize("f", [straight, branch, loop, calls], ids=lambda f: f.__name__)
def test_results_are_the_same(f: Callable[[Any], Any], run: Any) -> None:
    expected = run(lambda x: tf_symgrad.value_and_grad(f)(x), X)
    got = run(lambda x: tf_symgrad.value_and_grad(f, optimize="native")(x), X)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6)
    (again,) = run(lambda x: tf_symgrad.symbolic_gradient([x], f=f, optimize="native"), X)
    np.testing.assert_allclose(again, expected[1], rtol=1e-6)


@tf.custom_gradient
def _hundredfold(x: Any) -> Any:
    return tf.identity(x), lambda dy: 100.0 * dy


def stopped(x: Any) -> Any:
    """TensorFlow's optimiser takes away what stops gradients, or gives others, from functions that it sees."""
    return tf.reduce_sum(_hundredfold(x) * tf.stop_gradient(x * x))


@everywhere
def test_the_gradient_is_that_of_the_function_as_it_was_written(run: Any) -> None:
    got = run(lambda x: tf_symgrad.grad(stopped, optimize="native")(x), X)
    np.testing.assert_allclose(got, 100.0 * X * X, rtol=1e-6)


def ops_that_run(f: Any) -> Counter[str]:
    return counting.optimized_ops(lambda: tf.function(f, autograph=False)(tf.constant(X)))


def test_the_optimiser_does_not_see_it() -> None:
    """It writes out the op, and folds what the user left to be folded."""

    def folded(x: Any) -> Any:
        return tf.reduce_sum(tf.sin(x) * tf.exp(tf.constant(X)))

    found = {o: ops_that_run(tf_symgrad.grad(folded, optimize=o)) for o in ("grappler", "native")}
    assert [o for o in found if found[o][_op.OP]] == ["native"]
    assert [o for o in found if found[o]["Cos"]] == ["grappler"]


@both
def test_effects_happen_once_and_draws_belong_together(optimize: str) -> None:
    v = tf.Variable(0.0)

    def f(x: Any) -> Any:
        v.assign_add(1.0)
        return tf.reduce_sum(x * tf.random.uniform([3], seed=1))

    x = tf.constant(X)
    for k, run in enumerate([lambda g: g, tf.function]):
        value, dx = run(tf_symgrad.value_and_grad(f, optimize=optimize))(x)
        np.testing.assert_allclose(value, np.sum(X * dx), rtol=1e-6)
        assert v.numpy() == k + 1


def test_rows_are_run_as_they_are_too() -> None:
    table = tf.Variable(tf.ones([5, 2]))
    f = tf.function(lambda i: tf.reduce_sum(tf.gather(table, i) ** 2), input_signature=[tf.TensorSpec([2], tf.int32)])

    @tf.function(autograph=False)
    def rows(i: Any) -> Any:
        return tf_symgrad.symbolic_gradient([i], f=f, variables=[table], sparse=True, optimize="native")[-1]

    i = tf.constant([1, 3])
    np.testing.assert_array_equal(tf.convert_to_tensor(rows(i))[:, 0], [0, 2, 0, 2, 0])
    graph = rows.get_concrete_function(i).graph
    assert [op.get_attr("optimize") for op in graph.get_operations() if op.type == _op.OP] == [b"native"]


@pytest.mark.parametrize("what", ["garbage", "empty", "another dtype", "another number"])
def test_what_somebody_else_says_was_built(what: str) -> None:
    """The attr that the pass leaves to the kernel may come with a graph from anywhere."""

    @tf.function(input_signature=[SPEC, SPEC] if what == "another dtype" else [SPEC])
    def other(x: Any, *_: Any) -> Any:
        return tf.cast(x, tf.int32) if what == "another dtype" else x

    functions = function_pb2.FunctionDefLibrary(function=[other.get_concrete_function().function_def])
    built = {"garbage": b"garbage", "empty": b""}.get(what, functions.SerializeToString())
    f = tf.function(tf.sin).get_concrete_function(SPEC)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        f.add_to_graph(tf.compat.v1.get_default_graph())
        attrs = {"Tout": [tf.float32], "f": f, "optimize": "native"}
        (dx,) = _op._add([tf.constant(X), tf.constant(X)], attrs)
        dx.op._set_attr("_symgrad_built", attr_value_pb2.AttrValue(s=built))
        with pytest.raises(tf.errors.InvalidArgumentError, match="_symgrad_built"):
            session.run(dx)


def test_variables_and_captured_tensors() -> None:
    v, scale = tf.Variable([1.0, 2.0, 3.0]), tf.constant(2.0)
    f = tf.function(lambda x: tf.reduce_sum(scale * v * x**2))
    dx, dv = tf_symgrad.grad(f, (0, v), optimize="native")(tf.constant(X))
    np.testing.assert_allclose(dx, 4 * v * X)
    np.testing.assert_allclose(dv, 2 * X**2)


@pytest.mark.parametrize("native", [False, True])
def test_higher_orders(native: bool) -> None:
    inner = tf_symgrad.grad(straight, optimize="native")

    def second(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            dx = inner(x)
        return tape.gradient(dx, x)

    x = tf.constant(X)
    expected = -np.sin(X) * X**2 + 4 * X * np.cos(X) + 2 * np.sin(X)
    for run in second, tf.function(second), tf_symgrad.grad(lambda x: tf.reduce_sum(inner(x)), optimize="native"):
        if native:
            with tf_symgrad.native():
                np.testing.assert_allclose(run(x), expected, rtol=1e-5)
        else:
            np.testing.assert_allclose(run(x), expected, rtol=1e-5)
    graph = tf.function(second).get_concrete_function(SPEC).graph
    assert {op.get_attr("optimize") for op in graph.get_operations() if op.type == _op.OP} == {b"native"}


def test_of_a_batch() -> None:
    dx = tf.vectorized_map(lambda x: tf_symgrad.grad(straight, optimize="native")(x), tf.constant([X, 2 * X]))
    np.testing.assert_allclose(dx[1], np.cos(2 * X) * (2 * X) ** 2 + 4 * X * np.sin(2 * X), rtol=1e-5)


def test_it_can_be_saved(tmp_path: Path) -> None:
    module = tf.Module()
    module.g = tf.function(tf_symgrad.grad(loop, optimize="native"), input_signature=[SPEC])
    tf.saved_model.save(module, str(tmp_path))
    np.testing.assert_allclose(
        tf.saved_model.load(str(tmp_path)).g(tf.constant(X)), tf_symgrad.grad(loop)(tf.constant(X)), rtol=1e-6
    )


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match='optimize must be "grappler" or "native", not \'xla\''):
        tf_symgrad.grad(straight, optimize="xla")
    with pytest.raises(ValueError, match="optimize must be"):
        tf_symgrad.symbolic_gradient([X], f=straight, optimize=True)  # type: ignore[arg-type]
    f = tf.function(straight).get_concrete_function(SPEC)
    with tf.Graph().as_default(), pytest.raises(ValueError, match='not in: "grappler", "native"'):
        _op._add([tf.constant(X), tf.constant(1.0)], {"Tout": [tf.float32], "f": f, "optimize": "none"})


def test_xla_compiles_it_without_a_kernel_for_it(tmp_path: Path) -> None:
    """The library that has one is missing: the op is written out for XLA, and in what the compiled function calls."""
    shutil.copy(tf_symgrad.get_library_path(), tmp_path)
    program = """
        import tensorflow as tf, tf_symgrad
        grad = tf_symgrad.grad(lambda x: tf.reduce_sum(x**3), optimize="native")
        x = tf.constant([1.0, 2.0])
        inner = tf.function(grad)
        for f in tf.function(grad, jit_compile=True), tf.function(lambda x: inner(x) + 0.0, jit_compile=True), inner:
            assert tf.function(lambda x: 2.0 * f(x), autograph=False)(x).numpy().tolist() == [6.0, 24.0]
    """
    environment = {**os.environ, "TF_SYMGRAD_LIBRARY": str(tmp_path / Path(tf_symgrad.get_library_path()).name)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---- enable() ----


def taped(x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = loop(x) + calls(x)
    return tape.gradient(y, x)


def pullbacks(f: Callable[[Any], Any]) -> list[str]:
    graph = tf.function(f, autograph=False).get_concrete_function(SPEC).graph
    return [op.type for op in graph.get_operations() if op.type in (_op.OP, "PartitionedCall")]


def test_enable() -> None:
    x = tf.constant(X)
    expected = taped(x)

    def second(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            dx = taped(x)
        return tape.gradient(dx, x)

    of_second = second(x)
    with tf_symgrad.native("native"):
        for run in tf.function(taped), tf.function(taped, jit_compile=True):
            np.testing.assert_allclose(run(x), expected, rtol=1e-5)
        np.testing.assert_allclose(tf.function(second)(x), of_second, rtol=1e-5)
        traced = tf.function(taped)
        traced(x)
    with tf.GradientTape() as tape:  # Python differentiates what was traced then
        tape.watch(x)
        dx = traced(x)
    np.testing.assert_allclose(tape.gradient(dx, x), of_second, rtol=1e-5)


def test_it_lasts_as_long_as_what_it_was_said_for() -> None:
    def f(x: Any) -> Any:
        return tf.gradients(tf.sin(x), x)[0]

    try:
        tf_symgrad.enable("native")
        assert pullbacks(f) == [_op.OP]
        with tf_symgrad.native("grappler"):
            assert pullbacks(f) == ["PartitionedCall"]
        with tf_symgrad.native():
            assert pullbacks(f) == [_op.OP]
    finally:
        tf_symgrad.disable()
    with tf_symgrad.native():
        assert pullbacks(f) == ["PartitionedCall"]
    first, second = tf_symgrad.native("native"), tf_symgrad.native()  # as threads have them, which end as they like
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert pullbacks(f) == ["PartitionedCall"]
    second.__exit__(None, None, None)
    with pytest.raises(ValueError, match="optimize must be"):
        tf_symgrad.enable("xla")
    with pytest.raises(ValueError, match="optimize must be"), tf_symgrad.native("xla"):
        pass
    assert pullbacks(f) == []


def test_fit() -> None:
    weights = []
    for optimize in (None, "native"):
        tf.keras.utils.set_random_seed(1)
        layers = tf.keras.layers
        model = tf.keras.Sequential([layers.Dense(8, "tanh"), layers.BatchNormalization(), layers.Dense(1)])
        model.compile("adam", "mse", jit_compile=False)
        with contextlib.ExitStack() as stack:
            if optimize is not None:
                stack.enter_context(tf_symgrad.native(optimize))
            model.fit(np.ones([8, 3], np.float32) * np.arange(8)[:, None], np.arange(8.0), epochs=2, verbose=0)
        weights.append(model.get_weights())
    for before, after in zip(*weights, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-7)
