"""Finite differences that know how wrong they are, and gradients compared with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Tensor = Any  # TensorFlow ships no types
Function = Callable[..., Any]  # positional tensors -> list of tensors
Array = NDArray[Any]
Place = tuple[int, ...]

EPSILON = {
    tf.float16: 2.0**-10,
    tf.bfloat16: 2.0**-7,
    tf.float32: 2.0**-23,
    tf.complex64: 2.0**-23,
    tf.float64: 2.0**-52,
    tf.complex128: 2.0**-52,
}


def epsilon(tensors: Iterable[Tensor]) -> float:
    """The machine epsilon of the least precise of some tensors."""
    return max((EPSILON[t.dtype] for t in tensors), default=0.0)


class Tolerance(NamedTuple):
    """How far a number may be off: relative to itself, relative to the largest beside it, and in any case."""

    relative: float
    scale: float
    absolute: float

    def times(self, factor: float) -> Tolerance:
        return Tolerance(*(factor * x for x in self))

    def bound(self, expected: Array, largest: float) -> Array:
        return np.asarray(self.relative * np.abs(expected) + self.scale * largest + self.absolute)


def tolerance_of_differences(eps: float) -> Tolerance:
    """What finite differences in precision `eps` can tell apart; of half precision that is not much."""
    if eps < 1e-10:
        return Tolerance(1e-5, 1e-7, 1e-8)
    if eps < 1e-5:
        return Tolerance(5e-4, 1e-4, 1e-4)
    return Tolerance(50 * eps, 50 * eps, 20 * eps)


def wide(value: Any) -> Array:
    array = value.numpy() if tf.is_tensor(value) else np.asarray(value)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


# ---- Derivatives of curves ----

# The real t that is meant -> the t that it is after rounding, and the value there.
Curve = Callable[[float], tuple[float, Array]]


@dataclass
class Estimate:
    """A derivative, how far it may be off, and whether the curve has a kink there."""

    value: Array
    error: Array
    kink: Array


def quickly(curve: Curve, eps: float) -> Array:
    """In double precision a small step is exact enough; others take large ones and Richardson's extrapolation."""
    if eps < 1e-10:
        return _central(curve, 6e-6)
    step = 2.0**-6 if eps < 1e-5 else 2.0**-3
    return np.asarray((4 * _central(curve, step) - _central(curve, 2 * step)) / 3)


def closely(curve: Curve, eps: float, magnitude: Any) -> Estimate:
    """By Ridders' method (1982): extrapolates from ever smaller steps, and takes that of which the next differs least.

    `magnitude` is that of the numbers that are rounded. A kink is where the derivatives of both sides do not come
    closer together as the step shrinks.
    """
    step, count = (2.0**-4, 20) if eps < 1e-10 else (2.0**-4, 5) if eps < 1e-5 else (2.0**-2, 3)
    table = [[_central(curve, step)]]
    value, error = table[0][0], np.full(np.shape(table[0][0]), np.inf)
    better_yet = np.full(np.shape(value), True)
    with np.errstate(all="ignore"):
        for _ in range(count):
            step /= 2
            row = [_central(curve, step)]
            for k, previous in enumerate(table[-1]):
                factor = 4.0 ** (k + 1)
                row.append((factor * row[k] - previous) / (factor - 1))
                change = np.maximum(np.abs(row[k + 1] - row[k]), np.abs(row[k + 1] - previous))
                change = np.maximum(change, 2 * eps * magnitude / step)
                take = better_yet & (change < error)
                value, error = np.where(take, row[k + 1], value), np.where(take, change, error)
            if table[-1]:  # what gets worse is rounding, of which some may agree by chance
                better_yet &= ~(np.abs(row[-1] - table[-1][-1]) >= 16 * error)
            table.append(row if all(np.isfinite(x).all() for x in row) else [])  # a step out of where f is defined
            if not better_yet.any():
                break
        step = 2.0**-17 if eps < 1e-10 else 2.0**-8 if eps < 1e-5 else 2.0**-3
        gap, half = _gap(curve, 2 * step), _gap(curve, step)
        rounding = tolerance_of_differences(eps).bound(value, 0.0) + 8 * eps * magnitude / step
        kink = (half > 0.8 * gap) & (half > rounding)
    return Estimate(value, np.where(kink, np.maximum(error, half / 2), error), kink)


