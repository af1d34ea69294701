"""Random programs with effects: reads, writes and prints of variables, calls, branches, loops.

A program is a list of statements. It is run three ways: by `interpret`, statement after statement, with the derivative
carried along; as a FunctionDef whose effects are ordered by control edges in all the ways that TensorFlow knows
(`Writer`); and as a tf.function (`trace`), where TensorFlow orders effects itself.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2, op_def_pb2, types_pb2
from tensorflow.python.framework import op_def_registry

VARIABLES = 2
TRIPS = 2


class Statement(NamedTuple):
    kind: str
    a: int = 0  # a value, by number; negative: from the end
    b: int = 0
    variable: int = 0
    parts: tuple["Program", ...] = ()


Program = tuple[Statement, ...]


def random_program(rng: random.Random, length: int, depth: int = 2) -> Program:
    """A program of one value, x. Its result is the sum of all its values."""
    statements: list[Statement] = []
    simple = ["read", "read", "add", "set", "sin", "mul", "print"]
    for _ in range(length):
        kind = rng.choice(simple + (["call", "if", "switch", "while", "until"] if depth else []))
        count = {"call": 1, "if": 2, "switch": 3, "while": 1, "until": 1}.get(kind, 0)
        parts = tuple(random_program(rng, rng.randint(2, 4), depth - 1) for _ in range(count))
        a, b = (rng.choice([-1, -2, 0]) for _ in range(2))
        statements.append(Statement(kind, a, b, rng.randrange(VARIABLES), parts))
    return tuple(statements)


Jet = tuple[float, float, float]  # a value, and its first and second derivative


def constant(x: float) -> Jet:
    return x, 0.0, 0.0


def variable_of(x: float) -> Jet:
    return x, 1.0, 0.0


def sine(a: Jet) -> Jet:
    sin, cos = math.sin(a[0]), math.cos(a[0])
    return sin, cos * a[1], cos * a[2] - sin * a[1] ** 2


def product(a: Jet, b: Jet) -> Jet:
    return a[0] * b[0], a[0] * b[1] + a[1] * b[0], a[0] * b[2] + 2 * a[1] * b[1] + a[2] * b[0]


def interpret(program: Program, x: Jet, state: list[float]) -> Jet:
    """The program's result and its derivatives by x; a variable carries none."""
    values = [x]
    for s in program:
        a, b = (values[max(i, -len(values)) if i < 0 else i] for i in (s.a, s.b))
        match s.kind:
            case "read":
                values.append(constant(state[s.variable]))
            case "add":
                state[s.variable] += a[0]
            case "set":
                state[s.variable] = a[0]
            case "sin":
                values.append(sine(a))
            case "mul":
                values.append(product(a, b))
            case "call":
                values.append(interpret(s.parts[0], a, state))
            case "if":
                values.append(interpret(s.parts[0 if a[0] > 0 else 1], a, state))
            case "switch":
                values.append(interpret(s.parts[branch(a[0])], a, state))
            case "while" | "until":
                for trip in range(TRIPS + 1):
                    if s.kind == "until":  # the condition writes
                        state[s.variable] += a[0]
                    if trip < TRIPS:
                        a = sine(interpret(s.parts[0], a, state))
                values.append(a)
    y, dx, ddx = (sum(parts) for parts in zip(*values, strict=True))
    return y, dx, ddx


def branch(x: float) -> int:
    return min(max(math.trunc(x), -1), 1) % 3  # the last one for what is none


