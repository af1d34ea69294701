"""The order of effects: what a gradient function keeps of a function happens in the function's own order.

And which effects it keeps: assertions, and what a value that is needed is ordered after.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import attr_value_pb2, function_pb2, types_pb2
from tensorflow.python.eager import context, execute

import tf_symgrad
from tests.effects import VARIABLES, Statement, Writer, interpret, lost_order, random_program, trace, variable_of
from tests.frames import function_of_frames, loop, v1
from tests.fuzz import effects
from tf_symgrad import _loader, symbolic_gradient


def build(definitions: list[function_pb2.FunctionDef], name: str, wrt: list[bool]) -> list[function_pb2.FunctionDef]:
    """The gradient function, and what it calls."""
    library = function_pb2.FunctionDefLibrary(function=definitions)
    f = attr_value_pb2.NameAttrList(name=name)
    _, built = _loader.native().build_gradient(library.SerializeToString(), f.SerializeToString(), wrt)
    return list(function_pb2.FunctionDefLibrary.FromString(built).function)


def run(name: str, inputs: list[Any], outputs: int = 1) -> list[Any]:
    return list(execute.execute(name.encode(), outputs, inputs, (), context.context()))


@pytest.fixture
def register() -> Iterator[Callable[[list[function_pb2.FunctionDef]], None]]:
    """Adds functions to the context, for as long as the test runs."""
    added: list[str] = []

    def add(definitions: list[function_pb2.FunctionDef]) -> None:
        for definition in definitions:
            if not context.context().has_function(definition.signature.name):
                context.context().add_function_def(definition)
                added.append(definition.signature.name)

    yield add
    for name in added:
        context.context().remove_function(name)


def ops_of(definitions: list[function_pb2.FunctionDef]) -> list[str]:
    return [node.op for definition in definitions for node in definition.node_def]


# -- Functions as text: x -> y, of a float and a variable's handle v.


def function(name: str, nodes: str, y: str) -> function_pb2.FunctionDef:
    """A function whose nodes are lines "name = Op(inputs) attr:value"."""
    f = function_pb2.FunctionDef()
    f.signature.name = name
    f.signature.is_stateful = True
    f.signature.input_arg.add(name="x", type=1)
    f.signature.input_arg.add(name="v", type=20)
    f.signature.output_arg.add(name="y", type=1)
    f.ret["y"] = y
    for line in nodes.strip().splitlines():
        node, rest = (part.strip() for part in line.split("=", 1))
        op, rest = rest.split("(", 1)
        inputs, attrs = rest.split(")", 1)
        f.node_def.add(name=node, op=op.strip(), input=[i.strip() for i in inputs.split(",") if i.strip()])
        for attr in attrs.split():
            key, value = attr.split(":", 1)
            text_format.Parse(_VALUES.get(value, value), f.node_def[-1].attr[key])
        if op.strip() in ("AssignVariableOp", "AssignAddVariableOp", "ReadVariableOp", "PrintV2"):
            f.signature.control_output.append(node)
            f.control_ret[node] = node
    return f


_VALUES = {
    "float": "type: DT_FLOAT",
    "xv": "list { type: DT_FLOAT type: DT_RESOURCE }",
    "y": "list { type: DT_FLOAT }",
    "bool": "type: DT_BOOL",
    "int": "type: DT_INT32",
    "g": 'func { name: "order_g" }',
    "h": 'func { name: "order_h" }',
    "order_cond": 'func { name: "order_cond" }',
    "one": "tensor { dtype: DT_FLOAT tensor_shape { } float_val: 1 }",
    "five": "tensor { dtype: DT_FLOAT tensor_shape { } float_val: 5 }",
    "scalar": "tensor { dtype: DT_INT32 tensor_shape { dim { size: 0 } } }",
    "text": 'tensor { dtype: DT_STRING tensor_shape { } string_val: "effect" }',
    "string": "type: DT_STRING",
}

READ_ADD_READ = """
    a = ReadVariableOp(v) dtype:float
    one = Const(^a) dtype:float value:one
    add = AssignAddVariableOp(v, one:output:0) dtype:float
    b = ReadVariableOp(v, ^add) dtype:float
    ab = Mul(a:value:0, b:value:0) T:float
    y = Mul(ab:z:0, x) T:float
