"""The call of a pullback: one op, with a gradient of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.core.function.polymorphism import function_type as function_type_lib
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop_util, record
from tensorflow.python.eager.polymorphic_function import concrete_function
from tensorflow.python.framework import function_def_to_graph, ops
from tensorflow.python.ops import control_flow_util_v2, handle_data_util, while_v2

from tf_symgrad import _custom, _library, _nodes, _op, _specs

_HIGHER_ORDER = 2  # of TFE_Py_TapeSetPossibleGradientTypes

# Who optimises pullbacks: attr `optimize` of the op.
optimize = "grappler"


def call(name: str, stateful: bool, functions: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Adds the call of a pullback, the first of some functions, to the default graph."""
    graph, root = ops.get_default_graph(), functions[0]
    if any(t.dtype == tf.resource for t in inputs):
        handles = handles_of(graph)
        inputs = [handles.get(id(t), t) for t in inputs]
    for function in functions:
        if not graph._is_function(function.name):
            graph._add_function(function)
    outputs = [tf.as_dtype(arg.type) for arg in root.cached_definition.signature.output_arg]
    add = tf.raw_ops.StatefulPartitionedCall if stateful else tf.raw_ops.PartitionedCall
    # A tape that may see the gradient of this gradient must have recorded all that this one will take.
    if pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes(list(inputs)) == _HIGHER_ORDER:
        return list(concrete(root, inputs)._call_flat(list(inputs), []))
    if optimize != "grappler":  # the op runs the function itself, and is differentiated as the op is
        unused = [_op.unused(tf.TensorSpec(None, dtype)) for dtype in outputs]
        nothing = [False] * len(inputs)
        f = attr_value_pb2.NameAttrList(name=name)
        return _op.run([*inputs, *unused], outputs, f, wrt=nothing, values=True, optimize=optimize)
    gradient = functools.partial(gradient_of_call, functions)
    with record.stop_recording():
        results = list(add(args=list(inputs), Tout=outputs, f=Named(name)))
    op = results[0].op
    op._gradient_function = gradient
    if record.could_possibly_record():
        record.record_operation(op.type, results, list(inputs), lambda *dys: gradient(op, *dys))
    return results


def handles_of(graph: tf.Graph) -> dict[int, Any]:
    """By identity of what stands for a variable in a graph, the variable's handle: tapes know that alone."""
    return {id(inner): t for t, inner in getattr(graph, "captures", ()) if inner.dtype == tf.resource}


class Named:
    """What TensorFlow takes for the value of an attr that is a function."""

    def __init__(self, name: str) -> None:
        self._as_name_attr_list = attr_value_pb2.NameAttrList(name=name)

    def add_to_graph(self, graph: tf.Graph) -> None:
        """The graph has it."""


def gradient_of_call(functions: Sequence[Any], op: Any, *dys: Any) -> Any:
    """The gradient of a call of the first of some functions, as TensorFlow differentiates calls: few ask for it."""
    known = concrete(functions[0], op.inputs)
    # TensorFlow would take zeros like the function's own results: of lists, of which these know less, in its graph.
    seeds = [
        tf.zeros_like(y) if dy is None and y.dtype != tf.resource and backprop_util.IsTrainable(inner) else dy
        for y, dy, inner in zip(op.outputs, dys, known.graph.outputs, strict=False)
    ]
    return known._delayed_rewrite_functions._rewrite_forward_and_call_backward(op, *seeds)


def concrete(root: Any, inputs: Sequence[Any]) -> Any:
    """A pullback as TensorFlow knows functions, for inputs like these."""
    key = tuple(repr(facts(t)) for t in inputs if t.dtype == tf.resource)
    known = root.__dict__.setdefault("_symgrad_concrete", {})
    if key not in known:
        # What it calls may be nowhere but in the graph that it is called in, which no other graph is inside of.
        inside = next((t.graph for t in inputs if not isinstance(t, ops.EagerTensor)), ops.get_default_graph())
        functions = _library.reachable(root, _library.finder(inside)).values()
        with tf.Graph().as_default() as scope:
            for function in functions:
                scope._add_function(function)
            graph = function_def_to_graph.function_def_to_graph(root.cached_definition, structured_input_signature=None)
        for function in functions:
            graph._add_function(function)
        for outer, t in zip(inputs, graph.inputs, strict=True):
            handle_data_util.copy_handle_data(outer, t)
        _prepare(graph)
        specs = [tuple(tf.TensorSpec(t.shape, t.dtype) for t in ts) for ts in (graph.inputs, graph.outputs)]
        of = function_type_lib.from_structured_signature((specs[0], {}), specs[1])
        known[key] = concrete_function.ConcreteFunction.from_func_graph(graph, of, {})
    return known[key]


