"""A function over the slices of tensors, all at once if TensorFlow can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_symgrad import _log


def over(f: Callable[[Any], list[Any]], elements: Any) -> list[Any]:
    """What `f` returns for the slices of tensors along their first dimension, stacked.

    Of some loops, branches and lists `tf.vectorized_map` makes nothing but errors, of all kinds: then one slice comes
    after the other. It is tried in a function of its own, so that nothing of an attempt stays in the graph.
    """
    elements = tf.nest.map_structure(tf.convert_to_tensor, elements)
    at_once = tf.function(lambda elements: tf.vectorized_map(f, elements), autograph=False)
    try:
        traced = at_once.get_concrete_function(elements)
    except Exception as error:  # if it is f's, what follows raises it again
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    else:
        return list(traced(elements))
    slices = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), elements)
    of_one = tf.function(f, autograph=False).get_concrete_function(slices)
    signature = tf.nest.map_structure(lambda y: tf.TensorSpec(y.shape, y.dtype), of_one.structured_outputs)
    _log.once("TensorFlow can't vectorise what is to be computed for all slices: it is in a loop (%s)", reason)
    return list(tf.map_fn(of_one, elements, fn_output_signature=list(signature)))
