"""TensorFlow's own `SymbolicGradient`, taken over."""

from __future__ import annotations

from tf_symgrad import _loader


def replace_stock_op() -> None:
    """Lets this engine run the nodes of `tf.raw_ops.SymbolicGradient`, as it runs those of its own op.

    So graphs and saved models that hold the stock op work unchanged, eager calls of it too, and the numbers that it
    gets wrong (Asinh, Acosh) come right. Holds for what is prepared to run from now on: a session or a `tf.function`
    that has run keeps what it has. Elsewhere than in Python, the environment variable TF_SYMGRAD_REPLACE_STOCK=1 does
    the same when the library is loaded.

    Examples:
      >>> tf_symgrad.replace_stock_op()
      >>> f = tf.function(tf.math.asinh).get_concrete_function(tf.TensorSpec([], tf.float32))
      >>> @tf.function
      ... def g(x):
      ...     return tf.raw_ops.SymbolicGradient(input=[x, tf.constant(1.0)], Tout=[tf.float32], f=f)[0]
      >>> g(tf.constant(1.5))
      <tf.Tensor: shape=(), dtype=float32, numpy=0.5547002>
      >>> tf_symgrad.restore_stock_op()
    """
    _loader.native().replace_stock(True)


def restore_stock_op() -> None:
    """Undoes `replace_stock_op`: what is prepared to run from now on is TensorFlow's."""
    _loader.native().replace_stock(False)
