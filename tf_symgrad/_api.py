"""`symbolic_gradient`: the op with its conveniences."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import function as defun_lib
from tensorflow.python.framework import ops
from tensorflow.python.ops import resource_variable_ops

from tf_symgrad import _custom, _function, _op
from tf_symgrad._function import Function, invalid


@_op.no_autograph
def symbolic_gradient(
    input: Sequence[Any],  # noqa: A002 (the stock op's name)
    Tout: Sequence[Any] | None = None,
    f: Any = None,
    name: str | None = None,
    *,
    capture_gradients: bool = False,
) -> list[tf.Tensor]:
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
        `input_signature`; a plain Python callable, which is traced likewise; a `Defun`; or the name of a function, or a
        `NameAttrList`, that the graph or the eager context has. How many of the inputs are a callable's follows from
        its parameters.
      name: a name for the op.
      capture_gradients: whether to return, after the gradients of the `N` inputs, those of the tensors and variables
        that `f` captures, in the order of `ConcreteFunction.captured_inputs`. In any case the captured tensors are
        added to `input` for you.

    Returns:
      A list of `N` tensors, the gradients with respect to the inputs. Where `f` does not depend on an input, or the
      input's dtype is not differentiable, its gradient is zeros.

    Raises:
      TypeError: `f` is nothing that a function can be made of, or `input` is no list.
      tf.errors.InvalidArgumentError: the inputs or `Tout` do not fit the function, or the function is malformed.
      tf.errors.NotFoundError: there is no function of that name.
      tf.errors.UnimplementedError: ops of the function have no gradient: all of them are listed.

    Example:
      >>> x = tf.constant([1.0, 2.0])
      >>> tf_symgrad.symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**3))
      [<tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 3., 12.], dtype=float32)>]
      >>> tf_symgrad.symbolic_gradient([x, [1.0, 10.0]], f=tf.math.square)     # with dy
      [<tf.Tensor: shape=(2,), dtype=float32, numpy=array([ 2., 40.], dtype=float32)>]
    """
    if f is None:
        raise TypeError("symbolic_gradient() needs the function to differentiate: symbolic_gradient([x, dy], f=f).")
    if isinstance(input, tf.Tensor) or not isinstance(input, Iterable):
        raise TypeError(f"input must be a list of tensors, [x_1, ..., x_N, dy_1, ..., dy_M], not {input!r}.")
    values = list(input)
    function = _resolve(f, values)
    inputs = _inputs(function, _flatten(values))
    tout = _tout(function, inputs, Tout)
    count, eager = len(function.inputs), context.executing_eagerly()

    def told(f: Function) -> Function:
        # An eager op takes no attrs of f, and need not be built anew for each shape.
        resources = any(spec.dtype == tf.resource for spec in f.inputs)
        return f if eager and not resources else f.specialized(f.with_captures(inputs, count))

    function = _custom.differentiable(function, [True] * count, told)
    inputs = function.with_captures(inputs, count)
    tout += [_function.gradient_dtype(*item) for item in zip(function.inputs[count:], inputs[count:], strict=False)]
    function = function if eager else function.specialized(inputs)
    for variable in function.variables:
        resource_variable_ops.variable_accessed(variable)
    gradients = _op.run(inputs, tout, function, name)
    return gradients[: count if capture_gradients else len(function.arguments)]


@_op.no_autograph
def gradient_function(f: Any, wrt: Sequence[bool] | None = None) -> tuple[str, function_pb2.FunctionDefLibrary]:
    """Builds the function that the op runs: stock TensorFlow ops, to look at or to use where tf_symgrad is not.

    Args:
      f: a `ConcreteFunction`, a `tf.function` with an `input_signature`, a `Defun`, or the name of a function or a
        `NameAttrList` that the graph or the eager context has.
      wrt: for each input of `f`, captured ones at the end, whether its gradient is wanted; all are if left out.

    Returns:
      The function's name, and a library with it and all that it calls. Its inputs are those of `f`, then a cotangent
      for each output of `f`; its outputs are the wanted gradients. To call it in a graph, to save a model with it, say,
      add the library by `tf.graph_util.import_graph_def(GraphDef(library=library))`, then use
      `tf.raw_ops.PartitionedCall` (or `StatefulPartitionedCall`) with `f=NameAttrList(name=name)`.

    Raises:
      TypeError: `f` is nothing that a function can be made of.
      tf.errors.OpError: see `symbolic_gradient`.

    Example:
      >>> f = tf.function(tf.math.tanh).get_concrete_function(tf.TensorSpec([], tf.float32))
      >>> name, library = tf_symgrad.gradient_function(f)
      >>> [node.op for node in library.function[0].node_def]
      ['Tanh', 'TanhGrad']
    """
    function = _resolve(f, [])
    if wrt is not None and len(wrt) != len(function.inputs):
        raise invalid(f"{function} has {_describe('input', function.inputs)}, but wrt has {len(wrt)} elements.")
    wrt = [True] * len(function.inputs) if wrt is None else wrt

    def told(f: Function) -> Function:  # what captured variables are is known
        return f.specialized([*f.arguments, *f.captures])

    whole = told(_custom.differentiable(function, wrt, told))
    # A custom gradient may take variables that f does not: they are inputs of f then, captured ones, all wanted.
    gradient = whole.gradient([*wrt, *[True] * (len(whole.inputs) - len(wrt))])
    function.given[gradient.name] = gradient
    return gradient.name, gradient.definitions()


