"""What the engine builds: the least graph, with names, devices and constants as they should be, in linear time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, types_pb2

import tf_symgrad
from tests import memory
from tests.sanitize.build import keeps_memory
from tf_symgrad import _loader

VECTOR = tf.TensorSpec([3], tf.float32)


def concrete(f: Callable[..., Any], *specs: tf.TensorSpec) -> Any:
    return tf.function(f).get_concrete_function(*specs)


def gradient(f: Callable[..., Any], *specs: tf.TensorSpec, wrt: list[bool] | None = None) -> function_pb2.FunctionDef:
    """The gradient function of a Python function."""
    _, library = tf_symgrad.gradient_function(concrete(f, *specs), wrt)
    return library.function[0]


def ops_of(definition: function_pb2.FunctionDef) -> Counter[str]:
    return Counter(node.op for node in definition.node_def)


def build(definitions: list[function_pb2.FunctionDef], name: str) -> function_pb2.FunctionDefLibrary:
    library = function_pb2.FunctionDefLibrary(function=definitions)
    request = attr_value_pb2.NameAttrList(name=name)
    _, built = _loader.native().build_gradient(library.SerializeToString(), request.SerializeToString(), None)
    return function_pb2.FunctionDefLibrary.FromString(built)


def chain(length: int, op: str = "Tanh", name: str = "chain") -> function_pb2.FunctionDef:
    """A function of one vector: op after op."""
    definition = function_pb2.FunctionDef()
    definition.signature.name = name
    definition.signature.input_arg.add(name="x", type=1)
    definition.signature.output_arg.add(name="y", type=1)
    definition.arg_attr[0].attr["_output_shapes"].list.shape.add().dim.add().size = 3
    last = "x"
    for i in range(length):
        node = definition.node_def.add(name=f"n{i}", op=op, input=[last])
        if op in ("PartitionedCall",):
            node.attr["Tin"].list.type.append(1)
            node.attr["Tout"].list.type.append(1)
            node.attr["f"].func.name = "callee"
            last = f"n{i}:output:0"
        else:
            node.attr["T"].type = 1
            last = f"n{i}:y:0"
    definition.ret["y"] = last
    return definition


def test_only_what_the_wanted_gradient_needs_is_built() -> None:
    def f(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        tf.print("not needed for a gradient")
        return tf.reduce_sum(tf.matmul(x, w)) + tf.reduce_sum(tf.sin(w))

    specs = tf.TensorSpec([2, 3], tf.float32), tf.TensorSpec([3, 4], tf.float32)
    both, first = gradient(f, *specs), gradient(f, *specs, wrt=[True, False])
    assert (ops_of(both)["MatMul"], ops_of(both)["Cos"]) == (2, 1)
    assert (ops_of(first)["MatMul"], ops_of(first)["Cos"]) == (1, 0)
    assert not {"PrintV2", "Sin"} & set(ops_of(both))
    assert [arg.name for arg in first.signature.output_arg] == ["out_0"]


def test_powers_of_constant_exponents() -> None:
    """Their exponents are lowered when building, and what can't be infinite is multiplied plainly."""

    def ops(exponent: float) -> Counter[str]:
        return ops_of(gradient(lambda x: tf.reduce_sum(x**exponent), tf.TensorSpec([3])))

    assert not {"Pow", "Sub", "MulNoNan"} & set(ops(2.0))
    assert (ops(3.0)["Pow"], ops(3.0)["Sub"], ops(3.0)["MulNoNan"]) == (1, 0, 0)
    assert (ops(0.5)["Pow"], ops(0.5)["Sub"], ops(0.5)["MulNoNan"]) == (1, 0, 1)  # zero to the -0.5


def test_factors_wait_for_the_way_back() -> None:
    """The cosine needs the forward part alone, and would be computed, and kept, in the midst of it, by a thread of its
    own."""

    def waits(size: int | None) -> list[str]:
        definition = gradient(lambda x: tf.reduce_sum(tf.exp(tf.sin(x))), tf.TensorSpec([size]))
        [cosine] = [node for node in definition.node_def if node.op == "Cos"]
        return [name for name in cosine.input if name.startswith("^")]

    assert [len(waits(size)) for size in (3, 4096, None)] == [1, 1, 1]


