"""`python -m benchmarks.threads`: gradients that many threads build and call at once.

How often a second all threads together build the gradient of a function that has not been met before, and call one that
is there: as multiples of what one thread does.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.cell import seed
from benchmarks.methods import METHODS
from benchmarks.report import OURS
from benchmarks.workloads import workloads

_THREADS = (1, 2, 8, 64)


def rate(call: Callable[[], Any], threads: int, limit: float) -> float:
    """Calls a second."""
    done = [0] * threads
    ready = threading.Barrier(threads + 1)
    end = 0.0

    def work(k: int) -> None:
        ready.wait()
        while time.perf_counter() < end:
            call()
            done[k] += 1

    started = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(threads)]
    for thread in started:
        thread.start()
    start = time.perf_counter()
    end = start + limit
    ready.wait()
    for thread in started:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def builds(length: int) -> Callable[[], Any]:
    """Builds, by the engine, the gradient of a chain that is another each time."""
    from tensorflow.core.framework import attr_value_pb2, function_pb2

    from benchmarks.native import chain
    from tf_symgrad import _loader

    engine: Any = _loader.native()
    f = attr_value_pb2.NameAttrList(name="chain").SerializeToString()
    library = function_pb2.FunctionDefLibrary.FromString(chain(length))
    numbers = itertools.count()

    def build() -> Any:
        other = function_pb2.FunctionDefLibrary()
        other.CopyFrom(library)
        other.function[0].attr["_number"].i = next(numbers)
        return engine.build_gradient(other.SerializeToString(), f)

    return build


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.partition(": ")[2])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each number")
    parser.add_argument("--quick", action="store_true", help="small workloads: to see that it works")
    options = parser.parse_args(arguments)
    calls = {"builds of a chain of 1,000": builds(10 if options.quick else 1000)}
    for workload in workloads(options.quick):
        if workload.name in ("chain-10", "mlp"):
            for method in (OURS, "GradientTape"):
                seed()
                call = METHODS[method].build(workload.make(METHODS[method].operations())).call
                call()
                calls[f"{workload.name}, {method}"] = call
    print(f"| threads | {' | '.join(map(str, _THREADS))} |\n|---|{'---:|' * len(_THREADS)}")
    for what, call in calls.items():
        rates = [rate(call, n, options.seconds) for n in _THREADS]
        print(f"| {what} | {rates[0]:.3g}/s | {' | '.join(f'{r / rates[0]:.2f}' for r in rates[1:])} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
