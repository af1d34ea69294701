"""Functions that are too large, or nested too deeply: an error, in time that is linear, on a small stack."""

import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, types_pb2
from tensorflow.python.framework import op_def_registry

from tests.sanitize.build import keeps_memory
from tests.test_engine import build, chain
from tf_symgrad import _loader

FLOAT, BOOL = types_pb2.DT_FLOAT, types_pb2.DT_BOOL
native = _loader.native()
StatusError = native.StatusError
RESOURCE_EXHAUSTED = 8

Definitions = list[function_pb2.FunctionDef]


def scalar_function(name: str, result: str, dtype: int = FLOAT) -> function_pb2.FunctionDef:
    f = function_pb2.FunctionDef()
    f.signature.name = name
    f.signature.input_arg.add(name="x", type=FLOAT)
    f.signature.output_arg.add(name="y", type=dtype)
    f.ret["y"] = result
    return f


def calls(depth: int, times: int = 1) -> Definitions:
    """Functions each of which calls the one before it so many times."""
    definitions = [chain(2, "Tanh", "f0")]
    for k in range(depth):
        caller = chain(times, "PartitionedCall", f"f{k + 1}")
        for node in caller.node_def:
            node.attr["f"].func.name = f"f{k}"
        definitions.append(caller)
    return definitions


def branches(depth: int, alike: bool = True) -> Definitions:
    """Functions each of which has two branches: the one before it, and that once more or the tanh of its tanh."""
    definitions = [chain(2, "Tanh", "f0")]
    definitions[0].arg_attr.clear()
    for k in range(depth):
        other = scalar_function(f"other{k}", "last:y:0")
        call = other.node_def.add(name="call", op="PartitionedCall", input=["x"]).attr
        call["Tin"].list.type.append(FLOAT)
        call["Tout"].list.type.append(FLOAT)
        call["f"].func.name = f"f{k}"
        other.node_def.add(name="first", op="Tanh", input=["call:output:0"]).attr["T"].type = FLOAT
        other.node_def.add(name="last", op="Tanh", input=["first:y:0"]).attr["T"].type = FLOAT
        definitions += [] if alike else [other]
        f = scalar_function(f"f{k + 1}", "if:output:0")
        yes = f.node_def.add(name="yes", op="Const")
        yes.attr["dtype"].type = yes.attr["value"].tensor.dtype = BOOL
        yes.attr["value"].tensor.bool_val.append(True)
        yes.attr["value"].tensor.tensor_shape.SetInParent()
        node = f.node_def.add(name="if", op="StatelessIf", input=["yes:output:0", "x"])
        node.attr["Tcond"].type = BOOL
        for types in ("Tin", "Tout"):
            node.attr[types].list.type.append(FLOAT)
        node.attr["then_branch"].func.name = f"f{k}"
        node.attr["else_branch"].func.name = f"f{k}" if alike else f"other{k}"
        definitions.append(f)
    return definitions


def loops(depth: int) -> Definitions:
    condition = scalar_function("condition", "less:z:0", BOOL)
    condition.node_def.add(name="less", op="Less", input=["x", "x"]).attr["T"].type = FLOAT
    definitions = [condition, chain(2, "Tanh", "f0")]
    for k in range(depth):
        f = scalar_function(f"f{k + 1}", "loop:output:0")
        node = f.node_def.add(name="loop", op="StatelessWhile", input=["x"])
        node.attr["T"].list.type.append(FLOAT)
        node.attr["cond"].func.name, node.attr["body"].func.name = "condition", f"f{k}"
        definitions.append(f)
    return definitions


def gradients(order: int) -> Definitions:
    """Gradients of gradients of tanh(x^2)."""
    f = scalar_function("f0", "tanh:y:0")
    f.node_def.add(name="square", op="Square", input=["x"]).attr["T"].type = FLOAT
    f.node_def.add(name="tanh", op="Tanh", input=["square:y:0"]).attr["T"].type = FLOAT
    definitions = [f]
    for k in range(order - 1):
        g = scalar_function(f"f{k + 1}", "g:output:0")
        g.node_def.add(name="one", op="OnesLike", input=["x"]).attr["T"].type = FLOAT
        node = g.node_def.add(name="g", op="SymbolicGradient", input=["x", "one:y:0"])
        node.attr["Tin"].list.type.extend([FLOAT, FLOAT])
        node.attr["Tout"].list.type.append(FLOAT)
        node.attr["f"].func.name = f"f{k}"
        definitions.append(g)
    return definitions


