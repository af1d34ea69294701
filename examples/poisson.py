"""Solves Poisson's equation by a neural network, whose second derivatives are part of the loss.

On the unit square, with u = 0 on its border,

    u_xx + u_yy = -2 pi^2 sin(pi x) sin(pi y),        the solution of which is u = sin(pi x) sin(pi y).

The network is x (1 - x) y (1 - y) N(x, y), so that the border is right; the loss is the mean square of what the
equation is off by at random points. Its gradient by the weights is a third derivative: gradients are nested three deep.

    python poisson.py [--steps N] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import tf_symgrad

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POINTS = 256


def new_weights() -> list[tf.Variable]:
    shapes = [(2, 32), (32,), (32, 32), (32,), (32, 1), (1,)]
    scales = [shape[0] ** -0.5 if len(shape) > 1 else 0.0 for shape in shapes]
    return [
        tf.Variable(scale * tf.random.stateless_normal(shape, (1, i)))
        for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
    ]


def network(weights: list[tf.Variable], x: Any, y: Any) -> Any:
    w1, b1, w2, b2, w3, b3 = weights
    hidden = tf.tanh(tf.tanh(tf.stack([x, y], 1) @ w1 + b1) @ w2 + b2)
    return x * (1 - x) * y * (1 - y) * (hidden @ w3 + b3)[:, 0]


def laplacian(u: Any, x: Any, y: Any) -> Any:
    """u_xx + u_yy at each of a list of points: u at one does not depend on another, so gradients of sums are these."""

    def twice(u: Any, x: Any) -> Any:
        first = tf_symgrad.grad(lambda x: tf.reduce_sum(u(x)))
        return tf_symgrad.grad(lambda x: tf.reduce_sum(first(x)))(x)

    return twice(lambda x: u(x, y), x) + twice(lambda y: u(x, y), y)


def solution(x: Any, y: Any) -> Any:
    return np.sin(np.pi * x) * np.sin(np.pi * y)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("build") / "poisson.png")
    options = parser.parse_args()
    weights = new_weights()

    def loss(points: Any) -> Any:
        x, y = points[:, 0], points[:, 1]
        forces = -2 * np.pi**2 * tf.sin(np.pi * x) * tf.sin(np.pi * y)
        return tf.reduce_mean((laplacian(lambda x, y: network(weights, x, y), x, y) - forces) ** 2)

    optimizer = tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(1e-2, options.steps))
    optimizer.build(weights)

    @tf.function
    def step(points: Any) -> Any:
        value, gradients = tf_symgrad.value_and_grad(loss, wrt=weights)(points)
        optimizer.apply(gradients, weights)
        return value

    chance = np.random.default_rng(0)
    losses = []
    with tqdm(range(options.steps), desc="solving", unit="step") as bar:
        for _ in bar:
            losses.append(float(step(tf.constant(chance.uniform(0, 1, (POINTS, 2)), tf.float32))))
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.2e}", refresh=False)

    x, y = (grid.reshape(-1).astype(np.float32) for grid in np.meshgrid(*[np.linspace(0, 1, 60)] * 2))
    found = network(weights, tf.constant(x), tf.constant(y)).numpy()
    error = np.max(np.abs(found - solution(x, y)))
    print(f"largest error against the solution: {error:.1e}")

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for axes, values, title in ((left, found, "u"), (middle, found - solution(x, y), "u, less the solution")):
        figure.colorbar(axes.imshow(values.reshape(60, 60), extent=(0, 1, 0, 1), origin="lower"), ax=axes)
        axes.set_title(title)
    right.semilogy(losses)
    right.set(xlabel="step", title="loss")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150, bbox_inches="tight")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
