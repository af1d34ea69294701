"""A call of any callable, as a `Function` of flat tensors, with the structures on both sides of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# What a user may name with `wrt`: a position, a parameter's name, a variable, what has trainable variables, or a
# structure of these.
Wrt = Any


class Call:
    """`f(*args, **kwargs)` as a function of its tensors; the rest of its arguments is fixed.

    Variables are captured, whether they are arguments or not. `memo` holds the traces of one f, which is `kept` if f
    is a wrapper of it; none, if nobody can tell whether f has changed.

    Attributes:
      tensors: the tensors among the arguments, components of sparse and ragged ones included.
      concrete: f of these tensors.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        memo: dict[str, Any],
        kept: Any = None,
    ):
        self._arguments = (tuple(args), dict(kwargs))
        self._flat = tf.nest.flatten(self._arguments, expand_composites=True)
        self._is_input = [isinstance(x, (tf.Tensor, np.ndarray, np.generic)) for x in self._flat]
        self.tensors = [tf.convert_to_tensor(x) for x, t in zip(self._flat, self._is_input, strict=True) if t]
        key = self._key(kept or f)
        if key is None or key not in memo:
            traced = self._trace(f)
            if key is None:
                self.concrete, self._output = traced
                return
            memo[key] = traced
        self.concrete, self._output = memo[key]

    def _trace(self, f: Callable[..., Any]) -> tuple[Any, Any]:
        """The ConcreteFunction, and the structure of its outputs."""
        structures: list[Any] = []
        flat, is_input, arguments = self._flat, self._is_input, self._arguments

        def of_tensors(tensors: list[Any]) -> list[Any]:
            given = iter(tensors)
            values = [next(given) if t else x for x, t in zip(flat, is_input, strict=True)]
            args, kwargs = tf.nest.pack_sequence_as(arguments, values, expand_composites=True)
            y = tf.nest.map_structure(
                lambda v: v if v is None or _is_composite(v) else tf.convert_to_tensor(v), f(*args, **kwargs)
            )
            structures.append(tf.nest.map_structure(lambda v: v if v is None else tf.type_spec_from_value(v), y))
            return [v for v in tf.nest.flatten(y, expand_composites=True) if v is not None]

        specs = [tf.TensorSpec(x.shape, x.dtype) for x in self.tensors]
        return tf.function(of_tensors).get_concrete_function(specs), structures[-1]

    def _key(self, f: Any) -> str | None:
        """What the trace depends on; None if it can't be told, as of a callable that may have changed."""
        kept = (tf.types.experimental.ConcreteFunction, tf.types.experimental.PolymorphicFunction)
        if not isinstance(f, kept) or not tf.executing_eagerly():
            return None
        parts = []
        for x, t in zip(self._flat, self._is_input, strict=True):
            if not t and x is not None and type(x) not in (bool, int, float, str):
                return None
            parts.append((x.dtype, tuple(x.shape)) if t else (type(x), x))
        shell = tf.nest.map_structure(lambda x: tf.type_spec_from_value(x) if _is_composite(x) else 0, self._arguments)
        return repr((shell, parts))

    def output(self, tensors: Sequence[Any]) -> Any:
        """The structure that f returns, of these tensors (or None in the place of any)."""
        given = iter(tensors)

        def leaf(spec: Any) -> Any:
            if spec is None:
                return None
            if isinstance(spec, tf.TensorSpec):
                return next(given)
            components = tf.nest.flatten(spec, expand_composites=True)
            return tf.nest.pack_sequence_as(spec, [next(given) for _ in components], expand_composites=True)

        return tf.nest.map_structure(leaf, self._output)

    def numbers(self, name: int | str) -> list[int]:
        """Which of `tensors` argument `name` is made of."""
        start = 0
        for key, value in self._named():
            stop = start + len(tf.nest.flatten(value, expand_composites=True))
            if key == name:
                before = sum(self._is_input[:start])
                return list(range(before, before + sum(self._is_input[start:stop])))
            start = stop
        raise TypeError(f"wrt names argument {name!r}, but the call has {[key for key, _ in self._named()]}.")

    def argument(self, name: int | str, tensors: Sequence[Any]) -> Any:
        """The structure that argument `name` is, of tensors or None for those that it is made of.

        A sparse or ragged tensor keeps what there is no tensor for: its indices.
        """
        given = iter([tensors[i] for i in self.numbers(name)])

        def leaf(x: Any) -> Any:
            if not _is_composite(x):
                return next(given) if isinstance(x, (tf.Tensor, np.ndarray, np.generic)) else None
            own = tf.nest.flatten(x, expand_composites=True)
            new = [next(given) for _ in own]
            if all(x is None for x in new):
                return None
            return tf.nest.pack_sequence_as(
                x, [a if b is None else b for a, b in zip(own, new, strict=True)], expand_composites=True
            )

        return tf.nest.map_structure(leaf, dict(self._named())[name])

    def _named(self) -> Iterator[tuple[int | str, Any]]:
        args, kwargs = self._arguments
        yield from enumerate(args)
        yield from sorted(kwargs.items())


