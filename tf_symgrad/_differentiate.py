"""The one way to the op, of all that the package offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import resource_variable_ops

from tf_symgrad import _compiled, _custom, _inputs, _op
from tf_symgrad._function import Function
from tf_symgrad._specs import invalid


def differentiate(
    function: Function,
    inputs: list[Any],
    wanted: Sequence[bool],
    dtypes: Sequence[tf.DType | None] | None = None,
    *,
    none: bool = False,
    values: bool = False,
    sparse: bool = False,
    name: str | None = None,
) -> tuple[list[Any], list[Any]]:
    """The gradients of a function's inputs, and its outputs.

    Args:
      function: the function.
      inputs: those of the op: arguments and captures of the function, then cotangents.
      wanted: for each input of the function, whether its gradient is wanted.
      dtypes: of each gradient, None where that is not known, as of a resource; inferred if left out.
      none: whether there is None, not zeros, for an input that no gradient flows to.
      values: whether the outputs are wanted.
      sparse: whether gradients that are sparse rows are IndexedSlices; then there are no values.
      name: of the op.

    Returns:
      A gradient for each input, None for one that is not wanted or is no variable; the outputs, if they are wanted.
    """
    count, eager = len(function.inputs), context.executing_eagerly()
    if dtypes is None:
        dtypes = _inputs.tout(function, inputs, wanted, None)
    if count == 0:  # there is nothing to differentiate by
        dtypes_of_values = [y.dtype for y in function.outputs] if values else []
        return [], list(tf.raw_ops.StatefulPartitionedCall(args=[], Tout=dtypes_of_values, f=function))

    def known(f: Function) -> Function:
        return told(f, f.with_captures(inputs, count))

    asked = [w and dtype is not None for w, dtype in zip(wanted, dtypes, strict=True)]
    # Errors are better here, where the caller's traceback and the source lines of f are known, than at run time.
    function = _custom.differentiable(function, asked, known, values)
    dtypes = list(dtypes)
    if none or asked != list(wanted):
        for i, (dtype, connected) in enumerate(known(function).input_gradients(wanted)[:count]):
            if dtypes[i] is None and dtype != tf.resource:
                dtypes[i], asked[i] = dtype, wanted[i]
            elif dtypes[i] is None and connected and wanted[i]:
                raise invalid(
                    f"The dtype of the variable behind input {inputs[i]!r} is not known. Pass the variable itself, or "
                    "give Tout."
                )
            asked[i] = asked[i] and (connected or not none)
    inputs = function.with_captures(inputs, count)
    for variable in function.variables:
        resource_variable_ops.variable_accessed(variable)
    if sparse:
        with tf.name_scope(name or "SymbolicGradient"):
            rows = iter(_op.with_rows(told(function, inputs).here(), inputs, asked))
        return [next(rows) if a else None for a in asked], []
    tout = [dtype for dtype, a in zip(dtypes, asked, strict=True) if a] + [y.dtype for y in function.outputs if values]
    mask = [*asked, *[False] * (len(function.inputs) - count)]
    f = function if eager else function.specialized(inputs)
    results = _op.run(inputs, tout, f, name, mask, values, function.checkpoint, function.optimize)
    gradients, ys = iter(results), results[sum(asked) :]
    if not eager:
        for y, spec in zip(ys, function.outputs, strict=False):
            y.set_shape(spec.shape)
    return [next(gradients) if a else None for a in asked], ys


def told(f: Function, inputs: Sequence[Any]) -> Function:
    """f with what is known of its inputs, as far as it makes a difference."""
    # An eager op takes no attrs of f, and need not be built anew for each shape.
    resources = any(spec.dtype == tf.resource for spec in f.inputs)
    return f if context.executing_eagerly() and not resources else f.specialized(inputs)


def call(function: Function, inputs: Sequence[Any], variables: Sequence[Any] = ()) -> list[Any]:
    """Calls a function; by the op, if tapes may record it: they are to watch these variables, and differentiate it."""
    if _compiled.is_unrecorded() and not function.name_attrs.attr:
        return list(context.context().call_function(function.name.encode(), inputs, len(function.outputs)) or ())
    for variable in variables:
        resource_variable_ops.variable_accessed(variable)
    nothing = [False] * len(inputs)
    return differentiate(function, [*inputs, *map(_op.unused, function.outputs)], nothing, values=True)[1]
