"""TensorFlow's C API by ctypes: graphs that TF_AddGradients differentiates, as programs of other languages do."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import errors_impl

import tf_symgrad

CC_LIBRARY = Path(tf_symgrad.get_library_path()).with_name("libtf_symgrad_cc.so")
_POINTER = ("NewStatus", "NewGraph", "NewBuffer", "NewBufferFromString", "NewImportGraphDefOptions")


class _Output(ctypes.Structure):
    _fields_ = (("oper", ctypes.c_void_p), ("index", ctypes.c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p))


def c_api() -> Any:
    """libtensorflow_cc, which Python has loaded."""
    api = ctypes.CDLL(str(Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"))
    for name in (*_POINTER, "GraphOperationByName"):
        getattr(api, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("Message", "OperationName"):
        getattr(api, f"TF_{name}").restype = ctypes.c_char_p
    return api


def check(api: Any, status: Any) -> None:
    """Raises what a call reported, and clears the status: TensorFlow takes an old error for one of the next call."""
    if code := api.TF_GetCode(status):
        message = api.TF_Message(status).decode()
        api.TF_SetStatus(status, 0, b"")
        raise errors_impl.exception_type_from_error_code(code)(None, None, message)


def content(buffer: Any) -> bytes:
    """What is in a TF_Buffer."""
    filled = ctypes.cast(buffer, ctypes.POINTER(_Buffer)).contents
    return ctypes.string_at(filled.data, filled.length)


class CGraph:
    """A TF_Graph. Tensors go by their names in Python, `node:output`."""

    def __init__(self, graph_def: Any) -> None:
        self.api = c_api()
        self._status = ctypes.c_void_p(self.api.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.api.TF_NewGraph())
        data = graph_def.SerializeToString()
        buffer = ctypes.c_void_p(self.api.TF_NewBufferFromString(data, ctypes.c_size_t(len(data))))
        options = ctypes.c_void_p(self.api.TF_NewImportGraphDefOptions())
        self.api.TF_GraphImportGraphDef(self.graph, buffer, options, self._status)
        self.check()
        self.api.TF_DeleteImportGraphDefOptions(options)
        self.api.TF_DeleteBuffer(buffer)

    def check(self) -> None:
        """Raises what the last call reported."""
        check(self.api, self._status)

    def outputs(self, names: Sequence[str]) -> Any:
        array = (_Output * len(names))()
        for i, name in enumerate(names):
            node, _, index = name.partition(":")
            array[i].oper = self.api.TF_GraphOperationByName(self.graph, node.encode())
            array[i].index = int(index or 0)
            assert array[i].oper, name
        return array

    def names(self, outputs: Any) -> list[str | None]:
        """What the tensors are called; None for no tensor."""
        operation = self.api.TF_OperationName
        return [f"{operation(ctypes.c_void_p(o.oper)).decode()}:{o.index}" if o.oper else None for o in outputs]

    def add_gradients(self, y: Sequence[str], x: Sequence[str], dy: Sequence[str] | None) -> list[str | None]:
        """TF_AddGradients: the gradients by x of y, whose cotangents are dy, or ones."""
        dx = (_Output * len(x))()
        given = None if dy is None else self.outputs(dy)
        arguments = (self.outputs(y), len(y), self.outputs(x), len(x), given)
        self.api.TF_AddGradients(self.graph, *arguments, self._status, dx)
        self.check()
        return self.names(dx)

    def add_gradients_at_once(
        self, y: Sequence[str], x: Sequence[str], dy: Sequence[str] | None = None, prefix: str | None = None
    ) -> tuple[list[str | None], list[str | None]]:
        """TFSG_AddGradients: the gradients, and the y that share the forward pass with them."""
        dx, shared = (_Output * len(x))(), (_Output * len(y))()
        name = None if prefix is None else prefix.encode()
        given = None if dy is None else self.outputs(dy)
        arguments = (self.outputs(y), len(y), self.outputs(x), len(x), given)
        load().TFSG_AddGradients(self.graph, name, *arguments, self._status, dx, shared)
        self.check()
        return self.names(dx), self.names(shared)

    def graph_def(self) -> Any:
        """The graph as it is now."""
        buffer = ctypes.c_void_p(self.api.TF_NewBuffer())
        self.api.TF_GraphToGraphDef(self.graph, buffer, self._status)
        self.check()
        graph_def = tf.compat.v1.GraphDef.FromString(content(buffer))
        self.api.TF_DeleteBuffer(buffer)
        return graph_def

    def close(self) -> None:
        self.api.TF_DeleteGraph(self.graph)
        self.api.TF_DeleteStatus(self._status)


def load() -> Any:
    """libtf_symgrad_cc, which teaches TF_AddGradients all rules."""
    tf_symgrad.load()
    return ctypes.CDLL(str(CC_LIBRARY))
