"""What is differentiated: scalar losses of growing size, the same for every method."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """A scalar loss, and what to differentiate it with respect to: its parameters; `args` where it has none.

    Attributes:
      loss: takes `args`, then the parameters; returns a scalar.
      args: arrays; traced with their shapes.
      parameters: arrays, of which TensorFlow's methods make variables that the traced function captures.
      variables: parameters that the loss captures itself, those of a model.
    """

    loss: Callable[..., Any]
    args: tuple[Any, ...]
    parameters: tuple[Any, ...] = ()
    variables: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Workload:
    """A named problem.

    Attributes:
      make: takes the array operations that the loss is to be written with (see `operations`).
      excluded: methods that can't run it, and why.
      module: what must be installed.
    """

    name: str
    make: Callable[[Any], Problem]
    excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    module: str = "tensorflow"


# ---- Small pieces ----


def chain(length: int, xp: Any) -> Problem:
    """Elementwise ops one after another, on a vector too short for their arithmetic to matter."""
    ops = (xp.tanh, xp.sin, xp.sigmoid, xp.square)

    def loss(x: Any) -> Any:
        for i in range(length):
            x = ops[i % len(ops)](x)
        return xp.sum(x)

    return Problem(loss, (_normal(16),))


def calls(count: int, xp: Any) -> Problem:
    """One traced layer, called many times."""
    import tensorflow as tf

    del xp
    layer = tf.function(lambda x, w: tf.tanh(x @ w), autograph=False)

    def loss(x: Any, w: Any) -> Any:
        w = tf.convert_to_tensor(w)
        for _ in range(count):
            x = layer(x, w)
        return tf.reduce_sum(x)

    return Problem(loss, (_normal(4, 16),), (_normal(16, 16),))


def embedding(rows: int, width: int, xp: Any) -> Problem:
    """A table in which a few rows are looked up. Its gradient is dense, as all gradients are here."""
    ids = np.random.default_rng(0).integers(0, rows, 64).astype(np.int32)
    return Problem(lambda ids, table: xp.sum(xp.tanh(xp.take(table, ids))), (ids,), (_normal(rows, width),))


def third_order(width: int, xp: Any) -> Problem:
    """A sum of second derivatives of a small network, whose gradient is of order 3."""

    def loss(x: Any, w: Any) -> Any:
        def first(x: Any) -> Any:
            return xp.sum(xp.tanh(xp.matmul(xp.tanh(xp.matmul(x, w)), w)))

        def second(x: Any) -> Any:
            return xp.sum(xp.square(xp.derivative(first)(x)))

        return xp.sum(xp.square(xp.derivative(second)(x)))

    return Problem(loss, (_normal(8, width),), (_normal(width, width),))


# ---- Models ----


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


def pinn(depth: int, width: int, points: int, xp: Any) -> Problem:
    """The residual of Burgers' equation, u_t + u u_x = ν u_xx, of a dense network: second derivatives in the loss."""
    sizes = [2, *[width] * depth, 1]
    shapes = [shape for pair in itertools.pairwise(sizes) for shape in (pair, pair[1:])]

    def loss(points: Any, *weights: Any) -> Any:
        def u(x: Any) -> Any:
            layers = iter(weights)
            for _ in range(depth):
                x = xp.tanh(xp.matmul(x, next(layers)) + next(layers))
            return xp.matmul(x, next(layers)) + next(layers)

        def slopes(x: Any) -> Any:
            return xp.derivative(lambda x: xp.sum(u(x)))(x)

        curvature = xp.derivative(lambda x: xp.sum(slopes(x)[:, 1]))(points)
        slope = slopes(points)
        return xp.mean(xp.square(slope[:, 0] + u(points)[:, 0] * slope[:, 1] - 0.01 * curvature[:, 1]))

    return Problem(loss, (_normal(points, 2),), tuple(_normal(*shape) for shape in shapes))


def lstm(units: int, batch: int, steps: int, xp: Any) -> Problem:
    """An LSTM of one layer, by a loop: `tf.while_loop`, `jax.lax.scan`."""

    def loss(xs: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, c = carry
            i, f, g, o = xp.split(xp.matmul(x, kernel) + xp.matmul(h, recurrent) + bias, 4)
            c = xp.sigmoid(f) * c + xp.sigmoid(i) * xp.tanh(g)
            return xp.sigmoid(o) * xp.tanh(c), c

        zeros = xp.zeros([batch, units])
        h, _ = xp.scan(step, (zeros, zeros), xs)
        return xp.sum(xp.square(h))

    weights = _normal(units, 4 * units), _normal(units, 4 * units), np.zeros(4 * units, np.float32)
    return Problem(loss, (_normal(steps, batch, units),), weights)


def transformer(layers: int, batch: int, length: int, width: int, heads: int, vocabulary: int, xp: Any) -> Problem:
    """A transformer encoder with learned embeddings, attention, layer norm and gelu, that predicts its own tokens."""
    parameters: list[Any] = []

    def dense(inputs: int, outputs: int) -> None:
        parameters.extend([_normal(inputs, outputs), np.zeros(outputs, np.float32)])

    def norm() -> None:
        parameters.extend([np.ones(width, np.float32), np.zeros(width, np.float32)])

    parameters.extend([_normal(vocabulary, width), _normal(length, width)])
    for _ in range(layers):
        norm()
        for _ in range(4):
            dense(width, width)
        norm()
        dense(width, 4 * width)
        dense(4 * width, width)
    norm()
    dense(width, vocabulary)

    def heads_of(x: Any) -> Any:
        return xp.transpose(xp.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))

    def loss(ids: Any, *parameters: Any) -> Any:
        next_parameter = iter(parameters).__next__

        def project(x: Any) -> Any:
            return xp.einsum("btd,de->bte", x, next_parameter()) + next_parameter()

        def normalize(x: Any) -> Any:
            x = x - xp.mean_of_rows(x)
            return x * xp.rsqrt(xp.mean_of_rows(xp.square(x)) + 1e-6) * next_parameter() + next_parameter()

        def attend(x: Any) -> Any:
            query, key, value = (heads_of(project(x)) for _ in range(3))
            weights = xp.softmax(xp.einsum("bhqd,bhkd->bhqk", query, key) * (width // heads) ** -0.5)
            mixed = xp.transpose(xp.einsum("bhqk,bhkd->bhqd", weights, value), (0, 2, 1, 3))
            return project(xp.reshape(mixed, (batch, length, width)))

        x = xp.take(next_parameter(), ids) + next_parameter()
        for _ in range(layers):
            x = x + attend(normalize(x))
            x = x + project(xp.gelu(project(normalize(x))))
        return xp.cross_entropy(ids, project(normalize(x)))

    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length)).astype(np.int32)
    return Problem(loss, (ids,), tuple(parameters))


