"""A call of any callable, as a `Function` of flat tensors, with the structures on both sides of it."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.autograph.core.ag_ctx import control_status_ctx
from tensorflow.python.autograph.impl.api import tf_convert
from tensorflow.python.checkpoint import graph_view
from tensorflow.python.eager.polymorphic_function import concrete_function, polymorphic_function
from tensorflow.python.ops import ref_variable
from tensorflow.python.trackable import autotrackable
from tensorflow.python.util import nest

# What a user may name with `wrt`: a position, a parameter's name, a variable, what has trainable variables, or a
# structure of these.
Wrt = Any
TENSORS = (tf.Tensor, np.ndarray, np.generic)

_OF_CALLS = ("_XlaMustCompile", "_noinline", "api_implements")  # attrs of a function that its calls obey


class Call:
    """`f(*args, **kwargs)` as a function of its tensors; the rest of its arguments is fixed.

    Variables are captured, whether they are arguments or not. `memo` holds the traces of one f; None, if nobody can
    tell whether f has changed.

    Attributes:
      tensors: the tensors among the arguments, components of sparse and ragged ones included.
      concrete: f of these tensors.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        memo: dict[str, Any] | None,
    ):
        self._arguments = (tuple(args), dict(kwargs))
        self._flat = tf.nest.flatten(self._arguments, expand_composites=True)
        self._is_input = [isinstance(x, TENSORS) for x in self._flat]
        self.tensors = [tf.convert_to_tensor(x) for x, t in zip(self._flat, self._is_input, strict=True) if t]
        key = None if memo is None else self._key()
        traced = memo.get(key) if memo is not None and key is not None else None
        if traced is None:
            traced = self._own_trace(f) or self._trace(f)
            if memo is not None and key is not None:
                memo[key] = traced
        self.concrete, self._output = traced

    def _own_trace(self, f: Any) -> tuple[Any, Any] | None:
        """f's own trace, if it is one, or a tf.function, and takes these tensors and nothing else.

        To trace its call would cost as much for each variable as to trace f. None where the call is to say how f is
        run, by XLA for one.
        """
        args, kwargs = self._arguments
        if kwargs or not all(isinstance(x, TENSORS) for x in args):
            return None
        if type(f) is polymorphic_function.Function:
            concrete = f.get_concrete_function(*[tf.TensorSpec(x.shape, x.dtype) for x in self.tensors])
        elif isinstance(f, concrete_function.ConcreteFunction) and _takes(f, self.tensors):
            concrete = f
        else:
            return None
        outputs = tf.nest.flatten(concrete.structured_outputs)
        known = all(y is None or _is_composite(y) or isinstance(y, tf.Tensor) for y in outputs)
        if not known or any(name in concrete.function_def.attr for name in _OF_CALLS):
            return None
        return concrete, tf.nest.map_structure(
            lambda y: y if y is None else tf.type_spec_from_value(y), concrete.structured_outputs
        )

    def _trace(self, f: Callable[..., Any]) -> tuple[Any, Any]:
        """The ConcreteFunction, and the structure of its outputs."""
        structures: list[Any] = []
        flat, is_input, arguments = self._flat, self._is_input, self._arguments

        def of_tensors(tensors: list[Any]) -> list[Any]:
            given = iter(tensors)
            values = [next(given) if t else x for x, t in zip(flat, is_input, strict=True)]
            args, kwargs = tf.nest.pack_sequence_as(arguments, values, expand_composites=True)
            y = tf.nest.map_structure(result, f(*args, **kwargs))
            structures.append(tf.nest.map_structure(lambda v: v if v is None else tf.type_spec_from_value(v), y))
            return [v for v in tf.nest.flatten(y, expand_composites=True) if v is not None]

        specs = [tf.TensorSpec(x.shape, x.dtype, name) for x, name in zip(self.tensors, self._names(f), strict=True)]
        return tf.function(of_tensors).get_concrete_function(specs), structures[-1]

    def _names(self, f: Callable[..., Any]) -> list[str]:
        """What a reader of the traced function may call each of its tensors."""
        args, known = self._arguments[0], positional(f)
        own = [*known[: len(args)], *[f"args_{i}" for i in range(len(known), len(args))]]
        names = []
        for (kind, key, *path), _ in nest.flatten_with_tuple_paths(self._arguments, expand_composites=True):
            name = "_".join(map(str, (own[key] if kind == 0 else key, *path)))
            names.append(re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_") or "x")
        return [name for name, is_input in zip(names, self._is_input, strict=True) if is_input]

    def _key(self) -> str | None:
        """What the trace depends on, beside f; None if it can't be told."""
        if not tf.executing_eagerly():
            return None
        parts = []
        for x, t in zip(self._flat, self._is_input, strict=True):
            if not t and x is not None and type(x) not in (bool, int, float, str):
                return None
            parts.append((x.dtype, tuple(x.shape)) if t else (type(x), x))
        shell = tf.nest.map_structure(lambda x: tf.type_spec_from_value(x) if _is_composite(x) else 0, self._arguments)
        return repr((shell, parts))

    def output(self, tensors: Sequence[Any], primal: Sequence[Any] | None = None) -> Any:
        """The structure that f returns, of these tensors, or None in the place of any.

        A sparse or ragged tensor keeps what there is no tensor for: its indices, which are in `primal`.
        """
        given = iter(tensors)
        own = iter(tensors if primal is None else primal)

        def leaf(spec: Any) -> Any:
            if spec is None:
                return None
            places = [(next(given), next(own)) for _ in tf.nest.flatten(spec, expand_composites=True)]
            if isinstance(spec, tf.TensorSpec) or all(x is None for x, _ in places):
                return places[0][0]
            parts = [y if x is None else x for x, y in places]
            return tf.nest.pack_sequence_as(spec, parts, expand_composites=True)

        return tf.nest.map_structure(leaf, self._output)

    @functools.cached_property
    def _spans(self) -> dict[int | str, range]:
        """Which of `tensors` each argument is made of."""
        spans: dict[int | str, range] = {}
        flat, start = iter(self._is_input), 0
        for name, value in self._named.items():
            leaves = len(tf.nest.flatten(value, expand_composites=True))
            stop = start + sum(itertools.islice(flat, leaves))
            spans[name], start = range(start, stop), stop
        return spans

    def numbers(self, name: int | str) -> range:
        """Which of `tensors` argument `name` is made of."""
        if name not in self._named:
            raise TypeError(f"wrt names argument {name!r}, but the call has {[*self._named]}.")
        return self._spans[name]

    def argument(self, name: int | str, tensors: Sequence[Any], of_variable: Callable[[Any], Any]) -> Any:
        """The structure that argument `name` is, of tensors or None for those that it is made of.

        A variable in it stands for `of_variable` of it, a module for a list of that. A sparse or ragged tensor keeps
        what there is no tensor for: its indices.
        """
        given = iter([tensors[i] for i in self.numbers(name)])

        def leaf(x: Any) -> Any:
            if not _is_composite(x):
                return next(given) if isinstance(x, TENSORS) else _map_variables(of_variable, x)
            own = tf.nest.flatten(x, expand_composites=True)
            new = [next(given) for _ in own]
            if all(x is None for x in new):
                return None
            return tf.nest.pack_sequence_as(
                x, [a if b is None else b for a, b in zip(own, new, strict=True)], expand_composites=True
            )

        return tf.nest.map_structure(leaf, self._named[name])

    def check_differentiable(self, name: int | str) -> None:
        """Refuses an argument that tensors can't be seen in: an object of a class that TensorFlow does not know."""
        for x in tf.nest.flatten(self._named[name]):
            known = x is None or isinstance(x, TENSORS) or _is_composite(x) or variable_of(x) is not None
            if not known and _trainable_variables(x) is None:
                raise TypeError(
                    f"wrt names argument {name!r}, in which there is {x!r}: no tensor, variable or module. Pass "
                    "tensors, or lists, tuples and dicts of them."
                )

    def variables(self, name: int | str) -> list[tf.Variable]:
        """The variables in argument `name`."""
        found: list[tf.Variable] = []
        for x in tf.nest.flatten(self._named[name]):
            _map_variables(found.append, x)
        return found

    @functools.cached_property
    def _named(self) -> dict[int | str, Any]:
        """Each argument, in the order in which `tf.nest` flattens them."""
        args, kwargs = self._arguments
        return {**dict(enumerate(args)), **dict(sorted(kwargs.items()))}


def _takes(concrete: Any, tensors: Sequence[Any]) -> bool:
    """Whether the arguments of a ConcreteFunction are these tensors, one by one."""
    specs, named = concrete.structured_input_signature
    return (
        not named
        and len(specs) == len(tensors)
        and all(isinstance(s, tf.TensorSpec) and s.is_compatible_with(x) for s, x in zip(specs, tensors, strict=True))
    )


def _is_composite(value: Any) -> bool:
    return isinstance(value, (tf.SparseTensor, tf.RaggedTensor, tf.IndexedSlices))


def result(value: Any) -> Any:
    """What a function returns, as a tensor; None, sparse and ragged tensors as they are."""
    if value is None or _is_composite(value):
        return value
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"f returns {value!r}, no tensor: return tensors, or lists, tuples and dicts of them."
        ) from None


