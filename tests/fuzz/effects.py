"""Random programs with effects, differentiated in all ways: python -m tests.fuzz.effects.

Values, derivatives and what is left in the variables are those of the program run statement after statement
(tests/effects.py). Prints what differs, with the arguments that make it again.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tf_symgrad
from tests.effects import Jet, Program, interpret, random_program, trace, variable_of
from tests.fuzz import batches

BATCH = 50
POINT = 0.3
STATE = (0.7, -0.4)
POLICIES = (None, None, None, "cheap", "auto", "everything", 0, "keep:Mul", "recompute:Tanh,Mul")
Found = tuple[Any, ...]  # the value or None, then derivatives


def by_tape(f: Any, x: Any, persistent: bool = False) -> Found:
    with tf_symgrad.native():
        with tf.GradientTape(persistent) as tape:
            tape.watch(x)
            y = f(x)
        return y, tape.gradient(y, x, unconnected_gradients="zero")


def by_tapes(f: Any, x: Any) -> Found:
    with tf_symgrad.native():
        with tf.GradientTape() as outer:
            outer.watch(x)
            y, dx = by_tape(f, x)
        return y, dx, outer.gradient(dx, x, unconnected_gradients="zero")


def by_tapes_in_branches(f: Any, x: Any) -> Found:
    """Each is asked in a graph within that of what it has recorded."""
    with tf_symgrad.native():
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = f(x)
            dx = tf.cond(x > 0, lambda: inner.gradient(y, x, unconnected_gradients="zero"), lambda: x)
        return y, dx, tf.cond(x > 0, lambda: outer.gradient(dx, x, unconnected_gradients="zero"), lambda: x)


def by_tensorflow(f: Any, x: Any) -> Any:
    """The second derivative, by tapes without the engine."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = f(x)
        dx = inner.gradient(y, x, unconnected_gradients="zero")
    return outer.gradient(dx, x, unconnected_gradients="zero")


def by_tapes_after_tensorflow(f: Any, x: Any) -> Found:
    """Of a function that TensorFlow has differentiated before."""
    with contextlib.suppress(Exception):  # which it may fail at
        tf.function(lambda x: by_tensorflow(f, x), autograph=False).get_concrete_function(x)
    with tf_symgrad.native():
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            y, dx = by_tape(f, x)
        return y, dx, tf.cond(x > 0, lambda: outer.gradient(dx, x, unconnected_gradients="zero"), lambda: x)


def by_halves(f: Any, x: Any, policy: Any) -> Found:
    y, pullback = tf_symgrad.vjp(f, x, checkpoint=policy)
    return y, pullback(tf.ones_like(y))[0]


def by_value_and_grad(f: Any, x: Any, policy: Any) -> Found:
    value, dx = tf_symgrad.value_and_grad(f, checkpoint=policy)(x)
    return value, dx


def twice(f: Any, x: Any, policy: Any) -> Found:
    value_and_grad = tf_symgrad.value_and_grad(f, unconnected_gradients="zero", checkpoint=policy)

    def derivative(x: Any) -> Any:
        y, dx = value_and_grad(x)
        return dx, y

    (dx, y), ddx = tf_symgrad.value_and_grad(derivative, has_aux=True, unconnected_gradients="zero")(x)
    return y, dx, ddx


def by_op(f: Any, x: Any, policy: Any) -> Found:
    concrete = f.get_concrete_function(x)
    return None, tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=concrete, checkpoint=policy)[0]


def by_op_of_op(f: Any, x: Any, policy: Any) -> Found:
    lower = tf.function(lambda x: by_op(f, x, policy)[1], autograph=False)
    return None, None, tf_symgrad.grad(lower, unconnected_gradients="zero")(x)


def by_function(f: Any, x: Any, policy: Any) -> Found:
    gradient = tf_symgrad.function_gradient(f.get_concrete_function(x), checkpoint=policy)
    return None, gradient(x, tf.ones_like(x))[0]


def native(f: Any, x: Any, policy: Any) -> Found:
    value, dx = tf_symgrad.value_and_grad(f, checkpoint=policy, optimize="native")(x)
    return value, dx