def test_what_is_the_same_for_a_batch_stays_small() -> None:
    """The gradients of mean and variance are broadcast by the ops that use them."""

    def f(x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, [0])
        return tf.reduce_sum(tf.sin((x - mean) * tf.math.rsqrt(variance)))

    for rows in 64, None:
        definition = gradient(f, tf.TensorSpec([rows, 3]))
        assert ops_of(definition)["BroadcastTo"] == 1  # that of the loss


def test_who_only_waits_needs_nothing() -> None:
    """An edge from what changes nothing is none of the meaning."""

    def f(x: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.tanh(x)]):
            return tf.reduce_sum(tf.exp(p))

    assert "Tanh" not in ops_of(gradient(f, VECTOR, VECTOR, wrt=[False, True]))


def test_rules_may_see_rows() -> None:
    """A table's rows stay rows through the rule of a sum, to be added to others."""

    def f(table: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        both = tf.raw_ops.AddN(inputs=[table, other])
        return tf.reduce_sum(tf.gather(both, [1, 3])) + tf.reduce_sum(tf.sin(tf.gather(table, [1, 1])))

    definition = gradient(f, *[tf.TensorSpec([1000, 3], tf.float32)] * 2, wrt=[True, False])
    assert ops_of(definition)["UnsortedSegmentSum"] == 1
    assert not {"Fill", "AddV2", "AddN"} & set(ops_of(definition))


def test_static_shapes_decide_when_building() -> None:
    definition = gradient(
        lambda x, b: tf.reduce_mean(tf.nn.relu(x + b)),
        tf.TensorSpec([5, 3], tf.float32),
        tf.TensorSpec([3], tf.float32),
    )
    assert not {"Shape", "BroadcastGradientArgs", "Size", "Cast"} & set(ops_of(definition))


def test_an_unknown_size_is_known_to_be_the_same_elsewhere() -> None:
    batch = tf.TensorSpec([None, 3], tf.float32)
    definition = gradient(lambda x: tf.tanh(x) * tf.sin(x) + x, batch)
    assert "BroadcastGradientArgs" not in ops_of(definition)


def test_a_broadcast_that_only_run_time_knows_is_summed_at_run_time() -> None:
    unknown = tf.TensorSpec([None, 3], tf.float32)
    f = concrete(lambda a, b: a * b, unknown, unknown)
    assert "BroadcastGradientArgs" in ops_of(tf_symgrad.gradient_function(f)[1].function[0])
    a, b, dy = tf.ones([1, 3]), tf.ones([4, 3]) * 2.0, tf.ones([4, 3])
    da, db = tf_symgrad.symbolic_gradient([a, b, dy], f=f)
    assert (da.shape, db.shape, float(da[0, 0])) == ([1, 3], [4, 3], 8.0)


@pytest.mark.parametrize("spec", [tf.TensorSpec(None, tf.float32), tf.TensorSpec([None, None], tf.float32)])
def test_unknown_shapes_that_are_equal_broadcast_nothing(spec: tf.TensorSpec) -> None:
    ops = ops_of(gradient(lambda x: (x * tf.tanh(x) + 2.0 * x) / tf.exp(x), spec))
    assert ops["Div"] + ops["RealDiv"] > 0
    assert not {"BroadcastGradientArgs", "Shape", "Sum", "Reshape"} & set(ops)


def test_what_the_function_computes_of_shapes_is_not_computed_again() -> None:
    f = lambda x: tf.reduce_sum(tf.sin(tf.concat([x, x * x], 1)))  # noqa: E731
    ops = ops_of(gradient(tf_symgrad.grad(f), tf.TensorSpec([None, None], tf.float32)))
    assert (ops["ConcatV2"], ops["Pack"], ops["GatherV2"]) == (2, 1, 1)


SHAPES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "MatMul": lambda x: tf.matmul(tf.squeeze(x, 2), tf.squeeze(x, 2), transpose_b=True),
    "MatMul of a transpose": lambda x: tf.matmul(tf.squeeze(x, 2), tf.squeeze(x, 2), transpose_a=True),
    "a sum over axes from both ends": lambda x: tf.reduce_sum(x, [0, -1]),
    "a mean that keeps dimensions": lambda x: tf.reduce_mean(x, -2, keepdims=True),
    "a maximum over nothing": lambda x: tf.reduce_max(x, np.zeros(0, np.int32)),
    "a broadcast of both": lambda x: x * tf.constant(np.ones([2, 1, 1, 5], np.float32)),
    "a broadcast of a vector": lambda x: x - np.ones(6, np.float32),
    "a scalar": lambda x: 2.0 * x,
    "AddN": lambda x: tf.add_n([x, x, x]),
    "Reshape": lambda x: tf.reshape(x, [2, 6]),
    "Reshape that infers": lambda x: tf.reshape(x, [-1, 2]),
    "an empty tensor": lambda x: tf.reshape(tf.reduce_sum(x) * tf.zeros([0, 3]), [5, 0]),
}


