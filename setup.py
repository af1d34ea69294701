"""Builds the native libraries with ninja, so that a changed file costs only its own compilation."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
EXT_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

SOURCES: dict[str, list[str]] = {}
exec((ROOT / "csrc" / "sources.bzl").read_text(), SOURCES)


@dataclass
class Library:
    """One shared library: groups of sources by the flags that compile them, and what it links to."""

    name: str
    groups: dict[str, list[str]]
    links: list[str] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)  # of this table, that it links to


LIBRARIES = [
    Library(
        "libtf_symgrad.so",
        {"plain": SOURCES["RULES"], "tensorflow": SOURCES["ENGINE"]},
        links=["-l:libtensorflow_framework.so.2", "-Wl,--no-undefined"],
    ),
    Library(
        "libtf_symgrad_xla.so",
        {"xla": SOURCES["XLA"]},
        links=["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", "-Wl,--no-undefined"],
        libraries=["libtf_symgrad.so"],
    ),
    Library(
        "libtf_symgrad_cc.so",
        {"tensorflow": SOURCES["CC"]},
        links=["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", "-Wl,--no-undefined"],
        libraries=["libtf_symgrad.so"],
    ),
    Library(
        f"_native{EXT_SUFFIX}",
        {"python": SOURCES["MODULE"]},
        links=["-l:libtensorflow_framework.so.2"],
        libraries=["libtf_symgrad.so"],
    ),
]


# For pkg-config. It is told where the file is, so that a package can be moved.
PKG_CONFIG = """\
package=${{pcfiledir}}/..
tensorflow={tensorflow}

Name: tf_symgrad
Description: Gradients of TensorFlow graphs and functions, natively
Version: {version}
Cflags: -I${{package}}/include -I${{tensorflow}}/include
Libs: -L${{package}} -ltf_symgrad_cc -ltf_symgrad -L${{tensorflow}} -l:libtensorflow_cc.so.2 \
 -l:libtensorflow_framework.so.2 -Wl,-rpath,${{package}} -Wl,-rpath,${{tensorflow}}
"""

NINJA_RULES = """\
builddir = {build}
rule cxx
 command = {cxx} $flags -MMD -MF $out.d -c $in -o $out
 deps = gcc
 depfile = $out.d
 description = $in
rule precompile
 command = {cxx} $flags -x c++-header $in -o $out
 description = precompile
rule link
 command = {cxx} -Wl,-soname,$soname $in {ldflags} $links -o $out
 description = $out
"""


def ninja_words(words: list[str]) -> str:
    return shlex.join(words).replace("$", "$$")


def installed_tensorflow(cache: Path) -> dict[str, Any]:
    """Version and flags of the TensorFlow to build against. Cached, because importing TensorFlow takes seconds."""
    spec = util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        sys.exit("tf_symgrad is built against TensorFlow: pip install 'tensorflow>=2.21,<2.22'")
    key = [str(Path(spec.origin).parent), metadata.version("tensorflow")]
    if cache.exists() and (known := json.loads(cache.read_text()))["key"] == key:
        return dict(known)
    script = (
        "import json, tensorflow as tf; c = tf.sysconfig; print('\\n' + json.dumps({'version': tf.__version__, "
        "'lib': c.get_lib(), 'flags': c.get_compile_flags(), 'compiler': tf.version.COMPILER_VERSION}))"
    )
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    answer = subprocess.run([sys.executable, "-c", script], env=quiet, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"{answer.stderr}\ntf_symgrad is built against TensorFlow, whose import fails: see above")
    found = {"key": key, **json.loads(answer.stdout.splitlines()[-1])}
    write(cache, json.dumps(found, indent=1))
    return found


def write(path: Path, text: str) -> None:
    """Writes a file unless it holds that text: its time is what ninja goes by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def install(source: Path, target: Path) -> None:
    """Replaces a file in one step: a process may have the old library mapped."""
    if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    shutil.copy2(source, fresh)
    fresh.replace(target)


