"""What a layer of Keras computes, as far as its Python objects say: whether a trace of it still stands for it.

Python objects may change at any time: a layer is frozen, gets other weights, an activation, a policy. Of what is
Keras's own through and through all of that is in its attributes, which take much less time to look through than a trace
takes to make. Code of a user's may read whatever it likes, so that nothing can be told of it.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# Attributes that say nothing of what is computed: what calls have left behind, and what a layer is connected to, for
# which there is a new model where it changes.
_ASIDE = {
    *("_inbound_nodes", "_outbound_nodes", "_nodes", "_nodes_by_depth", "_operations_by_depth", "_operations"),
    *("_losses", "_losses_override", "_loss_ids", "_metrics", "_tracker", "_tracked", "_lock", "_parent_path", "_path"),
    *("_build_shapes_dict", "_call_signature", "build", "quantize", "optimizer", "_compile_loss", "_compile_metrics"),
    *("loss", "_loss_tracker", "train_function", "test_function", "predict_function", "_called", "_auto_config"),
}
_NOT_OF_CALLS = ("_initializer", "_regularizer", "_constraint")  # and what these end with
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.dtype, np.generic, tf.DType)


class _UnknownError(Exception):
    """Nobody can tell what an object does."""


def state_of(layer: Any) -> Hashable | None:
    """What a layer's traces depend on, beside the values of its variables: equal as long as they stand for it.

    Keeps nothing alive. None if it can't be told, as of a class or an activation of a user's.
    """
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(layer, keras.layers.Layer) or not _is_keras_own(type(layer)):
        return None
    try:
        return keras.config.floatx(), _of_value(layer, {})
    except _UnknownError:
        return None


def _is_keras_own(x: Any) -> bool:
    return str(getattr(x, "__module__", "")).startswith("keras.src.")


def _of_value(x: Any, seen: dict[int, int]) -> Hashable:
    if isinstance(x, _PLAIN):
        return type(x), x
    if isinstance(x, tf.Variable):
        return "variable", id(x.handle)  # which a trace keeps
    if isinstance(x, (list, tuple)):
        return "list", tuple(_of_value(y, seen) for y in x)
    if isinstance(x, (set, frozenset)):
        return "set", frozenset(_of_value(y, seen) for y in x)
    if isinstance(x, Mapping):
        return "dict", tuple((key, _of_value(y, seen)) for key, y in x.items() if isinstance(key, str))
    if isinstance(x, types.FunctionType) and _is_keras_own(x):
        return x.__module__, x.__qualname__, id(x)
    if isinstance(x, (tf.TensorShape, types.ModuleType)):
        return str(x)
    if not _is_keras_own(type(x)):
        raise _UnknownError
    if id(x) in seen:
        return "again", seen[id(x)]
    seen[id(x)] = len(seen)
    if isinstance(x, sys.modules["keras"].Variable):
        if not isinstance(x.value, tf.Variable):  # a scope has others in place of variables
            raise _UnknownError
        return "variable", id(x.value.handle), x.trainable, str(x.dtype), bool(getattr(x, "_autocast", True))
    attributes = [(name, _of_value(y, seen)) for name, y in vars(x).items() if _matters(name)]
    return type(x), id(getattr(type(x), "call", None)), tuple(attributes)


@functools.cache
def _matters(attribute: str) -> bool:
    return not (attribute in _ASIDE or attribute.startswith("_self_") or attribute.endswith(_NOT_OF_CALLS))
