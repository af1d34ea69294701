"""Brings tensors to functions that lack them, through all the calls, branches and loops that lead there.

A gradient that is Python's may take what its function does not: a variable, a tensor from outside of a loop. It
becomes an argument of the function, of those that call it if they lack it too, and at last a capture of the outermost.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.python.framework import ops, tensor_util

from tf_symgrad import _library, _nodes, _specs
from tf_symgrad._function import Function

_PREFIX = "symgrad_capture_"
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
_LOOPS = {"While", "StatelessWhile"}


def spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype, name="capture")


class Lift:
    """What functions of a library lack, and how they get it: by argument `symgrad_capture_<i>`."""

    def __init__(self, root: Function) -> None:
        self._root = root
        self._tensors: list[Any] = []  # by the number in the argument's name
        self._lacks: dict[str, set[int]] = {}  # by function
        self._definitions: dict[str, function_pb2.FunctionDef] = {}

    @property
    def is_needed(self) -> bool:
        """Whether a function lacks anything."""
        return bool(self._lacks)

    def reference(self, function: str, definition: function_pb2.FunctionDef, tensor: Any) -> bytes:
        """How a node of the function names a tensor: as 'argument' or 'node:output:index'."""
        graph = self._root.library[function]._cached_graph
        known = _reference(tensor, graph, definition) if graph is not None else None
        if known is None and isinstance(tensor, ops.EagerTensor) and tensor.dtype not in (tf.resource, tf.variant):
            known = _constant(tensor, definition)
        if known is None:
            number = next((i for i, x in enumerate(self._tensors) if x is tensor), len(self._tensors))
            if number == len(self._tensors):
                self._tensors.append(tensor)
            self._lacks.setdefault(function, set()).add(number)
            known = f"{_PREFIX}{number}"
        return known.encode()

    def run(self, edited: dict[str, function_pb2.FunctionDef], wrong: list[str]) -> list[Any] | None:
        """Edits all functions that lack something or call such; returns what the outermost is to capture.

        None if there is a call that nothing can be added to; `wrong` says which.
        """
        if not self._lacks:
            return []
        library = self._root.library
        definitions = {name: edited.get(name) or member.cached_definition for name, member in library.items()}
        callees = {name: set(_library.callees(d)) & library.keys() for name, d in definitions.items()}
        passed: dict[tuple[str, str], dict[int, bytes]] = {}  # by caller and node
        done = False
        while not done:
            done = True
            for caller, called in callees.items():
                if not called & self._lacks.keys():
                    continue
                if caller not in edited:
                    edited[caller] = function_pb2.FunctionDef()
                    edited[caller].CopyFrom(definitions[caller])
                for node in list(edited[caller].node_def):
                    functions = _called(node, library)
                    lacking = set().union(*(self._lacks.get(f, set()) for f in functions))
                    given = passed.setdefault((caller, node.name), {})
                    if lacking and node.op not in _CALLS | _BRANCHES | _LOOPS | library.keys():
                        wrong.append(
                            f"  - node '{node.name}' (op {node.op}): a custom gradient in what it calls takes a tensor "
                            f"from outside, {self._tensors[min(lacking)]}; pass it as an argument"
                        )
                        return None
                    for f in functions:  # all branches take the same arguments
                        if lacking - self._lacks.get(f, set()):
                            self._lacks.setdefault(f, set()).update(lacking)
                            done = False
                    for number in sorted(lacking - given.keys()):
                        given[number] = self.reference(caller, edited[caller], self._tensors[number])
                        done = False
        for name, lacking in self._lacks.items():
            if name not in edited:
                edited[name] = function_pb2.FunctionDef()
                edited[name].CopyFrom(definitions[name])
            for number in sorted(lacking):
                self._add_argument(edited[name], number)
        for caller, node_name in passed:
            node = next(n for n in edited[caller].node_def if n.name == node_name)
            self._pass(node, sorted(passed[caller, node_name].items()), edited)
        captures = [self._tensors[number] for number in sorted(self._lacks.get(self._root.name, ()))]
        foreign = [x for x in captures if not _specs.is_at_hand(x)]
        wrong += [f"  - a custom gradient takes {x}, which is a tensor of another graph" for x in foreign]
        return None if foreign else captures

    def _add_argument(self, definition: function_pb2.FunctionDef, number: int) -> None:
        tensor, name = self._tensors[number], f"{_PREFIX}{number}"
        definition.signature.input_arg.add(name=name, type=tensor.dtype.as_datatype_enum)
        variable = _specs.variable_spec(tensor) if tensor.dtype == tf.resource else None
        if variable is not None:  # a function tells a variable's dtype by reading it
            read = definition.node_def.add(name=f"{name}_value", op="ReadVariableOp", input=[name])
            read.attr["dtype"].type = variable.dtype.as_datatype_enum

    def _pass(
        self, node: node_def_pb2.NodeDef, given: list[tuple[int, bytes]], edited: dict[str, function_pb2.FunctionDef]
    ) -> None:
        """Adds arguments to a call, and what a loop is given to what its body returns."""
        if not given:
            return
        data = [x for x in node.input if not x.startswith("^")]
        controls = [x for x in node.input if x.startswith("^")]
        node.ClearField("input")
        node.input.extend([*data, *(tf.compat.as_str(name) for _, name in given), *controls])
        types = "T" if node.op in _LOOPS else "Tin"
        tensors = [self._tensors[number] for number, _ in given]
        if types in node.attr:
            node.attr[types].list.type.extend(x.dtype.as_datatype_enum for x in tensors)
        if node.op in _LOOPS:
            if node.attr["output_shapes"].list.shape:
                node.attr["output_shapes"].list.shape.extend(x.shape.as_proto() for x in tensors)
            body = edited[node.attr["body"].func.name]
            for number, _ in given:
                name = f"{_PREFIX}{number}"
                dtype = self._tensors[number].dtype.as_datatype_enum
                body.signature.output_arg.add(name=f"{name}_out", type=dtype)
                body.ret[f"{name}_out"] = name


def _called(node: node_def_pb2.NodeDef, library: dict[str, Any]) -> set[str]:
    """The functions of a library that a node calls."""
    names = {node.op}
    for value in node.attr.values():
        names.update(f.name for f in ([value.func] if value.HasField("func") else value.list.func))
    return names & library.keys()


def _constant(tensor: Any, definition: function_pb2.FunctionDef) -> str:
    """A new node of a function: what eager mode knows."""
    name = f"{_PREFIX}constant_{len(definition.node_def)}"
    node = definition.node_def.add(name=name, op="Const")
    node.attr["dtype"].type = tensor.dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(tensor.numpy(), tensor.dtype, tensor.shape))
    return f"{name}:output:0"


def _reference(tensor: Any, graph: Any, definition: function_pb2.FunctionDef) -> str | None:
    if getattr(tensor, "graph", None) is not graph:  # an eager tensor or variable that the function captured
        inner = [placeholder for external, placeholder in graph.captures if external is tensor]
        if not inner:
            return None
        tensor = inner[0]
    for argument, x in zip(definition.signature.input_arg, graph.inputs, strict=False):
        if x is tensor:
            return str(argument.name)
    name = tensor.op.name
    return _nodes.reference(_nodes.renamed(definition, graph).get(name, name), tensor)
