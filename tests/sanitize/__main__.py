"""The native code under sanitizers of addresses and of undefined behaviour: python -m tests.sanitize [TEST...].

Builds engine, rules, runtime, C API and Python module with g++'s, and runs the fuzz target on its seeds and mutants of
them, where leaks are looked for as well, then the tests that reach most. TensorFlow itself is not instrumented. What a
sanitizer finds ends the process that it is found in, so that its test fails with the report. Engine and rules are built
once more for the sanitizer of threads, and all seeds built in eight threads at once. Where there is a valgrind, some of
them are built by the library as users get it, under memcheck, which sees into TensorFlow as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time

from tests.sanitize.build import ADDRESS, MEMCHECK, ROOT, THREAD, Sanitizer, build, build_target, environment_of_python

# What reads functions of strangers, what is deep or large, each kind of structure, the programs of the C API, threads.
TESTS = [
    *("test_errors", "test_limits", "test_engine", "test_registration", "test_c_api", "test_add_gradients"),
    *("test_control_flow", "test_frames", "test_functions", "test_checkpoint", "test_custom_gradients"),
    *("test_order", "test_sparse_rows", "test_unused_values", "test_variables", "test_wrt", "test_given_gradients"),
    *("test_rules_list", "test_rules_data_flow", "test_rules_nn", "test_rules_sparse"),
    *("test_runtime", "test_sessions", "test_stock_op", "test_life", "test_xla_arguments", "test_rule"),
]
MUTANTS = 20_000
THREADS = 8
MEMCHECKED = 100  # seeds
CORPUS = ROOT / "build" / "corpus"


def run_target(sanitizer: Sanitizer, *arguments: str, under: tuple[str, ...] = ()) -> bool:
    environment = {**os.environ, **sanitizer.options, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [*under, str(build_target(sanitizer)), *arguments]
    return subprocess.run(command, cwd=sanitizer.tree / "build", env=environment, check=False).returncode == 0


def run_memcheck() -> bool:
    if not shutil.which("valgrind"):
        print("There is no valgrind (Debian: apt-get install valgrind): no memcheck.")
        return True
    seeds = sorted(CORPUS.iterdir(), key=lambda seed: (seed.stat().st_size, seed.name))
    suppressions = f"--suppressions={ROOT / 'tests' / 'sanitize' / 'memcheck.supp'}"
    valgrind = ("valgrind", "--quiet", "--error-exitcode=1", "--num-callers=30", suppressions)
    return run_target(MEMCHECK, *(str(seed) for seed in seeds[:: len(seeds) // MEMCHECKED]), under=valgrind)


def run_test(test: str) -> bool:
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{test}.py"]
    environment = environment_of_python(ADDRESS)
    done = subprocess.run(command, cwd=ADDRESS.tree, env=environment, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    print(f"{test}: {last} [{time.monotonic() - start:.0f} s]", flush=True)
    if done.returncode:
        print(done.stdout[-20000:], done.stderr[-20000:], sep="\n", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", help="names of tests; by default the fuzz target, and what reaches most")
    tests = parser.parse_args().tests
    failed = []
    if not tests:
        if not CORPUS.exists():
            subprocess.run([sys.executable, "-m", "tests.fuzz.corpus", str(CORPUS)], cwd=ROOT, check=True)
        failed += [] if run_memcheck() else ["memcheck"]
        build(THREAD, "libtf_symgrad.so")
        failed += [] if run_target(THREAD, str(CORPUS), "--threads", str(THREADS)) else ["threads"]
    build(ADDRESS)
    if not tests:
        failed += [] if run_target(ADDRESS, str(CORPUS), "--mutants", str(MUTANTS)) else ["the fuzz target"]
    failed += [test for test in tests or TESTS if not run_test(test)]
    print(f"sanitizers: {'failed: ' + ', '.join(failed) if failed else 'clean'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
