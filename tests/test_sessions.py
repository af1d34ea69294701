"""Libraries that are somebody else's: sessions that go on, workers, contexts, graphs side by side, loaded models.

The pass must not change a function that it finds. A session that is extended adds all functions of its graph again, and
refuses one that is not what it was.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import function as defun

from tf_symgrad import symbolic_gradient

v1 = tf.compat.v1
X = np.array([0.5, -1.0, 2.0], np.float32)
SPEC = tf.TensorSpec([3], tf.float32)


@pytest.fixture(params=["direct", "server"], scope="module")
def target(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "direct" else v1.train.Server.create_local_server().target


@pytest.fixture
def session(target: str) -> Iterator[Any]:
    with tf.Graph().as_default(), v1.Session(target) as session:
        yield session


def gradient(f: Callable[[Any], Any], x: Any) -> Any:
    return symbolic_gradient([x, tf.ones_like(x)], f=f)[0]


def cubed_gradient(x: Any) -> Any:
    """3 x^2, by the op."""
    return gradient(lambda x: x * x * x, x)


def power(k: int) -> Any:
    return lambda x: x ** (k + 1.0)


def caller_of(f: Any) -> Any:
    return lambda x: gradient(f, x)


def by_function(k: int) -> Any:
    return tf.function(lambda x: float(k) * cubed_gradient(x), autograph=False)


def by_nested_functions(k: int) -> Any:
    inner = tf.function(lambda x: float(k) * cubed_gradient(x), autograph=False)
    return tf.function(lambda x: inner(x), autograph=False)


def by_defun(k: int) -> Any:
    @defun.Defun(tf.float32, func_name=f"caller_{k}")
    def caller(x: Any) -> Any:
        x.set_shape([3])
        return float(k) * cubed_gradient(x)

    return caller


def by_nested_defuns(k: int) -> Any:
    inner = by_defun(k)

    @defun.Defun(tf.float32, func_name=f"outer_{k}")
    def outer(x: Any) -> Any:
        return inner(x) + 0.0

    return outer


def by_cond(k: int) -> Any:
    return tf.function(
        lambda x: tf.cond(x[0] > -9, lambda: float(k) * cubed_gradient(x), lambda: x),
        autograph=False,
    )


def by_loop(k: int) -> Any:
    def body(i: Any, y: Any) -> Any:
        return i + 1, y + float(k) * cubed_gradient(X)

    return tf.function(lambda x: tf.while_loop(lambda i, _: i < 1, body, (0, x * 0))[1], autograph=False)


def by_case(k: int) -> Any:
    branches = [lambda x: x, lambda x: float(k) * cubed_gradient(x)]
    return tf.function(lambda x: tf.switch_case(tf.constant(1), [lambda b=b: b(x) for b in branches]), autograph=False)


def by_dataset(k: int) -> Any:
    def caller(x: Any) -> Any:
        data = tf.data.Dataset.from_tensors(x).map(lambda x: float(k) * cubed_gradient(x))
        return data.reduce(tf.zeros(3), lambda a, b: a + cubed_gradient(b) * 0 + b)

    return tf.function(caller, autograph=False)


CALLERS = [by_function, by_nested_functions, by_defun, by_nested_defuns, by_cond, by_loop, by_case, by_dataset]


@pytest.mark.parametrize("caller", CALLERS)
def test_session_that_is_extended(caller: Callable[[int], Any], session: Any) -> None:
    x = v1.placeholder_with_default(X, [3])
    fetches: list[Any] = []
    for k in range(1, 4):
        fetches.append(caller(k)(x))
        for i, got in enumerate(session.run(fetches)):
            np.testing.assert_allclose(got, (i + 1) * 3 * X**2, rtol=1e-5)


def test_all_kinds_in_one_session(session: Any) -> None:
    x = v1.placeholder_with_default(X, [3])
    for k, caller in enumerate(CALLERS, 20):
        np.testing.assert_allclose(session.run(caller(k)(x)), k * 3 * X**2, rtol=1e-5)


def test_hundreds_of_steps(session: Any) -> None:
    x = v1.placeholder_with_default(X, [3])
    w = v1.get_variable("w", initializer=tf.ones([3]), use_resource=True)
    step = w.assign_sub(0.01 * by_function(1)(w))
    session.run(w.initializer)
    want = np.ones(3, np.float32)
    extra = []
    for i in range(300):
        if i % 100 == 50:
            extra.append(by_nested_functions(i)(x))
            np.testing.assert_allclose(session.run(extra[-1]), i * 3 * X**2, rtol=1e-5)
        session.run(step)
        want -= 0.01 * 3 * want**2
    np.testing.assert_allclose(session.run(w), want, rtol=1e-4)


def test_callables(session: Any) -> None:
    x = v1.placeholder(tf.float32, [3])
    runs = []
    for k in 1, 2, 3:
        runs.append(session.make_callable(by_nested_functions(k)(x), [x]))
        for i, run in enumerate(runs):
            np.testing.assert_allclose(run(X), (i + 1) * 3 * X**2, rtol=1e-5)


def test_partial_run(session: Any) -> None:
    x, a = v1.placeholder(tf.float32, [3]), v1.placeholder(tf.float32, [3])
    y = by_nested_functions(2)(x)
    z = by_cond(1)(a * y)
    handle = session.partial_run_setup([y, z], [x, a])
    np.testing.assert_allclose(session.partial_run(handle, y, {x: X}), 6 * X**2, rtol=1e-5)
    np.testing.assert_allclose(session.partial_run(handle, z, {a: X}), 3 * (6 * X**3) ** 2, rtol=1e-5)
    more = by_function(5)(x)
    np.testing.assert_allclose(session.run(more, {x: X}), 15 * X**2, rtol=1e-5)


def test_two_graphs_with_functions_of_the_same_name(target: str) -> None:
    for k in 1, 2:
        with tf.Graph().as_default(), v1.Session(target) as session:
            inner = defun.Defun(tf.float32, func_name="inner")(power(k))
            caller = defun.Defun(tf.float32, func_name="caller")(caller_of(inner))
            got = session.run(caller(tf.constant(X)) + 0.0)
            np.testing.assert_allclose(got, (k + 1) * X**k, rtol=1e-5)


def test_gradients_by_python_over_functions_that_hold_the_op(session: Any) -> None:
    """As TensorFlow's own tests do: forward, gradient, one more function, and again."""
    x = v1.placeholder_with_default(X, [3])
    for k in 1, 2:
        y = by_nested_functions(k)(x)
        (dx,) = v1.gradients(y, x)
        np.testing.assert_allclose(session.run(y), 3 * k * X**2, rtol=1e-5)
        np.testing.assert_allclose(session.run(dx), 6 * k * X, rtol=1e-5)