def positional(f: Any) -> list[str]:
    """The parameters of f that may be given by position."""
    try:
        if isinstance(f, concrete_function.ConcreteFunction):
            parameters = f.function_type.parameters
        else:
            parameters = inspect.signature(getattr(f, "python_function", f)).parameters
    except (TypeError, ValueError):  # not to be had of everything that is written in C
        return []
    return [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def converted(f: Callable[..., Any]) -> Callable[..., Any]:
    """What a user gave, to be called by a function of this package that is traced: AutoGraph passes over that."""
    return tf_convert(f, control_status_ctx())  # type: ignore[no-any-return]


def callable_of(f: Any) -> Callable[..., Any]:
    if not callable(f):
        raise TypeError(f"f must be a function, a tf.function, a ConcreteFunction or a model, not {f!r}.")
    return f  # type: ignore[no-any-return]


def with_tensors(
    f: Callable[..., Any], wrt: Wrt, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Wrt, list[Any], dict[str, Any]]:
    """`wrt` with names of positional arguments as positions; the arguments, with numbers that it names as tensors."""
    values, named = list(args), dict(kwargs)
    by_name = any(isinstance(x, str) and x not in named for x in tf.nest.flatten(wrt))
    parameters = positional(f) if by_name else []
    also = f"; {[*named]} are given by keyword" if named else ""

    def place(x: Any) -> Any:
        if isinstance(x, str) and x not in named and x in parameters[: len(values)]:
            x = parameters.index(x)
        if isinstance(x, int) and not isinstance(x, bool):
            if not -len(values) <= x < len(values):
                raise TypeError(f"wrt names argument {x}, but the call has {len(values)} positional arguments{also}.")
            x %= len(values)
            values[x] = tf.nest.map_structure(as_tensor, values[x])
        elif isinstance(x, str):
            if x not in named:
                raise TypeError(
                    f"wrt names argument {x!r}, but the call has none of that name: it has {len(values)} positional "
                    f"arguments{also}. Give it, where it has a default; one of many, as in *args, has a position."
                )
            named[x] = tf.nest.map_structure(as_tensor, named[x])
        return x

    return _map(place, wrt), values, named


def as_tensor(x: Any) -> Any:
    return tf.convert_to_tensor(x) if isinstance(x, (bool, int, float, complex)) else x


def _map(f: Callable[[Any], Any], wrt: Wrt) -> Any:
    """f of each leaf of wrt; what has trainable variables is a list of them."""
    if isinstance(wrt, Mapping):
        return {key: _map(f, x) for key, x in wrt.items()}
    if isinstance(wrt, (list, tuple)):
        items = [_map(f, x) for x in wrt]
        return type(wrt)(*items) if hasattr(wrt, "_fields") else type(wrt)(items)
    if variable_of(wrt) is None and (variables := _trainable_variables(wrt)) is not None:
        return [f(v) for v in variables]
    return f(wrt)


def members(wrt: Wrt) -> tuple[Any, ...]:
    """What wrt stands for now: a module may have other variables later, a list other elements."""
    found: list[Any] = []

    def add(x: Any) -> None:
        variable = variable_of(x)
        found.append(x if variable is None else variable.ref())

    _map(add, wrt)
    return tuple(found)


def _map_variables(f: Callable[[Any], Any], x: Any) -> Any:
    """f of a variable, or a list of f of the trainable variables of a module; None of all else."""
    if (variable := variable_of(x)) is not None:
        return f(variable)
    variables = _trainable_variables(x)
    return None if variables is None else [f(variable_of(v)) for v in variables]


def _trainable_variables(x: Any) -> list[Any] | None:
    """Those of a module, a model or whatever else has them, such as what `tf.saved_model.load` returns."""
    if hasattr(x, "trainable_variables"):
        return list(x.trainable_variables)
    if not isinstance(x, autotrackable.AutoTrackable):
        return None
    members = graph_view.ObjectGraphView(x).breadth_first_traversal()[0]
    return [v for v in members if isinstance(v, tf.Variable) and v.trainable]


def variable_of(x: Any) -> Any:
    """The tf.Variable that x is, or that it has if it is Keras's."""
    if isinstance(x, tf.Variable):
        return x
    value = getattr(x, "value", None)
    return value if isinstance(value, tf.Variable) else None


def places_of(inputs: Sequence[Any]) -> Callable[[tf.Variable], int | None]:
    """Tells which of the inputs of a function a variable is; None if the function does not read it."""
    places = {id(x): i for i, x in reversed([*enumerate(inputs)])}

    def place(variable: tf.Variable) -> int | None:
        if isinstance(variable, ref_variable.RefVariable):
            raise TypeError(
                f"'{variable.name}' is a reference variable of TensorFlow 1, of which there are no gradients: make it "
                "with use_resource=True, or call tf.compat.v1.enable_resource_variables() first."
            )
        return places.get(id(variable.handle))

    return place


def select(wrt: Wrt, call: Call, inputs: Sequence[Any]) -> tuple[list[bool], Callable[[Sequence[Any]], Any]]:
    """Which inputs of the call's function are wanted, and what makes the structure that wrt is of their gradients."""
    wanted, place_of = [False] * len(inputs), places_of(inputs)

    def place(x: Any) -> Callable[[Sequence[Any]], Any]:
        variable = variable_of(x)
        if variable is not None:
            number = place_of(variable)
            if number is not None:
                wanted[number] = True
            return lambda gradients: None if number is None else gradients[number]
        if isinstance(x, bool) or not isinstance(x, (int, str)):
            raise TypeError(
                f"wrt must be positions or names of arguments, variables, modules, or a structure of these, not {x!r}."
            )
        call.check_differentiable(x)
        for i in call.numbers(x):
            wanted[i] = True
        for v in call.variables(x):
            if (number := place_of(v)) is not None:
                wanted[number] = True

        def of_argument(gradients: Sequence[Any]) -> Any:
            def of_variable(v: tf.Variable) -> Any:
                number = place_of(v)
                return None if number is None else gradients[number]

            return call.argument(x, gradients, of_variable)

        return of_argument

    chosen = _map(place, wrt)
    return wanted, lambda gradients: _map(lambda pick: pick(gradients), chosen)