@pytest.mark.parametrize("dims", [[3, 4, 1], [None, 4, 1], [3, None, None]], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_tensorflow(name: str, dims: list[int | None]) -> None:
    """Which a residual tells. What TensorFlow knows the engine knows."""
    y: list[tf.Tensor] = []

    def f(x: tf.Tensor) -> tf.Tensor:
        y.append(SHAPES[name](x))
        return tf.sin(y[0])

    function = concrete(f, tf.TensorSpec(dims, tf.float32)).function_def
    library = function_pb2.FunctionDefLibrary(function=[function]).SerializeToString()
    request = attr_value_pb2.NameAttrList(name=function.signature.name).SerializeToString()
    _, pullback, _, _, serialized = _loader.native().build_vjp(library, request, [True])
    built = {g.signature.name: g for g in function_pb2.FunctionDefLibrary.FromString(serialized).function}[pullback]
    taken = [i for i, arg in enumerate(built.signature.input_arg) if arg.name.startswith("residual")]
    shapes = [tf.TensorShape(built.arg_attr[i].attr["_output_shapes"].list.shape[0]) for i in taken]
    assert y[0].shape.as_list() in [s.as_list() if s.rank is not None else None for s in shapes]


def test_equal_constants_are_one_node() -> None:
    def f(x: tf.Tensor) -> tf.Tensor:
        for _ in range(20):
            x = tf.square(x)
        return x

    assert ops_of(gradient(f, VECTOR))["Const"] == 1


def test_equal_constants_of_the_function_are_one_node() -> None:
    def f(x: tf.Tensor) -> tf.Tensor:
        for _ in range(5):
            x = tf.sin(x) * tf.reduce_mean(tf.exp(x), [-1], keepdims=True)
        return x

    spec = tf.TensorSpec([2, 3], tf.float32)
    assert Counter(node.op for node in concrete(f, spec).function_def.node_def)["Const"] == 5
    built = gradient(f, spec)
    constants = [node.attr["value"].tensor for node in built.node_def if node.op == "Const"]
    assert len({c.SerializeToString() for c in constants}) == len(constants)


def test_names_tell_the_forward_node() -> None:
    def f(x: tf.Tensor) -> tf.Tensor:
        with tf.name_scope("layer"):
            return tf.sin(x, name="wave")

    names = {node.name: node.op for node in gradient(f, VECTOR).node_def}
    assert names["gradients/layer/wave/Cos"] == "Cos"


def test_a_second_derivative_has_names_of_its_own() -> None:
    first = gradient(tf.sin, VECTOR)
    second = build([first], first.signature.name).function[0]
    names = [node.name for node in second.node_def]
    assert len(set(names)) == len(names)
    assert any(name.startswith("gradients_1/gradients/") for name in names)


def test_devices_and_colocation_are_kept() -> None:
    def f(x: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            y = tf.sin(x)
        with tf.Graph.colocate_with(tf.compat.v1.get_default_graph(), y.op):
            return tf.exp(y)

    nodes = {node.op: node for node in gradient(f, VECTOR).node_def if node.name.startswith("gradients/")}
    assert "CPU:0" in nodes["Cos"].device
    assert nodes["Mul"].attr["_class"].list.s or "CPU:0" in nodes["Mul"].device


@pytest.mark.parametrize("place", [0, 150, 299])
def test_large_functions_of_one_name_that_differ_in_a_node(place: int) -> None:
    """They are read part by part: what is built of one is not handed out for the other."""
    plain, other = chain(300, name="of_one_name"), chain(300, name="of_one_name")
    other.node_def[place].op = "Sin"
    [first], [second] = (build([f], "of_one_name").function for f in (plain, other))
    assert ops_of(first)["Cos"] == 0
    assert ops_of(second)["Cos"] == 1
    assert first.signature.name != second.signature.name


@pytest.mark.parametrize("place", [0, 1000, 2999])
def test_large_constants_of_one_name_that_differ_in_a_number(place: int) -> None:
    """Each is more than such a part."""

    def name_of_gradient(number: float) -> str:
        values = np.ones(3000, np.float32)
        values[place] = number
        f = concrete(lambda x: x * values, tf.TensorSpec([3000])).function_def
        f.signature.name = "with_a_constant"
        [made] = build([f], "with_a_constant").function
        [constant] = [tf.make_ndarray(node.attr["value"].tensor) for node in made.node_def if node.op == "Const"]
        np.testing.assert_array_equal(constant, values)
        return made.signature.name

    assert name_of_gradient(0.5) != name_of_gradient(0.25)


def test_builds_are_byte_equal_across_processes() -> None:
    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); from tests.test_engine import build, chain;"
        "library = build([chain(50)], 'chain');"
        "print(hashlib.sha256(b''.join(f.SerializeToString(deterministic=True) for f in library.function)).hexdigest())"
    )
    root = __file__.rsplit("/tests/", 1)[0]
    runs = [
        subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_a_long_chain_is_linear_and_needs_no_stack() -> None:
    sizes = {n: len(build([chain(n)], "chain").function[0].node_def) for n in (1_000, 100_000)}
    assert sizes == {1_000: 2_000, 100_000: 200_000}


def ring(n: int, name: str) -> list[function_pb2.FunctionDef]:
    """A loop of n variables, each of which takes its value from the next: one more carries with every iteration."""
    f, body, condition = (function_pb2.FunctionDef() for _ in range(3))
    for function, kind in ((f, ""), (body, "_body"), (condition, "_condition")):
        function.signature.name = name + kind
        for k in range(n):
            function.signature.input_arg.add(name=f"x{k}", type=1)
    for k in range(n):
        body.node_def.add(name=f"n{k}", op="Sin", input=[f"x{(k + 1) % n}"]).attr["T"].type = 1
        body.signature.output_arg.add(name=f"y{k}", type=1)
        body.ret[f"y{k}"] = f"n{k}:y:0"
    condition.signature.output_arg.add(name="y", type=10)
    condition.node_def.add(name="less", op="Less", input=["x0", "x1"]).attr["T"].type = 1
    condition.ret["y"] = "less:z:0"
    loop = f.node_def.add(name="loop", op="StatelessWhile", input=[f"x{k}" for k in range(n)])
    loop.attr["T"].list.type.extend([1] * n)
    loop.attr["body"].func.name, loop.attr["cond"].func.name = name + "_body", name + "_condition"
    f.signature.output_arg.add(name="y", type=1)
    f.ret["y"] = "loop:output:0"
    return [f, body, condition]


def branches(n: int, name: str) -> list[function_pb2.FunctionDef]:
    """Branches of TensorFlow 1, one after the other, each with a predicate of its own."""
    f = function_pb2.FunctionDef()
    f.signature.name = name
    f.signature.input_arg.add(name="x", type=1)
    f.signature.input_arg.add(name="zero", type=1)
    last = "x"
    for k in range(n):
        nodes = [
            (f"p{k}", "Greater", [last, "zero"]),
            (f"s{k}", "Switch", [last, f"p{k}:z:0"]),
            (f"a{k}", "Sin", [f"s{k}:output_true:0"]),
            (f"b{k}", "Cos", [f"s{k}:output_false:0"]),
            (f"m{k}", "Merge", [f"b{k}:y:0", f"a{k}:y:0"]),
        ]
        for node, op, inputs in nodes:
            f.node_def.add(name=node, op=op, input=inputs).attr["T"].type = 1
        f.node_def[-1].attr["N"].i = 2
        last = f"m{k}:output:0"
    f.signature.output_arg.add(name="y", type=1)
    f.ret["y"] = last
    return [f]


@pytest.mark.parametrize("make", [ring, branches])
def test_the_result_grows_as_the_function_does(make: Callable[[int, str], Any]) -> None:
    def size(n: int) -> int:
        definitions = make(n, f"grows_{n}")
        return sum(len(f.node_def) for f in build(definitions, definitions[0].signature.name).function)

    assert size(400) < 10.5 * size(40)


def test_a_function_called_often_is_differentiated_once() -> None:
    library = build([chain(1_000, "PartitionedCall", "caller"), chain(9, "Tanh", "callee")], "caller")
    kinds = Counter(f.signature.name.split("_")[3] for f in library.function)
    assert kinds == {"caller": 1, "forward": 1, "pullback": 1}
    assert len(library.function[0].node_def) == 2_000


def test_calls_pass_residuals_rather_than_run_twice() -> None:
    @tf.function(experimental_attributes={"_noinline": True})
    def layer(x: tf.Tensor) -> tf.Tensor:
        return tf.sin(tf.exp(x))

    _, library = tf_symgrad.gradient_function(concrete(lambda x: layer(layer(x)), VECTOR))
    ops = sum((ops_of(f) for f in library.function), Counter())
    assert (ops["Exp"], ops["PartitionedCall"]) == (1, 4)


@pytest.mark.parametrize(
    ("length", "attr", "devices", "calls"),
    [
        (8, None, ["", ""], 0),
        (9, None, ["", ""], 4),
        (2, "_noinline", ["", ""], 4),
        (2, "api_implements", ["", ""], 4),
        (2, None, ["/CPU:0", "/CPU:0"], 0),
        (2, None, ["/CPU:0", "/CPU:1"], 4),  # where cotangents add up before they are copied
    ],
)
def test_functions_of_a_few_nodes_are_written_out(
    length: int, attr: str | None, devices: list[str], calls: int
) -> None:
    callee, caller = chain(length, "Tanh", "callee"), chain(2, "PartitionedCall", "caller")
    if attr is not None:
        callee.attr[attr].b = True
    for node, device in zip(caller.node_def, devices, strict=True):
        node.device = device
    ops = sum((ops_of(f) for f in build([caller, callee], "caller").function), Counter())
    once = length * (1 if calls else 2)
    assert (ops["PartitionedCall"], ops["Tanh"], ops["TanhGrad"]) == (calls, once, once)


def test_small_functions_that_hand_on_what_they_are_given() -> None:
    """Each of 20,000 arguments is what the first call was given: looked up once, or this takes half a minute."""
    callee, caller = chain(1, "Tanh", "callee"), chain(20_000, "PartitionedCall", "caller")
    callee.ret["y"] = "x"
    (gradient,) = build([caller, callee], "caller").function
    assert not gradient.node_def
    assert list(gradient.ret.values()) == ["dy_0"]


def test_errors_in_functions_of_a_few_nodes_name_them() -> None:
    callee = chain(2, "Tanh", "callee")
    callee.node_def[1].input[0] = "nowhere:y:0"
    with pytest.raises(
        _loader.native().StatusError, match="'callee' is malformed.*node 'n1' \\(op Tanh\\): input 'nowhere:y:0'"
    ):
        build([chain(2, "PartitionedCall", "caller"), callee], "caller")


def test_nested_functions_to_depth_50() -> None:
    definitions = [chain(2, "Tanh", "callee")]
    for depth in range(50):
        caller = chain(1, "PartitionedCall", f"level{depth}")
        caller.node_def[0].attr["f"].func.name = definitions[-1].signature.name
        definitions.append(caller)
    assert build(definitions, "level49").function


@pytest.mark.parametrize("depth", [1, 3])
def test_recursion_is_an_error(depth: int) -> None:
    definitions = []
    for i in range(depth):
        caller = chain(1, "PartitionedCall", f"f{i}")
        caller.node_def[0].attr["f"].func.name = f"f{(i + 1) % depth}"
        definitions.append(caller)
    with pytest.raises(_loader.native().StatusError, match="calls itself"):
        build(definitions, "f0")


def test_inputs_without_influence_get_zeros_and_their_op_no_forward_pass() -> None:
    definition = gradient(lambda x, n: tf.sin(x), VECTOR, tf.TensorSpec([2], tf.int32))
    assert ops_of(definition) == {"Cos": 1, "Mul": 1, "ZerosLike": 1}


@pytest.mark.parametrize("shape", [[2, 3], [None, 3], None])
def test_the_same_tensor_twice_and_results_that_are_arguments(shape: list[int | None] | None) -> None:
    def f(x: tf.Tensor) -> list[tf.Tensor]:
        return [x, x * x, x]

    x = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    dys = [x, x, 2.0 * x]
    dx = tf_symgrad.symbolic_gradient([x, *dys], f=concrete(f, tf.TensorSpec(shape, tf.float32)))[0]
    assert float(tf.reduce_max(tf.abs(dx - (3.0 * x + 2.0 * x * x)))) == 0.0


def test_rows_of_an_embedding_are_scattered_once() -> None:
    """Three lookups, one of them twice as deep, in a table of a million rows: their rows are one scatter."""
    table, ids = tf.TensorSpec([1_000_000, 64], tf.float32), tf.TensorSpec([128], tf.int32)

    def f(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        first, second = tf.gather(table, ids), tf.gather(tf.identity(table), ids + 1)
        return tf.reduce_sum(first * second) + tf.reduce_sum(tf.gather(table, tf.reshape(ids, [2, 64])))

    ops = ops_of(gradient(f, table, ids, wrt=[True, False]))
    assert ops["UnsortedSegmentSum"] == 1
    assert not {"AddN", "ScatterNd", "ZerosLike"} & set(ops)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("missing", ["x"], "is not in the library"),
        ("chain", ["nowhere:y:0"], "names no node"),
        ("chain", [], "must take 1 tensors"),
    ],
)
def test_a_malformed_custom_gradient_is_an_error(name: str, inputs: list[str], message: str) -> None:
    definition, other = chain(2, name="f"), chain(1)
    if not inputs:
        other.signature.input_arg.add(name="more", type=1)
    attrs = definition.node_def[0].attr
    attrs["_symgrad_gradient"].func.name = name
    attrs["_symgrad_gradient_inputs"].list.s.extend(map(str.encode, inputs))
    with pytest.raises(_loader.native().StatusError, match=message):
        build([definition, other], "f")


