"""Ops of the case tables as steps of random programs: each at its own point, moved a little by a value."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops

from tests.cases import FAMILIES, cases
from tests.spec import Case, Point, Rand, possible_dtypes

MOVE = 1e-2  # how far from its point: what has a kink is tested far enough from that


@functools.lru_cache(1)
def operations() -> list[Case]:
    """The cases that differences can judge anywhere near their points, and the tape, where it has a gradient."""
    python = ops.gradient_registry.list()
    return [
        case
        for case in itertools.chain.from_iterable(map(cases, FAMILIES))
        if case.fd and case.unknown and not (case.graph_only or case.compiled)
        if case.python or case.op not in python
        if case.op != "Svd"  # which XLA computes in lower precision, whatever the dtype
    ]


def precise(case: Case) -> str:
    """The dtypes of double precision that a case can be had in: none where single precision would hide mistakes."""
    values = [v for value in case.args.values() for v in (value if isinstance(value, list) else [value])]
    if any(isinstance(v, Rand) and v.dtype not in (None, "d", "z") for v in values):
        return ""
    return "".join(letter for letter in "dz" if letter in (case.dtypes or possible_dtypes(case)))


def _is_precise(point: Point) -> bool:
    """Whether outputs have double precision, as some never have."""
    try:
        return {y.dtype for y in point.f(*point.x)} <= {tf.float64, tf.complex128}
    except tf.errors.OpError:  # there is no such kernel
        return False


def operation(rng: random.Random) -> tuple[str, Callable[[Any], Any]]:
    """What a case is called; and the mean of its outputs, as a function of a real tensor."""
    while True:
        case = rng.choice(operations())
        if letters := precise(case):
            letter = rng.choice(letters)
            point = Point(case, letter)
            if _is_precise(point):
                break
    values = [x.numpy() for x in point.x]

    def f(x: Any) -> Any:
        waves = tf.sin(tf.reshape(x, [-1]))
        outputs = point.f(*(v + MOVE * tf.cast(_spread(waves, v), v.dtype) for v in values))
        return tf.add_n([tf.zeros([], tf.float64), *map(_mean, outputs)])

    return f"{case} in {letter}", f


def _spread(waves: Any, like: Any) -> Any:
    """As many numbers as an array has."""
    places = tf.range(like.size) % tf.size(waves)
    return tf.reshape(tf.gather(waves, places), like.shape)


def _mean(y: Any) -> Any:
    parts = [tf.math.real(y), tf.math.imag(y)] if y.dtype.is_complex else [y]
    total = tf.add_n([tf.reduce_sum(tf.cast(part, tf.float64)) for part in parts])
    return total / tf.cast(tf.maximum(tf.size(y), 1), tf.float64)
