"""Finds and loads the native libraries, once, after checking that they fit the installed TensorFlow."""

import functools
import importlib
import json
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_PACKAGE = Path(__file__).resolve().parent
_LIBRARY = "libtf_symgrad.so"
_XLA_LIBRARY = "libtf_symgrad_xla.so"
_OP = "TfSymgrad>SymbolicGradient"
_RECORD = "_build_info.json"

_lock = threading.RLock()
_ops: ModuleType | None = None


def get_library_path() -> str:
    """The path of the op library, for `tf.load_op_library` or `TF_LoadLibrary`.

    The environment variable TF_SYMGRAD_LIBRARY overrides it. `libtf_symgrad_xla.so`, which lets XLA compile the op,
    lies beside it; a library that another build made may be without. So does `libtf_symgrad_cc.so`, for programs that
    call TF_AddGradients or the C API.
    """
    return os.environ.get("TF_SYMGRAD_LIBRARY") or str(_PACKAGE / _LIBRARY)


def get_include() -> str:
    """The folder of the headers: C, C++, and for op libraries that bring gradient rules for their own ops."""
    return str(_PACKAGE / "include")


def get_cmake_dir() -> str:
    """The folder of the CMake config file: `find_package(tf_symgrad CONFIG PATHS ...)`."""
    return str(_PACKAGE / "cmake")


def get_pkgconfig_dir() -> str:
    """The folder of the file for pkg-config, to be named in PKG_CONFIG_PATH."""
    return str(_PACKAGE / "pkgconfig")


def load() -> ModuleType:
    """Loads the op library into TensorFlow and returns the module of its generated op functions.

    The op is then there for graphs and saved models that hold it, and so is its gradient for tapes and `tf.gradients`.

    The kernel for XLA comes with it: it costs a few milliseconds, and XLA must have it before it first meets the op.

    Raises:
      ImportError: the library is missing, was built for another TensorFlow or Python, or does not load.
    """
    global _ops
    with _lock:
        if _ops is None:
            import tensorflow as tf

            path = Path(get_library_path())
            record = read_record(path)
            if record is not None:
                check(record, installed())
            xla = path.with_name(_XLA_LIBRARY)
            has_xla = record is not None or xla.exists()
            if has_xla and not xla.exists():
                raise ImportError(f"{xla} does not exist. To build it: {_rebuild()}")
            ops = _load(path, tf.load_op_library)
            if has_xla:
                _load(xla, tf.load_library)
            if record is not None:
                importlib.import_module("tf_symgrad._native").teach_stock()
            _keep_autograph_out()
            _ops = ops if hasattr(ops, "tf_symgrad_symbolic_gradient") else _op_functions()
    # Registers the op's gradient for tapes. Not under the lock: who imports that module first waits for the lock.
    importlib.import_module("tf_symgrad._op")
    return _ops


def _keep_autograph_out() -> None:
    """AutoGraph converts what a tf.function calls, for half a second in all: not this package, as not TensorFlow."""
    from tensorflow.python.autograph.core import config

    config.CONVERSION_RULES = (config.DoNotConvert(__package__), *config.CONVERSION_RULES)


def _load(path: Path, load_library: Callable[[str], Any]) -> Any:
    import tensorflow as tf

    try:
        return load_library(str(path))
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        raise ImportError(f"{path} does not load: {error}\nTo build it anew: {_rebuild()}") from error


def _op_functions() -> ModuleType:
    """The module that `tf.load_op_library` makes, of the op as it is registered.

    Where another op library links to this one and was loaded first, that call finds nothing new in this one.
    """
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.framework import _pywrap_python_op_gen, op_def_registry

    module = ModuleType("tf_symgrad._generated_ops")
    ops = op_def_pb2.OpList(op=[op_def_registry.get(_OP)])
    exec(_pywrap_python_op_gen.GetPythonWrappers(ops.SerializeToString()), module.__dict__)
    module.__dict__["_IS_TENSORFLOW_PLUGIN"] = True  # for autograph, as there
    return module


def native() -> ModuleType:
    """The extension module, which shares the op library that `load` loads."""
    load()
    return importlib.import_module("tf_symgrad._native")


def rules() -> Mapping[str, bool]:
    """The ops that have a rule; False: no gradient flows through the op."""
    return _rules(native().num_rules())


@functools.lru_cache(1)
def _rules(_: int) -> Mapping[str, bool]:
    return dict(native().rules())


def read_record(library: Path) -> dict[str, Any] | None:
    """What the build wrote down beside `library`; None for a library that another build made, which has no record."""
    if not library.exists():
        raise ImportError(f"{library} does not exist. To build it: {_rebuild()}")
    path = library.with_name(_RECORD)
    if not path.exists():
        if library.parent != _PACKAGE:
            return None
        raise ImportError(f"{path} does not exist: the build was not completed. To repeat it: {_rebuild()}")
    try:
        record = json.loads(path.read_text())
        return {name: record[name] for name in ("tensorflow", "compile_flags", "python")}
    except (ValueError, KeyError, TypeError) as error:
        raise ImportError(f"{path} is damaged: {error!r}. To build anew: {_rebuild()}") from error


def installed() -> dict[str, Any]:
    """What a build in this process would write down."""
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "compile_flags": [flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("-I")],
        "python": sysconfig.get_config_var("SOABI"),
    }


def check(built: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ImportError where a library that was built for `built` would crash or misbehave in `now`."""
    # TensorFlow's C++ ABI changes with each minor version, not with a patch.
    minor = str(built["tensorflow"]).split(".")[:2]
    if str(now["tensorflow"]).split(".")[:2] != minor:
        _refuse(
            f"TensorFlow {built['tensorflow']}",
            f"TensorFlow {now['tensorflow']}",
            f"{sys.executable} -m pip install 'tensorflow=={'.'.join(minor)}.*'",
        )
    if sorted(built["compile_flags"]) != sorted(now["compile_flags"]):
        was, is_ = (f"TensorFlow {x['tensorflow']} ({' '.join(x['compile_flags'])})" for x in (built, now))
        _refuse(was, is_, _rebuild())
    if built["python"] != now["python"]:
        _refuse(f"Python {built['python']}", f"Python {now['python']}", _rebuild())


def _refuse(built: str, now: str, command: str) -> NoReturn:
    raise ImportError(f"tf_symgrad was built for {built}, but {now} is installed. To mend it: {command}")


def _rebuild() -> str:
    """The command that builds the package for this Python and the TensorFlow it has."""
    checkout = _PACKAGE.parent
    what = f"-e {checkout}" if (checkout / "setup.py").exists() else "--no-binary tf_symgrad tf_symgrad"
    return f"{sys.executable} -m pip install --force-reinstall --no-deps --no-build-isolation {what}"
