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


def run(inputs: Sequence[Any], tout: Sequence[Any], f: Any, name: str | None = None) -> list[Any]:
    """Runs the op, or adds it to the graph."""
    if context.executing_eagerly():
        attrs = getattr(f, "name_attrs", f)
        if isinstance(attrs, attr_value_pb2.NameAttrList) and attrs.attr:
            # An eager op keeps the name of a function and drops its attrs; a graph keeps both.
            return list(tf.function(lambda *x: run(x, tout, f, name), autograph=False)(*inputs))
    return list(_library.tf_symgrad_symbolic_gradient(input=inputs, Tout=tout, f=f, name=name or "SymbolicGradient"))


def no_autograph(f: F) -> F:
    """Keeps autograph, which would convert all that a tf.function calls, out of this package."""
    return cast("F", tf.autograph.experimental.do_not_convert(f))


@no_autograph
def _symbolic_gradient_grad(op: Any, *cotangents: Any) -> list[Any]:
    """The gradient of a gradient is the gradient of the gradient function, which is a function like any other."""
    wanted = [cotangent is not None for cotangent in cotangents]
    if not any(wanted):
        return [None] * len(op.inputs)
    f = op.get_attr("f")
    if not isinstance(f, _function.Function):
        graph = ops.get_default_graph() if context.executing_eagerly() else op.outputs[0].graph
        f = _function.from_name(_name_attrs(f), graph)
    g = f.gradient(wanted)
    seeds = [
        tf.convert_to_tensor(cotangent, dtype=dx.dtype)
        for cotangent, dx in zip(cotangents, op.outputs, strict=True)
        if cotangent is not None
    ]
    # A resource can only be among the inputs of f, whose gradients are the op's outputs, of its variable's dtype.
    tout = [op.outputs[i].dtype if x.dtype == tf.resource else x.dtype for i, x in enumerate(op.inputs)]
    inputs, count = [*op.inputs, *seeds], len(op.inputs)

    def told(g: _function.Function) -> _function.Function:
        return g if context.executing_eagerly() else g.specialized(g.with_captures(inputs, count))

    g = _custom.differentiable(g, [True] * len(g.inputs), told)
    inputs = g.with_captures(inputs, count)
    tout += [_function.gradient_dtype(*item) for item in zip(g.inputs[count:], inputs[count:], strict=False)]
    gradients = run(inputs, tout, told(g))[:count]
    return [dx if dx.dtype.is_floating or dx.dtype.is_complex else None for dx in gradients]


def _name_attrs(f: Any) -> attr_value_pb2.NameAttrList:
    """The name behind attr `f`: of an op in a graph a NameAttrList, on a tape what the op was called with."""
    if isinstance(f, attr_value_pb2.NameAttrList):
        return f
    return attr_value_pb2.NameAttrList(name=tf.compat.as_str(f if isinstance(f, (str, bytes)) else f.name))


ops.RegisterGradient(OP)(_symbolic_gradient_grad)