def test_cache_is_bounded_by_bytes() -> None:
    """Constants may be large: six gradients with 32 MB each are not kept."""

    def scaled(k: int) -> Callable[..., Any]:
        return lambda x: x * tf.constant(np.full(1 << 23, k, np.float32))

    before = tf_symgrad.cache_info()
    for k in range(6):
        tf_symgrad.gradient_function(concrete(scaled(k), tf.TensorSpec([1 << 23])))
    after = tf_symgrad.cache_info()
    assert after.misses >= before.misses + 6
    assert after.evictions >= before.evictions + 2
    assert after.entries >= 1
    assert after.bytes <= after.max_bytes == 128 << 20


@pytest.mark.parametrize(("bound", "max_bytes", "entries"), [("1", 1, 1), ("lots", 128 << 20, 3)])
def test_bound_of_the_cache(bound: str, max_bytes: int, entries: int) -> None:
    """By the environment. What is no bound is said, and left aside."""
    script = (
        "import tensorflow as tf, tf_symgrad as ts\n"
        "for k in range(3): ts.symbolic_gradient([tf.constant(1.0)], f=lambda x: tf.sin(float(k) * x))\n"
        "print(ts.cache_info().max_bytes, ts.cache_info().entries)\n"
    )
    environment = os.environ | {"TF_SYMGRAD_CACHE_BYTES": bound, "TF_CPP_MIN_LOG_LEVEL": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(max_bytes), str(entries)]
    assert (f"TF_SYMGRAD_CACHE_BYTES='{bound}' is no positive integer" in done.stderr) == (bound == "lots")


