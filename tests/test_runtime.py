"""The op at run time, through both of its doors: the graph pass that replaces it, and the kernel that runs else."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2
from tensorflow.python.eager import cancellation
from tensorflow.python.framework import function as defun

from tf_symgrad import raw_ops, symbolic_gradient

OP = "TfSymgrad>SymbolicGradient"
X = np.array([0.5, -1.0, 2.0], np.float32)
SPEC = tf.TensorSpec([3], tf.float32)


@pytest.fixture(params=["pass", "kernel"], autouse=True)
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The variable is read when a graph is prepared. What was prepared is kept: each test makes its own functions."""
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1" if request.param == "kernel" else "0")
    return str(request.param)


def concrete(f: Callable[..., Any], *specs: Any) -> Any:
    return tf.function(f).get_concrete_function(*(specs or [SPEC]))


def cubed_gradient(x: Any) -> Any:
    """3 x^2, by the op."""
    return symbolic_gradient([x, tf.ones_like(x)], f=lambda x: x * x * x)[0]


def partitions(session: Any, fetches: Any, feed: Any = None) -> list[Any]:
    """Runs, and returns the graphs that ran."""
    metadata = tf.compat.v1.RunMetadata()
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    session.run(fetches, feed, options=options, run_metadata=metadata)
    return list(metadata.partition_graphs)


# ---- Which door. ----


def test_door(door: str) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        (graph,) = partitions(session, cubed_gradient(tf.compat.v1.placeholder_with_default(X, [3])))
        assert (OP in {node.op for node in graph.node}) == (door == "kernel")


# ---- Places. ----


def test_eager() -> None:
    np.testing.assert_allclose(cubed_gradient(tf.constant(X)), 3 * X**2)


def test_function_runs_twice() -> None:
    g = tf.function(cubed_gradient)
    for k in 1, 2:
        np.testing.assert_allclose(g(tf.constant(k * X)), 3 * (k * X) ** 2)


def test_unknown_shapes() -> None:
    g = tf.function(cubed_gradient, input_signature=[tf.TensorSpec(None)])
    for x in X, X[:0], X.reshape(3, 1), X[0]:
        np.testing.assert_allclose(g(x), 3 * x**2)


def test_cond() -> None:
    @tf.function
    def g(x: Any) -> Any:
        return tf.cond(x[0] > 0, lambda: cubed_gradient(x), lambda: 2 * cubed_gradient(x))

    np.testing.assert_allclose(g(X), 3 * X**2)
    np.testing.assert_allclose(g(-X), 6 * X**2)


def test_case() -> None:
    @tf.function
    def g(i: Any, x: Any) -> Any:
        return tf.switch_case(i, [lambda: cubed_gradient(x), lambda: x, lambda: cubed_gradient(-x)])

    for i, y in enumerate([3 * X**2, X, 3 * X**2]):
        np.testing.assert_allclose(g(tf.constant(i), X), y)


def test_while() -> None:
    @tf.function
    def g(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, cubed_gradient(x) / 3), (0, x))[1]

    np.testing.assert_allclose(g(X), X**8, rtol=1e-5)


def test_while_in_cond_in_function_that_is_not_inlined() -> None:
    @tf.function(experimental_attributes={"_noinline": True})
    def inner(x: Any) -> Any:
        def loop() -> Any:
            return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, cubed_gradient(x) / 3), (0, x))[1]

        return tf.cond(x[0] > 0, loop, lambda: x)

    g = tf.function(lambda x: inner(inner(x)))
    np.testing.assert_allclose(g(X), X**16, rtol=1e-5)
    np.testing.assert_allclose(g(-X), -X)


def test_map_fn() -> None:
    g = tf.function(lambda x: tf.map_fn(cubed_gradient, x))
    np.testing.assert_allclose(g(tf.stack([X, 2 * X])), np.stack([3 * X**2, 12 * X**2]))


def test_dataset() -> None:
    data = tf.data.Dataset.from_tensors(X).repeat(20).map(cubed_gradient, num_parallel_calls=4).batch(20)
    np.testing.assert_allclose(next(iter(data)), np.tile(3 * X**2, (20, 1)))


