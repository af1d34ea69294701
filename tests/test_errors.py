"""What goes wrong: an exception of the right class that says what to do, eagerly and in a graph, and never an abort."""

import functools
import inspect
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import attr_value_pb2, function_pb2, types_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import function_def_to_graph

import tf_symgrad
from tests.frames import function_of_frames, loop, v1
from tests.fuzz.protos import mutate
from tf_symgrad import _loader, symbolic_gradient

native = _loader.native()
errors = tf.errors

ONE = tf.constant(1.0)
PAIR = tf.TensorSpec([2], tf.float32)
product = tf.function(lambda a, b: a * b, input_signature=[PAIR, PAIR])


def in_eager_mode(f: Callable[[], Any]) -> Any:
    return f()


def in_function(f: Callable[[], Any]) -> Any:
    return tf.function(f)()


def in_v1_graph(f: Callable[[], Any]) -> Any:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        return session.run(f())


everywhere = pytest.mark.parametrize("run", [in_eager_mode, in_function, in_v1_graph], ids=lambda f: f.__name__)


# ---- Wrong calls. ----

TWO = [1.0, 2.0]
WRONG_CALLS: dict[str, tuple[Any, dict[str, Any], str]] = {
    # input, other arguments, what the message says
    "no inputs": ([], {"f": product}, r"2 inputs .* 1 output .* hold 3 tensors.* holds 0"),
    "no cotangent": ([TWO, TWO], {"f": product}, r"hold 3 tensors: the inputs .*, then a cotangent .* holds 2"),
    "too many inputs": ([TWO] * 4, {"f": product}, r"hold 3 tensors.* holds 4"),
    "too few arguments": ([1.0], {"f": lambda a, b: a * b}, r"takes 2 arguments.* holds only 1"),
    "dtype of an input": (
        [TWO, lambda: tf.constant([1, 2]), TWO],
        {"f": product},
        r"input 1 \('b'\) must be float32, not int32.*tf.cast",
    ),
    "dtype of a cotangent": (
        [TWO, TWO, lambda: tf.constant(TWO, tf.float64)],
        {"f": product},
        r"cotangent of output 0 must be float32, not float64.*tf.cast",
    ),
    "no tensor": ([TWO, "text", TWO], {"f": product}, r"input 1 \('b'\) must be a float32 tensor; 'text' can't"),
    "ragged list": ([TWO, [[1.0], [1.0, 2.0]], TWO], {"f": product}, r"input 1 \('b'\) must be a float32 tensor"),
    "shape of an input": (
        [[1.0, 2.0, 3.0], TWO, TWO],
        {"f": product},
        r"input 0 \('a'\) must have shape \(2,\), not \(3,\)",
    ),
    "shape of a cotangent": (
        [TWO, TWO, 1.0],
        {"f": product},
        r"cotangent of output 0 must have shape \(2,\), not \(\)",
    ),
    "shape of a cotangent, of an f with optional arguments": (
        [TWO, [1.0, 2.0, 3.0]],
        {"f": tf.math.square},
        r"cotangent of output 0 must have shape \(2,\), not \(3,\)",
    ),
    "dtype of a cotangent, of an f with optional arguments": (
        [TWO, lambda: tf.constant(TWO, tf.float64)],
        {"f": tf.math.square},
        r"cotangent of output 0 must be float32, not float64",
    ),
    "None as a cotangent": ([TWO, TWO, None], {"f": product}, r"cotangent of output 0 is None.*zeros_like"),
    "None as a cotangent of a callable": ([TWO, None], {"f": tf.math.square}, r"cotangent of output 0 is None"),
    "None as an input": ([TWO, None, TWO], {"f": product}, r"input 1 \('b'\) is None"),
    "dy of a vector left out": ([TWO], {"f": tf.identity}, r"hold 2 tensors.* holds 1|cotangent for each output"),
    "dtype in Tout": (
        [TWO] * 3,
        {"f": product, "Tout": [tf.float32, tf.int32]},
        r"Tout\[1\] is int32, but .*'b'.* float32",
    ),
    "length of Tout": ([TWO] * 3, {"f": product, "Tout": [tf.float32]}, r"Tout must name 2 dtypes. It names 1"),
    "nonsense in Tout": ([TWO] * 3, {"f": product, "Tout": ["number", 1]}, r"Tout must be a list of dtypes"),
}


@everywhere
@pytest.mark.parametrize("what", WRONG_CALLS)
def test_wrong_call(what: str, run: Any) -> None:
    values, arguments, message = WRONG_CALLS[what]

    def call() -> Any:
        return symbolic_gradient([x() if callable(x) else x for x in values], **arguments)

    with pytest.raises(errors.InvalidArgumentError, match=message):
        run(call)


@everywhere
@pytest.mark.parametrize("f", ["no_such_function", attr_value_pb2.NameAttrList(name="no_such_function")])
def test_unknown_function(f: Any, run: Any) -> None:
    with pytest.raises(errors.NotFoundError, match=r"no function 'no_such_function'.*add_to_graph"):
        run(lambda: symbolic_gradient([1.0, 1.0], f=f))


@everywhere
@pytest.mark.parametrize("f", [None, 3, [tf.square]])
def test_no_function(f: Any, run: Any) -> None:
    with pytest.raises(TypeError, match=r"function to differentiate|must be a ConcreteFunction, .* or a callable"):
        run(lambda: symbolic_gradient([1.0, 1.0], f=f))


@pytest.mark.parametrize("values", [None, 1.0, ONE, "ab", {"x": ONE}])
def test_no_list(values: Any) -> None:
    with pytest.raises(TypeError, match="must be a list of tensors"):
        symbolic_gradient(values, f=tf.square)


def raw(f: Any, *inputs: Any, tout: Any = (tf.float32, tf.float32)) -> Any:
    return tf_symgrad.raw_ops.SymbolicGradient(input=list(map(tf.constant, inputs)), Tout=list(tout), f=f)


