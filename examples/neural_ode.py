"""Learns the vector field of a spiral, through a solver that chooses its steps by the data.

dy/dt is a network, and y(t) what an adaptive Runge-Kutta method (Bogacki and Shampine, 1989) makes of it: a
`tf.while_loop` whose number of iterations depends on the network. The gradient goes through the loop, steps that were
refused included; nothing is unrolled.

    python neural_ode.py [--steps N] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import tensorflow as tf
from tqdm import tqdm

import tf_symgrad

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TOLERANCE, INTERVAL, COUNT = 1e-3, 0.1, 80


def solve(field: Callable[[Any], Any], y: Any, duration: float) -> tuple[Any, Any]:
    """y after some time, and how many steps were tried."""

    def attempt(t: Any, h: Any, y: Any, tried: Any) -> tuple[Any, Any, Any, Any]:
        h = tf.minimum(h, duration - t)
        k1 = field(y)
        k2 = field(y + h * k1 / 2)
        k3 = field(y + h * k2 * 3 / 4)
        third = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
        second = y + h * (7 * k1 + 6 * k2 + 8 * k3 + 3 * field(third)) / 24
        # How fast to go on is no part of the solution: no gradient.
        error = tf.stop_gradient(tf.reduce_max(tf.abs(third - second)) / TOLERANCE)
        accepted = error <= 1.0
        next_h = h * tf.clip_by_value(0.9 * tf.pow(error + 1e-6, -1 / 3), 0.2, 5.0)
        return tf.where(accepted, t + h, t), next_h, tf.where(accepted, third, y), tried + 1

    start = (tf.constant(0.0), tf.constant(duration), y, 0)
    _, _, y, tried = tf.while_loop(lambda t, *_: t < duration - 1e-6, attempt, start)
    return y, tried


def spiral(y: Any) -> Any:
    """The field that is to be learnt."""
    return tf.matmul(y**3, tf.constant([[-0.1, 2.0], [-2.0, -0.1]]), transpose_b=True) * 3.0


def new_weights() -> list[tf.Variable]:
    shapes = [(2, 48), (48,), (48, 2), (2,)]
    scales = [0.5, 0.0, 0.1, 0.0]
    return [
        tf.Variable(scale * tf.random.stateless_normal(shape, (4, i)))
        for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("build") / "neural_ode.png")
    options = parser.parse_args()
    weights = new_weights()

    def field(y: Any) -> Any:
        w1, b1, w2, b2 = weights
        return tf.tanh(y**3 @ w1 + b1) @ w2 + b2

    truth = [tf.constant([[1.5, 0.0]])]
    for _ in range(COUNT):
        truth.append(solve(spiral, truth[-1], INTERVAL)[0])
    points = tf.concat(truth, 0)
    starts, ends = points[:-1], points[1:]

    def loss(starts: Any, ends: Any) -> Any:
        y, tried = solve(field, starts, INTERVAL)
        return tf.reduce_mean(tf.reduce_sum((y - ends) ** 2, 1)), tried

    optimizer = tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(2e-2, options.steps))
    optimizer.build(weights)

    @tf.function
    def step(starts: Any, ends: Any) -> Any:
        (value, tried), gradients = tf_symgrad.value_and_grad(loss, wrt=weights, has_aux=True)(starts, ends)
        optimizer.apply(gradients, weights)
        return value, tried

    losses, attempts = [], []
    with tqdm(range(options.steps), desc="learning", unit="step") as bar:
        for _ in bar:
            value, tried = step(starts, ends)
            losses.append(float(value))
            attempts.append(int(tried))
            bar.set_postfix(loss=f"{losses[-1]:.1e}", iterations=attempts[-1], refresh=False)

    path, onwards = [truth[0]], tf.function(lambda y: solve(field, y, INTERVAL / 5)[0])
    for _ in range(5 * COUNT):
        path.append(onwards(path[-1]))
    found = tf.concat(path, 0).numpy()
    print(f"loss: {losses[0]:.1e} to {losses[-1]:.1e}")
    print(f"iterations of the solver's loop: {min(attempts)} to {max(attempts)}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.plot(*points.numpy().T, "o", markersize=3, label="data")
    left.plot(*found.T, label="learnt, from the first point")
    left.set_aspect("equal")
    left.legend(loc="center", fontsize=8)
    right.semilogy(losses)
    right.set(xlabel="step", title="loss")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150, bbox_inches="tight")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