def keras_model(name: str, training: bool, batch: int, size: int, xp: Any) -> Problem:
    """One of Keras' applications, its BatchNorm in training or inference mode."""
    import keras
    import tensorflow as tf

    del xp
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=100)

    def loss(images: Any, labels: Any) -> Any:
        probabilities = model(images, training=training)
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))

    labels = np.arange(batch, dtype=np.int32) % 100
    variables = tuple(v.value for v in model.trainable_variables)
    return Problem(loss, (_normal(batch, size, size, 3), labels), variables=variables)


def svgp(inducing: int, batch: int, xp: Any) -> Problem:
    """GPflow's sparse variational Gaussian process: a Cholesky, triangular solves, quadrature."""
    import gpflow

    del xp
    random = np.random.default_rng(0)
    x, y = random.random((batch, 4)), random.integers(0, 2, (batch, 1)).astype(np.float64)
    model = gpflow.models.SVGP(
        gpflow.kernels.Matern52(lengthscales=[0.5] * 4), gpflow.likelihoods.Bernoulli(), x[:inducing], num_data=batch
    )
    return Problem(lambda x, y: -model.elbo((x, y)), (x, y), variables=model.trainable_variables)


# ---- The lists ----

_OTHERS = ("jax", "torch", "torch+compile")
_MODEL = {
    "stock": "it differentiates with respect to arguments, not to the variables of a model",
    **dict.fromkeys(_OTHERS, "the model is written in TensorFlow"),
}
_SPARSE = {"stock": "it has no gradient of SparseSoftmaxCrossEntropyWithLogits"}
_LOOP = {"stock": "it has no gradient of While"}
_DERIVATIVES = {"stock": "it has no derivatives within a function"}


def workloads(quick: bool) -> list[Workload]:
    """All of them, or small ones that only show that the benchmarks work."""
    lengths = (10, 100) if quick else (10, 100, 1_000, 10_000, 100_000)
    chains = [Workload(f"chain-{n}", functools.partial(chain, n)) for n in lengths]
    if quick:
        return [
            *chains,
            Workload("mlp", functools.partial(mlp, 2, 2, 8)),
            Workload("transformer", functools.partial(transformer, 1, 2, 8, 16, 2, 50), _SPARSE),
            Workload("lstm", functools.partial(lstm, 8, 2, 3), _LOOP),
            Workload("calls", functools.partial(calls, 10), _MODEL),
            Workload("embedding", functools.partial(embedding, 100, 4)),
            Workload("pinn", functools.partial(pinn, 2, 8, 5), _DERIVATIVES),
            Workload("order-3", functools.partial(third_order, 4), _DERIVATIVES),
        ]
    return [
        *chains,
        Workload("mlp", functools.partial(mlp, 20, 10, 64)),
        Workload("transformer", functools.partial(transformer, 6, 2, 64, 256, 4, 30_000), _SPARSE),
        Workload("resnet50-inference", functools.partial(keras_model, "ResNet50", False, 4, 64), _MODEL),
        Workload("resnet50-training", functools.partial(keras_model, "ResNet50", True, 4, 64), _MODEL),
        Workload("efficientnet", functools.partial(keras_model, "EfficientNetV2B0", True, 4, 64), _MODEL),
        Workload("lstm", functools.partial(lstm, 128, 32, 100), _LOOP),
        Workload("calls", functools.partial(calls, 1000), _MODEL),
        Workload("embedding", functools.partial(embedding, 1_000_000, 64)),
        Workload("svgp", functools.partial(svgp, 50, 500), _MODEL, module="gpflow"),
        Workload("pinn", functools.partial(pinn, 6, 64, 2000), _DERIVATIVES),
        Workload("order-3", functools.partial(third_order, 64), _DERIVATIVES),
    ]


def _normal(*shape: int) -> Any:
    """Random values, of a scale that keeps products of such matrices about 1."""
    scale = shape[0] ** -0.5 if len(shape) == 2 else 0.1
    return (scale * np.random.default_rng(len(shape)).standard_normal(shape)).astype(np.float32)