def nodes(library: function_pb2.FunctionDefLibrary) -> int:
    return sum(len(f.node_def) for f in library.function)


def on_a_small_stack(f: Callable[[], Any]) -> Any:
    """The result of f, or what it raises, on a thread with a stack of 1 MB."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(f())
        except StatusError as error:
            outcome.append(error)

    before = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return outcome[0]


@pytest.mark.parametrize("nest", [calls, branches, loops])
def test_deeply_nested(nest: Callable[[int], Definitions]) -> None:
    depth = 90
    assert on_a_small_stack(lambda: build(nest(depth), f"f{depth}")).function


@pytest.mark.parametrize("nest", [calls, branches, loops])
def test_too_deeply_nested(nest: Callable[[int], Definitions]) -> None:
    depth = 10_000
    error = on_a_small_stack(lambda: build(nest(depth), f"f{depth}"))
    code, message = error.args
    assert code == RESOURCE_EXHAUSTED
    assert "more than 200 nested calls" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "definitions", [calls(30, times=2), branches(60, alike=False), gradients(60)], ids=["calls", "branches", "orders"]
)
def test_exponential(definitions: Definitions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_SYMGRAD_MAX_NODES", "20000")
    error = on_a_small_stack(lambda: build(definitions, definitions[-1].signature.name))
    code, message = error.args
    assert code == RESOURCE_EXHAUSTED
    assert "more than 20000 nodes" in message
    assert "TF_SYMGRAD_MAX_NODES" in message
    assert len(message) < 400


def set_by_calls(depth: int) -> Definitions:
    """A loop, in the last one, that sets elements of a list in functions, each of which calls the one before twice."""

    @tf.function(autograph=False)
    def sets(xs: Any, x: Any) -> Any:
        for i in range(12):  # a small function is written out
            xs = tf.raw_ops.TensorListSetItem(input_handle=xs, index=i % 3, item=x)
        return xs

    def f(x: Any) -> Any:
        scalar = tf.constant([], tf.int32)
        xs = tf.raw_ops.TensorListReserve(element_shape=scalar, num_elements=3, element_dtype=tf.float32)
        xs = tf.while_loop(lambda i, _: i < 3, lambda i, xs: (i + 1, sets(xs, x)), [0, xs])[1]
        return tf.raw_ops.TensorListGetItem(input_handle=xs, index=1, element_shape=scalar, element_dtype=tf.float32)

    concrete = tf.function(f, autograph=False).get_concrete_function(tf.TensorSpec([], tf.float32))
    definitions = [*concrete.graph.as_graph_def().library.function, concrete.function_def]
    called = next(f for f in definitions if any(node.op == "TensorListSetItem" for node in f.node_def))
    signature = function_pb2.FunctionDef(signature=called.signature).signature
    for k in range(depth):
        caller = function_pb2.FunctionDef(signature=signature)
        below = called.signature.name if k == 0 else f"f{k}"
        xs, x = (arg.name for arg in signature.input_arg)
        for name in ("first", "second"):
            call = caller.node_def.add(name=name, op="PartitionedCall", input=[xs, x]).attr
            call["Tin"].list.type.extend(arg.type for arg in signature.input_arg)
            call["Tout"].list.type.extend(arg.type for arg in signature.output_arg)
            call["f"].func.name = below
            xs = "first:output:0"
        caller.ret[signature.output_arg[0].name] = "second:output:0"
        caller.signature.name = f"f{k + 1}"
        definitions.insert(0, caller)
    for node in (node for f in definitions[depth:] for node in f.node_def):
        if "f" in node.attr and node.attr["f"].func.name == called.signature.name:
            node.attr["f"].func.name = f"f{depth}"
    return definitions


def test_a_list_that_goes_through_many_calls() -> None:
    """What a loop that XLA compiles does to its length: no call is read twice, or this does not end."""
    definitions = set_by_calls(60)
    library = function_pb2.FunctionDefLibrary(function=definitions).SerializeToString()
    f = attr_value_pb2.NameAttrList(name=definitions[-1].signature.name)
    f.attr["_symgrad_compiled"].b = True
    f.attr["_input_shapes"].list.shape.add()
    assert native.build_gradient(library, f.SerializeToString(), None)


def test_orders_are_one_function_each() -> None:
    """No functions that hand on each other's residuals, and no arithmetic on shapes that are the same."""
    built = {order: build(gradients(order), f"f{order - 1}") for order in (2, 3, 8, 9)}
    assert {len(library.function) for library in built.values()} == {1}
    assert nodes(built[3]) < 60
    assert nodes(built[9]) < 3 * nodes(built[8]) < 9_000


