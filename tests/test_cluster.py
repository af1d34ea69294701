"""Many machines: servers on loopback, started and ended here, and strategies; each scene in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TIMEOUT = 240
X = np.array([0.5, -1.0, 2.0], np.float32)
IDS = np.array([[0, 1], [2, 1], [3, 0], [1, 1]], np.int32)
SIGNS = np.array([1, -1, 1, 1], np.float32)
STEPS = 3


def cubed_gradient(x: Any) -> Any:
    """3 x^2, by the op."""
    return symbolic_gradient([x, tf.ones_like(x)], f=lambda x: x * x * x)[0]


# ---- A model, and ways to its gradients. ----


class Model:
    """Rows of a table, a layer, a loss: lookups, products, broadcasting."""

    def __init__(self) -> None:
        def variable(shape: list[int], seed: int) -> Any:
            initial = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
            return tf.Variable(initial, aggregation=tf.VariableAggregation.MEAN)

        self.table, self.w, self.b = variable([4, 3], 0), variable([6, 5], 1), variable([5], 2)
        self.variables = [self.table, self.w, self.b]

    def loss(self, ids: Any, signs: Any) -> Any:
        x = tf.reshape(tf.gather(self.table, ids), [-1, 6])
        return tf.reduce_mean(tf.nn.softplus(-signs * tf.reduce_sum(tf.tanh(x @ self.w + self.b), -1)))

    def by_tape(self, *batch: Any) -> Any:
        with tf.GradientTape() as tape:
            value = self.loss(*batch)
        return value, tape.gradient(value, self.variables)

    def by_op(self, *batch: Any) -> Any:
        gradients = symbolic_gradient(list(batch), f=self.loss, wrt=[False, False], variables=self.variables)
        return self.loss(*batch), gradients

    def by_value_and_grad(self, *batch: Any) -> Any:
        return tf_symgrad.value_and_grad(self.loss, wrt=self.variables)(*batch)

    def step(self, way: str, *batch: Any) -> Any:
        value, gradients = getattr(self, way)(*batch)
        for v, g in zip(self.variables, gradients, strict=True):
            v.assign_sub(0.5 * tf.convert_to_tensor(g))
        return value


Steps = Callable[[Model, Callable[..., Any]], Any]


def train_every_way(strategy: Any, run: Steps) -> None:
    """Losses and weights of a few steps by the op, by value_and_grad and under enable() are those of the tape.

    `run` takes a model and a step of it to the losses of a few such steps.
    """
    results: list[list[Any]] = []
    for way in "by_tape", "by_op", "by_value_and_grad", "enable":
        if way == "enable":
            tf_symgrad.enable()
        with strategy.scope():
            model = Model()
        name = "by_tape" if way == "enable" else way
        losses = run(model, tf.function(lambda *batch, m=model, n=name: m.step(n, *batch), autograph=False))
        if way == "enable":
            tf_symgrad.disable()
        results.append([losses, *(v.numpy() for v in model.variables)])
        assert losses[-1] < losses[0]
        for got, want in zip(results[-1], results[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6, err_msg=way)


def replicated(strategy: Any) -> Steps:
    """Steps on all replicas at once, each with a part of the batch of its own."""

    def part(context: Any) -> Any:
        k = context.replica_id_in_sync_group
        return tf.constant(np.roll(IDS, k, 0)), tf.constant(np.roll(SIGNS, k))

    def run(_: Model, step: Callable[..., Any]) -> Any:
        ids, signs = (
            strategy.experimental_distribute_values_from_function(lambda c, i=i: part(c)[i]) for i in (0, 1)
        )

        @tf.function(autograph=False)
        def replicas(ids: Any, signs: Any) -> Any:
            return strategy.reduce("MEAN", strategy.run(step, (ids, signs)), axis=None)

        return [replicas(ids, signs).numpy() for _ in range(STEPS)]

    return run


# ---- Scenes. ----


def mirrored() -> None:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    train_every_way(strategy, replicated(strategy))


def multi_worker() -> None:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    train_every_way(strategy, replicated(strategy))


def parameter_server(*workers: str) -> None:
    """Two workers; what keeps the variables has no library."""
    spec = tf.train.ClusterSpec({"worker": workers[:2], "ps": workers[2:]})
    strategy = tf.distribute.ParameterServerStrategy(
        tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc")
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    def run(model: Model, step: Callable[..., Any]) -> Any:
        losses = []
        for _ in range(STEPS):
            losses.append(coordinator.schedule(step, (tf.constant(IDS), tf.constant(SIGNS))))
            coordinator.join()
        assert {v.device.split("/")[1] for v in model.variables} == {"job:ps"}
        return [loss.fetch() for loss in losses]

    train_every_way(strategy, run)


SCENES: dict[str, Callable[..., None]] = {f.__name__: f for f in (mirrored, multi_worker, parameter_server)}


# ---- Processes. ----


def serve(library: str) -> None:
    """A server that tells its address and runs until its input ends."""
    if library == "library":
        import tf_symgrad

        tf_symgrad.load()
    server = tf.distribute.Server({"worker": ["localhost:0"]}, job_name="worker", protocol="grpc")
    print(server.target.removeprefix("grpc://"), flush=True)
    sys.stdin.read()
    os._exit(0)


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.test_cluster", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    """Waits for them; none outlives this."""
    try:
        for process in processes:
            _, errors = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in processes:
            process.kill()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    processes = [start("serve", kind) for kind in ("library", "library", "bare")]
    try:
        yield [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_mirrored() -> None:
    finish(start("mirrored"))


def test_multi_worker() -> None:
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": k}} for k in (0, 1)]
    finish(*(start("multi_worker", TF_CONFIG=json.dumps(task)) for task in tasks))


def test_parameter_server(servers: list[str]) -> None:
    finish(start("parameter_server", *servers))


if __name__ == "__main__":
    import tensorflow as tf

    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    (cpu,) = tf.config.list_physical_devices("CPU")
    if sys.argv[1] == "mirrored":
        tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])

    import tf_symgrad
    from tf_symgrad import symbolic_gradient

    SCENES[sys.argv[1]](*sys.argv[2:])
