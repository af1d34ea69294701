"""`symbolic_gradient`: the op with its conveniences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2

from tf_symgrad import _compiled, _custom, _inputs, _resolve
from tf_symgrad._differentiate import differentiate
from tf_symgrad._function import Function


def symbolic_gradient(
    input: Sequence[Any],  # noqa: A002 (the stock op's name)
    Tout: Sequence[Any] | None = None,
    f: Any = None,
    name: str | None = None,
    *,
    capture_gradients: bool = False,
    variables: Sequence[Any] | None = None,
    wrt: Sequence[bool] | None = None,
    unconnected_gradients: str | tf.UnconnectedGradients = "zero",
    sparse: bool = False,
    checkpoint: str | int | None = None,
    optimize: str = "grappler",
) -> list[Any]:
    """Computes the gradients of a function in the graph: `dx = (dy/dx)^T dy` for `y = f(x)`.

    Works in eager mode, inside `tf.function`, in TensorFlow 1 graphs and in the bodies of loops and branches. The
    result is one op, which other gradients pass through, at any order.

    Args:
      input: the `N` inputs of `f`, then a cotangent `dy` for each of its `M` outputs, as `f`'s signature orders them.
        Where `f` has one output, a floating-point scalar, `dy` may be left out: it is 1 then. Tuples, lists and dicts
        of tensors are flattened; what is no tensor is converted to what `f` takes. A `tf.Variable` stands for its
        value or, where `f` takes a resource, for itself; its gradient is the same.
      Tout: the dtype of each gradient. May be left out, as it follows from `f`: the input's dtype or, where that is a
        resource, its variable's.
      f: the function: a `ConcreteFunction`; a `tf.function`, which is traced for the inputs if it has no
        `input_signature`; a plain Python callable, which is traced anew each time; a `Defun`; or the name of a
        function, or a `NameAttrList`, that the graph or the eager context has. How many of the inputs are a callable's
        follows from its parameters.
      name: a name for the op.
      capture_gradients: whether to return, after the gradients of the `N` inputs, those of the tensors and variables
        that `f` captures, in the order of `ConcreteFunction.captured_inputs`. In any case the captured tensors are
        added to `input` for you.
      variables: variables whose gradients are returned, after those of the inputs, in this order; None for one that
        `f` does not read. `model.trainable_variables`, say.
      wrt: for each of the `N` inputs, whether its gradient is wanted; all are if left out.
      unconnected_gradients: what is returned for an input that no gradient flows to, as `f` does not depend on it or
        its dtype is not differentiable: `"zero"`, zeros, or `"none"`, None. As in `tf.gradients`, whose default is the
        other one.
      sparse: whether a gradient that is made of rows, as that of a table in which `f` looks some up, is a
        `tf.IndexedSlices` of these rows, as a tape's is; a row may be in it more than once. They stay rows through the
        functions that `f` calls, its branches and its loops.
      checkpoint: what stays in memory of the forward pass, and what is computed again: see `value_and_grad`.
      optimize: who optimises the gradient function: see `value_and_grad`.

    Returns:
      A list of `N` tensors, the gradients with respect to the inputs, or to those that `wrt` is true of. For a resource
      that is no variable (a lookup table, an iterator), None.

    Raises:
      TypeError: `f` is nothing that a function can be made of, `input` is no list, or `variables` are none.
      ValueError: `capture_gradients` and `variables` are both given.
      tf.errors.InvalidArgumentError: the inputs or `Tout` do not fit the function, or the function is malformed.
      tf.errors.NotFoundError: there is no function of that name.
      tf.errors.UnimplementedError: ops of the function have no gradient: all of them are listed.

    Examples:
      >>> x = tf.constant([1.0, 2.0])
      >>> tf_symgrad.symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**3))
      [<tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 3., 12.], dtype=float32)>]
      >>> tf_symgrad.symbolic_gradient([x, [1.0, 10.0]], f=tf.math.square)     # with dy
      [<tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 2., 40.], dtype=float32)>]
    """
    if f is None:
        raise TypeError("symbolic_gradient() needs the function to differentiate: symbolic_gradient([x, dy], f=f).")
    of = "tensors, [x_1, ..., x_N, dy_1, ..., dy_M] ([{...}, dy] where an input is a dict)"
    values = _inputs.elements("input", input, of)
    captures, sparse = _inputs.flag("capture_gradients", capture_gradients), _inputs.flag("sparse", sparse)
    none, kept = _inputs.none_if_unconnected(unconnected_gradients), _inputs.checkpoint_of(checkpoint)
    flags, optimize = _inputs.flags(wrt), _inputs.optimizer_of(optimize)
    if variables is not None:
        variables = _inputs.elements("variables", variables, "variables")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}.")
    if captures and variables is not None:
        raise ValueError("Give capture_gradients or variables: both say which gradients follow those of the inputs.")
    if variables is None and Tout is None and _compiled.may_be_traced(f) and _compiled.are_plain(values):
        options = (captures, flags and tuple(flags), none, sparse, kept, optimize)

        def again(f: Any, tensors: Sequence[Any]) -> list[Any]:
            return _symgrad(tensors, None, f, name, captures, None, flags, none, sparse, kept, optimize)

        return list(_compiled.of_function(f, options, again)(None, *values))
    return _symgrad(values, Tout, f, name, captures, variables, flags, none, sparse, kept, optimize)


def _symgrad(
    values: Sequence[Any],
    Tout: Sequence[Any] | None,
    f: Any,
    name: str | None,
    captures: bool,
    variables: Sequence[Any] | None,
    wrt: Sequence[bool] | None,
    none: bool,
    sparse: bool,
    checkpoint: str,
    optimize: str,
) -> list[Any]:
    function = _resolve.resolve(f, values).with_options(checkpoint=checkpoint, optimize=optimize)
    inputs = _inputs.op_inputs(function, _inputs.flatten(values))
    count, flags = len(function.inputs), _inputs.mask(function, function.arguments, wrt)
    places = [_inputs.place(variable, inputs[:count]) for variable in variables or ()]
    if captures:
        places = list(range(len(flags), count))
    wanted = [(i < len(flags) and flags[i]) or i in places for i in range(count)]
    dtypes = _inputs.tout(function, inputs, wanted, Tout)
    gradients, _ = differentiate(function, inputs, wanted, dtypes, none=none, sparse=sparse, name=name)
    return [
        *[dx for dx, flag in zip(gradients, flags, strict=False) if flag],
        *[None if i is None else gradients[i] for i in places],
    ]


def gradient_function(
    f: Any, wrt: Sequence[bool] | None = None, checkpoint: str | int | None = None
) -> tuple[str, function_pb2.FunctionDefLibrary]:
    """Builds the function that the op runs: stock TensorFlow ops, to look at or to use where tf_symgrad is not.

    Args:
      f: a `ConcreteFunction`, a `tf.function` with an `input_signature`, a `Defun`, or the name of a function or a
        `NameAttrList` that the graph or the eager context has.
      wrt: for each input of `f`, captured ones at the end, whether its gradient is wanted; all are if left out.
      checkpoint: what it keeps of the forward pass, and what it computes again: see `value_and_grad`.

    Returns:
      The function's name, and a library with it and all that it calls. Its inputs are those of `f`, then a cotangent
      for each output of `f`; its outputs are the wanted gradients. To call it in a graph, to save a model with it, say,
      add the library by `tf.graph_util.import_graph_def(GraphDef(library=library))`, then use
      `tf.raw_ops.PartitionedCall` (or `StatefulPartitionedCall`) with `f=NameAttrList(name=name)`.

    Raises:
      TypeError: `f` is nothing that a function can be made of.
      tf.errors.OpError: see `symbolic_gradient`.

    Examples:
      >>> f = tf.function(tf.math.tanh).get_concrete_function(tf.TensorSpec([], tf.float32))
      >>> name, library = tf_symgrad.gradient_function(f)
      >>> [node.op for node in library.function[0].node_def]
      ['Tanh', 'TanhGrad']
    """
    kept, flags = _inputs.checkpoint_of(checkpoint), _inputs.flags(wrt)
    function = _resolve.resolve(f, []).with_options(checkpoint=kept)
    _, gradient = build_gradient(function, _inputs.mask(function, function.inputs, flags))
    function.given[gradient.name] = gradient
    return gradient.name, gradient.definitions()


def build_gradient(function: Function, wrt: Sequence[bool], values: bool = False) -> tuple[Function, Function]:
    """A function as it is differentiated, and its gradient function.

    The former may have more captured inputs, at the end, than what it is made of: those that a custom gradient takes.
    Their gradients are wanted, too, and come after the others; with `values`, the function's outputs come last.
    """

    def told(f: Function) -> Function:  # what captured variables are is known
        return f.specialized([*f.arguments, *f.captures])

    whole = told(_custom.differentiable(function, wrt, told))
    return whole, whole.gradient([*wrt, *[True] * (len(whole.inputs) - len(wrt))], values)
