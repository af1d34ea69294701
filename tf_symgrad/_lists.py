"""What lists hold, told to TensorFlow's Python: it knows that of a list that an op made, and not of one that a function
returned, or that a node got as a new output; and can't vectorise what it knows nothing of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.core.framework import full_type_pb2, node_def_pb2
from tensorflow.python.ops import handle_data_util

from tf_symgrad import _nodes

_HANDLES = {"handle", "output_handle"}  # the outputs of ops on lists that are lists
_PASSING = {"Identity", "ZerosLike", "StopGradient", "TensorListResize"}

# The dtype of a list's elements; or the number of the input that has such elements; None: neither is known.
Elements: TypeAlias = tf.DType | int | None


def tell(find: Callable[[str], Any], op: Any, which: Iterable[int]) -> None:
    """Tells TensorFlow what some outputs of a node are.

    Args:
      find: finds functions by name.
      op: a call, a branch or a loop.
      which: the outputs, of which those that are no variants are left out.
    """
    outputs = [k for k in which if op.outputs[k].dtype == tf.variant]
    if not outputs:
        return
    reader, node = _Reader(find), op.node_def
    for k in outputs:
        found = reader.of_output(node, "output", k)
        if isinstance(found, int):
            handle_data_util.copy_handle_data(op.inputs[found], op.outputs[k])
        elif found is not None:
            data = handle_data_util.create_handle_data(tf.TensorShape(None), found)
            data.shape_and_type[0].type.type_id = full_type_pb2.TFT_ARRAY
            handle_data_util.set_handle_data(op.outputs[k], data)


class _Reader:
    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find
        self._known: dict[tuple[str, int], Elements] = {}  # by function and result
        self._nodes: dict[str, dict[str, node_def_pb2.NodeDef]] = {}  # by function

    def of_output(self, node: node_def_pb2.NodeDef, output: str, k: int) -> Elements:
        """Of a node's output: which of those of that name in its op."""
        kind = node.op.removeprefix("Stateless").removeprefix("Stateful")
        match kind:
            case "PartitionedCall":
                return self._of_result(node.attr["f"].func.name, k)
            case "While":
                return k
            case "If" | "Case":
                attrs = [node.attr[name].func for name in ("then_branch", "else_branch") if name in node.attr]
                functions = attrs or node.attr["branches"].list.func
                # A branch that has nothing to return returns a list of anything.
                first, *others = {self._of_result(f.name, k) for f in functions}
                return None if others else first + 1 if isinstance(first, int) else first
        if kind in _PASSING:
            return 0
        return (
            tf.as_dtype(node.attr["element_dtype"].type)
            if output in _HANDLES and "element_dtype" in node.attr
            else None
        )

    def _of_result(self, function: str, k: int) -> Elements:
        key = function, k
        if key not in self._known:
            self._known[key] = None  # of a function that calls itself
            self._known[key] = self._find_result(function, k)
        return self._known[key]

    def _find_result(self, function: str, k: int) -> Elements:
        found = self._find(function)
        if found is None:
            return None
        definition = found.cached_definition
        if function not in self._nodes:
            self._nodes[function] = {node.name: node for node in definition.node_def}
        nodes, args = self._nodes[function], [arg.name for arg in definition.signature.input_arg]
        tensor = definition.ret[definition.signature.output_arg[k].name]
        while ":" in tensor:
            name, output, index = tensor.split(":")
            elements = self.of_output(nodes[name], output, int(index))
            if not isinstance(elements, int):
                return elements
            tensor = _nodes.data_inputs(nodes[name])[elements]
        return args.index(tensor)
