"""Where the engine's gradients and those of TensorFlow's Python are of different kinds: None, zeros, rows.

An optimizer treats these differently, so that code that stays as it is must get what it got. tests/test_enable.py finds
out, of all cases of all rules, that these tables are complete.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import op_def_registry, ops

from tf_symgrad import _custom, _loader, _part

# Inputs that Python has no gradient of, though there is one: None, which stays None.
DEAF = {
    "Betainc": [0, 1],
    "FusedBatchNorm": [3, 4],
    "FusedBatchNormV2": [3, 4],
    "FusedBatchNormV3": [3, 4],
    "FusedBatchNormGrad": [3, 4],
    "FusedBatchNormGradV2": [3, 4],
    "FusedBatchNormGradV3": [3, 4],
    "ImageProjectiveTransformV2": [1],
    "ImageProjectiveTransformV3": [1, 3],
    "MatrixDiagV2": [4],
    "MatrixDiagV3": [4],
    "MatrixDiagPartV2": [2],
    "MatrixDiagPartV3": [2],
    "PadV2": [2],
    "Zeta": [0],
}

# Ops of which Python makes zeros where the engine knows that nothing flows; and such as make rows, or no gradient, for
# reasons of their own. Python keeps them.
_PYTHONS = {
    *("MaxPoolGrad", "MaxPoolGradV2", "MaxPoolGradGrad", "MaxPoolGradGradV2", "NextAfter", "Sign"),
    *("LeakyReluGrad", "Relu6Grad", "ReluGrad"),
    *("GatherNd", "IdentityN", "MatrixSolveLs", "RaggedTensorToTensor"),
}


def is_pythons(kind: str) -> bool:
    """Whether Python is to differentiate ops of this kind, or `is_python_op` is to be asked of each."""
    return kind in _PYTHONS or kind in _SOME


def is_python_op(op: Any) -> bool:
    """The same of one op."""
    return op.type in _PYTHONS or bool(_SOME[op.type](op))


def _counts_from_the_end(op: Any) -> bool:
    axis = tf.get_static_value(op.inputs[2])
    return axis is not None and bool(axis < 0)


def _is_half(op: Any) -> bool:
    return op.inputs[0].dtype not in (tf.float32, tf.float64)


def _passes_a_handle(op: Any) -> bool:
    return bool(op.outputs[0].dtype == tf.resource)


_SOME: dict[str, Callable[[Any], bool]] = {
    "GatherV2": _counts_from_the_end,
    "Identity": _passes_a_handle,
    "ResizeBicubic": _is_half,
}


@dataclasses.dataclass(frozen=True)
class Body:
    """What is to be known of a function whose ops the engine differentiates as Python does.

    Attributes:
      needy: whether nodes have gradients of Python's, which are to be handed over.
    """

    needy: bool


def of_function(definition: function_pb2.FunctionDef) -> Body | None:
    """None if an op of the function is Python's, or some runtime has a function of its own in place of it."""
    if any(name in definition.attr for name in ("api_implements", "_implements")):
        return None
    nodes = {node.name: node for node in definition.node_def}
    differing = _differing(len(ops.gradient_registry.list()), _loader.native().num_rules())
    constants = _constants(definition) if any(node.op in differing for node in definition.node_def) else set()

    needy = False
    rules = _loader.rules()
    for node in definition.node_def:
        if _custom.has_pythons(node, rules):
            needy = needy or _custom.GRADIENT not in node.attr
            continue
        if node.op in differing and not _differ_in_constants(node, constants):
            return None
        if node.op in _FOREIGN or node.op.startswith(("Ref", "TensorArray", "Stack")):
            return None
        if node.op in _SOME and _is_python_node(node, nodes):
            return None
    return Body(needy)


# Control flow, arrays and variables of TensorFlow 1; gradients within functions, calls to elsewhere.
_FOREIGN = {
    *("Enter", "Exit", "NextIteration", "LoopCond", "Merge", "Switch", "RemoteCall"),
    *("SymbolicGradient", "TfSymgrad>SymbolicGradient"),
}


def inert() -> list[str]:
    """The ops that TensorFlow has declared to have no gradient, whatever the engine knows of them."""
    return [name for name, has in _pythons(len(ops.gradient_registry.list())).items() if not has]


@functools.lru_cache(1)
def _pythons(_: int) -> dict[str, bool]:
    """The ops in TensorFlow's registry: whether they have a gradient."""
    registry = ops.gradient_registry
    return {name: registry.lookup(name) is not None for name in registry.list()}


@functools.lru_cache(1)
def _differing(known: int, _: int) -> frozenset[str]:
    """Ops that have a gradient here or there, but not in both, or another one."""
    rules = _loader.rules()
    differing = {name for name, has in _pythons(known).items() if name in rules and rules[name] != has}
    return frozenset(differing | DEAF.keys() | _PYTHONS)


def _constants(definition: function_pb2.FunctionDef) -> set[str]:
    """Nodes that compute of constants alone: nothing flows through them."""
    found: set[str] = set()
    for node in definition.node_def:  # in the order in which they were made
        if node.op == "Const" or (_sources(node) and found.issuperset(_sources(node))):
            found.add(node.name)
    return found


def _sources(node: node_def_pb2.NodeDef) -> list[str]:
    """The nodes, or arguments, that a node's inputs come from."""
    return [name.partition(":")[0] for name in node.input if not name.startswith("^")]


def _differ_in_constants(node: node_def_pb2.NodeDef, constants: set[str]) -> bool:
    """Whether nothing flows to those inputs of which the engine and Python have different gradients.

    Constants are such, and integers.
    """
    deaf, carries = DEAF.get(node.op), _carry(node)
    return all(
        source in constants or (i < len(carries) and not carries[i])
        for i, source in enumerate(_sources(node))
        if deaf is None or i in deaf
    )


def _carry(node: node_def_pb2.NodeDef) -> list[bool]:
    """Of which inputs a gradient may flow to, by their dtypes: of the first ones, that are one tensor each."""
    found: list[bool] = []
    for arg in op_def_registry.get(node.op).input_arg:
        if arg.number_attr or arg.type_list_attr:
            break
        dtype = node.attr[arg.type_attr].type if arg.type_attr in node.attr else arg.type
        found.append(dtype == types_pb2.DT_INVALID or _part.carries(tf.as_dtype(dtype)))
    return found


def _is_python_node(node: node_def_pb2.NodeDef, nodes: dict[str, node_def_pb2.NodeDef]) -> bool:
    """`is_python_op` of a node in a function; true where that can't be told."""
    if node.op == "Identity":
        return bool(node.attr["T"].type == tf.resource)
    if node.op == "ResizeBicubic":
        return node.attr["T"].type not in (tf.float32, tf.float64)
    axis = nodes.get(node.input[2].partition(":")[0])
    if axis is None or axis.op != "Const":
        return False
    return bool(tf.make_ndarray(axis.attr["value"].tensor) < 0)
