"""The op, and its registered gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.eager import context, execute, record
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import ops
from tensorflow.python.ops.parallel_for import pfor as pfor_lib

from tf_symgrad import _batch, _custom, _function, _given, _loader

F = TypeVar("F", bound=Callable[..., Any])
OP = "TfSymgrad>SymbolicGradient"
_library: Any = _loader.load()


def run(
    inputs: Sequence[Any], tout: Sequence[Any], f: Any, name: str | None = None, wrt: Sequence[bool] = ()
) -> list[Any]:
    """Runs the op, or adds it to the graph."""
    if not isinstance(f, (str, bytes, attr_value_pb2.NameAttrList)) and not (
        hasattr(f, "add_to_graph") or isinstance(f, atomic_function.AtomicFunction)
    ):
        raise TypeError(
            "The raw op takes a function that the graph has: its name, a NameAttrList, a ConcreteFunction or a Defun, "
            f"not {f!r}. Pass f.get_concrete_function(...) of a tf.function, or use tf_symgrad.symbolic_gradient, "
            "which takes a callable too."
        )
    if not tout:
        return []
    f = _given.handed_over(f)
    inputs = [x if isinstance(x, tf.Tensor) else tf.convert_to_tensor(x) for x in inputs]
    # Recorded as one function rather than as an op: an accumulator can make nothing of an attr that is a function.
    outputs = _unrecorded(inputs, list(tout), f, name or "SymbolicGradient", list(wrt))
    if record.could_possibly_record():
        record.record_operation(OP, outputs, inputs, lambda *dys: _gradient(f, inputs, tout, wrt, *dys))
    return outputs


def _unrecorded(inputs: Sequence[Any], tout: Sequence[Any], f: Any, name: str, wrt: list[bool]) -> list[Any]:
    attrs = getattr(f, "name_attrs", f)
    if context.executing_eagerly() and not (isinstance(attrs, attr_value_pb2.NameAttrList) and attrs.attr):
        # Recording is not stopped, as it would be for the Python that may run in f, in this very thread.
        tin, types = ([tf.as_dtype(t).as_datatype_enum for t in x] for x in ([x.dtype for x in inputs], tout))
        values = ("Tin", tin, "Tout", types, "f", f, "wrt", wrt)
        return list(execute.execute(OP, len(tout), inputs, values, context.context(), name))
    with record.stop_recording():
        return _add(inputs, tout, f, name, wrt)


def _add(inputs: Sequence[Any], tout: Sequence[Any], f: Any, name: str, wrt: list[bool]) -> list[Any]:
    if context.executing_eagerly():
        # An eager op keeps the name of a function and drops its attrs; a graph keeps both.
        return list(tf.function(lambda *x: _add(x, tout, f, name, wrt), autograph=False)(*inputs))
    return list(_library.tf_symgrad_symbolic_gradient(input=inputs, Tout=tout, f=f, wrt=wrt, name=name))


def no_autograph(f: F) -> F:
    """Keeps autograph, which would convert all that a tf.function calls, out of this package."""
    return cast("F", tf.autograph.experimental.do_not_convert(f))


def _registered_gradient(op: Any, *cotangents: Any) -> list[Any]:
    dtypes = [dx.dtype for dx in op.outputs]
    return _gradient(op.get_attr("f"), op.inputs, dtypes, op.get_attr("wrt"), *cotangents)


@no_autograph
def _gradient(f: Any, inputs: Sequence[Any], dtypes: Sequence[Any], wrt: Sequence[bool], *cotangents: Any) -> list[Any]:
    """The gradient of a gradient is the gradient of the gradient function, which is a function like any other."""
    wrt = list(wrt) or [True] * len(dtypes)
    results = iter(zip(dtypes, cotangents, strict=True))
    result_of = [next(results) if w else (None, None) for w in wrt]
    given = [cotangent is not None for _, cotangent in result_of]
    rest = [(None, None)] * (len(inputs) - len(wrt))
    tout = [_gradient_dtype(x, dtype) for x, (dtype, _) in zip(inputs, [*result_of, *rest], strict=True)]
    wanted = [dtype.is_floating or dtype.is_complex for dtype in tout]
    if not any(given) or not any(wanted):
        return [None] * len(inputs)
    if not isinstance(f, _function.Function):
        graph = next((x.graph for x in inputs if not isinstance(x, ops.EagerTensor)), ops.get_default_graph())
        f = _function.from_name(_name_attrs(f), graph)
    g = f.gradient(given)
    seeds = [tf.convert_to_tensor(dy, dtype) for dtype, dy in zip(dtypes, cotangents, strict=True) if dy is not None]
    values, count = [*inputs, *seeds], len(inputs)

    def told(g: _function.Function) -> _function.Function:
        return g if context.executing_eagerly() else g.specialized(g.with_captures(values, count))

    g = _custom.differentiable(g, wanted, told)
    values = g.with_captures(values, count)
    mask = [*wanted, *[False] * (len(g.inputs) - count)]
    gradients = iter(run(values, [dtype for dtype, w in zip(tout, wanted, strict=True) if w], told(g), wrt=mask))
    return [next(gradients) if w else None for w in wanted]


def _gradient_dtype(x: Any, dtype: Any) -> Any:
    """The dtype of the gradient of an input, of which the op may have computed one; a resource's if it has none."""
    if x.dtype != tf.resource:
        return x.dtype
    variable = None if dtype is not None else _function.variable_spec(x)
    return dtype or (tf.resource if variable is None else variable.dtype)


def _name_attrs(f: Any) -> attr_value_pb2.NameAttrList:
    """The name behind attr `f`: of an op in a graph a NameAttrList, on a tape what the op was called with."""
    if isinstance(f, attr_value_pb2.NameAttrList):
        return f
    return attr_value_pb2.NameAttrList(name=tf.compat.as_str(f if isinstance(f, (str, bytes)) else f.name))


ops.RegisterGradient(OP)(_registered_gradient)
pfor_lib.RegisterPFor(OP)(_batch.convert)
