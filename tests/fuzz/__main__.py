"""Fuzzing: python -m tests.fuzz [--seconds N] [--first SEED].

By coverage, with libFuzzer, the engine's front doors (engine.cc), where there is a clang; then random programs against
the tape, damaged SavedModels for the command line, and odd arguments for the package. Each takes a quarter of the time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.sanitize.build import FUZZER, ROOT, build, build_target

CORPUS = ROOT / "build" / "corpus"
FOUND = ROOT / "build" / "fuzz"
MODELS_A_SECOND = 1.0  # about


def by_coverage(seconds: int) -> bool:
    """What it finds is in build/fuzz: inputs that are wrong, and in `grown` those that reach what no seed does."""
    if not FUZZER.cxx:
        print("There is no clang++ (Debian: apt-get install clang libclang-rt-14-dev): no fuzzing by coverage.")
        return True
    build(FUZZER, "libtf_symgrad.so")
    target = build_target(FUZZER)
    if not CORPUS.exists():
        subprocess.run([sys.executable, "-m", "tests.fuzz.corpus", str(CORPUS)], cwd=ROOT, check=True)
    grown = FOUND / "grown"
    grown.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in FOUND.iterdir()}
    options = [
        *("-ignore_crashes=1", "-ignore_timeouts=1", "-ignore_ooms=1", "-len_control=0", "-print_funcs=0"),
        *(f"-fork={os.cpu_count() or 1}", f"-max_total_time={seconds}", "-max_len=65536", "-timeout=60"),
        *("-rss_limit_mb=4096", f"-artifact_prefix={FOUND}/"),
    ]
    # Where memory came from is told by few frames: that is a quarter of the time.
    sanitizer = {name: f"{value}:malloc_context_size=4" for name, value in FUZZER.options.items()}
    environment = os.environ | sanitizer | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_SYMGRAD_MAX_NODES": "100000"}
    log = FOUND / "log"
    with log.open("w") as file:
        subprocess.run([str(target), str(grown), str(CORPUS), *options], env=environment, stderr=file, check=False)
    progress = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("#")]
    print(f"libFuzzer: {progress[-1] if progress else 'nothing was run'}")
    found = sorted(path.name for path in FOUND.iterdir() if path.name not in before and "-" in path.name)
    print(*(f"  {Path('build/fuzz') / name}" for name in found), sep="\n", end="\n" if found else "")
    return not found


def by_program(module: str, *arguments: str) -> bool:
    command = [sys.executable, "-m", f"tests.fuzz.{module}", *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--first", type=int, default=0, help="the first seed of programs and models")
    arguments = parser.parse_args()
    quarter, first = max(arguments.seconds // 4, 1), f"--first={arguments.first}"
    good = [
        by_coverage(quarter),
        by_program("differential", first, f"--seconds={quarter}"),
        by_program("saved_models", first, f"--count={int(quarter * MODELS_A_SECOND)}"),
        by_program("arguments", first, f"--seconds={quarter}"),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
