"""Memory after 100,000 builds and calls, in each way to the engine: python -m tests.leaks [--rounds N] [WAY...].

Each way runs in a process of its own. TensorFlow keeps something of every function that was ever traced: where a way
traces, the same by a tape, its peer, runs beside it, and what that grows by is no leak of ours.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import tf_symgrad
from tests import c_graph
from tests.memory import GRADIENT, SMALL_CACHE, X, builds, by_tape, gradients_of_functions, in_use, leak, loss
from tf_symgrad import symbolic_gradient

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 100_000
MOST = 0.2  # kB a round more than a peer, 0 where there is none

Round = Callable[[int], Any]  # the number of a round -> the gradient of `scaled` of it, or None


def scaled(k: int) -> Any:
    """A function that is another object each time."""
    return lambda x: loss(x, float(k % 9 + 1))


def concrete(f: Any) -> Any:
    return tf.function(f, autograph=False).get_concrete_function(tf.TensorSpec([3]))


def eager() -> Round:
    """Eager calls: the op, each other time as a user writes it."""
    x, f = tf.constant(X), concrete(scaled(0))

    def one_round(k: int) -> Any:
        if k % 2:
            return symbolic_gradient([x], f=f)[0] * float(k % 9 + 1)
        dy = tf.constant(float(k % 9 + 1))
        return tf_symgrad.raw_ops.SymbolicGradient(input=[x, dy], Tout=[tf.float32], f=f)[0]

    return one_round


def function() -> Round:
    """Calls within a tf.function that was traced."""
    x, f = tf.constant(X), concrete(scaled(0))
    g = tf.function(lambda x, c: c * symbolic_gradient([x], f=f)[0], autograph=False)
    return lambda k: g(x, tf.constant(float(k % 9 + 1)))


def transforms() -> Round:
    """value_and_grad, vjp and jvp of one function."""
    x, f = tf.constant(X), tf.function(scaled(0), autograph=False)

    def one_round(k: int) -> Any:
        if k % 3 == 0:
            return tf_symgrad.value_and_grad(f)(x)[1] * float(k % 9 + 1)
        if k % 3 == 1:
            return tf_symgrad.vjp(f, x)[1](tf.constant(float(k % 9 + 1)))[0]
        return tf_symgrad.jvp(f, [x], [tf.ones([3])])[1] and None

    return one_round


def c_api() -> Round:
    """Gradients of ever new functions, each third a malformed one, by the C API."""
    made, c = gradients_of_functions(), c_graph.c_api()
    ours = ctypes.CDLL(tf_symgrad.get_library_path())
    pointer = ctypes.c_void_p

    def one_round(k: int) -> None:
        library, name = made(k)
        status = pointer(c.TF_NewStatus())
        given = pointer(c.TF_NewBufferFromString(library, ctypes.c_size_t(len(library) - (k % 3 == 0))))
        buffers = [pointer(c.TF_NewBuffer()) for _ in range(2)]
        ours.TFSG_GradientFunction(given, name.encode(), None, *buffers, None, status)
        assert (c.TF_GetCode(status) != 0) == (k % 3 == 0)
        for buffer in (given, *buffers):
            c.TF_DeleteBuffer(buffer)
        c.TF_DeleteStatus(status)

    return one_round


def c_graphs() -> Round:
    """TF_AddGradients and TFSG_AddGradients on ever new graphs."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [3], name="x")
        tf.identity(loss(x, 2.0), name="y")
    definition = graph.as_graph_def()

    def one_round(k: int) -> None:
        c = c_graph.CGraph(definition)
        assert c.add_gradients(["y"], ["x"], None) if k % 2 else c.add_gradients_at_once(["y"], ["x"])
        c.close()

    c_graph.load()
    return one_round


def fresh() -> Round:
    """Eager calls with another callable each time."""
    x = tf.constant(X)
    return lambda k: symbolic_gradient([x], f=scaled(k))[0]


def fresh_peer() -> Round:
    x = tf.constant(X)
    return lambda k: by_tape(tf.function(scaled(k), autograph=False), x)


def fresh_functions() -> Round:
    """Eager calls, and value_and_grad, of another tf.function each time."""
    x = tf.constant(X)

    def one_round(k: int) -> Any:
        f = tf.function(scaled(k), autograph=False)
        return tf_symgrad.value_and_grad(f)(x)[1] if k % 2 else symbolic_gradient([x], f=f)[0]

    return one_round


def retraced() -> Round:
    """The op in another tf.function each time, of another function."""
    x = tf.constant(X)
    return lambda k: tf.function(lambda x: symbolic_gradient([x], f=scaled(k))[0], autograph=False)(x)


def retraced_peer() -> Round:
    x = tf.constant(X)

    def one_round(k: int) -> Any:
        inner = tf.function(scaled(k), autograph=False)
        return tf.function(lambda x: by_tape(inner, x), autograph=False)(x)

    return one_round


