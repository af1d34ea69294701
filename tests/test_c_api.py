"""The C API (csrc/c_api/tf_symgrad.h) by ctypes, and its header and that of the engine by compilers."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework import function_pb2

import tf_symgrad
from tests import c_graph, structure
from tf_symgrad import _loader

PACKAGE = Path(tf_symgrad.get_library_path()).parent
TENSORFLOW = tf.sysconfig.get_lib()


class Options(ctypes.Structure):
    """TFSG_GradientOptions."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("wrt", ctypes.c_char_p),
        ("num_wrt", ctypes.c_size_t),
        ("attrs", ctypes.c_void_p),
        ("checkpoint", ctypes.c_char_p),
    )


@pytest.fixture(scope="module")
def api() -> Any:
    tf_symgrad.load()
    library = ctypes.CDLL(tf_symgrad.get_library_path())
    library.TFSG_Version.restype = ctypes.c_char_p
    return library


class Buffers:
    """TF_Buffers and a TF_Status, for one call."""

    def __init__(self) -> None:
        self._c = c_graph.c_api()
        self.status = ctypes.c_void_p(self._c.TF_NewStatus())

    def of(self, data: bytes) -> Any:
        return ctypes.c_void_p(self._c.TF_NewBufferFromString(data, ctypes.c_size_t(len(data))))

    def new(self) -> Any:
        return ctypes.c_void_p(self._c.TF_NewBuffer())

    def check(self) -> None:
        c_graph.check(self._c, self.status)


def gradient_function(
    api: Any, library: Any, name: str, wrt: bytes | None = None, checkpoint: bytes | None = None, size: int = 0
) -> tuple[str, Any, bool]:
    buffers = Buffers()
    gradients, text, stateful = buffers.new(), buffers.new(), ctypes.c_ubyte(7)
    options = Options(size or ctypes.sizeof(Options), wrt, len(wrt or b""), None, checkpoint)
    given = buffers.of(library.SerializeToString())
    api.TFSG_GradientFunction(
        given, name.encode(), ctypes.byref(options), gradients, text, ctypes.byref(stateful), buffers.status
    )
    buffers.check()
    built = function_pb2.FunctionDefLibrary.FromString(c_graph.content(gradients))
    return c_graph.content(text).decode(), built, bool(stateful.value)


def product() -> Any:
    f = structure.concrete(lambda x, w: [tf.nn.softplus(x * w)], [tf.ones([3]), tf.ones([3])])
    return structure.library(f), f.name.decode()


def test_version(api: Any) -> None:
    assert api.TFSG_Version().decode() == tf_symgrad.__version__


def test_differentiable_ops(api: Any) -> None:
    buffers = Buffers()
    names = buffers.new()
    api.TFSG_DifferentiableOps(names, buffers.status)
    buffers.check()
    ops = c_graph.content(names).decode().splitlines()
    rules = {op for op, has_gradient in dict(_loader.native().rules()).items() if has_gradient}
    assert set(ops) - rules == {
        *("Case", "If", "PartitionedCall", "RemoteCall", "StatefulPartitionedCall"),
        *("StatelessCase", "StatelessIf", "StatelessWhile", "While"),
    }
    assert rules <= set(ops)
    assert ops == sorted(ops)


def test_gradient_function(api: Any) -> None:
    library, name = product()
    gradient, built, stateful = gradient_function(api, library, name)
    assert (gradient, stateful) == (built.function[0].signature.name, False)
    assert len(built.function[0].signature.output_arg) == 2
    assert gradient_function(api, library, name)[1] == built


def test_checkpoint(api: Any) -> None:
    """A program that was compiled before there was the option has a shorter struct."""
    library, name = product()
    kept = gradient_function(api, library, name)[1]
    again = gradient_function(api, library, name, checkpoint=b"keep:Softplus")[1]
    assert [sum(n.op == "Mul" for n in f.function[0].node_def) for f in (kept, again)] == [3, 3]
    assert again != kept
    assert gradient_function(api, library, name, checkpoint=b"auto", size=Options.checkpoint.offset)[1] == kept
    with pytest.raises(tf.errors.InvalidArgumentError, match="everything"):
        gradient_function(api, library, name, checkpoint=b"nothing")


def test_gradient_function_of_some_inputs(api: Any) -> None:
    library, name = product()
    built = gradient_function(api, library, name, wrt=b"\0\1")[1]
    assert len(built.function[0].signature.output_arg) == 1


