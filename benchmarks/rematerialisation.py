"""`python -m benchmarks.rematerialisation`: peak memory and step time by what is kept of the forward pass.

Each cell is measured in a process of its own: the time of a step, and by how much the process grows from before the
first step, which builds and optimises the graph as well, to its peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
POLICIES = ("none", "cheap", "auto", "everything", "half")
# How a step is made: by tf_symgrad with a policy; by a tape, with tf.recompute_grad around about sqrt(n) layers; by
# JAX, with jax.checkpoint around as many.
METHODS = (*POLICIES, "tape", "tf.recompute_grad", "jax", "jax.checkpoint")


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model: layers one after another, then a head that makes a scalar.

    Attributes:
      layers: functions of tensors; each is about one n-th of the forward pass.
      head: from the last layer's result to the loss.
      x: the input, of which the first layer is.
      variables: what the gradients are taken of.
    """

    layers: Sequence[Callable[[Any], Any]]
    head: Callable[[Any], Any]
    x: Any
    variables: Sequence[Any]


def mlp(depth: int, batch: int = 16384, units: int = 32) -> Workload:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    scale = math.sqrt(1 / units)
    weights = [tf.Variable((rng.normal(size=(units, units)) * scale).astype(np.float32)) for _ in range(depth)]
    layers = [lambda x, w=w: tf.tanh(tf.matmul(x, w)) for w in weights]
    x = rng.normal(size=(batch, units)).astype(np.float32)
    return Workload(layers, lambda y: tf.reduce_mean(y**2), x, weights)


def transformer(depth: int, batch: int = 8, length: int = 128, width: int = 128, heads: int = 4) -> Workload:
    """Encoder layers with layer norm, attention and gelu."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    variables: list[Any] = []

    def dense(inputs: int, outputs: int) -> Callable[[Any], Any]:
        w = tf.Variable((rng.normal(size=(inputs, outputs)) / math.sqrt(inputs)).astype(np.float32))
        b = tf.Variable(np.zeros(outputs, np.float32))
        variables.extend([w, b])
        return lambda x: tf.einsum("btd,de->bte", x, w) + b

    def norm(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-6)

    def layer() -> Callable[[Any], Any]:
        query, key, value, output = (dense(width, width) for _ in range(4))
        expand, contract = dense(width, 4 * width), dense(4 * width, width)

        def split(x: Any) -> Any:
            return tf.transpose(tf.reshape(x, [batch, length, heads, width // heads]), [0, 2, 1, 3])

        def apply(x: Any) -> Any:
            y = norm(x)
            scores = tf.einsum("bhqd,bhkd->bhqk", split(query(y)), split(key(y))) * (width / heads) ** -0.5
            mixed = tf.einsum("bhqk,bhkd->bhqd", tf.nn.softmax(scores), split(value(y)))
            x = x + output(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [batch, length, width]))
            return x + contract(tf.nn.gelu(expand(norm(x))))

        return apply

    layers = [layer() for _ in range(depth)]
    x = rng.normal(size=(batch, length, width)).astype(np.float32)
    return Workload(layers, lambda y: tf.reduce_mean(norm(y) ** 2), x, variables)


def resnet50(batch: int = 8, size: int = 96) -> Workload:
    """Keras' ResNet50 as it is trained."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None, input_shape=(size, size, 3), classes=100)
    x = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
    variables = [v.value for v in model.trainable_variables]
    return Workload([lambda x: model(x, training=True)], lambda y: tf.reduce_mean(y**2), x, variables)


def workload(name: str) -> Workload:
    kind, _, depth = name.partition("-")
    return {"mlp": mlp, "transformer": transformer, "resnet50": resnet50}[kind](*([int(depth)] if depth else []))


WORKLOADS = ("mlp-64", "mlp-256", "mlp-1024", "transformer-12", "resnet50")


def _ours(w: Workload, policy: str) -> Callable[[], Any]:
    import tensorflow as tf

    import tf_symgrad

    def loss(x: Any) -> Any:
        for layer in w.layers:
            x = layer(x)
        return w.head(x)

    checkpoint: Any = None if policy == "none" else policy
    step = tf.function(tf_symgrad.value_and_grad(loss, wrt=list(w.variables), checkpoint=checkpoint), autograph=False)
    x = tf.constant(w.x)
    return lambda: step(x)


