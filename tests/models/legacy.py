"""Keras 2 (`tf_keras`), trained with and without `tf_symgrad.enable()`: losses and weights are the same."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import tf_symgrad

_enable = importlib.import_module("tf_symgrad._enable")
BATCH, BATCHES, EPOCHS, CLASSES = 4, 3, 2, 3


class Training(NamedTuple):
    """Of a model by an optimizer, both of which are made of the package.

    `how` is told to `compile`; in a graph of TensorFlow 1 there is a session, and the optimizer may be TensorFlow's.
    """

    model: Callable[[Any], Any]
    optimizer: Callable[[Any], Any]
    how: dict[str, Any] = {}  # noqa: RUF012 (nobody writes to it)
    policy: str = "float32"
    graph: bool = False


class Outcome(NamedTuple):
    loss: float
    difference: float  # of losses and weights
    left: Sequence[str]  # why anything was left to Python


def mlp(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [layers.Dense(16, "relu"), layers.Dense(8, "swish"), layers.Dropout(0.3), layers.Dense(CLASSES)]
    )


def convolutions(keras: Any) -> Any:
    layers = keras.layers
    first = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.MaxPool2D()]
    last = [layers.SeparableConv2D(4, 2), layers.LayerNormalization(), layers.Flatten(), layers.Dense(CLASSES)]
    return keras.Sequential([*first, *last])


def recurrent(keras: Any) -> Any:
    layers = keras.layers
    words = [layers.Embedding(20, 8), layers.LSTM(6, return_sequences=True), layers.GRU(5)]
    return keras.Sequential([*words, layers.Dense(CLASSES)])


def masked(keras: Any) -> Any:
    layers = keras.layers
    words = layers.Embedding(20, 8, mask_zero=True)
    return keras.Sequential([words, layers.Bidirectional(layers.LSTM(6)), layers.Dense(CLASSES)])


def cells(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([layers.Embedding(20, 8), layers.RNN(layers.LSTMCell(6)), layers.Dense(CLASSES)])


def attention(keras: Any) -> Any:
    layers = keras.layers
    words = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 8)(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x))
    return keras.Model(words, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(layers.Dense(8, "gelu")(x))))


def own_step(keras: Any) -> Any:
    """With a gradient penalty, so that a tape is in a tape, and clipped gradients."""

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.last = keras.layers.Dense(8, "tanh"), keras.layers.Dense(CLASSES)

        def call(self, x: Any, training: bool = False) -> Any:
            return self.last(self.hidden(x))

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    total = tf.reduce_sum(self(x, training=True) ** 2)
                penalty = tf.reduce_mean(inner.gradient(total, x) ** 2)
                loss = self.compiled_loss(y, self(x, training=True)) + 0.01 * penalty
            gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, self.trainable_variables), 1.0)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

    return Model()


def sgd(keras: Any) -> Any:
    return keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)


def adam(keras: Any) -> Any:
    return keras.optimizers.Adam(0.01)


_V1 = tf.compat.v1.train
TRAININGS: dict[str, Training] = {}
for _model in (mlp, convolutions, recurrent, masked, cells, attention, own_step):
    _name = _model.__name__.replace("_", " ")
    TRAININGS[f"{_name}, SGD"] = Training(_model, sgd)
    TRAININGS[f"{_name}, Adam"] = Training(_model, adam)
    if _model is not own_step:
        TRAININGS[f"{_name}, TF1 graph"] = Training(_model, lambda k: k.optimizers.legacy.Adam(0.01), graph=True)
        TRAININGS[f"{_name}, TF1 momentum"] = Training(_model, lambda _: _V1.MomentumOptimizer(0.05, 0.9), graph=True)
for _model in (mlp, recurrent, convolutions):
    _name = _model.__name__
    TRAININGS[f"{_name}, old SGD"] = Training(_model, lambda k: k.optimizers.legacy.SGD(0.05, momentum=0.9))
    TRAININGS[f"{_name}, eager"] = Training(_model, adam, dict(run_eagerly=True))
    TRAININGS[f"{_name}, 3 steps a call"] = Training(_model, adam, dict(steps_per_execution=3))
    TRAININGS[f"{_name}, mixed precision"] = Training(_model, adam, policy="mixed_float16")
for _model in (convolutions, recurrent, cells):  # without a mask, which XLA draws anew at each compilation
    TRAININGS[f"{_model.__name__}, compiled"] = Training(_model, adam, dict(jit_compile=True))


def compare(training: Training) -> Outcome:
    import tf_keras as keras

    random = np.random.default_rng(0)
    size = BATCH * BATCHES
    x = {
        mlp: lambda: random.normal(size=(size, 6)).astype(np.float32),
        own_step: lambda: random.normal(size=(size, 6)).astype(np.float32),
        convolutions: lambda: random.normal(size=(size, 8, 8, 3)).astype(np.float32),
    }.get(training.model, lambda: random.integers(0, 20, (size, 7)))()
    y = random.integers(0, CLASSES, size)
    left: list[str] = []
    train = _in_graph if training.graph else _by_fit
    say, _enable._say = _enable._say, left.append
    keras.mixed_precision.set_global_policy(training.policy)
    try:
        expected = train(keras, training, x, y)
        with tf_symgrad.native():
            got = train(keras, training, x, y)
    finally:
        keras.mixed_precision.set_global_policy("float32")
        _enable._say = say
    assert all(np.all(np.isfinite(a)) for a in expected)
    worst = max(float(np.max(np.abs(a - b))) for a, b in zip(expected, got, strict=True))
    return Outcome(float(expected[0][-1]), worst, sorted(set(left)))


def _by_fit(keras: Any, training: Training, x: Any, y: Any) -> list[Any]:
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    model = training.model(keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.optimizer(keras), loss=loss, **training.how)
    history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, shuffle=False)
    return [np.array(history.history["loss"]), *model.get_weights()]


def _in_graph(keras: Any, training: Training, x: Any, y: Any) -> list[Any]:
    """By Keras' own loop over a graph; or, if the optimizer is TensorFlow's, by what it minimizes."""
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for _ in range(EPOCHS) for i in range(0, len(x), BATCH)]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        importlib.import_module("tf_keras.src.backend").set_session(session)
        keras.utils.set_random_seed(1)
        model, optimizer = training.model(keras), training.optimizer(keras)
        if not isinstance(optimizer, _V1.Optimizer):
            model.compile(optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            losses = [model.train_on_batch(*batch) for batch in batches]
            return [np.array(losses), *model.get_weights()]
        xs = tf.compat.v1.placeholder(x.dtype, [None, *x.shape[1:]])
        ys = tf.compat.v1.placeholder(y.dtype, [None])
        logits = model(xs, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ys, logits=logits))
        step = optimizer.minimize(loss)
        session.run(tf.compat.v1.global_variables_initializer())
        losses = [session.run([loss, step], {xs: a, ys: b})[0] for a, b in batches]
        return [np.array(losses), *session.run(tf.compat.v1.trainable_variables())]
