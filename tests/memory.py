"""What a process holds, and what is done again and again to see whether that grows."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2

from tf_symgrad import _loader, _op

# For processes that look for leaks: what fills the engine's cache would be taken for what is lost. This one is full
# after a hundred gradients.
SMALL_CACHE = {"TF_SYMGRAD_CACHE_BYTES": str(2**20)}

X = np.array([0.1, 0.2, 0.3], np.float32)
GRADIENT = np.sin(2 * X)


def loss(x: Any, c: float) -> Any:
    return c * tf.reduce_sum(tf.sin(x) ** 2)


def by_tape(f: Any, x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x)


def resident() -> float:
    """Of this process, in MB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class _MallocInfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def in_use() -> float:
    """Of the heap and of Python's own, in MB, once all that can go is gone: cycles, and the kernels of functions that
    are no more, which else go many at a time. What many threads have freed, but can't be given back as it lies between
    what is used, is no part of it, as it is of what is resident."""
    gc.collect()
    _op.let_kernels_go()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallocInfo
    info, python_block = mallinfo(), 64  # bytes, about
    return float(info.uordblks + info.hblkhd + python_block * sys.getallocatedblocks()) / 2**20


def leak(kilobytes: float) -> None:
    """Takes so much of the heap, for good: what looks for leaks must find it."""
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    malloc(ctypes.c_size_t(int(kilobytes * 1024)))


def gradients_of_functions() -> Callable[[int], tuple[bytes, str]]:
    """The number of a round -> a library whose function is another each time."""
    concrete = tf.function(lambda x: loss(x, 1.0), autograph=False).get_concrete_function(tf.TensorSpec([3]))
    library = function_pb2.FunctionDefLibrary(function=[concrete.function_def])
    nodes = library.function[0].node_def
    index = next(i for i, n in enumerate(nodes) if n.op == "Const" and n.attr["dtype"].type == 1)
    name = library.function[0].signature.name

    def made(k: int) -> tuple[bytes, str]:
        nodes[index].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(float(k)))
        return library.SerializeToString(), name

    return made


def builds() -> Callable[[int], None]:
    """Gradients of ever new functions, and halves of one: no TensorFlow runs."""
    made, native = gradients_of_functions(), _loader.native()

    def one_round(k: int) -> None:
        library, name = made(k)
        f = attr_value_pb2.NameAttrList(name=name).SerializeToString()
        assert native.build_gradient(library, f)[1]
        assert native.build_vjp(library, f, [True])[4]

    return one_round