def _central(curve: Curve, step: float) -> Array:
    (a, of_a), (b, of_b) = curve(step), curve(-step)
    return np.asarray((of_a - of_b) / (a - b))


def _gap(curve: Curve, step: float) -> Array:
    """How far the one-sided derivatives are apart."""
    (a, of_a), (_, middle), (b, of_b) = curve(step), curve(0.0), curve(-step)
    return np.asarray(np.abs((of_a - middle) / a - (middle - of_b) / -b))


class Point:
    """A function at a point x, where its values are y.

    Attributes:
      eps: the machine epsilon of the least precise of x and y.
    """

    def __init__(self, f: Function, x: Sequence[Tensor]) -> None:
        y = f(*x)
        self.x, self.y = [wide(t) for t in x], [wide(t) for t in y]
        self.eps = epsilon([*x, *y])
        self._f = f
        self._tensors = list(x)

    def values(self, directions: Mapping[int, Array], value: Callable[[list[Array]], Array]) -> Curve:
        """t -> value(f(x + t v)), where v moves some of the inputs."""
        square = sum(float(np.vdot(v, v).real) for v in directions.values())

        def curve(t: float) -> tuple[float, Array]:
            tensors, moved = list(self._tensors), 0.0
            for i, v in directions.items():
                tensors[i] = tf.constant((self.x[i] + t * v).astype(self._tensors[i].dtype.as_numpy_dtype))
                moved += float(np.vdot(v, wide(tensors[i]) - self.x[i]).real)
            return moved / square, value([wide(y) for y in self._f(*tensors)])

        return curve

    def unit(self, i: int, at: Place) -> tuple[Array, float]:
        """The direction of one element, as long as the element is large; and that length."""
        size = max(1.0, float(np.abs(self.x[i][at])))
        direction = np.zeros_like(self.x[i])
        direction[at] = size
        return direction, size


# ---- Gradients and tangents against them ----


def gradient_mismatches(
    f: Function,
    x: Sequence[Tensor],
    dy: Sequence[Tensor],
    dx: Sequence[Tensor],
    tolerance: Callable[[float], Tolerance] = tolerance_of_differences,
    places: Sequence[Sequence[Place] | None] | None = None,
) -> Iterator[str]:
    """What is wrong with each of the gradients dx of <dy, f(x)>; "" if nothing is.

    Of complex x the gradient is d/dRe + i d/dIm, which for holomorphic f is TensorFlow's conj(f') dy. `places` are the
    elements of each x that are looked at, None: all.
    """
    point, cotangents = Point(f, x), [wide(t) for t in dy]
    for i, got in enumerate(map(wide, dx)):
        shape = point.x[i].shape
        if got.shape != shape:
            yield f"expected shape {shape}, got {got.shape}"
            continue
        some = None if places is None else places[i]
        at = list(np.ndindex(shape)) if some is None else list(some)
        partials = _Partials(point, cotangents, i, at)
        expected = np.array([partials.quickly(k) for k in range(len(at))], got.dtype)
        given = np.array([got[where] for where in at], got.dtype)
        yield _mismatch(given, expected, tolerance(point.eps), at, partials.closely)


class _Partials:
    """The derivatives of <dy, f(x)> by some elements of one of the x."""

    def __init__(self, point: Point, dy: Sequence[Array], i: int, at: Sequence[Place]) -> None:
        self._point, self._i, self._at = point, i, at

        def value(ys: list[Array]) -> Array:
            # Zero at x: what does not change cancels before it is rounded.
            return np.asarray(sum(np.vdot(c, y - s).real for c, y, s in zip(dy, ys, point.y, strict=True)))

        self._value = value
        self._magnitude = sum(float(np.sum(np.abs(c * y))) for c, y in zip(dy, point.y, strict=True))

    def _curves(self, k: int) -> list[tuple[complex, Curve]]:
        """The curves that a derivative is made of, and the factors of theirs."""
        v, size = self._point.unit(self._i, self._at[k])
        units = [1, 1j] if np.iscomplexobj(v) else [1]
        return [(unit / size, self._point.values({self._i: unit * v}, self._value)) for unit in units]

    def quickly(self, k: int) -> Any:
        return sum(factor * quickly(curve, self._point.eps) for factor, curve in self._curves(k))

    def closely(self, k: int) -> Estimate:
        parts = [(factor, closely(curve, self._point.eps, self._magnitude)) for factor, curve in self._curves(k)]
        return Estimate(
            np.asarray(sum(factor * part.value for factor, part in parts)),
            np.asarray(sum(abs(factor) * part.error for factor, part in parts)),
            np.asarray(any(part.kink for _, part in parts)),
        )


