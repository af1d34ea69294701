"""The call of a pullback: one op, with a gradient of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.core.function.polymorphism import function_type as function_type_lib
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import record
from tensorflow.python.eager.polymorphic_function import concrete_function
from tensorflow.python.framework import function_def_to_graph, ops
from tensorflow.python.ops import handle_data_util

from tf_symgrad import _function

_HIGHER_ORDER = 2  # of TFE_Py_TapeSetPossibleGradientTypes


def call(name: str, stateful: bool, functions: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Adds the call of a pullback, the first of some functions, to the default graph."""
    graph, root = ops.get_default_graph(), functions[0]
    for function in functions:
        if not graph._is_function(function.name):
            graph._add_function(function)
    outputs = [tf.as_dtype(arg.type) for arg in root.cached_definition.signature.output_arg]
    add = tf.raw_ops.StatefulPartitionedCall if stateful else tf.raw_ops.PartitionedCall
    # A tape that may see the gradient of this gradient must have recorded all that this one will take.
    if pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes(list(inputs)) == _HIGHER_ORDER:
        return list(_concrete(root, inputs)._call_flat(list(inputs), []))
    gradient = functools.partial(_gradient_of_call, functions)
    with record.stop_recording():
        results = list(add(args=list(inputs), Tout=outputs, f=_Named(name, root)))
    op = results[0].op
    op._gradient_function = gradient
    if record.could_possibly_record():
        record.record_operation(op.type, results, list(op.inputs), lambda *dys: gradient(op, *dys))
    return results


class _Named:
    """What TensorFlow takes for the value of an attr that is a function."""

    def __init__(self, name: str, function: Any) -> None:
        self._as_name_attr_list = attr_value_pb2.NameAttrList(name=name)
        self._function = function

    def add_to_graph(self, graph: tf.Graph) -> None:
        """The graph has it."""


def _gradient_of_call(functions: Sequence[Any], op: Any, *dys: Any) -> Any:
    """The gradient of a pullback's call, as TensorFlow differentiates calls: few ask for it."""
    rewrite = _concrete(functions[0], op.inputs)._delayed_rewrite_functions._rewrite_forward_and_call_backward
    return rewrite(op, *dys)


def _concrete(root: Any, inputs: Sequence[Any]) -> Any:
    """A pullback as TensorFlow knows functions, for inputs like these."""
    key = tuple(repr(facts(t)) for t in inputs if t.dtype == tf.resource)
    known = root.__dict__.setdefault("_symgrad_concrete", {})
    if key not in known:
        graph = function_def_to_graph.function_def_to_graph(root.cached_definition, structured_input_signature=None)
        for outer, t in zip(inputs, graph.inputs, strict=True):
            handle_data_util.copy_handle_data(outer, t)
        specs = [tuple(tf.TensorSpec(t.shape, t.dtype) for t in ts) for ts in (graph.inputs, graph.outputs)]
        of = function_type_lib.from_structured_signature((specs[0], {}), specs[1])
        known[key] = concrete_function.ConcreteFunction.from_func_graph(graph, of, {})
    return known[key]


def facts(tensor: Any) -> tuple[int, list[int] | None]:
    """What is known of a tensor: of a variable the dtype of its value, and a shape."""
    value, shape = 0, tensor.shape
    if tensor.dtype == tf.resource:
        spec = _function.variable_spec(tensor)
        if spec is None:
            return 0, None
        value, shape = spec.dtype.as_datatype_enum, spec.shape
    return value, None if shape.rank is None else [-1 if d is None else d for d in shape]