@everywhere
@pytest.mark.parametrize(
    ("inputs", "tout", "message"),
    [
        ([TWO, TWO], [tf.float32] * 2, "input has length 2, needs 3"),
        ([TWO, TWO, TWO, TWO], [tf.float32] * 2, "input has length 4, needs 3"),
        ([TWO, [1, 2], TWO], [tf.float32] * 2, r"input\[1\] is int32, must be float, .* 'b'"),
        ([TWO, TWO, [1, 2]], [tf.float32] * 2, r"input\[2\] is int32, must be float"),
        ([TWO, TWO, TWO], [tf.float32], "Tout has length 1, needs 2"),
        ([TWO, TWO, TWO], [tf.float32] * 3, "Tout has length 3, needs 2"),
        ([TWO, TWO, TWO], [tf.float32] * 4, "Tout has length 4, needs 2|Tout has 4 dtypes"),
        ([TWO, TWO, TWO], [tf.float32, tf.float64], r"Tout\[1\] is double, must be float"),
    ],
)
def test_wrong_raw_call(inputs: Any, tout: Any, message: str, run: Any) -> None:
    f = product.get_concrete_function()
    # A graph checks some of it when the op is added, and raises what TensorFlow raises then.
    with pytest.raises((errors.InvalidArgumentError, ValueError), match=message):
        run(lambda: raw(f, *inputs, tout=tout))


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_raw_call_of_an_unknown_function(run: Any) -> None:
    with pytest.raises(errors.NotFoundError, match="no_such_function"):
        run(lambda: raw("no_such_function", 1.0, 1.0, tout=[tf.float32]))


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
@pytest.mark.parametrize("f", [tf.square, product, 3])
def test_raw_call_of_a_callable(f: Any, run: Any) -> None:
    with pytest.raises(TypeError, match=r"get_concrete_function\(\.\.\.\) .*symbolic_gradient"):
        run(lambda: raw(f, TWO, TWO))


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_raw_call_without_the_captures(run: Any) -> None:
    v = tf.Variable(1.0)
    f = tf.function(lambda x: x * v).get_concrete_function(PAIR)
    with pytest.raises(errors.InvalidArgumentError, match=r"needs 3: it captures 1, .*\*f.captured_inputs"):
        run(lambda: raw(f, TWO, TWO, tout=[tf.float32]))


@everywhere
@pytest.mark.parametrize("place", ["input 0", "the cotangent of output 0"])
def test_tensor_out_of_scope(place: str, run: Any) -> None:
    leaked: list[Any] = []
    tf.function(lambda x: leaked.append(2 * x))(tf.constant(TWO))
    values = [leaked[0], TWO] if place == "input 0" else [TWO, leaked[0]]
    with pytest.raises(errors.InvalidArgumentError, match=rf"{place}.* is .*mul.*no part of what is running"):
        run(lambda: symbolic_gradient(values, f=tf.square))


# ---- Ops without a gradient. ----


def twice(x: Any) -> Any:
    return 2 * tf.raw_ops.Bitcast(input=x, type=tf.float32, name="inner")


def undifferentiable(x: Any) -> Any:
    y = tf.raw_ops.Bitcast(input=x, type=tf.float32, name="first")
    return tf.reduce_sum(y) + tf.reduce_sum(tf.raw_ops.Bitcast(input=x, type=tf.float32, name="second"))


def line_of(f: Callable[..., Any], text: str) -> int:
    lines, first = inspect.getsourcelines(f)
    return next(first + i for i, line in enumerate(lines) if text in line)


@everywhere
def test_all_ops_without_gradient_are_listed_with_their_lines(run: Any) -> None:
    with pytest.raises(errors.UnimplementedError) as raised:
        run(lambda: symbolic_gradient([TWO], f=undifferentiable))
    for node in ("first", "second"):
        line = line_of(undifferentiable, node)
        assert re.search(
            rf"node '{node}' \(op Bitcast, made at {__file__}:{line}\): .*stop_gradient", str(raised.value)
        )
    assert re.search(r"function '\w*undifferentiable\w*' can't be differentiated", str(raised.value))


@everywhere
def test_op_without_gradient_in_a_function_that_is_called(run: Any) -> None:
    called = tf.function(twice)
    with pytest.raises(errors.UnimplementedError) as raised:
        run(lambda: symbolic_gradient([TWO], f=lambda x: tf.reduce_sum(called(x))))
    line = line_of(twice, "inner")
    assert re.search(rf"node 'inner' \(op Bitcast, made at {__file__}:{line}\)", str(raised.value))


@everywhere
def test_op_without_gradient_behind_another_is_listed(run: Any) -> None:
    called = tf.function(twice)

    def f(x: Any) -> Any:
        y = tf.exp(tf.raw_ops.Bitcast(input=called(x), type=tf.float32, name="middle"))
        return tf.reduce_sum(tf.raw_ops.Bitcast(input=y, type=tf.float32, name="last"))

    with pytest.raises(errors.UnimplementedError) as raised:
        run(lambda: symbolic_gradient([TWO], f=f))
    for node in ("inner", "middle", "last"):
        assert f"node '{node}' (op Bitcast" in str(raised.value)


IMAGE, IDENTITY = tf.ones([1, 2, 2, 1]), tf.eye(1, 8)


@pytest.mark.parametrize(
    ("f", "point", "op", "argument"),
    [
        (lambda a: tf.math.polygamma(a, [0.5, 2.5]), [2.0, 3.0], "Polygamma", "a"),
        (
            lambda t: tf.raw_ops.ScaleAndTranslate(images=IMAGE, size=[2, 2], scale=t, translation=[0, 0]),
            [1.0, 1.0],
            "ScaleAndTranslate",
            "scale",
        ),
        (
            lambda t: tf.raw_ops.ImageProjectiveTransformV2(
                images=IMAGE, transforms=t, output_shape=[2, 2], interpolation="BILINEAR"
            ),
            IDENTITY,
            "ImageProjectiveTransformV2",
            "transforms",
        ),
    ],
)
def test_derivative_that_nobody_knows_is_no_zero(f: Any, point: Any, op: str, argument: str) -> None:
    """An error for those who ask for it alone."""
    x = tf.convert_to_tensor(point)
    with pytest.raises(errors.UnimplementedError, match=rf"\(op {op}.*\): no gradient by its input '{argument}': "):
        symbolic_gradient([x], f=lambda x: tf.reduce_sum(f(x)))
    (dx,) = symbolic_gradient([x], f=lambda x: tf.reduce_sum(f(tf.stop_gradient(x))) + tf.reduce_sum(x))
    assert tf.reduce_all(dx == 1)


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
def test_op_without_gradient_in_a_raw_call(run: Any) -> None:
    f = tf.function(undifferentiable).get_concrete_function(PAIR)
    with pytest.raises(errors.UnimplementedError, match=r"can't be differentiated") as raised:
        run(lambda: raw(f, TWO, 1.0, tout=[tf.float32]))
    for node in ("first", "second"):
        assert f"node '{node}' (op Bitcast" in str(raised.value)


