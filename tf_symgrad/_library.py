"""The functions of graphs and of the eager context: by name, and with all that they call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.core.function.polymorphism import function_type as function_type_lib
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import ops

from tf_symgrad._specs import argument_specs

# A function of a graph or a context: an AtomicFunction or, of a Defun, a _DefinedFunction. Both have a name, a
# cached_definition and what Graph._add_function needs.
LibraryFunction = Any


class _Definition(atomic_function.AtomicFunction):  # type: ignore[misc]
    """A function of which Python has the definition alone: its graph is made if somebody asks, to save a model, say."""

    @property
    def graph(self) -> Any:
        if self.function_type.output is None:  # nobody has asked before
            name, runtime = tf.compat.as_str(self.name), context.context()
            signature = self.cached_definition.signature
            inputs = tuple(argument_specs(name, signature.input_arg, {}))
            outputs = tuple(argument_specs(name, signature.output_arg, {}))
            self._function_type = function_type_lib.from_structured_signature((inputs, {}), outputs)
            called = sorted(filter(runtime.has_function, set(callees(self.cached_definition))))
            self._children = [atomic(runtime.get_function_def(callee)) for callee in called]
        return super().graph


def atomic(definition: function_pb2.FunctionDef) -> LibraryFunction:
    """A counted reference to a function of the eager context, which is given the function if it lacks it."""
    runtime = context.context()
    name = tf.compat.as_bytes(definition.signature.name)
    # AtomicFunctions count themselves and hold one reference of the context's together. This one is counted before it
    # is made: the last of the others may go at any time, and the context's function with it.
    counts, key = atomic_function.RUNTIME_FUNCTION_REFS, (runtime.function_scope_id, name)
    counts[key] = counts.get(key, 0) + 1
    try:
        if counts[key] == 1 or not runtime.has_function(name):
            runtime.add_function_def(definition)
        # Nothing calls it from Python: its type is never looked at.
        function = _Definition(name, runtime, function_type_lib.FunctionType([]))
        function._cached_definition = definition
    finally:
        counts[key] -= 1
        if counts[key] == 0:  # TensorFlow refused the definition
            del counts[key]
    return function


# Functions whose graphs Python has, by name: what the context has of them is the definition alone.
traced: weakref.WeakValueDictionary[str, LibraryFunction] = weakref.WeakValueDictionary()


def finder(graph: tf.Graph) -> Callable[[str], LibraryFunction | None]:
    """Finds functions by name in a graph, in those that it is inside, and in the eager context."""

    def find(name: str) -> LibraryFunction | None:
        inner: tf.Graph | None = graph
        while inner is not None:
            function = inner._get_function(name)
            if function is not None:
                return function
            inner = getattr(inner, "outer_graph", None)
        if name in traced:
            return traced[name]
        runtime = context.context()
        return atomic(runtime.get_function_def(name)) if runtime.has_function(name) else None

    return find


def is_known(name: str, graph: tf.Graph) -> bool:
    """Whether a graph, one that it is inside, or the eager context has a function of that name."""
    return finder(graph)(name) is not None


def reachable(
    root: LibraryFunction, find: Callable[[str], LibraryFunction | None] | None = None
) -> dict[str, LibraryFunction]:
    """A function and all that it calls, by name. What can't be found is left out, for the engine to name."""
    find = find or finder(ops.get_default_graph())
    library: dict[str, LibraryFunction] = {}
    todo = [root]
    while todo:
        function = todo.pop()
        name = tf.compat.as_str(function.name)
        if name in library:
            continue
        library[name] = function
        if getattr(function, "_cached_graph", None) is not None:
            todo += function.children  # traced: far cheaper than reading the definition
        # Complete, but where TensorFlow wraps a branch or a loop for tapes: its functions belong to the graph around.
        if getattr(function, "_cached_graph", None) is None or "cflow_gradient_wrapper" in name:
            own = dict(getattr(function, "_sub_functions", {}))
            names = set(callees(function.cached_definition)) - library.keys()
            todo += filter(None, (own.get(callee) or find(callee) for callee in sorted(names)))
        if gradient := getattr(function, "_grad_func", None):
            todo.append(gradient)
    return library


def callees(definition: function_pb2.FunctionDef) -> Iterator[str]:
    """Names of all functions that a function may call, and some that are not."""

    def of_attrs(attrs: Any) -> Iterator[str]:
        for value in attrs.values():
            for function in [value.func] if value.HasField("func") else value.list.func:
                yield function.name
                yield from of_attrs(function.attr)

    for node in definition.node_def:
        yield node.op
        yield from of_attrs(node.attr)
