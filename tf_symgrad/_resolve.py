"""What a user gives as the function, as a `Function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import function as defun_lib
from tensorflow.python.framework import op_def_registry, ops

from tf_symgrad import _function, _inputs, _library, _specs
from tf_symgrad._function import Function
from tf_symgrad._specs import invalid


def resolve(f: Any, values: Sequence[Any]) -> Function:
    graph = ops.get_default_graph()
    if isinstance(f, Function):
        return f
    if isinstance(f, (str, bytes)):
        f = attr_value_pb2.NameAttrList(name=tf.compat.as_str(f))
    if isinstance(f, attr_value_pb2.NameAttrList):
        op = op_def_registry.get(f.name)
        is_op = op is not None and not _library.is_known(f.name, graph)
        return _of_op(op, f, values) if is_op else _function.from_name(f, graph)
    if isinstance(f, atomic_function.AtomicFunction):
        return _function.from_library_function(f, graph)
    if isinstance(f, tf.types.experimental.ConcreteFunction):
        return _function.from_concrete_function(f)
    if isinstance(f, defun_lib._DefinedFunction):
        return _function.from_defun(f)
    if isinstance(f, defun_lib._OverloadedFunction):
        count = len(f._argnames)
        return _function.from_defun(
            f.instantiate([x.dtype for x in map(_inputs.as_tensor, _inputs.flatten(values)[:count])])
        )
    if isinstance(f, tf.types.experimental.PolymorphicFunction):
        return _trace(f, f.python_function, values)
    if callable(f):
        # Anew each time: what a callable closes over, reads and calls may have changed. A tf.function is how to say
        # that it has not.
        return _trace(tf.function(f), f, values)
    raise TypeError(
        "f must be a ConcreteFunction, a tf.function, a Defun, a NameAttrList, the name of a function or a callable, "
        f"not {f!r}."
    )


def _of_op(op: Any, f: attr_value_pb2.NameAttrList, values: Sequence[Any]) -> Function:
    """A primitive op with its attrs, as a function of its inputs."""
    attrs = {a.name: a.default_value for a in op.attr if a.HasField("default_value")} | dict(f.attr)
    specs = _specs.argument_specs(f.name, op.input_arg, attrs)
    known = [_inputs.as_tensor(x).shape for x in _inputs.flatten(values)[: len(specs)]]
    if len(known) == len(specs):
        specs = [tf.TensorSpec(shape, spec.dtype) for shape, spec in zip(known, specs, strict=True)]

    def call(*xs: Any) -> Any:
        made = ops.get_default_graph()._create_op_internal(f.name, list(xs), attrs=attrs)
        return list(made.outputs)

    return _function.from_concrete_function(tf.function(call, autograph=False).get_concrete_function(*specs))


def _trace(f: Any, python_function: Callable[..., Any], values: Sequence[Any]) -> Function:
    """Traces a tf.function for those leading values that are its arguments; the others are cotangents."""
    if f.input_signature is not None:
        return _function.from_concrete_function(f.get_concrete_function())
    counts = _argument_counts(python_function, len(values))
    traced: list[Function] = []
    failure: Exception | None = None
    for count in counts:
        try:
            arguments = [_trace_spec(value) for value in values[:count]]
            function = _function.from_concrete_function(f.get_concrete_function(*arguments))
        except Exception as error:
            failure = failure or error
            continue
        if _are_cotangents(_inputs.flatten(values[count:]), function):
            return function
        traced.append(function)
    if len(traced) == 1:  # there is but one way to read the call: what does not fit is named later
        return traced[0]
    if isinstance(failure, TypeError) and not traced and not values:
        raise _without_signature(python_function) from failure
    if failure is not None and not traced:
        raise failure
    raise invalid(
        f"{python_function} takes a number of arguments that varies, and no number of the {len(values)} values in "
        "input leaves a cotangent for each output. Pass a ConcreteFunction: tf.function(f).get_concrete_function(...)."
    )


def _are_cotangents(values: Sequence[Any], function: Function) -> bool:
    """Whether values may be the cotangents of a function's outputs."""
    if not values:
        return _inputs.is_scalar(function)
    return len(values) == len(function.outputs) and all(map(_may_be, values, function.outputs))


def _may_be(value: Any, spec: tf.TensorSpec) -> bool:
    try:
        tensor = _inputs.as_tensor(value)
    except (TypeError, ValueError):
        return False
    # What is no tensor yet is given the dtype that is needed.
    same = tensor.dtype == spec.dtype or not isinstance(value, (tf.Tensor, tf.Variable))
    return same and spec.shape.is_compatible_with(tensor.shape)


def _argument_counts(f: Callable[..., Any], available: int) -> list[int]:
    """How many of the values may be arguments of f, most likely first."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        lowest, highest = 1, available
    else:
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        lowest = sum(p.default is p.empty for p in positional)
        highest = available if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(positional)
    if lowest > available == 0:
        raise _without_signature(f)
    if lowest > available:
        raise invalid(f"{f} takes {lowest} arguments, but input holds only {available}: arguments, then cotangents.")
    if lowest == highest:
        return [lowest]
    # One output is what most functions have; then those with more, then a scalar's that needs no cotangent.
    usual = [count for count in range(min(highest, available - 1), lowest - 1, -1) if count > 0]
    return usual + ([available] if available <= highest else [])


def _without_signature(f: Any) -> tf.errors.InvalidArgumentError:
    return invalid(
        f"{f} has no signature, so that nobody knows what it takes. Pass a ConcreteFunction: "
        "tf.function(f).get_concrete_function(...); to explain there is args as well: explain(f, args=[x])."
    )


def _trace_spec(value: Any) -> Any:
    def leaf(value: Any) -> Any:
        if _inputs.is_composite(value):
            return tf.type_spec_from_value(value)
        if value is None:
            raise invalid("An input is None: give a tensor; where there is no cotangent, zeros, tf.zeros_like(y).")
        tensor = _inputs.as_tensor(value)
        return tf.TensorSpec(tensor.shape, tensor.dtype)

    return tf.nest.map_structure(leaf, value) if _inputs.is_structure(value) else leaf(value)
