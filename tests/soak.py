"""Threads that trace, build, call, load the library and end sessions at once, for minutes: python -m tests.soak.

Prints calls and memory as it goes; fails when a result is wrong, or when memory goes on growing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import tf_symgrad
from tf_symgrad import symbolic_gradient

X = np.array([0.1, 0.2, 0.3], np.float32)
GRADIENT = np.sin(2 * X)
KINDS = 50  # functions that differ; each thread makes each of them again and again


def loss(x: Any, c: float) -> Any:
    return c * tf.reduce_sum(tf.sin(x) ** 2)


def one_round(k: int) -> list[Any]:
    """The gradient of one function, in each way."""
    c = float(k % KINDS + 1)
    x = tf.constant(X)
    f = tf.function(lambda x: loss(x, c), autograph=False)
    found = [
        symbolic_gradient([x], f=f)[0],
        tf.function(lambda x: symbolic_gradient([x], f=f)[0], autograph=False)(x),
        tf_symgrad.value_and_grad(f)(x)[1],
    ]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y = tf.compat.v1.placeholder(tf.float32, [3])
        found.append(session.run(symbolic_gradient([y], f=lambda y: loss(y, c))[0], {y: X}))
    tf.load_op_library(tf_symgrad.get_library_path())
    return [np.asarray(dx) / c for dx in found]


def resident() -> float:
    """Of this process, in MB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=64)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    rounds, wrong, done = itertools.count(), [], []

    def work() -> None:
        while time.monotonic() < end and not wrong:
            k = next(rounds)
            try:
                if not all(np.allclose(dx, GRADIENT, rtol=1e-5) for dx in one_round(k)):
                    wrong.append(f"round {k}: a wrong number")
                done.append(k)
            except Exception as error:  # whatever it is, it is reported
                wrong.append(f"round {k}: {error!r}")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(arguments.threads)]
    for thread in threads:
        thread.start()
    memory = []
    for _ in range(10):
        time.sleep(arguments.seconds / 10)
        memory.append(resident())
        print(f"{len(done):7} rounds, {memory[-1]:7.0f} MB", flush=True)
    for thread in threads:
        thread.join()
    if wrong:
        raise SystemExit("\n".join(wrong))
    growth = memory[-1] - memory[4]
    print(f"{arguments.threads} threads, {len(done)} rounds, {growth:+.0f} MB in the second half")
    if growth > 64 + 0.1 * memory[4]:  # the cache of gradients, and what a TensorFlow function leaves behind
        raise SystemExit("memory grows")


if __name__ == "__main__":
    main()