@pytest.mark.parametrize("control_flow_v2", [True, False])
def test_session(control_flow_v2: bool) -> None:
    enabled = tf.compat.v1.control_flow_v2_enabled()
    (tf.compat.v1.enable_control_flow_v2 if control_flow_v2 else tf.compat.v1.disable_control_flow_v2)()
    try:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [3])
            y = cubed_gradient(x)
            loop = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, cubed_gradient(x) / 3), (0, x))[1]
            branch = tf.cond(x[0] > 0, lambda: cubed_gradient(y), lambda: x)
            for k in 1, -1:
                values = session.run([y, loop, branch], {x: k * X})
                for got, want in zip(values, [3 * X**2, X**8, 27 * X**4 if k == 1 else -X], strict=True):
                    np.testing.assert_allclose(got, want, rtol=1e-5)
    finally:
        (tf.compat.v1.enable_control_flow_v2 if enabled else tf.compat.v1.disable_control_flow_v2)()


def test_function_of_a_single_device_runtime() -> None:
    """A node whose op is the name of a function: TensorFlow runs the body by the runtime of one device."""

    @defun.Defun(tf.float32)
    def inner(x: Any) -> Any:
        return cubed_gradient(x)

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [3])
        np.testing.assert_allclose(session.run(inner(inner(x)), {x: X}), 27 * X**4, rtol=1e-6)


def test_polymorphic_function() -> None:
    """The op in a function that leaves its attrs to the caller: no pass can replace it."""
    graph_def = text_format.Parse(
        """
        node { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } } }
        node { name: "y" op: "caller" input: "x"
          attr { key: "In" value { list { type: DT_FLOAT type: DT_FLOAT } } }
          attr { key: "Out" value { list { type: DT_FLOAT } } } }
        library {
          function {
            signature { name: "caller" is_stateful: true
                        input_arg { name: "a" type: DT_FLOAT } output_arg { name: "b" type: DT_FLOAT }
                        attr { name: "In" type: "list(type)" } attr { name: "Out" type: "list(type)" } }
            node_def { name: "n" op: "TfSymgrad>SymbolicGradient" input: "a" input: "a"
              attr { key: "Tin" value { placeholder: "In" } } attr { key: "Tout" value { placeholder: "Out" } }
              attr { key: "f" value { func { name: "tanh" } } } }
            ret { key: "b" value: "n:output:0" } }
          function {
            signature { name: "tanh" input_arg { name: "a" type: DT_FLOAT } output_arg { name: "b" type: DT_FLOAT } }
            node_def { name: "n" op: "Tanh" input: "a" attr { key: "T" value { type: DT_FLOAT } } }
            ret { key: "b" value: "n:y:0" } } }
        """,
        graph_pb2.GraphDef(),
    )
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        np.testing.assert_allclose(session.run("y:0", {"x:0": X}), X * (1 - np.tanh(X) ** 2), rtol=1e-5)


def test_gradient_of_a_function_that_holds_the_op() -> None:
    def second(x: Any) -> Any:
        return symbolic_gradient([x, tf.ones_like(x)], f=lambda x: cubed_gradient(x) * 2)[0]

    for run in second, tf.function(second):
        np.testing.assert_allclose(run(tf.constant(X)), 12 * X, rtol=1e-6)


def test_many() -> None:
    @tf.function
    def g(x: Any) -> Any:
        for _ in range(30):
            x = symbolic_gradient([x, x], f=tf.math.square)[0] / 2 / x
        return x

    np.testing.assert_allclose(g(X), X, rtol=1e-5)


# ---- Inputs. ----


def test_integers() -> None:
    def f(x: Any, i: Any, j: Any, b: Any) -> Any:
        return x * tf.cast(i, x.dtype), i + 1, tf.logical_not(b), tf.cast(j, tf.int32)

    function = concrete(f, SPEC, tf.TensorSpec([], tf.int32), tf.TensorSpec([2], tf.int64), tf.TensorSpec([], tf.bool))
    x = [tf.constant(X), tf.constant(7), tf.constant([1, 2], tf.int64), tf.constant(True)]
    dy = [tf.ones(3), tf.constant(0), tf.constant(False), tf.constant([0, 0])]
    for run in raw_ops.SymbolicGradient, tf.function(raw_ops.SymbolicGradient, autograph=False):
        dx = run(input=x + dy, Tout=[t.dtype for t in x], f=function)
        np.testing.assert_allclose(dx[0], [7, 7, 7])
        for got, want in zip(dx[1:], x[1:], strict=True):
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            assert not np.any(got)


