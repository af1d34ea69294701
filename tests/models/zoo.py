"""The models: each makes a scalar function, its inputs and the variables that it is trained on.

Everything is in float64, so that a difference is a mistake and not a matter of rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import tf_symgrad

Fn = Callable[..., Any]


class Model(NamedTuple):
    f: Fn  # of inputs, to a scalar loss
    inputs: list[Any]
    variables: list[tf.Variable]
    signature: list[tf.TensorSpec] | None = None  # of the inputs, where they are not all known


MODELS: dict[str, Callable[[], Model]] = {}


def model(name: str) -> Callable[[Callable[[], Model]], Callable[[], Model]]:
    def register(make: Callable[[], Model]) -> Callable[[], Model]:
        MODELS[name] = make
        return make

    return register


def rand(*shape: int, lo: float = -1.0, hi: float = 1.0) -> Any:
    return tf.constant(np.random.default_rng(len(shape) + sum(shape)).uniform(lo, hi, shape))


def keras(layer: Any, x: Any, training: bool, signature: list[tf.TensorSpec] | None = None) -> Model:
    """The loss is one that no symmetry of the model makes zero."""
    y = layer(x, training=training)
    weights = rand(*y.shape)

    def loss(x: Any) -> Any:
        y = layer(x, training=training)
        return tf.reduce_sum(y * tf.reshape(weights, tf.shape(y))) + tf.reduce_mean(y**2)

    return Model(loss, [x], [v.value for v in layer.trainable_variables], signature)


# ---- Images ----


def application(name: str, size: int) -> Callable[[bool], Model]:
    def make(training: bool) -> Model:
        network = getattr(tf.keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
        scale = 1.0 if "include_preprocessing" not in network.get_config() else 255.0
        return keras(network, rand(2, size, size, 3, lo=0.0, hi=scale), training)

    return make


for _name, _size in [("ResNet50", 40), ("EfficientNetV2B0", 32), ("ConvNeXtTiny", 32), ("MobileNetV3Small", 32)]:
    for _training in (True, False):
        _make = application(_name, _size)
        model(f"{_name}, {'training' if _training else 'inference'}")(lambda m=_make, t=_training: m(t))


# ---- Sequences ----


def recurrent(layer: Fn, length: int | None, masked: bool) -> Model:
    inputs = tf.keras.Input([length, 4])
    x = tf.keras.layers.Masking()(inputs) if masked else inputs
    network = tf.keras.Model(inputs, tf.keras.layers.Dense(2)(layer()(x)))
    x = rand(3, 7, 4).numpy()
    if masked:
        x[0, 5:] = x[2, 2:] = 0.0
    spec = None if length else [tf.TensorSpec([None, None, 4], tf.float64)]
    return keras(network, tf.constant(x), True, spec)


_RECURRENT: dict[str, Fn] = {
    "SimpleRNN": lambda: tf.keras.layers.SimpleRNN(5),
    "LSTM": lambda: tf.keras.layers.LSTM(5),
    "GRU": lambda: tf.keras.layers.GRU(5),
    "bidirectional LSTM": lambda: tf.keras.layers.Bidirectional(tf.keras.layers.LSTM(5)),
}
for _name, _layer in _RECURRENT.items():
    model(f"{_name}, static length")(lambda f=_layer: recurrent(f, 7, False))
    model(f"{_name}, variable length")(lambda f=_layer: recurrent(f, None, False))
    model(f"{_name}, masked")(lambda f=_layer: recurrent(f, None, True))


def transformer(training: bool) -> Model:
    layers = tf.keras.layers
    tokens = tf.keras.Input([None], dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(tokens)
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=True)
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(attended))
        y = layers.Dense(8)(layers.Dense(16, activation="gelu")(x))
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
    network = tf.keras.Model(tokens, layers.Dense(20)(x))
    text = tf.constant(np.random.default_rng(0).integers(1, 20, (2, 9)), tf.int32)
    text = text * tf.constant([[1] * 9, [1] * 6 + [0] * 3])
    labels = tf.roll(text, -1, 1)

    def loss(text: Any, labels: Any) -> Any:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, network(text, training=training))
        return tf.reduce_mean(losses)

    spec = tf.TensorSpec([None, None], tf.int32)
    return Model(loss, [text, labels], [v.value for v in network.trainable_variables], [spec, spec])


model("transformer, training")(lambda: transformer(True))
model("transformer, inference")(lambda: transformer(False))


# ---- Gaussian processes ----


@model("GPflow GPR")
def gpr() -> Model:
    import gpflow

    kernel = gpflow.kernels.Matern52(lengthscales=[0.5, 1.0]) + gpflow.kernels.RBF() * gpflow.kernels.Linear()
    x, y = rand(20, 2), rand(20, 1)
    gp = gpflow.models.GPR((x, y), kernel)
    return Model(lambda: gp.training_loss(), [], list(gp.trainable_variables))


@model("GPflow SVGP")
def svgp() -> Model:
    import gpflow

    x, y = rand(30, 2), tf.cast(rand(30, 1) > 0, tf.float64)
    gp = gpflow.models.SVGP(
        gpflow.kernels.SquaredExponential(), gpflow.likelihoods.Bernoulli(), rand(6, 2), num_data=30
    )
    gp.q_mu.assign(rand(6, 1))
    return Model(lambda x, y: gp.training_loss((x, y)), [x, y], list(gp.trainable_variables))


# ---- Probability ----


@model("TFP ELBO")
def elbo() -> Model:
    import tensorflow_probability as tfp

    d = tfp.distributions
    x, y = rand(12, 3), rand(12)
    location, scale = tf.Variable(rand(3)), tfp.util.TransformedVariable(rand(3, lo=0.5), tfp.bijectors.Softplus())

    def loss(x: Any, y: Any) -> Any:
        posterior = d.MultivariateNormalDiag(location, scale)
        w = posterior.sample(5, seed=[1, 2])
        noise = d.Gamma(tf.exp(location[0]), 2.0).sample(seed=[3, 4])
        likelihood = d.StudentT(4.0, tf.linalg.matmul(w, x, transpose_b=True), noise).log_prob(y)
        prior = d.MultivariateNormalDiag(tf.zeros(3, tf.float64)).log_prob(w)
        return -tf.reduce_mean(tf.reduce_sum(likelihood, 1) + prior - posterior.log_prob(w))

    return Model(loss, [x, y], [location, *scale.trainable_variables])


@model("TFP normalizing flow")
def flow() -> Model:
    import tensorflow_probability as tfp

    d, b = tfp.distributions, tfp.bijectors
    shift, slope, tril = tf.Variable(rand(2)), tf.Variable(rand(2, lo=0.5)), tf.Variable(rand(3))

    def loss(x: Any) -> Any:
        lower = tfp.math.fill_triangular(tril) + 2 * tf.eye(2, dtype=tf.float64)
        chain = b.Chain([b.Shift(shift), b.ScaleMatvecTriL(lower), b.SinhArcsinh(skewness=slope), b.Tanh()])
        flow = d.TransformedDistribution(d.MultivariateNormalDiag(tf.zeros(2, tf.float64)), b.Invert(chain))
        return -tf.reduce_mean(flow.log_prob(x))

    return Model(loss, [rand(6, 2)], [shift, slope, tril])


@model("TFP HMC")
def hmc() -> Model:
    """Two steps of a chain: a loop in a loop, with a tape in it."""
    import tensorflow_probability as tfp

    scale = tf.Variable(rand(3, lo=0.5))

    def loss(x: Any) -> Any:
        kernel = tfp.mcmc.HamiltonianMonteCarlo(
            lambda x: -tf.reduce_sum((x / scale) ** 2 + tf.sin(x)), step_size=0.1, num_leapfrog_steps=3
        )
        states = tfp.mcmc.sample_chain(2, x, kernel=kernel, trace_fn=None, seed=[5, 6])
        return tf.reduce_sum(states * rand(2, 3))

    return Model(loss, [rand(3)], [scale])


# ---- Differential equations ----


def physics(derivative: Callable[[Fn, Any], Any]) -> Model:
    """The residual of Burgers' equation, u_t + u u_x - nu u_xx, of a network that is to solve it."""
    sizes = [2, 12, 12, 1]
    layers = [(tf.Variable(rand(m, n)), tf.Variable(rand(n, lo=-0.1))) for m, n in itertools.pairwise(sizes)]

    @tf.autograph.experimental.do_not_convert
    def u(t: Any, x: Any) -> Any:
        h = tf.stack([t, x], 1)
        for i, (w, b) in enumerate(layers):
            h = tf.matmul(h, w) + b
            h = tf.tanh(h) if i + 1 < len(layers) else h
        return h[:, 0]

    def loss(t: Any, x: Any) -> Any:
        u_t = derivative(lambda t: u(t, x), t)
        u_x = derivative(lambda x: u(t, x), x)
        u_xx = derivative(lambda x: derivative(lambda x: u(t, x), x), x)
        return tf.reduce_mean((u_t + u(t, x) * u_x - 0.01 * u_xx) ** 2)

    return Model(loss, [rand(16, lo=0.0), rand(16)], [v for layer in layers for v in layer])


def by_tape(f: Fn, x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x)


def by_op(f: Fn, x: Any) -> Any:
    return tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=tf.autograph.experimental.do_not_convert(f))[0]


model("physics-informed, tape inside")(lambda: physics(by_tape))
model("physics-informed, op inside")(lambda: physics(by_op))
