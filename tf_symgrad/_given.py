"""Gradients that are given (GradientDef, a Defun's `grad_func` or `python_grad_func`), where libraries hold none.

A TensorFlow 1 graph hands a `grad_func` to the engine with its library. The eager context, and the functions that it
runs, have no place for it, and a `python_grad_func` is in no library at all: there the calls of a copy of f name the
gradient, as those of `_custom` do. That of Python is traced for it.
"""

from __future__ import annotations

import copy
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import func_graph, ops
from tensorflow.python.framework import function as defun_lib

from tf_symgrad import _custom, _function, _library, _rule
from tf_symgrad._function import Function

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def handed_over(f: Any) -> Any:
    """What the op is to be given for f, here."""
    function = _function.from_defun(f) if isinstance(f, defun_lib._DefinedFunction) else f
    if not isinstance(function, Function):
        return f
    known_to_library = not context.executing_eagerly() and not isinstance(ops.get_default_graph(), func_graph.FuncGraph)
    given: dict[str, Any] = {}
    library: dict[str, Any] = {}
    for name, member in function.library.items():
        if getattr(member, "python_grad_func", None) is not None:
            given[name] = _traced(member)
            library.update(_library.reachable(given[name]))
        elif not known_to_library and getattr(member, "_grad_func", None) is not None:
            given[name] = member._grad_func
    if not given:
        return f
    library |= {name: _library.atomic(member.cached_definition) for name, member in function.library.items()}
    edited: dict[str, function_pb2.FunctionDef] = {}
    for name, member in function.library.items():
        definition = function_pb2.FunctionDef()
        definition.CopyFrom(member.cached_definition)
        for node in definition.node_def:
            callee = node.attr["f"].func.name if node.op in _CALLS else node.op
            if callee in given:
                _name_gradient(node, given[callee].name)
                edited[name] = definition
    if function.name in given:
        root = _call_of(definition=function.library[function.name].cached_definition)
        _name_gradient(root.node_def[0], given[function.name].name)
        # Nothing calls the root by its name: the function of one call takes it.
        edited[root.signature.name] = root
        library[root.signature.name] = _library.atomic(root)
        function = copy.copy(function)
        function.name_attrs = attr_value_pb2.NameAttrList(name=root.signature.name)
    return _custom._renamed(function, library, edited)


def _traced(defun: Any) -> Any:
    """The `python_grad_func` of a Defun, as a function of the inputs, then of the cotangents of the outputs."""

    def call() -> tuple[list[Any], list[Any], list[Any]]:
        signature = defun.definition.signature
        xs = [tf.compat.v1.placeholder(x.type) for x in signature.input_arg]
        dys = [tf.compat.v1.placeholder(y.type) for y in signature.output_arg]
        outputs = defun(*xs)
        node = (outputs[0] if isinstance(outputs, (list, tuple)) else outputs).op
        found = defun.python_grad_func(node, *dys)
        gradients = list(found) if isinstance(found, (list, tuple)) else [found]
        return xs, dys, [tf.zeros_like(x) if dx is None else dx for x, dx in zip(xs, gradients, strict=True)]

    return _rule.as_function(defun.name, call)[0]


def _name_gradient(node: node_def_pb2.NodeDef, gradient: str) -> None:
    inputs = [x for x in node.input if not x.startswith("^")]
    node.attr[_custom.GRADIENT].func.name = gradient
    node.attr[_custom.INPUTS].list.s.extend(x.encode() for x in inputs)
    node.attr[_custom.OUTPUTS].list.i.extend(range(len(inputs)))


def _call_of(definition: function_pb2.FunctionDef) -> function_pb2.FunctionDef:
    """A function of one node, that calls another."""
    caller, signature = function_pb2.FunctionDef(), definition.signature
    caller.signature.CopyFrom(signature)
    caller.signature.name = f"{signature.name}__call"
    del caller.signature.control_output[:]
    node = caller.node_def.add(
        name="call", op="StatefulPartitionedCall" if signature.is_stateful else "PartitionedCall"
    )
    node.input.extend(x.name for x in signature.input_arg)
    node.attr["f"].func.name = signature.name
    node.attr["Tin"].list.type.extend(x.type for x in signature.input_arg)
    node.attr["Tout"].list.type.extend(y.type for y in signature.output_arg)
    for i, y in enumerate(signature.output_arg):
        caller.ret[y.name] = f"call:output:{i}"
    return caller
