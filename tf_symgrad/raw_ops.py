"""The op as it is, by keywords only, as `tf.raw_ops` has its ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_symgrad import _inputs, _op

__all__ = ["SymbolicGradient"]


def SymbolicGradient(
    *,
    input: Sequence[Any],  # noqa: A002 (the op's name)
    Tout: Sequence[Any],
    f: Any,
    wrt: Sequence[bool] = (),
    values: bool = False,
    checkpoint: str = "",
    optimize: str = "grappler",
    name: str | None = None,
) -> list[Any]:
    """Computes the gradient of the function `f`; takes what `tf.raw_ops.SymbolicGradient` takes.

    Nothing is inferred or checked early: `tf_symgrad.symbolic_gradient` is the op with its conveniences.

    Args:
      input: the `N` inputs of `f`, those that it captures among them, then a cotangent for each of its `M` outputs.
      Tout: the dtype of each of the results: that of the input, or the variable's for a resource.
      f: a function that the graph (or, in eager mode, the context) has: its name, a `NameAttrList`, or an object with
        `name` and `add_to_graph`, such as a `ConcreteFunction` or a `Defun`.
      wrt: for each input of `f`, whether its gradient is wanted; all are if left out. `Tout` names the dtypes of the
        wanted ones. A resource that is no variable, such as a lookup table, has no gradient and must not be wanted.
      values: whether the outputs of `f` are returned as well, of the same run of `f`, with all that it does. `wrt` must
        be given then, and `Tout` name their dtypes after those of the gradients.
      checkpoint: what stays in memory of the forward pass, and what is computed again: see `value_and_grad`.
      optimize: who optimises the gradient function: see `value_and_grad`.
      name: a name for the op.

    Returns:
      `N` tensors, the cotangents of the inputs of `f`, or of those alone that are wanted; then, with `values`, its
      outputs.

    Raises:
      tf.errors.OpError: for a function that can't be differentiated, when the graph runs.

    Examples:
      >>> f = tf.function(tf.math.tanh).get_concrete_function(tf.TensorSpec([], tf.float32))
      >>> tf_symgrad.raw_ops.SymbolicGradient(input=[tf.constant(0.), tf.constant(1.)], Tout=[tf.float32], f=f)
      [<tf.Tensor: shape=(), dtype=float32, numpy=1.0>]
    """
    inputs, tout = _inputs.elements("input", input, "tensors"), _inputs.elements("Tout", Tout, "dtypes")
    wanted, values, kept = _inputs.flags(wrt), _inputs.flag("values", values), _inputs.checkpoint_of(checkpoint)
    captured = list(getattr(f, "captured_inputs", ()))
    if captured and len(inputs) != (needed := len(f.inputs) + len(f.outputs)):
        raise tf.errors.InvalidArgumentError(
            None,
            None,
            f"input holds {len(inputs)} tensors, but '{tf.compat.as_str(f.name)}' needs {needed}: it captures "
            f"{len(captured)}, which are inputs of the raw op: [*inputs, *f.captured_inputs, "
            "*cotangents]. tf_symgrad.symbolic_gradient adds them.",
        )
    return _op.run(inputs, tout, f, name, wanted or [], values, kept, _inputs.optimizer_of(optimize))
