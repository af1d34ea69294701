"""What a user gives as inputs and cotangents, as the tensors that the op takes."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import composite_tensor, ops
from tensorflow.python.ops import resource_variable_ops

from tf_symgrad import _specs
from tf_symgrad._function import Function
from tf_symgrad._specs import invalid


def checkpoint_of(policy: str | int | None) -> str:
    """Attr `checkpoint` of the op, of what a user says."""
    if policy is None:
        return ""
    if isinstance(policy, bool) or not isinstance(policy, (str, int)):
        raise TypeError(f"checkpoint must be a string or a number of bytes, not {policy!r}.")
    return str(policy)


def optimizer_of(optimize: str) -> str:
    """Attr `optimize` of the op, of what a user says."""
    if optimize not in ("grappler", "native"):
        raise ValueError(f'optimize must be "grappler" or "native", not {optimize!r}.')
    return optimize


def flag(name: str, value: Any) -> bool:
    """An option that is on or off."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}.")
    return bool(value)


def check_number(name: str, value: Any, least: int, kind: Any = numbers.Integral) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:
        what = "an integer" if kind is numbers.Integral else "a number"
        raise ValueError(f"{name} must be {what}, {least} or more, not {value!r}.")


def none_if_unconnected(unconnected_gradients: Any) -> bool:
    """Whether None is what there is where no gradient flows to."""
    try:
        return tf.UnconnectedGradients(unconnected_gradients) is tf.UnconnectedGradients.NONE
    except (TypeError, ValueError):
        raise ValueError(f"unconnected_gradients must be 'none' or 'zero', not {unconnected_gradients!r}.") from None


def flags(wrt: Any) -> list[bool] | None:
    """Which inputs are wanted, as a user says it."""
    if wrt is None:
        return None
    of = "True and False, one for each input of the function"
    given = elements("wrt", wrt, of)
    if any(not isinstance(w, (int, np.bool_, np.integer)) or w not in (0, 1) for w in given):
        raise TypeError(f"wrt must be a list of {of}, not {wrt!r}.")
    return [bool(w) for w in given]


