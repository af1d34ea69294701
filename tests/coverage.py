"""python -m tests.coverage: writes tf_symgrad/coverage.json and docs/coverage.md, from rules, cases and registries."""

import json
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import kernels, ops

from tests.cases import FAMILIES, cases
from tests.harness import Case, checked_dtypes
from tests.spec import DTYPES, Point, Rand
from tests.structure import concrete
from tests.test_registry import ERROR, STOCK, UNTESTED, rules
from tf_symgrad import _coverage

NOT_YET = STOCK.with_name("not_yet.txt")
BEYOND = STOCK.with_name("beyond_python.txt")

# What is differentiated without a rule.
ENGINE = {
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), "the engine's own, for any branches"),
    **dict.fromkeys(("While", "StatelessWhile"), "the engine's own, for any loop"),
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), "any function; see tests/test_engine.py"),
    **dict.fromkeys(
        ("Enter", "Exit", "LoopCond", "Merge", "NextIteration", "Switch"),
        "read as While, If; see tests/test_frames.py",
    ),
    "RemoteCall": "both halves run at its target; see tests/test_control_flow.py",
    "EagerPyFunc": "Python's own function, called once more under a tape; see tests/test_custom_gradients.py",
    "TfSymgrad>SymbolicGradient": "the next order; see tests/test_runtime.py",
}
SHORT = {"h": "f16", "b": "bf16", "f": "f32", "d": "f64", "c": "c64", "z": "c128"}
FLOATING = {dtype.as_datatype_enum for dtype in DTYPES.values()}
OPAQUE = {tf.resource.as_datatype_enum, tf.variant.as_datatype_enum}