"""
WRITES = """
    five = Const() dtype:float value:five
    set = AssignVariableOp(v, five:output:0) dtype:float
    y = {op}(x) T:float
"""
CALL = {
    "call": "g = StatefulPartitionedCall(x, v) f:g Tin:xv Tout:y",
    "call by name": "g = order_g(x, v)",
    "if": """
    zero = ZerosLike(x) T:float
    positive = Greater(x, zero:y:0) T:float
    g = If(positive:z:0, x, v) then_branch:g else_branch:h Tcond:bool Tin:xv Tout:y""",
}


def then_read(call: str, output: str, after: str = "^g") -> str:
    return f"""
    {call}
    b = ReadVariableOp(v, {after}) dtype:float
    y = Mul({output}, b:value:0) T:float
"""


def gradients(
    register: Callable[[list[function_pb2.FunctionDef]], None],
    definitions: list[function_pb2.FunctionDef],
    x: float,
    v: float,
    times: int,
) -> set[float]:
    """The gradients of the first function by x, over many runs that begin with the same state."""
    built = build(definitions, definitions[0].signature.name, [True, False])
    register(definitions + built)
    variable = tf.Variable(v)
    seen = set()
    for _ in range(times):
        variable.assign(v)
        (dx,) = run(built[0].signature.name, [tf.constant(x), variable.handle, tf.constant(1.0)])
        seen.add(round(float(dx), 3))
    return seen


def test_a_constant_orders_what_is_before_it(register: Any) -> None:
    f = function("order_read_add_read", READ_ADD_READ, "y:z:0")
    assert gradients(register, [f], x=1.0, v=2.0, times=100) == {6.0}


@pytest.mark.parametrize(("op", "slope"), [("Exp", float(np.exp(2.0))), ("Identity", 1.0)])
@pytest.mark.parametrize("kind", CALL)
def test_what_is_after_a_call_sees_its_writes(kind: str, op: str, slope: float, register: Any) -> None:
    """Whether the forward half returns residuals (of Exp) or not."""
    output = {"call": "g:output:0", "call by name": "g:y:0", "if": "g:output:0"}[kind]
    y = {"Exp": "y:y:0", "Identity": "y:output:0"}[op]
    g = function("order_g", WRITES.format(op=op), y)
    h = function("order_h", f"y = {op}(x) T:float", y)
    f = function("order_f", then_read(CALL[kind], output), "y:z:0")
    assert gradients(register, [f, g, h], x=2.0, v=3.0, times=10) == {round(slope * 5, 3)}


def test_through_two_calls_and_what_is_left_out(register: Any) -> None:
    g = function("order_g", WRITES.format(op="Exp"), "y:y:0")
    h = function("order_h", CALL["call"], "g:output:0")
    nothing = """h = StatefulPartitionedCall(x, v) f:h Tin:xv Tout:y
    join = NoOp(^h)
    one = Const(^join) dtype:float value:one
    unused = Neg(one:output:0) T:float"""
    f = function("order_f", then_read(nothing, "h:output:0", "^unused"), "y:z:0")
    assert gradients(register, [f, h, g], x=2.0, v=3.0, times=10) == {round(float(np.exp(2.0)) * 5, 3)}


@pytest.mark.parametrize("op", ["Exp", "Identity"])
def test_what_nothing_waits_for_does_not_happen_again(op: str) -> None:
    """A write of a function that is called, where only its result is needed; with residuals or without."""
    g = function("order_g", WRITES.format(op=op), {"Exp": "y:y:0", "Identity": "y:output:0"}[op])
    f = function("order_f", CALL["call"] + "\ny = Mul(g:output:0, g:output:0) T:float", "y:z:0")
    assert "AssignVariableOp" not in ops_of(build([f, g], "order_f", [True, False]))


def test_an_effect_in_a_call_that_no_gradient_goes_through() -> None:
    text = "text = Const() dtype:string value:text\nprint = PrintV2(text:output:0)\ny = Sign(x) T:float"
    g = function("order_g", text, "y:y:0")
    f = function("order_f", CALL["call"] + "\ny = Mul(g:output:0, x) T:float", "y:z:0")
    assert "PrintV2" not in ops_of(build([f, g], "order_f", [True, False]))


def controls(f: function_pb2.FunctionDef) -> int:
    return sum(i.startswith("^") for node in f.node_def for i in node.input)


def test_edges_stay_few() -> None:
    """A chain of reads and writes that constants order; and many reads that many draws are ordered after."""
    n = 1000
    lines, last = ["shape = Const() dtype:int value:scalar"], ""
    for i in range(n):
        lines.append(f"r{i} = ReadVariableOp(v{last}) dtype:float")
        lines.append(f"c{i} = Const(^r{i}) dtype:float value:one")
        lines.append(f"w{i} = AssignAddVariableOp(v, c{i}:output:0) dtype:float")
        last = f", ^w{i}"
    lines.append("join = NoOp(" + ", ".join(f"^r{i}" for i in range(n)) + ")")
    for i in range(n):
        lines.append(f"p{i} = Const(^join) dtype:float value:one")
        lines.append(f"d{i} = RandomGamma(shape:output:0, p{i}:output:0) S:int T:float")
        lines.append(f"x{i} = Mul(d{i}:output:0, {f'x{i - 1}:z:0' if i else 'x'}) T:float")
    lines.append(f"y = Mul(r{n - 1}:value:0, x{n - 1}:z:0) T:float")
    f = function("order_f", "\n".join(lines), "y:z:0")
    (g, *_) = build([f], "order_f", [True, False])
    nodes = {node.name: node for node in g.node_def}
    assert f"w{n - 1}" not in nodes  # nothing reads after it
    assert all(f"^r{i}" in nodes[f"c{i}"].input for i in range(n - 1))
    (before,) = {edge for i in range(n) for edge in nodes[f"p{i}"].input}
    assert {f"^r{i}" for i in range(n)} <= {*nodes[before.removeprefix("^")].input}
    assert controls(g) < 5 * n


def test_a_long_chain_of_effects_needs_no_stack() -> None:
    n = 100_000
    f = function("order_f", "one = Const() dtype:float value:one\ny = Mul(x, x) T:float", "y:z:0")
    for i in range(n):
        node = f.node_def.add(name=f"w{i}", op="AssignAddVariableOp", input=["v", "one:output:0"])
        node.input.extend([f"^w{i - 1}"] if i else [])
        node.attr["dtype"].type = types_pb2.DT_FLOAT
    read = f.node_def.add(name="r", op="ReadVariableOp", input=["v", f"^w{n - 1}"])
    read.attr["dtype"].type = types_pb2.DT_FLOAT
    f.node_def.add(name="z", op="Mul", input=["y:z:0", "r:value:0"]).attr["T"].type = types_pb2.DT_FLOAT
    f.ret["y"] = "z:z:0"
    (g,) = build([f], "order_f", [True, False])
    assert ops_of([g]).count("AssignAddVariableOp") == n
    assert controls(g) == n


# -- Random programs.


@pytest.mark.parametrize("seed", [*range(20), 5917, 6773])
def test_random_programs(seed: int, register: Any) -> None:
    rng = random.Random(seed)
    program = random_program(rng, rng.randint(5, 9))
    writer = Writer(rng, f"random_{seed}")
    name = writer.write(program)
    definitions = {f.signature.name: f for f in writer.functions}
    built = build(writer.functions, name, [True] + [False] * VARIABLES)

    for g in built:
        source = next((f for n, f in definitions.items() if f"_{n}_" in g.signature.name), None)
        if source is not None:
            assert list(lost_order(source, g)) == []

    register([*writer.functions, *built])
    state = [0.7, -0.4]
    variables = [tf.Variable(value, dtype=tf.float64) for value in state]
    inputs = [tf.constant(0.3, tf.float64), *(v.handle for v in variables)]
    y, dx, _ = interpret(program, variable_of(0.3), list(state))
    for _ in range(6):
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        (got,) = run(built[0].signature.name, [*inputs, tf.ones([], tf.float64)])
        np.testing.assert_allclose(got, dx, rtol=1e-6)
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)
    np.testing.assert_allclose(run(name, inputs)[0], y, rtol=1e-6)


@pytest.mark.parametrize("seed", range(100, 106))
def test_random_traced_programs(seed: int) -> None:
    rng = random.Random(seed)
    program = random_program(rng, rng.randint(4, 7))
    state = [0.7, -0.4]
    variables = [tf.Variable(value, dtype=tf.float64) for value in state]
    f = tf.function(lambda x: trace(program, x, variables), autograph=False)
    _, expected, _ = interpret(program, variable_of(0.3), list(state))
    g = tf.function(lambda x: symbolic_gradient([x, tf.ones([], tf.float64)], f=f.get_concrete_function(x))[0])
    for _ in range(3):
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        np.testing.assert_allclose(g(tf.constant(0.3, tf.float64)), expected, rtol=1e-6)


@pytest.mark.parametrize("way", ["op", "native"])
def test_a_call_in_a_branch_is_done_when_it_has_written(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the kernel, too: not when its result is there."""
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1")
    writes = (Statement("read"), Statement("set", -1, variable=1))
    then = (*[Statement("read", variable=1)] * 2, Statement("call", -2, parts=(writes,)))
    loop = Statement("until", -2, variable=1, parts=((),))
    program = (Statement("if", parts=(then, ())), Statement("sin", -2), loop)
    assert [effects.check(program, way, kind) for kind in ("eager", *["graph"] * 5)] == [""] * 6