def test_a_gradient_that_is_asked_for_twice_is_shared() -> None:
    definitions = gradients(2)
    f, g = chain(50, "Tanh", "f0"), definitions[1]
    again = g.node_def.add()
    again.CopyFrom(g.node_def[1])
    again.name, again.input[0] = "again", "g:output:0"
    g.ret["y"] = "again:output:0"
    twice = build([f, g], "f1")
    assert any(node.op == "PartitionedCall" for function in twice.function for node in function.node_def)
    assert nodes(twice) < 1.2 * nodes(build([f, gradients(2)[1]], "f1"))


def test_bound_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_SYMGRAD_MAX_NODES", "100")
    with pytest.raises(StatusError, match="more than 100 nodes"):
        build([chain(200)], "chain")
    monkeypatch.setenv("TF_SYMGRAD_MAX_NODES", "10000")
    assert build([chain(200)], "chain").function


@pytest.mark.parametrize(("op", "dtype"), [("Pow", FLOAT), ("Maximum", FLOAT), ("Reshape", types_pb2.DT_INT32)])
@pytest.mark.parametrize("elements", [1 << 29, 1 << 40])
def test_a_constant_of_few_bytes_and_many_elements(op: str, dtype: int, elements: int) -> None:
    """Nobody needs its elements to differentiate by x, and they would take all memory."""
    f = scalar_function("f", f"n:{'output' if op == 'Reshape' else 'z'}:0")
    constant = f.node_def.add(name="c", op="Const").attr
    constant["dtype"].type = constant["value"].tensor.dtype = dtype
    constant["value"].tensor.tensor_shape.dim.add(size=elements)
    getattr(constant["value"].tensor, "float_val" if dtype == FLOAT else "int_val").append(2)
    node = f.node_def.add(name="n", op=op, input=["x", "c:output:0"])
    node.attr["T"].type = FLOAT
    if op == "Reshape":
        node.attr["Tshape"].type = dtype
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if op == "Reshape":
        with pytest.raises(StatusError, match=f"input shape has {elements} elements, and no tensor has"):
            build([f], "f")
    else:
        assert build([f], "f").function
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (100 << 10)  # kB


def test_a_constant_of_many_resources() -> None:
    """Two halves of a function that writes are compared: by text, since a tensor's element would take 400 bytes."""
    f, caller = calls(1)
    constant = f.node_def.add(name="c", op="Const").attr
    constant["dtype"].type = constant["value"].tensor.dtype = types_pb2.DT_RESOURCE
    constant["value"].tensor.tensor_shape.dim.add(size=1 << 21)
    f.node_def.add(name="write", op="AssignAddVariableOp", input=["c:output:0", "x"]).attr["dtype"].type = FLOAT
    f.node_def.add(name="v", op="ReadVariableOp", input=["c:output:0", "^write"]).attr["dtype"].type = FLOAT
    f.node_def.add(name="n", op="Mul", input=[f.ret["y"], "v:value:0"]).attr["T"].type = FLOAT
    f.ret["y"] = "n:z:0"
    f.signature.is_stateful = caller.signature.is_stateful = True
    caller.node_def[0].op = "StatefulPartitionedCall"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert build([caller, f], caller.signature.name).function
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (100 << 10)  # kB