def trace(program: Program, x: Any, variables: Sequence[tf.Variable]) -> Any:
    """The same in a tf.function."""
    values = [x]
    for s in program:
        a, b = (values[max(i, -len(values)) if i < 0 else i] for i in (s.a, s.b))
        v = variables[s.variable]
        match s.kind:
            case "read":
                values.append(v.read_value())
            case "add":
                v.assign_add(a)
            case "set":
                v.assign(a)
            case "sin":
                values.append(tf.sin(a))
            case "mul":
                values.append(a * b)
            case "call":
                values.append(tf.function(lambda x, s=s: trace(s.parts[0], x, variables), autograph=False)(a))
            case "if":
                then, other = (lambda p=p, a=a: trace(p, a, variables) for p in s.parts)
                values.append(tf.cond(a > 0, then, other))
            case "switch":
                branches = [lambda p=p, a=a: trace(p, a, variables) for p in s.parts]
                values.append(tf.switch_case(tf.cast(tf.clip_by_value(a, -1, 1), tf.int32), branches))
            case "while" | "until":

                def test(i: Any, x: Any, s: Statement = s, v: Any = v) -> Any:
                    if s.kind == "until":
                        v.assign_add(x)
                    return i < TRIPS

                def step(i: Any, x: Any, s: Statement = s) -> Any:
                    return i + 1, tf.sin(trace(s.parts[0], x, variables))

                values.append(tf.while_loop(test, step, [0, a])[1])
    return tf.add_n(values)


class Writer:
    """Writes programs as FunctionDefs: of x and the variables' handles (in a loop's body a counter comes first)."""

    def __init__(self, rng: random.Random, prefix: str) -> None:
        self.rng = rng
        self.prefix = prefix
        self.functions: list[function_pb2.FunctionDef] = []

    def write(self, program: Program, counter: bool = False, waits: bool = False) -> str:
        """Adds a function whose result waits for its effects, or has them as control outputs alone; its name."""
        f = function_pb2.FunctionDef()
        name = f.signature.name = f"{self.prefix}_{len(self.functions)}"
        self.functions.append(f)
        f.signature.is_stateful = True
        if counter:
            f.signature.input_arg.add(name="i", type=types_pb2.DT_INT32)
        f.signature.input_arg.add(name="x", type=types_pb2.DT_DOUBLE)
        for k in range(VARIABLES):
            f.signature.input_arg.add(name=f"r{k}", type=types_pb2.DT_RESOURCE)
        _Body(self, f).write(program, counter, waits)
        return name

    def condition(self, written: int | None = None) -> str:
        f = function_pb2.FunctionDef()
        name = f.signature.name = f"{self.prefix}_{len(self.functions)}"
        self.functions.append(f)
        f.signature.input_arg.add(name="i", type=types_pb2.DT_INT32)
        f.signature.input_arg.add(name="x", type=types_pb2.DT_DOUBLE)
        for k in range(VARIABLES):
            f.signature.input_arg.add(name=f"r{k}", type=types_pb2.DT_RESOURCE)
        f.signature.output_arg.add(name="y", type=types_pb2.DT_BOOL)
        body = _Body(self, f)
        if written is not None:
            f.signature.is_stateful = True
            body.assign("AssignAddVariableOp", written, "x")
        trips = body.constant(TRIPS, types_pb2.DT_INT32, *(f"^{node}" for node in body.stateful)) + ":output:0"
        f.ret["y"] = body.add("Less", ["i", trips], T=types_pb2.DT_INT32) + ":z:0"
        return name


