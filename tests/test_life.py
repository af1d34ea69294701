"""Threads, forks, the end of the process, new contexts, cancelled calls: each in a process of its own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.sanitize.build import keeps_memory

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
X = np.array([0.1, 0.2, 0.3], np.float32)
GRADIENT = np.sin(2 * X)


def loss(x: Any) -> Any:
    return tf.reduce_sum(tf.sin(x) ** 2)


def for_ever(x: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 10**9, lambda i, y: (i + 1, tf.sin(y)), [0, x], parallel_iterations=1)[1]


def gradient_for_ever() -> Any:
    f = tf.function(for_ever).get_concrete_function(tf.TensorSpec([3]))
    return tf.function(lambda x: symbolic_gradient([x, tf.ones([3])], f=f)[0])


def threads() -> None:
    """They trace, build and call at once, in eager mode, functions and sessions."""
    wrong: list[int] = []

    def work(k: int) -> None:
        for c in (1.0, float(k)):
            f = tf.function(lambda x, c=c: c * loss(x), autograph=False)
            g = tf.function(lambda x, f=f: symbolic_gradient([x], f=f)[0], autograph=False)
            found = [g(tf.constant(X)).numpy(), symbolic_gradient([tf.constant(X)], f=f)[0].numpy()]
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                x = tf.compat.v1.placeholder(tf.float32, [3])
                found.append(session.run(symbolic_gradient([x], f=f)[0], {x: X}))
            if not all(np.allclose(dx, c * GRADIENT, rtol=1e-5) for dx in found):
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def fork() -> None:
    """The engine builds in a child process; TensorFlow itself runs nothing there."""
    f = tf.function(loss).get_concrete_function(tf.TensorSpec([3]))
    tf_symgrad.gradient_function(f)
    child = os.fork()
    if child == 0:
        name = attr_value_pb2.NameAttrList(name=f.function_def.signature.name).SerializeToString()
        library = function_pb2.FunctionDefLibrary(function=[f.function_def]).SerializeToString()
        os._exit(0 if _loader.native().build_gradient(library, name, [True])[1] else 1)
    assert os.waitpid(child, 0)[1] == 0


def another_library(k: int, nodes: int = 100) -> tuple[bytes, bytes]:
    """A function that no other k has, and its name."""
    f = chain(nodes, "Tanh", f"f{k}")
    name = attr_value_pb2.NameAttrList(name=f.signature.name).SerializeToString()
    return function_pb2.FunctionDefLibrary(function=[f]).SerializeToString(), name


def build_for_ever(numbers: Iterator[int], stop: threading.Event) -> None:
    while not stop.is_set():
        _loader.native().build_gradient(*another_library(next(numbers)), [True])


def fork_amid_builds() -> None:
    """A child builds, whatever its parent's other threads were at when it was made."""
    stop = threading.Event()
    workers = [threading.Thread(target=build_for_ever, args=(itertools.count(k, 4), stop)) for k in range(4)]
    for worker in workers:
        worker.start()
    statuses = []
    for k in range(30):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends it, where it hangs
            _loader.native().build_gradient(*another_library(10**6 + k), [True])
            os._exit(0)
        statuses.append(os.waitpid(child, 0)[1])
    stop.set()
    for worker in workers:
        worker.join()
    assert statuses == [0] * 30


def the_end() -> None:
    """The interpreter ends while a call runs."""
    g = gradient_for_ever().get_concrete_function(tf.TensorSpec([3]))
    threading.Thread(target=g, args=(tf.constant(X),), daemon=True).start()


def the_end_amid_builds() -> None:
    """It ends while the engine builds, in threads that nobody waits for."""
    library, name = another_library(0, 200_000)
    long = threading.Thread(target=_loader.native().build_gradient, args=(library, name, [True]), daemon=True)
    long.start()
    for k in range(4):
        threading.Thread(target=build_for_ever, args=(itertools.count(k, 4), threading.Event()), daemon=True).start()
    time.sleep(0.3)
    assert long.is_alive()


def new_context() -> None:
    """What was made before is of the old one; what is made anew is right."""
    tf_symgrad.enable()
    for _ in range(2):
        x, f = tf.constant(X), tf.function(loss)
        np.testing.assert_allclose(symbolic_gradient([x], f=loss)[0], GRADIENT, rtol=1e-5)
        of_f = tf_symgrad.value_and_grad(f)
        for _ in range(3):  # the first goes the long way, the others are traced
            np.testing.assert_allclose(symbolic_gradient([x], f=f)[0], GRADIENT, rtol=1e-5)
            np.testing.assert_allclose(of_f(x)[1], GRADIENT, rtol=1e-5)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        np.testing.assert_allclose(tape.gradient(y, x), GRADIENT, rtol=1e-5)
        context._reset_context()


