"""Builds of the native code with a compiler's sanitizers, in copies of the sources under build/sanitize."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("csrc", "examples", "tests", "tf_symgrad")
FILES = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.py")
TARGET = tuple(f"tests/fuzz/{name}.cc" for name in ("engine", "mutator", "wiring", "values"))


@dataclass(frozen=True)
class Sanitizer:
    """How to build for it, and how it is told what to do at run time."""

    name: str
    cxx: str
    flags: tuple[str, ...]
    # Hides it from Abseil, whose hash tables would have another layout than in TensorFlow's libraries.
    unknown: str
    options: dict[str, str]
    links: tuple[str, ...] = ()
    target: tuple[str, ...] = ()  # what the fuzz target is linked with besides
    optimize: str = "-O1"
    runtimes: tuple[str, ...] = ()  # to be loaded before a Python that is not instrumented
    mains: tuple[str, ...] = ("tests/fuzz/standalone.cc",)  # of the fuzz target

    @property
    def tree(self) -> Path:
        return ROOT / "build" / "sanitize" / self.name if self.flags else ROOT

    @property
    def executable(self) -> Path:
        """The fuzz target."""
        return self.tree / "build" / "fuzz_target"


ADDRESS = Sanitizer(
    "address",
    "g++",
    # Left out: vptr, as TensorFlow's classes have no type information to compare with; checks for null, which the
    # address sanitizer sees as well, and with which g++ refuses constant expressions of Abseil's.
    (
        "-fsanitize=address,undefined",
        "-fno-sanitize=vptr,null,nonnull-attribute,returns-nonnull-attribute",
        "-fno-sanitize-recover=all",
    ),
    "-U__SANITIZE_ADDRESS__",
    {
        "ASAN_OPTIONS": "abort_on_error=1:disable_coredump=1:detect_odr_violation=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    },
    # The C++ library with it: the sanitizer looks its functions up before Python has loaded TensorFlow.
    runtimes=("libasan.so", "libstdc++.so"),
)
MEMCHECK = Sanitizer("memcheck", "g++", (), "", {})  # valgrind's: of what users get, with TensorFlow
THREAD = Sanitizer(
    "thread",
    "g++",
    ("-fsanitize=thread",),
    "-U__SANITIZE_THREAD__",
    {"TSAN_OPTIONS": "second_deadlock_stack=1"},
    mains=("tests/sanitize/threads.cc",),
)
CLANGS = [f"clang++{version}" for version in ("", *(f"-{number}" for number in range(22, 13, -1)))]
FUZZER = Sanitizer(
    "fuzzer",
    next((name for name in CLANGS if shutil.which(name)), ""),
    (
        "-fsanitize=fuzzer-no-link,address,undefined",
        "-fno-sanitize=vptr,function",  # TensorFlow's classes and functions have no type information to compare with
        "-fno-sanitize-recover=all",
    ),
    "-D__has_feature(x)=0",
    {"ASAN_OPTIONS": "detect_odr_violation=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    links=("-Wl,-z,undefs",),  # the runtime is the executable's
    target=("-fsanitize=fuzzer",),
    mains=(),
)
# Five times as many inputs a second: undefined behaviour traps, containers check their bounds, and which values are
# compared is not recorded, as the mutator does not ask. What it finds that is new, FUZZER then sees.
FAST_FUZZER = Sanitizer(
    "fast_fuzzer",
    FUZZER.cxx,
    (
        "-fsanitize-coverage=inline-8bit-counters,pc-table",
        "-fsanitize=undefined",
        "-fno-sanitize=vptr,function",
        "-fsanitize-trap=undefined",
    ),
    "-D_GLIBCXX_ASSERTIONS",
    {},
    links=("-Wl,-z,undefs",),
    target=("-fsanitize=fuzzer",),
    optimize="-O2",
    mains=(),
)


def keeps_memory() -> bool:
    """Whether this process runs with the sanitizer of addresses, whose allocator keeps what is freed."""
    return ADDRESS.runtimes[0] in os.environ.get("LD_PRELOAD", "")


def copy_sources(to: Path) -> None:
    """Copies with times, so that only what has changed is compiled again."""
    for folder in FOLDERS:
        shutil.rmtree(to / folder, ignore_errors=True)
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__", "include"))
    for file in FILES:
        shutil.copy2(ROOT / file, to / file)


def build(sanitizer: Sanitizer, only: str = "") -> None:
    """Builds all libraries, or only one."""
    copy_sources(sanitizer.tree)
    flags = [*sanitizer.flags, sanitizer.unknown, sanitizer.optimize, "-g1", "-fno-omit-frame-pointer", "-w"]
    environment = {
        **os.environ,
        "CXX": sanitizer.cxx,
        "CXXFLAGS": shlex.join([*flags, "-U_FORTIFY_SOURCE", "-Wno-error"]),
        "LDFLAGS": shlex.join([*sanitizer.flags, *sanitizer.links]),
    }
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", *([f"--only={only}"] if only else [])]
    subprocess.run(command, cwd=sanitizer.tree, env=environment, check=True)


def build_target(sanitizer: Sanitizer) -> Path:
    """Builds the fuzz target of the engine against a library that was built so, with the flags of the engine."""
    tree = sanitizer.tree
    commands = json.loads((tree / "build" / "compile_commands.json").read_text())
    compile_engine = next(c["arguments"] for c in commands if c["file"] == "csrc/engine/gradient.cc")
    changed = max(path.stat().st_mtime for path in (tree / "tests" / "fuzz").iterdir())
    words = [word for word in compile_engine if word not in ("-c", "csrc/engine/gradient.cc")]
    objects = []
    for source in (*TARGET, *sanitizer.mains):
        target = tree / "build" / f"{Path(source).stem}.o"
        objects.append(str(target))
        if not target.exists() or target.stat().st_mtime < changed:
            subprocess.run([*words, "-c", source, "-o", str(target)], cwd=tree, check=True)
    tensorflow = next(word for word in words if word.startswith("-isystem") and "tensorflow" in word)
    libraries = (str(tree / "tf_symgrad"), str(Path(tensorflow.removeprefix("-isystem")).parent))
    # Without libtensorflow_cc there are no ops.
    links = ["-l:libtf_symgrad.so", "-Wl,--no-as-needed", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    places = [flag for path in libraries for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    flags = [*sanitizer.flags, *sanitizer.target, *objects, *places, *links, "-o", str(sanitizer.executable)]
    subprocess.run([*shlex.split(sanitizer.cxx), *flags], check=True)
    return sanitizer.executable


def environment_of_python(sanitizer: Sanitizer) -> dict[str, str]:
    """For tests in Python, which is not instrumented."""
    paths = [
        subprocess.check_output([sanitizer.cxx, f"-print-file-name={name}"], text=True).strip()
        for name in sanitizer.runtimes
    ]
    options = dict(sanitizer.options)
    options["ASAN_OPTIONS"] += ":detect_leaks=0"  # Python and TensorFlow keep what they have until the end
    return {**os.environ, **options, "LD_PRELOAD": ":".join(paths), "PYTHONPATH": str(sanitizer.tree)}