# Tapes that may ask again keep what XLA has no kernels for; TensorFlow's own do, too.
TAPES_OF_TAPES = ("tapes", "tapes in branches", "tapes after TensorFlow")
NOT_COMPILED = ("persistent tape", *TAPES_OF_TAPES)
WAYS: dict[str, Callable[[Any, Any, Any], Found]] = {
    "tape": lambda f, x, _: by_tape(f, x),
    "persistent tape": lambda f, x, _: by_tape(f, x, persistent=True),
    "tapes": lambda f, x, _: by_tapes(f, x),
    "tapes in branches": lambda f, x, _: by_tapes_in_branches(f, x),
    "tapes after TensorFlow": lambda f, x, _: by_tapes_after_tensorflow(f, x),
    "halves": by_halves,
    "value_and_grad": by_value_and_grad,
    "value_and_grad twice": twice,
    "op": by_op,
    "op of op": by_op_of_op,
    "function": by_function,
    "native": native,
}


def without_prints(program: Program) -> Program:
    """What XLA compiles."""
    kept = (s for s in program if s.kind != "print")
    return tuple(s._replace(parts=tuple(map(without_prints, s.parts))) for s in kept)


def difference(found: Found, expected: Jet, left: Any, after: list[float]) -> str:
    """What is wrong, if anything is; what a way does not return is None."""
    for what, a, b in zip(("value", "derivative", "second derivative"), found, expected, strict=False):
        if a is not None and not np.allclose(a, b, rtol=1e-6, atol=1e-9):
            return f"the {what} is {np.asarray(a)}, not {b}"
    # A gradient alone has no effects but those that it needs.
    if found[0] is not None and not np.allclose(left, after, rtol=1e-6, atol=1e-9):
        return f"the variables are {left}, not {after}"
    return ""


def check(program: Program, name: str, kind: str, policy: Any = None) -> str:
    """What differs in one way; empty if nothing does. `kind`: eager, graph, or jit, if XLA compiles the program."""
    if kind == "jit":
        program = without_prints(program)
    state = list(STATE)
    expected = interpret(program, variable_of(POINT), state)
    variables = [tf.Variable(value, dtype=tf.float64) for value in STATE]
    f = tf.function(lambda x: trace(program, x, variables), autograph=False)
    x = tf.constant(POINT, tf.float64)

    def run(g: Callable[[Any], Any]) -> Any:
        for variable, value in zip(variables, STATE, strict=True):
            variable.assign(value)
        jit = {"jit_compile": True} if kind == "jit" else {}
        return (g if kind == "eager" else tf.function(g, autograph=False, **jit))(x)

    if kind == "jit":
        try:
            run(lambda x: f(x))
        except Exception:
            return ""
    try:
        return difference(run(lambda x: WAYS[name](f, x, policy)), expected, [float(v) for v in variables], state)
    except Exception as error:
        # Of arrays that branches share TensorFlow's own second derivatives add up truth values, with or without us.
        if name in TAPES_OF_TAPES and "Trying to add unsupported dtype" in str(error):
            try:
                run(lambda x: by_tensorflow(f, x))
            except tf.errors.InvalidArgumentError:
                return ""
        return f"{type(error).__name__}: {error}"


def compare(seed: int, name: str, kind: str) -> str:
    rng = random.Random(seed)
    program = random_program(rng, rng.randint(3, 8))
    return check(program, name, kind, rng.choice(POLICIES))


def of_batch(seeds: range, end: float, arguments: argparse.Namespace) -> batches.Outcomes:
    outcomes = batches.Outcomes()
    for seed in seeds:
        rng = random.Random(-seed)
        # Grappler takes half the time, and may hide what is wrong.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": rng.random() < 0.5})
        for name in WAYS:
            if time.time() > end:
                return outcomes
            kind = rng.choice(("eager", "graph", "graph", "jit"))
            if kind == "jit" and (batches.is_kernel() or name in NOT_COMPILED):
                continue
            wrong = compare(seed, name, kind)
            outcomes["programs"] += 1
            if wrong:
                outcomes["differ"] += 1
                door = " by the kernel" if batches.is_kernel() else ""
                print(f"seed {seed}, {name}, {kind}{door}: {' '.join(wrong.split())[:300]}", flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    outcomes, died = batches.run("tests.fuzz.effects", parser, of_batch, BATCH)
    print(f"{outcomes['programs']} programs with effects, of which {outcomes['differ']} differ")
    return 1 if outcomes["differ"] or died else 0


if __name__ == "__main__":
    sys.exit(main())
