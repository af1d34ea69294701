"""What becomes of a function when it is differentiated: which inputs have a gradient, where the way of others ends."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2
from tensorflow.python.framework import convert_to_constants

from tf_symgrad import _concrete, _custom, _inputs, _resolve, _specs
from tf_symgrad._calls import Call
from tf_symgrad._function import Function
from tf_symgrad._paths import LOOPS, SHAPES, Input, Paths

INPUTS = ("Placeholder", "VarHandleOp")  # as the picture of a function has them
SCOPE = "gradients"  # name scope of the nodes that the engine makes, with a number where f has one of that name


@dataclass
class Explanation:
    """What `explain` finds out.

    Attributes:
      function: the function's name.
      inputs: its inputs, captured ones at the end.
      error: why it can't be differentiated, empty if it can.
      forward_nodes: nodes of the function and all that it calls.
      gradient_nodes: nodes of the gradient function and of what it calls, constants left out.
      repeated: those of them that compute `f`, for the way back's sake.
      kept: for each tensor of the forward pass that the way back needs, inputs and variables left out, its bytes, or -1
        where they are not known. What a loop keeps is a list for each such tensor of its body, of as many as it has
        iterations.
      graph: the graph of the gradient function, what it calls written out in place; None if there is none.
      scope: the name scope of the way back in `graph`.
    """

    function: str
    inputs: list[Input]
    error: str = ""
    forward_nodes: int = 0
    gradient_nodes: int = 0
    repeated: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    graph: graph_pb2.GraphDef | None = None
    scope: str = SCOPE

    def is_backward(self, node: str) -> bool:
        """Whether a node of `graph` belongs to the way back, by its name."""
        return node.partition("/")[0] == self.scope

    @property
    def kept_bytes(self) -> int:
        """Bytes of all that is kept for the way back, as far as they are known."""
        return sum(size for size in self.kept.values() if size > 0)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the gradient function: what is computed of f, what of it the way back takes, and the way back.

        Args:
          path: where to write; its ending says how: `.svg`, `.png`, `.pdf` and whatever else Graphviz writes, `.dot`
            for its own language, which needs no `dot` program.

        Raises:
          ImportError: the Python package `graphviz` is missing.
          FileNotFoundError: Graphviz' program `dot` is missing.
          ValueError: there is no gradient function to draw.
        """
        from tf_symgrad import _plot  # which needs this module

        _plot.picture(self, path)

    def __str__(self) -> str:
        lines = [f"Function '{self.function}'"]
        for x in self.inputs:
            lines.append(f"  {x.name} ({x.dtype}): {'has a gradient' if x.connected else 'no gradient'}")
            lines += [f"    ends at {cut}" for cut in x.cuts]
        if self.error:
            return "\n".join([*lines, "  can't be differentiated:", *(f"    {x}" for x in self.error.splitlines())])
        unknown = sum(size < 0 for size in self.kept.values())
        lines.append(
            f"  {self.forward_nodes} nodes; its gradient has {self.gradient_nodes}, "
            f"of which {len(self.repeated)} compute f again"
        )
        lines.append(
            f"  kept for the way back: {len(self.kept)} tensors, {self.kept_bytes:,} bytes"
            + (f", {unknown} of unknown size" if unknown else "")
        )
        return "\n".join(lines)


def explain(
    f: Any, wrt: Sequence[bool] | None = None, unknown: int = 1, *, args: Sequence[Any] | None = None
) -> Explanation:
    """Explains the gradient of a function without running it.

    Args:
      f: a `ConcreteFunction`, a `tf.function` with an `input_signature`, or whatever else `gradient_function` takes;
        with `args`, any callable.
      wrt: for each input, captured ones at the end, whether its gradient is wanted; by default of those that can have
        one.
      unknown: the size that dimensions of unknown size, such as a batch's, are taken to have where bytes are told.
      args: arguments to trace `f` for, which is not run; the inputs are the tensors in them.

    Returns:
      An `Explanation`; printed, it says for each input whether it has a gradient and, if not, at which ops the way ends
      and at which line of the program they were made; then what is computed again and what is kept.

    Raises:
      TypeError: `f` is nothing that a function can be made of.

    Examples:
      >>> f = tf.function(lambda x, y: x * tf.floor(y), input_signature=[tf.TensorSpec([], tf.float32)] * 2)
      >>> [(x.name, x.connected) for x in tf_symgrad.explain(f).inputs]
      [('x', True), ('y', False)]
    """
    wrt = _inputs.flags(wrt)
    _inputs.check_number("unknown", unknown, 0)
    if args is not None:
        args = _inputs.elements("args", args, "arguments of f: explain(f, args=[x])")
        f = Call(f, args, {}, None).concrete
    function = _resolve.resolve(f, [])
    resolved = _custom.resolve(function, []) or function  # with what custom gradients do
    explanation = Explanation(function.name, Paths(resolved).inputs()[: len(function.inputs)])
    explanation.forward_nodes = sum(n.op != "Const" for d in function.definitions().function for n in d.node_def)
    try:
        gradient = _concrete.function_gradient(f, wrt)
    except tf.errors.OpError as error:
        explanation.error = str(error.message)
        return explanation
    explanation.scope = _scope(resolved)
    explanation.graph = graph = _flattened(gradient, unknown)
    nodes = [node for node in graph.node if _counts(node)]
    explanation.gradient_nodes = len(nodes) + sum(_counts(n) for f in _reached(graph) for n in f.node_def)
    backward = explanation.is_backward
    explanation.repeated = [n.name for n in nodes if not backward(n.name) and n.op != "Identity"]
    explanation.kept = _kept(graph, backward, unknown)
    return explanation


