"""GradientDef: a library that names the gradient function of a function (Defun's grad_func, TF_GraphCopyFunction)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import function as defun

from tf_symgrad import _loader, raw_ops, symbolic_gradient


@pytest.fixture(autouse=True)
def by_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the kernel sees a function, Grappler has inlined its calls of those that have a gradient."""
    monkeypatch.delenv("TF_SYMGRAD_DISABLE_PASS", raising=False)


v1 = tf.compat.v1
native = _loader.native()
X = np.array([0.5, -1.0, 2.0], np.float32)
F32 = tf.float32


@pytest.fixture(autouse=True)
def session() -> Iterator[Any]:
    with tf.Graph().as_default(), v1.Session() as session:
        yield session


def wrong_square() -> Any:
    """x^2, whose gradient is said to be 100 x dy."""
    given = defun.Defun(F32, F32, func_name="given")(lambda x, dy: 100.0 * x * dy)
    return defun.Defun(F32, func_name="wrong_square", grad_func=given)(lambda x: tf.square(x))


def gradient(f: Any, *inputs: Any) -> list[Any]:
    return raw_ops.SymbolicGradient(input=inputs, Tout=[F32] * (len(inputs) - 1), f=f)


def alone(f: Any) -> Callable[[Any], Any]:
    return lambda x: gradient(f, x, tf.ones(3))[0]


def in_a_call(f: Any) -> Callable[[Any], Any]:
    outer = defun.Defun(F32, func_name="outer")(lambda x: 2.0 * f(x))
    return lambda x: gradient(outer, x, tf.ones(3))[0] / 2.0


def in_two_calls(f: Any) -> Callable[[Any], Any]:
    inner = defun.Defun(F32, func_name="inner")(lambda x: f(x) + 1.0)
    outer = defun.Defun(F32, func_name="outer")(lambda x: 2.0 * inner(x))
    return lambda x: gradient(outer, x, tf.ones(3))[0] / 2.0


def in_a_branch(f: Any) -> Callable[[Any], Any]:
    then = defun.Defun(F32, func_name="then")(lambda x: f(x))
    other = defun.Defun(F32, func_name="other")(lambda x: x)
    outer = defun.Defun(F32, func_name="outer")(
        lambda x: tf.raw_ops.If(cond=True, input=[x], Tout=[F32], then_branch=then, else_branch=other)[0]
    )
    return lambda x: gradient(outer, x, tf.ones(3))[0]


def as_a_branch(f: Any) -> Callable[[Any], Any]:
    other = defun.Defun(F32, func_name="other")(lambda x: x)
    outer = defun.Defun(F32, func_name="outer")(
        lambda x: tf.raw_ops.If(cond=True, input=[x], Tout=[F32], then_branch=f, else_branch=other)[0]
    )
    return lambda x: gradient(outer, x, tf.ones(3))[0]


def in_a_loop(f: Any) -> Callable[[Any], Any]:
    cond = defun.Defun(tf.int32, F32, func_name="cond")(lambda i, x: i < 1)
    body = defun.Defun(tf.int32, F32, func_name="body")(lambda i, x: (i + 1, f(x)))
    outer = defun.Defun(F32, func_name="outer")(
        lambda x: tf.raw_ops.While(input=[0, x], cond=cond, body=body, output_shapes=[[], [3]])[1]
    )
    return lambda x: gradient(outer, x, tf.ones(3))[0]


def as_a_body(f: Any) -> Callable[[Any], Any]:
    cond = defun.Defun(F32, func_name="cond")(lambda x: tf.reduce_any(x < -0.5))
    outer = defun.Defun(F32, func_name="outer")(
        lambda x: tf.raw_ops.While(input=[x], cond=cond, body=f, output_shapes=[[3]])[0]
    )
    return lambda x: gradient(outer, x, tf.ones(3))[0]


@pytest.mark.parametrize("how", [alone, in_a_call, in_two_calls, in_a_branch, as_a_branch, in_a_loop, as_a_body])
def test_given_gradient(how: Any, session: Any) -> None:
    x = v1.placeholder_with_default(X, [3])
    f = wrong_square()
    np.testing.assert_allclose(session.run(how(f)(x)), 100 * X)


def test_as_the_stock_op(session: Any) -> None:
    x = v1.placeholder_with_default(X, [3])
    stock = tf.raw_ops.SymbolicGradient(input=[x, tf.ones(3)], Tout=[F32], f=wrong_square())
    np.testing.assert_allclose(session.run(stock[0]), 100 * X)