# ---- What is f? ----


def _resolve(f: Any, values: Sequence[Any]) -> Function:
    graph = ops.get_default_graph()
    if isinstance(f, Function):
        return f
    if isinstance(f, (str, bytes)):
        return _function.from_name(attr_value_pb2.NameAttrList(name=tf.compat.as_str(f)), graph)
    if isinstance(f, attr_value_pb2.NameAttrList):
        return _function.from_name(f, graph)
    if isinstance(f, atomic_function.AtomicFunction):
        return _function.from_library_function(f, graph)
    if isinstance(f, tf.types.experimental.ConcreteFunction):
        return _function.from_concrete_function(f)
    if isinstance(f, defun_lib._DefinedFunction):
        return _function.from_defun(f)
    if isinstance(f, defun_lib._OverloadedFunction):
        count = len(f._argnames)
        return _function.from_defun(f.instantiate([x.dtype for x in map(_tensor, _flatten(values)[:count])]))
    if isinstance(f, tf.types.experimental.PolymorphicFunction):
        return _trace(f, f.python_function, values)
    if callable(f):
        # Traces in a graph may capture its tensors; those of eager mode are kept.
        traced = _traced(f) if context.executing_eagerly() and _hashable(f) else tf.function(f)
        return _trace(traced, f, values)
    raise TypeError(
        "f must be a ConcreteFunction, a tf.function, a Defun, a NameAttrList, the name of a function or a callable, "
        f"not {f!r}."
    )


@functools.lru_cache(maxsize=128)
def _traced(f: Callable[..., Any]) -> Any:
    return tf.function(f)


def _hashable(f: Any) -> bool:
    try:
        hash(f)
    except TypeError:
        return False
    return True


def _trace(f: Any, python_function: Callable[..., Any], values: Sequence[Any]) -> Function:
    """Traces a tf.function for those leading values that are its arguments; the others are cotangents."""
    if f.input_signature is not None:
        return _function.from_concrete_function(f.get_concrete_function())
    counts = _argument_counts(python_function, len(values))
    failure: Exception | None = None
    for count in counts:
        try:
            arguments = [_trace_spec(value) for value in values[:count]]
            function = _function.from_concrete_function(f.get_concrete_function(*arguments))
        except Exception as error:
            if len(counts) == 1:
                raise
            failure = failure or error
            continue
        if len(counts) == 1 or _are_cotangents(_flatten(values[count:]), function):
            return function
    if failure is not None:
        raise failure
    raise invalid(
        f"{python_function} takes a number of arguments that varies, and no number of the {len(values)} values in "
        "input leaves a cotangent for each output. Pass a ConcreteFunction: tf.function(f).get_concrete_function(...)."
    )


def _are_cotangents(values: Sequence[Any], function: Function) -> bool:
    """Whether values may be the cotangents of a function's outputs."""
    if not values:
        return _is_scalar(function)
    shapes = [_tensor(value).shape for value in values]
    outputs = function.outputs
    return len(shapes) == len(outputs) and all(
        y.shape.is_compatible_with(s) for s, y in zip(shapes, outputs, strict=True)
    )