def elements(name: str, values: Any, of: str) -> list[Any]:
    """A list of tensors, say, which a tensor, a text or a dict is not."""
    if isinstance(values, (tf.Tensor, tf.Variable, str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of {of}, not {values!r}.")
    return list(values)


def flatten(values: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        for leaf in tf.nest.flatten(value) if is_structure(value) else [value]:
            flat += tf.nest.flatten(leaf, expand_composites=True) if is_composite(leaf) else [leaf]
    return flat


def is_structure(value: Any) -> bool:
    """Whether a value holds tensors, rather than being one: [[1.0, 2.0]] is a matrix, [x, y] two tensors."""
    if not tf.nest.is_nested(value):
        return False
    return isinstance(value, Mapping) or any(
        isinstance(leaf, (tf.Tensor, tf.Variable, np.ndarray)) or is_composite(leaf) for leaf in tf.nest.flatten(value)
    )


def is_composite(value: Any) -> bool:
    """Whether a value is made of tensors, but is none itself: sparse, ragged, an iterator."""
    return isinstance(value, composite_tensor.CompositeTensor) and not isinstance(
        value, (tf.Variable, tf.IndexedSlices)
    )


def op_inputs(function: Function, values: list[Any]) -> list[Any]:
    """All inputs of the op."""
    arguments, outputs = function.arguments, function.outputs
    if len(values) == len(arguments) and is_scalar(function):
        values = [*values, tf.constant(1.0, outputs[0].dtype)]
    elif len(values) != len(arguments) + len(outputs):
        counted = f"{describe('input', arguments)} and {describe('output', outputs)}"
        captures = f" The {len(function.captures)} that it captures are added for you." if function.captures else ""
        raise invalid(
            f"{function} has {counted}, so input must hold {len(arguments) + len(outputs)} tensors: the inputs of the "
            f"function, then a cotangent for each output. It holds {len(values)}.{captures}"
        )
    specs = [*arguments, *outputs]
    roles = [f"input {i} ('{x.name}')" for i, x in enumerate(arguments)]
    roles += [f"the cotangent of output {i}" for i in range(len(outputs))]
    converted = [_convert(*item, function) for item in zip(values, specs, roles, strict=True)]
    return [_inlined(x) for x in (*converted[: len(arguments)], *function.captures, *converted[len(arguments) :])]


def _inlined(x: Any) -> Any:
    """A shape or an axis from outside of the graph as a constant in it.

    The graph would take it as an input, which XLA makes a constant of only where it sees what it is for.
    """
    if context.executing_eagerly() or not isinstance(x, ops.EagerTensor) or not x.dtype.is_integer:
        return x
    return tf.constant(x.numpy(), x.dtype) if x.shape.num_elements() <= 16 else x


def _convert(value: Any, spec: tf.TensorSpec, role: str, function: Function) -> Any:
    if spec.dtype == tf.resource:
        if isinstance(value, tf.Variable):
            resource_variable_ops.variable_accessed(value)
        value = getattr(value, "handle", value)
    if value is None:
        raise invalid(f"{function}: {role} is None. Where there is none, pass zeros: tf.zeros_like(y).")
    try:
        tensor = value if isinstance(value, tf.Tensor) else as_tensor(value, spec.dtype)
    except (TypeError, ValueError) as error:
        raise invalid(
            f"{function}: {role} must be a {spec.dtype.name} tensor; {value!r} can't be made one: {error}"
        ) from error
    if not _specs.is_at_hand(tensor):
        raise invalid(
            f"{function}: {role} is {tensor}, a tensor of {tensor.graph}, which is no part of what is running now. "
            "Return it from its tf.function, or take the gradient there."
        )
    if tensor.dtype != spec.dtype:
        raise invalid(
            f"{function}: {role} must be {spec.dtype.name}, not {tensor.dtype.name}. Cast it: "
            f"tf.cast(x, tf.{spec.dtype.name})."
        )
    if not spec.shape.is_compatible_with(tensor.shape):
        raise invalid(
            f"{function}: {role} must have shape {spec.shape}, not {tensor.shape}. Reshape it, or trace the function "
            "for this shape."
        )
    return tensor


def as_tensor(value: Any, dtype: tf.DType | None = None) -> Any:
    if isinstance(value, (tf.Variable, tf.IndexedSlices)):
        return tf.convert_to_tensor(value)
    return tf.convert_to_tensor(value, dtype=dtype)


def is_scalar(function: Function) -> bool:
    """Whether the function has one output, a real floating-point scalar."""
    outputs = function.outputs
    return len(outputs) == 1 and outputs[0].dtype.is_floating and outputs[0].shape.rank == 0


def tout(
    function: Function, inputs: Sequence[Any], wanted: Sequence[bool], given: Sequence[Any] | None
) -> list[tf.DType | None]:
    """The dtypes of the gradients of all inputs, None where it is not known, checked against those that are given."""
    dtypes = [_gradient_dtype(*item) for item in zip(function.inputs, inputs, strict=False)]
    if given is None:
        return dtypes
    try:
        given = [tf.as_dtype(dtype) for dtype in given]
    except TypeError as error:
        raise invalid(f"Tout must be a list of dtypes, not {given!r}: {error}") from error
    count = len(function.arguments)
    places = [i for i, w in enumerate(wanted) if w]
    readings = [places, [i for i in places if i < count], list(range(count)), list(range(len(dtypes)))]
    named = next((reading for reading in readings if len(reading) == len(given)), None)
    if named is None:
        needed = len(readings[1])
        raise invalid(
            f"{function} has {describe('input', function.arguments)}, so Tout must name {needed} dtypes. It names "
            f"{len(given)}. Leave Tout out to have it inferred."
        )
    for i, dtype in zip(named, given, strict=True):
        if (inferred := dtypes[i]) not in (None, dtype):
            raise invalid(
                f"{function}: Tout[{i}] is {dtype.name}, but the gradient of input {i} ('{function.inputs[i].name}') "
                f"is {tf.as_dtype(inferred).name}. Leave Tout out to have it inferred, and cast the result."
            )
        dtypes[i] = dtype
    return dtypes


def _gradient_dtype(spec: tf.TensorSpec, value: Any) -> tf.DType | None:
    if spec.dtype != tf.resource:
        return spec.dtype
    variable = _specs.variable_spec(value)
    return variable and variable.dtype


def mask(function: Function, inputs: Sequence[tf.TensorSpec], wrt: Sequence[bool] | None) -> list[bool]:
    """Which of these inputs of the function are wanted: all, if nobody says."""
    if wrt is None:
        return [True] * len(inputs)
    if len(wrt) != len(inputs):
        raise invalid(f"{function} has {describe('input', inputs)}, but wrt has {len(wrt)} elements.")
    return list(wrt)


def place(variable: Any, inputs: Sequence[Any]) -> int | None:
    """Which of the inputs a variable is, of TensorFlow's or of Keras's."""
    variable = variable if isinstance(variable, tf.Variable) else getattr(variable, "value", variable)
    if not isinstance(variable, tf.Variable):
        raise TypeError(f"variables must be a list of variables; {variable!r} is none.")
    return next((i for i, x in enumerate(inputs) if x is variable.handle), None)


def describe(what: str, specs: Sequence[tf.TensorSpec]) -> str:
    if not specs:
        return f"no {what}s"
    dtypes = ", ".join(spec.dtype.name for spec in specs[:8]) + (", ..." if len(specs) > 8 else "")
    return f"{len(specs)} {what}{'' if len(specs) == 1 else 's'} ({dtypes})"