def test_a_loop_waits_for_more_than_its_values() -> None:
    """What it writes when it begins must not be read before it; that its first list waits for the read is no order."""
    v = tf.Variable(0.7)

    @tf.function(autograph=False)
    def f(x: Any) -> Any:
        before = v.read_value()

        def proceeds(i: Any, _: Any) -> Any:
            v.assign_add(1.0)
            return i < 3

        return before * tf.while_loop(proceeds, lambda i, x: (i + 1, tf.sin(x)), [0, x])[1]

    x = tf.constant(0.3)
    expected = 0.7 * np.sin(np.sin(np.sin(0.3)))
    for _ in range(5):
        v.assign(0.7)
        np.testing.assert_allclose(tf.function(lambda x: tf_symgrad.vjp(f, x)[0])(x), expected, rtol=1e-6)
        np.testing.assert_allclose(v, 4.7, rtol=1e-6)


# -- Assertions.


def positive(x: Any) -> Any:
    tf.debugging.assert_positive(x)
    return tf.math.log(x)


def in_loop(x: Any) -> Any:
    def step(i: Any, x: Any) -> Any:
        tf.debugging.assert_positive(x)
        return i + 1, tf.math.log(x)

    return tf.while_loop(lambda i, _: i < 1, step, [0, x])[1]


