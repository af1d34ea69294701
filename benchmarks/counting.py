"""Counts nodes: those that a method makes, and those that TensorFlow's optimiser leaves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# The edges of a function, not its work.
_EDGES = frozenset(["Placeholder", "_Arg", "_Retval", "_DeviceArg", "_DeviceRetval"])


class Recorder:
    """A function that remembers how much CPU time its calls took and what they returned."""

    def __init__(self, wrapped: Callable[..., Any]) -> None:
        self.wrapped = wrapped
        self.seconds = 0.0
        self.results: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = self.wrapped(*args, **kwargs)
        self.seconds += time.process_time() - start
        self.results.append(result)
        return result


def nodes_of_graph(graph: Any, without: str = "") -> int:
    """Nodes of a GraphDef and, each function once, of all functions that it can call, but for ops of one type."""
    return ops_of_graph(graph, without).total()


def ops_of_graph(graph: Any, without: str = "") -> Counter[str]:
    """The same by op."""
    functions = {f.signature.name: f for f in graph.library.function}
    nodes = [node for node in graph.node if node.op != without]
    return sum((_ops(functions[name].node_def) for name in _reachable(nodes, functions)), _ops(nodes))


def nodes_of_library(serialized: bytes) -> int:
    """Nodes of all functions of a serialized FunctionDefLibrary."""
    from tensorflow.core.framework import function_pb2

    return sum(_count(f.node_def) for f in function_pb2.FunctionDefLibrary.FromString(serialized).function)


def nodes_of_jaxpr(jaxpr: Any) -> Iterator[int]:
    """The numbers of equations of a (closed) jaxpr and of those within it."""
    equations = getattr(jaxpr, "jaxpr", jaxpr).eqns
    yield len(equations)
    for equation in equations:
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from nodes_of_jaxpr(inner)


def optimized_ops(call: Callable[[], Any]) -> Counter[str]:
    """Nodes, by op, of all graphs that TensorFlow optimises for a call, as its optimiser leaves them."""
    from tensorflow.python.eager import context

    runtime = context.context()
    runtime.clear_kernel_cache()  # what was optimised for an earlier call is optimised anew
    runtime.enable_graph_collection()
    try:
        call()
        metadata = runtime.export_run_metadata()
    finally:
        runtime.disable_graph_collection()
    return sum((ops_of_graph(graphs.post_optimization_graph) for graphs in metadata.function_graphs), Counter())


def _ops(nodes: Iterable[Any]) -> Counter[str]:
    return Counter(node.op for node in nodes if node.op not in _EDGES)


def _count(nodes: Iterable[Any]) -> int:
    return _ops(nodes).total()


def _reachable(nodes: Iterable[Any], functions: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    todo = list(_callees(nodes))
    while todo:
        name = todo.pop()
        if name in functions and name not in found:
            found.add(name)
            todo += _callees(functions[name].node_def)
    return found


def _callees(nodes: Iterable[Any]) -> Iterator[str]:
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield from (f.name for f in ([value.func] if value.HasField("func") else value.list.func))
