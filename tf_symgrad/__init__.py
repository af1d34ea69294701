"""Gradients of TensorFlow functions inside the graph: `tf.raw_ops.SymbolicGradient` as it should be.

Importing the package is cheap. TensorFlow and the op library are loaded by the first use of one of its functions, or by
`tf_symgrad.load()`, which a program calls that only wants the op registered: to load a SavedModel that holds it, say.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tf_symgrad._loader import get_cmake_dir, get_include, get_library_path, load
from tf_symgrad._version import __version__

if TYPE_CHECKING:
    from tf_symgrad import raw_ops
    from tf_symgrad._api import gradient_function, symbolic_gradient

__all__ = [
    "__version__",
    "get_cmake_dir",
    "get_include",
    "get_library_path",
    "gradient_function",
    "load",
    "raw_ops",
    "symbolic_gradient",
]


def __getattr__(name: str) -> object:
    if name in ("gradient_function", "symbolic_gradient"):
        return getattr(importlib.import_module("tf_symgrad._api"), name)
    if name == "raw_ops":
        return importlib.import_module("tf_symgrad.raw_ops")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
