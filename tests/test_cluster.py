"""Many machines: servers on loopback, started and ended here, and strategies; each scene in processes of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TIMEOUT = 180
X = np.array([0.5, -1.0, 2.0], np.float32)
IDS = np.array([[0, 1], [2, 1], [3, 0], [1, 1]], np.int32)
SIGNS = np.array([1, -1, 1, 1], np.float32)
STEPS = 3
OP = "TfSymgrad>SymbolicGradient"
ABANDONED: list[Any] = []
UNKNOWN_OP = f"{OP}' is neither a type of a primitive operation|Op type not registered '{OP}'"


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
        ids, signs = (strategy.experimental_distribute_values_from_function(lambda c, i=i: part(c)[i]) for i in (0, 1))

        @tf.function(autograph=False)
        def replicas(ids: Any, signs: Any) -> Any:
            return strategy.reduce("MEAN", strategy.run(step, (ids, signs)), axis=None)

        return [replicas(ids, signs).numpy() for _ in range(STEPS)]

    return run


# ---- Scenes. ----


def mirrored() -> None:
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    train_every_way(strategy, replicated(strategy))


def collectives() -> None:
    """Ops in which devices take part: the gradient of what all of them lose together, at orders 1 and 2.

    Each device runs a function of its own in a thread of its own, and none knows the others' but by keys.
    """
    raw = tf.raw_ops
    group: dict[str, Any] = {"group_size": 2, "group_key": 7, "timeout_seconds": 30}
    second: dict[str, Any] = group | {"ordering_token": []}
    summed = {"merge_op": "Add", "final_op": "Id"}
    mean = {"merge_op": "Add", "final_op": "Div"}
    cases: list[tuple[Callable[..., Any], Callable[..., Any]]] = [  # the op; what all have of all that all give
        (lambda x, key: raw.CollectiveReduceV2(input=x, instance_key=key, **summed, **second), lambda x: 2 * [sum(x)]),
        (
            lambda x, key: raw.CollectiveReduceV2(input=x, instance_key=key, **mean, **second),
            lambda x: 2 * [sum(x) / 2],
        ),
        (lambda x, key: raw.CollectiveGatherV2(input=x, instance_key=key, **second), lambda x: 2 * [tf.concat(x, 0)]),
        (
            lambda x, key: raw.CollectiveAllToAllV2(input=x, instance_key=key, **second),
            lambda x: [tf.stack([part[k] for part in x]) for k in (0, 1)],
        ),
        (
            lambda x, key: raw.CollectiveReduce(input=x, instance_key=key, subdiv_offsets=[0], **summed, **group),
            lambda x: 2 * [sum(x)],
        ),
        (
            lambda x, key: raw.CollectiveGather(input=x, instance_key=key, shape=[4, 3], **group),
            lambda x: 2 * [tf.concat(x, 0)],
        ),
    ]

    xs = [tf.constant(np.random.default_rng(k).normal(size=(2, 3)).astype(np.float32)) for k in (0, 1)]
    for key, (op, everything) in enumerate(cases, 100):
        expected = zip(*of_all_devices(everything, xs), strict=True)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda k, op=op, key=key: on_device(k, op, key, xs[k]), (0, 1))
            for got, want in zip(found, expected, strict=True):
                np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-4)


def lost(y: Any, device: int) -> Any:
    return tf.reduce_sum(tf.sin((device + 1.0) * y) * tf.cos(y))


def on_device(device: int, op: Callable[..., Any], key: int, x: Any) -> Any:
    """The gradient, and that of its square."""

    def gradient(x: Any) -> Any:
        return symbolic_gradient([x], f=lambda x: lost(op(tf.sin(x) * x, key), device))[0]

    def both(x: Any) -> Any:
        return gradient(x), symbolic_gradient([x], f=lambda x: tf.reduce_sum(gradient(x) ** 2))[0]

    with tf.device(f"/cpu:{device}"):
        return tf.function(both, autograph=False)(x)


def of_all_devices(everything: Callable[..., Any], xs: Any) -> Any:
    """The same for all devices, in one function."""
    with tf.GradientTape() as outer:
        outer.watch(xs)
        with tf.GradientTape() as inner:
            inner.watch(xs)
            y = everything([tf.sin(x) * x for x in xs])
            loss = lost(y[0], 0) + lost(y[1], 1)
        first = inner.gradient(loss, xs)
        squares = tf.add_n([tf.reduce_sum(dx**2) for dx in first])
    return first, outer.gradient(squares, xs)


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


def session(master: str, *others: str) -> Any:
    """A session on a server, in which the others are tasks as well: /job:peer/task:1, and so on."""
    cluster = tf.train.ClusterSpec({"peer": [master, *others]})
    return v1.Session(f"grpc://{master}", config=v1.ConfigProto(cluster_def=cluster.as_cluster_def()))


def loss_of(v: Any) -> Callable[[Any], Any]:
    return lambda x: tf.reduce_sum(x * x * v)


def sessions(first: str, second: str, bare: str) -> None:
    """The master expands the op: it needs the library, who runs the result does not."""
    for master, worker in (first, second), (first, bare), (bare, first):
        with tf.Graph().as_default():
            v = v1.get_variable("v", initializer=X, use_resource=True)  # on the master
            with tf.device("/job:peer/task:1"):
                dx, dv = symbolic_gradient([tf.constant(X)], f=loss_of(v), variables=[v])
            step = v.assign_sub(0.1 * (dx + dv))
            with session(master, worker) as running:
                if master == bare:
                    with pytest.raises(tf.errors.NotFoundError, match=UNKNOWN_OP):
                        running.run(step)
                    continue
                running.run(v.initializer)
                metadata = v1.RunMetadata()
                options = v1.RunOptions(output_partition_graphs=True)
                got = running.run(step, options=options, run_metadata=metadata)
                np.testing.assert_allclose(got, X - 0.1 * (2 * X * X + X * X), rtol=1e-5)
                nodes = [node for graph in metadata.partition_graphs for node in graph.node]
                assert {"/job:peer/replica:0/task:1"} <= {node.device.rpartition("/")[0] for node in nodes}
                assert OP not in {node.op for node in nodes}


def on(task: int, f: Any) -> Any:
    def there(*x: Any) -> Any:
        with tf.device(f"/job:worker/task:{task}"):
            return f(*x)

    return there


def with_part_on(task: int) -> Any:
    return tf.function(lambda x: on(task, cubed_gradient)(2 * x) + 1.0, autograph=False)


def eager_cluster(*workers: str) -> None:
    """The op on a remote worker: alone, in a function that runs there, in one that has a part there."""
    tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": workers}))
    function = tf.function(cubed_gradient, autograph=False)
    for task in range(2):
        for f in cubed_gradient, function:
            y = on(task, f)(tf.constant(X))
            np.testing.assert_allclose(y, 3 * X**2)
            assert f"task:{task}" in y.device
        np.testing.assert_allclose(with_part_on(task)(X), 12 * X**2 + 1)
        with tf.GradientTape() as tape:
            x = tf.constant(X)
            tape.watch(x)
            y = on(task, function)(x)
        np.testing.assert_allclose(tape.gradient(y, x), 6 * X)

    # A worker without the library. What the client has expanded runs there, and so does a gradient function.
    np.testing.assert_allclose(with_part_on(2)(X), 12 * X**2 + 1)
    gradient = tf_symgrad.function_gradient(tf.function(lambda x: x**3).get_concrete_function(SPEC))
    np.testing.assert_allclose(on(2, gradient)(tf.constant(X), tf.ones(3))[0], 3 * X**2)


def eager_cluster_refuses(*workers: str) -> None:
    """The op on a worker without the library, which runs what else it is asked.

    Calls wait for their workers here (see test_servers): else TensorFlow tells of the first call that fails, or of a
    later one that had been sent by then ("Primary device is not remote"), as threads have it.
    """
    tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": workers}))
    for f in cubed_gradient, tf.function(cubed_gradient, autograph=False):
        with pytest.raises(tf.errors.NotFoundError, match=UNKNOWN_OP):
            on(2, f)(tf.constant(X)).numpy()
        np.testing.assert_allclose(on(2, tf.math.square)(tf.constant(X)), X**2)  # nothing has come to harm


def for_ever(x: Any) -> Any:
    """The gradient of a function that never ends."""

    def f(x: Any) -> Any:
        count = tf.while_loop(lambda i: i >= 0, lambda i: tf.maximum(i, 0), [tf.cast(x[0], tf.int32)])[0]
        return x * tf.cast(count, tf.float32)

    return symbolic_gradient([x, x], f=f)[0]


def faults(worker: str, ps: str, *victims: str) -> None:
    """Calls that are cancelled and workers that die in the midst of one; what comes after works."""
    addresses, pids = zip(*(victim.split("@") for victim in victims), strict=True)

    def kill(k: int) -> None:
        threading.Timer(0.7, lambda: os.kill(int(pids[k]), signal.SIGKILL)).start()

    in_a_session(worker, addresses, kill)
    in_an_eager_cluster(worker, addresses[1], lambda: kill(1))
    under_a_coordinator(worker, ps, addresses[2], lambda: kill(2))
    os._exit(0)  # TensorFlow waits for workers that are dead


def in_a_session(worker: str, addresses: Sequence[str], kill: Callable[[int], None]) -> None:

    with tf.Graph().as_default():
        with tf.device("/job:peer/task:1"):
            y, z = for_ever(tf.constant(X)), cubed_gradient(tf.constant(X))
        running = session(worker, addresses[0])
        ABANDONED.append(running)  # TensorFlow does not come back from closing a session whose worker has died
        with pytest.raises(tf.errors.DeadlineExceededError):
            running.run(y, options=v1.RunOptions(timeout_in_ms=700))
        kill(0)
        with pytest.raises((tf.errors.UnavailableError, tf.errors.AbortedError)):
            running.run(y)
        with session(worker, addresses[1]) as running:
            np.testing.assert_allclose(running.run(z), 3 * X**2)


def in_an_eager_cluster(worker: str, victim: str, kill: Callable[[], None]) -> None:
    tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": [worker, victim]}))

    @tf.function(autograph=False, input_signature=[SPEC])
    def remote(x: Any) -> Any:
        with tf.device("/job:worker/task:1"):
            return for_ever(x)

    function = tf.function(cubed_gradient, autograph=False)
    manager = cancellation.CancellationManager()
    threading.Timer(0.7, manager.start_cancel).start()
    with pytest.raises(tf.errors.CancelledError):
        manager.get_cancelable_function(remote.get_concrete_function())(tf.constant(X))
    with tf.device("/job:worker/task:1"):
        np.testing.assert_allclose(function(tf.constant(X)), 3 * X**2)
    kill()
    with pytest.raises((tf.errors.UnavailableError, tf.errors.AbortedError)):
        remote(tf.constant(X))
    for device in "/cpu:0", "/job:worker/task:0":
        with tf.device(device):
            np.testing.assert_allclose(function(tf.constant(X)), 3 * X**2)


def under_a_coordinator(worker: str, ps: str, victim: str, kill: Callable[[], None]) -> None:
    """What a worker did not finish, another one does."""
    spec = tf.train.ClusterSpec({"worker": [worker, victim], "ps": [ps]})
    strategy = tf.distribute.ParameterServerStrategy(
        tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc")
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        v = tf.Variable(X)

    @tf.function(autograph=False)
    def step(k: Any) -> Any:
        (x,) = tf.while_loop(lambda x: x[0] < 40000, lambda x: [x + 1], [tf.zeros([1])])
        (dv,) = symbolic_gradient([k, tf.ones(3)], f=lambda k: k * v * v, wrt=[False], variables=[v])
        return dv + x - x

    values = [coordinator.schedule(step, (tf.constant(float(k)),)) for k in range(12)]
    kill()
    coordinator.join()
    for k, value in enumerate(values):
        np.testing.assert_allclose(value.fetch(), 2 * k * X)


SCENES: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (
        *(mirrored, collectives, multi_worker, parameter_server, sessions),
        *(eager_cluster, eager_cluster_refuses, faults),
    )
}


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
            try:
                _, errors = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                _, errors = process.communicate()
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextlib.contextmanager
def serving(*kinds: str) -> Iterator[list[tuple[str, int]]]:
    """Servers of these kinds: their addresses and process ids."""
    processes = [start("serve", kind) for kind in kinds]
    try:
        yield [(process.stdout.readline().strip(), process.pid) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    with serving("library", "library", "bare") as started:
        yield [address for address, _ in started]


@pytest.mark.parametrize("scene", ["mirrored", "collectives"])
def test_two_devices(scene: str) -> None:
    finish(start(scene))


def test_multi_worker() -> None:
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": k}} for k in (0, 1)]
    finish(*(start("multi_worker", TF_CONFIG=json.dumps(task)) for task in tasks))


@pytest.mark.parametrize("scene", ["parameter_server", "sessions", "eager_cluster", "eager_cluster_refuses"])
def test_servers(scene: str, servers: list[str]) -> None:
    waits = {"TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE": "False"} if scene.endswith("refuses") else {}
    finish(start(scene, *servers, **waits))


def test_faults(servers: list[str]) -> None:
    with serving("library", "library", "library") as victims:
        finish(start("faults", servers[0], servers[2], *(f"{address}@{pid}" for address, pid in victims)))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(TIMEOUT - 10)  # says where, before it is killed
    import tensorflow as tf

    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    (cpu,) = tf.config.list_physical_devices("CPU")
    if sys.argv[1] in ("mirrored", "collectives"):
        tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])

    from tensorflow.python.eager import cancellation

    import tf_symgrad
    from tf_symgrad import symbolic_gradient

    v1 = tf.compat.v1
    SPEC = tf.TensorSpec([3], tf.float32)
    SCENES[sys.argv[1]](*sys.argv[2:])
