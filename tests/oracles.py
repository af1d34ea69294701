"""What a gradient is compared with: finite differences and TensorFlow's Python gradients; and how."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Tensor = Any  # TensorFlow ships no types
Function = Callable[..., Any]  # positional tensors -> list of tensors
Array = NDArray[Any]

EPSILON = {
    tf.float16: 2.0**-10,
    tf.bfloat16: 2.0**-7,
    tf.float32: 2.0**-23,
    tf.complex64: 2.0**-23,
    tf.float64: 2.0**-52,
    tf.complex128: 2.0**-52,
}


def epsilon(tensors: Sequence[Tensor]) -> float:
    """The machine epsilon of the least precise of some tensors."""
    return max(EPSILON[t.dtype] for t in tensors)


def python_gradient(f: Function, count: int, missing: list[int] | None = None) -> Function:
    """The gradient function of f, an f of `count` inputs, as GradientTape computes it.

    Inputs that Python finds no path to get zeros, and their positions are added to `missing`.
    """

    def g(*inputs: Tensor) -> list[Tensor]:
        x, dy = list(inputs[:count]), list(inputs[count:])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(*x)
        dx = tape.gradient(y, x, output_gradients=dy)
        if missing is not None:
            missing.extend(i for i, d in enumerate(dx) if d is None)
        return [tf.zeros_like(a) if d is None else tf.convert_to_tensor(d) for a, d in zip(x, dx, strict=True)]

    return g


def numeric_gradient(f: Function, x: Sequence[Tensor], dy: Sequence[Tensor]) -> list[Array]:
    """The gradient of <dy, f(x)>, element by element, by central differences.

    Of complex x it is d/dRe + i d/dIm, which for holomorphic f is TensorFlow's conj(f') dy. In double precision a small
    step is exact enough; single precision takes a large one and Richardson's extrapolation.
    """
    values = [np.array(t.numpy()) for t in x]
    cotangents = [_wide(t) for t in dy]
    single = epsilon([*x, *f(*x)]) > 1e-10

    def directional(i: int, at: tuple[int, ...], step: complex) -> float:
        ends, outputs = [], []
        for sign in (1, -1):
            moved = values[i].copy()
            moved[at] += np.asarray(sign * step).astype(moved.dtype)
            ends.append(_wide(moved[at]))
            outputs.append(f(*x[:i], tf.constant(moved), *x[i + 1 :]))
        change = sum(np.vdot(c, _wide(a) - _wide(b)).real for c, a, b in zip(cotangents, *outputs, strict=True))
        return float(change / abs(ends[0] - ends[1]))

    def derivative(i: int, at: tuple[int, ...], unit: complex) -> float:
        size = max(1.0, abs(values[i][at]))
        if not single:
            return directional(i, at, 6e-6 * size * unit)
        near, far = (directional(i, at, h * size * unit) for h in (2.0**-6, 2.0**-5))
        return (4 * near - far) / 3

    gradients = []
    for i, value in enumerate(values):
        gradient: Array = np.zeros(value.shape, np.complex128 if np.iscomplexobj(value) else np.float64)
        for at in np.ndindex(value.shape):
            gradient[at] = derivative(i, at, 1)
            if np.iscomplexobj(value):
                gradient[at] += 1j * derivative(i, at, 1j)
        gradients.append(gradient)
    return gradients


def analytic_mismatch(got: Tensor, expected: Tensor, tolerance: float = 1.0) -> str:
    """What is wrong with a gradient, given another one of the same dtype; "" if nothing is."""
    eps = max(EPSILON[got.dtype], EPSILON[expected.dtype])
    relative = 4 * eps**0.75 * tolerance
    return _mismatch(got, _wide(expected), relative, relative, eps)


def numeric_mismatch(got: Tensor, expected: Array, eps: float, tolerance: float = 1.0) -> str:
    """What is wrong with a gradient, given finite differences made in precision `eps`; "" if nothing is."""
    relative, scale, absolute = (5e-4, 1e-4, 1e-4) if eps > 1e-10 else (1e-5, 1e-7, 1e-8)
    return _mismatch(got, expected, relative * tolerance, scale * tolerance, absolute * tolerance)


def _wide(value: Any) -> Array:
    array = value.numpy() if tf.is_tensor(value) else np.asarray(value)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _mismatch(got: Tensor, expected: Array, relative: float, scale: float, absolute: float) -> str:
    value = _wide(got)
    if value.shape != expected.shape:
        return f"expected shape {expected.shape}, got {value.shape}"
    finite = np.isfinite(expected)
    size = np.abs(expected)
    bound = relative * size + scale * np.max(size, where=finite, initial=0) + absolute
    with np.errstate(invalid="ignore"):
        same = (value == expected) | (np.isnan(value) & np.isnan(expected))
        error = np.where(same, 0, np.abs(value - expected) / bound)
    error = np.where(np.isfinite(error), error, np.inf)  # NaN and inf belong in the same places
    wrong = int(np.count_nonzero(error > 1))
    if not wrong:
        return ""
    at = np.unravel_index(int(np.argmax(error)), error.shape)
    where = [int(i) for i in at]
    return (
        f"element {where}: expected {expected[at]:.9g}, got {value[at]:.9g}, "
        f"{error[at]:.3g} times the tolerance ({wrong} of {value.size} elements differ)"
    )