@everywhere
def test_op_without_gradient_off_the_path_does_no_harm(run: Any) -> None:
    if run is in_v1_graph and os.environ.get("TF_SYMGRAD_DISABLE_PASS") == "1":
        pytest.skip("a session's Grappler has removed stop_gradient from f before the kernel sees f")

    def f(x: Any) -> Any:
        return x * tf.stop_gradient(twice(x)), twice(tf.ones([2]))

    (dx,) = run(lambda: symbolic_gradient([TWO, TWO, TWO], f=f))
    assert list(map(float, dx)) == [2.0, 8.0]  # dy * 2x


# ---- Malformed functions. ----

GOOD = """
signature {
  name: "$NAME$"
  input_arg { name: "x" type: DT_FLOAT }
  input_arg { name: "w" type: DT_FLOAT }
  output_arg { name: "y" type: DT_FLOAT }
}
node_def { name: "product" op: "Mul" input: "x" input: "w" attr { key: "T" value { type: DT_FLOAT } } }
node_def { name: "tanh" op: "Tanh" input: "product:z:0" attr { key: "T" value { type: DT_FLOAT } } }
node_def {
  name: "axes" op: "Const"
  attr { key: "dtype" value { type: DT_INT32 } }
  attr { key: "value" value { tensor { dtype: DT_INT32 tensor_shape { dim { size: 1 } } int_val: 0 } } }
}
node_def {
  name: "sum" op: "Sum" input: "tanh:y:0" input: "axes:output:0"
  attr { key: "T" value { type: DT_FLOAT } }
  attr { key: "Tidx" value { type: DT_INT32 } }
  attr { key: "keep_dims" value { b: false } }
}
ret { key: "y" value: "sum:output:0" }
"""


def edit(old: str, new: str, count: int = 1) -> Callable[[str], str]:
    def edited(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, count)

    return edited


NODE_T = 'attr { key: "T" value { type: DT_FLOAT } }'
ARG_SHAPE = 'arg_attr { key: 0 value { attr { key: "_output_shapes" value { list { shape { %s } } } } } }'
MALFORMED: dict[str, tuple[Callable[[str], str], str]] = {
    # what is changed in GOOD, what the message says
    "edge to no node": (edit('"product:z:0"', '"nothing:z:0"'), r"node 'tanh' \(op Tanh.*'nothing:z:0'"),
    "edge to no output": (edit('"product:z:0"', '"product:q:0"'), r"node 'tanh'.*'product:q:0'"),
    "edge to an output too far": (edit('"product:z:0"', '"product:z:1"'), r"node 'tanh'.*'product:z:1'"),
    "edge with a negative index": (edit('"product:z:0"', '"product:z:-1"'), r"node 'tanh'.*'product:z:-1'"),
    "edge with a huge index": (edit('"product:z:0"', '"product:z:99999999999999999999"'), "node 'tanh'"),
    "edge that is empty": (edit('"product:z:0"', '""'), "node 'tanh'"),
    "edge written as in a graph": (edit('"product:z:0"', '"product"'), r"node 'tanh'.*node:output:index"),
    "edge of another dtype": (edit('"tanh:y:0"', '"axes:output:0"'), r"node 'sum'.*must be float.* int32"),
    "edge missing": (edit('input: "x" input: "w"', 'input: "x"'), r"node 'product'.*takes 2 inputs, but has 1"),
    "edge too many": (edit('input: "x" input: "w"', 'input: "x" input: "w" input: "w"'), r"node 'product'.*has 3"),
    "control edge to no node": (
        edit('input: "w" attr', 'input: "w" input: "^nothing" attr'),
        r"node 'product'.*\^nothing",
    ),
    "data after control": (edit('input: "x" input: "w"', 'input: "^tanh" input: "x" input: "w"'), ""),
    "attr missing": (edit(NODE_T, ""), r"node 'product'.*attr 'T'"),
    "attr of another kind": (edit(NODE_T, 'attr { key: "T" value { i: 1 } }'), r"node 'product'.*attr 'T'"),
    "attr without a value": (edit(NODE_T, 'attr { key: "T" value { } }'), r"node 'product'.*attr 'T'"),
    "attr not allowed": (
        edit(NODE_T, 'attr { key: "T" value { type: DT_STRING } }'),
        r"node 'product'.*attr 'T'|must be",
    ),
    "attr that is no dtype": (edit(NODE_T, 'attr { key: "T" value { type: 77 } }'), "node 'product'"),
    "attr that is a ref": (edit(NODE_T, 'attr { key: "T" value { type: DT_FLOAT_REF } }'), ""),
    "attr that is a placeholder": (edit(NODE_T, 'attr { key: "T" value { placeholder: "Q" } }'), "node 'product'"),
    "attr that nobody knows": (edit(NODE_T, NODE_T + ' attr { key: "unknown" value { i: 1 } }'), ""),
    "op unknown": (edit('op: "Tanh"', 'op: "NoSuchOp"'), r"node 'tanh'.*NoSuchOp.*load the library|add the function"),
    "op empty": (edit('op: "Tanh"', 'op: ""'), "node 'tanh'"),
    "op that is itself": (edit('op: "Tanh"', 'op: "$NAME$"'), ""),
    "node twice": (edit('name: "tanh"', 'name: "product"'), "product"),
    "node named as an argument": (edit('name: "tanh"', 'name: "x"'), "'x'"),
    "node without a name": (edit('name: "tanh"', 'name: ""'), ""),
    "cycle": (edit('input: "x" input: "w"', 'input: "x" input: "tanh:y:0"'), r"cycle.*(product|tanh)"),
    "cycle of one": (edit('input: "product:z:0"', 'input: "tanh:y:0"'), r"cycle.*tanh"),
    "cycle by control": (edit('input: "w" attr', 'input: "w" input: "^sum" attr'), "cycle"),
    "ret missing": (edit('ret { key: "y" value: "sum:output:0" }', ""), r"output 'y'.*ret"),
    "ret of another name": (edit('key: "y" value: "sum', 'key: "q" value: "sum'), r"output 'y'"),
    "ret of no node": (edit('"sum:output:0"', '"nothing:output:0"'), r"output 'y'.*nothing"),
    "ret of another dtype": (edit('"sum:output:0"', '"axes:output:0"'), r"output 'y' must be float.*int32"),
    "argument without dtype": (edit('name: "x" type: DT_FLOAT', 'name: "x"'), "'x'"),
    "argument of no dtype": (edit('name: "x" type: DT_FLOAT', 'name: "x" type: 55'), "'x'"),
    "argument of an attr that is missing": (edit('name: "x" type: DT_FLOAT', 'name: "x" type_attr: "Q"'), ""),
    "argument list of an attr that is missing": (edit('name: "x" type: DT_FLOAT', 'name: "x" type_list_attr: "Q"'), ""),
    "argument list without end": (
        edit(
            'input_arg { name: "x" type: DT_FLOAT }',
            'input_arg { name: "x" type: DT_FLOAT number_attr: "N" } '
            'attr { name: "N" type: "int" default_value { i: 1000000000000 } }',
        ),
        "",
    ),
    "argument twice": (edit('name: "w" type', 'name: "x" type'), ""),
    "argument without a name": (edit('name: "w" type', 'name: "" type'), ""),
    "shape of an argument negative": (edit("ret {", ARG_SHAPE % "dim { size: -7 }" + " ret {"), ""),
    "shape of an argument huge": (edit("ret {", ARG_SHAPE % (2 * "dim { size: 9223372036854775807 }") + " ret {"), ""),
    "constant of another dtype": (edit("tensor { dtype: DT_INT32", "tensor { dtype: DT_STRING"), ""),
    "constant of a huge shape": (edit("dim { size: 1 }", "dim { size: 4611686018427387904 }"), ""),
    "constant of a negative shape": (edit("dim { size: 1 }", "dim { size: -5 }"), ""),
    "constant without a value": (edit('attr { key: "value"', 'attr { key: "other"'), r"node 'axes'.*attr 'value'"),
    "axis out of range": (edit("int_val: 0", "int_val: 99"), ""),
    "axis absurd": (edit("int_val: 0", "int_val: -2147483648"), ""),
}


