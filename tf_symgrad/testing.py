"""Checks of gradients for users' own functions and rules."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.util import nest

from tf_symgrad import _calls, _differences, _inputs, _transforms
from tf_symgrad._calls import Call
from tf_symgrad._differences import EPSILON, Place, Tensor, Tolerance

__all__ = ["check_grads"]

_Flat = Callable[..., list[Tensor]]
_MODES = ("rev", "fwd")


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    modes: Iterable[str] = ("rev", "fwd"),
    *,
    variables: Iterable[Any] = (),
    rtol: float | None = None,
    atol: float | None = None,
    elements: int = 64,
    seed: int = 0,
) -> None:
    """Checks the gradients of `f` at a point against finite differences.

    Where a gradient and a finite difference differ, a closer one is made, which knows how far it may be off itself
    (Ridders' method): noise in `f` is not taken for a wrong gradient, and what can't be told is an error that says so.

    Args:
      f: any callable, see `value_and_grad`; it must be deterministic. All its results that are floating or complex are
        looked at. Those of its results that are None, integers or strings are left out.
      args: its arguments: a list of tensors, numbers, arrays and structures of these, sparse and ragged tensors; a
        variable stands for its value. The gradient is checked by all that are floating or complex. Double precision
        sees errors of 1e-5, single precision of 5e-4; half precision sees gross ones only.
      order: 1; 2: the gradient of the gradient, by its cotangent, too; and so on.
      modes: `"rev"`, the products of the Jacobian from the left (`vjp`), and `"fwd"`, those from the right (`jvp`). At
        order 2 each is checked in each mode.
      variables: variables that `f` reads, by which the gradients are checked, too: of a module or a layer, its
        `trainable_variables`. They have their values again afterwards.
      rtol: by what part of itself a number may be off; by the dtypes if left out.
      atol: how far a number may be off in any case; by the dtypes if left out.
      elements: how many elements of each argument are looked at, which are chosen at random; reverse mode takes two
        calls of `f` for each.
      seed: of the random cotangents, tangents and choices.

    Raises:
      AssertionError: with a line for each argument and mode that is wrong: the worst element, what was expected there
        and what was got.
      ValueError: there is nothing to check: no floating argument or result; or `f` is not deterministic, or not finite
        here.

    Examples:
      >>> tf_symgrad.testing.check_grads(lambda x: tf.sin(x) ** 2, [tf.constant([0.5, 2.0], tf.float64)])
      >>> layer = tf.keras.layers.Dense(2, activation="tanh")
      >>> x = tf.constant([[0.5, 2.0]])
      >>> _ = layer(x)
      >>> tf_symgrad.testing.check_grads(layer, [x], variables=layer.trainable_variables)
    """
    if isinstance(args, (str, bytes, dict)) or not isinstance(args, Iterable) or tf.is_tensor(args):
        raise TypeError(
            f"args must be a list, of an element for each argument of f, not {args!r}: check_grads(f, [x])."
        )
    if not tf.executing_eagerly():
        raise ValueError("check_grads compares numbers, which there are in eager mode alone: call it there.")
    modes = tuple(_inputs.elements("modes", modes, f"some of {_MODES}"))
    if not modes or not all(mode in _MODES for mode in modes):
        raise ValueError(f"modes must be some of {_MODES}, not {modes!r}.")
    for what, number, least in (("order", order, 1), ("elements", elements, 1), ("seed", seed, 0)):
        _inputs.check_number(what, number, least)
    for what, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance is not None:
            _inputs.check_number(what, tolerance, 0, numbers.Real)
    read = [_variable(v) for v in _inputs.elements("variables", variables, "variables")]
    values = [tf.identity(v) for v in read]
    check = _Check(modes, rtol, atol, elements, np.random.default_rng(seed))
    flat, x, names = _flattened(f, args, read)
    try:
        _check_values(f, flat, [*x, *values])
        check.run(flat, x, names, order, [])
    finally:
        for v, value in zip(read, values, strict=True):
            v.assign(value)
    if check.wrong:
        raise AssertionError("\n".join([f"Gradients of {_name(f)} against finite differences:", *check.wrong]))


class _Function:
    """A function of tensors, and after these of the values of variables that it reads."""

    def __init__(self, f: _Flat, x: Sequence[Tensor], variables: Sequence[tf.Variable]) -> None:
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in x]
        self.of_tensors: _Flat = tf.function(f, autograph=False).get_concrete_function(*specs)
        self.variables = variables

    def __call__(self, *x: Tensor) -> list[Tensor]:
        count = len(x) - len(self.variables)
        for v, value in zip(self.variables, x[count:], strict=True):
            v.assign(value)
        return self.of_tensors(*x[:count])

    def derivative(self, f: Callable[..., Any], x: Sequence[Tensor], seeds: Sequence[Tensor]) -> _Function:
        """f, of this function as one of its tensors and variables, of these, and of the seeds."""
        count = len(x)

        def here(*inputs: Any) -> list[Tensor]:
            return self.of_tensors(*inputs[:count])

        def at(*inputs: Tensor) -> Any:
            return f(here, [*inputs[:count], *self.variables], inputs[count:])

        return _Function(at, [*x, *seeds], self.variables)


def _pulled_back(f: _Flat, x: Sequence[Any], dy: Sequence[Tensor]) -> list[Tensor]:
    dx = _transforms.vjp(f, *x)[1](list(dy))
    return [tf.zeros_like(a) if d is None else tf.convert_to_tensor(d) for a, d in zip(x, dx, strict=True)]


def _pushed_forward(f: _Flat, x: Sequence[Any], dx: Sequence[Tensor]) -> Any:
    return _transforms.jvp(f, x, dx)[1]


class _Check:
    """Compares the derivatives of functions, and of the functions that compute these.

    Attributes:
      wrong: what was found, a line for each argument and mode.
    """

    def __init__(
        self, modes: Sequence[str], rtol: float | None, atol: float | None, elements: int, random: np.random.Generator
    ) -> None:
        self.wrong: list[str] = []
        self._modes, self._rtol, self._atol = modes, rtol, atol
        self._elements, self._random = elements, random

    def run(self, f: _Function, x: Sequence[Tensor], names: Sequence[str], order: int, path: list[str]) -> None:
        values = [tf.identity(v) for v in f.variables]
        everything = [*x, *values]
        named = [*names, *(f"variables[{i}]" for i in range(len(values)))]
        for mode in self._modes:
            count = len(self.wrong)
            if mode == "rev":
                seeds = [self._direction(y) for y in f(*everything)]
                derivative = f.derivative(_pulled_back, x, seeds)
                found = derivative(*x, *seeds, *values)
                places = [self._places(a) for a in everything]
                self._report(
                    [*path, mode],
                    [f"by {name}" for name in named],
                    everything,
                    _differences.gradient_mismatches(f, everything, seeds, found, self._tolerance, places),
                )
                added = [f"{'d' * (len(path) + 1)}y[{i}]" for i in range(len(seeds))]
            else:
                seeds = [self._direction(a) for a in everything]
                derivative = f.derivative(_pushed_forward, x, seeds)
                found = derivative(*x, *seeds, *values)
                self._report(
                    [*path, mode],
                    [f"of result {j}" for j in range(len(found))],
                    found,
                    _differences.tangent_mismatches(f, everything, seeds, found, self._tolerance),
                )
                added = [f"d({name})" for name in named]
            if order > 1 and len(self.wrong) == count:  # what is wrong has wrong derivatives
                derivative(*x, *seeds, *values)  # where the variables were
                self.run(derivative, [*x, *seeds], [*names, *added], order - 1, [*path, mode])
                f(*everything)

    def _report(
        self, path: Sequence[str], what: Sequence[str], tensors: Sequence[Tensor], mismatches: Iterator[str]
    ) -> None:
        for name, tensor, mismatch in zip(what, tensors, mismatches, strict=True):
            if mismatch:
                mode = " of ".join(reversed(path))
                shape = ", ".join(map(str, tensor.shape))
                self.wrong.append(f"  {mode}, {name}, {tensor.dtype.name}[{shape}]: {mismatch}")

    def _tolerance(self, eps: float) -> Tolerance:
        default = _differences.tolerance_of_differences(eps)
        factor = 1.0 if self._rtol is None else self._rtol / default.relative
        absolute = default.absolute if self._atol is None else self._atol
        return Tolerance(factor * default.relative, factor * default.scale, absolute)

    def _places(self, x: Tensor) -> list[Place]:
        size = int(np.prod(x.shape))
        some = self._random.choice(size, min(size, self._elements), replace=False)
        return [tuple(int(i) for i in np.unravel_index(k, x.shape)) for k in sorted(some)]

    def _direction(self, x: Tensor) -> Tensor:
        """A random tensor like another; no element is small, so that no error hides behind it."""

        def real() -> Any:
            return self._random.uniform(0.5, 1.5, x.shape) * self._random.choice([-1, 1], x.shape)

        return tf.constant(real() + 1j * real() if x.dtype.is_complex else real(), x.dtype)


def _variable(x: Any) -> tf.Variable:
    variable = _calls.variable_of(x)
    if variable is None or variable.dtype not in EPSILON:
        raise TypeError(f"variables must be floating or complex variables, not {x!r}.")
    return variable


def _flattened(
    f: Callable[..., Any], args: Sequence[Any], variables: Sequence[tf.Variable]
) -> tuple[_Function, list[Tensor], list[str]]:
    """f as a function of those tensors of its arguments that can have a gradient; these, and what to call them."""
    f = _calls.callable_of(f)
    _, values, _ = _calls.with_tensors(f, list(range(len(args))), args, {})
    values = tf.nest.map_structure(lambda x: x if _calls.variable_of(x) is None else tf.convert_to_tensor(x), values)
    call = Call(f, values, {}, None)
    smooth = [t.dtype in EPSILON for t in call.tensors]
    names = [
        f"args[{path[0]}]" + "".join(f"[{key!r}]" for key in path[1:])
        for path, value in nest.flatten_with_tuple_paths(values, expand_composites=True)
        if isinstance(value, (tf.Tensor, np.ndarray, np.generic))
    ]

    def flat(*x: Tensor) -> list[Tensor]:
        given = iter(x)
        tensors = [next(given) if s else t for s, t in zip(smooth, call.tensors, strict=True)]
        ys = call.concrete._call_flat(tensors, call.concrete.captured_inputs)  # f's own trace may take them otherwise
        return [y for y in tf.nest.flatten(ys) if y.dtype in EPSILON]

    x = [t for s, t in zip(smooth, call.tensors, strict=True) if s]
    if not x and not variables:
        raise ValueError(f"{_name(f)} is called with no floating or complex tensor: there is no gradient to check.")
    return _Function(flat, x, variables), x, [name for s, name in zip(smooth, names, strict=True) if s]


def _check_values(f: Any, flat: _Function, x: Sequence[Tensor]) -> None:
    once, twice = ([_differences.wide(y) for y in flat(*x)] for _ in range(2))
    if not once:
        raise ValueError(f"{_name(f)} returns no floating or complex tensor: there is no gradient to check.")
    for j, (a, b) in enumerate(zip(once, twice, strict=True)):
        if not np.array_equal(a, b, equal_nan=True):
            raise ValueError(
                f"{_name(f)} is not deterministic: result {j} differs between two calls. Seed its random numbers "
                "(tf.random.stateless_*), and let it change no variable that it reads."
            )
        if not np.isfinite(a).all():
            raise ValueError(f"Result {j} of {_name(f)} is not finite at this point: {a}. Choose another one.")


def _name(f: Any) -> str:
    python_function = getattr(f, "python_function", f)
    return str(getattr(python_function, "__qualname__", None) or getattr(f, "name", None) or f)
