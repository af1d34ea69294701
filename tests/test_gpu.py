"""Where there is a GPU, and `-m gpu` asks for it: gradients there beside those of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from benchmarks.methods import METHODS
from benchmarks.workloads import workloads
from tests.cases import FAMILIES, cases
from tests.spec import Case, Point, possible_dtypes
from tests.structure import concrete
from tf_symgrad import symbolic_gradient

pytestmark = pytest.mark.gpu

CPU, GPU = "/cpu:0", "/gpu:0"

# Whose kernels for GPUs compute something else, so that there is nothing to compare.
_WINNER = "which of several values for one place wins is not defined"
_CUDNN = "what the forward op hands on is what cuDNN made, not mean and variance"
_WEIGHTS = "TensorFlow's kernel for GPUs refuses weights"
_MAPS = "TensorFlow can't add up maps on GPUs"
DIFFERENT = {
    "SparseToDense": _WINNER,
    "TensorScatterUpdate": _WINNER,
    "InplaceUpdate": _WINNER,
    "TopKV2": "the order of what is not sorted is not defined",
    "Svd": "vectors may have either sign",
    "FusedBatchNormGrad": _CUDNN,
    "FusedBatchNormGradV2": _CUDNN,
    "FusedBatchNormGradV3": _CUDNN,
    "AdjustHue": "the hue of colours outside of [0, 1] is another",
    "Bincount": _WEIGHTS,
    "DenseBincount": _WEIGHTS,
    "TensorMapInsert": _MAPS,
    "TensorMapLookup": _MAPS,
    "TensorMapErase": _MAPS,
    "StridedSlice": "TensorFlow's optimiser ends the process where indices are int16 (tests/cases/array.py has such)",
}


def gradients_on(device: str, case: Case) -> list[Any]:
    """The gradients of a case, at its point, by the op in a function."""
    point = Point(case, "f")
    with tf.device(device):
        x = [tf.identity(v) for v in point.x]
        f = concrete(point.f, x)
        dy = [tf.identity(v) for v in point.cotangents(f(*x))]
        return list(tf.function(lambda *v: symbolic_gradient(list(v), f=f), autograph=False)(*x, *dy))


def difference(case: Case) -> str:
    try:
        got, want = gradients_on(GPU, case), gradients_on(CPU, case)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-3)
    except AssertionError as error:
        return f"{case}: {' '.join(str(error).split())[:200]}"
    except tf.errors.OpError as error:
        return f"{case}: {type(error).__name__}: {error.message[:200]}"
    return ""


@pytest.mark.parametrize("family", FAMILIES)
def test_cases(family: str) -> None:
    """A GPU computes what it has kernels for, the CPU the rest."""
    chosen = [case for case in cases(family) if not (case.graph_only or case.compiled or case.op in DIFFERENT)]
    checked = [case for case in chosen if "f" in (case.dtypes or possible_dtypes(case))]
    assert not "\n".join(filter(None, map(difference, checked)))


# ---- Functions from four numbers to four. ----


def says(x: Any) -> Any:
    """Strings, of which a GPU has no kernels."""
    tf.debugging.assert_less(x, 100.0, message="x is too large")
    return tf.cast(tf.strings.length(tf.strings.join(["a", "bc"])), tf.float32) * tf.sin(x)


def counts(x: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 5, lambda i, x: (i + 1, tf.sin(x) * tf.cast(i, tf.float32) + x), (0, x))[1]


def chooses(x: Any) -> Any:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.exp(x), lambda: x**2) * tf.gather(x, tf.argsort(x))


def maps(x: Any) -> Any:
    return tf.reduce_sum(tf.map_fn(lambda v: tf.scan(lambda a, b: a * b + v, x), x), 0)


def calls(x: Any) -> Any:
    @tf.function
    def layer(x: Any) -> Any:
        return tf.tanh(tf.linalg.matvec(tf.reshape(tf.tile(x, [4]), [4, 4]), x))

    return tf_symgrad.value_and_grad(lambda x: tf.reduce_sum(layer(layer(x)) ** 2))(x)[1]


def normalizes(x: Any) -> Any:
    """Its second derivatives are right whatever cuDNN hands from the forward op to the backward one."""
    x = tf.reshape(tf.tile(x, [6]), [2, 3, 1, 4]) * tf.reshape(tf.range(24.0), [2, 3, 1, 4])
    y, *_ = tf.compat.v1.nn.fused_batch_norm(x, tf.ones(4), tf.zeros(4))
    return tf.reduce_sum(tf.nn.conv2d(y, tf.ones([2, 1, 4, 4]), 1, "SAME") ** 2, [0, 1, 2])


def looks_up(x: Any) -> Any:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0]), 0.0)
    return x**2 * table.lookup(tf.constant(["b", "a", "c", "b"]))


FUNCTIONS = [says, counts, chooses, maps, calls, normalizes, looks_up]


def second_derivative(f: Callable[..., Any]) -> Callable[..., Any]:
    def first(x: Any) -> Any:
        return tf.reduce_sum(tf_symgrad.grad(lambda x: tf.reduce_sum(f(x)))(x) ** 2)

    return tf_symgrad.grad(first)


def agree(f: Callable[..., Any]) -> None:
    x = tf.constant([0.3, -0.2, 0.7, 0.9])
    results = []
    for device in GPU, CPU:
        with tf.device(device):
            results.append(f(tf.identity(x)))
    np.testing.assert_allclose(*results, rtol=1e-2, atol=1e-4)  # of second derivatives through cuDNN


@pytest.mark.parametrize("door", ["pass", "kernel"])
@pytest.mark.parametrize("f", FUNCTIONS)
def test_functions(f: Callable[..., Any], door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1" if door == "kernel" else "0")
    g = tf.function(f)
    agree(lambda x: symbolic_gradient([x, tf.ones(4)], f=g)[0])  # an eager op
    agree(tf.function(lambda x: symbolic_gradient([x, tf.ones(4)], f=g)[0]))
    agree(second_derivative(g))


@pytest.mark.parametrize("f", [counts, chooses, calls, normalizes])
def test_compiled(f: Callable[..., Any]) -> None:
    agree(tf.function(second_derivative(f), jit_compile=True))


def test_the_stock_op() -> None:
    f = tf.function(lambda x: tf.math.asinh(x) * x)

    def gradient(x: Any) -> Any:
        return tf.raw_ops.SymbolicGradient(input=[x, tf.ones_like(x)], Tout=[x.dtype], f=f.get_concrete_function(x))[0]

    tf_symgrad.replace_stock_op()
    try:
        agree(gradient)
        agree(tf.function(gradient))
    finally:
        tf_symgrad.restore_stock_op()


def test_enabled() -> None:
    """Keras with batch normalisation and dropout: the same losses on the way down."""

    def losses(native: bool) -> list[float]:
        tf.keras.utils.set_random_seed(1)
        layers = tf.keras.layers
        model = tf.keras.Sequential(
            [
                layers.Conv2D(4, 3),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dropout(0.2),
                layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        x, y = np.random.default_rng(0).random((64, 8, 8, 3), np.float32), np.arange(64) % 3
        if not native:
            return list(model.fit(x, y, epochs=3, verbose=0, shuffle=False).history["loss"])
        with tf_symgrad.native():
            return list(model.fit(x, y, epochs=3, verbose=0, shuffle=False).history["loss"])

    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-4)


# ---- What travels. ----


def partitions(call: Callable[[], Any]) -> Iterable[Any]:
    from tensorflow.python.eager import context

    runtime = context.context()
    runtime.clear_kernel_cache()
    runtime.enable_graph_collection()
    try:
        call()
        return [g for graphs in runtime.export_run_metadata().function_graphs for g in graphs.partition_graphs]
    finally:
        runtime.disable_graph_collection()


def copies(method: str, workload: str) -> int:
    [made] = [w for w in workloads(quick=True) if w.name == workload]
    built = METHODS[method].build(made.make(METHODS[method].operations()))
    graphs = partitions(built.call)
    assert graphs
    return sum(node.op == "_Send" for graph in graphs for node in graph.node)


@pytest.mark.parametrize("workload", ["transformer", "lstm", "embedding", "pinn"])
def test_no_copy_more_than_the_tape(workload: str) -> None:
    assert copies("tf_symgrad", workload) <= copies("GradientTape", workload)
