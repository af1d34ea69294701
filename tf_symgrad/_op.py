"""The op, and its registered gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import ops

from tf_symgrad import _custom, _function, _loader

F = TypeVar("F", bound=Callable[..., Any])
OP = "TfSymgrad>SymbolicGradient"
_library: Any = _loader.load()


def run(
    inputs: Sequence[Any], tout: Sequence[Any], f: Any, name: str | None = None, wrt: Sequence[bool] = ()
) -> list[Any]:
    """Runs the op, or adds it to the graph."""
    if not tout:
        return []
    if context.executing_eagerly():
        attrs = getattr(f, "name_attrs", f)
        if isinstance(attrs, attr_value_pb2.NameAttrList) and attrs.attr:
            # An eager op keeps the name of a function and drops its attrs; a graph keeps both.
            return list(tf.function(lambda *x: run(x, tout, f, name, wrt), autograph=False)(*inputs))
    name = name or "SymbolicGradient"
    return list(_library.tf_symgrad_symbolic_gradient(input=inputs, Tout=tout, f=f, wrt=list(wrt), name=name))


def no_autograph(f: F) -> F:
    """Keeps autograph, which would convert all that a tf.function calls, out of this package."""
    return cast("F", tf.autograph.experimental.do_not_convert(f))


@no_autograph
def _symbolic_gradient_grad(op: Any, *cotangents: Any) -> list[Any]:
    """The gradient of a gradient is the gradient of the gradient function, which is a function like any other."""
    wrt = list(op.get_attr("wrt")) or [True] * len(op.outputs)
    results = iter(zip(op.outputs, cotangents, strict=True))
    output_of = [next(results) if w else (None, None) for w in wrt]
    given = [cotangent is not None for _, cotangent in output_of]
    rest = [(None, None)] * (len(op.inputs) - len(wrt))
    tout = [_gradient_dtype(x, dx) for x, (dx, _) in zip(op.inputs, [*output_of, *rest], strict=True)]
    wanted = [dtype.is_floating or dtype.is_complex for dtype in tout]
    if not any(given) or not any(wanted):
        return [None] * len(op.inputs)
    f = op.get_attr("f")
    if not isinstance(f, _function.Function):
        graph = ops.get_default_graph() if context.executing_eagerly() else op.outputs[0].graph
        f = _function.from_name(_name_attrs(f), graph)
    g = f.gradient(given)
    seeds = [
        tf.convert_to_tensor(cotangent, dtype=dx.dtype)
        for cotangent, dx in zip(cotangents, op.outputs, strict=True)
        if cotangent is not None
    ]
    inputs, count = [*op.inputs, *seeds], len(op.inputs)

    def told(g: _function.Function) -> _function.Function:
        return g if context.executing_eagerly() else g.specialized(g.with_captures(inputs, count))

    g = _custom.differentiable(g, wanted, told)
    inputs = g.with_captures(inputs, count)
    mask = [*wanted, *[False] * (len(g.inputs) - count)]
    gradients = iter(run(inputs, [dtype for dtype, w in zip(tout, wanted, strict=True) if w], told(g), wrt=mask))
    return [next(gradients) if w else None for w in wanted]


def _gradient_dtype(x: Any, dx: Any) -> tf.DType:
    """The dtype of the gradient of an input, of which the op may have computed one; a resource's if it has none."""
    if x.dtype != tf.resource:
        return x.dtype
    variable = dx if dx is not None else _function.variable_spec(x)
    return tf.resource if variable is None else variable.dtype


def _name_attrs(f: Any) -> attr_value_pb2.NameAttrList:
    """The name behind attr `f`: of an op in a graph a NameAttrList, on a tape what the op was called with."""
    if isinstance(f, attr_value_pb2.NameAttrList):
        return f
    return attr_value_pb2.NameAttrList(name=tf.compat.as_str(f if isinstance(f, (str, bytes)) else f.name))


ops.RegisterGradient(OP)(_symbolic_gradient_grad)
