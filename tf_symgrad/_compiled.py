"""Eager calls of the same gradient, as one tf.function that is traced once.

To make an op's inputs of a user's arguments takes longer than a small gradient does. Where the function is a
tf.function or a ConcreteFunction, of which the user has said that a trace may be used again, all that can be traced as
well, and a call costs what it costs where the gradient is written by hand in a tf.function. The first call goes the
long way, and so does each that a tape or an accumulator may record, or that has an argument which is no tensor.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context, record
from tensorflow.python.framework import config, ops

from tf_symgrad import _keras

_KEPT = (tf.types.experimental.ConcreteFunction, tf.types.experimental.PolymorphicFunction)
_HANDLES = (tf.resource, tf.variant)  # a trace would forget what they refer to


def may_be_traced(f: Any) -> bool:
    """Whether a trace of f stands for f."""
    return isinstance(f, _KEPT)


def are_plain(values: Iterable[Any]) -> bool:
    """Whether these are tensors, and nothing records what becomes of them."""
    for x in values:
        if type(x) is not ops.EagerTensor or x.dtype in _HANDLES:
            return False
    return is_unrecorded()


def is_unrecorded() -> bool:
    """Whether eager mode is on, and nothing may see which ops an eager call is made of."""
    # A trace rounds otherwise than the op does: a program that is to be deterministic goes one way.
    return not (record.could_possibly_record() or config.is_op_determinism_enabled()) and context.executing_eagerly()


class CallTimeCaptureError(Exception):
    """A function captures what is to be looked up at each call, so that no trace can stand for it."""


_tracing = threading.local()


def check_captures(concrete: Any) -> None:
    """Refuses to have captures frozen that change from call to call."""
    if getattr(_tracing, "depth", 0) and concrete.graph.deferred_external_captures:
        raise CallTimeCaptureError


class Compiled:
    """A Python function of tensors, traced from the second call on.

    Traces are of what the function found when it was traced: `state`, of which each value has traces of its own.
    """

    def __init__(self, long_way: Callable[..., Any]) -> None:
        self._long_way = long_way
        self._seen: dict[Hashable, Any] = {}

    def __call__(self, state: Hashable, *args: Any, **kwargs: Any) -> Any:
        call = self._seen.get(state)
        if call is None:
            result = self._long_way(*args, **kwargs)
            # Calls of many shapes share a trace, as they share the function of a ConcreteFunction that allows them.
            self._seen[state] = tf.function(self._trace, autograph=False, reduce_retracing=True)
            return result
        try:
            return call(*args, **kwargs)
        except CallTimeCaptureError:
            self._seen[state] = self._long_way
            return self._long_way(*args, **kwargs)

    def _trace(self, *args: Any, **kwargs: Any) -> Any:
        _tracing.depth = getattr(_tracing, "depth", 0) + 1
        try:
            return self._long_way(*args, **kwargs)
        finally:
            _tracing.depth -= 1


_traces: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
# Of layers, also what these depend on.
_traces_of_layers: weakref.WeakKeyDictionary[Any, tuple[Hashable, dict[str, Any]]] = weakref.WeakKeyDictionary()


def traces_of(f: Any) -> dict[str, Any] | None:
    """Where traces of a function are kept as long as that lives; None, where no trace stands for f."""
    if may_be_traced(f):
        return _traces.setdefault(f, {})
    state = _keras.state_of(f) if context.executing_eagerly() else None
    if state is None:
        return None
    known = _traces_of_layers.get(f)
    if known is None or known[0] != state:
        known = _traces_of_layers[f] = state, {}
    return known[1]


# By function, as long as that lives.
_of_function: weakref.WeakKeyDictionary[Any, dict[Hashable, Compiled]] = weakref.WeakKeyDictionary()


def of_function(f: Any, options: Hashable, long_way: Callable[[Any, Any], Any]) -> Compiled:
    """What calls `long_way(f, tensors)`; it keeps no f alive."""
    known = _of_function.get(f)
    if known is None:
        known = _of_function[f] = {}
    if options not in known:
        reference = weakref.ref(f)
        known[options] = Compiled(lambda *tensors: long_way(reference(), tensors))
    return known[options]
