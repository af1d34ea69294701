"""The engine's rules for tapes and `tf.gradients`, of ops for which TensorFlow has no gradient.

They are lent while a Python gradient is traced, and while `enable()` lasts; or, if the user asks, registered for good.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.python.eager import context, execute, record
from tensorflow.python.framework import op_def_library, op_def_registry, ops, registry

from tf_symgrad import _function, _library, _loader, _nodes, _specs

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
    _install_lookup()
    record_gradient = execute.record_gradient

    def record_ours(op: str, inputs: Any, attrs: Any, outputs: Any) -> None:
        node = getattr(outputs[0], "op", None) if outputs and not isinstance(outputs[0], ops.EagerTensor) else None
        if node is not None and _is_ours(op):
            record.record_operation(op, outputs, inputs, functools.partial(_op_gradient, node))
        else:
            record_gradient(op, inputs, attrs, outputs)

    execute.record_gradient = record_ours


@functools.cache
def _install_lookup() -> None:
    rules = ops.gradient_registry

    class WithRules(type(rules)):  # type: ignore[misc]
        __slots__ = ()

        def lookup(self, name: str) -> Callable[..., Any] | None:
            # What an eager op takes a tape keeps only if TensorFlow does not declare the op to have no gradient.
            if _is_ours(name) and not context.executing_eagerly():
                return _op_gradient
            try:
                return super().lookup(name)  # type: ignore[no-any-return]
            except LookupError:
                if name in _lent:
                    return _op_gradient
                raise

    rules.__class__ = WithRules


def _is_ours(op: str) -> bool:
    return op in (_rules_of_our_own() if getattr(_thread, "active", False) else _for_good)


@functools.cache
def _rules_of_our_own() -> set[str]:
    """The ops that TensorFlow has no gradient of, not even one that a user registered before this was asked."""
    return {op for op, flows in _loader.rules().items() if flows and _registered(op) in (None, _op_gradient)}


def _registered(op: str) -> Any:
    """The gradient in TensorFlow's registry; None, too, where an op was declared to have none."""
    try:
        return registry.Registry.lookup(ops.gradient_registry, op)
    except LookupError:
        return None


_for_good: set[str] = set()
_lent: set[str] = set()


def lend() -> None:
    """Lends the rules to all threads, of ops of which TensorFlow does not even say that they have no gradient.

    A gradient that a user registers meanwhile comes first.
    """
    _install_lookup()
    known = set(ops.gradient_registry.list())
    _lent.update(op for op in _rules_of_our_own() - known if _can_be_pythons(op))


def take_back() -> None:
    _lent.clear()


def register_python_gradients() -> list[str]:
    """Gives `tf.GradientTape` and `tf.gradients` the engine's gradients of all ops for which TensorFlow has none.

    Those are ops like `Mod`, `Lu`, `AdjustHue` and `CholeskyGrad`, and those of op libraries that bring rules in C++:
    load these before, or call this again. It is for the whole process and can't be undone. An op that has a gradient in
    Python keeps it. Left out are stateful ops, whose gradient would draw again, and ops of variants. An op that
    TensorFlow declares to have no gradient (`HSVToRGB`, `Range` and a few more) has one in graphs and `tf.function`
    alone: in eager mode a tape does not keep what it takes.

    Returns:
      The names of all ops that have a gradient in Python now by this function.

    Examples:
      >>> _ = tf_symgrad.register_python_gradients()
      >>> x = tf.Variable(5.0)
      >>> with tf.GradientTape() as tape:
      ...     y = 3.0 * tf.raw_ops.Mod(x=x, y=2.0)
      >>> tape.gradient(y, x)
      <tf.Tensor: shape=(), dtype=float32, numpy=3.0>
    """
    _rules_of_our_own.cache_clear()  # there may be more by now
    _install()
    for op in _rules_of_our_own():
        if not _can_be_pythons(op):
            continue
        _for_good.add(op)
        with contextlib.suppress(KeyError):  # declared to have none: by `_install`, in graphs
            ops.RegisterGradient(op)(_op_gradient)
    return sorted(_for_good)


def _can_be_pythons(op: str) -> bool:
    definition = op_def_registry.get(op)
    if definition is None or definition.is_stateful:
        return False
    return all(arg.type != tf.variant.as_datatype_enum for arg in [*definition.input_arg, *definition.output_arg])


def _op_gradient(op: Any, *dys: Any) -> list[Any]:
    """The gradient of an op of a graph, or of one that a tape recorded in eager mode, by the engine."""
    from tf_symgrad import _op  # which needs this module

    function = _as_function(op) if isinstance(op, ops.Operation) else _of_eager_op(op)
    inputs = [*op.inputs, *[tf.zeros_like(y) if dy is None else dy for y, dy in zip(op.outputs, dys, strict=True)]]
    dxs = _op.run(inputs, [x.dtype for x in op.inputs], function.specialized(inputs))
    return [dx if _specs.continuous(dx.dtype) else None for dx in dxs]


def _of_eager_op(op: Any) -> _function.Function:
    """A function of an op that a tape recorded, which has its type, inputs, and the attrs that it was called with."""
    key = (op.type, repr(op.attrs), tuple((x.dtype, tuple(x.shape)) for x in op.inputs))
    if key not in _eager_ops:
        definition = op_def_registry.get(op.type)
        arguments = definition.input_arg
        inferred = {name for a in arguments for name in (a.type_attr, a.number_attr, a.type_list_attr)}
        names = [tf.compat.as_str(name) for name in op.attrs[::2]]
        attrs = {name: op.get_attr(name) for name in names if name not in inferred}

        def call(*xs: Any) -> list[Any]:
            given, named = iter(xs), dict(attrs)
            for a in arguments:
                if a.number_attr or a.type_list_attr:
                    count = op.get_attr(a.number_attr) if a.number_attr else len(op.get_attr(a.type_list_attr))
                    named[a.name] = [next(given) for _ in range(count)]
                else:
                    named[a.name] = next(given)
            return list(tf.nest.flatten(op_def_library.apply_op(op.type, **named)))

        specs = [tf.TensorSpec(x.shape, x.dtype) for x in op.inputs]
        concrete = tf.function(call, autograph=False).get_concrete_function(*specs)
        _eager_ops[key] = _function.from_concrete_function(concrete)
    return _eager_ops[key]


_eager_ops: dict[Any, _function.Function] = {}


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
        definition.ret[f"y{i}"] = _nodes.reference("op", y)
    content = hashlib.sha256(definition.SerializeToString(deterministic=True)).hexdigest()
    definition.signature.name = f"symgrad_{op.type}_{content[:16]}"
    return _function.Function(
        attr_value_pb2.NameAttrList(name=definition.signature.name),
        _library.reachable(_library.atomic(definition)),
        [_specs.spec(x) for x in op.inputs],
        [_specs.spec(y) for y in op.outputs],
    )
