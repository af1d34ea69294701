"""`python -m benchmarks.fit`: Keras' fit with and without `tf_symgrad.enable()`, in CPU time, a process for each."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def _applications(name: str) -> Any:
    from tensorflow import keras

    return getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)


def _transformer(layers: int = 12, width: int = 64) -> Any:
    from tensorflow import keras

    inputs = h = keras.Input((32,), dtype="int32")
    h = keras.layers.Embedding(100, width)(h)
    for _ in range(layers):
        attended = keras.layers.MultiHeadAttention(4, width // 4, dropout=0.1)(h, h)
        h = keras.layers.LayerNormalization()(h + attended)
        wide = keras.layers.Dense(2 * width, activation="gelu")(h)
        h = keras.layers.LayerNormalization()(h + keras.layers.Dropout(0.1)(keras.layers.Dense(width)(wide)))
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling1D()(h))
    return keras.Model(inputs, outputs)


def _lstm() -> Any:
    from tensorflow import keras

    layers = keras.layers
    return keras.Sequential([layers.Embedding(100, 32), layers.LSTM(64), layers.Dense(10, activation="softmax")])


def _dense() -> Any:
    from tensorflow import keras

    layers = keras.layers
    return keras.Sequential([layers.Flatten(), layers.Dense(8, "tanh"), layers.Dense(10, activation="softmax")])


class _SparseProcess:
    """A sparse variational Gaussian process of GPflow, with a step of its own, as much of a Keras model as is used."""

    def __init__(self, inducing: int = 50) -> None:
        import gpflow

        points = np.random.default_rng(2).random((inducing, 2))
        kernel = gpflow.kernels.Matern52(lengthscales=[0.5, 1.0]) + gpflow.kernels.SquaredExponential()
        self._process = gpflow.models.SVGP(kernel, gpflow.likelihoods.StudentT(), points, num_data=1000)

    def compile(self, optimizer: Any, **_: Any) -> None:
        import tensorflow as tf

        variables = self._process.trainable_variables
        optimizer.build(variables)

        @tf.function
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = self._process.training_loss((x, y))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        self._step = step

    def train_on_batch(self, x: Any, y: Any) -> Any:
        return self._step(x.astype(np.float64), y[:, None].astype(np.float64)).numpy()

    def get_weights(self) -> list[Any]:
        return [v.numpy() for v in self._process.trainable_variables]


Make = Callable[[], Any]
MODELS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "ResNet50": (lambda: _applications("ResNet50"), (64, 64, 3)),
    "EfficientNetV2B0": (lambda: _applications("EfficientNetV2B0"), (64, 64, 3)),
    "transformer": (_transformer, (32,)),
    "LSTM": (_lstm, (32,)),
    "SVGP": (_SparseProcess, (2,)),  # needs gpflow: the environment of `make test-models`
    "dense": (_dense, (4, 4, 3)),
}
OPTIMIZERS = ("SGD", "Adam")
STEPS = 10
_OFF = "off"


def measure(model: str, optimizer: str, optimize: str) -> dict[str, Any]:
    """One training, of which the first step is told apart: it traces. Times are CPU seconds of the process."""
    import tensorflow as tf
    from tensorflow import keras
    from tensorflow.python.eager import imperative_grad

    import tf_symgrad

    keras.utils.set_random_seed(1)
    make, shape = MODELS[model]
    built, random = make(), np.random.default_rng(1)
    ids = shape == (32,)
    x = random.integers(0, 100, (4, *shape)) if ids else random.random((4, *shape), np.float32)
    y = random.integers(0, 10, 4)
    built.compile(getattr(keras.optimizers, optimizer)(1e-3), loss="sparse_categorical_crossentropy", jit_compile=False)
    tf_symgrad.load()
    if optimize != _OFF:
        tf_symgrad.enable(optimize)
    gradient, counts, stock = 0.0, 0, imperative_grad.imperative_grad

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal gradient, counts
        begin = time.process_time()
        result = stock(*args, **kwargs)
        gradient += time.process_time() - begin
        counts = len(tf.compat.v1.get_default_graph().get_operations())
        return result

    imperative_grad.imperative_grad = timed
    begin = time.process_time()
    losses = [built.train_on_batch(x, y)]
    first = time.process_time() - begin
    steps = []
    for _ in range(STEPS):
        begin = time.process_time()
        losses.append(built.train_on_batch(x, y))
        steps.append(time.process_time() - begin)
    weights = np.concatenate([np.ravel(w) for w in built.get_weights()])
    return {
        "gradient": gradient,
        "first": first,
        "ops": counts,
        "step": statistics.median(steps),
        "losses": [float(loss) for loss in losses],
        "weights": hashlib.sha256(weights.tobytes()).hexdigest(),
    }


def _in_a_process(model: str, optimizer: str, optimize: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.fit", "--one", model, optimizer, optimize]
    env = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    answer = subprocess.run(command, env=env, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"{model}, {optimizer}:\n{answer.stderr}")
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def _row(model: str, optimizer: str, optimize: str, repeat: int) -> str:
    runs = [[_in_a_process(model, optimizer, how) for how in (_OFF, optimize)] for _ in range(repeat)]
    stock, ours = (
        {name: statistics.median(run[i][name] for run in runs) for name in ("gradient", "first", "ops", "step")}
        for i in (0, 1)
    )
    off, on = runs[0]
    largest = max(abs(a - b) / max(abs(a), 1e-30) for a, b in zip(off["losses"], on["losses"], strict=True))
    equal = "equal" if off["losses"] == on["losses"] and off["weights"] == on["weights"] else f"{largest:.0e}"
    times = f"{stock['gradient']:.2f} → {ours['gradient']:.2f} s | {stock['gradient'] / ours['gradient']:.1f}"
    rest = [ours["first"] / stock["first"], ours["ops"] / stock["ops"], ours["step"] / stock["step"]]
    return f"| {model}, {optimizer} | {times} | {' | '.join(f'{ratio:.2f}' for ratio in rest)} | {equal} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__.partition(": ")[2])
    parser.add_argument("--models", default="ResNet50,EfficientNetV2B0,transformer,LSTM", help=", ".join(MODELS))
    parser.add_argument("--optimizers", default=",".join(OPTIMIZERS))
    parser.add_argument("--repeat", type=int, default=1, help="processes for each cell, whose median counts")
    parser.add_argument("--optimize", default="grappler", help="of enable(): grappler or native")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "OPTIMIZER", "OPTIMIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(*options.one)))
        return 0
    print("| | gradient, traced | times faster | first step | graph ops | later steps | losses, weights |")
    print("|---|---|---|---|---|---|---|")
    for model in options.models.split(","):
        for optimizer in options.optimizers.split(","):
            print(_row(model, optimizer, options.optimize, options.repeat), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
