"""Trains a classifier of handwritten digits and saves it with its gradients, which `explain.py` serves.

python save.py [--epochs N] [--out DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from tqdm import tqdm

import tf_symgrad


class Classifier(tf.Module):
    """A network of two layers; its signature says how strongly it believes in each digit."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(64, 64), (64,), (64, 10), (10,)]
        scales = [shape[0] ** -0.5 if len(shape) > 1 else 0.0 for shape in shapes]
        self.weights = [
            tf.Variable(scale * tf.random.stateless_normal(shape, (0, i)))
            for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
        ]

    def logits(self, images: Any) -> Any:
        w1, b1, w2, b2 = self.weights
        return tf.nn.softplus(tf.reshape(images, [-1, 64]) @ w1 + b1) @ w2 + b2

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8], name="images")])
    def scores(self, images: Any) -> dict[str, Any]:
        return {"logits": self.logits(images)}


def train(model: Classifier, images: Any, labels: Any, epochs: int) -> None:
    def loss(x: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model.logits(x)))

    @tf.function
    def step(x: Any, y: Any) -> Any:
        value, gradients = tf_symgrad.value_and_grad(loss, wrt=model)(x, y)
        for w, dw in zip(model.trainable_variables, gradients, strict=True):
            w.assign_sub(0.2 * dw)
        return value

    chance = np.random.default_rng(0)
    with tqdm(range(epochs), desc="training", unit="epoch") as bar:
        for _ in bar:
            for batch in np.split(chance.permutation(len(images))[: len(images) // 50 * 50], len(images) // 50):
                value = step(tf.constant(images[batch]), tf.constant(labels[batch]))
            bar.set_postfix(loss=f"{float(value):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("build") / "saliency")
    options = parser.parse_args()
    data = load_digits()
    images, labels = (data.images / 16).astype(np.float32), data.target.astype(np.int32)
    model = Classifier()
    train(model, images[:1500], labels[:1500], options.epochs)
    accuracy = np.mean(np.argmax(model.logits(images[1500:]), 1) == labels[1500:])
    print(f"test accuracy: {accuracy:.1%}")

    shutil.rmtree(options.out, ignore_errors=True)
    tf_symgrad.save_with_gradients(
        model, options.out / "model", signatures={"serving_default": model.scores}, wrt=["images"]
    )
    np.savez(options.out / "digits.npz", images=images[1500:1505], labels=labels[1500:1505])
    print(f"saved with gradients: {options.out / 'model'}")


if __name__ == "__main__":
    main()