def _counts(node: node_def_pb2.NodeDef) -> bool:
    return node.op not in (*INPUTS, "Const", "NoOp")


def _scope(function: Function) -> str:
    """The name scope of the way back in a gradient function: one that the function does not have."""
    (definition,) = (d for d in function.definitions().function if d.signature.name == function.name)
    taken = {node.name.partition("/")[0] for node in definition.node_def}
    numbered = (f"{SCOPE}_{k}" for k in itertools.count(1))
    return next(scope for scope in itertools.chain([SCOPE], numbered) if scope not in taken)


def _reached(graph: graph_pb2.GraphDef) -> list[function_pb2.FunctionDef]:
    """The functions that the nodes of a graph refer to, and these in turn."""
    library = {f.signature.name: f for f in graph.library.function}
    reached: dict[str, function_pb2.FunctionDef] = {}
    pending: list[node_def_pb2.NodeDef] = list(graph.node)
    while pending:
        node = pending.pop()
        named = [f.name for attr in node.attr.values() for f in (attr.func, *attr.list.func)]
        for name in {node.op, *named} & library.keys() - reached.keys():
            reached[name] = library[name]
            pending += library[name].node_def
    return list(reached.values())


def _flattened(function: Any, unknown: int) -> graph_pb2.GraphDef:
    """The graph of a gradient function with calls written out in place, without what stands for the calls."""
    inlined = convert_to_constants._run_inline_graph_optimization(function, False, True)
    glue = {
        node.name: node.input[0] for node in inlined.node if node.op == "Identity" and node.name.startswith("Func/")
    }
    call = {
        node.name.partition("/")[0] for node in inlined.node if "/" in node.name and not node.name.startswith("Func/")
    }
    prefix = f"{call.pop()}/" if len(call) == 1 else ""  # of the call that the function consists of

    def renamed(x: str) -> str:
        control, x = ("^", x[1:]) if x.startswith("^") else ("", x)
        while x.partition(":")[0] in glue and not control:
            x = glue[x.partition(":")[0]]
        return control + x.removeprefix(prefix)

    variables = {internal.op.name: _specs.variable_spec(external) for external, internal in function.graph.captures}
    graph = graph_pb2.GraphDef(library=inlined.library, versions=inlined.versions)
    for node in inlined.node:
        if node.name in glue or (node.op == "NoOp" and node.name.startswith("Func/")):
            continue
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name = renamed(node.name)
        copy.attr.pop("_class", None)  # may name what is left out
        copy.input[:] = [renamed(x) for x in node.input if not x.startswith("^")]
        if (variable := variables.get(node.name)) is not None:
            copy.op = "VarHandleOp"  # which knows the variable's shape
            copy.attr.clear()
            copy.attr["dtype"].type = variable.dtype.as_datatype_enum
            copy.attr["shape"].shape.CopyFrom(variable.shape.as_proto())
        for dim in copy.attr["shape"].shape.dim if copy.op == "Placeholder" else ():
            dim.size = unknown if dim.size < 0 else dim.size
    return graph


def _kept(definition: graph_pb2.GraphDef, is_backward: Callable[[str], bool], unknown: int) -> dict[str, int]:
    """The tensors that go from the forward part to the backward part, with their bytes (-1: not known)."""
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(definition, name="")
    kept = {}
    for operation in graph.get_operations():
        asks = is_backward(operation.name) and operation.type not in SHAPES
        for x in operation.inputs if asks else ():
            while x.op.type == "Identity" and not is_backward(x.op.name):
                x = x.op.inputs[0]
            if not is_backward(x.op.name) and x.op.type not in (*INPUTS, "ReadVariableOp", "Const"):
                kept[x.name] = _bytes(x, unknown)
    return kept


def _bytes(x: Any, unknown: int) -> int:
    """Of a tensor, or of the list that a loop fills; -1 if not known."""
    while x.dtype == tf.variant and x.op.type in (*LOOPS, "Identity"):
        x = x.op.inputs[x.value_index]
    if x.op.type == "TensorListFromTensor":
        return _bytes(x.op.inputs[0], unknown)
    if x.op.type in ("EmptyTensorList", "TensorListReserve"):
        element, length = (tf.get_static_value(i) for i in x.op.inputs)
        if element is None or element.ndim == 0 or length is None or length < 0:
            return -1
        shape = [unknown if size < 0 else int(size) for size in element]
        return int(length) * math.prod(shape) * int(tf.as_dtype(x.op.get_attr("element_dtype")).size)
    size = x.shape.num_elements()
    known = size is not None and x.dtype not in (tf.variant, tf.resource, tf.string)
    return int(size * x.dtype.size) if known else -1
