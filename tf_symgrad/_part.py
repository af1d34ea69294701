"""The part of a graph that gradients pass, for the engine to read: a program may ask for many small gradients."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import c_api_util

from tf_symgrad._specs import continuous

_MAX_DEPTH = 16  # kMaxDepth of csrc/graph/forward_pass.cc


@functools.cache
def carries(dtype: tf.DType) -> bool:
    """Whether a gradient may flow through tensors of a dtype: handles and lists are such, too."""
    return continuous(dtype) or not dtype.is_numpy_compatible


def between(ys: Sequence[Any], xs: Sequence[Any], blocked: Collection[Any]) -> set[Any]:
    """The ops that gradients of y by x may pass."""
    blocked = set(blocked)
    reached = {x.op for x in xs}
    todo = list(reached)
    while todo:
        found = {op for y in todo.pop().outputs if carries(y.dtype) for op in y.consumers()} - reached - blocked
        reached |= found
        todo += found
    passed = {y.op for y in ys} & reached
    todo = list(passed)
    while todo:
        found = ({x.op for x in todo.pop().inputs if carries(x.dtype)} & reached) - passed
        passed |= found
        todo += found
    return passed


def inside_out(graph: Any) -> Iterator[Any]:
    """A graph, and those around it."""
    while graph is not None:
        yield graph
        graph = getattr(graph, "outer_graph", None)


def serialized(graph: tf.Graph, passed: Iterable[Any], tensors: Iterable[Any]) -> tuple[bytes, set[str] | None]:
    """Those ops, what makes the tensors, and what the engine looks at around them, as a GraphDef; their names.

    That is what makes the inputs, and so on as far as these are integers: shapes and axes. If it is most of the graph,
    it is all, as TensorFlow is faster at that: then there are no names.
    """
    ops = {*passed, *[t.op for t in tensors]}
    if len(ops) > graph.num_operations() // 2:
        return whole(graph), None
    level = ops
    for _ in range(_MAX_DEPTH + 2):
        before = {x.op: x.dtype for op in level for x in op.inputs if x.op not in ops}
        ops |= before.keys()
        level = {op for op, dtype in before.items() if dtype.is_integer or dtype.is_bool}
    ordered = sorted(ops, key=lambda op: op._id)  # equal graphs give equal functions
    return graph_pb2.GraphDef(node=[op.node_def for op in ordered]).SerializeToString(), {op.name for op in ordered}


def whole(graph: tf.Graph) -> bytes:
    with graph._lock, c_api_util.tf_buffer() as buffer, graph._c_graph.get() as c_graph:
        pywrap_tf_session.TF_GraphToGraphDef(c_graph, buffer)
        return bytes(pywrap_tf_session.TF_GetBuffer(buffer))
