"""The op `Example>LinearRecurrence`, with its rule in C++, or in Python if asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

import tf_symgrad

BUILD = Path(os.environ.get("RECURRENCE_BUILD", Path(__file__).parent / "build"))


def load(rule_in_python: bool = False) -> Any:
    """The function that makes the op. Two rules for one op would be an error: choose one, once in a process."""
    library = "librecurrence_plain.so" if rule_in_python else "librecurrence.so"
    op = tf.load_op_library(str(BUILD / library)).example_linear_recurrence

    if rule_in_python:

        @tf_symgrad.rule("Example>LinearRecurrence")
        def gradient(node: Any, dy: Any) -> list[Any]:
            (a, _), (y,), reverse = node.inputs, node.outputs, node.get_attr("reverse")
            dx = op(a=shift(a, left=not reverse), x=dy, reverse=not reverse)
            return [dx * shift(y, left=reverse), dx]

    else:
        tf_symgrad.register_python_gradients()  # the rule in C++ serves tapes and tf.gradients, too
    return op


def shift(x: Any, left: bool) -> Any:
    """The columns of x, one further to the left or to the right, and zeros where there is none."""
    padded = tf.pad(x, [[0, 0], [int(not left), int(left)]])
    return padded[:, 1:] if left else padded[:, :-1]