@pytest.mark.skipif(keeps_memory(), reason="a sanitizer keeps memory")
def test_cache_knows_its_bytes() -> None:
    """What it says that it holds is what it takes, of many small functions, too."""
    h = tf.function(lambda x: tf.sin(x) * tf.reduce_mean(x))

    def calls_and_a_loop(x: Any) -> Any:
        for _ in range(10):
            x = h(x)
        return tf.while_loop(lambda i, v: i < 5, lambda i, v: (i + 1, tf.tanh(v)), (0, x))[1]

    f = concrete(calls_and_a_loop, tf.TensorSpec([4]))
    library = function_pb2.FunctionDefLibrary(function=[f.function_def])
    library.MergeFrom(f.graph.as_graph_def().library)

    def build_another(k: int) -> None:
        name = library.function[0].signature.name = f"f{k}"
        native = _loader.native()
        assert native.build_gradient(
            library.SerializeToString(), attr_value_pb2.NameAttrList(name=name).SerializeToString()
        )

    build_another(0)
    held, said = memory.in_use(), tf_symgrad.cache_info().bytes / 2**20
    for k in range(1, 100):
        build_another(k)
    assert memory.in_use() - held == pytest.approx(tf_symgrad.cache_info().bytes / 2**20 - said, abs=4)  # of 18 MB