class NinjaBuild(build_ext):
    """`build_ext` that compiles LIBRARIES and adds them, the public headers and the build record to the package.

    CXX, CXXFLAGS and LDFLAGS are respected.
    """

    user_options: ClassVar = [*build_ext.user_options, ("only=", None, "the one library to build, of LIBRARIES")]

    def initialize_options(self) -> None:
        super().initialize_options()
        self.only: str | None = None

    @property
    def wanted(self) -> list[Library]:
        return [library for library in LIBRARIES if self.only in (None, library.name)]

    def run(self) -> None:
        develop = bool(self.inplace or getattr(self, "editable_mode", False))
        tag = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
        build = ROOT / "build" / tag if develop else Path(self.build_temp).resolve()
        package = (ROOT if develop else Path(self.build_lib).resolve()) / "tf_symgrad"

        build.mkdir(parents=True, exist_ok=True)
        with (build / "lock").open("w") as lock:  # two builds at a time would write the same files
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.build_all(build, package, develop)

    def build_all(self, build: Path, package: Path, develop: bool) -> None:
        tensorflow = installed_tensorflow(build / "tensorflow.json")
        cxx = os.environ.get("CXX", "g++")
        # Ninja runs at the repository's top and sees relative paths alone: __FILE__ must not tell where that was.
        build = Path(os.path.relpath(build, ROOT))
        os.chdir(ROOT)
        self.write_ninja(build, cxx, tensorflow, develop, package)
        self.ninja(build)

        for library in self.wanted:
            install(build / library.name, package / library.name)
        shutil.rmtree(package / "include", ignore_errors=True)
        for header in SOURCES["PUBLIC_HEADERS"]:
            install(ROOT / header, package / "include" / header)
        place = tensorflow["lib"] if develop else "${package}/../tensorflow"
        pkg_config = PKG_CONFIG.format(tensorflow=place, version=self.distribution.get_version())
        write(package / "pkgconfig" / "tf_symgrad.pc", pkg_config)
        record = {
            "tf_symgrad": self.distribution.get_version(),
            "tensorflow": tensorflow["version"],
            "tensorflow_compiler": tensorflow["compiler"],
            "compile_flags": [flag for flag in tensorflow["flags"] if not flag.startswith("-I")],
            "compiler": subprocess.check_output([*shlex.split(cxx), "--version"], text=True).splitlines()[0],
            "python": sysconfig.get_config_var("SOABI"),
        }
        write(package / "_build_info.json", json.dumps(record, indent=2) + "\n")

    def write_ninja(self, build: Path, cxx: str, tensorflow: dict[str, Any], develop: bool, package: Path) -> None:
        flags = self.compile_flags(tensorflow, develop)
        # TensorFlow is beside the package when both are installed, and where it is now when the package is in place.
        rpath = ["$ORIGIN", "$ORIGIN/../tensorflow"]
        if develop:
            rpath.append(f"$ORIGIN/{os.path.relpath(tensorflow['lib'], package)}")
        ldflags = ["-shared", "-Wl,--as-needed", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now"]
        ldflags += [*(f"-Wl,-rpath,{path}" for path in rpath), f"-L{tensorflow['lib']}", f"-L{build}"]
        asked = shlex.split(os.environ.get("LDFLAGS", ""))

        header = build / "precompiled.h"
        write(header, "".join(f"#include <{name}>\n" for name in SOURCES["PRECOMPILED_HEADERS"]))
        # System headers are in no depfile; a TensorFlow that was upgraded in place changes tensorflow.json.
        precompiled = {"tensorflow", "xla"}
        needs = {group: f"| {header}.gch" if group in precompiled else f"| {build}/tensorflow.json" for group in flags}
        needs["plain"] = ""
        use = {
            group: [*words, "-include", str(header), "-Winvalid-pch"] if group in precompiled else words
            for group, words in flags.items()
        }

        lines = [NINJA_RULES.format(build=build, cxx=cxx, ldflags=ninja_words(ldflags))]
        lines += [f"build {header}.gch: precompile {header} | {build}/tensorflow.json"]
        lines += [f" flags = {ninja_words(flags['tensorflow'])}"]
        commands = []
        for library in self.wanted:
            objects = []
            for group, sources in library.groups.items():
                for source in sources:
                    objects.append(f"{build}/{source}.o")
                    lines += [f"build {objects[-1]}: cxx {source} {needs[group]}"]
                    lines += [f" flags = {ninja_words(use[group])}"]
                    arguments = [*shlex.split(cxx), *flags[group], "-c", source]
                    commands.append({"directory": str(ROOT), "file": source, "arguments": arguments})
            first = " ".join(f"{build}/{name}" for name in library.libraries)
            links = ninja_words([*library.links, *(f"-l:{name}" for name in library.libraries), *asked])
            lines += [f"build {build}/{library.name}: link {' '.join(objects)} || {first}"]
            lines += [f" soname = {library.name}", f" links = {links}"]
        write(build / "build.ninja", "\n".join(lines) + "\n")
        if develop:  # for clang-tidy and editors
            write(ROOT / "build" / "compile_commands.json", json.dumps(commands, indent=1))

    def compile_flags(self, tensorflow: dict[str, Any], develop: bool) -> dict[str, list[str]]:
        """Flags by the groups of Library."""
        import pybind11

        include = sysconfig.get_path("include")
        if not (Path(include) / "Python.h").exists():
            sys.exit(f"{include} has no Python.h: install Python's headers (Debian, Ubuntu: apt install python3-dev)")
        # NDEBUG, because the layouts of TensorFlow's classes depend on it. Inline functions are hidden, their static
        # variables are not: they must stay one per process. All else is visible, for op libraries that register rules.
        common = [
            "-std=c++17",
            "-O2",
            "-DNDEBUG",
            "-D_FORTIFY_SOURCE=2",
            "-fstack-protector-strong",
            "-fPIC",
            "-fvisibility-inlines-hidden",
            "-Wall",
            "-Wextra",
            "-I.",
        ]
        common += ["-Werror"] if develop else []
        # TensorFlow's headers are system headers: their warnings are not ours. Those on what the optimizer sees come
        # through where it inlines their containers, falsely.
        theirs = [flag.replace("-I", "-isystem", 1) for flag in tensorflow["flags"] if flag.startswith("-I")]
        theirs += ["-Wno-maybe-uninitialized"]
        # Their messages name the header, not the folder that it was in.
        theirs += [f"-ffile-prefix-map={flag[2:]}/=" for flag in tensorflow["flags"] if flag.startswith("-I")]
        abi = [flag for flag in tensorflow["flags"] if flag.startswith("-D")]
        # Third-party headers that XLA's include; the wheel has them, but not on its include path.
        root = Path(next(flag[2:] for flag in tensorflow["flags"] if flag.startswith("-I")))
        xla = [f"-isystem{root / 'external' / path}" for path in ("highwayhash", "farmhash_archive/src")]
        python = ["-fvisibility=hidden", f"-isystem{pybind11.get_include()}", f"-isystem{include}"]
        groups = {"plain": [], "tensorflow": theirs, "xla": [*theirs, *xla], "python": [*theirs, *python]}
        asked = shlex.split(os.environ.get("CXXFLAGS", ""))
        return {group: [*common, *abi, *words, *asked] for group, words in groups.items()}

    def ninja(self, build: Path) -> None:
        import ninja

        jobs = os.environ.get("MAX_JOBS", str(min(2, os.cpu_count() or 1)))
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", str(build / "build.ninja"), "-j", jobs]
        if subprocess.run(command).returncode:
            sys.exit("tf_symgrad: the native build failed; the compiler's messages are above")

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "tf_symgrad"
        headers = [f"include/{header}" for header in SOURCES["PUBLIC_HEADERS"]]
        names = [*(library.name for library in LIBRARIES), *headers, "pkgconfig/tf_symgrad.pc", "_build_info.json"]
        return [] if self.inplace else [str(package / name) for name in names]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    ext_modules=[Extension("tf_symgrad._native", SOURCES["MODULE"])],
    cmdclass={"build_ext": NinjaBuild},
)