class _Body:
    def __init__(self, writer: Writer, f: function_pb2.FunctionDef) -> None:
        self.writer, self.rng, self.f = writer, writer.rng, f
        self.written: list[str | None] = [None] * VARIABLES  # the last node that wrote
        self.readers: list[list[str]] = [[] for _ in range(VARIABLES)]  # those that have read since
        self.stateful: list[str] = []

    def write(self, program: Program, counter: bool, waits: bool) -> None:
        values = ["x"]
        for s in program:
            a, b = (values[max(i, -len(values)) if i < 0 else i] for i in (s.a, s.b))
            match s.kind:
                case "read":
                    values.append(self.read(s.variable))
                case "add" | "set":
                    self.assign("AssignAddVariableOp" if s.kind == "add" else "AssignVariableOp", s.variable, a)
                case "sin":
                    values.append(self.add("Sin", [a], T=types_pb2.DT_DOUBLE) + ":y:0")
                case "mul":
                    values.append(self.add("Mul", [a, b], T=types_pb2.DT_DOUBLE) + ":z:0")
                case "print":
                    self.stateful.append(self.add("PrintV2", [self.text() + ":output:0"], output_stream="log(info)"))
                case _:
                    values.append(self.structure(s, a))
        last = self.add("AddN", values, T=types_pb2.DT_DOUBLE, N=len(values)) + ":sum:0"
        done = [f"^{node}" for node in self.stateful]
        if waits:
            last = self.add("Identity", [last, *done], T=types_pb2.DT_DOUBLE) + ":output:0"
        if counter:
            last = self.add("Sin", [last], T=types_pb2.DT_DOUBLE) + ":y:0"
            one = self.constant(1, types_pb2.DT_INT32, *done) + ":output:0"
            self.result("i", self.add("AddV2", ["i", one], T=types_pb2.DT_INT32) + ":z:0", types_pb2.DT_INT32)
        self.result("y", last, types_pb2.DT_DOUBLE)
        for k in range(VARIABLES if counter else 0):
            self.result(f"h{k}", f"r{k}", types_pb2.DT_RESOURCE)
        for node in self.stateful:
            self.f.signature.control_output.append(node)
            self.f.control_ret[node] = node

    def result(self, name: str, reference: str, dtype: int) -> None:
        self.f.signature.output_arg.add(name=name, type=dtype)
        self.f.ret[name] = reference

    def read(self, k: int) -> str:
        node = self.add("ReadVariableOp", [f"r{k}", *self.after(self.written[k])], dtype=types_pb2.DT_DOUBLE)
        self.readers[k].append(node)
        self.stateful.append(node)
        return node + ":value:0"

    def assign(self, op: str, k: int, value: str) -> None:
        before = [*self.readers[k], self.written[k]]
        controls = []
        for node in before:
            if node is not None and self.rng.random() < 0.5:  # the order comes with the value
                value = self.value_after(value, node)
            else:
                controls += self.after(node)
        self.written[k] = self.add(op, [f"r{k}", value, *controls], dtype=types_pb2.DT_DOUBLE)
        self.readers[k] = []
        self.stateful.append(self.written[k] or "")

    def structure(self, s: Statement, a: str) -> str:
        controls = [c for k in range(VARIABLES) for n in (*self.readers[k], self.written[k]) for c in self.after(n)]
        handles = [f"r{k}" for k in range(VARIABLES)]
        dtypes = [types_pb2.DT_DOUBLE, *[types_pb2.DT_RESOURCE] * VARIABLES]
        if s.kind == "call":
            by_name = self.rng.random() < 0.5
            # Nothing in TensorFlow waits for the control outputs of a call by name, once that is inlined.
            f = self.writer.write(s.parts[0], waits=by_name)
            if by_name:
                node, output = self.add(f, [a, *handles, *controls]), ":y:0"
            else:
                node, output = self.add("StatefulPartitionedCall", [a, *handles, *controls], f=f), ":output:0"
                self.types(node, Tin=dtypes, Tout=dtypes[:1])
        elif s.kind == "if":
            zero = self.constant(0.0, types_pb2.DT_DOUBLE) + ":output:0"
            condition = self.add("Greater", [a, zero], T=types_pb2.DT_DOUBLE) + ":z:0"
            then, other = (self.writer.write(p) for p in s.parts)
            node = self.add("If", [condition, a, *handles, *controls], then_branch=then, else_branch=other)
            self.f.node_def[-1].attr["Tcond"].type = types_pb2.DT_BOOL
            self.types(node, Tin=dtypes, Tout=dtypes[:1])
            output = ":output:0"
        elif s.kind == "switch":
            index = self.add("Cast", [self.clipped(a)], SrcT=types_pb2.DT_DOUBLE, DstT=types_pb2.DT_INT32) + ":y:0"
            branches = [self.writer.write(p) for p in s.parts]
            node = self.add("Case", [index, a, *handles, *controls], branches=branches)
            self.types(node, Tin=dtypes, Tout=dtypes[:1])
            output = ":output:0"
        else:
            body = self.writer.write(s.parts[0], counter=True, waits=True)
            condition = self.writer.condition(s.variable if s.kind == "until" else None)
            zero = self.constant(0, types_pb2.DT_INT32) + ":output:0"
            # So does an iteration only for values of the one before it.
            node = self.add("While", [zero, a, *handles, *controls], body=body, cond=condition)
            self.types(node, T=[types_pb2.DT_INT32, *dtypes])
            output = ":output:1"
        self.f.node_def[-1].attr["_lower_using_switch_merge"].b = self.rng.random() < 0.5
        for k in range(VARIABLES):
            self.written[k], self.readers[k] = node, []
        self.stateful.append(node)
        return node + output

    # Ways to say "after".
    def after(self, node: str | None) -> list[str]:
        if node is None:
            return []
        for _ in range(self.rng.randrange(3)):
            match self.rng.randrange(3):
                case 0:
                    node = self.add("NoOp", [f"^{node}"])
                case 1:
                    node = self.constant(0.0, types_pb2.DT_DOUBLE, f"^{node}")
                case 2:
                    node = self.add("Identity", ["x", f"^{node}"], T=types_pb2.DT_DOUBLE)
        return [f"^{node}"]

    def clipped(self, a: str) -> str:
        least, most = (self.constant(bound, types_pb2.DT_DOUBLE) + ":output:0" for bound in (-1.0, 1.0))
        above = self.add("Maximum", [a, least], T=types_pb2.DT_DOUBLE) + ":z:0"
        return self.add("Minimum", [above, most], T=types_pb2.DT_DOUBLE) + ":z:0"

    def value_after(self, value: str, node: str) -> str:
        zero = self.constant(0.0, types_pb2.DT_DOUBLE, *self.after(node)) + ":output:0"
        return self.add("AddV2", [value, zero], T=types_pb2.DT_DOUBLE) + ":z:0"

    # Nodes.
    def add(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        name = f"n{len(self.f.node_def)}"
        node = self.f.node_def.add(name=name, op=op, input=inputs)
        for key, value in attrs.items():
            if key == "branches":
                for f in value:
                    node.attr[key].list.func.add(name=f)
            elif key in ("f", "then_branch", "else_branch", "body", "cond"):
                node.attr[key].func.name = value
            elif isinstance(value, str):
                node.attr[key].s = value.encode()
            elif key == "N":
                node.attr[key].i = value
            else:
                node.attr[key].type = value
        return name

    def types(self, node: str, **lists: list[int]) -> None:
        assert self.f.node_def[-1].name == node
        for key, dtypes in lists.items():
            self.f.node_def[-1].attr[key].list.type.extend(dtypes)

    def constant(self, value: float, dtype: int, *controls: str) -> str:
        node = self.add("Const", controls, dtype=dtype)
        tensor = tf.make_tensor_proto(value, dtype=tf.as_dtype(dtype), shape=[])
        self.f.node_def[-1].attr["value"].tensor.CopyFrom(tensor)
        return node

    def text(self) -> str:
        node = self.add("Const", [], dtype=types_pb2.DT_STRING)
        self.f.node_def[-1].attr["value"].tensor.CopyFrom(tf.make_tensor_proto("effect"))
        return node


# -- Order.


def is_stateful(node: node_def_pb2.NodeDef) -> bool:
    op: op_def_pb2.OpDef | None = op_def_registry.get(node.op)
    return op is None or bool(op.is_stateful)  # None: a call of a function by its name


def reachable(f: function_pb2.FunctionDef) -> set[tuple[str, str]]:
    """The pairs of nodes with effects of which the first comes before the second."""
    nodes = {node.name: node for node in f.node_def}
    effects = {name for name, node in nodes.items() if is_stateful(node)}
    before: dict[str, frozenset[str]] = {}

    def visit(name: str) -> frozenset[str]:
        if name not in before:
            inputs = {i.lstrip("^").split(":")[0] for i in nodes[name].input} & nodes.keys()
            before[name] = frozenset(itertools.chain(inputs & effects, *(visit(i) for i in sorted(inputs))))
        return before[name]

    return {(u, v) for v in effects for u in visit(v)}


def lost_order(f: function_pb2.FunctionDef, g: function_pb2.FunctionDef) -> Iterator[tuple[str, str]]:
    """The pairs that f orders and g, which has nodes of f, does not."""
    kept = {node.name for node in g.node_def if is_stateful(node)}
    return ((u, v) for u, v in sorted(reachable(f) - reachable(g)) if u in kept and v in kept)
