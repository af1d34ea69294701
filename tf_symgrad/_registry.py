"""The engine's rules for tapes and `tf.gradients`, of ops for which TensorFlow has no gradient."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.python.eager import execute, record
from tensorflow.python.framework import ops

from tf_symgrad import _function, _loader

_thread = threading.local()


@contextlib.contextmanager
def native_rules() -> Iterator[None]:
    """While this lasts, Python's gradients in this thread use the engine's rules where TensorFlow has none."""
    _rules_of_our_own()  # before they are installed
    _install()
    outer, _thread.active = getattr(_thread, "active", False), True
    try:
        yield
    finally:
        _thread.active = outer


@functools.cache
def _install() -> None:
    """Puts the rules where `tf.gradients` and tapes look: into TensorFlow's registry, and onto a tape that records.

    The registry alone would not do, as a tape keeps nothing of an op that was declared to have no gradient.
    """
    registry, record_gradient = ops.gradient_registry, execute.record_gradient

    class WithRules(type(registry)):  # type: ignore[misc]
        __slots__ = ()

        def lookup(self, name: str) -> Callable[..., Any] | None:
            return _op_gradient if _is_ours(name) else super().lookup(name)

    def record_ours(op: str, inputs: Any, attrs: Any, outputs: Any) -> None:
        node = getattr(outputs[0], "op", None) if outputs and not isinstance(outputs[0], ops.EagerTensor) else None
        if node is not None and _is_ours(op):
            record.record_operation(op, outputs, inputs, functools.partial(_op_gradient, node))
        else:
            record_gradient(op, inputs, attrs, outputs)

    registry.__class__ = WithRules
    execute.record_gradient = record_ours


def _is_ours(op: str) -> bool:
    return getattr(_thread, "active", False) and op in _rules_of_our_own()


@functools.cache
def _rules_of_our_own() -> set[str]:
    """The ops that TensorFlow has no gradient of, not even one that a user registered before this was asked."""

    def has_gradient(op: str) -> bool:
        try:
            return ops.gradient_registry.lookup(op) is not None
        except LookupError:
            return False

    return {op for op, flows in _loader.native().rules().items() if flows and not has_gradient(op)}


def _op_gradient(op: Any, *dys: Any) -> list[Any]:
    """The gradient of an op of a graph, by the engine."""
    from tf_symgrad import _op  # which needs this module

    function = _as_function(op)
    inputs = [*op.inputs, *[tf.zeros_like(y) if dy is None else dy for y, dy in zip(op.outputs, dys, strict=True)]]
    dxs = _op.run(inputs, [x.dtype for x in op.inputs], function.specialized(inputs))
    return [dx if dx.dtype.is_floating or dx.dtype.is_complex else None for dx in dxs]


def _as_function(op: Any) -> _function.Function:
    """A function of one op."""
    definition = function_pb2.FunctionDef()
    node = definition.node_def.add()
    node.CopyFrom(op.node_def)
    node.name, node.device = "op", ""
    del node.input[:]
    for name in [name for name in node.attr if name.startswith("_")]:
        del node.attr[name]
    for i, x in enumerate(op.inputs):
        definition.signature.input_arg.add(name=f"x{i}", type=x.dtype.as_datatype_enum)
        node.input.append(f"x{i}")
    for i, y in enumerate(op.outputs):
        definition.signature.output_arg.add(name=f"y{i}", type=y.dtype.as_datatype_enum)
        definition.ret[f"y{i}"] = _function.reference("op", y)
    content = hashlib.sha256(definition.SerializeToString(deterministic=True)).hexdigest()
    definition.signature.name = f"symgrad_{op.type}_{content[:16]}"
    return _function.Function(
        attr_value_pb2.NameAttrList(name=definition.signature.name),
        _function.reachable(_function.atomic(definition)),
        [_function.spec(x) for x in op.inputs],
        [_function.spec(y) for y in op.outputs],
    )