def after_call(x: Any) -> Any:
    def check(x: Any) -> None:
        tf.debugging.assert_positive(x)

    tf.function(check)(x)
    return tf.math.log(x)


CHECKS: dict[str, Callable[[Any], Any]] = {
    "assert": positive,
    "check_numerics": lambda x: tf.debugging.check_numerics(tf.math.log(x), "not a number"),
    "linear check_numerics": lambda x: 2 * tf.debugging.check_numerics(x + tf.math.log(x), "not a number"),
    "call": lambda x: 2 * tf.function(positive)(x),
    "branch": lambda x: tf.cond(tf.reduce_sum(x) < 9, lambda: positive(x), lambda: x),
    "loop": in_loop,
    "call without results": after_call,
}


@pytest.mark.parametrize("check", CHECKS)
def test_what_f_refuses_its_gradient_refuses(check: str) -> None:
    f = CHECKS[check]
    good, bad = tf.constant(0.5), tf.constant(-0.5)

    def grad(x: Any) -> Any:
        return symbolic_gradient([x, tf.ones([])], f=f)[0]

    with tf.GradientTape() as tape:
        tape.watch(good)
        y = tf.function(f)(good)
    expected = tape.gradient(y, good)
    for call in (grad, tf.function(grad)):
        np.testing.assert_allclose(call(good), expected, rtol=1e-6)
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(bad)