def _prepare(graph: Any) -> None:
    """Of a graph that was made of a definition: tells its calls their gradients, and what is known of handles.

    A call that the engine has written out has left nodes whose names begin with its own, as has one that TensorFlow
    inlines when it runs: no other call may be named like it.
    """
    find = _library.finder(graph)
    for op in graph.get_operations():
        scope = op.name
        while scope := scope.rpartition("/")[0]:
            graph._names_in_use.setdefault(scope.lower(), 1)
        if op.type in ("PartitionedCall", "StatefulPartitionedCall"):
            op._gradient_function = functools.partial(gradient_of_call, [find(op.get_attr("f").name)])
        elif op.type.removeprefix("Stateless") in _GRAPHS:
            set_graphs(op)
        elif (gradient := _handed_over(op)) is not None:
            op._gradient_function = gradient
        _hand_on(op)


def _hand_on(op: Any) -> None:
    """Tells a node's results the variables that they are: it was made before its graph's inputs were told."""
    if op.type in ("Identity", "IdentityN", "While", "StatelessWhile"):
        results = op.inputs
    elif op.type.removeprefix("Stateless") in _GRAPHS:  # a branch's, of its first graph
        results = getattr(op, "_true_graph" if op.type.endswith("If") else "_branch_graph_0").outputs
    else:
        return
    for result, y in zip(results, op.outputs, strict=True):
        if y.dtype == tf.resource:
            handle_data_util.copy_handle_data(result, y)


def _handed_over(op: Any) -> Any:
    """The gradient that a node names (`_custom.py`): it was Python's, of tensors of another graph."""
    try:
        name, taken, outputs = (op.get_attr(key) for key in (_custom.GRADIENT, _custom.INPUTS, _custom.OUTPUTS))
    except ValueError:
        return None

    def gradient(op: Any, *dys: Any) -> list[Any]:
        function: Any = find(name.name)
        seeds = [tf.zeros_like(y) if dy is None else dy for y, dy in zip(op.outputs, dys, strict=True)]
        tensors = [_tensor(op.graph, reference.decode()) for reference in taken]
        stateful = function.cached_definition.signature.is_stateful
        results = call(name.name, stateful, list(_library.reachable(function, find).values()), [*tensors, *seeds])
        return [None if i < 0 else results[i] for i in outputs]

    find = _library.finder(op.graph)
    return gradient


def _tensor(graph: Any, reference: str) -> Any:
    """The tensor that a node of a function, which the graph was made of, calls so."""
    name = reference.partition(":")[0]
    op = graph.get_operation_by_name(name)
    return next(t for t in op.outputs if reference in (name, _nodes.reference(name, t)))


# Where TensorFlow's Python has the graphs of a node's functions, by attr.
_GRAPHS = {
    "If": {"then_branch": "_true_graph", "else_branch": "_false_graph"},
    "While": {"cond": "_cond_graph", "body": "_body_graph"},
    "Case": {"branches": "_branch_graph_"},
}


def set_graphs(op: Any) -> None:
    """Gives a branch or a loop the graphs of its functions, as TensorFlow's Python leaves them there."""
    inputs, find = op.inputs if op.type.endswith("While") else op.inputs[1:], _library.finder(op.graph)
    for attr, name in _GRAPHS[op.type.removeprefix("Stateless")].items():
        functions = op.get_attr(attr)
        names = {name: functions} if attr != "branches" else {f"{name}{i}": f for i, f in enumerate(functions)}
        for attribute, function in names.items():
            graph = control_flow_util_v2.get_func_graph(op, [t.shape for t in inputs], function.name)
            for outer, inner in zip(inputs, graph.inputs, strict=True):
                handle_data_util.copy_handle_data(outer, inner)
            for called in _library.reachable(find(function.name), find).values():
                graph._add_function(called)
            _prepare(graph)
            # TensorFlow names after the graph what it makes of it. Other nodes may have the same function.
            graph.name = f"{function.name}_{ops.uid()}"
            setattr(op, attribute, graph)
    if op.type.endswith("While") and not (
        len(inputs) > 1 and inputs[1].dtype == tf.int32 and inputs[1].shape.rank == 0
    ):
        op._gradient_function = _gradient_of_loop


class _Unlimited:
    """A loop that is none of `tf.while_loop`'s, as its gradient takes it: the second input says how often at most."""

    def __init__(self, op: Any) -> None:
        with op.graph.as_default(), tf.control_dependencies(None):
            self._op, self.inputs = op, (op.inputs[0], tf.constant(-1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)


def _gradient_of_loop(op: Any, *dys: Any) -> Any:
    return while_v2._WhileGrad(_Unlimited(op), *dys)


def facts(tensor: Any) -> tuple[int, list[int] | None]:
    """What is known of a tensor: of a variable the dtype of its value, and a shape."""
    value, shape = 0, tensor.shape
    if tensor.dtype == tf.resource:
        spec = _specs.variable_spec(tensor)
        if spec is None:
            return 0, None
        value, shape = spec.dtype.as_datatype_enum, spec.shape
    return value, None if shape.rank is None else [-1 if d is None else d for d in shape]
