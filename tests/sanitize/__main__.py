"""The native code under sanitizers of addresses and of undefined behaviour: python -m tests.sanitize [TEST...].

Builds engine, rules, runtime, C API and Python module with g++'s, and runs the fuzz target on its seeds and mutants of
them, where leaks are looked for as well, then the tests that reach most. TensorFlow itself is not instrumented. What a
sanitizer finds ends the process that it is found in, so that its test fails with the report. Engine and rules are built
once more for the sanitizer of threads, and all seeds built in eight threads at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.sanitize.build import ADDRESS, ROOT, THREAD, Sanitizer, build, build_target, environment_of_python

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


def run_target(sanitizer: Sanitizer, *options: str) -> bool:
    corpus = ROOT / "build" / "corpus"
    if not corpus.exists():
        subprocess.run([sys.executable, "-m", "tests.fuzz.corpus", str(corpus)], cwd=ROOT, check=True)
    environment = {**os.environ, **sanitizer.options, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [str(build_target(sanitizer)), str(corpus), *options]
    return subprocess.run(command, cwd=sanitizer.tree / "build", env=environment, check=False).returncode == 0


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
        build(THREAD, "libtf_symgrad.so")
        failed += [] if run_target(THREAD, "--threads", str(THREADS)) else ["threads"]
    build(ADDRESS)
    if not tests:
        failed += [] if run_target(ADDRESS, "--mutants", str(MUTANTS)) else ["the fuzz target"]
    failed += [test for test in tests or TESTS if not run_test(test)]
    print(f"sanitizers: {'failed: ' + ', '.join(failed) if failed else 'clean'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
