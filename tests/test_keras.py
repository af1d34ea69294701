"""Eager products with Jacobians of Keras's layers and models: traced once, and never stale."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tf_symgrad
from tf_symgrad import _calls

RANDOM = np.random.default_rng(0)
X = tf.constant(RANDOM.normal(size=(3, 4)), tf.float32)
IMAGE = tf.constant(RANDOM.normal(size=(2, 8, 8, 3)), tf.float32)
TEXT = tf.constant(RANDOM.normal(size=(2, 5, 4)), tf.float32)


def vjp(f: Any, x: Any) -> Any:
    y, pullback = tf_symgrad.vjp(f, x)
    return pullback(tf.ones_like(y))[0]


def jvp(f: Any, x: Any) -> Any:
    return tf_symgrad.jvp(f, [x], [tf.ones_like(x)])[1]


def linearize(f: Any, x: Any) -> Any:
    return tf_symgrad.linearize(f, x)[1](tf.ones_like(x))


def same_as_anew(layer: Any, x: Any) -> None:
    """A callable that is no layer is traced at each call."""
    for of in (vjp, jvp, linearize):
        np.testing.assert_allclose(of(layer, x), of(lambda x: layer(x), x), rtol=1e-6, atol=1e-6)


def attention() -> Any:
    x = keras.Input((5, 4))
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(x, layers.GlobalAveragePooling1D()(y))


def convolutions() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            keras.Sequential([layers.Flatten(), layers.Dense(3, kernel_regularizer="l2", activation="softmax")]),
        ]
    )


LAYERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "dense": (lambda: layers.Dense(3, activation="gelu"), X),
    "convolutions": (convolutions, IMAGE),
    "attention": (attention, TEXT),
    "LSTM": (lambda: layers.LSTM(3), TEXT),
    "bidirectional GRU": (lambda: layers.Bidirectional(layers.GRU(3)), TEXT),
    "spectral normalization": (lambda: layers.SpectralNormalization(layers.Dense(3)), X),
}


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    trace = _calls.Call._trace
    monkeypatch.setattr(_calls.Call, "_trace", lambda self, f: (made.append(1), trace(self, f))[1])
    return made


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_traced_once(name: str, traces: list[int]) -> None:
    make, x = LAYERS[name]
    layer = make()
    layer(x)
    expected = vjp(lambda x: layer(x), x)
    traces.clear()
    for _ in range(3):
        np.testing.assert_allclose(vjp(layer, x), expected, rtol=1e-6, atol=1e-6)
        jvp(layer, x)
        linearize(layer, x)
    assert len(traces) == 1
    same_as_anew(layer, x)


def test_a_layer_that_is_built_by_the_call() -> None:
    layer = layers.Dense(3)
    for _ in range(3):
        same_as_anew(layer, X)


def test_shapes_and_dtypes(traces: list[int]) -> None:
    layer = layers.Dense(3)
    layer(X)
    traces.clear()
    for x in (X, X[:2], tf.cast(X, tf.float64)):
        for _ in range(3):
            assert vjp(layer, x).dtype == x.dtype
    assert len(traces) == 3


def freeze(model: Any) -> None:
    model.layers[1].trainable = False


def set_weights(model: Any) -> None:
    model.set_weights([w + 1 for w in model.get_weights()])


def other_weights(model: Any) -> None:
    layer = model.layers[0]
    layer._tracker.unlock()
    layer._kernel = keras.Variable(2 * layer.kernel)


def other_activation(model: Any) -> None:
    model.layers[0].activation = keras.activations.tanh


def users_activation(model: Any) -> None:
    model.layers[0].activation = lambda x: x * FACTOR[0]


def another_layer(model: Any) -> None:
    model.add(layers.Dense(2))


def one_layer_less(model: Any) -> None:
    model.pop()


def other_policy(model: Any) -> None:
    model.layers[0].dtype_policy = keras.DTypePolicy("mixed_float16")


def quantize(model: Any) -> None:
    model.layers[0].quantize("int8")


def lora(model: Any) -> None:
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(tf.ones_like(model.layers[0].lora_kernel_b))


def other_method(model: Any) -> None:
    model.layers[0].call = lambda x: 7 * x


FACTOR = [3.0]
CHANGES = [
    *(freeze, set_weights, other_weights, other_activation, users_activation, another_layer, one_layer_less),
    *(other_policy, quantize, lora, other_method),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_changes_is_traced_anew(change: Callable[[Any], None]) -> None:
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(4, activation="tanh")]
    )
    model(X)
    for _ in range(2):
        same_as_anew(model, X)
    change(model)
    for _ in range(2):
        same_as_anew(model, X)


def test_what_a_user_wrote_is_traced_each_time() -> None:
    class Scaled(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return FACTOR[0] * x

    of_lambda = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: FACTOR[0] * x)])
    for layer in (Scaled(), keras.Sequential([Scaled()]), of_lambda):
        for factor in (1.0, 2.0, 3.0):
            FACTOR[0] = factor
            np.testing.assert_allclose(vjp(layer, X), tf.fill(X.shape, factor))


def test_in_a_stateless_scope() -> None:
    layer = layers.Dense(3)
    layer(X)
    vjp(layer, X)
    with keras.StatelessScope(state_mapping=[(layer.kernel, tf.zeros_like(layer.kernel.value))]):
        np.testing.assert_allclose(vjp(layer, X), tf.zeros_like(X))
    same_as_anew(layer, X)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_not_kept(name: str) -> None:
    def use() -> list[weakref.ref[Any]]:
        make, x = LAYERS[name]
        layer = make()
        for _ in range(3):
            vjp(layer, x)
        return [weakref.ref(layer), *[weakref.ref(v) for v in layer.weights]]

    kept = use()
    keras.utils.clear_session()
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)