def cancelled() -> None:
    """A gradient that is a loop, and one within a loop: the call ends at once, and the next is not."""
    ends = tf.function(lambda x: symbolic_gradient([x], f=tf.function(loss))[0])
    for_ever = gradient_for_ever()
    again = tf.function(
        lambda x: tf.while_loop(lambda i, y: i < 10**9, lambda i, y: (i + 1, ends(y)), (0, x), parallel_iterations=1)[1]
    )
    for g in (for_ever, again):
        manager = cancellation.CancellationManager()
        timer = threading.Timer(0.5, manager.start_cancel)
        g.get_concrete_function(tf.TensorSpec([3]))
        timer.start()
        with pytest.raises(tf.errors.CancelledError):
            manager.get_cancelable_function(g.get_concrete_function(tf.TensorSpec([3])))(tf.constant(X))
        np.testing.assert_allclose(ends(tf.constant(X)), GRADIENT, rtol=1e-5)


def session_timeout() -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y, other = gradient_for_ever()(tf.constant(X)), symbolic_gradient([tf.constant(X)], f=loss)[0]
        for _ in range(2):
            with pytest.raises(tf.errors.DeadlineExceededError):
                session.run(y, options=tf.compat.v1.RunOptions(timeout_in_ms=500))
            np.testing.assert_allclose(session.run(other), GRADIENT, rtol=1e-5)  # nothing is held


def failing() -> None:
    """An error that f raises keeps its class and message in the gradient, wherever in f."""

    def checked(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(x, 1.0, "too large for this")]):
            return x**2

    def in_python(x: Any) -> Any:
        def fails(_: Any) -> Any:
            raise KeyError("no such thing")

        (y,) = tf.numpy_function(fails, [x], [tf.float32])
        return x * tf.ensure_shape(y, [3])

    places: list[Callable[[Any, Any], Any]] = [
        lambda f, x: f(x),
        lambda f, x: tf.function(f)(x),
        lambda f, x: tf.cond(x[0] > 0, lambda: f(x), lambda: x),
        lambda f, x: tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, f(y)), (0, x))[1],
    ]
    for place in places:
        for f, error, message in (
            (checked, tf.errors.InvalidArgumentError, "too large for this"),
            (in_python, tf.errors.UnknownError, "KeyError: 'no such thing'"),
        ):
            g = tf.function(lambda x, place=place, f=f: tf.reduce_sum(place(f, x)), autograph=False)
            g = g.get_concrete_function(tf.TensorSpec([3]))
            with pytest.raises(error, match=message):
                symbolic_gradient([tf.constant(10 * X)], f=g)
            with pytest.raises(error, match=message):
                tf.function(lambda x, g=g: symbolic_gradient([x], f=g)[0], autograph=False)(tf.constant(10 * X))


def memory() -> None:
    """A callable is another function at each eager call: what TensorFlow keeps of those that are gone is let go."""

    def calls(count: int) -> float:
        for k in range(count):
            (dx,) = symbolic_gradient([tf.constant(X)], f=lambda x, k=k: loss(x) * float(k % 9 + 1))
            np.testing.assert_allclose(dx, GRADIENT * (k % 9 + 1), rtol=1e-5)
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = calls(150)
    assert calls(300) < before + 15  # MB; it would be 30


CALLS: list[Callable[[], None]] = [threads, the_end, new_context, cancelled, session_timeout, failing, memory]
BUILDS: list[Callable[[], None]] = [fork, fork_amid_builds, the_end_amid_builds]


@pytest.mark.parametrize(
    ("scenes", "environment"),
    [(CALLS, {}), (CALLS, {"TF_SYMGRAD_DISABLE_PASS": "1"}), (BUILDS, {})],
    ids=["pass", "kernel", "builds"],
)
def test_life(scenes: list[Callable[[], None]], environment: dict[str, str]) -> None:
    for scene in scenes:
        if scene is memory and keeps_memory():
            continue
        command = [sys.executable, "-m", "tests.test_life", scene.__name__]
        process = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300
        )
        assert process.returncode == 0, f"{scene.__name__}: {process.stderr[-2000:]}"


if __name__ == "__main__":
    import tensorflow as tf
    from tensorflow.core.framework import attr_value_pb2, function_pb2
    from tensorflow.python.eager import cancellation, context

    import tf_symgrad
    from tests.test_engine import chain
    from tf_symgrad import _loader, symbolic_gradient

    {scene.__name__: scene for scene in [*CALLS, *BUILDS]}[sys.argv[1]]()