def test_the_second_derivative_refuses_too() -> None:
    one = tf.ones([])

    def second(x: Any) -> Any:
        return symbolic_gradient([x, one], f=lambda x: symbolic_gradient([x, one], f=positive)[0])[0]

    np.testing.assert_allclose(second(tf.constant(0.5)), -4, rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError):
        second(tf.constant(-0.5))


@pytest.mark.parametrize("check", CHECKS)
def test_checks_compile(check: str) -> None:
    """XLA leaves assertions out."""
    f = CHECKS[check]
    x = tf.constant(0.5)
    got = tf.function(lambda x: symbolic_gradient([x, tf.ones([])], f=f)[0], jit_compile=True)(x)
    np.testing.assert_allclose(got, symbolic_gradient([x, tf.ones([])], f=f)[0], rtol=1e-6)


def test_a_gradient_that_is_fetched_alone_waits_for_checks() -> None:
    def f(x: Any, w: Any) -> Any:
        tf.debugging.assert_positive(x)
        return x * w

    definition = tf.function(f).get_concrete_function(*[tf.TensorSpec([], tf.float32)] * 2)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder_with_default(-1.0, [])
        gradients = symbolic_gradient([x, x, x], f=definition)
        for dx in gradients:
            with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
                session.run(dx)


def test_a_shape_that_does_not_fit_is_refused() -> None:
    f = tf.function(lambda x: 2 * tf.ensure_shape(x, [3])).get_concrete_function(tf.TensorSpec(None, tf.float32))
    np.testing.assert_allclose(symbolic_gradient([tf.ones(3), tf.ones(3)], f=f)[0], [2, 2, 2])
    with pytest.raises(tf.errors.InvalidArgumentError):
        symbolic_gradient([tf.ones(2), tf.ones(3)], f=f)


def test_a_check_brings_no_print_along() -> None:
    def f(x: Any) -> Any:
        tf.print("effect")
        tf.debugging.assert_positive(x)
        return x * x

    f = tf.function(f).get_concrete_function(tf.TensorSpec([], tf.float32))
    _, library = tf_symgrad.gradient_function(f)
    assert "PrintV2" not in ops_of(list(library.function))
    assert "If" in ops_of(list(library.function))


# -- Control flow of TensorFlow 1.


def test_assertions_in_frames() -> None:
    def f(x: Any) -> Any:
        v1.Assert(tf.reduce_all(x > 0), [x])  # a branch whose result nobody takes
        return v1.cond(tf.reduce_sum(x) < 9, lambda: tf.math.log(x), lambda: x)

    frames = function_of_frames(f, tf.TensorSpec([], tf.float32))
    gradients = [
        lambda x: symbolic_gradient([x, tf.ones([])], f=frames)[0],
        lambda x: tf_symgrad.symbolic_gradient([x, tf.ones([])], f=frames, optimize="native")[0],
        tf.function(lambda x: symbolic_gradient([x, tf.ones([])], f=frames)[0]),
        lambda x: tf_symgrad.function_gradient(frames)(x, tf.ones([]))[0],
    ]
    for gradient in gradients:
        for x, expected in (0.5, 2.0), (20.0, 1.0), (0.25, 4.0):
            assert gradient(tf.constant(x)).numpy() == expected  # no empty tensor, which compares equal to anything
        with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
            gradient(tf.constant(-0.5))