def _argument_counts(f: Callable[..., Any], available: int) -> list[int]:
    """How many of the values may be arguments of f, most likely first."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        lowest, highest = 1, available
    else:
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        lowest = sum(p.default is p.empty for p in positional)
        highest = available if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(positional)
    if lowest > available:
        raise invalid(f"{f} takes {lowest} arguments, but input holds only {available}: arguments, then cotangents.")
    if lowest == highest:
        return [lowest]
    # One output is what most functions have; then those with more, then a scalar's that needs no cotangent.
    usual = [count for count in range(min(highest, available - 1), lowest - 1, -1) if count > 0]
    return usual + ([available] if available <= highest else [])


def _trace_spec(value: Any) -> Any:
    def leaf(value: Any) -> Any:
        if _is_composite(value):
            return tf.type_spec_from_value(value)
        tensor = _tensor(value)
        return tf.TensorSpec(tensor.shape, tensor.dtype)

    return tf.nest.map_structure(leaf, value) if _is_structure(value) else leaf(value)


# ---- What are its inputs? ----


def _flatten(values: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        for leaf in tf.nest.flatten(value) if _is_structure(value) else [value]:
            flat += tf.nest.flatten(leaf, expand_composites=True) if _is_composite(leaf) else [leaf]
    return flat


def _is_structure(value: Any) -> bool:
    """Whether a value holds tensors, rather than being one: [[1.0, 2.0]] is a matrix, [x, y] two tensors."""
    if not tf.nest.is_nested(value):
        return False
    return isinstance(value, Mapping) or any(
        isinstance(leaf, (tf.Tensor, tf.Variable, np.ndarray)) or _is_composite(leaf) for leaf in tf.nest.flatten(value)
    )


def _is_composite(value: Any) -> bool:
    """Whether a value is several tensors: sparse or ragged."""
    return isinstance(value, (tf.SparseTensor, tf.RaggedTensor))


def _inputs(function: Function, values: list[Any]) -> list[Any]:
    """All inputs of the op."""
    arguments, outputs = function.arguments, function.outputs
    if len(values) == len(arguments) and _is_scalar(function):
        values = [*values, tf.constant(1.0, outputs[0].dtype)]
    elif len(values) != len(arguments) + len(outputs):
        counted = f"{_describe('input', arguments)} and {_describe('output', outputs)}"
        captures = f" The {len(function.captures)} that it captures are added for you." if function.captures else ""
        raise invalid(
            f"{function} has {counted}, so input must hold {len(arguments) + len(outputs)} tensors: the inputs of the "
            f"function, then a cotangent for each output. It holds {len(values)}.{captures}"
        )
    specs = [*arguments, *outputs]
    roles = [f"input {i} ('{x.name}')" for i, x in enumerate(arguments)]
    roles += [f"the cotangent of output {i}" for i in range(len(outputs))]
    converted = [_convert(*item, function) for item in zip(values, specs, roles, strict=True)]
    return [_inlined(x) for x in (*converted[: len(arguments)], *function.captures, *converted[len(arguments) :])]


def _inlined(x: Any) -> Any:
    """A shape or an axis from outside of the graph as a constant in it.

    The graph would take it as an input, which XLA makes a constant of only where it sees what it is for.
    """
    if context.executing_eagerly() or not isinstance(x, ops.EagerTensor) or not x.dtype.is_integer:
        return x
    return tf.constant(x.numpy(), x.dtype) if x.shape.num_elements() <= 16 else x


def _convert(value: Any, spec: tf.TensorSpec, role: str, function: Function) -> Any:
    if spec.dtype == tf.resource:
        if isinstance(value, tf.Variable):
            resource_variable_ops.variable_accessed(value)
        value = getattr(value, "handle", value)
    try:
        tensor = value if isinstance(value, tf.Tensor) else _tensor(value, spec.dtype)
    except (TypeError, ValueError) as error:
        raise invalid(
            f"{function}: {role} must be a {spec.dtype.name} tensor; {value!r} can't be made one: {error}"
        ) from error
    if tensor.dtype != spec.dtype:
        raise invalid(
            f"{function}: {role} must be {spec.dtype.name}, not {tensor.dtype.name}. Cast it: "
            f"tf.cast(x, tf.{spec.dtype.name})."
        )
    if not spec.shape.is_compatible_with(tensor.shape):
        raise invalid(
            f"{function}: {role} must have shape {spec.shape}, not {tensor.shape}. Reshape it, or trace the function "
            "for this shape."
        )
    return tensor


def _tensor(value: Any, dtype: tf.DType | None = None) -> Any:
    if isinstance(value, (tf.Variable, tf.IndexedSlices)):
        return tf.convert_to_tensor(value)
    return tf.convert_to_tensor(value, dtype=dtype)


def _is_scalar(function: Function) -> bool:
    """Whether the function has one output, a real floating-point scalar."""
    outputs = function.outputs
    return len(outputs) == 1 and outputs[0].dtype.is_floating and outputs[0].shape.rank == 0


def _tout(function: Function, inputs: Sequence[Any], given: Sequence[Any] | None) -> list[tf.DType]:
    """The dtypes of the gradients, checked against those that the caller gives."""
    specs = list(zip(function.inputs, inputs, strict=False))
    if given is None:
        return [_function.gradient_dtype(spec, value) for spec, value in specs]
    try:
        dtypes = [tf.as_dtype(dtype) for dtype in given]
    except TypeError as error:
        raise invalid(f"Tout must be a list of dtypes, not {given!r}: {error}") from error
    arguments = function.arguments
    if len(dtypes) not in (len(arguments), len(specs)):
        raise invalid(
            f"{function} has {_describe('input', arguments)}, so Tout must name {len(arguments)} dtypes. It names "
            f"{len(dtypes)}. Leave Tout out to have it inferred."
        )
    dtypes += [_function.gradient_dtype(spec, value) for spec, value in specs[len(dtypes) :]]
    for i, ((spec, value), dtype) in enumerate(zip(specs, dtypes, strict=True)):
        known = spec.dtype != tf.resource or _function.variable_spec(value) is not None
        if known and dtype != (expected := _function.gradient_dtype(spec, value)):
            raise invalid(
                f"{function}: Tout[{i}] is {dtype.name}, but the gradient of input {i} ('{spec.name}') is "
                f"{expected.name}. Leave Tout out to have it inferred, and cast the result."
            )
    return dtypes


def _describe(what: str, specs: Sequence[tf.TensorSpec]) -> str:
    if not specs:
        return f"no {what}s"
    dtypes = ", ".join(spec.dtype.name for spec in specs[:8]) + (", ..." if len(specs) > 8 else "")
    return f"{len(specs)} {what}{'' if len(specs) == 1 else 's'} ({dtypes})"