def test_errors_are_statuses(api: Any) -> None:
    library, name = product()
    with pytest.raises(tf.errors.NotFoundError, match="'nothing'"):
        gradient_function(api, library, "nothing")
    with pytest.raises(tf.errors.InvalidArgumentError, match="has 2 inputs, but wrt has 1"):
        gradient_function(api, library, name, wrt=b"\1")
    buffers = Buffers()
    nonsense = (buffers.of(b"\xff"), b"f", None, buffers.new(), buffers.new(), None, buffers.status)
    api.TFSG_GradientFunction(*nonsense)
    with pytest.raises(tf.errors.InvalidArgumentError, match="library is not a serialized tensorflow.FunctionDefLib"):
        buffers.check()
    api.TFSG_GradientFunction(None, None, None, None, None, None, buffers.status)
    with pytest.raises(tf.errors.InvalidArgumentError, match="function is NULL"):
        buffers.check()
    old = Options(8, None, 0, None)
    api.TFSG_GradientFunction(None, b"f", ctypes.byref(old), None, None, None, buffers.status)
    with pytest.raises(tf.errors.InvalidArgumentError, match="struct_size"):
        buffers.check()


def test_threads(api: Any) -> None:
    library, name = product()
    expected = gradient_function(api, library, name)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: gradient_function(api, library, name), range(32)):
            assert got == expected


def test_functions_of_a_graph(api: Any) -> None:
    library, name = product()
    _, built, _ = gradient_function(api, library, name)
    graph = c_graph.CGraph(tf.compat.v1.GraphDef(library=library))
    cc, buffers = c_graph.load(), Buffers()
    for _ in range(2):  # what is there already does no harm
        cc.TFSG_AddFunctions(graph.graph, buffers.of(built.SerializeToString()), buffers.status)
        buffers.check()
    found = buffers.new()
    cc.TFSG_GraphFunctions(graph.graph, found, buffers.status)
    buffers.check()
    names = {f.signature.name for f in function_pb2.FunctionDefLibrary.FromString(c_graph.content(found)).function}
    assert names == {f.signature.name for both in (library, built) for f in both.function}


# ---- Headers. ----

C_USE = """
#include "csrc/c_api/tf_symgrad.h"
#include <stdio.h>
int main(void) { printf("%s %s\\n", TFSG_Version(), TFSG_VERSION); return 0; }
"""
CXX_USE = """
#include <cstdio>
#include "csrc/engine/gradient.h"

int main() {
  tensorflow::FunctionLibraryDefinition library(tensorflow::OpRegistry::Global(), tensorflow::FunctionDefLibrary());
  symgrad::GradientRequest request;
  request.f.set_name("nothing");
  std::puts(std::string(symgrad::BuildGradient(library, request).status().message()).c_str());
}
"""


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_c_program_by_pkg_config(tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    (tmp_path / "use.c").write_text(C_USE)
    flags = run(
        ["pkg-config", "--cflags", "--libs", "tf_symgrad"], PKG_CONFIG_PATH=tf_symgrad.get_pkgconfig_dir()
    ).split()
    program = str(tmp_path / "use")
    run(["gcc", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", f"{tmp_path}/use.c", "-o", program, *flags])
    assert run([program]).split() == [tf_symgrad.__version__] * 2


def test_c_program_by_cmake(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    (tmp_path / "use.c").write_text(C_USE)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(use C CXX)\nfind_package(tf_symgrad CONFIG REQUIRED)\n"
        "add_executable(use use.c)\ntarget_link_libraries(use tf_symgrad::cc)\n"
    )
    build = str(tmp_path / "build")
    run(["cmake", "-S", str(tmp_path), "-B", build, f"-Dtf_symgrad_DIR={tf_symgrad.get_cmake_dir()}"])
    run(["cmake", "--build", build])
    assert run([f"{build}/use"]).split() == [tf_symgrad.__version__] * 2


def test_cxx_program(tmp_path: Path) -> None:
    """The engine's front door, with what is installed."""
    (tmp_path / "use.cc").write_text(CXX_USE)
    program = str(tmp_path / "use")
    compiler = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++17", "-DNDEBUG", "-w"]
    include = [f"-I{tf_symgrad.get_include()}", *tf.sysconfig.get_compile_flags()]
    libraries = [f"-L{PACKAGE}", "-ltf_symgrad", f"-Wl,-rpath,{PACKAGE}", f"-Wl,-rpath,{TENSORFLOW}"]
    run([*compiler, *include, f"{tmp_path}/use.cc", "-o", program, *libraries, *tf.sysconfig.get_link_flags()])
    assert "function 'nothing' is not in the library" in run([program])