def tangent_mismatches(
    f: Function,
    x: Sequence[Tensor],
    dx: Sequence[Tensor],
    dy: Sequence[Tensor],
    tolerance: Callable[[float], Tolerance] = tolerance_of_differences,
) -> Iterator[str]:
    """What is wrong with each of the tangents dy of f(x), of tangents dx; "" if nothing is."""
    point = Point(f, x)
    # A step of length 1 must be no more than x itself, or than 1.
    size = max(max(1.0, float(np.max(np.abs(v), initial=0))) for v in map(wide, dx))
    directions = {i: wide(v) / size for i, v in enumerate(dx)}
    for j, got in enumerate(map(wide, dy)):
        curve = point.values(directions, lambda ys, j=j: ys[j])  # type: ignore[misc]
        expected = size * quickly(curve, point.eps)
        if got.shape != expected.shape:
            yield f"expected shape {expected.shape}, got {got.shape}"
            continue
        found: list[Estimate] = []

        def close(k: int, curve: Curve = curve, y: Array = point.y[j], found: list[Estimate] = found) -> Estimate:
            if not found:
                found.append(closely(curve, point.eps, np.abs(y)))
            e = found[0]
            return Estimate(size * e.value.reshape(-1)[k], size * e.error.reshape(-1)[k], e.kink.reshape(-1)[k])

        at = list(np.ndindex(got.shape))
        yield _mismatch(got.reshape(-1), expected.reshape(-1), tolerance(point.eps), at, close)


def analytic_mismatch(got: Tensor, expected: Tensor, tolerance: float = 1.0) -> str:
    """What is wrong with a gradient, given another one of the same dtype; "" if nothing is."""
    eps = epsilon([got, expected])
    relative = 4 * eps**0.75 * tolerance
    value, reference = wide(got), wide(expected)
    if value.shape != reference.shape:
        return f"expected shape {reference.shape}, got {value.shape}"
    at = list(np.ndindex(value.shape))
    return _mismatch(value.reshape(-1), reference.reshape(-1), Tolerance(relative, relative, eps), at)


def _mismatch(
    got: Array,
    expected: Array,
    tolerance: Tolerance,
    at: Sequence[Place],
    closer: Callable[[int], Estimate] | None = None,
) -> str:
    """What is wrong with numbers, given others, which `closer` looks at more closely where they differ."""
    largest = float(np.max(np.abs(expected), where=np.isfinite(expected), initial=0))

    def errors(got: Array, expected: Array) -> Array:
        """In units of the tolerance. NaN and inf belong in the same places."""
        with np.errstate(invalid="ignore"):
            same = (got == expected) | (np.isnan(got) & np.isnan(expected))
            error = np.where(same, 0, np.abs(got - expected) / tolerance.bound(expected, largest))
        return np.where(np.isfinite(error), error, np.inf)

    error = errors(got, expected)
    wrong = [int(k) for k in np.argsort(-error, kind="stable") if error[k] > 1]
    undecided = ""
    for place, k in enumerate(wrong):
        where, more = f"element {[int(i) for i in at[k]]}", len(wrong) - place
        others = f" ({more} of {got.size} elements differ)"
        if closer is None:
            return f"{where}: expected {expected[k]:.9g}, got {got[k]:.9g}, {error[k]:.3g} times the tolerance{others}"
        estimate = closer(k)
        off = float(errors(got[k], estimate.value))
        if off <= 1:
            continue
        numbers = f"{where}: expected {estimate.value:.9g} ± {estimate.error:.1g}, got {got[k]:.9g}"
        bound = tolerance.bound(estimate.value, largest)
        sure = np.abs(expected[k] - estimate.value) <= 3 * estimate.error + 10 * bound  # two ways to the same number
        if sure and np.abs(got[k] - estimate.value) > 3 * estimate.error + bound:
            return f"{numbers}, {off:.3g} times the tolerance{others}"
        if not np.isfinite(got[k]):
            return f"{numbers}{others}"
        why = "f has a kink or a jump there" if estimate.kink else "f is too noisy, or not smooth, there"
        undecided = undecided or f"{numbers}: finite differences can't tell, {why}{others}"
    return undecided