def _is_composite(value: Any) -> bool:
    return isinstance(value, (tf.SparseTensor, tf.RaggedTensor, tf.IndexedSlices))


def callable_of(f: Any) -> Callable[..., Any]:
    if not callable(f):
        raise TypeError(f"f must be a function, a tf.function, a ConcreteFunction or a model, not {f!r}.")
    return f  # type: ignore[no-any-return]


def with_tensors(
    f: Callable[..., Any], wrt: Wrt, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Wrt, list[Any], dict[str, Any]]:
    """`wrt` with names of positional arguments as positions; the arguments, with numbers that it names as tensors."""
    values, named = list(args), dict(kwargs)
    parameters: list[str] = []
    if any(isinstance(x, str) for x in tf.nest.flatten(wrt)):
        python_function = getattr(f, "python_function", f)
        parameters = list(inspect.signature(python_function).parameters)

    def place(x: Any) -> Any:
        if isinstance(x, str) and x not in named and x in parameters:
            x = parameters.index(x)
        if isinstance(x, int) and not isinstance(x, bool):
            if not -len(values) <= x < len(values):
                raise TypeError(f"wrt names argument {x}, but the call has {len(values)} positional arguments.")
            x %= len(values)
            values[x] = tf.nest.map_structure(_as_tensor, values[x])
        elif isinstance(x, str):
            if x not in named:
                raise TypeError(f"wrt names argument {x!r}, but the call has none of that name.")
            named[x] = tf.nest.map_structure(_as_tensor, named[x])
        return x

    return _map(place, wrt), values, named


def _as_tensor(x: Any) -> Any:
    return tf.convert_to_tensor(x) if isinstance(x, (bool, int, float, complex)) else x


def _map(f: Callable[[Any], Any], wrt: Wrt) -> Any:
    """f of each leaf of wrt; what has trainable variables is a list of them."""
    if isinstance(wrt, Mapping):
        return {key: _map(f, x) for key, x in wrt.items()}
    if isinstance(wrt, (list, tuple)):
        return type(wrt)([_map(f, x) for x in wrt])  # no named tuple: there is no need of one
    if _variable(wrt) is None and hasattr(wrt, "trainable_variables"):
        return [f(v) for v in wrt.trainable_variables]
    return f(wrt)


def _variable(x: Any) -> Any:
    """The tf.Variable that x is, or that it has if it is Keras's."""
    if isinstance(x, tf.Variable):
        return x
    value = getattr(x, "value", None)
    return value if isinstance(value, tf.Variable) else None


def select(wrt: Wrt, call: Call, inputs: Sequence[Any]) -> tuple[list[bool], Callable[[Sequence[Any]], Any]]:
    """Which inputs of the call's function are wanted, and what makes the structure that wrt is of their gradients."""
    wanted = [False] * len(inputs)

    def place(x: Any) -> Callable[[Sequence[Any]], Any]:
        variable = _variable(x)
        if variable is not None:
            number = next((i for i, captured in enumerate(inputs) if captured is variable.handle), None)
            if number is None:
                return lambda gradients: None
            wanted[number] = True
            return lambda gradients: gradients[number]
        if isinstance(x, bool) or not isinstance(x, (int, str)):
            raise TypeError(
                f"wrt must be positions or names of arguments, variables, modules, or a structure of these, not {x!r}."
            )
        for i in call.numbers(x):
            wanted[i] = True
        return lambda gradients: call.argument(x, gradients)

    chosen = _map(place, wrt)
    return wanted, lambda gradients: _map(lambda pick: pick(gradients), chosen)