def test_cache_hits() -> None:
    f = tf.function(lambda x: x * tf.tanh(x)).get_concrete_function(tf.TensorSpec([3]))
    tf_symgrad.symbolic_gradient([tf.ones(3), tf.ones(3)], f=f)
    before = tf_symgrad.cache_info()
    g = tf.function(lambda x: tf_symgrad.raw_ops.SymbolicGradient(input=[x, x], Tout=[tf.float32], f=f)[0])
    g(tf.ones(3))  # the pass finds what Python has built
    after = tf_symgrad.cache_info()
    assert after.hits > before.hits
    assert after.misses == before.misses


def test_a_mean_of_squares_has_one_product_of_its_size() -> None:
    """What is one number for all elements stays one number."""
    definition = gradient(lambda x: tf.reduce_mean(tf.square(x)), tf.TensorSpec([40, 50]))
    assert ops_of(definition) == {"Const": 2, "Mul": 3}
    assert sum("x" in node.input for node in definition.node_def) == 1


def test_rows_are_gathered_without_transposes_but_along_the_last_axis() -> None:
    """There, rows of single numbers would be summed one at a time."""
    indices = tf.constant([[1, 0], [1, 2]])
    for axis, transposes in ((0, 0), (1, 0), (2, 2)):
        ops = ops_of(gradient(lambda x, axis=axis: tf.gather(x, indices, axis=axis), tf.TensorSpec([4, 5, 6])))
        assert (ops["Transpose"], ops["UnsortedSegmentSum"]) == (transposes, 1), axis


