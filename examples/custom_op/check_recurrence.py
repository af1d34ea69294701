"""Checks the op and its rule: values by a loop, gradients of order 1 and 2 by finite differences and by a tape.

`python check_recurrence.py` checks the rule in C++, `python check_recurrence.py python` that in Python.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import recurrence
import tensorflow as tf

import tf_symgrad

linear_recurrence = recurrence.load(rule_in_python="python" in sys.argv[1:])


def by_a_loop(a: Any, x: Any) -> Any:
    y, states = tf.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        y = a[:, t] * y + x[:, t]
        states.append(y)
    return tf.stack(states, axis=1)


random = np.random.default_rng(0)
a, x = (tf.constant(random.uniform(-1, 1, (2, 5))) for _ in range(2))
np.testing.assert_allclose(linear_recurrence(a, x), by_a_loop(a, x))
print("values: right")

for reverse in (False, True):
    tf_symgrad.testing.check_grads(lambda a, x, r=reverse: linear_recurrence(a, x, reverse=r), [a, x], order=2)
print("gradients of order 1 and 2: right")


def loss(f: Any, a: Any, x: Any) -> Any:
    return tf.reduce_sum(tf.sin(f(a, x)))


for wrap in (lambda f: f, tf.function):
    value, gradients = wrap(tf_symgrad.value_and_grad(lambda a, x: loss(linear_recurrence, a, x), wrt=(0, 1)))(a, x)
    with tf.GradientTape() as tape, tf.GradientTape() as by_loop:
        tape.watch([a, x])
        by_loop.watch([a, x])
        native, expected = loss(linear_recurrence, a, x), loss(by_a_loop, a, x)
    of_tape, of_loop = tape.gradient(native, [a, x]), by_loop.gradient(expected, [a, x])
    for got in (gradients, of_tape):
        for g, e in zip(got, of_loop, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-12)
print("value_and_grad and GradientTape: as of the loop")