def fresh_transforms() -> Round:
    """value_and_grad, vjp and a second derivative of another callable each time."""
    x = tf.constant(X)

    def one_round(k: int) -> Any:
        if k % 3 == 0:
            return tf_symgrad.value_and_grad(scaled(k))(x)[1]
        if k % 3 == 1:
            return tf_symgrad.vjp(scaled(k), x)[1](tf.constant(1.0))[0]
        return tf_symgrad.hvp(scaled(k), [x], [tf.ones([3])]) and None

    return one_round


def enabled() -> Round:
    """Tapes over another tf.function each time, after enable()."""
    tf_symgrad.enable()
    return retraced_peer()


def sessions() -> Round:
    """Graphs and sessions that end."""

    def one_round(k: int) -> Any:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [3])
            return session.run(symbolic_gradient([x], f=scaled(k))[0], {x: X})

    return one_round


def sessions_peer() -> Round:
    def one_round(k: int) -> Any:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [3])
            y = tf.function(scaled(k), autograph=False)(x)
            return session.run(tf.gradients(y, x)[0], {x: X})

    return one_round


@dataclass(frozen=True)
class Way:
    one_round: Callable[[], Round]
    share: float = 1.0  # of all rounds: to trace takes a hundred times as long as to call
    peer: Callable[[], Round] | None = None
    kernel: bool = False  # without the graph pass, so that the op's kernel runs

    @property
    def name(self) -> str:
        return self.one_round.__name__ + ("_kernel" if self.kernel else "")


WAYS = {
    way.name: way
    for way in (
        *(Way(f) for f in (eager, function, builds, c_api)),
        *(Way(f, kernel=True) for f in (eager, function)),
        Way(c_graphs, 0.5),
        Way(fresh, 0.03, fresh_peer),
        Way(fresh, 0.03, fresh_peer, kernel=True),
        Way(fresh_functions, 0.03, fresh_peer),
        Way(retraced, 0.03, retraced_peer),
        Way(retraced, 0.03, retraced_peer, kernel=True),
        Way(transforms, 0.04, retraced_peer),  # vjp and jvp trace at each call
        Way(fresh_transforms, 0.06, retraced_peer),
        Way(enabled, 0.03, retraced_peer),
        Way(sessions, 0.03, sessions_peer),
    )
}


def growth(make: Callable[[], Round], rounds: int, leaked: float = 0.0) -> float:
    """Of the process in the second half of so many rounds: kB a round. In the first one, TensorFlow's caches fill."""
    one_round, start, held = make(), time.monotonic(), 0.0
    for k in range(rounds):
        found = one_round(k)
        leak(leaked)
        if found is not None and not np.allclose(found / float(k % 9 + 1), GRADIENT, rtol=1e-5):
            raise SystemExit(f"round {k}: a wrong number")
        if k + 1 == rounds // 2:
            held = in_use() * 1024
    end = in_use() * 1024
    took = time.monotonic() - start
    each = (end - held) / (rounds - rounds // 2)
    print(f"{rounds} rounds in {took:.0f} s, {held:.0f} kB, then {end:.0f} kB: {each:+.3f} kB a round", flush=True)
    return each


def in_a_process(way: Way, rounds: int, *options: str) -> float | None:
    command = [sys.executable, "-m", "tests.leaks", f"--rounds={rounds}", "--here", way.name, *options]
    environment = os.environ | SMALL_CACHE
    environment |= {"TF_SYMGRAD_DISABLE_PASS": "1" if way.kernel else "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = done.stderr[-3000:] if done.returncode else done.stdout.strip()
    print(f"{way.name}{', its peer' if '--peer' in options else ''}: {said}", flush=True)
    return float(done.stdout.split()[-4]) if done.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of ways that do not trace")
    parser.add_argument("--leak", type=float, default=0.0, help="kB to leave behind in each round, to see that found")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; all by default")
    arguments = parser.parse_args()
    if unknown := set(arguments.ways) - set(WAYS):
        parser.error(f"there is no way {', '.join(sorted(unknown))}: there are {', '.join(WAYS)}")
    ways = [WAYS[name] for name in arguments.ways or WAYS]
    if arguments.here:
        growth((ways[0].peer if arguments.peer else None) or ways[0].one_round, arguments.rounds, arguments.leak)
        return 0
    failed = []
    for way in ways:
        rounds = max(int(arguments.rounds * way.share), 2)
        allowed = in_a_process(way, max(rounds // 4, 2), "--peer") if way.peer else 0.0
        grown = in_a_process(way, rounds, f"--leak={arguments.leak}")
        if allowed is None or grown is None or grown > allowed + MOST:
            failed.append(way.name)
    print(f"leaks: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
