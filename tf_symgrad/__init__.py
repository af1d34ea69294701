"""Gradients of TensorFlow functions inside the graph: `tf.raw_ops.SymbolicGradient` as it should be.

Imported after TensorFlow, the package loads the op library at once, so that models and graphs that hold the op can be
loaded. Without TensorFlow importing is cheap: both are loaded by the first use of one of its functions, or by
`tf_symgrad.load()`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from tf_symgrad._loader import get_cmake_dir, get_include, get_library_path, get_pkgconfig_dir, load
from tf_symgrad._version import __version__

if TYPE_CHECKING:
    from tf_symgrad import raw_ops, testing
    from tf_symgrad._api import gradient_function, symbolic_gradient
    from tf_symgrad._cache import cache_info
    from tf_symgrad._concrete import function_gradient
    from tf_symgrad._enable import disable, enable, native
    from tf_symgrad._explain import explain
    from tf_symgrad._jacobian import hessian, jacobian
    from tf_symgrad._registry import register_python_gradients
    from tf_symgrad._rule import rule
    from tf_symgrad._saved_model import save_with_gradients
    from tf_symgrad._stock import replace_stock_op, restore_stock_op
    from tf_symgrad._transforms import (
        grad,
        hvp,
        jvp,
        linearize,
        per_example_grad,
        value_and_grad,
        vjp,
    )

__all__ = [
    "__version__",
    "cache_info",
    "disable",
    "enable",
    "explain",
    "function_gradient",
    "get_cmake_dir",
    "get_include",
    "get_library_path",
    "get_pkgconfig_dir",
    "grad",
    "gradient_function",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "linearize",
    "load",
    "native",
    "per_example_grad",
    "raw_ops",
    "register_python_gradients",
    "replace_stock_op",
    "restore_stock_op",
    "rule",
    "save_with_gradients",
    "symbolic_gradient",
    "testing",
    "value_and_grad",
    "vjp",
]

# Where what needs TensorFlow is.
_MODULES = {
    "cache_info": "_cache",
    "disable": "_enable",
    "enable": "_enable",
    "explain": "_explain",
    "function_gradient": "_concrete",
    "grad": "_transforms",
    "gradient_function": "_api",
    "hessian": "_jacobian",
    "hvp": "_transforms",
    "jacobian": "_jacobian",
    "jvp": "_transforms",
    "linearize": "_transforms",
    "native": "_enable",
    "per_example_grad": "_transforms",
    "register_python_gradients": "_registry",
    "replace_stock_op": "_stock",
    "restore_stock_op": "_stock",
    "rule": "_rule",
    "save_with_gradients": "_saved_model",
    "symbolic_gradient": "_api",
    "value_and_grad": "_transforms",
    "vjp": "_transforms",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"tf_symgrad.{_MODULES[name]}"), name)
    if name in ("raw_ops", "testing"):
        return importlib.import_module(f"tf_symgrad.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if hasattr(sys.modules.get("tensorflow"), "load_op_library"):  # imported, to its end
    load()