def test_kernel(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of f itself: calls in f, Grappler may have inlined before the kernel sees f."""
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1")
    x = v1.placeholder_with_default(X, [3])
    np.testing.assert_allclose(session.run(alone(wrong_square())(x)), 100 * X)


def test_second_derivative(session: Any) -> None:
    x = v1.placeholder_with_default(X, [3])
    (dx,) = symbolic_gradient([x, 2 * tf.ones(3)], f=wrong_square())
    (by_python,) = v1.gradients(dx, x)
    first = defun.Defun(F32, func_name="first")(lambda x: gradient(wrong_square(), x, 2 * tf.ones_like(x))[0])
    (nested,) = gradient(first, x, tf.ones(3))
    for got in session.run([by_python, nested]):
        np.testing.assert_allclose(got, [200] * 3)


def test_several_outputs_of_which_some_have_no_cotangent(session: Any) -> None:
    given = defun.Defun(F32, F32, F32, func_name="given")(lambda x, da, db: 100.0 * da + 10.0 * db + x)
    f = defun.Defun(F32, func_name="f", grad_func=given)(lambda x: (x, tf.exp(x)))
    outer = defun.Defun(F32, func_name="outer")(lambda x: f(x)[1])
    x = v1.placeholder_with_default(X, [3])
    np.testing.assert_allclose(session.run(gradient(outer, x, tf.ones(3))[0]), 10 + X)


@pytest.mark.parametrize("order", [1, 2])
def test_what_f_writes_is_written_before_what_follows(order: int, session: Any) -> None:
    """f adds to a variable; the caller reads it after the call, and needs nothing else of it."""
    variable = v1.get_variable("variable", [], F32, v1.zeros_initializer(), use_resource=True)
    session.run(variable.initializer)
    handle, resource = variable.handle, tf.resource

    def add(x: Any, v: Any) -> Any:
        with tf.control_dependencies([tf.raw_ops.AssignAddVariableOp(resource=v, value=1.0)]):
            return tf.identity(x)

    given = defun.Defun(F32, resource, F32, func_name="given")(lambda x, v, dy: (100.0 * dy * x, tf.zeros([])))
    f = defun.Defun(F32, resource, func_name="f", grad_func=given)(add)

    @defun.Defun(F32, resource, func_name="outer")
    def outer(x: Any, v: Any) -> Any:
        y = f(x, v)
        with tf.control_dependencies([y]):
            return y * tf.raw_ops.ReadVariableOp(resource=v, dtype=F32)

    @defun.Defun(F32, resource, func_name="twice")
    def twice(x: Any, v: Any) -> Any:
        return raw_ops.SymbolicGradient(input=[x, v, tf.ones(3)], Tout=[F32], f=outer, wrt=[True, False])

    x = v1.placeholder_with_default(X, [3])
    dx = raw_ops.SymbolicGradient(
        input=[x, handle, tf.ones(3)], Tout=[F32], f=(outer, twice)[order - 1], wrt=[True, False]
    )[0]
    for step in (1, 2, 3):
        np.testing.assert_allclose(session.run(dx), 100 * X * step if order == 1 else [100 * step] * 3)
    assert session.run(variable) == 3


def test_op_without_gradient_in_f(session: Any) -> None:
    given = defun.Defun(F32, F32, func_name="given")(lambda x, dy: 7.0 * dy)
    f = defun.Defun(F32, func_name="f", grad_func=given)(
        lambda x: tf.raw_ops.Bitcast(input=tf.raw_ops.Bitcast(input=x, type=tf.int32), type=F32)
    )
    outer = defun.Defun(F32, func_name="outer")(lambda x: f(x) * 2.0)
    x = v1.placeholder_with_default(X, [3])
    for got in session.run([gradient(f, x, tf.ones(3))[0], gradient(outer, x, tf.ones(3))[0] / 2]):
        np.testing.assert_allclose(got, [7] * 3)


def test_imported_graph(session: Any) -> None:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(F32, [3], name="x")
        tf.identity(in_a_call(wrong_square())(x), name="dx")
    (dx,) = tf.import_graph_def(graph.as_graph_def(), {"x:0": tf.constant(X)}, ["dx:0"], name="")
    np.testing.assert_allclose(session.run(dx), 100 * X)


def test_session_that_goes_on(session: Any) -> None:
    x = v1.placeholder_with_default(X, [3])
    f = wrong_square()
    caller = defun.Defun(F32, func_name="caller")(lambda x: gradient(f, x, tf.ones_like(x))[0])
    np.testing.assert_allclose(session.run(caller(x)), 100 * X)
    outer = defun.Defun(F32, func_name="another")(lambda x: caller(f(x)))
    np.testing.assert_allclose(session.run(outer(x)), 100 * X**2)


def test_function_with_a_given_gradient_that_holds_the_op(session: Any) -> None:
    """The pass gives it another name: its gradient must go with it."""
    given = defun.Defun(F32, F32, func_name="given")(lambda x, dy: 100.0 * x * dy)
    inner = defun.Defun(F32, func_name="inner")(lambda x: tf.square(x))
    f = defun.Defun(F32, func_name="f", grad_func=given)(lambda x: gradient(inner, x, tf.ones_like(x))[0])
    x = v1.placeholder_with_default(X, [3])
    stock = tf.raw_ops.SymbolicGradient(input=[x, tf.ones(3)], Tout=[F32], f=f)[0]
    for got in session.run([alone(f)(x), stock]):
        np.testing.assert_allclose(got, 100 * X)


LIBRARY = """
function {
  signature { name: "f" input_arg { name: "x" type: DT_FLOAT } output_arg { name: "y" type: DT_FLOAT } }
  node_def { name: "n" op: "Square" input: "x" attr { key: "T" value { type: DT_FLOAT } } }
  ret { key: "y" value: "n:y:0" } }
function {
  signature { name: "caller" input_arg { name: "x" type: DT_FLOAT } output_arg { name: "y" type: DT_FLOAT } }
  node_def { name: "n" op: "f" input: "x" }
  ret { key: "y" value: "n:y:0" } }
function {
  signature { name: "one_input" input_arg { name: "x" type: DT_FLOAT } output_arg { name: "dx" type: DT_FLOAT } }
  ret { key: "dx" value: "x" } }
function {
  signature { name: "double" input_arg { name: "x" type: DT_FLOAT } input_arg { name: "dy" type: DT_FLOAT }
              output_arg { name: "dx" type: DT_DOUBLE } }
  node_def { name: "n" op: "Cast" input: "dy"
    attr { key: "SrcT" value { type: DT_FLOAT } } attr { key: "DstT" value { type: DT_DOUBLE } } }
  ret { key: "dx" value: "n:y:0" } }
function {
  signature { name: "right" input_arg { name: "x" type: DT_FLOAT } input_arg { name: "dy" type: DT_FLOAT }
              output_arg { name: "dx" type: DT_FLOAT } }
  ret { key: "dx" value: "dy" } }
function {
  signature { name: "broken" input_arg { name: "x" type: DT_FLOAT } input_arg { name: "dy" type: DT_FLOAT }
              output_arg { name: "dx" type: DT_FLOAT } }
  ret { key: "dx" value: "nothing:y:0" } }
"""


def build(f: str, given: str | None) -> function_pb2.FunctionDefLibrary:
    library = text_format.Parse(LIBRARY, function_pb2.FunctionDefLibrary())
    if given is not None:
        library.gradient.add(function_name="f", gradient_func=given)
    name = attr_value_pb2.NameAttrList(name=f)
    return native.build_gradient(library.SerializeToString(), name.SerializeToString())


@pytest.mark.parametrize("f", ["f", "caller"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing", r"'missing' is the gradient of function 'f' .* but has no such function"),
        ("one_input", r"maps \(float\) to \(float\), and must map \(float, float\)"),
        ("double", r"maps \(float, float\) to \(double\), and must map .* to \(float\)"),
        ("broken", r"(?s)can't be read: .*names no node"),
    ],
)
def test_gradient_that_does_not_fit(f: str, given: str, message: str) -> None:
    with pytest.raises(native.StatusError, match=message):
        build(f, given)


def test_the_cache_knows_of_given_gradients() -> None:
    assert build("caller", None) != build("caller", "right")
    assert build("caller", "right") == build("caller", "right")


@pytest.mark.parametrize("run", [lambda f: f, tf.function], ids=["eager", "function"])
@pytest.mark.parametrize("how", [alone, in_a_call, in_two_calls])
def test_where_libraries_hold_none(how: Any, run: Any) -> None:
    with context.eager_mode():
        g = run(lambda x: how(wrong_square())(x))
        np.testing.assert_allclose(g(tf.constant(X)), 100 * X)


# -- python_grad_func: a function of the op and the cotangents.


@pytest.mark.parametrize("place", [alone, in_a_call, in_two_calls, in_a_branch])
@pytest.mark.parametrize("eager", [False, True])
def test_gradient_of_python(place: Any, eager: bool, session: Any) -> None:
    def wrong(op: Any, dy: Any) -> Any:
        return 100.0 * op.inputs[0] * dy

    f = defun.Defun(F32, func_name="wrong_square", python_grad_func=wrong)(lambda x: tf.square(x))
    if eager:
        with context.eager_mode():
            got = tf.function(place(f), autograph=False)(tf.constant(X))
    else:
        got = session.run(place(f)(tf.constant(X)))
    np.testing.assert_allclose(got, 100.0 * X)