@pytest.mark.parametrize("kind", ["branch", "inner branch", "loop"])
def test_effects_in_frames_that_nobody_waits_for(kind: str) -> None:
    """They happen, and what comes after does not hang on a branch that was not taken."""

    def f(x: Any, handle: Any) -> Any:
        def write(y: Any) -> Any:
            tf.raw_ops.AssignAddVariableOp(resource=handle, value=y)
            return y

        if kind == "loop":
            return loop(3, lambda i, y: (write(y) * x,), x)
        if kind == "branch":
            v1.cond(x > 0, lambda: write(x), lambda: x)
        else:
            v1.cond(x > 0, lambda: v1.cond(x > 1, lambda: write(x), lambda: x), lambda: x)
        return x * x

    frames = function_of_frames(f, tf.TensorSpec([], tf.float32), tf.TensorSpec([], tf.resource))
    places = {
        "eager": lambda g: g,
        "function": tf.function,
        "native": lambda g: lambda x, h: g(x, h, optimize="native"),
    }

    def gradient(x: Any, handle: Any, **options: Any) -> Any:
        value, (dx,) = tf_symgrad.value_and_grad(frames, (0,), **options)(x, handle)
        return value, dx

    for run in places.values():
        for x in 2.0, -2.0, 2.0:
            v = tf.Variable(0.0)
            value, dx = run(gradient)(tf.constant(x), v.handle)
            assert value.numpy() == (x**4 if kind == "loop" else x * x)
            assert dx.numpy() == (4 * x**3 if kind == "loop" else 2 * x)
            assert v.numpy() == (x + x**2 + x**3 if kind == "loop" else max(x, 0.0))


@pytest.mark.parametrize("kind", ["branch", "loop"])
def test_a_read_in_frames_is_ordered_after_a_write(kind: str) -> None:
    def f(x: Any, handle: Any) -> Any:
        with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(5.0))]):
            written = tf.zeros([])  # loops of TensorFlow 1 wait for values alone

        def product(x: Any) -> Any:
            with tf.control_dependencies([written]):
                read = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
                return x * tf.ensure_shape(read, [])

        if kind == "loop":
            return loop(2, lambda i, x: (product(x),), x)
        return v1.cond(x > 0, lambda: product(x), lambda: x)

    frames = function_of_frames(f, tf.TensorSpec([], tf.float32), tf.TensorSpec([], tf.resource))
    v = tf.Variable(3.0)
    for _ in range(5):
        v.assign(3.0)
        dx = symbolic_gradient([tf.constant(2.0), v.handle, tf.ones([])], f=frames)[0]
        np.testing.assert_allclose(dx, 25 if kind == "loop" else 5)


# -- Loops.


def test_a_condition_that_writes(register: Any) -> None:
    """What the body reads of a variable is not the same in all iterations, if the condition writes it."""
    text = """one = Const() dtype:float value:one
    add = AssignAddVariableOp(v, one:output:0) dtype:float
    b = ReadVariableOp(v, ^add) dtype:float
    five = Const() dtype:float value:five
    less = Less(b:value:0, five:output:0) T:float"""
    cond = function("order_cond", text, "less:z:0")
    cond.signature.output_arg[0].type = types_pb2.DT_BOOL
    body = function("order_g", "b = ReadVariableOp(v) dtype:float\ny = Mul(x, b:value:0) T:float", "y:z:0")
    body.signature.output_arg.add(name="v_out", type=20)
    body.ret["v_out"] = "v"
    f = function("order_f", "w = While(x, v) cond:order_cond body:g T:xv", "w:output:0")
    assert gradients(register, [f, cond, body], x=2.0, v=1.0, times=5) == {2.0 * 3.0 * 4.0}