def definition(text: str, name: str) -> function_pb2.FunctionDef:
    return text_format.Parse(text.replace("$NAME$", name), function_pb2.FunctionDef())


def differentiate(f: function_pb2.FunctionDef) -> None:
    """Builds the gradient function, in the engine alone."""
    library = function_pb2.FunctionDefLibrary(function=[f])
    name_attrs = attr_value_pb2.NameAttrList(name=f.signature.name)
    native.build_gradient(library.SerializeToString(), name_attrs.SerializeToString(), None)


def test_good_function() -> None:
    differentiate(definition(GOOD, "good"))


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_function_in_the_engine(what: str) -> None:
    change, message = MALFORMED[what]
    try:
        differentiate(definition(change(GOOD), "malformed"))
    except native.StatusError as error:
        code, text = error.args
        assert code in (errors.INVALID_ARGUMENT, errors.UNIMPLEMENTED, errors.NOT_FOUND), text
        assert "malformed" in text
        assert re.search(message, text), text
    else:
        assert not message, "differentiated without an error"


# Those that are errors, less one that TensorFlow itself mends on the way.
OFFERED = [what for what, (_, message) in MALFORMED.items() if message and what != "edge written as in a graph"]


@pytest.mark.parametrize("run", [in_eager_mode, in_function], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", OFFERED)
def test_malformed_function_through_the_op(what: str, run: Any) -> None:
    name = f"malformed_{OFFERED.index(what)}_{run.__name__}"
    context.context().add_function_def(definition(MALFORMED[what][0](GOOD), name))
    try:
        with pytest.raises(errors.InvalidArgumentError, match=name):
            run(lambda: symbolic_gradient([TWO, TWO, 1.0], f=name))
        with pytest.raises(errors.OpError):
            run(lambda: raw(name, TWO, TWO, 1.0))
    finally:
        context.context().remove_function(name)


# ---- Libraries of functions that go round in circles, and attrs in places where nobody expects them. ----

T_LISTS = " ".join(f'attr {{ key: "{key}" value {{ list {{ type: DT_FLOAT }} }} }}' for key in ("Tin", "Tout"))


def one_node(name: str, node: str, output: str = "output") -> function_pb2.FunctionDef:
    """y = node(x). The node is called n."""
    text = f"""
      signature {{ name: "{name}" input_arg {{ name: "x" type: DT_FLOAT }} output_arg {{ name: "y" type: DT_FLOAT }} }}
      node_def {{ name: "n" {node} }} ret {{ key: "y" value: "n:{output}:0" }}"""
    return text_format.Parse(text, function_pb2.FunctionDef())


def calling(f: str, x: str = "x", more: str = "") -> str:
    func = f'attr {{ key: "f" value {{ func {{ name: "{f}" }} }} }}'
    return f'op: "PartitionedCall" input: "{x}" {T_LISTS} {func} {more}'


TANH = one_node("tanh", f'op: "Tanh" input: "x" {NODE_T}', "y")
SAME = one_node("same", f'op: "Identity" input: "x" {NODE_T}')
CASE = f"""op: "Case" input: "i:output:0" input: "x" {T_LISTS}
  attr {{ key: "branches" value {{ list {{ func {{ name: "tanh" }} }} }} }}
  attr {{ key: "then_branch" value {{ func {{ name: "tanh" }} }} }}"""
INDEX = """node_def { name: "i" op: "Const" attr { key: "dtype" value { type: DT_INT32 } }
  attr { key: "value" value { tensor { dtype: DT_INT32 tensor_shape { } int_val: 0 } } } }"""
SELF_GRADIENT = """op: "TfSymgrad>SymbolicGradient" input: "x" input: "x"
  attr { key: "Tin" value { list { type: DT_FLOAT type: DT_FLOAT } } }
  attr { key: "Tout" value { list { type: DT_FLOAT } } } attr { key: "checkpoint" value { s: "auto" } }"""
CIRCLES = {
    # the functions, the first of which is differentiated; what the message says, empty where it has a gradient
    "recursion": ([one_node("f", calling("f"))], "calls itself"),
    "mutual recursion": ([one_node("f", calling("g")), one_node("g", calling("f"))], "calls itself"),
    "recursion of what is called": ([one_node("f", calling("g")), one_node("g", calling("g"))], "calls itself"),
    "a call of its own result": ([one_node("f", calling("same", "n:output:0")), SAME], r"cycle|n:output:0"),
    "the gradient of itself": (
        [one_node("f", SELF_GRADIENT + ' attr { key: "f" value { func { name: "f" } } }')],
        "calls itself",
    ),
    "the gradient of nothing": ([one_node("f", SELF_GRADIENT)], "attr 'f' is missing"),
    "a branch among cases": ([text_format.Merge(INDEX, one_node("f", CASE)), TANH], ""),
}  # fmt: skip


@pytest.mark.parametrize("checkpoint", ["", "everything"])
@pytest.mark.parametrize("what", CIRCLES)
def test_circles(what: str, checkpoint: str) -> None:
    functions, message = CIRCLES[what]
    library = function_pb2.FunctionDefLibrary(function=functions).SerializeToString()
    f = attr_value_pb2.NameAttrList(name="f").SerializeToString()
    if not message:
        assert native.build_gradient(library, f, None, checkpoint=checkpoint)
        return
    with pytest.raises(native.StatusError, match=message):
        native.build_gradient(library, f, None, checkpoint=checkpoint)


def test_an_argument_that_is_a_reference() -> None:
    """What is made takes values."""
    for f in (one_node("f", 'op: "Square" input: "x" ' + NODE_T, "y"), one_node("f", 'op: "NoOp"', "")):
        f.signature.input_arg[0].type = types_pb2.DT_FLOAT_REF
        f.ret["y"] = f.ret["y"] if f.node_def[0].op == "Square" else "x"
        library = function_pb2.FunctionDefLibrary(function=[f]).SerializeToString()
        _, made = native.build_gradient(library, attr_value_pb2.NameAttrList(name="f").SerializeToString(), None)
        for g in function_pb2.FunctionDefLibrary.FromString(made).function:
            assert function_def_to_graph.function_def_to_graph(g).outputs[0].dtype == tf.float32


def test_an_argument_of_which_an_op_wants_the_reference() -> None:
    """What is made has its value only, of which nothing can be assigned, and no such function called."""
    square = one_node("square", 'op: "Square" input: "x" ' + NODE_T, "y")
    square.signature.input_arg[0].type = types_pb2.DT_FLOAT_REF
    assign = f'op: "Assign" input: "x" input: "x" {NODE_T}'
    for f in (one_node("f", assign, "output_ref"), one_node("f", 'op: "square" input: "x"', "y")):
        f.signature.input_arg[0].type = types_pb2.DT_FLOAT_REF
        library = function_pb2.FunctionDefLibrary(function=[f, square]).SerializeToString()
        with pytest.raises(native.StatusError, match="node 'n' .* input 0 must be a reference"):
            native.build_gradient(library, attr_value_pb2.NameAttrList(name="f").SerializeToString(), None)


def test_a_reference_that_the_way_back_wants() -> None:
    """What is taken from a queue crosses, but not the queue: to take from it again is refused."""
    nodes = f"""
      node_def {{ name: "v" op: "MutableHashTableOfTensors" attr {{ key: "key_dtype" value {{ type: DT_FLOAT }} }}
        attr {{ key: "value_dtype" value {{ type: DT_FLOAT }} }} }}
      node_def {{ name: "d" op: "QueueDequeueMany" input: "v:table_handle:0" input: "i:output:0"
        attr {{ key: "component_types" value {{ list {{ type: DT_FLOAT }} }} }} }} {INDEX}"""
    f = text_format.Merge(nodes, one_node("f", f'op: "Mul" input: "x" input: "d:components:0" {NODE_T}', "z"))
    library = function_pb2.FunctionDefLibrary(function=[f]).SerializeToString()
    name_attrs = attr_value_pb2.NameAttrList(name="f").SerializeToString()
    assert native.build_vjp(library, name_attrs, [True])
    with pytest.raises(
        native.StatusError, match=r"node 'd' .op QueueDequeueMany.*takes 'v' by reference: use resource"
    ):
        native.build_vjp(library, name_attrs, [True], "recompute:QueueDequeueMany")


def test_a_result_that_is_a_reference() -> None:
    """What is made returns values, and no op of a function takes that of a reference."""
    f = one_node("f", 'op: "Variable" attr { key: "dtype" value { type: DT_FLOAT } }', "ref")
    f.node_def[0].attr["shape"].shape.SetInParent()
    f.signature.output_arg[0].type = types_pb2.DT_FLOAT_REF
    with pytest.raises(native.StatusError, match="output 'y' is a reference: return the variable's value"):
        differentiate(f)


def test_a_sum_of_lists_of_which_the_last_is_not_known() -> None:
    """TensorFlow's shape function reads as much of it as of the others: beyond its end."""

    @tf.function(input_signature=[PAIR, tf.TensorSpec([], tf.variant)])
    def f(x: Any, unknown: Any) -> Any:
        empty = tf.raw_ops.EmptyTensorList(element_shape=[2], max_num_elements=-1, element_dtype=tf.float32)
        lists = [tf.raw_ops.TensorListPushBack(input_handle=empty, tensor=y) for y in (x, x * x)]
        total = tf.raw_ops.AddN(inputs=[unknown, *lists])
        return tf.raw_ops.TensorListPopBack(input_handle=total, element_shape=[2], element_dtype=tf.float32)[1]

    definition = f.get_concrete_function().function_def
    inputs = next(node for node in definition.node_def if node.op == "AddN").input
    inputs.append(inputs.pop(0))
    differentiate(definition)


def gather(indices: str, axis: str, batch_dims: int) -> function_pb2.FunctionDef:
    f = one_node("f", f"""op: "GatherV2" input: "x" input: "{indices}" input: "{axis}"
      attr {{ key: "Tparams" value {{ type: DT_FLOAT }} }} attr {{ key: "Tindices" value {{ type: DT_INT32 }} }}
      attr {{ key: "Taxis" value {{ type: DT_INT32 }} }}""")  # fmt: skip
    f.node_def[0].attr["batch_dims"].i = batch_dims
    for name in ("i", "j"):
        f.signature.input_arg.add(name=name, type=types_pb2.DT_INT32)
    return f


def test_an_attr_that_its_constant_cannot_hold() -> None:
    """The conversion would be undefined."""
    with pytest.raises(native.StatusError, match=r"node 'n' .op GatherV2.*a literal can't be DT_INT32"):
        differentiate(gather("i", "j", 2**62))


def test_a_stack_of_elements_of_which_an_int32_does_not_tell_the_shape() -> None:
    """There is none, and the loop that was to keep it asked for its shape."""

    @tf.function(input_signature=[tf.TensorSpec([2**40]), tf.TensorSpec([], tf.int32)])
    def f(x: Any, n: Any) -> Any:
        return tf.while_loop(lambda i, _: i < n, lambda i, y: (i + 1, tf.sin(y)), (0, x))[1]

    f = f.get_concrete_function()
    library = f.graph.as_graph_def().library
    library.function.append(f.function_def)
    name_attrs = attr_value_pb2.NameAttrList(name=f.name)
    with pytest.raises(native.StatusError, match=r"node 'while' .op StatelessWhile.*a literal can't be DT_INT32"):
        native.build_gradient(library.SerializeToString(), name_attrs.SerializeToString(), None)


def test_values_of_another_shape_than_attrs_say() -> None:
    """An index of four numbers, of rows of three as the argument's shape has it: nobody reads beyond them."""
    scatter = one_node("f", 'op: "TensorScatterUpdate" input: "x" input: "i" input: "updates"')
    scatter.node_def[0].attr["T"].type, scatter.node_def[0].attr["Tindices"].type = (
        types_pb2.DT_FLOAT,
        types_pb2.DT_INT32,
    )
    for arg, (name, dtype) in enumerate([("i", types_pb2.DT_INT32), ("updates", types_pb2.DT_FLOAT)], start=1):
        scatter.signature.input_arg.add(name=name, type=dtype)
        if name == "i":
            scatter.arg_attr[arg].attr["_output_shapes"].list.shape.add().CopyFrom(tf.TensorShape([1, 3]).as_proto())
    f = attr_value_pb2.NameAttrList(name="f")
    for value in (tf.zeros([0]), tf.constant([[0, 1, 1, 0]]), tf.zeros([0])):
        f.attr["_input_values"].list.tensor.add().CopyFrom(tf.make_tensor_proto(value))
    library = function_pb2.FunctionDefLibrary(function=[scatter]).SerializeToString()
    _, made = native.build_gradient(library, f.SerializeToString(), [False, False, True])
    (gradient,) = function_pb2.FunctionDefLibrary.FromString(made).function
    assert [node.op for node in gradient.node_def] == ["GatherNd"]  # one index is distinct


def test_windows_of_more_samples_than_there_are() -> None:
    """No int64 is the next power of two."""
    attrs = " ".join(
        f'attr {{ key: "{name}" value {{ {value} }} }}'
        for name, value in {"window_size": f"i: {2**62 + 1}", "stride": "i: 1", "magnitude_squared": "b: true"}.items()
    )
    with pytest.raises(native.StatusError, match="op AudioSpectrogram.*of windows of so many samples"):
        differentiate(one_node("f", f'op: "AudioSpectrogram" input: "x" {attrs}', "spectrogram"))


@pytest.mark.parametrize("batch_dims", [2, -2, 2**40])
def test_more_batch_dims_than_dimensions(batch_dims: int) -> None:
    """Of an axis that is not known, TensorFlow's shape function makes a shape of a negative rank."""
    f = gather("i", "j", batch_dims)
    for arg in (0, 1):
        f.arg_attr[arg].attr["_output_shapes"].list.shape.add().dim.add(size=1)
    with pytest.raises(native.StatusError, match="its batch_dims are .*, of indices of 1 dim"):
        differentiate(f)


def test_known_values_of_a_rank_that_a_shape_function_does_not_expect() -> None:
    """TensorFlow's own ends the process."""
    f = one_node("f", """op: "SplitV" input: "x" input: "i:output:0" input: "i:output:0"
      attr { key: "num_split" value { i: 1 } } attr { key: "T" value { type: DT_FLOAT } }
      attr { key: "Tlen" value { type: DT_INT32 } }""")  # fmt: skip
    f.arg_attr[0].attr["_output_shapes"].list.shape.add().dim.add(size=2)
    with pytest.raises(native.StatusError, match=r"node 'n' .op SplitV.*size_splits must have 1 dimensions, but has 0"):
        differentiate(text_format.Merge(INDEX, f))


HANDLE_OF_A_FLOAT = """attr { key: "_output_shapes" value { list { shape { %s } } } }
  attr { key: "_handle_dtypes" value { list { type: DT_FLOAT } } }
  attr { key: "_handle_shapes" value { list { shape { } } } }"""
OF_A_HANDLE = {
    # the node, whose input i is an int32 of a rank that its shape function does not expect; its output, and the error
    "QueueDequeueManyV2": (
        'input: "h" input: "i:output:0" attr { key: "component_types" value { list { type: DT_FLOAT } } }',
        *("", "components", "input n must have 0 dimensions, but has 1"),
    ),
    "TensorArrayGradWithShape": (
        'input: "h" input: "x" input: "i:output:0" attr { key: "source" value { s: "g" } }',
        *("dim { size: 2 }", "flow_out", "input shape_to_prepend must have 1 dimensions, but has 0"),
    ),
    "BoostedTreesPredict": (
        """input: "h" input: "i:output:0" attr { key: "num_bucketized_features" value { i: 1 } }
      attr { key: "logits_dimension" value { i: 1 } }""",
        *("", "logits", "has inputs that are resources but no variables"),
    ),
}


@pytest.mark.parametrize("op", OF_A_HANDLE)
def test_integers_of_a_rank_that_a_shape_function_of_a_handle_does_not_expect(op: str) -> None:
    """TensorFlow's own ends the process."""
    node, shape, output, error = OF_A_HANDLE[op]
    f = one_node("f", f'op: "{op}" {node}', output)
    f.signature.input_arg.add(name="h", type=types_pb2.DT_RESOURCE)
    f.arg_attr[0].attr["_output_shapes"].list.shape.add()
    text_format.Parse(HANDLE_OF_A_FLOAT % shape, f.arg_attr[1])
    ones = INDEX.replace("{ }", "{ dim { size: 1 } }") if "0 dimensions" in error else INDEX
    with pytest.raises(native.StatusError, match=error):
        differentiate(text_format.Merge(ones, f))


def test_known_values_of_a_dtype_that_a_shape_function_does_not_expect() -> None:
    """TensorFlow's own ends the process."""
    f = one_node("f", """op: "SplitV" input: "x" input: "s:output:0" input: "i:output:0"
      attr { key: "num_split" value { i: 1 } } attr { key: "T" value { type: DT_FLOAT } }
      attr { key: "Tlen" value { type: DT_INT8 } }""")  # fmt: skip
    f.arg_attr[0].attr["_output_shapes"].list.shape.add().dim.add(size=2)
    sizes = INDEX.replace('"i"', '"s"').replace("INT32", "INT8").replace("{ }", "{ dim { size: 1 } }")
    differentiate(text_format.Merge(INDEX, text_format.Merge(sizes, f)))


@pytest.mark.parametrize("axis", [-(2**31), 2**31 - 1])
def test_an_axis_far_from_any_dimension(axis: int) -> None:
    """What is unknown of x and that axis together is an integer still."""
    f = one_node("f", f"""op: "Concat" input: "i:output:0" input: "x" input: "x" {NODE_T}
      attr {{ key: "N" value {{ i: 2 }} }}""")  # fmt: skip
    differentiate(text_format.Merge(INDEX.replace("int_val: 0", f"int_val: {axis}"), f))


def test_a_scalar_whose_last_dimension_a_shape_function_reads() -> None:
    f = one_node("f", 'op: "FakeQuantWithMinMaxVarsPerChannelGradient" input: "x" input: "c:output:0" '
      'input: "c:output:0" input: "c:output:0"', "backprops_wrt_input")  # fmt: skip
    scalar = INDEX.replace('"i"', '"c"').replace("INT32", "FLOAT").replace("int_val", "float_val")
    with pytest.raises(native.StatusError, match="input inputs.* must have 1 to 4 dimensions, but has 0"):
        differentiate(text_format.Merge(scalar, f))


def test_scales_of_a_batch_norm_that_its_gradient_op_does_not_take() -> None:
    """No device has a kernel for them, but the op says that there may be."""
    f = one_node("f", 'op: "FusedBatchNormV3" input: "x" input: "x" input: "x" input: "x" input: "x"', "y")
    for arg in (f.signature.input_arg[0], f.signature.output_arg[0]):
        arg.type = types_pb2.DT_BFLOAT16
    for name in "TU":
        f.node_def[0].attr[name].type = types_pb2.DT_BFLOAT16
    with pytest.raises(native.StatusError, match="FusedBatchNormV3.*cast them to float32"):
        differentiate(f)


@pytest.mark.parametrize("op", ["Transpose", "ConjugateTranspose"])
def test_a_permutation_of_more_dimensions_than_a_tensor_has(op: str) -> None:
    """TensorFlow's shape function takes memory for each."""
    f = one_node("f", f'op: "{op}" input: "x" input: "perm" {NODE_T}', "y")
    f.node_def[0].attr["Tperm"].type = types_pb2.DT_INT32
    f.signature.input_arg.add(name="perm", type=types_pb2.DT_INT32)
    f.arg_attr[1].attr["_output_shapes"].list.shape.add().dim.add(size=2**30)
    with pytest.raises(native.StatusError, match="input perm has 1073741824 elements"):
        differentiate(f)


def test_a_shape_of_more_dimensions_than_a_tensor_has_in_a_tensor_of_few() -> None:
    """TensorFlow's shape function makes a dimension of each number; the shape of that is no list that is folded."""
    f = one_node("f", """op: "SparseReduceSum" input: "i" input: "x" input: "s:output:0" input: "a:output:0"
      attr { key: "T" value { type: DT_FLOAT } } attr { key: "keep_dims" value { b: true } }""")  # fmt: skip
    f.signature.input_arg.add(name="i", type=types_pb2.DT_INT64)
    for name, value in {"s": tf.ones([4, 100, 4, 3], tf.int64), "a": tf.constant([0])}.items():
        constant = f.node_def.add(name=name, op="Const")
        constant.attr["dtype"].type = value.dtype.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    text_format.Merge(
        """node_def { name: "shape" op: "Shape" input: "n:output:0" attr { key: "T" value { type: DT_FLOAT } } }""", f
    )
    with pytest.raises(native.StatusError, match="node 'n' .op SparseReduceSum.*input input_shape has 4800 elements"):
        differentiate(f)


@pytest.mark.parametrize("size", [2**31, 2**40, 0, -3])
def test_more_devices_than_a_shape_function_can_count(size: int) -> None:
    f = one_node(
        "f",
        f"""op: "CollectiveGather" input: "x" attr {{ key: "T" value {{ type: DT_FLOAT }} }}
      attr {{ key: "group_size" value {{ i: {size} }} }} attr {{ key: "group_key" value {{ i: 1 }} }}
      attr {{ key: "instance_key" value {{ i: 1 }} }} attr {{ key: "shape" value {{ shape {{ }} }} }}""",
        "data",
    )
    f.arg_attr[0].attr["_output_shapes"].list.shape.add().dim.add(size=2)
    with pytest.raises(native.StatusError, match="node 'n' .op CollectiveGather.*group_size is no number of devices"):
        differentiate(f)


@pytest.mark.parametrize("op", ["PartitionedCall", "StatelessCase", "StatelessWhile"])
@pytest.mark.parametrize("place", ["input_arg", "output_arg"])
def test_functions_of_other_dtypes_than_their_node_says(op: str, place: str) -> None:
    callee = one_node("g", 'op: "Cast" input: "x" ' + NODE_T.replace('"T"', '"SrcT"') + NODE_T.replace('"T"', '"DstT"'))
    callee.ret["y"] = "n:y:0"
    other = "SrcT" if place == "input_arg" else "DstT"
    getattr(callee.signature, place)[0].type = callee.node_def[0].attr[other].type = types_pb2.DT_DOUBLE
    attrs = {"PartitionedCall": "f", "StatelessCase": "branches", "StatelessWhile": "body"}
    f = one_node("f", f'op: "{op}" ' + 'input: "i:output:0" ' * (op == "StatelessCase") + 'input: "x"')
    node = text_format.Merge(INDEX, f).node_def[0]
    for types in ("T",) if op == "StatelessWhile" else ("Tin", "Tout"):
        node.attr[types].list.type.append(types_pb2.DT_FLOAT)
    functions = node.attr[attrs[op]]
    (functions.list.func.add() if op == "StatelessCase" else functions.func).name = "g"
    node.attr["cond"].func.name = "h"
    never = one_node("h", f'op: "IsNan" input: "x" {NODE_T}', "y")
    never.signature.output_arg[0].type = types_pb2.DT_BOOL
    library = function_pb2.FunctionDefLibrary(function=[f, callee, never]).SerializeToString()
    with pytest.raises(native.StatusError, match="node 'n' .op .*float.* to .*float.*'g' has other dtypes"):
        native.build_gradient(library, attr_value_pb2.NameAttrList(name="f").SerializeToString())


def test_a_call_by_name_is_of_that_name() -> None:
    """Whatever attrs it has besides."""
    call = one_node("f", 'op: "same" input: "x" attr { key: "f" value { func { name: "tanh" } } }', "y")
    library = function_pb2.FunctionDefLibrary(function=[call, SAME, TANH]).SerializeToString()
    f = attr_value_pb2.NameAttrList(name="f").SerializeToString()
    _, functions = native.build_gradient(library, f, None)
    built = function_pb2.FunctionDefLibrary.FromString(functions)
    assert not any(node.op == "TanhGrad" for function in built.function for node in function.node_def)


# ---- Bytes and mutated protos. ----


@pytest.mark.parametrize("library", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x00" * 100, b"no library at all"])
def test_bytes_that_are_no_library(library: bytes) -> None:
    with pytest.raises(native.StatusError, match="serialized tensorflow.FunctionDefLibrary"):
        native.build_gradient(library, b"", None)


def test_bytes_that_are_no_name() -> None:
    with pytest.raises(native.StatusError, match="serialized tensorflow.NameAttrList"):
        native.build_gradient(b"", b"\xff", None)


def test_wrt_of_another_length() -> None:
    library = function_pb2.FunctionDefLibrary(function=[definition(GOOD, "good")])
    f = attr_value_pb2.NameAttrList(name="good")
    with pytest.raises(native.StatusError, match="has 2 inputs, but wrt has 3"):
        native.build_gradient(library.SerializeToString(), f.SerializeToString(), [True] * 3)


def mutants(seed: int, count: int, loops: bool) -> Any:
    """Functions with a few mutations each. A loop that is a mutant may have no end: those are for building alone."""
    chance = random.Random(seed)
    layers = tf.function(
        lambda x, w, i: tf.reduce_sum(
            tf.nn.softmax(tf.nn.conv2d(x, w, 1, "SAME")) * tf.concat([x, tf.gather(x, i, axis=3)], 3)[..., :3]
        )
    ).get_concrete_function(tf.TensorSpec([2, 4, 4, 3]), tf.TensorSpec([3, 3, 3, 3]), tf.TensorSpec([2], tf.int32))
    calls = tf.function(lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.function(tf.tanh)(x), lambda: -x))
    sources = [definition(GOOD, "good"), layers.function_def, calls.get_concrete_function(PAIR).function_def]
    if loops:

        def frames(x: Any) -> Any:
            inner = functools.partial(loop, 3, lambda i, v: (v1.cond(i < 2, lambda: v * x, lambda: v),), x)
            return v1.cond(x[0] > 0.0, inner, lambda: x)

        while_loop = tf.function(lambda x: tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * x), (0, x))[1])
        sources += [function_of_frames(frames, PAIR).function_def, while_loop.get_concrete_function(PAIR).function_def]
    for _ in range(count):
        source = chance.choice(sources)
        mutant = function_pb2.FunctionDef.FromString(source.SerializeToString())
        for _ in range(chance.choice([1, 1, 2, 5])):
            mutate(mutant, chance)
        yield mutant


