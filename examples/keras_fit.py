"""Keras' own `fit`, with the gradients of tapes and with native ones: one line more, the same losses.

python keras_fit.py [--epochs N] [--layers N] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
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


def new_model(layers: int) -> Any:
    tf.keras.utils.set_random_seed(0)
    x = image = tf.keras.Input([8, 8, 1])
    for _ in range(layers):
        y = tf.keras.layers.Conv2D(16, 3, padding="same")(x)
        y = tf.keras.layers.Activation("gelu")(tf.keras.layers.BatchNormalization()(y))
        x = y if x is image else tf.keras.layers.Add()([x, y])
    x = tf.keras.layers.Dropout(0.2)(tf.keras.layers.Flatten()(x))
    model = tf.keras.Model(image, tf.keras.layers.Dense(10)(x))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    return model


class Progress(tf.keras.callbacks.Callback):
    """A bar, and the loss and the time of each step."""

    def __init__(self, name: str, total: int) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.times: list[float] = []
        self._bar = tqdm(total=total, desc=name, unit="step")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter() - self._begin)
        self.losses.append(logs["loss"])
        self._bar.update()

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("build") / "keras_fit.png")
    options = parser.parse_args()
    data = load_digits()
    images, labels = (data.images[..., None] / 16).astype(np.float32), data.target.astype(np.int32)
    progress = {}
    for name in ("tape", "native"):
        with tf_symgrad.native() if name == "native" else contextlib.nullcontext():  # or tf_symgrad.enable(), for good
            model = new_model(options.layers)
            batches = len(images[:1437]) // 32
            progress[name] = Progress(name, options.epochs * batches)
            model.fit(
                images[: 32 * batches],
                labels[: 32 * batches],
                batch_size=32,
                epochs=options.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[progress[name]],
            )
        accuracy = model.evaluate(images[1437:], labels[1437:], verbose=0)[1]
        print(f"{name}: test accuracy {accuracy:.1%}, first step {progress[name].times[0]:.2f} s")
    tape, native = progress["tape"], progress["native"]
    print(f"largest difference of losses: {np.max(np.abs(np.subtract(tape.losses, native.losses))):.1e}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.semilogy(tape.losses, label="tape")
    left.semilogy(native.losses, "--", label="native")
    left.set(xlabel="step", title="loss (Keras' running mean)")
    left.legend()
    right.bar(["tape", "native"], [tape.times[0], native.times[0]])
    right.set(ylabel="seconds", title="first step: tracing, and all else")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150, bbox_inches="tight")
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
