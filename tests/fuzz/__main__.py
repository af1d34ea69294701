"""Fuzzing: python -m tests.fuzz [--seconds N] [--first SEED].

By coverage, with libFuzzer, the engine's front doors (engine.cc), where there is a clang: fast first, then what that
has kept, and more, under the sanitizer of addresses. Then random programs against the tape, such with effects, and each
op by itself; damaged SavedModels for the command line; and odd arguments for the package. Each takes about a quarter of
the time.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.sanitize.build import FAST_FUZZER, FUZZER, ROOT, Sanitizer, build, build_target

CORPUS = ROOT / "build" / "corpus"
FOUND = ROOT / "build" / "fuzz"
GROWN = FOUND / "grown"
# Functions of some ten nodes reach nearly all that larger ones do, in a fifth of the time.
FEW_BYTES, MOST_BYTES = 1 << 12, 1 << 16
SECONDS_A_RUN, MOST_RUNS = 300, 1000
MODELS_A_SECOND = 1.0  # about


def options_of(sanitizer: Sanitizer, seconds: int, most_bytes: int) -> list[str]:
    # libFuzzer's weights for what is rare ("entropic") took half the time.
    return [
        *(f"-max_total_time={seconds}", f"-max_len={most_bytes}", "-len_control=0", "-entropic=0", "-use_cmp=0"),
        *("-timeout=60", "-report_slow_units=60", "-rss_limit_mb=4096", "-print_funcs=0", "-print_final_stats=1"),
        *(f"-artifact_prefix={FOUND}/{sanitizer.name}-", str(GROWN), str(CORPUS)),
    ]


def work(sanitizer: Sanitizer, number: int, end: float) -> int:
    """Runs the target again and again, as each finding ends it. Returns how many inputs it was given."""
    # Where memory came from is told by few frames: that is a quarter of the time.
    options = {name: f"{value}:malloc_context_size=4" for name, value in sanitizer.options.items()}
    environment = os.environ | options | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_SYMGRAD_MAX_NODES": "100000"}
    inputs = 0
    for run in range(MOST_RUNS):
        seconds = min(int(end - time.monotonic()), SECONDS_A_RUN)
        if seconds < 1:
            break
        command = [str(sanitizer.executable)]
        command += options_of(sanitizer, seconds, MOST_BYTES if run % 4 == 3 else FEW_BYTES)
        log = FOUND / f"log-{sanitizer.name}-{number}-{run}"
        with log.open("w") as file:
            subprocess.run(command, env=environment, stderr=file, check=False)
        counts = re.findall(r"stat::number_of_executed_units: *(\d+)", log.read_text(errors="replace"))
        inputs += int(counts[-1]) if counts else 0
    return inputs


def by_coverage(seconds: int) -> bool:
    """What it finds is in build/fuzz: inputs that are wrong, and in `grown` those that reach what no seed does."""
    if not FUZZER.cxx:
        print("There is no clang++ (Debian: apt-get install clang libclang-rt-14-dev): no fuzzing by coverage.")
        return True
    for sanitizer in (FAST_FUZZER, FUZZER):
        build(sanitizer, "libtf_symgrad.so")
        build_target(sanitizer)
    if not CORPUS.exists():
        subprocess.run([sys.executable, "-m", "tests.fuzz.corpus", str(CORPUS)], cwd=ROOT, check=True)
    GROWN.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in FOUND.iterdir()}
    cores = os.cpu_count() or 1
    for sanitizer, share in ((FAST_FUZZER, 0.7), (FUZZER, 0.3)):
        end = time.monotonic() + share * seconds
        with ThreadPoolExecutor(cores) as pool:
            inputs = sum(pool.map(functools.partial(work, sanitizer, end=end), range(cores)))
        kept = len(list(GROWN.iterdir()))
        print(f"libFuzzer, {sanitizer.name}: {inputs} inputs in {share * seconds:.0f} s, {kept} kept", flush=True)
    found = sorted(path.name for path in FOUND.iterdir() if path.name not in before and "-" in path.name)
    found = [name for name in found if not name.startswith("log")]
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
        by_program("differential", first, f"--seconds={quarter * 3 // 4}"),
        by_program("effects", first, f"--seconds={quarter // 4}"),
        by_program("every_op", first, f"--seconds={quarter // 4}"),
        by_program("saved_models", first, f"--count={int(quarter * MODELS_A_SECOND)}"),
        by_program("arguments", first, f"--seconds={quarter}"),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
