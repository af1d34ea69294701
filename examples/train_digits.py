"""Trains a small convolutional network on handwritten digits, with gradients from the op alone.

The data are the 1,797 digits of 8 x 8 pixels that ship inside scikit-learn. The network is plain TensorFlow; its
weights are inputs of the loss function, and each training step is one tf.function with one TfSymgrad>SymbolicGradient
op in it. At the end, the gradients are compared with GradientTape's, and so are the sizes of the two gradient graphs
and the times to build them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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

EPOCHS, BATCH, RATE, MOMENTUM = 12, 32, 0.05, 0.9
PICTURE = Path("build") / "train_digits.png"


def digits() -> tuple[Any, Any, Any, Any]:
    """Images and labels to train on, and images and labels to test with."""
    data = load_digits()
    images = (data.images[..., np.newaxis] / 16).astype(np.float32)
    labels = data.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return images[train], labels[train], images[test], labels[test]


def new_weights() -> list[tf.Variable]:
    shapes = [(3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (512, 64), (64,), (64, 10), (10,)]

    def init(i: int, shape: tuple[int, ...]) -> Any:
        scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.0
        return scale * tf.random.stateless_normal(shape, seed=(0, i))

    return [tf.Variable(init(i, shape)) for i, shape in enumerate(shapes)]


def logits(images: Any, *weights: Any) -> Any:
    k1, b1, k2, b2, w3, b3, w4, b4 = weights
    x = tf.nn.relu(tf.nn.conv2d(images, k1, 1, "SAME") + b1)
    x = tf.nn.relu(tf.nn.conv2d(x, k2, 1, "SAME") + b2)
    x = tf.reshape(tf.nn.max_pool2d(x, 2, 2, "SAME"), [-1, 512])
    x = tf.nn.relu(x @ w3 + b3)
    return x @ w4 + b4


def loss(images: Any, labels: Any, *weights: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(images, *weights)))


def train(images: Any, labels: Any, weights: list[tf.Variable]) -> list[float]:
    """Trains the weights in place and returns the loss of each step."""
    velocities = [tf.Variable(tf.zeros_like(w)) for w in weights]
    f = concrete_loss(weights)

    @tf.function
    def step(x: Any, y: Any) -> Any:
        _, _, *gradients = tf_symgrad.symbolic_gradient([x, y, *weights], f=f)
        value = loss(x, y, *weights)
        for w, v, dw in zip(weights, velocities, gradients, strict=True):
            w.assign_sub(RATE * v.assign(MOMENTUM * v + dw))
        return value

    chance = np.random.default_rng(1)
    losses: list[float] = []
    with tqdm(total=EPOCHS * (len(images) // BATCH), desc="training", unit="step") as bar:
        for _ in range(EPOCHS):
            order = chance.permutation(len(images))
            for begin in range(0, len(images) - BATCH + 1, BATCH):
                batch = order[begin : begin + BATCH]
                losses.append(float(step(tf.constant(images[batch]), tf.constant(labels[batch]))))
                bar.update()
                bar.set_postfix(loss=f"{np.mean(losses[-20:]):.4f}", refresh=False)
    return losses


def concrete_loss(weights: list[tf.Variable]) -> Any:
    """The loss as a ConcreteFunction, for batches of any size."""
    specs = [tf.TensorSpec([None, 8, 8, 1], tf.float32), tf.TensorSpec([None], tf.int32)]
    return tf.function(loss).get_concrete_function(*specs, *(tf.TensorSpec(w.shape, w.dtype) for w in weights))


def compare(images: Any, labels: Any, weights: list[tf.Variable]) -> None:
    """Prints how the op's gradients agree with GradientTape's, and what it takes to build both."""
    f = concrete_loss(weights)
    timing: dict[str, float] = {}

    def timed(name: str, build: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = build()
        timing[name] = time.perf_counter() - start
        return result

    def by_op(x: Any, y: Any, *w: Any) -> Any:
        return timed("op", lambda: tf_symgrad.symbolic_gradient([x, y, *w], f=f)[2:])

    def by_tape(x: Any, y: Any, *w: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = loss(x, y, *w)
        return timed("tape", lambda: tape.gradient(value, w))

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in f.inputs]
    op = tf.function(by_op).get_concrete_function(*specs)
    tape = tf.function(by_tape).get_concrete_function(*specs)
    inputs = [tf.constant(images), tf.constant(labels), *(w.read_value() for w in weights)]
    pairs = zip(op(*inputs), tape(*inputs), strict=True)
    difference = max(float(tf.reduce_max(tf.abs(a - b)) / tf.reduce_max(tf.abs(b))) for a, b in pairs)

    name, library = tf_symgrad.gradient_function(f, wrt=[False, False] + [True] * len(weights))
    nodes = {function.signature.name: len(function.node_def) for function in library.function}
    milliseconds = {what: f"{1000 * seconds:.1f} ms" for what, seconds in timing.items()}
    print(f"max relative difference to GradientTape: {difference:.1e}")
    print(f"nodes, forward and backward:             {nodes[name]} (GradientTape: {len(tape.function_def.node_def)})")
    print(f"time to build the gradient:              {milliseconds['op']} (GradientTape: {milliseconds['tape']})")


def draw(losses: list[float]) -> None:
    PICTURE.parent.mkdir(exist_ok=True)
    mean = np.convolve(losses, np.ones(20) / 20, "valid")
    _, axes = plt.subplots(figsize=(7, 4))
    axes.semilogy(losses, color="0.8", linewidth=1, label="batch")
    axes.semilogy(np.arange(len(mean)) + 19, mean, label="mean of 20 batches")
    axes.set(xlabel="step", ylabel="loss", title="Digits, trained with TfSymgrad>SymbolicGradient")
    axes.legend()
    plt.savefig(PICTURE, dpi=150, bbox_inches="tight")


def main() -> None:
    train_images, train_labels, test_images, test_labels = digits()
    weights = new_weights()
    losses = train(train_images, train_labels, weights)
    predictions = np.argmax(logits(tf.constant(test_images), *weights), axis=1)
    accuracy = np.mean(predictions == test_labels)
    print(f"test accuracy:                           {accuracy:.1%}")
    compare(test_images, test_labels, weights)
    draw(losses)
    print(f"loss curve:                              {PICTURE}")
    if accuracy <= 0.95:
        raise SystemExit("The test accuracy should be above 95 %.")


if __name__ == "__main__":
    main()
