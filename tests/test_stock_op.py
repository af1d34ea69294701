"""TensorFlow's own SymbolicGradient: within f, taught the ops that it lacks, and taken over."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import function as defun

import tf_symgrad
from tf_symgrad import raw_ops

X = np.array([0.5, 1.5, 2.0], np.float32)
SPEC = tf.TensorSpec([3], tf.float32)
OP = "TfSymgrad>SymbolicGradient"


@pytest.fixture
def replaced() -> Iterator[None]:
    tf_symgrad.replace_stock_op()
    yield
    tf_symgrad.restore_stock_op()


def concrete(f: Callable[..., Any]) -> Any:
    return tf.function(f, autograph=False).get_concrete_function(SPEC)


def stock(f: Any, x: Any) -> Any:
    return tf.raw_ops.SymbolicGradient(input=[x, tf.ones_like(x)], Tout=[x.dtype], f=f)[0]


def ours(f: Any, x: Any) -> Any:
    return raw_ops.SymbolicGradient(input=[x, tf.ones_like(x)], Tout=[x.dtype], f=f)[0]


def calls(x: Any) -> Any:
    return tf.function(lambda x: tf.exp(x) * 2.0, autograph=False)(x)


def loop(x: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, x * x), (0, x))[1]


# ---- Within f. ----


def test_stock_op_within_f() -> None:
    inner = concrete(lambda x: tf.math.softplus(x) * x)
    outer = concrete(lambda x: stock(inner, x))
    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        with tf.GradientTape() as inner_tape:
            inner_tape.watch(x)
            y = inner(x)
        dx = inner_tape.gradient(y, x)
    want = tape.gradient(dx, x)
    for run in ours, tf.function(ours):
        np.testing.assert_allclose(run(outer, tf.constant(X)), want, rtol=1e-5)


# ---- An op as f. ----


def named(op: str, **types: Any) -> attr_value_pb2.NameAttrList:
    f = attr_value_pb2.NameAttrList(name=op)
    for name, value in types.items():
        f.attr[name].type = value.as_datatype_enum
    return f


@pytest.mark.parametrize("run", [lambda f: f, tf.function], ids=["eager", "function"])
def test_op_as_f(run: Any) -> None:
    square, mul = named("Square", T=tf.float32), named("Mul", T=tf.float32)

    def both(x: Any) -> Any:
        a, b = raw_ops.SymbolicGradient(input=[x, 3 * x, tf.ones(3)], Tout=[tf.float32] * 2, f=mul)
        return ours(square, x), a, b

    for got, want in zip(run(both)(tf.constant(X)), [2 * X, 3 * X, X], strict=True):
        np.testing.assert_allclose(got, want)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (named("Square"), r"op 'Square' as a function: attr 'T' is missing: give f's attrs"),
        (named("Square", T=tf.string), r"op 'Square' as a function: .*'T'"),
        (named("Mul", T=tf.float32), r"input has length 2, needs 3"),
        (named("Square", T=tf.float64), r"input\[0\] is float, must be double"),
    ],
)
def test_op_as_f_that_does_not_fit(f: Any, message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(lambda x: ours(f, x))(tf.constant(X))


# ---- Taught. ----


@pytest.mark.parametrize("f", [tf.math.softplus, tf.math.erfc, tf.nn.elu, tf.math.digamma, tf.cumsum])
def test_stock_op_knows_our_rules(f: Callable[[Any], Any]) -> None:
    function = concrete(f)
    got = tf.function(lambda x: stock(function, x))(tf.constant(X))
    np.testing.assert_allclose(got, ours(function, tf.constant(X)), rtol=1e-5)


# ---- Taken over. ----

REPLACED: dict[str, Callable[[Any], Any]] = {
    "asinh": tf.math.asinh,  # the stock op gets these two wrong
    "acosh": tf.math.acosh,
    "gather": lambda x: tf.gather(x, [2, 0]),
    "calls": calls,
    "loop": loop,
}


def derivative(f: Callable[[Any], Any]) -> Any:
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tf.convert_to_tensor(tape.gradient(y, x))


def run_stock(f: Any, x: Any) -> Any:
    dy = [tf.ones(y.shape) for y in f.outputs]
    return tf.raw_ops.SymbolicGradient(input=[x, *dy], Tout=[tf.float32], f=f)[0]


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("how", ["eager", "eager, kernel", "function"])
def test_replaced(name: str, how: str, replaced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a graph that no pass has seen, TensorFlow inlines what its own op stands for.
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1" if how == "eager, kernel" else "0")
    run: Any = tf.function if how == "function" else lambda f: f
    f = concrete(REPLACED[name])
    np.testing.assert_allclose(run(lambda x: run_stock(f, x))(tf.constant(X)), derivative(REPLACED[name]), rtol=1e-5)


def test_replaced_in_functions_and_loops(replaced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "0")
    asinh = concrete(tf.math.asinh)
    want = derivative(tf.math.asinh)
    inner = tf.function(lambda x: stock(asinh, x), autograph=False)
    nested = tf.function(lambda x: inner(x) * 2.0, autograph=False)
    looped = tf.function(
        lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y + stock(asinh, x)), (0, 0 * x))[1]
    )
    np.testing.assert_allclose(nested(tf.constant(X)), 2 * want, rtol=1e-5)
    np.testing.assert_allclose(looped(tf.constant(X)), 3 * want, rtol=1e-5)


def test_replaced_in_a_session(replaced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "0")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        asinh = defun.Defun(tf.float32, func_name="asinh")(lambda x: tf.math.asinh(x))
        caller = defun.Defun(tf.float32, func_name="caller")(lambda x: stock(asinh, x))
        x = tf.compat.v1.placeholder_with_default(X, [3])
        for got in session.run([stock(asinh, x), caller(x)]):
            np.testing.assert_allclose(got, 1 / np.sqrt(1 + X**2), rtol=1e-5)


def test_restored() -> None:
    f = concrete(calls)
    tf_symgrad.replace_stock_op()
    np.testing.assert_allclose(tf.function(lambda x: stock(f, x))(tf.constant(X)), derivative(calls), rtol=1e-5)
    tf_symgrad.restore_stock_op()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        square = defun.Defun(tf.float32, func_name="square")(lambda x: tf.square(x))
        got, graph = stock(square, tf.constant(X)), tf.compat.v1.RunMetadata()
        options = tf.compat.v1.RunOptions(output_partition_graphs=True)
        np.testing.assert_allclose(session.run(got, options=options, run_metadata=graph), 2 * X)


SCRIPT = """
import os, numpy as np, tensorflow as tf
tf.load_op_library(os.environ["LIBRARY"])
f = tf.function(tf.math.asinh).get_concrete_function(tf.TensorSpec([], tf.float32))
g = tf.function(lambda x: tf.raw_ops.SymbolicGradient(input=[x, tf.constant(1.0)], Tout=[tf.float32], f=f)[0])
print(g(tf.constant(1.5)).numpy())
"""


@pytest.mark.parametrize(("value", "want"), [("1", 0.5547), ("0", 1.8028)])
def test_environment(value: str, want: float) -> None:
    environment = {**os.environ, "TF_SYMGRAD_REPLACE_STOCK": value, "LIBRARY": tf_symgrad.get_library_path()}
    environment |= {"TF_SYMGRAD_DISABLE_PASS": "0"}
    output = subprocess.check_output([sys.executable, "-c", SCRIPT], env=environment, text=True)
    np.testing.assert_allclose(float(output.split()[-1]), want, rtol=1e-3)
