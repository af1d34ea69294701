"""Threads that trace, build, call, load the library and end sessions at once, for minutes: python -m tests.soak.

Prints calls and memory as it goes; fails when a result is wrong, or when memory goes on growing. At each tenth of the
time all threads rest, and cycles are collected. TensorFlow itself keeps something of what is traced, so the same
program by a tape (`--control`) runs before, in a process of its own, and says how much.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tf_symgrad
from tests.memory import GRADIENT, SMALL_CACHE, X, by_tape, in_use, leak, loss, resident
from tf_symgrad import symbolic_gradient

KINDS = 50  # functions that differ; each thread makes each of them again and again
PARTS = 10
# What a round may leave behind beyond the control's, where one generated function in a library would be 10 kB; and what
# memory moves by without that it grows.
MOST, NOISE = 1.0, 24_000.0  # kB

Gradient = Callable[[Any, Any], Any]  # of a function at a point


def by_op(f: Any, x: Any) -> Any:
    return symbolic_gradient([x], f=f)[0]


def one_round(k: int, gradient: Gradient) -> list[Any]:
    """The gradient of one function, in each way."""
    c = float(k % KINDS + 1)
    x = tf.constant(X)
    f, g = (tf.function(lambda x: loss(x, c), autograph=False) for _ in range(2))
    value_and_grad = tf_symgrad.value_and_grad(f) if gradient is by_op else lambda x: (f(x), gradient(f, x))
    found = [
        gradient(f, x),
        tf.function(lambda x: gradient(f, x), autograph=False)(x),
        value_and_grad(x)[1],
    ]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y = tf.compat.v1.placeholder(tf.float32, [3])
        found.append(session.run(gradient(g, y), {y: X}))
    tf.load_op_library(tf_symgrad.get_library_path())
    return [np.asarray(dx) / c for dx in found]


class Soak:
    """Rounds in many threads, a part at a time."""

    def __init__(self, gradient: Gradient, threads: int, leaked: float = 0.0) -> None:
        self.gradient, self.threads, self.leaked = gradient, threads, leaked
        self.rounds, self.done, self.wrong = itertools.count(), 0, list[str]()
        self.lock = threading.Lock()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._work, args=(end,), daemon=True) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, end: float) -> None:
        while time.monotonic() < end and not self.wrong:
            k = next(self.rounds)
            try:
                if not all(np.allclose(dx, GRADIENT, rtol=1e-5) for dx in one_round(k, self.gradient)):
                    self.wrong.append(f"round {k}: a wrong number")
            except Exception as error:  # whatever it is, it is reported
                self.wrong.append(f"round {k}: {error!r}")
            leak(self.leaked)
            with self.lock:
                self.done += 1


def growth(gradient: Gradient, seconds: float, threads: int, leaked: float = 0.0) -> tuple[float, int]:
    """Of the process in the second half of the time: kB a round, and of how many rounds that is."""
    soak, rounds, memory = Soak(gradient, threads, leaked), [], []
    for part in range(PARTS):
        soak.run(seconds / PARTS)
        if soak.wrong:
            raise SystemExit("\n".join(soak.wrong))
        rounds.append(soak.done)
        memory.append(in_use() * 1024)
        took, all_of_it = seconds * (part + 1) / PARTS, resident()
        print(f"{took:5.0f} s, {soak.done:7} rounds, {memory[-1] / 1024:7.1f} MB in use of {all_of_it:.0f}", flush=True)
    half = PARTS // 2 - 1
    count = max(rounds[-1] - rounds[half], 1)
    return (memory[-1] - memory[half]) / count, count


def grows(each: float, allowed: float, rounds: int) -> bool:
    return each > allowed + MOST + NOISE / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of which the control takes a quarter")
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--leak", type=float, default=0.0, help="kB to leave behind in each round, to see that found")
    parser.add_argument("--control", action="store_true", help="the same by a tape, and what that grows by")
    arguments = parser.parse_args()
    os.environ.update(SMALL_CACHE)
    if arguments.control:
        each, count = growth(by_tape, arguments.seconds, arguments.threads)
        print(f"{each:.3f} kB a round in {count} rounds")
        return
    command = [sys.executable, "-m", "tests.soak", "--control", f"--threads={arguments.threads}"]
    command += [f"--seconds={arguments.seconds / 4}"]
    control = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(f"by a tape: {control}", end="")
    allowed = max(float(control.splitlines()[-1].split()[0]), 0.0)
    each, count = growth(by_op, arguments.seconds * 3 / 4, arguments.threads, arguments.leak)
    print(f"{arguments.threads} threads, {each:+.3f} kB a round in {count} rounds, by a tape {allowed:+.3f}")
    if grows(each, allowed, count):
        raise SystemExit("memory grows")


if __name__ == "__main__":
    main()