ALLOWED = {
    errors.INVALID_ARGUMENT: "InvalidArgument",
    errors.UNIMPLEMENTED: "Unimplemented",
    errors.NOT_FOUND: "NotFound",
    errors.INTERNAL: "Internal",
}


def attempt(mutant: function_pb2.FunctionDef) -> str:
    try:
        differentiate(mutant)
    except native.StatusError as error:
        code, message = error.args
        assert code in ALLOWED, (code, message, mutant)
        assert 20 < len(message) < 100_000, message
        return ALLOWED[code]
    return "differentiated"


def attempt_op(mutant: function_pb2.FunctionDef) -> str:
    """The same through the op, in eager mode and in a function."""
    mutant.signature.name = name = f"mutant_{len(context.context().list_function_names())}"
    inputs = {
        2: [TWO, TWO, 1.0],
        3: [tf.ones([2, 4, 4, 3]), tf.ones([3, 3, 3, 3]), [0, 1], 1.0],
    }.get(len(mutant.signature.input_arg), [TWO, TWO])
    tout = [tf.convert_to_tensor(x).dtype for x in inputs[:-1]]
    try:
        context.context().add_function_def(mutant)
    except (errors.OpError, UnicodeError):
        return "refused by TensorFlow"
    outcomes = set()
    for run in (in_eager_mode, in_function):
        try:
            run(lambda: raw(name, *inputs, tout=tout))
            outcomes.add("differentiated")
        except errors.AbortedError as error:
            if "primitive descriptor" not in error.message:  # oneDNN's word for sizes that do not fit
                raise
            outcomes.add("refused by a kernel")
        except errors.OpError as error:
            outcomes.add(ALLOWED[error.error_code])  # a KeyError for every other code
    return " or ".join(sorted(outcomes))


SURVIVE = """
import collections, json, sys
from tests import test_errors

outcomes = collections.Counter()
for number, mutant in enumerate(test_errors.mutants({seed}, {count}, {loops})):
    print("mutant", number, file=sys.stderr, flush=True)  # the one that is being tried, should the process die
    outcomes[test_errors.{attempt}(mutant)] += 1
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize(("how", "count"), [("attempt", 2500), ("attempt_op", 400)])
def test_mutated_functions_never_abort(how: str, count: int) -> None:
    code = SURVIVE.format(seed=1, count=count, attempt=how, loops=how == "attempt")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert outcomes["InvalidArgument"] > count / 3, outcomes
    assert outcomes["differentiated"] > count / 20, outcomes
    # Sizes that overflow only in the gradient, where they look like a mistake of the rule.
    assert outcomes.get("Internal", 0) < count / 100, outcomes