def _tape(w: Workload, segments: int) -> Callable[[], Any]:
    import tensorflow as tf

    size = math.ceil(len(w.layers) / segments)

    def run(layers: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def apply(x: Any) -> Any:
            for layer in layers:
                x = layer(x)
            return x

        return apply

    parts = [run(w.layers[k : k + size]) for k in range(0, len(w.layers), size)]
    if segments > 1:
        parts = [tf.recompute_grad(part) for part in parts]

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            for part in parts:
                x = part(x)
            value = w.head(x)
        return value, tape.gradient(value, list(w.variables))

    compiled, x = tf.function(step, autograph=False), tf.constant(w.x)
    return lambda: compiled(x)


def _jax(name: str, segments: int) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    depth = int(name.partition("-")[2])
    w = mlp(depth)
    weights = [jnp.asarray(v.numpy()) for v in w.variables]
    size = math.ceil(depth / segments)

    def part(x: Any, ws: Any) -> Any:
        for v in ws:
            x = jnp.tanh(x @ v)
        return x

    kept = jax.checkpoint(part) if segments > 1 else part

    def loss(ws: Any, x: Any) -> Any:
        for k in range(0, depth, size):
            x = kept(x, ws[k : k + size])
        return jnp.mean(x**2)

    step, x = jax.jit(jax.value_and_grad(loss)), jnp.asarray(w.x)
    return lambda: jax.block_until_ready(step(weights, x))


def steps(name: str, method: str, peak: float | None) -> Callable[[], Any]:
    """A step by a method. `peak`: that of "none", of which "half" is a budget."""
    if method.startswith("jax"):
        depth = int(name.partition("-")[2])
        return _jax(name, round(math.sqrt(depth)) if method == "jax.checkpoint" else 1)
    w = workload(name)
    if method in POLICIES:
        return _ours(w, str(int((peak or 0) / 2)) if method == "half" else method)
    return _tape(w, round(math.sqrt(len(w.layers))) if method == "tf.recompute_grad" else 1)


def measure(name: str, method: str, peak: float | None) -> dict[str, float]:
    step = steps(name, method, peak)
    before = _status("VmRSS")
    value = step()
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < 20 and sum(seconds) < 3):
        start = time.perf_counter()
        value = step()
        seconds.append(time.perf_counter() - start)
    growth = _status("VmHWM") - before
    norm = math.sqrt(sum(float(np.square(np.asarray(x, np.float64)).sum()) for x in value[1]))
    return {"step": statistics.median(seconds), "norm": norm, "peak": growth}


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def possible(name: str, method: str) -> str:
    """Why a method can't run a workload; empty if it can."""
    if method.startswith("jax") and not name.startswith("mlp"):
        return "written for the mlp alone"
    if method.startswith("jax") and importlib.util.find_spec("jax") is None:
        return "jax is not installed"
    if method == "tf.recompute_grad" and name == "resnet50":
        return "a Keras model is one call"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rematerialisation", description=__doc__)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--cell", action="store_true", help="measure one cell here, and print it as JSON")
    parser.add_argument("--peak", type=float, help="of a cell: the peak without a policy")
    options = parser.parse_args(arguments)
    names, methods = options.workloads.split(","), options.methods.split(",")
    if options.cell:
        print(json.dumps(measure(names[0], methods[0], options.peak)))
        return 0
    print("| workload | kept | peak | of none | step | of none |\n|---|---|---|---|---|---|", flush=True)
    wrong = False
    for name in names:
        none: dict[str, float] = {}
        for method in methods:
            if possible(name, method):
                continue
            cell = _process(name, method, none.get("peak"))
            none = none or cell
            if not cell:
                print(f"| {name} | {method} | failed | | | |", flush=True)
                continue
            peak, step = f"{cell['peak'] / 1e6:,.0f} MB", f"{cell['step'] * 1e3:,.0f} ms"
            relative = f"{cell['peak'] / none['peak']:.2f}", f"{cell['step'] / none['step']:.2f}"
            print(f"| {name} | {method} | {peak} | {relative[0]} | {step} | {relative[1]} |", flush=True)
            if not math.isclose(cell["norm"], none["norm"], rel_tol=1e-3):
                wrong = True
                print(f"{name}, {method}: the norm of the gradients is {cell['norm']}, not {none['norm']}", flush=True)
    return 1 if wrong else 0


def _process(name: str, method: str, peak: float | None) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.rematerialisation", "--cell"]
    command += ["--workloads", name, "--methods", method]
    command += [] if peak is None else ["--peak", str(peak)]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **os.environ}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        print(process.stderr[-2000:], file=sys.stderr)
        return {}
    measured: dict[str, float] = json.loads(process.stdout.strip().splitlines()[-1])
    return measured


if __name__ == "__main__":
    sys.exit(main())
