"""Random programs, differentiated by the engine, the tape and differences: python -m tests.fuzz.differential.

Prints what differs, with the arguments that make it again, and ends with how many programs were compared.
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
from tests.fuzz import batches
from tests.fuzz.programs import SHAPE, Program, random_program

MODES = ("function", "eager", "jit", "enable")
STEP = 1e-3  # of differences
BATCH = 400

# What the tape itself fails on, in TensorFlow 2.21: nothing to compare with.
TAPE_FAILS = {
    "You must feed a value for placeholder": "a branch's second gradient takes a tensor of a graph that it is not in",
    "AssertionError": "a gradient of a loop within a loop's gradient finds no accumulator",
    "recompute_grad tried to transpose": "recompute_grad has no second derivative",
}


def inputs(seed: int) -> list[Any]:
    random_state = np.random.default_rng(seed)
    return [tf.constant(random_state.normal(size=SHAPE)) for _ in range(3)]


def value(program: Program) -> Program:
    return lambda x, y, v: program(x, y)


def derivative(f: Program, gradient: Callable[..., Any], order: int = 1) -> Program:
    """Of f of x, y and a direction v, in that direction: a function of these again. `gradient(loss, x, y)` is one."""
    if order == 0:
        return f
    lower = derivative(f, gradient, order - 1)
    return lambda x, y, v: tf.add_n(
        [tf.convert_to_tensor(d) for d in gradient(lambda x, y: tf.reduce_sum(lower(x, y, v) * v), x, y)]
    )


def by_tape(f: Any, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        loss = f(x, y)
    return tape.gradient(loss, [x, y], unconnected_gradients="zero")


def by_engine(f: Any, x: Any, y: Any) -> Any:
    concrete = tf.function(f, autograph=False).get_concrete_function(x, y)
    return tf_symgrad.symbolic_gradient([x, y, tf.ones([], x.dtype)], f=concrete)


def by_graph(f: Any, x: Any, y: Any) -> Any:
    return tf.gradients(f(x, y), [x, y], unconnected_gradients="zero")


def by_persistent_tape(f: Any, x: Any, y: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, y])
        loss = f(x, y)
    return [tape.gradient(loss, t, unconnected_gradients="zero") for t in (x, y)]


def by_tape_in_a_branch(f: Any, x: Any, y: Any) -> Any:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, y])
        loss = f(x, y)
    return tf.cond(tf.size(x) > 0, lambda: tape.gradient(loss, [x, y], unconnected_gradients="zero"), lambda: [x, y])


WAYS = (by_tape, by_graph, by_persistent_tape, by_tape_in_a_branch)  # of code that knows of no engine


def enabled(way: Callable[..., Any]) -> Callable[..., Any]:
    def gradient(f: Any, x: Any, y: Any) -> Any:
        with tf_symgrad.native():
            return way(f, x, y)

    return gradient


def traced(f: Program, x: list[Any], jit: bool = False) -> Any:
    return tf.function(f, autograph=False, jit_compile=jit or None).get_concrete_function(*x)


def xla_compiles(f: Program, x: list[Any]) -> bool:
    try:
        traced(f, x, jit=True)(*x)
    except Exception:
        return False
    return True


def slope(f: Program, x: list[Any], direction: Any) -> tuple[float, float]:
    """Of the sum of f times v, by differences, along a direction of x and y; and about how far that is off."""
    *point, v = x

    def at(step: float) -> float:
        return float(tf.reduce_sum(f(*(a + step * direction for a in point), v) * v))

    coarse, fine = ((at(h) - at(-h)) / (2 * h) for h in (STEP, STEP / 2))
    best = (4 * fine - coarse) / 3
    return best, abs(best - fine)


def agrees(derivative: Any, of: Program, x: list[Any], rng: np.random.Generator) -> bool:
    """Whether differences of `of` say the same; not where they say nothing, at a kink or a jump."""
    direction = tf.constant(rng.uniform(-1.0, 1.0, SHAPE))
    expected, off = slope(of, x, direction)
    got = float(tf.reduce_sum(derivative * direction))
    return abs(got - expected) <= 1e-6 * max(abs(expected), 1.0) + min(2 * off, 1e-3 * abs(expected))


def difference(expected: Any, got: Any) -> str:
    scale = max(np.abs(expected).max(), 1.0)
    if not np.isfinite(expected).all() or scale > 1e8:
        return ""
    error = np.abs(got - expected).max() / scale
    return "" if error < 1e-7 else f"differs by {error:.1e} of {scale:.1e}"


def compare(seed: int, mode: str, order: int) -> str:
    """What differs for a program; empty if nothing does.

    Each derivative is compared with differences of the one before, as a tape takes several times as long, and a tape of
    a tape ten times. A tape is asked where they are not equal, which most often is a kink, and of each eighth program.
    In each fourth program, TensorFlow does not know the shapes of half the values, which XLA could not compile. Even
    seeds have ops of the case tables.
    """
    hides = random.Random(~seed) if seed % 4 == 2 and mode != "jit" else None
    program = random_program(random.Random(seed), order, hides, tables=seed % 2 == 0)
    x, rng = inputs(seed), np.random.default_rng(seed)
    try:
        lower: Program = traced(value(program), x)
        lower(*x)
    except Exception as error:
        return f"the tape fails, as the program does: {type(error).__name__}: {error}"
    for n in range(1, order + 1):
        by_tapes, way = derivative(value(program), by_tape, n), WAYS[seed % 7 % 4]
        found, got, said = derivative(lower, enabled(way) if mode == "enable" else by_engine), None, ""
        try:
            if n < order or mode != "eager":
                found = traced(found, x, jit=mode == "jit" and n == order)
            got = found(*x).numpy()
        except Exception as error:
            if mode == "jit" and not xla_compiles(by_tapes, x):
                return ""
            said = f"{type(error).__name__}: {error}"
        asks = n == 1 and seed % 8 == 0
        if asks or got is None or not agrees(got, lower, x, rng):
            try:
                if got is None and mode == "enable":  # what is the tape's own mistake is no difference
                    traced(derivative(lower, way), x)(*x)
                expected = traced(by_tapes, x)(*x).numpy()
            except Exception as error:
                if got is not None and agrees(got, lower, x, rng):
                    return ""
                failed = f"{type(error).__name__}: {error}"
                return f"the tape fails: {next((why for text, why in TAPE_FAILS.items() if text in failed), failed)}"
            if said:
                return f"at order {n}: {said}"
            tape_is_wrong = agrees(got, lower, x, rng) and not agrees(expected, lower, x, rng)
            if not tape_is_wrong and (differs := difference(expected, got)):
                return f"at order {n}: {differs}"
        lower = found
    return ""


def of_batch(seeds: range, end: float, arguments: argparse.Namespace) -> batches.Outcomes:
    """Compares in this process, until a time."""
    outcomes = batches.Outcomes()
    for seed in seeds:
        if time.time() > end:
            break
        rng = random.Random(-seed)
        mode, order = rng.choice(arguments.modes), rng.choice([1] * 6 + [2, 2, 3])
        kind = "kernel" if batches.is_kernel() else mode
        # Grappler takes half the time, and may hide what is wrong.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": rng.random() < 0.7})
        difference = compare(seed, "function" if kind == "kernel" else mode, order)
        outcomes[f"{kind}, order {order}"] += 1
        if difference:
            outcomes["tape fails" if difference.startswith("the tape fails") else "differ"] += 1
            print(f"seed {seed}, {kind}, order {order}: {' '.join(difference.split())[:300]}", flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    modes = ["function"] * 10 + ["eager"] * 3 + ["jit"] + ["enable"] * 4
    parser.add_argument("--modes", nargs="*", default=modes, choices=MODES)
    outcomes, died = batches.run("tests.fuzz.differential", parser, of_batch, BATCH)
    programs = sum(n for kind, n in outcomes.items() if "order" in kind)
    print(f"{programs} programs, of which {outcomes['differ']} differ and {outcomes['tape fails']} have no tape to ask")
    print(*(f"  {kind}: {n}" for kind, n in sorted(outcomes.items()) if "order" in kind), sep="\n")
    return 1 if outcomes["differ"] or died else 0


if __name__ == "__main__":
    sys.exit(main())
