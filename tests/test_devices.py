"""Functions that span devices: their gradients span the same ones, and copy no more between them than Python's do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

import tf_symgrad
from tf_symgrad import symbolic_gradient

v1 = tf.compat.v1
DEVICES = [f"/cpu:{k}" for k in range(3)]
A = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
B = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)

Function = Callable[..., Any]


def on(k: int) -> Any:
    return tf.device(DEVICES[k])


# ---- Functions of two matrices, with a scalar result. ----


def chain(a: Any, b: Any) -> Any:
    with on(0):
        x = tf.tanh(a @ b)
    with on(1):
        y = tf.sin(x) * x + tf.reduce_sum(x, 0) ** 2
    with on(2):
        z = tf.nn.softmax(y @ tf.transpose(b)) * tf.cos(y)[:, :1]
    with on(0):
        return tf.reduce_sum(z * x[:, :1])


def diamond(a: Any, b: Any) -> Any:
    parts = []
    for k in range(3):
        with on(k):
            parts.append(tf.sigmoid(a * float(k + 1)) @ b + tf.exp(-a) @ b)
    with on(1):
        return tf.reduce_sum(tf.math.multiply(*parts[:2]) / (1.0 + parts[2] ** 2))


def lookups(a: Any, b: Any) -> Any:
    rows = []
    for k in range(3):
        with on(k):
            rows.append(tf.gather(tf.sin(a), [k, 0, k]) * tf.gather(tf.cos(b), [2, k, 2]))
    with on(2):
        return tf.reduce_sum(tf.add_n(rows) ** 2)


def layers(a: Any, b: Any) -> Any:
    layer = tf.function(lambda x, b: tf.tanh(x @ b) + x, autograph=False)
    for k in range(3):
        with on(k):
            a = layer(a, b)
    with on(2):
        return tf.reduce_sum(a)


def branches(a: Any, b: Any) -> Any:
    def branch(k: int) -> Any:
        with on(k):
            return tf.tanh(a @ b) * float(k)

    with on(0):
        y = tf.cond(a[0, 0] > 0, lambda: branch(1), lambda: branch(2))
        return tf.reduce_sum(y * y)


def loop(a: Any, b: Any) -> Any:
    def body(i: Any, x: Any) -> Any:
        with on(1):
            x = tf.tanh(x @ b)
        with on(2):
            return i + 1, x * tf.cos(x)

    return tf.reduce_sum(tf.while_loop(lambda i, _: i < 3, body, (0, a))[1])


# ---- Ways to their gradients. ----


def python(f: Function, *x: Any) -> Any:
    return v1.gradients(f(*x), list(x), colocate_gradients_with_ops=True)


def python_with_value(f: Function, *x: Any) -> Any:
    y = f(*x)
    return [*v1.gradients(y, list(x), colocate_gradients_with_ops=True), y]


def by_op(f: Function, *x: Any) -> Any:
    return symbolic_gradient(list(x), f=f)


def by_value_and_grad(f: Function, *x: Any) -> Any:
    value, gradients = tf_symgrad.value_and_grad(f, wrt=tuple(range(len(x))))(*x)
    return [*gradients, value]


def enabled(f: Function, *x: Any) -> Any:
    with tf_symgrad.native():
        y = f(*x)
        return [*v1.gradients(y, list(x), colocate_gradients_with_ops=True), y]


# What moves tensors or orders nodes, and computes nothing.
MOVES = {"_Send", "_Recv", "_HostSend", "_HostRecv", "_Arg", "_Retval", "NoOp", "Const", "Identity", "Placeholder"}


class Run:
    """What a session of three devices computes, and the graphs that it runs."""

    def __init__(self, way: Callable[..., Any], f: Function) -> None:
        settings = v1.ConfigProto(device_count={"CPU": 3})
        with tf.Graph().as_default(), v1.Session(config=settings) as session:
            with on(0):
                x = [v1.placeholder(tf.float32, v.shape) for v in (A, B)]
            fetches = [tf.convert_to_tensor(g) for g in way(f, *x)]
            metadata = v1.RunMetadata()
            options = v1.RunOptions(output_partition_graphs=True)
            self.values = session.run(fetches, dict(zip(x, (A, B), strict=True)), options, metadata)
        nodes = [node for graph in metadata.partition_graphs for node in graph.node]
        self.copies = sum(node.op in ("_Send", "_HostSend") for node in nodes)
        self.computing = Counter(node.device[-5:] for node in nodes if node.op not in MOVES)


@pytest.mark.parametrize("f", [chain, diamond, lookups, layers])
@pytest.mark.parametrize("way", [by_op, by_value_and_grad, enabled])
def test_spans_the_same_devices(way: Callable[..., Any], f: Function) -> None:
    """Beside tf.gradients that puts gradients where their ops are: no op more on any device, and no copy."""
    run, peer = Run(way, f), Run(python if way is by_op else python_with_value, f)
    for got, want in zip(run.values, peer.values, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert len(peer.computing) == 3
    assert run.computing.keys() == peer.computing.keys()
    assert run.computing.total() <= peer.computing.total()
    assert run.copies <= peer.copies


@pytest.mark.parametrize("f", [branches, loop])
@pytest.mark.parametrize("way", [by_op, by_value_and_grad, enabled])
def test_branches_and_loops_span_the_same_devices(way: Callable[..., Any], f: Function) -> None:
    """Python leaves the gradients of what is within to any device; here they are where it is."""
    run, peer = Run(way, f), Run(python_with_value, f)
    for got, want in zip(run.values, peer.values, strict=False):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    for device in "CPU:1", "CPU:2":
        assert run.computing[device] > peer.computing[device]


# ---- What is no number, by both doors. ----


@pytest.fixture(params=["pass", "kernel"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1" if request.param == "kernel" else "0")
    return str(request.param)


def of_all_kinds(x: Any, i: Any, text: Any, variable: Any, items: Any) -> Any:
    """Of a float, an int32, a string, a variable and a list of tensors."""
    factor = tf.cast(i * tf.strings.length(text), tf.float32)
    item = tf.raw_ops.TensorListGetItem(input_handle=items, index=i, element_shape=[3], element_dtype=tf.float32)
    return factor * x * tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32) * tf.sin(item)


KINDS = [tf.TensorSpec([3]), *(tf.TensorSpec([], t) for t in (tf.int32, tf.string, tf.resource, tf.variant))]


@pytest.mark.parametrize("device", [0, 1])
def test_arguments_of_all_kinds(device: int, door: str) -> None:
    """They are where a body wants them, on a device that is not the variable's either."""
    f = tf.function(of_all_kinds).get_concrete_function(*KINDS)
    settings = v1.ConfigProto(device_count={"CPU": 3})
    with tf.Graph().as_default(), v1.Session(config=settings) as session:
        with on(2):
            v = v1.get_variable("v", initializer=A[0], use_resource=True)
        x = v1.placeholder_with_default(A[1], [3])
        items = tf.raw_ops.TensorListFromTensor(tensor=A, element_shape=[3])
        with on(device):
            dx, dv, items_gradient = symbolic_gradient(
                [x, tf.constant(2), tf.constant("text"), v.handle, items, tf.ones(3)],
                f=f,
                wrt=[True, False, False, True, True],
            )
        stacked = tf.raw_ops.TensorListStack(input_handle=items_gradient, element_shape=[3], element_dtype=tf.float32)
        session.run(v.initializer)
        got = session.run([dx, dv, stacked])
    np.testing.assert_allclose(got[0], 8 * A[0] * np.sin(A[2]), rtol=1e-5)
    np.testing.assert_allclose(got[1], 8 * A[1] * np.sin(A[2]), rtol=1e-5)
    np.testing.assert_allclose(got[2], [*0 * A[:2], 8 * A[0] * A[1] * np.cos(A[2]), 0 * A[3]], rtol=1e-5)


