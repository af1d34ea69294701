"""What ops of single precision compute, by elementary ops: their gradients in double precision tell 0.1 % apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def gradient_of(reference: Callable[..., Any], *outputs: int) -> Callable[..., list[Any]]:
    """The gradients of some outputs of a function, (*x, *dy) -> dx, taken in float64."""

    def gradient(*inputs: Any) -> list[Any]:
        n = len(inputs) - len(outputs)
        x, dy = ([tf.cast(t, tf.float64) for t in part] for part in (inputs[:n], inputs[n:]))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = reference(*x)
            y = [y[i] for i in outputs]
        dx = tape.gradient(y, x, dy, unconnected_gradients="zero")
        return [tf.cast(d, t.dtype) for d, t in zip(dx, inputs[:n], strict=True)]

    return gradient


def batch_norm(training: bool, layout: str = "NHWC", epsilon: float = 0.01, factor: float = 1.0) -> Callable[..., Any]:
    """FusedBatchNorm: of x, scale, offset, mean and variance the normalised x, and the new mean and variance."""
    axes = [i for i, axis in enumerate(layout) if axis != "C"]

    def f(x: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> Any:
        channels = lambda v: tf.reshape(v, [-1 if axis == "C" else 1 for axis in layout])  # noqa: E731
        new_mean, new_variance = mean, variance
        if training:
            count = tf.cast(tf.size(x) / tf.size(scale), x.dtype)
            old, mean = (mean, variance), tf.reduce_mean(x, axes)
            variance = tf.reduce_mean((x - channels(mean)) ** 2, axes)  # tf.nn.moments has no derivative of order 2
            new_mean = factor * mean + (1 - factor) * old[0]
            new_variance = factor * variance * count / (count - 1) + (1 - factor) * old[1]
        y = (x - channels(mean)) * channels(scale * tf.math.rsqrt(variance + epsilon)) + channels(offset)
        return y, new_mean, new_variance

    return f


def batch_norm_grad(training: bool, layout: str = "NHWC", epsilon: float = 0.01) -> Callable[..., Any]:
    """FusedBatchNormGrad of dy, x, scale, mean and variance."""
    forward = batch_norm(training, layout, epsilon)

    def f(dy: Any, x: Any, scale: Any, mean: Any = None, variance: Any = None) -> Any:
        offset = tf.zeros_like(scale)
        mean, variance = (offset if v is None else v for v in (mean, variance))
        with tf.GradientTape() as tape:
            tape.watch([x, scale, offset])
            y = forward(x, scale, offset, mean, variance)[0]
        return tape.gradient(y, [x, scale, offset], dy)

    return f


def lstm_cell(peephole: bool, forget_bias: float = 1.0) -> Callable[..., Any]:
    """LSTMBlockCell without clipping: i, cs, f, o, ci, co, h."""
    seen = 1.0 if peephole else 0.0

    def cell(x: Any, h_prev: Any, cs_prev: Any, w: Any, wci: Any, wcf: Any, wco: Any, b: Any) -> Any:
        i, ci, f, o = tf.split(tf.matmul(tf.concat([x, h_prev], 1), w) + b, 4, 1)
        i, f = tf.sigmoid(i + seen * wci * cs_prev), tf.sigmoid(f + forget_bias + seen * wcf * cs_prev)
        ci = tf.tanh(ci)
        cs = ci * i + cs_prev * f
        o, co = tf.sigmoid(o + seen * wco * cs), tf.tanh(cs)
        return i, cs, f, o, ci, co, co * o

    return cell


def lstm_cell_grad(names: Sequence[str], peephole: bool) -> Callable[..., Any]:
    """LSTMBlockCellGrad of arguments of these names: the formulas of its documentation."""
    seen = 1.0 if peephole else 0.0

    def grad(*inputs: Any) -> Any:
        v = dict(zip(names, inputs, strict=True))
        i, f, o, ci, co, h_grad = (v[k] for k in ("i", "f", "o", "ci", "co", "h_grad"))
        do = o * (1 - o) * h_grad * co
        dcs = (1 - co**2) * h_grad * o + v["cs_grad"] + seen * do * v["wco"]
        dci, df, di = (1 - ci**2) * dcs * i, f * (1 - f) * dcs * v["cs_prev"], i * (1 - i) * dcs * ci
        cs_prev_grad = dcs * f + seen * (di * v["wci"] + df * v["wcf"])
        sums = (seen * tf.reduce_sum(a * b, 0) for a, b in ((di, v["cs_prev"]), (df, v["cs_prev"]), (do, v["cs"])))
        return cs_prev_grad, tf.concat([di, dci, df, do], 1), *sums

    return grad


def gru_cell_grad(names: Sequence[str]) -> Callable[..., Any]:
    """GRUBlockCellGrad of arguments of these names: the formulas of its documentation."""

    def grad(*inputs: Any) -> Any:
        v = dict(zip(names, inputs, strict=True))
        r, u, c, h_prev, d_h = (v[k] for k in ("r", "u", "c", "h_prev", "d_h"))
        inside = v["x"].shape[1]
        dc = d_h * (1 - u) * (1 - c**2)
        dx, dhr = tf.split(tf.matmul(dc, v["w_c"], transpose_b=True), [inside, -1], 1)
        gates = tf.concat([dhr * h_prev * r * (1 - r), d_h * (h_prev - c) * u * (1 - u)], 1)
        more, dh = tf.split(tf.matmul(gates, v["w_ru"], transpose_b=True), [inside, -1], 1)
        return dx + more, dhr * r + dh + u * d_h, dc, gates

    return grad
