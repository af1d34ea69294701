"""What a node of a FunctionDef says of itself, and what a function calls what others know by other names."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry


def data_inputs(node: node_def_pb2.NodeDef) -> list[str]:
    """The tensors that a node takes, as it names them."""
    return [x for x in node.input if not x.startswith("^")]


def input_dtypes(node: node_def_pb2.NodeDef) -> list[tf.DType]:
    op = op_def_registry.get(node.op)
    return [] if op is None else [t for arg in op.input_arg for t in _arg_dtypes(node, op, arg)]


def output_dtypes(node: node_def_pb2.NodeDef) -> list[tf.DType]:
    op = op_def_registry.get(node.op)
    return [] if op is None else [t for arg in op.output_arg for t in _arg_dtypes(node, op, arg)]


def outputs(node: node_def_pb2.NodeDef) -> list[str]:
    """The outputs of a node, as other nodes of its function name them."""
    op = op_def_registry.get(node.op)
    if op is None:
        return []
    return [f"{node.name}:{arg.name}:{i}" for arg in op.output_arg for i in range(len(_arg_dtypes(node, op, arg)))]


def _arg_dtypes(node: node_def_pb2.NodeDef, op: Any, arg: Any) -> list[tf.DType]:
    def attr(name: str) -> attr_value_pb2.AttrValue:  # to ask a map of protos for what it lacks would add it
        if name in node.attr:
            return node.attr[name]
        return next((a.default_value for a in op.attr if a.name == name), attr_value_pb2.AttrValue())

    if arg.type_list_attr:
        return [tf.as_dtype(t) for t in attr(arg.type_list_attr).list.type]
    dtype = tf.as_dtype(arg.type or attr(arg.type_attr).type)
    return [dtype] * (attr(arg.number_attr).i if arg.number_attr else 1)


def reference(node: str, tensor: Any) -> str:
    """How a node of a function names a tensor that another node computes, as `tensor`'s op does, by that one's name."""
    index = tensor.value_index
    for argument in tensor.op.op_def.output_arg:
        count = 1
        if argument.number_attr:
            count = tensor.op.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(tensor.op.get_attr(argument.type_list_attr))
        if index < count:
            return f"{node}:{argument.name}:{index}"
        index -= count
    raise AssertionError(f"{tensor} is no output of its op")


def renamed(definition: function_pb2.FunctionDef, graph: Any) -> dict[str, str]:
    """What the ops of a graph that makes a function's results are called in the function: results have names, too."""
    pairs = zip(definition.signature.output_arg, graph.outputs, strict=False)
    return {y.op.name: definition.ret[result.name].partition(":")[0] for result, y in pairs}