def test_variables() -> None:
    v, w = tf.Variable(X), tf.Variable(2.0)
    f = concrete(lambda x: x * v * w)
    handles = [v.handle, w.handle] if f.captured_inputs[0] is v.handle else [w.handle, v.handle]

    def g(x: Any) -> Any:
        dx, *dv = raw_ops.SymbolicGradient(input=[x, *handles, tf.ones(3)], Tout=3 * [tf.float32], f=f)
        assert sorted(d.shape.rank for d in dv) == [0, 1]
        return dx, *sorted(dv, key=lambda d: d.shape.rank)

    for run in g, tf.function(g):
        for value in 2.0, 5.0:
            w.assign(value)
            dx, dw, dv = run(tf.constant(X))
            np.testing.assert_allclose(dx, value * X)
            np.testing.assert_allclose(dw, np.sum(X * X))
            np.testing.assert_allclose(dv, value * X)


def test_reads_are_ordered_with_writes() -> None:
    v = tf.Variable(1.0)
    f = concrete(lambda x: x * v)

    @tf.function
    def g(x: Any) -> Any:
        results = []
        for value in 1.0, 2.0, 3.0:
            v.assign(value)
            results.append(raw_ops.SymbolicGradient(input=[x, v.handle, tf.ones(3)], Tout=2 * [tf.float32], f=f)[0][0])
        return results

    assert [y.numpy() for y in g(X)] == [1, 2, 3]


# ---- What the runtime may not do: merge, fold, move, drop. ----


def test_random_numbers_are_neither_merged_nor_folded() -> None:
    @tf.function
    def g() -> Any:
        x = tf.ones(100)
        return [symbolic_gradient([x, x], f=lambda x: x * tf.random.uniform([100]))[0] for _ in range(2)]

    draws = [y.numpy() for _ in range(2) for y in g()]
    assert len({tuple(y) for y in draws}) == 4


def test_control_edges() -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        v = tf.compat.v1.get_variable("v", initializer=0.0, use_resource=True)
        x = tf.constant(X)
        f = concrete(tf.math.square)
        with tf.control_dependencies([v.assign(1.0)]):
            (y,) = raw_ops.SymbolicGradient(input=[x, x], Tout=[tf.float32], f=f)
        with tf.control_dependencies([y.op]):
            z = v.read_value()
        session.run(v.initializer)
        assert session.run(z) == 1.0


def test_device() -> None:
    two_devices = tf.compat.v1.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), tf.compat.v1.Session(config=two_devices) as session:
        x = tf.compat.v1.placeholder_with_default(X, [3])
        with tf.device("/cpu:1"):
            y = symbolic_gradient([x, x], f=tf.math.tanh)[0]
        nodes = [node for graph in partitions(session, y) for node in graph.node]
        assert [node.device[-5:] for node in nodes if node.name == "SymbolicGradient"] == ["CPU:1"]


def test_name_and_consumers() -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x, y = tf.constant(X), tf.constant(2 * X)
        dx, dy = symbolic_gradient([x, y, tf.ones(3)], f=lambda x, y: x * y * y, name="mine")
        assert dx.op is dy.op
        assert dx.op.name == "mine"
        for got, want in zip(session.run([dx, dy, "mine:1"]), [4 * X**2, 4 * X**2, 4 * X**2], strict=True):
            np.testing.assert_allclose(got, want)
        np.testing.assert_allclose(session.run([dx + dx, dy * dx])[1], 16 * X**4)


# ---- Static shapes. ----


def test_static_shapes() -> None:
    def read(x: Any, v: Any) -> Any:
        return x * tf.raw_ops.ReadVariableOp(resource=v, dtype=tf.float32)

    f = concrete(read, SPEC, tf.TensorSpec([], tf.resource))
    with tf.Graph().as_default():
        v = tf.compat.v1.get_variable("v", shape=[3], use_resource=True)
        for shape in [3], [None], None:
            x = tf.compat.v1.placeholder(tf.float32, shape)
            dx, dv = raw_ops.SymbolicGradient(input=[x, v.handle, x], Tout=2 * [tf.float32], f=f)
            assert dx.shape.as_list() == shape if shape else dx.shape.rank is None
            assert dv.shape == [3]
        unknown = tf.compat.v1.placeholder(tf.resource, [])
        assert raw_ops.SymbolicGradient(input=[x, unknown, x], Tout=2 * [tf.float32], f=f)[1].shape.rank is None
        with pytest.raises(ValueError, match="Tout has 3 dtypes and Tin only 1"):
            raw_ops.SymbolicGradient(input=[x], Tout=3 * [tf.float32], f=f)


