"""Writes what train.c trains: an untrained SavedModel, and scikit-learn's handwritten digits as plain bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits


class Model(tf.Module):
    """A small network that knows its loss."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(64, 64), (64,), (64, 10), (10,)]
        initial = [tf.random.stateless_normal(s, (0, i)) * (0.15 if len(s) > 1 else 0) for i, s in enumerate(shapes)]
        self.w1, self.b1, self.w2, self.b2 = map(tf.Variable, initial)

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(images @ self.w1 + self.b1) @ self.w2 + self.b2

    @tf.function(input_signature=[tf.TensorSpec([None, 64]), tf.TensorSpec([None], tf.int32)])
    def loss(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.logits(images)))

    @tf.function(input_signature=[tf.TensorSpec([None, 64])])
    def predict(self, images: tf.Tensor) -> tf.Tensor:
        return tf.argmax(self.logits(images), 1)


def main(folder: Path) -> None:
    model = Model()
    tf.saved_model.save(model, str(folder / "model"), signatures={"loss": model.loss, "predict": model.predict})
    digits = load_digits()
    table = np.concatenate([digits.target[:, None], digits.data], 1).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(table))
    (folder / "digits.bin").write_bytes(np.uint16(len(table)).tobytes() + table[order].tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
