"""Looking at functions instead of running them: which ops a gradient function consists of."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2, types_pb2

from tests.oracles import Function, Tensor
from tf_symgrad import _loader

_native = _loader.native()

# Ops that only move, name or shape values. Engines may place them, fold them or do without them.
PLUMBING = frozenset(
    {
        *("AddN", "AddV2", "BroadcastGradientArgs", "BroadcastTo", "Cast", "Const", "ExpandDims", "Fill"),
        *("Identity", "IdentityN", "NoOp", "OnesLike", "Pack", "Placeholder", "PreventGradient", "Range", "Rank"),
        *("Reshape", "Shape", "ShapeN", "Size", "StopGradient", "Sum", "ZerosLike"),
    }
)


def concrete(f: Function, inputs: Sequence[Tensor], static: bool = True, compiled: bool = False) -> Any:
    """f as a ConcreteFunction of inputs with these dtypes, and with these or unknown shapes; compiled by XLA or not."""
    specs = [tf.TensorSpec(t.shape if static else None, t.dtype) for t in inputs]
    return tf.function(f, autograph=False, jit_compile=compiled or None).get_concrete_function(*specs)


def library(f: Any) -> function_pb2.FunctionDefLibrary:
    """A ConcreteFunction and all that it calls."""
    functions = function_pb2.FunctionDefLibrary()
    functions.CopyFrom(f.graph.as_graph_def().library)
    functions.function.append(f.function_def)
    return functions


def build_gradient(
    functions: function_pb2.FunctionDefLibrary, name: str
) -> tuple[str, function_pb2.FunctionDefLibrary]:
    """The name of the gradient function of a function, and the functions that it adds to a library."""
    f = attr_value_pb2.NameAttrList(name=name)
    gradient, added = _native.build_gradient(functions.SerializeToString(), f.SerializeToString(), None)
    return gradient, function_pb2.FunctionDefLibrary.FromString(added)


def nodes(functions: function_pb2.FunctionDefLibrary) -> Iterator[node_def_pb2.NodeDef]:
    """All nodes of all functions."""
    for function in functions.function:
        yield from function.node_def


def op_types(functions: function_pb2.FunctionDefLibrary) -> set[str]:
    """The ops in some functions; calls of one another are none."""
    return {node.op for node in nodes(functions)} - {function.signature.name for function in functions.function}


def differences(f: Function, x: Sequence[Tensor]) -> list[str]:
    """How the native gradient of f differs from Python's: ops that one has and the other hasn't."""
    forward = concrete(f, x)
    _, added = build_gradient(library(forward), forward.name)

    def gradient(*inputs: Tensor) -> list[Tensor]:
        x = list(inputs[: len(forward.inputs)])
        y = f(*x)
        with tf.device(y[0].device):
            dy = [tf.identity(t) for t in inputs[len(x) :]]
        return [tf.convert_to_tensor(dx) for dx in tf.gradients(y, x, dy, unconnected_gradients="zero")]

    python = concrete(gradient, [*x, *forward.outputs]).function_def
    live = _reachable(python)
    got = Counter(_describe(node) for node in nodes(added) if not _is_plumbing(node))
    expected = Counter(_describe(node) for node in python.node_def if node.name in live and not _is_plumbing(node))

    lines = [f"  order 1: missing from the graph: {node}" for node in (expected - got).elements()]
    return lines + [f"  order 1: not in Python's graph: {node}" for node in (got - expected).elements()]


def _is_plumbing(node: node_def_pb2.NodeDef) -> bool:
    """Whether a node is there for shapes or structure only."""
    return node.op in PLUMBING or node.attr["T"].type in (types_pb2.DT_INT32, types_pb2.DT_INT64)


def _describe(node: node_def_pb2.NodeDef) -> str:
    """A node's op and attrs, without what the engines may name as they like."""
    attrs = {key: value for key, value in node.attr.items() if not key.startswith("_") and not key.startswith("T")}
    said = ", ".join(f"{key}={str(attrs[key]).strip()}".replace("\n", " ") for key in sorted(attrs))
    return f"{node.op}({said})"


def _reachable(function: function_pb2.FunctionDef) -> set[str]:
    """The nodes whose values the outputs of a function depend on."""
    inputs = {node.name: [i.partition(":")[0] for i in node.input] for node in function.node_def}
    seen: set[str] = set()
    todo = [value.partition(":")[0] for value in function.ret.values()]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += inputs.get(name, [])
    return seen
