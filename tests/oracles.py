"""What a gradient is compared with beside finite differences: TensorFlow's Python gradients."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_symgrad._differences import Function, Tensor, analytic_mismatch

__all__ = ["Function", "Tensor", "analytic_mismatch", "python_gradient", "taped"]


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


def taped(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The derivative of an f of one tensor, as GradientTape computes it."""

    def derivative(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    return derivative