def test_reshapes_that_follow_each_other_are_one() -> None:
    def undone(x: Any) -> Any:
        return tf.sin(tf.reshape(tf.squeeze(tf.sin(x), [0]), [1, 3]))

    def several(x: Any) -> Any:
        return tf.sin(tf.reshape(tf.reshape(tf.sin(x), [3, 2]), [6]))

    assert ops_of(gradient(undone, tf.TensorSpec([1, 3])))["Reshape"] == 1  # the forward one
    assert ops_of(gradient(several, tf.TensorSpec([2, 3])))["Reshape"] == 2 + 1
    for f, x in ((undone, tf.constant([[0.5, -1.0, 2.0]])), (several, tf.reshape(tf.range(6.0), [2, 3]))):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        np.testing.assert_allclose(tf_symgrad.grad(lambda x, f=f: tf.reduce_sum(f(x)))(x), tape.gradient(y, x))


TURN = [0.0, -1.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0]
OF_PLACES: dict[str, Callable[[Any], Any]] = {
    "patches": lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], "VALID"),
    "volume patches": lambda x: tf.raw_ops.ExtractVolumePatches(
        input=x[..., tf.newaxis], ksizes=[1, 2, 2, 1, 1], strides=[1, 1, 1, 1, 1], padding="VALID"
    ),
    "glimpse": lambda x: tf.image.extract_glimpse(x, [2, 2], tf.zeros([2, 2])),
    "nearest": lambda x: projected(x, "NEAREST"),
    "bilinear": lambda x: projected(x, "BILINEAR"),
    "isotonic regression": lambda x: tf.nn.isotonic_regression(x[:, 0, :, 0])[0],
}