# ---- Determinism. ----


def lookups_of_few(x: Any) -> Any:
    """Thousands of rows that are looked up add up to few."""
    return tf.reduce_sum(tf.gather(x, tf.range(20000) % 3, axis=0) * tf.random.stateless_normal([20000, 4], [1, 2]))


def segments(x: Any) -> Any:
    ids = tf.range(20000) % 3
    return tf.reduce_sum(tf.math.unsorted_segment_prod(tf.gather(x, ids) * 0.1 + 1.0, ids[::-1], 3))


def bilinear(x: Any) -> Any:
    return tf.reduce_sum(tf.image.resize(tf.reshape(x, [1, 2, 2, 3]), [90, 91]) ** 3)


@pytest.mark.parametrize("f", [lookups_of_few, segments, bilinear])
def test_determinism(f: Function) -> None:
    """Where TensorFlow is told to be deterministic, gradients are the same to the last bit."""
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    function = tf.function(f)
    config.enable_op_determinism()
    try:
        results = {bytes(symbolic_gradient([x], f=function)[0].numpy()) for _ in range(10)}
    finally:
        config.disable_op_determinism()
    assert len(results) == 1


def test_what_is_not_deterministic_is_refused() -> None:
    """As f is, and so its gradient by a tape."""
    config.enable_op_determinism()
    try:
        f = tf.function(lambda x: tf.reduce_sum(x * tf.random.uniform([3])), autograph=False)
        with pytest.raises(RuntimeError, match="Random ops require a seed to be set when determinism is enabled"):
            symbolic_gradient([tf.ones([3])], f=f)
    finally:
        config.disable_op_determinism()
