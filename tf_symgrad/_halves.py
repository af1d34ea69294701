"""A function at a point, split into its two halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_symgrad import _calls, _compiled, _custom, _function, _inputs
from tf_symgrad._calls import Call
from tf_symgrad._differentiate import call, differentiate, told
from tf_symgrad._specs import continuous


class Halves:
    """f at a point: its value, and the products with its Jacobian there. The forward pass has run, once."""

    def __init__(self, f: Callable[..., Any], xs: Sequence[Any], checkpoint: str | int | None = None) -> None:
        _, self._xs, _ = _calls.with_tensors(f, list(range(len(xs))), xs, {})
        self._call = Call(_calls.callable_of(f), self._xs, {}, _compiled.traces_of(f))
        function = _function.from_concrete_function(self._call.concrete)
        function = function.with_options(checkpoint=_inputs.checkpoint_of(checkpoint))
        operands = [*self._call.tensors, *function.captures]
        count = len(operands)
        variables = [v for i in range(len(xs)) for v in self._call.variables(i)]
        place_of = _calls.places_of(operands)
        self._places = {id(v): place for v in variables if (place := place_of(v)) is not None}
        wanted = [i < len(self._call.tensors) and continuous(x.dtype) for i, x in enumerate(operands)]
        for v in variables:
            if id(v) in self._places:
                wanted[self._places[id(v)]] = continuous(v.dtype)
        function = _custom.differentiable(function, wanted, lambda f: told(f, f.with_captures(operands, count)))
        operands = function.with_captures(operands, count)
        self._outputs = function.outputs
        forward, self._pullback, inputs, self.gradients = (
            told(function, operands).here().vjp([*wanted, *[False] * (len(operands) - count)])
        )
        results = call(forward, operands, function.variables)
        self.tensors = results[: len(self._outputs)]
        if not tf.executing_eagerly():
            for y, spec in zip(self.tensors, self._outputs, strict=True):
                y.set_shape(spec.shape)
        self._taken = [*[operands[i] for i in inputs], *results[len(self._outputs) :]]
        self.value = self._call.output(self.tensors)

    def pullback(self, dy: Any, what: str = "cotangent") -> tuple[Any, ...]:
        """The gradient of each argument; None where none flows."""
        cotangents = _flatten_like(dy, self.value, what)
        gradients = self.pull(cotangents)

        def of_variable(v: tf.Variable) -> Any:
            return gradients[self._places[id(v)]] if id(v) in self._places else None

        return tuple(self._call.argument(i, gradients, of_variable) for i in range(len(self._xs)))

    def pull(self, cotangents: Sequence[Any]) -> list[Any]:
        """The gradient of each input of f."""
        results = call(self._pullback, [*self._taken, *cotangents])
        return [None if k < 0 else results[k] for k in self.gradients]

    def pushforward(self, *tangents: Any) -> Any:
        """The tangent of the value, of a tangent for each argument: the transpose of the pullback, which is linear."""
        places = iter(range(len(self._call.tensors)))
        seeds: dict[int, Any] = {}  # by output of the pullback
        flat = zip(_leaves(self._xs), _flatten_like(list(tangents), self._xs, "tangent"), strict=True)
        for x, t in flat:
            place = self._places.get(id(x), -1) if isinstance(x, tf.Variable) else next(places)
            if place >= 0 and (k := self.gradients[place]) >= 0:
                seeds[k] = seeds[k] + t if k in seeds else t  # a variable may be given twice
        zeros = [tf.zeros_like(y) for y in self.tensors]
        count = len(self._taken)
        wanted = [i >= count and continuous(x.dtype) for i, x in enumerate([*self._taken, *zeros])]
        if not seeds:  # f depends on no argument
            none = [z if w else None for z, w in zip(zeros, wanted[count:], strict=True)]
            return self._call.output(none, self.tensors)
        gradients, _ = differentiate(self._pullback, [*self._taken, *zeros, *[seeds[k] for k in sorted(seeds)]], wanted)
        return self._call.output(gradients[count:], self.tensors)


def _leaves(structure: Any) -> list[Any]:
    """The tensors and variables in a structure; components of sparse and ragged tensors among them."""
    flat = tf.nest.flatten(structure, expand_composites=True)
    variables = [_calls.variable_of(x) for x in flat]
    return [x if v is None else v for x, v in zip(flat, variables, strict=True) if v is not None or _is_tensor(x)]


def _is_tensor(x: Any) -> bool:
    return isinstance(x, _calls.TENSORS)


def _flatten_like(given: Any, like: Any, what: str) -> list[Any]:
    """For each tensor and variable in `like` what `given` has in its place; zeros for None, and for integers."""
    try:
        tf.nest.assert_same_structure(
            tf.nest.map_structure(lambda _: 0, like), tf.nest.map_structure(lambda _: 0, given)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"A {what} must have the structure of what it belongs to. {error}") from None
    found: list[Any] = []
    for g, x in zip(tf.nest.flatten(given), tf.nest.flatten(like), strict=True):
        leaves = _leaves(x)
        parts = [None] * len(leaves) if g is None else _leaves(_calls.as_tensor(g))
        if len(parts) != len(leaves):
            raise ValueError(f"A {what} must have the structure of what it belongs to: {g!r} is given for {x!r}.")
        for part, leaf in zip(parts, leaves, strict=True):
            if part is None or not continuous(leaf.dtype):
                found.append(tf.zeros_like(leaf))
                continue
            dtype = tf.as_dtype(leaf.dtype)
            if isinstance(part, (tf.Tensor, tf.Variable)) and part.dtype != dtype:
                raise ValueError(
                    f"A {what} must have the dtype of what it belongs to, {dtype.name}, not {part.dtype.name}. Cast "
                    f"it: tf.cast(x, tf.{dtype.name})."
                )
            found.append(tf.convert_to_tensor(part, leaf.dtype))
            if not found[-1].shape.is_compatible_with(leaf.shape):
                raise ValueError(
                    f"A {what} must have the shape of what it belongs to, {leaf.shape}, not {found[-1].shape}."
                )
    return found