# ---- Errors. ----


def wrong_call(x: Any) -> Any:
    f = concrete(lambda x, i: (x * 2, i), SPEC, tf.TensorSpec([], tf.int32))
    return raw_ops.SymbolicGradient(input=[x, x, x], Tout=[tf.float32, tf.float32], f=f, name="wrong")[0]


WRONG = [
    r"N = 2 inputs \(float, int32\) to M = 2 outputs \(float, int32\)",
    r"input has length 3, needs 4: the N inputs of the function, then a gradient for each of its M outputs",
    r"input\[1\] is float, must be int32, as it is input 'i'",
    r"Tout\[1\] is float, must be int32, as it is the gradient for input 'i'",
]


@pytest.mark.parametrize("run", [lambda f: f, tf.function], ids=["eager", "function"])
def test_wrong_call_lists_all_that_is_wrong(run: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        run(wrong_call)(tf.constant(X))
    for line in WRONG:
        assert error.match(line)


def test_error_in_a_function_that_the_graph_reaches(door: str) -> None:
    g = tf.function(lambda x: tf.cond(x[0] > 0, lambda: wrong_call(x), lambda: x))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        g(X)
    assert error.match(r"cond/wrong")
    if door == "pass":
        assert error.match(r"In node 'cond/wrong' of function 'cond_true_\w+', made at .*test_runtime.py:\d+")


def test_session_survives_an_error() -> None:
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder_with_default(X, [3])
        y = cubed_gradient(x)
        np.testing.assert_allclose(session.run(y), 3 * X**2)
        z = wrong_call(x)
        with pytest.raises(tf.errors.InvalidArgumentError, match="Wrong call"):
            session.run(z)


# ---- Lifetimes. ----


def test_callables_come_and_go() -> None:
    """A session keeps the kernels of stateful ops when the runtime of a callable, for which they ran, is gone."""
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [3])
        y = cubed_gradient(x)
        z = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, cubed_gradient(x) / 3), (0, x))[1]
        for _ in range(3):
            with tf.compat.v1.Session() as session:
                for fetch in y, [y, z], z, y + 1.0, y:
                    run = session.make_callable(fetch, [x])
                    np.testing.assert_allclose(run(X), run(X))
                    del run
                np.testing.assert_allclose(session.run(y, {x: X}), 3 * X**2)


def test_functions_come_and_go() -> None:
    for k in range(20):
        g = tf.function(lambda x, k=k: symbolic_gradient([x], f=lambda x: tf.reduce_sum(x * float(k)))[0])
        np.testing.assert_allclose(g(tf.constant(X)), [k, k, k])
        del g


def test_threads() -> None:
    g = concrete(lambda x: tf.map_fn(cubed_gradient, x, parallel_iterations=8), tf.TensorSpec([8, 3]))
    x = tf.constant(np.tile(X, (8, 1)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: g(x), range(32)):
            np.testing.assert_allclose(y, 3 * x**2)


def test_cancellation() -> None:
    @tf.function
    def forever(x: Any) -> Any:
        """The gradient of a function that never ends."""

        def f(x: Any) -> Any:
            n = tf.while_loop(lambda i: i >= 0, lambda i: tf.maximum(i, 0), (tf.cast(x[0], tf.int32),))[0]
            return x * tf.cast(n, x.dtype)

        return symbolic_gradient([x, x], f=f)[0]

    manager = cancellation.CancellationManager()
    run = manager.get_cancelable_function(forever.get_concrete_function(SPEC))
    threading.Timer(0.5, manager.start_cancel).start()
    with pytest.raises(tf.errors.CancelledError):
        run(tf.constant(X))


def test_cancellation_between_runs() -> None:
    @tf.function
    def g(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i >= 0, lambda i, x: (tf.maximum(i, 0), cubed_gradient(x) / 3), (0, x))[1]

    manager = cancellation.CancellationManager()
    run = manager.get_cancelable_function(g.get_concrete_function(SPEC))
    threading.Timer(0.5, manager.start_cancel).start()
    with pytest.raises(tf.errors.CancelledError):
        run(tf.constant(X))