def projected(x: Any, interpolation: str) -> Any:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x, transforms=[TURN], output_shape=[4, 4], fill_value=0.0, interpolation=interpolation
    )


@pytest.mark.parametrize("f", OF_PLACES.values(), ids=OF_PLACES)
def test_places_in_images_are_int64(f: Callable[[Any], Any]) -> None:
    """There are more than an int32 counts in images of 8 GB."""
    sums = [node for node in gradient(f, tf.TensorSpec([2, 4, 4, 3])).node_def if node.op == "UnsortedSegmentSum"]
    assert sums
    assert {node.attr[name].type for node in sums for name in ("Tindices", "Tnumsegments")} == {types_pb2.DT_INT64}


OF_MANY: dict[str, tuple[Callable[..., Any], tuple[tf.TensorSpec, ...]]] = {
    "TensorScatterUpdate": (
        lambda x, i, v: tf.tensor_scatter_nd_update(x, i, v),
        (tf.TensorSpec([4, 2]), tf.TensorSpec([None, 1], tf.int32), tf.TensorSpec([None, 2])),
    ),
    "InplaceUpdate": (
        lambda x, i, v: tf.raw_ops.InplaceUpdate(x=x, i=i, v=v),
        (tf.TensorSpec([4, 2]), tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 2])),
    ),
    "DrawBoundingBoxesV2": (
        lambda x, boxes, colors: tf.raw_ops.DrawBoundingBoxesV2(images=x, boxes=boxes, colors=colors),
        (tf.TensorSpec([1, 6, 5, 1]), tf.TensorSpec([1, None, 4]), tf.TensorSpec([None, 1])),
    ),
}


@pytest.mark.parametrize("op", OF_MANY)
def test_updates_and_boxes_are_counted_in_int64(op: str) -> None:
    """There may be more than an int32 counts, and of boxes more than float32 tells apart, in which they are drawn."""
    f, specs = OF_MANY[op]
    g = gradient(f, *specs)
    numbers = {node.attr["Tidx"].type for node in g.node_def if node.op == "Range"}
    assert numbers == {types_pb2.DT_INT64}
    if op == "DrawBoundingBoxesV2":
        drawn = [node for node in g.node_def if node.op == op]
        assert len(drawn) == 1 + 2  # the cotangent without boxes, and two digits of their numbers


def test_boxes_of_unknown_number() -> None:
    boxes = [[[0.1, 0.1, 0.6, 0.6], [0.3, 0.2, 0.9, 0.9], [0.0, 0.0, 0.5, 0.9], [0.2, 0.1, 0.7, 0.9]]]
    draw = OF_MANY["DrawBoundingBoxesV2"][0]
    few = tf.TensorSpec([3, 1])

    def summed(colors: Any) -> Any:
        image = draw(tf.zeros([1, 6, 5, 1]), tf.constant(boxes), colors)
        return tf.reduce_sum(image * tf.reshape(tf.range(30.0), [1, 6, 5, 1]))

    colors = tf.constant([[0.5], [0.25], [1.0]])
    one, two = (
        tf.function(tf_symgrad.grad(summed), input_signature=[spec])(colors) for spec in (few, tf.TensorSpec([None, 1]))
    )
    assert np.all(one > 0)
    np.testing.assert_allclose(one, two)
    np.testing.assert_allclose(tf.reduce_sum(one * colors), summed(colors), rtol=1e-6)
