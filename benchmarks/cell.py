"""One cell of the table: one method on one workload, in a process of its own.

`python -m benchmarks.cell WORKLOAD METHOD` prints a JSON object a line, each with what was measured since the last one,
so that what a time limit leaves is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks import native
from benchmarks.methods import METHODS, Method
from benchmarks.workloads import Workload, workloads

# Of a median: at least so many steps, then more until so many or so much time.
_MIN_STEPS, _MAX_STEPS, _STEP_SECONDS, _SHORT = 3, 100, 2.0, 0.001


def measure(workload: Workload, method: Method, step_seconds: float = _STEP_SECONDS) -> Iterator[dict[str, Any]]:
    """Measures, cheap things first. Seconds, bytes and counts; steps for about `step_seconds`."""
    seed()
    problem = workload.make(method.operations())
    before = peak_memory()
    built = method.build(problem)
    yield {
        "build": built.seconds,
        "nodes": built.nodes,
        "native_build": built.native_seconds,
        "native_nodes": built.native_nodes,
    }
    start, cpu = time.perf_counter(), time.process_time()
    gradients = built.call()
    first = {"first_call": time.perf_counter() - start, "first_call_cpu": time.process_time() - cpu}
    yield {**first, "norm": _norm(map(built.to_numpy, gradients))}
    wall, cpu = _median_step(built.call, step_seconds)
    yield {"step": wall, "step_cpu": cpu, "memory": peak_memory() - before}
    yield {"accelerator_memory": built.accelerator_memory()}
    if built.optimized_ops is not None:
        yield {"optimized_nodes": built.optimized_ops().total()}


def peak_memory() -> int:
    """The largest size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _median_step(call: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """In wall and in CPU time. A call too short for the clock is measured with others."""
    wall: list[float] = []
    cpu: list[float] = []
    calls = 1
    while len(wall) < _MIN_STEPS or (len(wall) < _MAX_STEPS and sum(wall) * calls < seconds):
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        wall.append((time.perf_counter() - start) / calls)
        cpu.append((time.process_time() - start_cpu) / calls)
        if len(wall) == _MIN_STEPS and calls == 1 and statistics.median(wall) < _SHORT:
            calls, wall, cpu = 100, [], []
    return statistics.median(wall), statistics.median(cpu)


def _norm(gradients: Iterable[Any]) -> float:
    """The same for all methods, or one of them is wrong."""
    import numpy as np

    return float(np.sqrt(sum(np.square(x.astype(np.float64)).sum() for x in gradients)))


def seed() -> None:
    """Weights are the same in every process."""
    import numpy as np

    random.seed(0)
    np.random.seed(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("method")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.workload.startswith(native.PREFIX):
        results = native.measure(int(options.workload.removeprefix(native.PREFIX)))
    else:
        [workload] = [w for w in workloads(options.quick) if w.name == options.workload]
        results = measure(workload, METHODS[options.method])
    for values in results:
        print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
