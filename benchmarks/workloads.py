"""What is differentiated: scalar losses of growing size, the same for every method."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """A scalar loss, and what to differentiate it with respect to.

    Attributes:
      loss: takes `args`, returns a scalar.
      args: arrays; traced with their shapes.
      variables: the gradients wanted are those of these variables or, where there are none, of all `args`.
    """

    loss: Callable[..., Any]
    args: tuple[Any, ...]
    variables: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Workload:
    """A named problem.

    Attributes:
      make: takes the array operations that the loss is to be written with (see `methods`).
      excluded: methods that can't run it, and why.
    """

    name: str
    make: Callable[[Any], Problem]
    excluded: dict[str, str] = dataclasses.field(default_factory=dict)


def chain(length: int, xp: Any) -> Problem:
    """Elementwise ops one after another, on a vector too short for their arithmetic to matter."""
    ops = (xp.tanh, xp.sin, xp.sigmoid, xp.square)

    def loss(x: Any) -> Any:
        for i in range(length):
            x = ops[i % len(ops)](x)
        return xp.sum(x)

    return Problem(loss, (_normal(16),))


def mlp(towers: int, depth: int, units: int, xp: Any) -> Problem:
    """Towers of dense layers side by side on one input, their outputs added."""

    def loss(x: Any, *weights: Any) -> Any:
        total = xp.sum(x)
        layers = iter(weights)
        for _ in range(towers):
            y = x
            for _ in range(depth):
                y = xp.relu(xp.matmul(y, next(layers)) + next(layers))
            total = total + xp.sum(xp.square(y))
        return total

    weights = [w for _ in range(towers * depth) for w in (_normal(units, units), _normal(units))]
    return Problem(loss, (_normal(32, units), *weights))


def transformer(layers: int, batch: int, length: int, width: int, heads: int, vocabulary: int, xp: Any) -> Problem:
    """A transformer encoder with learned embeddings, attention, layer norm and gelu, that predicts its own tokens."""
    import tensorflow as tf

    del xp
    depth = width // heads
    variables: list[Any] = []

    def variable(*shape: int, value: float | None = None) -> Any:
        variables.append(tf.Variable(_normal(*shape) if value is None else np.full(shape, value, np.float32)))
        return variables[-1]

    def dense(inputs: int, outputs: int) -> Callable[[Any], Any]:
        w, b = variable(inputs, outputs), variable(outputs, value=0.0)
        return lambda x: tf.einsum("btd,de->bte", x, w) + b

    def layer_norm() -> Callable[[Any], Any]:
        scale, offset = variable(width, value=1.0), variable(width, value=0.0)

        def apply(x: Any) -> Any:
            mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
            return (x - mean) * tf.math.rsqrt(variance + 1e-6) * scale + offset

        return apply

    def attention() -> Callable[[Any], Any]:
        query, key, value, output = (dense(width, width) for _ in range(4))

        def split(x: Any) -> Any:
            return tf.transpose(tf.reshape(x, [tf.shape(x)[0], -1, heads, depth]), [0, 2, 1, 3])

        def apply(x: Any) -> Any:
            scores = tf.einsum("bhqd,bhkd->bhqk", split(query(x)), split(key(x))) * depth**-0.5
            mixed = tf.einsum("bhqk,bhkd->bhqd", tf.nn.softmax(scores), split(value(x)))
            return output(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), tf.shape(x)))

        return apply

    def block() -> Callable[[Any], Any]:
        norm1, attend, norm2 = layer_norm(), attention(), layer_norm()
        expand, contract = dense(width, 4 * width), dense(4 * width, width)

        def apply(x: Any) -> Any:
            x = x + attend(norm1(x))
            return x + contract(tf.nn.gelu(expand(norm2(x))))

        return apply

    tokens, positions = variable(vocabulary, width), variable(length, width)
    blocks = [block() for _ in range(layers)]
    norm, predict = layer_norm(), dense(width, vocabulary)

    def loss(ids: Any) -> Any:
        x = tf.gather(tokens, ids) + positions
        for apply in blocks:
            x = apply(x)
        logits = predict(norm(x))
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits))

    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length)).astype(np.int32)
    return Problem(loss, (ids,), tuple(variables))


def resnet50(training: bool, batch: int, size: int, xp: Any) -> Problem:
    """Keras ResNet50, its BatchNorm in training or inference mode."""
    import keras
    import tensorflow as tf

    del xp
    model = keras.applications.ResNet50(weights=None, input_shape=(size, size, 3), classes=100)

    def loss(images: Any, labels: Any) -> Any:
        probabilities = model(images, training=training)
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))

    labels = np.arange(batch, dtype=np.int32) % 100
    variables = tuple(v.value for v in model.trainable_variables)
    return Problem(loss, (_normal(batch, size, size, 3), labels), variables)


def lstm(units: int, batch: int, steps: int, xp: Any) -> Problem:
    """An LSTM of one layer, by `tf.while_loop`."""
    import tensorflow as tf

    del xp
    kernel, recurrent = tf.Variable(_normal(units, 4 * units)), tf.Variable(_normal(units, 4 * units))
    bias = tf.Variable(np.zeros(4 * units, np.float32))

    def loss(x: Any) -> Any:
        def step(t: Any, h: Any, c: Any) -> Any:
            i, f, g, o = tf.split(x[t] @ kernel + h @ recurrent + bias, 4, 1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            return t + 1, tf.sigmoid(o) * tf.tanh(c), c

        zeros = tf.zeros([batch, units])
        _, h, _ = tf.while_loop(lambda t, *_: t < steps, step, (0, zeros, zeros))
        return tf.reduce_sum(h**2)

    return Problem(loss, (_normal(steps, batch, units),), (kernel, recurrent, bias))


def calls(count: int, xp: Any) -> Problem:
    """One traced layer, called many times."""
    import tensorflow as tf

    del xp
    w = tf.Variable(_normal(16, 16))
    layer = tf.function(lambda x: tf.tanh(x @ w), autograph=False)

    def loss(x: Any) -> Any:
        for _ in range(count):
            x = layer(x)
        return tf.reduce_sum(x)

    return Problem(loss, (_normal(4, 16),), (w,))


def embedding(rows: int, width: int, xp: Any) -> Problem:
    """A table in which a few rows are looked up. Its gradient is dense, as all gradients are here."""
    import tensorflow as tf

    del xp
    table = tf.Variable(_normal(rows, width))
    ids = np.random.default_rng(0).integers(0, rows, 64).astype(np.int32)
    return Problem(lambda ids: tf.reduce_sum(tf.tanh(tf.gather(table, ids))), (ids,), (table,))


_VARIABLES = "it differentiates with respect to arguments, not to the variables of a model"
_MODEL = {"stock": _VARIABLES, "jax": "the model is written in TensorFlow"}


def workloads(quick: bool) -> list[Workload]:
    """All of them, or small ones that only show that the benchmarks work."""
    lengths = (10, 100) if quick else (10, 100, 1_000, 10_000, 100_000)
    chains = [Workload(f"chain-{n}", functools.partial(chain, n)) for n in lengths]
    if quick:
        return [
            *chains,
            Workload("mlp", functools.partial(mlp, 2, 2, 8)),
            Workload("transformer", functools.partial(transformer, 1, 2, 8, 16, 2, 50), _MODEL),
            Workload("lstm", functools.partial(lstm, 8, 2, 3), _MODEL),
            Workload("calls", functools.partial(calls, 10), _MODEL),
            Workload("embedding", functools.partial(embedding, 100, 4), _MODEL),
        ]
    return [
        *chains,
        Workload("mlp", functools.partial(mlp, 20, 10, 64)),
        Workload("transformer", functools.partial(transformer, 6, 8, 64, 128, 4, 1000), _MODEL),
        Workload("resnet50-inference", functools.partial(resnet50, False, 4, 64), _MODEL),
        Workload("resnet50-training", functools.partial(resnet50, True, 4, 64), _MODEL),
        Workload("lstm", functools.partial(lstm, 128, 32, 100), _MODEL),
        Workload("calls", functools.partial(calls, 1000), _MODEL),
        Workload("embedding", functools.partial(embedding, 1_000_000, 64), _MODEL),
    ]


def _normal(*shape: int) -> Any:
    """Random values, of a scale that keeps products of such matrices about 1."""
    scale = shape[0] ** -0.5 if len(shape) == 2 else 0.1
    return (scale * np.random.default_rng(len(shape)).standard_normal(shape)).astype(np.float32)
