"""Functions with the control flow of TensorFlow 1, as old graphs and SavedModels have it."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

v1 = tf.compat.v1


def function_of_frames(f: Callable[..., Any], *specs: tf.TensorSpec) -> Any:
    """f, a function of one result, as a ConcreteFunction of Switch, Merge, Enter, Exit and NextIteration."""
    version_2 = control_flow_util.ENABLE_CONTROL_FLOW_V2
    control_flow_util.ENABLE_CONTROL_FLOW_V2 = False
    try:
        with tf.Graph().as_default() as graph:
            xs = [v1.placeholder(spec.dtype, spec.shape, name=f"x{i}") for i, spec in enumerate(specs)]
            tf.identity(f(*xs), name="y")
    finally:
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = version_2
    definition = graph.as_graph_def()

    def imported(*xs: Any) -> Any:
        return tf.import_graph_def(definition, {f"x{i}": x for i, x in enumerate(xs)}, ["y:0"])[0]

    return v1.wrap_function(imported, specs)


def loop(count: Any, body: Callable[..., Any], *variables: Any) -> Any:
    """The first variable after `count` times body."""
    return v1.while_loop(lambda i, *_: i < count, lambda i, *v: (i + 1, *body(i, *v)), (0, *variables))[1]
