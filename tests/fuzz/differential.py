"""Random programs, differentiated by the engine and by TensorFlow's tape: python -m tests.fuzz.differential.

Prints what differs, with the seed that makes it again, and ends with how many programs were compared.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tf_symgrad
from tests.fuzz.programs import Program, random_program

MODES = ("function", "eager", "kernel", "jit")
SHAPE = (3, 4)


def inputs(seed: int) -> list[Any]:
    random_state = np.random.default_rng(seed)
    return [tf.constant(random_state.normal(size=SHAPE)) for _ in range(3)]


def derivative(program: Program, order: int, gradient: Callable[..., Any]) -> Program:
    """x, y, direction v -> the derivative of that order, each in the direction v; `gradient(loss, x, y)` is one."""
    if order == 0:
        return lambda x, y, v: program(x, y)
    f = derivative(program, order - 1, gradient)
    return lambda x, y, v: sum(gradient(lambda x, y: tf.reduce_sum(f(x, y, v) * v), x, y))


def by_tape(f: Any, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        loss = f(x, y)
    return tape.gradient(loss, [x, y], unconnected_gradients="zero")


def by_engine(f: Any, x: Any, y: Any) -> Any:
    concrete = tf.function(f, autograph=False).get_concrete_function(x, y)
    return tf_symgrad.symbolic_gradient([x, y, tf.ones([], x.dtype)], f=concrete)


def xla_compiles(f: Program, x: list[Any]) -> bool:
    try:
        tf.function(f, autograph=False, jit_compile=True)(*x)
    except Exception:
        return False
    return True


def compare(seed: int, mode: str, order: int) -> str:
    """What differs for a program; empty if nothing does."""
    program, x = random_program(random.Random(seed)), inputs(seed)
    try:
        expected = tf.function(derivative(program, order, by_tape), autograph=False)(*x).numpy()
    except Exception as error:
        return f"the tape fails: {type(error).__name__}: {error}"
    found = derivative(program, order, by_engine)
    if mode != "eager":
        found = tf.function(found, autograph=False, jit_compile=mode == "jit")
    try:
        got = found(*x).numpy()
    except tf.errors.OpError as error:
        return (
            ""
            if mode == "jit" and not xla_compiles(derivative(program, order, by_tape), x)
            else f"{type(error)}: {error.message}"
        )
    scale = max(np.abs(expected).max(), 1.0)
    if not np.isfinite(expected).all() or scale > 1e8:
        return ""
    error = np.abs(got - expected).max() / scale
    return "" if error < 1e-7 else f"differs by {error:.1e} of {scale:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--modes", nargs="*", default=["function", "function", "eager", "jit"], choices=MODES)
    arguments = parser.parse_args()
    start, count, wrong = time.monotonic(), 0, 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        if time.monotonic() - start > arguments.seconds:
            break
        rng = random.Random(-seed)
        mode, order = rng.choice(arguments.modes), rng.choice([1, 1, 2])
        difference = compare(seed, mode, order)
        count += 1
        if difference:
            wrong += 1
            print(f"seed {seed}, {mode}, order {order}: {' '.join(difference.split())[:300]}", flush=True)
    print(f"{count} programs, of which {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
