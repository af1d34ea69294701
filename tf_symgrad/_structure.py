"""Calls, branches and loops of a graph, as the engine differentiates them: nodes that get outputs where they stand.

TensorFlow's Python does the same to nodes that it differentiates. Others hold their tensors, so that no other node can
take their place.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop_util, record
from tensorflow.python.eager.polymorphic_function import concrete_function
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util_v2, handle_data_util

from tf_symgrad import _custom, _library, _likeness, _lists, _part, _pullback

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_LOOPS = {"While", "StatelessWhile"}
_BRANCHES_AND_LOOPS = {"If", "StatelessIf", "Case", "StatelessCase", *_LOOPS}
KINDS = _CALLS | _BRANCHES_AND_LOOPS
# The attrs that change: functions, and the dtypes and shapes of outputs.
_CHANGING = ["f", "then_branch", "else_branch", "branches", "cond", "body", "T", "Tout", "output_shapes"]
# Branches and loops of whose functions TensorFlow's Python has graphs that are no longer theirs.
_stale: weakref.WeakSet[Any] = weakref.WeakSet()

Library = dict[str, _library.LibraryFunction]
Definitions = dict[str, function_pb2.FunctionDef]


def library_of(op: Any, ys: Collection[str]) -> tuple[Library, Definitions] | None:
    """The functions that a node stands for, with all that these call; and what the engine is told of some instead.

    None if Python is to differentiate it.

    Args:
      op: the node.
      ys: names of the tensors that are differentiated.
    """
    if op.type in _CALLS and not _is_stock(op._gradient_function):
        return None
    if op.type in _BRANCHES_AND_LOOPS and control_flow_util_v2.output_all_intermediates():
        return None  # no outputs are to be added: a session may have run the node
    # A function that returns what a loop's gradient takes is differentiated by that, too: Python goes on from there.
    first_new = getattr(op, "_symgrad_first_new", len(op.outputs))
    if op.type in _LOOPS and any(f"{op.name}:{i}" in ys for i in range(first_new, len(op.outputs))):
        return None
    find = _library.finder(op.graph)
    library: Library = {}
    starts = [x.op.node_def for x in op.inputs if _is_start(x.op)]
    for name in dict.fromkeys(name for node in [op.node_def, *starts] for name in _functions_of(node)):
        root = find(name)
        if root is None:
            return None
        library.update(_library.reachable(root, find))
    needy = []
    for name, function in library.items():
        if getattr(function, "_grad_func", None) is not None:
            return None
        likeness = _likeness_of(function)
        if likeness is None:
            return None
        if likeness.needy:
            needy.append(name)
    if not needy:
        return library, {}
    found = _custom.handed_over(library, needy)
    return None if found is None else ({**library, **found[1]}, found[0])


def is_recorded(op: Any) -> bool:
    """Whether another tape has recorded the outputs that a node has, and would miss what flows through new ones.

    A function whose backward function is built it knows as a whole.
    """
    here = any(op.graph is graph for graph in _part.inside_out(ops.get_default_graph()))
    return here and bool(pywrap_tfe.TFE_Py_TapeSetShouldRecordBackprop(list(op.outputs)))


def tell_tapes(op: Any, known: int) -> None:
    """Lets the tapes that have recorded a node know of the outputs that its gradient in Python has given it.

    What flows through these adds to what flows through those that it had: `known` of them.
    """
    if len(op.outputs) == known or not is_recorded(op):
        return

    def backward(*dys: Any) -> Any:
        before = len(op.outputs)
        others = (tf.zeros_like(y) if backprop_util.IsTrainable(y) else None for y in op.outputs[:known])
        restore()
        dxs = ops.get_gradient_function(op)(op, *others, *dys)  # that of the function which it calls by now
        tell_tapes(op, before)
        return dxs

    record.record_operation(op.type, op.outputs[known:], list(op.inputs), backward)


def _is_start(op: Any) -> bool:
    """Whether a node was made by `extend`."""
    return op.type == "PartitionedCall" and str(op.get_attr("f").name).startswith("__symgrad_loop_start_")


def _is_stock(gradient: Any) -> bool:
    """Whether the gradient of a call is that of the function that it calls."""
    return (
        _is_ours(gradient) or hasattr(gradient, "_symgrad_delayed") or getattr(gradient, "__func__", None) is _DELAYED
    )


def _is_ours(gradient: Any) -> bool:
    return isinstance(gradient, functools.partial) and gradient.func is _pullback.gradient_of_call


_DELAYED: Any = concrete_function._DelayedRewriteGradientFunctions._rewrite_forward_and_call_backward


def _functions_of(node: node_def_pb2.NodeDef) -> Iterator[str]:
    for name in _CHANGING:
        if name in node.attr:
            value = node.attr[name]
            yield from (f.name for f in ([value.func] if value.HasField("func") else value.list.func))


def called(own: Library, library: Library) -> list[_library.LibraryFunction]:
    """What of a library the functions of another call."""
    found: Library = {}
    todo = list(own.values())
    while todo:
        names = set(_library.callees(todo.pop().cached_definition)) & library.keys() - found.keys()
        found.update((name, library[name]) for name in names)
        todo += [library[name] for name in names]
    return [found[name] for name in sorted(found)]


def _likeness_of(function: _library.LibraryFunction) -> _likeness.Body | None:
    known = function.__dict__
    if "_symgrad_likeness" not in known:
        known["_symgrad_likeness"] = _likeness.of_function(function.cached_definition)
    return known["_symgrad_likeness"]  # type: ignore[no-any-return]


def extend(
    op: Any,
    definition: bytes,
    start: str,
    start_args: Iterable[int],
    outputs: Iterable[tuple[int, list[int] | None]],
    own: Library,
) -> None:
    """Gives a node new outputs.

    Args:
      op: the node.
      definition: a NodeDef with its new attrs.
      start: the function that computes its new inputs, or "".
      start_args: which of its inputs that takes.
      outputs: dtypes and shapes of the new outputs.
      own: the functions that it is to call, and what these call, in the order in which they were built.
    """
    node = node_def_pb2.NodeDef.FromString(definition)
    graph = op.graph
    for function in own.values():
        if not graph._is_function(function.name):
            graph._add_function(function)
    inputs: list[Any] = []
    if start:
        types = [tf.as_dtype(arg.type) for arg in own[start].cached_definition.signature.output_arg]
        named = _pullback.Named(start)
        with graph.as_default(), record.stop_recording(), tf.control_dependencies(None), tf.device(op.device or None):
            inputs = list(
                tf.raw_ops.PartitionedCall(
                    args=[op.inputs[i] for i in start_args], Tout=types, f=named, name=f"{op.name}_start"
                )
            )
    find, first = _finder(own, graph), len(op.outputs)
    if inputs:
        _lists.tell(find, inputs[0].op, range(len(inputs)))
    if not hasattr(op, "_symgrad_first_new"):
        op._symgrad_first_new = first
    for name in _CHANGING:
        if name in node.attr:
            op._set_attr(name, node.attr[name])
    if inputs:
        op._add_while_inputs(inputs)
    new = list(outputs)
    shapes = [tf.TensorShape(None if s is None else [None if d < 0 else d for d in s]) for _, s in new]
    op._add_outputs([dtype for dtype, _ in new], shapes)
    if "_num_original_outputs" in node.attr:
        op._set_attr("_num_original_outputs", type(node.attr["_num_original_outputs"])(i=len(op.outputs)))
    _lists.tell(find, op, range(first, len(op.outputs)))
    if op.type in _CALLS:
        root: Any = own[node.attr["f"].func.name]
        _take_over(op, root)
        if any(dtype == tf.variant for dtype, _ in new) and _has_sparse_matrices(own):
            for y, inner in zip(op.outputs, _pullback.concrete(root, op.inputs).graph.outputs, strict=True):
                handle_data_util.copy_handle_data(inner, y)
    else:
        _stale.add(op)


def _finder(own: Library, graph: tf.Graph) -> Callable[[str], Any]:
    others = _library.finder(graph)
    return lambda name: own.get(name) or others(name)


def _has_sparse_matrices(library: Library) -> bool:
    """Whether variants may be sparse matrices: TensorFlow makes no op of one of which it does not know the shape."""
    return any("SparseMatrix" in node.op for f in library.values() for node in f.cached_definition.node_def)


def restore() -> None:
    """Gives TensorFlow's Python the graphs of the functions that branches and loops have now, to go on with."""
    while True:
        try:
            op = _stale.pop()
        except KeyError:  # none is left, or the last one has just gone with its graph
            return
        _pullback.set_graphs(op)


def _take_over(op: Any, root: Any) -> None:
    """Makes the gradient of a call that of the function which it calls now, for Python, too."""
    before = op._gradient_function
    op._gradient_function = functools.partial(_pullback.gradient_of_call, [root])
    if getattr(before, "__func__", None) != _DELAYED:
        return
    # A tape has recorded the gradient of the function that was called when it looked.
    instance = before.__self__

    def rewrite(op: Any, *dys: Any) -> Any:
        gradient = op._gradient_function
        return gradient(op, *dys) if _is_ours(gradient) else _DELAYED(instance, op, *dys)

    rewrite._symgrad_delayed = True  # type: ignore[attr-defined]
    instance.__dict__["_rewrite_forward_and_call_backward"] = rewrite