def test_eager_context() -> None:
    callers = []
    for k in 1, 2, 3:
        callers.append(by_nested_functions(k))
        for i, caller in enumerate(callers):
            concrete = caller.get_concrete_function(SPEC)
            before = concrete.function_def.SerializeToString(deterministic=True)
            np.testing.assert_allclose(caller(tf.constant(X)), (i + 1) * 3 * X**2, rtol=1e-5)
            assert concrete.function_def.SerializeToString(deterministic=True) == before


def test_loaded_models(tmp_path: Path) -> None:
    """Two models from one program, loaded into one process and one graph."""
    for k in 1, 2:
        module = tf.Module()
        module.f = tf.function(lambda x, k=k: float(k) * cubed_gradient(x), input_signature=[SPEC])
        options = tf.saved_model.SaveOptions(namespace_whitelist=["TfSymgrad"])
        tf.saved_model.save(module, str(tmp_path / str(k)), options=options)
    loaded = [tf.saved_model.load(str(tmp_path / str(k))) for k in (1, 2)]
    for k, model in enumerate(loaded, 1):
        np.testing.assert_allclose(model.f(tf.constant(X)), 3 * k * X**2, rtol=1e-5)
        np.testing.assert_allclose(gradient(model.f, tf.constant(X)), 6 * k * X, rtol=1e-5)
    with tf.Graph().as_default(), v1.Session() as session:
        for k in 1, 2, 1:
            meta = v1.saved_model.load(session, ["serve"], str(tmp_path / str(k)), import_scope=None)
            signature = meta.signature_def["serving_default"]
            (y,) = (t.name for t in signature.outputs.values())
            (x,) = (t.name for t in signature.inputs.values())
            del x, y


def test_library_is_the_callers(session: Any) -> None:
    """What the graph itself says of its functions is what was put there."""
    x = v1.placeholder_with_default(X, [3])
    y = by_nested_functions(1)(x)
    before = {f.signature.name: f for f in session.graph.as_graph_def().library.function}
    session.run(y)
    after = {f.signature.name: f for f in session.graph.as_graph_def().library.function}
    assert before == after


REMOTE = """
import numpy as np, tensorflow as tf
from tensorflow.python.eager import remote
from tf_symgrad import symbolic_gradient

def cubed_gradient(x):
    return symbolic_gradient([x, tf.ones_like(x)], f=lambda x: x * x * x)[0]

worker = tf.distribute.Server({"worker": ["localhost:0"]}, job_name="worker", protocol="grpc")
remote.connect_to_remote_host(worker.target[len("grpc://"):])
X = np.array([0.5, -1.0, 2.0], np.float32)
for k in 1, 2, 3:
    inner = tf.function(lambda x, k=k: k * cubed_gradient(x), autograph=False)
    outer = tf.function(lambda x: inner(x), autograph=False)
    with tf.device("/job:worker/replica:0/task:0/cpu:0"):
        x = tf.constant(X)
        np.testing.assert_allclose(outer(x).numpy(), 3 * k * X**2, rtol=1e-5)
        np.testing.assert_allclose(cubed_gradient(x).numpy(), 3 * X**2, rtol=1e-5)
print("done")
"""


def test_remote_eager() -> None:
    done = subprocess.run([sys.executable, "-c", REMOTE], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.endswith("done\n"), done.stderr
