"""Rules whose input is a variable's resource: its gradient is the variable's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import handle_data_util, resource_variable_ops

import tf_symgrad

VALUE = np.arange(24.0).reshape(4, 3, 2)

# The op of a resource h, and the same of the variable's value x.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "ReadVariableOp": (
        lambda h: tf.raw_ops.ReadVariableOp(resource=h, dtype=tf.float64) ** 2,
        lambda x: x**2,
    ),
    "ResourceGather": (
        lambda h: tf.raw_ops.ResourceGather(resource=h, indices=[[1, 1], [0, 3]], dtype=tf.float64),
        lambda x: tf.gather(x, [[1, 1], [0, 3]]),
    ),
    "ResourceGather:batch_dims": (
        lambda h: tf.raw_ops.ResourceGather(resource=h, indices=[[1], [0], [0], [2]], dtype=tf.float64, batch_dims=1),
        lambda x: tf.gather(x, [[1], [0], [0], [2]], batch_dims=1),
    ),
    "ResourceGatherNd": (
        lambda h: tf.raw_ops.ResourceGatherNd(resource=h, indices=[[1, 1], [0, 2], [1, 1]], dtype=tf.float64),
        lambda x: tf.gather_nd(x, [[1, 1], [0, 2], [1, 1]]),
    ),
    "ResourceGatherNd:rows": (
        lambda h: tf.raw_ops.ResourceGatherNd(resource=h, indices=[[1], [0], [1]], dtype=tf.float64),
        lambda x: tf.gather_nd(x, [[1], [0], [1]]),
    ),
    "two reads": (
        lambda h: (
            tf.raw_ops.ResourceGather(resource=h, indices=[2], dtype=tf.float64)
            * tf.raw_ops.ReadVariableOp(resource=h, dtype=tf.float64)
        ),
        lambda x: tf.gather(x, [2]) * x,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_resource(case: str) -> None:
    of_resource, of_value = CASES[case]
    v = tf.Variable(VALUE)

    @tf.function
    def f(h: Any) -> Any:
        handle_data_util.set_handle_data(h, resource_variable_ops.get_eager_safe_handle_data(v.handle))
        return of_resource(h)

    x = tf.constant(VALUE)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = of_value(x)
    dy = tf.constant(np.random.default_rng(0).normal(size=y.shape))
    expected = tf.convert_to_tensor(tape.gradient(y, x, output_gradients=dy))

    function = f.get_concrete_function(tf.TensorSpec([], tf.resource))
    (dv,) = tf_symgrad.symbolic_gradient([v.handle, dy], None, function)
    np.testing.assert_allclose(dv, expected, rtol=1e-12)
