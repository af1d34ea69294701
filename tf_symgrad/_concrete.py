"""Gradient functions as ConcreteFunctions."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_symgrad import _api, _function, _inputs, _op, _resolve, _specs
from tf_symgrad._specs import invalid


@_op.no_autograph
def function_gradient(
    f: Any, wrt: Sequence[bool] | None = None, values: bool = False, checkpoint: str | int | None = None
) -> Any:
    """The gradient of a function as a ConcreteFunction of stock TensorFlow ops: to call, to save, to look at.

    Args:
      f: a `ConcreteFunction`, or a `tf.function` with an `input_signature`.
      wrt: for each input of `f`, captured ones at the end, whether its gradient is wanted. If left out: those that can
        have one, which are the inputs of floating or complex dtype and the variables.
      values: whether to return the outputs of `f`, too, after the gradients. `f` is then computed once, for both: they
        belong to the same random draw, and all effects of `f` happen.
      checkpoint: what it keeps of the forward pass, and what it computes again: see `value_and_grad`.

    Returns:
      A `ConcreteFunction` that takes the `N` inputs of `f` that are not captured, then a cotangent for each of its `M`
      outputs, as flat lists of tensors, and returns a list of the wanted gradients, of their inputs' shapes and dtypes.
      What `f` captures, it captures as well. Its `plot(path)` draws it: see `Explanation.plot`.

    Raises:
      TypeError: `f` is nothing that a function can be made of.
      tf.errors.OpError: see `symbolic_gradient`.

    Examples:
      >>> f = tf.function(tf.math.tanh).get_concrete_function(tf.TensorSpec([], tf.float32))
      >>> g = tf_symgrad.function_gradient(f)
      >>> g(tf.constant(0.0), tf.constant(2.0))
      [<tf.Tensor: shape=(), dtype=float32, numpy=2.0>]
    """
    values, kept, flags = _inputs.flag("values", values), _inputs.checkpoint_of(checkpoint), _inputs.flags(wrt)
    function = _resolve.resolve(f, []).checkpointed(kept)
    flags = _function.differentiable_inputs(function) if flags is None else flags
    wanted = _inputs.mask(function, function.inputs, flags)
    if not any(wanted):
        raise invalid(f"{function} has no input that a gradient is wanted of.")
    whole, gradient = _api.build_gradient(function, wanted, values)
    definition = gradient.library[gradient.name].cached_definition
    call = tf.raw_ops.StatefulPartitionedCall if definition.signature.is_stateful else tf.raw_ops.PartitionedCall
    dtypes = [tf.as_dtype(arg.type) for arg in definition.signature.output_arg]
    count = len(function.arguments)

    def gradients(*tensors: Any) -> list[Any]:
        gradient.add_to_graph(tf.compat.v1.get_default_graph())
        inputs = [*tensors[:count], *whole.captures, *tensors[count:]]
        outputs = call(args=inputs, Tout=dtypes, f=gradient)
        dx = outputs[: sum(wanted)]
        for x, d in zip([x for x, w in zip(inputs, wanted, strict=False) if w], dx, strict=True):
            known = _specs.variable_spec(x) if x.dtype == tf.resource else x
            d.set_shape(known.shape if known is not None else None)
        ys = outputs[len(outputs) - len(function.outputs) :] if values else []
        for y, spec in zip(ys, function.outputs, strict=False):
            y.set_shape(spec.shape)
        return [*dx, *ys]

    def spec(x: tf.TensorSpec, name: str) -> tf.TensorSpec:
        return tf.TensorSpec(x.shape, x.dtype, name=name)

    specs = [spec(x, f"x_{i}") for i, x in enumerate(function.arguments)]
    specs += [spec(y, f"dy_{i}") for i, y in enumerate(function.outputs)]
    concrete = tf.function(gradients, autograph=False).get_concrete_function(*specs)
    concrete.plot = functools.partial(_plot, f, wrt)
    return concrete


def _plot(f: Any, wrt: Sequence[bool] | None, path: str | os.PathLike[str]) -> None:
    from tf_symgrad import _explain  # which needs this module

    _explain.explain(f, wrt).plot(path)
