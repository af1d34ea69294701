"""What the build makes and where it ends up; that a library built for something else is refused with a way out."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tf_symgrad import _loader

ROOT = Path(__file__).resolve().parent.parent
SOURCES: dict[str, list[str]] = {}
exec((ROOT / "csrc" / "sources.bzl").read_text(), SOURCES)
LISTS = ("RULES", "ENGINE", "XLA", "CC", "MODULE", "PUBLIC_HEADERS")

BUILT = {
    "tensorflow": "2.21.0",
    "compile_flags": ["-D_GLIBCXX_USE_CXX11_ABI=1", "--std=c++17"],
    "python": "cpython-311-x86_64-linux-gnu",
}


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)


def dynamic_section(library: str, tag: str) -> list[str]:
    text = subprocess.check_output(["readelf", "-d", library], text=True)
    return re.findall(rf"\({tag}\).*\[(.*)\]", text)


# ---- The list of sources ----


def test_every_source_is_listed_once_and_exists():
    listed = [path for name in LISTS for path in SOURCES[name]]
    assert sorted(listed) == sorted(set(listed))
    assert [path for path in listed if not (ROOT / path).is_file()] == []
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cc")}
    assert found - set(listed) == set(), "not in csrc/sources.bzl"


# ---- The libraries ----


def test_main_library_links_to_the_framework_alone():
    system = re.compile(r"(libstdc\+\+|libgcc_s|libc|libm|ld-linux-[\w-]+)\.so\.\d+$")
    needed = [name for name in dynamic_section(_loader.get_library_path(), "NEEDED") if not system.match(name)]
    assert needed == ["libtensorflow_framework.so.2"]


@pytest.mark.parametrize("name", ["cc", "xla"])
def test_other_libraries_link_to_the_main_one(name):
    library = str(Path(_loader.get_library_path()).with_name(f"libtf_symgrad_{name}.so"))
    needed = [name for name in dynamic_section(library, "NEEDED") if "tf_symgrad" in name or "tensorflow" in name]
    assert sorted(needed) == ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2", "libtf_symgrad.so"]


def test_libraries_find_their_own_by_relative_paths():
    for library in (ROOT / "tf_symgrad").glob("*.so"):
        for paths in dynamic_section(str(library), "R(?:UN)?PATH"):
            assert all(path.startswith("$ORIGIN") for path in paths.split(":"))
    assert dynamic_section(_loader.get_library_path(), "SONAME") == ["libtf_symgrad.so"]


def test_no_library_tells_where_it_was_built():
    for library in (ROOT / "tf_symgrad").glob("*.so"):
        assert str(ROOT).encode() not in library.read_bytes()


def test_bare_library_loads():
    code = "import sys, tensorflow as tf; print(tf.load_op_library(sys.argv[1]).TfSymgrad_SymbolicGradient)"
    done = run_python(f"import sys; sys.argv.append({_loader.get_library_path()!r}); {code}")
    assert done.returncode == 0, done.stderr


def test_bare_library_loads_in_a_process_without_python_tensorflow():
    done = run_python(f"import ctypes; ctypes.CDLL({_loader.get_library_path()!r})")
    assert done.returncode == 0, done.stderr


def test_load_once():
    assert _loader.load() is _loader.load()
    assert _loader.native() is _loader.native()


def test_rules_compile_against_the_shipped_headers(tmp_path):
    rules = tmp_path / "rules.cc"
    rules.write_text(
        '#include "csrc/rules/rule.h"\n'
        "namespace symgrad { namespace {\n"
        "constexpr Rule kRules[] = {PARTIAL(Sin, cos(x)) NO_GRAD(Floor)};\n"
        "SYMGRAD_REGISTER(kRules) } }\n"
    )
    command = [os.environ.get("CXX", "g++"), "-std=c++17", "-fsyntax-only", f"-I{_loader.get_include()}", str(rules)]
    assert subprocess.run(command, check=False).returncode == 0


def test_shipped_headers_are_those_of_the_sources():
    for header in SOURCES["PUBLIC_HEADERS"]:
        assert (Path(_loader.get_include()) / header).read_bytes() == (ROOT / header).read_bytes()


def test_cmake_finds_the_package(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(ops NONE)\n"
        "find_package(tf_symgrad CONFIG REQUIRED)\n"
        "get_target_property(path tf_symgrad::tf_symgrad IMPORTED_LOCATION)\n"
        "get_target_property(include tf_symgrad::tf_symgrad INTERFACE_INCLUDE_DIRECTORIES)\n"
        'message(STATUS "found ${path} ${include}")\n'
    )
    directory = f"-Dtf_symgrad_DIR={_loader.get_cmake_dir()}"
    command = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"found {_loader.get_library_path()} {_loader.get_include()}" in done.stdout, done.stderr


# ---- The build record ----


def test_record_of_this_build_fits():
    record = _loader.read_record(Path(_loader.get_library_path()))
    assert record is not None
    _loader.check(record, _loader.installed())


def test_a_patch_release_of_tensorflow_fits():
    _loader.check(BUILT, {**BUILT, "tensorflow": "2.21.3"})


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"tensorflow": "2.22.1"}, ["TensorFlow 2.21.0", "TensorFlow 2.22.1", "pip install 'tensorflow==2.21.*'"]),
        ({"tensorflow": "3.21.0"}, ["TensorFlow 2.21.0", "TensorFlow 3.21.0", "pip install 'tensorflow==2.21.*'"]),
        (
            {"compile_flags": ["-D_GLIBCXX_USE_CXX11_ABI=0", "--std=c++17"]},
            ["CXX11_ABI=1", "CXX11_ABI=0", "pip install --force-reinstall --no-deps --no-build-isolation"],
        ),
        (
            {"python": "cpython-313-x86_64-linux-gnu"},
            ["Python cpython-311", "Python cpython-313", "pip install --force-reinstall"],
        ),
    ],
)
def test_a_build_for_something_else_is_refused_with_both_names_and_the_cure(now, words):
    with pytest.raises(ImportError) as error:
        _loader.check(BUILT, {**BUILT, **now})
    for word in [*words, sys.executable]:
        assert word in str(error.value)


@pytest.fixture
def copied_package(tmp_path, monkeypatch):
    """The package's libraries in another folder, where a build record can be forged, and nothing loaded yet."""
    library = tmp_path / "libtf_symgrad.so"
    library.write_bytes(b"not a library")
    (tmp_path / "libtf_symgrad_xla.so").write_bytes(b"not a library either")
    monkeypatch.setenv("TF_SYMGRAD_LIBRARY", "")
    monkeypatch.setattr(_loader, "_PACKAGE", tmp_path)
    monkeypatch.setattr(_loader, "_ops", None)
    return tmp_path


