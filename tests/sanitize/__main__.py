"""The native code under sanitizers: python -m tests.sanitize address|thread.

Builds engine, rules, runtime, C API and Python module with g++'s sanitizers, in a copy of the sources under
build/sanitize, and runs there the tests that reach most of them. TensorFlow itself is not instrumented. What a
sanitizer finds ends the process that it is found in, so that its test fails with the report.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("csrc", "examples", "tests", "tf_symgrad")
FILES = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.py")


@dataclass
class Sanitizer:
    """How to build for it and what to run under it."""

    flags: str
    macro: str  # by which the compiler tells headers of it
    runtime: str
    options: dict[str, str]
    tests: list[str]
    arguments: list[str] = field(default_factory=list)


# What reads functions of strangers, what is deep or large, each kind of structure, the programs of the C API, threads.
ADDRESS_TESTS = [
    *("test_errors", "test_limits", "test_engine", "test_registration", "test_c_api", "test_add_gradients"),
    *("test_control_flow", "test_frames", "test_functions", "test_checkpoint", "test_custom_gradients"),
    *("test_order", "test_sparse_rows", "test_unused_values", "test_variables", "test_wrt", "test_given_gradients"),
    *("test_rules_list", "test_rules_data_flow", "test_rules_nn", "test_rules_sparse"),
    *("test_runtime", "test_sessions", "test_stock_op", "test_life", "test_xla_arguments", "test_rule"),
]
THREAD_TESTS = ["test_life"]

SANITIZERS = {
    "address": Sanitizer(
        # vptr: TensorFlow's classes have no type information to compare with.
        flags="-fsanitize=address,undefined -fno-sanitize=vptr,null,nonnull-attribute,returns-nonnull-attribute -fno-sanitize-recover=all",
        macro="__SANITIZE_ADDRESS__",
        runtime="libasan.so",
        options={
            # Python and TensorFlow keep what they have until the end; leaks are looked for by tests.leaks.
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:disable_coredump=1:detect_odr_violation=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        tests=ADDRESS_TESTS,
    ),
    "thread": Sanitizer(
        flags="-fsanitize=thread",
        macro="__SANITIZE_THREAD__",
        runtime="libtsan.so",
        options={"TSAN_OPTIONS": f"halt_on_error=1:suppressions={ROOT}/tests/sanitize/thread.supp"},
        tests=THREAD_TESTS,
    ),
}


def copy_sources(to: Path) -> None:
    """Copies with times, so that only what has changed is compiled again."""
    for folder in FOLDERS:
        shutil.rmtree(to / folder, ignore_errors=True)
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__", "include"))
    for file in FILES:
        shutil.copy2(ROOT / file, to / file)


def build(sanitizer: Sanitizer, tree: Path) -> None:
    copy_sources(tree)
    # Abseil's hash tables have another layout where they know of a sanitizer, and must be as in TensorFlow's libraries.
    flags = f"{sanitizer.flags} -U{sanitizer.macro} -O1 -g1 -fno-omit-frame-pointer -U_FORTIFY_SOURCE -Wno-error"
    environment = {**os.environ, "CXX": "g++", "CXXFLAGS": flags, "LDFLAGS": sanitizer.flags}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, env=environment, check=True)


def environment_of(sanitizer: Sanitizer, tree: Path) -> dict[str, str]:
    name = f"-print-file-name={sanitizer.runtime}"
    runtime = subprocess.check_output(["g++", name], text=True).strip()
    # The C++ library with it, as the sanitizer looks its functions up before Python has loaded TensorFlow.
    standard = subprocess.check_output(["g++", "-print-file-name=libstdc++.so"], text=True).strip()
    return {**os.environ, "LD_PRELOAD": f"{runtime}:{standard}", "PYTHONPATH": str(tree), **sanitizer.options}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sanitizer", choices=SANITIZERS)
    parser.add_argument("tests", nargs="*", help="names of tests; those that reach most")
    parser.add_argument("--build-only", action="store_true")
    arguments = parser.parse_args()
    sanitizer = SANITIZERS[arguments.sanitizer]
    tree = ROOT / "build" / "sanitize" / arguments.sanitizer
    build(sanitizer, tree)
    if arguments.build_only:
        return 0

    environment, failed = environment_of(sanitizer, tree), []
    for test in arguments.tests or sanitizer.tests:
        start = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{test}.py"]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        print(f"{test}: {last} [{time.monotonic() - start:.0f} s]", flush=True)
        if done.returncode:
            failed.append(test)
            print(done.stdout[-20000:], done.stderr[-20000:], sep="\n", flush=True)
    print(f"{arguments.sanitizer}: {'clean' if not failed else 'failed: ' + ' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
