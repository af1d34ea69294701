"""Arguments of the wrong sort, of each public function: an error that says what to give (tests/fuzz/arguments.py)."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from tf_symgrad import symbolic_gradient

X = tf.constant([1.0, 2.0])
RAW = tf_symgrad.raw_ops.SymbolicGradient


def square(x: Any) -> Any:
    return tf.reduce_sum(x**2)


CONCRETE = tf.function(square).get_concrete_function(tf.TensorSpec([2]))

FLAG, FLAGS = "must be True or False", "must be a list of True and False, one for each input"
RAGGED, SPARSE = tf.ragged.constant([[1.0, 2.0], [3.0]]), tf.sparse.from_dense([[1.0, 0.0], [0.0, 2.0]])


def scaled(*xs: Any, scale: float = 2.0) -> Any:
    return scale * sum(map(square, xs))


def of_reference_variable() -> Any:
    with tf.Graph().as_default():
        v = tf.compat.v1.get_variable("v", initializer=2.0, use_resource=False)
        return tf_symgrad.grad(lambda: v * v, wrt=v)()


CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "jacobian by what is no argument": (lambda: tf_symgrad.jacobian(square, wrt=2.5)(X), TypeError, "position or the"),
    "hessian by several": (lambda: tf_symgrad.hessian(square, wrt=[0])(X), TypeError, "position or the name"),
    "hessian by bytes": (lambda: tf_symgrad.hessian(square, wrt=b"x")(X), TypeError, "position or the name"),
    "jacobian of a number": (lambda: tf_symgrad.jacobian(3), TypeError, "f must be a function"),
    "a tangent of integers": (
        lambda: tf_symgrad.jvp(square, [X], [tf.constant([1, 2])]), ValueError, r"dtype .* float32, not int32. Cast it"
    ),
    "a cotangent of doubles": (
        lambda: tf_symgrad.vjp(square, X)[1](tf.constant(1.0, tf.float64)), ValueError, "float32, not float64. Cast it"
    ),
    "an input that is None": (lambda: symbolic_gradient([None], f=square), tf.errors.OpError, "input is None: give a"),
    "has_aux of a module": (lambda: tf_symgrad.grad(square, has_aux=np)(X), TypeError, f"has_aux {FLAG}"),
    "unconnected": (
        lambda: tf_symgrad.grad(square, unconnected_gradients=np.array([1, 2]))(X), ValueError, "be 'none' or 'zero'"
    ),
    "values of a text": (lambda: tf_symgrad.function_gradient(CONCRETE, values="yes"), TypeError, f"values {FLAG}"),
    "wrt of dtypes": (lambda: tf_symgrad.function_gradient(CONCRETE, wrt=[tf.float32]), TypeError, f"wrt {FLAGS}"),
    "wrt of a tensor": (lambda: tf_symgrad.gradient_function(CONCRETE, wrt=tf.constant([True])), TypeError, FLAGS),
    "wrt of a number": (lambda: symbolic_gradient([X], f=CONCRETE, wrt=1), TypeError, FLAGS),
    "wrt of lists": (lambda: symbolic_gradient([X], f=CONCRETE, wrt=[[True]]), TypeError, FLAGS),
    "wrt of explain": (lambda: tf_symgrad.explain(CONCRETE, wrt=[2]), TypeError, FLAGS),
    "length of wrt": (lambda: tf_symgrad.function_gradient(CONCRETE, wrt=[True] * 2), tf.errors.OpError, "wrt has 2"),
    "unknown of a text": (lambda: tf_symgrad.explain(CONCRETE, unknown="8"), ValueError, "unknown must be an integer"),
    "args that are no list": (lambda: tf_symgrad.explain(square, args=X), TypeError, "args must be a list"),
    "sparse of a list": (lambda: symbolic_gradient([X], f=CONCRETE, sparse=[1]), TypeError, f"sparse {FLAG}"),
    "capture_gradients": (lambda: symbolic_gradient([X], f=CONCRETE, capture_gradients=None), TypeError, FLAG),
    "variables of one": (
        lambda: symbolic_gradient([X], f=CONCRETE, variables=tf.Variable(1.0)), TypeError, "must be a list of variables"
    ),
    "name": (lambda: symbolic_gradient([X], f=CONCRETE, name=[1]), TypeError, "name must be a string"),
    "checkpoint": (lambda: symbolic_gradient([X], f=CONCRETE, checkpoint=[1]), TypeError, "checkpoint must be a"),
    "wrt of the raw op": (lambda: RAW(input=[X, 1.0], Tout=[tf.float32], f=CONCRETE, wrt=X), TypeError, FLAGS),
    "values of the raw op": (lambda: RAW(input=[X, 1.0], Tout=[tf.float32], f=CONCRETE, values=X), TypeError, FLAG),
    "inputs of the raw op": (lambda: RAW(input=X, Tout=[tf.float32], f=CONCRETE), TypeError, "input must be a list"),
    "Tout of the raw op": (lambda: RAW(input=[X, 1.0], Tout="float", f=CONCRETE), TypeError, "Tout must be a list"),
    "nothing in a batch": (lambda: tf_symgrad.per_example_grad(square)(X), ValueError, r"\[\] are batches.*batched"),
    "a batch that is not there": (
        lambda: tf_symgrad.per_example_grad(square, batched=[1])(X), ValueError, r"of 1 positional arguments, \[1\]"
    ),
    "batches by name": (lambda: tf_symgrad.per_example_grad(square, batched=["x"])(X), TypeError, "positions of arg"),
    "a batch of numbers": (
        lambda: tf_symgrad.per_example_grad(lambda w, x: w * x)(1.0, [1.0, 2.0]), ValueError, "there are scalars"
    ),
    "modes": (lambda: tf_symgrad.testing.check_grads(square, [X], modes=np), TypeError, "modes must be a list"),
    "order": (lambda: tf_symgrad.testing.check_grads(square, [X], order=X), ValueError, "order must be an integer"),
    "elements": (lambda: tf_symgrad.testing.check_grads(square, [X], elements="4"), ValueError, "elements must be an"),
    "seed": (lambda: tf_symgrad.testing.check_grads(square, [X], seed=-1), ValueError, "seed must be an integer, 0"),
    "atol": (lambda: tf_symgrad.testing.check_grads(square, [X], atol="0.1"), ValueError, "atol must be a number"),
    "rule of a number": (lambda: tf_symgrad.rule(1), TypeError, "takes the name of an op"),
    "gradients of a model": (
        lambda: tf_symgrad.save_with_gradients(tf.Module(), "folder", gradients=1), TypeError, "must be a dict"
    ),
    "signature of a model": (
        lambda: tf_symgrad.save_with_gradients(tf.Module(), "folder", signature=X), TypeError, "must be a string"
    ),
    "an argument by keyword": (lambda: tf_symgrad.grad(square)(x=X), TypeError, r"0 positional arguments; \['x'\] are"),
    "a default": (lambda: tf_symgrad.grad(scaled, wrt="scale")(X, X), TypeError, "'scale'.* none of that name.*Give"),
    "one of many": (lambda: tf_symgrad.grad(scaled, wrt="xs")(X, X), TypeError, "one of many, as in .args, has a posi"),
    "a reference variable": (of_reference_variable, TypeError, "'v:0' is a reference variable.*use_resource=True"),
    "no pair": (lambda: tf_symgrad.grad(square, has_aux=True)(X), TypeError, "has_aux: f must return a pair.* not <"),
    "a triple": (lambda: tf_symgrad.grad(lambda x: (x[0], x, x), has_aux=True)(X), TypeError, "must return a pair"),
    "a result": (lambda: tf_symgrad.vjp(lambda x: [x, iter([x])], X), TypeError, "returns <list_iterator.*return tens"),
    "something else": (
        lambda: tf_symgrad.grad(lambda x: (x[0], object()), has_aux=True)(X), TypeError, "f returns <object.*return"
    ),
    "tangent of hvp": (lambda: tf_symgrad.hvp(square, [X], [1.0]), ValueError, r"A tangent must have the shape .*2"),
    "jacobian by rows": (lambda: tf_symgrad.jacobian(tf.reduce_sum)(RAGGED), TypeError, r"its values: f of x.with"),
    "jacobian by an object": (lambda: tf_symgrad.jacobian(square)(object()), TypeError, "there is <object.*no tensor"),
    "a batch of rows": (
        lambda: tf_symgrad.per_example_grad(lambda w, x: w * x)(1.0, RAGGED), TypeError, "is a RaggedTensor.*to_tensor"
    ),
    "a sparse batch": (
        lambda: tf_symgrad.per_example_grad(lambda w, x: w * x)(1.0, SPARSE), TypeError, "SparseTensor.*to_dense"
    ),
    "a model without a signature": (
        lambda: tf_symgrad.function_gradient(tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Dense(1)])),
        tf.errors.OpError, "has no signature.*get_concrete_function"
    ),
    "wrt of a model": (
        lambda: tf_symgrad.save_with_gradients(tf.Module(), "folder", wrt="x"), TypeError, "wrt must be a list of names"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_wrong_argument(what: str) -> None:
    call, error, message = CASES[what]
    with pytest.raises(error, match=message):
        call()


class Method:
    @tf.function  # type: ignore[untyped-decorator]
    def of(self, x: Any, y: Any) -> Any:
        return square(x) * y[0]


PRODUCT = tf.function(lambda x, y: square(x) * y[0]).get_concrete_function(X, tf.TensorSpec([2], name="q"))

NAMED: dict[str, tuple[Callable[[], Any], Any]] = {
    "a method's": (lambda: tf_symgrad.grad(Method().of, wrt="y")(X, X), [5.0, 0.0]),
    "a ConcreteFunction's": (lambda: tf_symgrad.grad(PRODUCT, wrt="y")(X, X), [5.0, 0.0]),
    "the same, by keyword": (lambda: tf_symgrad.grad(PRODUCT, wrt="y")(X, y=X), [5.0, 0.0]),
    "of keywords alone": (lambda: tf_symgrad.grad(scaled, wrt="scale")(X, X, scale=3.0), 10.0),
    "of any keywords": (lambda: tf_symgrad.grad(lambda **k: square(k["w"]), wrt="w")(w=X), [2.0, 4.0]),
    "a partial's": (
        lambda: tf_symgrad.grad(functools.partial(lambda a, b: square(a) * b[0], X), wrt="b")(X), [5.0, 0.0]
    ),
    "one of many by position": (lambda: tf_symgrad.grad(scaled, wrt=-1)(X, 3.0 * X), [12.0, 24.0]),
    "self": (lambda: tf_symgrad.grad(lambda self, cls: square(self) * cls[0], wrt="cls")(X, X), [5.0, 0.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_arguments_by_name(name: str) -> None:
    call, expected = NAMED[name]
    np.testing.assert_allclose(call(), expected)


def test_traced_arguments_have_names() -> None:
    def f(x: Any, _parameters: Any, *others: Any) -> Any:
        return square(x) + square(_parameters["w"]) + square(_parameters["b"][0]) + square(others[0])

    inputs = tf_symgrad.explain(f, args=[X, {"w": X, "b": [X]}, X]).inputs
    assert [x.name for x in inputs] == ["x", "parameters_b_0", "parameters_w", "args_2"]


def test_check_grads_in_a_graph() -> None:
    with tf.Graph().as_default(), pytest.raises(ValueError, match="in eager mode alone"):
        tf_symgrad.testing.check_grads(square, [np.float32([1.0])])


def test_random_arguments() -> None:
    command = [sys.executable, "-m", "tests.fuzz.arguments", "--first=7000", "--count=150"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("150 calls")