def test_forged_record_is_refused_before_the_library_is_loaded(copied_package):
    (copied_package / "_build_info.json").write_text(json.dumps({**_loader.installed(), "tensorflow": "2.20.1"}))
    with pytest.raises(ImportError, match=r"TensorFlow 2\.20\.1, but TensorFlow 2\.21.*tensorflow==2\.20"):
        _loader.load()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tensorflow": "2.21.0"}'])
def test_damaged_record_is_refused(copied_package, text):
    (copied_package / "_build_info.json").write_text(text)
    with pytest.raises(ImportError, match="is damaged.*pip install"):
        _loader.load()


def test_missing_record_is_refused(copied_package):
    with pytest.raises(ImportError, match="_build_info.json does not exist.*pip install"):
        _loader.load()


def test_missing_library_is_refused(copied_package):
    (copied_package / "libtf_symgrad.so").unlink()
    with pytest.raises(ImportError, match="libtf_symgrad.so does not exist.*pip install"):
        _loader.load()


def test_missing_xla_library_is_refused(copied_package):
    (copied_package / "_build_info.json").write_text(json.dumps(_loader.installed()))
    (copied_package / "libtf_symgrad_xla.so").unlink()
    with pytest.raises(ImportError, match="libtf_symgrad_xla.so does not exist.*pip install"):
        _loader.load()


def test_xla_library_that_does_not_load_is_refused(copied_package, monkeypatch):
    (copied_package / "_build_info.json").write_text(json.dumps(_loader.installed()))
    monkeypatch.setattr(_loader.importlib.import_module("tensorflow"), "load_op_library", lambda path: path)
    with pytest.raises(ImportError, match="libtf_symgrad_xla.so does not load: .*file too short"):
        _loader.load()


def test_a_library_of_another_build_may_be_without_xla(tmp_path):
    library = tmp_path / "libtf_symgrad.so"
    shutil.copy2(_loader.get_library_path(), library)
    code = "import tf_symgrad; print(tf_symgrad.load().TfSymgrad_SymbolicGradient)"
    done = run_python(code, TF_SYMGRAD_LIBRARY=str(library), LD_LIBRARY_PATH=tensorflow_path())
    assert done.returncode == 0, done.stderr


def tensorflow_path() -> str:
    """Where the libraries that a copied library links to are."""
    import tensorflow as tf

    return tf.sysconfig.get_lib()


def test_a_failure_to_load_keeps_its_cause(copied_package):
    (copied_package / "_build_info.json").write_text(json.dumps(_loader.installed()))
    with pytest.raises(ImportError, match="does not load: .*file too short") as error:
        _loader.load()
    assert error.value.__cause__ is not None


def test_environment_overrides_the_path(monkeypatch):
    monkeypatch.setenv("TF_SYMGRAD_LIBRARY", "/elsewhere/libtf_symgrad.so")
    assert _loader.get_library_path() == "/elsewhere/libtf_symgrad.so"


def test_package_is_typed():
    assert (ROOT / "tf_symgrad" / "py.typed").exists()
