"""Gradients that exist in Python only, handed to the engine as functions.

`tf.custom_gradient`, `Graph.gradient_override_map` and `tf.RegisterGradient` name Python functions. Where a function
that is to be differentiated has nodes with such gradients, they are traced here, once, and a copy of the function is
made in which each of these nodes names the traced function and the tensors that it takes. The engine needs no Python
after that, nor does the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import func_graph, ops

from tf_symgrad import _function, _loader
from tf_symgrad._function import Function

GRADIENT, INPUTS, OUTPUTS = "_symgrad_gradient", "_symgrad_gradient_inputs", "_symgrad_gradient_outputs"
_SUFFIX = "__custom"


def resolve(function: Function) -> Function | None:
    """A copy of a function in which nodes with gradients of Python's name them; None if there are none that can be."""
    edits: dict[str, list[node_def_pb2.NodeDef]] = {}
    library = dict(function.library)
    for name, member in function.library.items():
        graph = getattr(member, "_cached_graph", None)
        if graph is None or GRADIENT.encode() in member.cached_definition.SerializeToString():
            continue
        definition = function_pb2.FunctionDef()
        definition.CopyFrom(member.cached_definition)
        for node in _candidates(definition):
            traced = _trace(graph.get_operation_by_name(node.name), graph, definition)
            if traced is None:
                continue
            gradient, inputs, outputs = traced
            node.attr[GRADIENT].func.name = gradient.name
            node.attr[INPUTS].list.s.extend(map(tf.compat.as_bytes, inputs))
            node.attr[OUTPUTS].list.i.extend(outputs)
            edits.setdefault(name, []).append(node)
            library.update(_function.reachable(gradient))
        if name in edits:
            library[name] = definition
    return _renamed(function, library) if edits else None


def _candidates(definition: function_pb2.FunctionDef) -> Iterator[node_def_pb2.NodeDef]:
    rules = _loader.native().rules()
    for node in definition.node_def:
        registered = node.op in rules or node.op.startswith("TfSymgrad>")
        if "_gradient_op_type" in node.attr or (not registered and _is_registered(node.op)):
            yield node


def _is_registered(op: str) -> bool:
    """Whether somebody registered a gradient that is not TensorFlow's: of those the engine has its own."""
    try:
        gradient = ops.gradient_registry.lookup(op)
    except LookupError:
        return False
    return gradient is not None and not gradient.__module__.startswith("tensorflow.python.")


def _trace(op: Any, graph: Any, definition: function_pb2.FunctionDef) -> tuple[Any, list[str], list[int]] | None:
    """The gradient of an op as a function of captured tensors, then cotangents; their names; its outputs' places."""
    try:
        python_gradient = ops.get_gradient_function(op)
    except LookupError:
        return None
    if python_gradient is None:
        return None
    body = func_graph.FuncGraph(f"symgrad_gradient_of_{op.type}")
    with body.as_default(), tf.name_scope("gradient"):
        seeds = [tf.compat.v1.placeholder(y.dtype, y.shape) for y in op.outputs]
        gradients = python_gradient(op, *seeds)
        gradients = list(gradients) if isinstance(gradients, (list, tuple)) else [gradients]
        dense = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        # An output that is an input as it came is no node: a function needs one.
        dense = [None if g is None else tf.identity(g) for g in dense]
    names = [_reference(tensor, graph, definition) for tensor in body.external_captures]
    if any(name is None for name in names):
        return None
    body.inputs = [*body.internal_captures, *seeds]
    body.outputs = [g for g in dense if g is not None]
    outputs, place = [], 0
    for g in dense:
        outputs.append(-1 if g is None else place)
        place += g is not None
    name = f"{body.name}_{ops.uid()}"
    traced = atomic_function.from_func_graph(name, body, {})
    return traced, [name for name in names if name is not None], outputs


def _reference(tensor: Any, graph: Any, definition: function_pb2.FunctionDef) -> str | None:
    """How a node of the function names a tensor: 'argument' or 'node:output:index'."""
    if getattr(tensor, "graph", None) is not graph:  # an eager tensor or variable that the function captured
        inner = [placeholder for external, placeholder in graph.captures if external is tensor]
        if not inner:
            return None
        tensor = inner[0]
    for argument, x in zip(definition.signature.input_arg, graph.inputs, strict=True):
        if x is tensor:
            return str(argument.name)
    index = tensor.value_index
    for argument in tensor.op.op_def.output_arg:
        count = 1
        if argument.number_attr:
            count = tensor.op.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(tensor.op.get_attr(argument.type_list_attr))
        if index < count:
            return f"{tensor.op.name}:{argument.name}:{index}"
        index -= count
    return None


def _renamed(function: Function, library: dict[str, Any]) -> Function:
    """The function over a library in which each function that leads to an edited one has a name of its own."""
    edited = {name for name, member in library.items() if isinstance(member, function_pb2.FunctionDef)}
    definitions = {
        name: member if isinstance(member, function_pb2.FunctionDef) else member.cached_definition
        for name, member in library.items()
    }
    callees = {name: set(_function.callees(definition)) & library.keys() for name, definition in definitions.items()}
    grown = True
    while grown:
        callers = {name for name in library.keys() - edited if callees[name] & edited}
        edited |= callers
        grown = bool(callers)
    new_names = {name: name + _SUFFIX for name in edited}
    result = {name: member for name, member in library.items() if name not in edited}
    for name in edited:
        definition = function_pb2.FunctionDef()
        definition.CopyFrom(definitions[name])
        definition.signature.name = new_names[name]
        for node in definition.node_def:
            node.op = new_names.get(node.op, node.op)
            _rename_attrs(node.attr, new_names)
        result[new_names[name]] = _function.atomic(definition)
    root = new_names[function.name]
    renamed = copy.copy(function)
    renamed.name_attrs = attr_value_pb2.NameAttrList(name=root, attr=function.name_attrs.attr)
    renamed.library = {root: result.pop(root), **result}
    renamed._built, renamed._gradients = {}, {}
    return renamed


def _rename_attrs(attrs: Any, new_names: dict[str, str]) -> None:
    for value in attrs.values():
        for called in [value.func] if value.HasField("func") else value.list.func:
            called.name = new_names.get(called.name, called.name)
            _rename_attrs(called.attr, new_names)