@cache
def sections(path: Path) -> dict[str, list[str]]:
    """The words under each title of a list in tests/data."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("# "):
            words = found.setdefault(line[2:], [])
        else:
            words += line.split()
    return found


# The kinds of ops without a Python gradient.
KINDS = ["differentiable, with a gradient here", *sections(BEYOND)]


def data() -> dict[str, Any]:
    """What coverage.json must say."""
    checked: dict[str, list[Case]] = defaultdict(list)
    for family in FAMILIES:
        for case in cases(family):
            checked[case.op].append(case)
    stock = {op: set(names) for op, *names in map(str.split, STOCK.read_text().splitlines()) if op != "#"}
    named = {*rules(), *python(), *stock, *ENGINE, *checked} & registered().keys()
    return {
        "tensorflow": tf.__version__,
        "registered": sum(not op.startswith("TfSymgrad>") for op in registered()),
        "cases": sum(map(len, checked.values())),
        "ops": {op: entry(op, checked[op], stock.get(op, set())) for op in sorted(named)},
        "others": others(),
    }


def entry(op: str, cases: list[Case], stock: set[str]) -> dict[str, Any]:
    """What is known of an op."""
    has = gradient(op) in ("rule", "engine")
    inputs = {name for case in cases for name in differentiated(case)} or (carrying(op) if has else set())
    names = [arg.name for arg in registered()[op].input_arg]
    values = [case for case in cases if not case.graph_only]
    orders = max((case.orders for case in values), default=0)
    with tf.device("CPU"):
        letters = {letter for case in values for letter in checked_dtypes(case)}
    remarks = [ENGINE[op]] if op in ENGINE else [reason for reason, ops in UNTESTED.items() if op in ops]
    remarks += [reason for reason, ops in sections(NOT_YET).items() if op in ops]
    remarks += left_out(values, orders) or (["no case"] if has and not cases and not remarks else [])
    return {
        "gradient": gradient(op),
        "inputs": [name for name in names if name in inputs],
        "other_inputs": [name for name in names if name not in inputs],
        "checked": "values" if values else "graph" if cases else "no",
        "orders": orders,
        "dtypes": [short for letter, short in SHORT.items() if letter in letters],
        "kernels": sorted(devices(op)),
        "stock": {
            **{name: "gradient" if name in stock else "" for name in ("SymbolicGradient", "TF_AddGradients")},
            "Python": {True: "gradient", False: "none", None: ""}[python().get(op)],
        },
        "remarks": remarks,
    }


def gradient(op: str) -> str:
    """Where the gradient of an op is."""
    if op in ENGINE:
        return "engine"
    if op in UNTESTED[ERROR]:
        return "error"
    return {True: "rule", False: "none", None: "missing" if python().get(op) else "none"}[rules().get(op)]


def differentiated(case: Case) -> set[str]:
    """The inputs of its op that a case differentiates."""
    said = {name for name, value in case.args.items() if random(value) and name in (case.wrt or case.args)}
    if not case.fn and said <= {arg.name for arg in registered()[case.op].input_arg}:
        return said
    point = Point(case, (case.dtypes or "f")[0])
    graph = concrete(point.f, point.x).graph
    varying = {id(tensor) for tensor in graph.inputs[: len(point.x)]}
    found: set[str] = set()
    for node in graph.get_operations():
        moving = [tensor for tensor in node.inputs if id(tensor) in varying]
        if moving:
            varying |= {id(tensor) for tensor in node.outputs if _carries(tensor)}
        if node.type == case.op:
            found |= {name for name, tensor in named_inputs(node) if id(tensor) in varying and _carries(tensor)}
    return found


def named_inputs(node: Any) -> Iterator[tuple[str, Any]]:
    """The input tensors of a node, each with the name of its arg."""
    tensors = iter(node.inputs)
    for arg in node.op_def.input_arg:
        many = node.get_attr(arg.number_attr) if arg.number_attr else 1
        for _ in range(len(node.get_attr(arg.type_list_attr)) if arg.type_list_attr else many):
            yield arg.name, next(tensors)


def random(value: Any) -> bool:
    return isinstance(value, Rand) or (isinstance(value, list) and any(map(random, value)))


def carrying(op: str) -> set[str]:
    """The inputs of an op that may have a cotangent."""
    definition = registered()[op]
    allowed = {attr.name: set(attr.allowed_values.list.type) or FLOATING for attr in definition.attr}

    def dtypes(arg: Any) -> set[int]:
        return allowed.get(arg.type_attr or arg.type_list_attr, {arg.type})

    return {arg.name for arg in definition.input_arg if dtypes(arg) & (FLOATING | OPAQUE)}


def left_out(cases: list[Case], orders: int) -> list[str]:
    """What the cases of an op leave out, and why."""
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for case in cases:
        parts = {
            "not against Python": not case.python,
            "not against finite differences": not case.fd,
            "order 1 only": case.orders < 2 and orders < 2,
            "known shapes only": not case.unknown,
        }
        found[case.why] |= {part: True for part, holds in parts.items() if holds}
    return [f"{why} ({', '.join(parts)})" for why, parts in found.items() if parts]


def others() -> dict[str, list[str]]:
    """The ops with floating inputs and outputs, a CPU kernel and no Python gradient, by their kind."""
    found = defaultdict(list)
    for op in sorted(registered()):
        if not python().get(op) and numeric(op):
            kind = KINDS[0] if gradient(op) in ("rule", "engine") else " / ".join(kinds(op))
            found[kind].append(op)
    return {kind: found[kind] for kind in [*KINDS, *(found.keys() - set(KINDS))] if found[kind]}


def kinds(op: str) -> list[str]:
    """Where tests/data/beyond_python.txt puts an op; right if in one place."""
    return [kind for kind, patterns in sections(BEYOND).items() if any(fnmatchcase(op, p) for p in patterns)]


def numeric(op: str) -> bool:
    """Whether an op has a CPU kernel with a floating input and a floating output."""
    definition = registered()[op]
    attrs = {attr.name: set(attr.allowed_values.list.type) for attr in definition.attr}

    def floating(args: Any, constraints: dict[str, set[int]]) -> bool:
        def dtypes(arg: Any) -> set[int]:
            name = arg.type_attr or arg.type_list_attr
            allowed = (attrs[name] or FLOATING) & (constraints.get(name) or FLOATING) if name else {arg.type}
            return allowed & FLOATING

        return any(map(dtypes, args))

    for kernel in kernel_lists()[op]:
        constraints = {c.name: set(c.allowed_values.list.type) for c in kernel.constraint}
        sides = (definition.input_arg, definition.output_arg)
        if kernel.device_type in ("CPU", "DEFAULT") and all(floating(args, constraints) for args in sides):
            return True
    return False


def devices(op: str) -> set[str]:
    """Where an op has kernels, CPU or GPU."""
    found = {kernel.device_type for kernel in kernel_lists()[op]}
    return {"CPU", "GPU"} if "DEFAULT" in found else found & {"CPU", "GPU"}


@cache
def kernel_lists() -> dict[str, list[Any]]:
    """All kernels, by op."""
    found = defaultdict(list)
    for kernel in kernels.get_all_registered_kernels().kernel:
        found[kernel.op].append(kernel)
    return found


@cache
def python() -> dict[str, bool]:
    """The Python registry less our own op; False: declared to have no gradient."""
    registry = ops.gradient_registry
    gradients = {op: registry.lookup(op) for op in registry.list()}
    # Tests register more: gradients of their own, and by tf.custom_gradient, under names that no op can have.
    theirs = {op: g for op, g in gradients.items() if g is None or str(g.__module__).startswith("tensorflow.")}
    return {op: gradient is not None for op, gradient in theirs.items() if op.isidentifier()}


@cache
def registered() -> dict[str, Any]:
    """All ops."""
    rules()  # loads ours
    serialized = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    return {op.name: op for op in op_def_pb2.OpList.FromString(serialized).op}


def text(data: dict[str, Any]) -> str:
    """coverage.json: a line an op."""
    lines = {key: ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in data[key].items()) for key in _LINES}
    head = {key: value for key, value in data.items() if key not in _LINES}
    return json.dumps(head)[:-1] + "".join(f',\n"{key}": {{\n{lines[key]}\n}}' for key in _LINES) + "}\n"


def _carries(tensor: Any) -> bool:
    return tensor.dtype.as_datatype_enum in FLOATING | OPAQUE


_LINES = ("ops", "others")

if __name__ == "__main__":
    found = data()
    _coverage.DATA.write_text(text(found))
    _coverage.DOCUMENT.write_text(_coverage.as_markdown(found))