@pytest.mark.parametrize("read", ["split:output:0", "split:output"])
def test_nodes_of_few_bytes_and_many_tensors(read: str) -> None:
    """A node names its outputs by a number, and takes them all by one name."""
    f = scalar_function("f", "n0:sum:0")
    axis = f.node_def.add(name="axis", op="Const").attr
    axis["dtype"].type = axis["value"].tensor.dtype = types_pb2.DT_INT32
    axis["value"].tensor.tensor_shape.SetInParent()
    for i in range(20):
        split = f.node_def.add(name=f"split{i}", op="Split", input=["axis:output:0", "x"]).attr
        split["T"].type, split["num_split"].i = FLOAT, 1 << 20
        node = f.node_def.add(name=f"n{i}", op="AddN", input=[read.replace("split", f"split{i}")])
        node.attr["T"].type, node.attr["N"].i = FLOAT, 1 if read.endswith("0") else 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StatusError, match="TF_SYMGRAD_MAX_NODES"):
        build([f], "f")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (300 << 10)  # kB


def test_a_node_of_many_unknown_dimensions() -> None:
    """Each is looked up among those that there are; by comparing it with all, that would take minutes."""
    f = chain(1)
    part = f.node_def.add(name="part", op="Cast", input=["x"]).attr
    part["SrcT"].type, part["DstT"].type = FLOAT, types_pb2.DT_INT32
    parts = f.node_def.add(name="parts", op="DynamicPartition", input=["x", "part:y:0"]).attr
    parts["T"].type, parts["num_partitions"].i = FLOAT, 1 << 20
    assert build([f], "chain").function


def test_a_batch_of_many_lists() -> None:
    """Its gradient takes nodes for each list, and a shape of few bytes tells of how many."""
    lists, rows = tf.TensorSpec([None], tf.variant), tf.TensorSpec([1 << 20, 4])
    f = tf.function(lambda lists, rows: tf.raw_ops.TensorListPushBackBatch(input_handles=lists, tensor=rows))
    g = f.get_concrete_function(lists, rows).function_def
    with pytest.raises(StatusError, match="op TensorListPushBackBatch.*of so many lists"):
        build([g], g.signature.name)


OUT_OF_MEMORY = """
import os, resource
from tests import test_limits

library, f = test_limits.with_a_large_constant(128)
with open("/proc/self/statm") as statm:
    size = int(statm.read().split()[0]) * resource.getpagesize()
for megabytes in range(25, 1800, 125):
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20),) * 2)
        try:
            test_limits.native.build_gradient(library, f)
            os.write(1, b"built ")
        except MemoryError:
            os.write(1, b"parsed ")
        except test_limits.StatusError as error:
            os.write(1, b"refused " if error.args[0] == 8 else str(error).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, megabytes
"""


def with_a_large_constant(megabytes: int) -> tuple[bytes, bytes]:
    """A library of `f`, and its name: x times a constant of so many megabytes."""
    f = scalar_function("f", "n:z:0")
    constant = f.node_def.add(name="c", op="Const").attr
    constant["dtype"].type = constant["value"].tensor.dtype = FLOAT
    constant["value"].tensor.tensor_shape.dim.add(size=megabytes << 18)
    constant["value"].tensor.tensor_content = bytes(megabytes << 20)
    f.node_def.add(name="n", op="Mul", input=["x", "c:output:0"]).attr["T"].type = FLOAT
    library = function_pb2.FunctionDefLibrary(function=[f])
    return library.SerializeToString(), attr_value_pb2.NameAttrList(name="f").SerializeToString()


@pytest.mark.skipif(keeps_memory(), reason="a sanitizer keeps memory")
def test_out_of_memory() -> None:
    """In a process that may not have it: an error, wherever that is noticed, of the class that says so."""
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(done.stdout.split()) == {"parsed", "refused", "built"}


HUGE = 2**40  # a row and a column of so many numbers can be; a square can't


