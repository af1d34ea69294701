"""Gradient functions as ConcreteFunctions."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import concrete_function
from tensorflow.python.framework import ops
from tensorflow.python.ops import resource_variable_ops

from tf_symgrad import _api, _compiled, _function, _inputs, _op, _resolve, _specs
from tf_symgrad._differentiate import differentiate
from tf_symgrad._specs import invalid


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
      What `f` captures, it captures as well. Its `plot(path)` draws it: see `Explanation.plot`. Where it is called in
      what XLA compiles, it is built once more, for that.

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
    function = _resolve.resolve(f, []).with_options(checkpoint=kept).here()
    flags = _function.differentiable_inputs(function) if flags is None else flags
    wanted = _inputs.mask(function, function.inputs, flags)
    if not any(wanted):
        raise invalid(f"{function} has no input that a gradient is wanted of.")
    whole, gradient = _api.build_gradient(function, wanted, values)
    again = functools.cache(functools.partial(function_gradient, f, wrt, values, checkpoint))
    for_xla = None if _function.in_xla() else again
    return GradientFunction(function, whole, gradient, wanted, values, functools.partial(_plot, f, wrt), for_xla)


class GradientFunction(concrete_function.ConcreteFunction):  # type: ignore[misc]
    """A ConcreteFunction of a gradient function, which eager mode calls as it is.

    What else there is to a ConcreteFunction, its graph above all, is that of a function that is traced once somebody
    asks: to trace one that only takes and returns hundreds of tensors takes longer than to differentiate.
    """

    def __init__(
        self,
        function: _function.Function,
        whole: _function.Function,
        gradient: _function.Function,
        wanted: Sequence[bool],
        values: bool,
        plot: Callable[[str | os.PathLike[str]], None],
        for_xla: Callable[[], Any] | None,
    ) -> None:
        self.plot, self._for_xla = plot, for_xla
        self._whole, self._gradient, self._wanted = whole, gradient, wanted
        self._values = function.outputs if values else []
        self._specs = [_named(x, f"x_{i}") for i, x in enumerate(function.arguments)]
        self._count = len(self._specs)
        self._specs += [_named(y, f"dy_{i}") for i, y in enumerate(function.outputs)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or not self._fit(args):
            if self._for_xla is not None and _function.in_xla():
                return self._for_xla()(*args, **kwargs)
            return super().__call__(*args, **kwargs)
        name, count = self._gradient.name.encode(), len(self._gradient.outputs)
        results = list(context.context().call_function(name, self._inputs(args), count))
        return results[: sum(self._wanted)] + results[count - len(self._values) :]

    def _fit(self, args: Sequence[Any]) -> bool:
        """Whether this is an eager call with tensors as they should be, which nothing records."""
        return (
            len(args) == len(self._specs)
            and _compiled.is_unrecorded()
            and all(
                type(x) is ops.EagerTensor and x.dtype == spec.dtype and spec.shape.is_compatible_with(x.shape)
                for x, spec in zip(args, self._specs, strict=True)
            )
        )

    def _inputs(self, tensors: Sequence[Any]) -> list[Any]:
        return [*tensors[: self._count], *self._whole.captures, *tensors[self._count :]]

    def __getattr__(self, name: str) -> Any:
        if name not in _FIELDS:
            raise AttributeError(f"{type(self).__name__} has no attribute '{name}'.")
        return getattr(self._traced, name)

    @functools.cached_property
    def _traced(self) -> Any:
        return tf.function(self._gradients, autograph=False).get_concrete_function(*self._specs)

    def _gradients(self, *tensors: Any) -> list[Any]:
        gradient = self._gradient
        for variable in self._whole.variables:  # for tapes, and for whoever asks for the function's variables
            resource_variable_ops.variable_accessed(variable)
        gradient.add_to_graph(tf.compat.v1.get_default_graph())
        definition = gradient.library[gradient.name].cached_definition
        op = "StatefulPartitionedCall" if definition.signature.is_stateful else "PartitionedCall"
        inputs = self._inputs(tensors)
        with tf.compat.v1.get_default_graph()._override_gradient_function({op: self._pull_back}):
            outputs = getattr(tf.raw_ops, op)(args=inputs, Tout=[y.dtype for y in gradient.outputs], f=gradient)
        dx = outputs[: sum(self._wanted)]
        for x, d in zip([x for x, w in zip(inputs, self._wanted, strict=False) if w], dx, strict=True):
            known = _specs.variable_spec(x) if x.dtype == tf.resource else x
            d.set_shape(known.shape if known is not None else None)
        ys = outputs[len(outputs) - len(self._values) :]
        for y, spec in zip(ys, self._values, strict=True):
            y.set_shape(spec.shape)
        return [*dx, *ys]

    def _pull_back(self, call: tf.Operation, *dys: Any) -> list[Any]:
        """The gradient of the call, for tapes: that of the gradient function, which is a function like any other."""
        gradient = self._gradient
        cotangents = [_op.unused(y) if dy is None else dy for y, dy in zip(gradient.outputs, dys, strict=True)]
        inputs = [*call.inputs, *cotangents]
        wanted = [_specs.is_continuous(x) for x in call.inputs]
        return differentiate(gradient, inputs, wanted, none=True)[0]


# What a ConcreteFunction's constructor sets, which is given a graph, and what is set after it.
_FIELDS = {
    "_arg_keywords",
    "_attrs",
    "_captured_inputs",
    "_delayed_rewrite_functions",
    "_first_order_tape_functions",
    "_func_graph",
    "_function_type",
    "_garbage_collector",
    "_higher_order_tape_functions",
    "_inference_function",
    "_num_positional_args",
    "_output_shapes",
}


def _named(x: tf.TensorSpec, name: str) -> tf.TensorSpec:
    return tf.TensorSpec(x.shape, x.dtype, name=name)


def _plot(f: Any, wrt: Sequence[bool] | None, path: str | os.PathLike[str]) -> None:
    from tf_symgrad import _explain  # which needs this module

    _explain.explain(f, wrt).plot(path)
