"""Optimizers that a SavedModel trains itself with: TensorFlow's own training ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf


class _Optimizer(tf.Module):  # type: ignore[misc]
    """Updates variables in place; its slots are saved with the model."""

    def __init__(self, rate: float) -> None:
        super().__init__(name="optimizer")
        self.rate = tf.Variable(rate, trainable=False, dtype=tf.float32, name="learning_rate")

    def _rate(self, v: Any) -> Any:
        return tf.cast(self.rate, v.dtype)

    def apply(self, gradients: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        raise NotImplementedError


class Sgd(_Optimizer):
    """`v -= rate * dv`."""

    def __init__(self, rate: float, variables: Mapping[str, Any]) -> None:
        super().__init__(rate)

    def apply(self, gradients: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        for name, v in variables.items():
            tf.raw_ops.ResourceApplyGradientDescent(var=v.handle, alpha=self._rate(v), delta=gradients[name])


class Adam(_Optimizer):
    """Adam (Kingma and Ba, 2015) with the usual constants, by TensorFlow's own training op."""

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7

    def __init__(self, rate: float, variables: Mapping[str, Any]) -> None:
        super().__init__(rate)
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64, name="step")
        self.first = {n: tf.Variable(tf.zeros_like(v), trainable=False, name="m") for n, v in variables.items()}
        self.second = {n: tf.Variable(tf.zeros_like(v), trainable=False, name="v") for n, v in variables.items()}

    def apply(self, gradients: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        step = self.step.assign_add(1, read_value=True)
        for name, v in variables.items():
            one = tf.ones([], v.dtype)
            t = tf.cast(step, v.dtype)
            tf.raw_ops.ResourceApplyAdam(
                var=v.handle,
                m=self.first[name].handle,
                v=self.second[name].handle,
                beta1_power=tf.pow(one * self.BETA1, t),
                beta2_power=tf.pow(one * self.BETA2, t),
                lr=self._rate(v),
                beta1=one * self.BETA1,
                beta2=one * self.BETA2,
                epsilon=one * self.EPSILON,
                grad=gradients[name],
            )


OPTIMIZERS: dict[str, Callable[[float, Mapping[str, Any]], _Optimizer]] = {"sgd": Sgd, "adam": Adam}