def function_of(**shapes: list[int | None]) -> function_pb2.FunctionDef:
    """Without nodes yet; its result is y."""
    f = function_pb2.FunctionDef()
    f.signature.name = "f"
    f.signature.output_arg.add(name="y", type=FLOAT)
    for i, (name, shape) in enumerate(shapes.items()):
        f.signature.input_arg.add(name=name, type=FLOAT)
        f.arg_attr[i].attr["_output_shapes"].list.shape.add().CopyFrom(tf.TensorShape(shape).as_proto())
    return f


def add_numbers(f: function_pb2.FunctionDef, name: str, numbers: list[int]) -> str:
    node = f.node_def.add(name=name, op="Const")
    node.attr["dtype"].type = types_pb2.DT_INT64
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(numbers, tf.int64))
    return f"{name}:output:0"


def take_part(f: function_pb2.FunctionDef, matrix: str) -> None:
    bounds = [add_numbers(f, name, numbers) for name, numbers in [("begin", [0, 0]), ("end", [1, 1]), ("by", [1, 1])]]
    part = f.node_def.add(name="part", op="StridedSlice", input=[matrix, *bounds])
    part.attr["T"].type, part.attr["Index"].type = FLOAT, types_pb2.DT_INT64
    f.ret["y"] = "part:output:0"


def test_more_elements_than_there_are_numbers() -> None:
    """A product of sizes that overflows is no number of elements, of 0 for one."""
    f = function_of(a=[HUGE, 1], b=[1, HUGE])
    f.node_def.add(name="product", op="Mul", input=["a", "b"]).attr["T"].type = FLOAT
    none = f.node_def.add(name="none", op="Reshape", input=["product:z:0", add_numbers(f, "to", [0])])
    none.attr["T"].type, none.attr["Tshape"].type = FLOAT, types_pb2.DT_INT64
    f.ret["y"] = "none:output:0"
    with pytest.raises(StatusError, match="node 'product'"):
        build([f], "f")


@pytest.mark.parametrize(
    ("op", "output", "shapes"),
    [
        ("Mul", "z", {"a": [HUGE, 1], "b": [1, HUGE]}),
        ("MatMul", "product", {"a": [HUGE, 1], "b": [1, HUGE]}),  # whose shape is plain
        ("Pack", "output", {"a": [2**62], "b": [2**62], "c": [2**62]}),
        ("Qr", "q", {"a": [HUGE, 1]}),
    ],
)
def test_more_elements_than_a_shape_function_can_count(
    op: str, output: str, shapes: dict[str, list[int | None]]
) -> None:
    """TensorFlow's own of what takes a part of them ends the process, and is asked, so that all errors are told."""
    f = function_of(**shapes)
    node = f.node_def.add(name="huge", op=op, input=list(shapes))
    node.attr["T"].type, node.attr["N"].i, node.attr["full_matrices"].b = FLOAT, len(shapes), True
    for attr in {"N", "full_matrices"} - {a.name for a in op_def_registry.get(op).attr}:
        del node.attr[attr]
    take_part(f, f"huge:{output}:0")
    with pytest.raises(StatusError, match=rf"node 'huge' .op {op}.* output 0 would have the shape .* more elements"):
        build([f], "f")


def test_shapes_that_are_too_much_together() -> None:
    """What a function says of its argument can be, and so can what its caller knows."""
    callee = function_of(x=[HUGE, None])
    callee.signature.name = "callee"
    take_part(callee, "x")
    for k in range(9):  # or it is written out where it is called
        callee.node_def.add(name=f"y{k}", op="Tanh", input=[callee.ret["y"]]).attr["T"].type = FLOAT
        callee.ret["y"] = f"y{k}:y:0"
    f = function_of(x=[None, HUGE])
    call = f.node_def.add(name="call", op="PartitionedCall", input=["x"])
    call.attr["Tin"].list.type.append(FLOAT)
    call.attr["Tout"].list.type.append(FLOAT)
    call.attr["f"].func.name = "callee"
    f.ret["y"] = "call:output:0"
    build([callee, f], "f")
