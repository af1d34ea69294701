"""What is known of tensors: of those at hand, of a signature's arguments, of the variables behind handles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import handle_data_util


def invalid(message: str) -> tf.errors.InvalidArgumentError:
    return tf.errors.InvalidArgumentError(None, None, message)


def spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.op.name)


def variable_spec(handle: Any) -> tf.TensorSpec | None:
    """What is known of the variable that a resource tensor refers to."""
    if isinstance(handle, tf.TensorSpec):
        return None
    eager = isinstance(handle, ops.EagerTensor)
    data = handle._handle_data if eager else handle_data_util.get_resource_handle_data(handle)
    if data is None or not data.is_set or len(data.shape_and_type) != 1:
        return None
    known = data.shape_and_type[0]
    return tf.TensorSpec(tf.TensorShape(known.shape), tf.as_dtype(known.dtype))


_CONTINUOUS = frozenset([tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128])


def continuous(dtype: Any) -> bool:
    """Whether what is of a dtype can have a gradient. Floats of eight bits and less are a format to keep others in."""
    return tf.as_dtype(dtype).base_dtype in _CONTINUOUS


def is_continuous(x: Any) -> bool:
    """Whether a tensor, or the variable that it refers to, can have a gradient."""
    known = variable_spec(x) if x.dtype == tf.resource else x
    return known is not None and continuous(known.dtype)


_MAX_TENSORS = 1 << 16  # of one argument: what is beyond is no function, but an attempt to allocate


def argument_specs(function: str, args: Iterable[Any], attrs: Any) -> list[tf.TensorSpec]:
    """The tensors that arguments in a function's signature stand for."""
    specs = []
    for arg in args:
        if arg.type_list_attr:
            dtypes = list(attrs[arg.type_list_attr].list.type) if arg.type_list_attr in attrs else [None]
        else:
            dtype = arg.type or (attrs[arg.type_attr].type if arg.type_attr in attrs else None)
            count = attrs[arg.number_attr].i if arg.number_attr in attrs else 1
            if not 0 <= count <= _MAX_TENSORS:
                raise invalid(f"Function '{function}': argument '{arg.name}' is a list of {count} tensors.")
            dtypes = [dtype] * count
        for dtype in dtypes:
            try:
                specs.append(tf.TensorSpec(None, tf.as_dtype(dtype), name=arg.name or None))
            except TypeError:
                needs = arg.type_list_attr or arg.type_attr
                raise invalid(
                    f"Function '{function}': argument '{arg.name}' has no valid dtype"
                    + (f". Give attr '{needs}' with the function's name, in a NameAttrList." if needs else "."),
                ) from None
    return specs


def is_at_hand(tensor: Any) -> bool:
    """Whether a tensor is of eager mode, of the default graph or of one that this is inside."""
    graph = ops.get_default_graph()
    while not isinstance(tensor, ops.EagerTensor) and graph is not tensor.graph:
        graph = getattr(graph, "outer_graph", None)
        if graph is None:
            return False
    return True
