"""Trains a classifier that no single example can change by much: DP-SGD (Abadi et al., 2016).

The gradient of each example is clipped to a norm, and noise of that size is added to their sum. So it takes a gradient
for each example: `per_example_grad` computes them all at once.

    python private_digits.py [--steps N] [--noise SIGMA] [--out FILE]

How private the result is follows from the noise, the batch size and the number of steps: see the accountants of
TensorFlow Privacy or Opacus.
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
from sklearn.datasets import load_digits
from tqdm import tqdm

import tf_symgrad

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BATCH, RATE, CLIP = 128, 0.5, 1.0


def new_weights() -> list[tf.Variable]:
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    scales = [shape[0] ** -0.5 if len(shape) > 1 else 0.0 for shape in shapes]
    return [
        tf.Variable(scale * tf.random.stateless_normal(shape, (2, i)))
        for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
    ]


def logits(weights: list[tf.Variable], images: Any) -> Any:
    w1, b1, w2, b2 = weights
    return tf.tanh(images @ w1 + b1) @ w2 + b2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("build") / "private_digits.png")
    options = parser.parse_args()
    data = load_digits()
    images, labels = (data.images.reshape(-1, 64) / 16).astype(np.float32), data.target.astype(np.int32)
    weights = new_weights()

    def loss(image: Any, label: Any) -> Any:
        """Of one example."""
        return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits(weights, image[None])[0])

    per_example = tf_symgrad.per_example_grad(loss, wrt=weights)

    @tf.function
    def step(batch_images: Any, batch_labels: Any, seed: Any) -> Any:
        gradients = per_example(batch_images, batch_labels)
        squares = [tf.reduce_sum(dw**2, axis=list(range(1, dw.shape.rank))) for dw in gradients]
        norms = tf.sqrt(tf.add_n(squares))
        factors = tf.minimum(1.0, CLIP / norms)
        for i, (w, dw) in enumerate(zip(weights, gradients, strict=True)):
            noise = options.noise * CLIP * tf.random.stateless_normal(w.shape, tf.stack([seed, i]))
            w.assign_sub(RATE * (tf.tensordot(factors, dw, 1) + noise) / BATCH)
        return norms

    def accuracy() -> float:
        return float(np.mean(np.argmax(logits(weights, images[1437:]), 1) == labels[1437:]))

    chance = np.random.default_rng(0)
    norms, accuracies = [], []
    with tqdm(range(options.steps), desc="training", unit="step") as bar:
        for i in bar:
            batch = chance.choice(1437, BATCH, replace=False)
            norms.append(step(tf.constant(images[batch]), tf.constant(labels[batch]), tf.constant(i)).numpy())
            if i % 10 == 9:
                accuracies.append(accuracy())
                bar.set_postfix(accuracy=f"{accuracies[-1]:.1%}", refresh=False)
    print(f"test accuracy: {accuracy():.1%}")
    print(f"gradients longer than {CLIP:g} at the end: {np.mean(norms[-1] > CLIP):.0%}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(10 * np.arange(1, len(accuracies) + 1), accuracies)
    left.set(xlabel="step", title=f"test accuracy, noise {options.noise:g}")
    right.hist([norms[0], norms[-1]], 30, label=["first step", "last step"])
    right.axvline(CLIP, color="0.3", linestyle="--", label="clipped to")
    right.set(xlabel="norm of an example's gradient")
    right.legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150, bbox_inches="tight")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
