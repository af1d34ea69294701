"""`python -m benchmarks.first`: what a user waits for, from a Python function to its first gradients.

Traces the loss, builds the gradient, optimises and runs it once, in CPU seconds: all methods by turns in one process,
each time anew. The first round does not count. `loss` is the loss alone, which nobody's gradient can do without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.__main__ import methods_here, missing, selected
from benchmarks.cell import seed
from benchmarks.methods import METHODS, Built, forward
from benchmarks.workloads import Problem, Workload, workloads

CHOSEN = "tf_symgrad,native,function_gradient,value_and_grad,GradientTape,tf.gradients"
PEER = "GradientTape"
LOSS = "loss"


def seconds(workload: Workload, methods: Sequence[str], rounds: int) -> dict[str, float]:
    """By method, and of the loss alone, the median."""
    builders: dict[str, Callable[[Problem], Built]] = {LOSS: forward}
    builders |= {name: METHODS[name].build for name in methods if not _reason(workload, name)}
    found: dict[str, list[float]] = {name: [] for name in builders}
    for _ in range(rounds + 1):
        for name, build in builders.items():
            seed()
            problem = workload.make(METHODS[PEER if name == LOSS else name].operations())
            start = time.process_time()
            build(problem).call()
            found[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def _reason(workload: Workload, method: str) -> str:
    return workload.excluded.get(method) or missing(workload, METHODS[method])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first", description=__doc__.partition(": ")[2])
    names = "names, separated by commas; * stands for anything"
    parser.add_argument("--only", metavar="WORKLOADS", default="*", help=names)
    parser.add_argument("--methods", default=CHOSEN, help=f"{names}: {', '.join(METHODS)}")
    parser.add_argument("--rounds", type=int, default=3, help="whose median counts")
    parser.add_argument("--quick", action="store_true", help="small workloads: to see that it works")
    options = parser.parse_args(arguments)
    methods = methods_here(options.methods)
    known = {workload.name: workload for workload in workloads(options.quick)}
    columns = [LOSS, *methods]
    print(f"| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name in selected(known, options.only, "workload"):
        found = seconds(known[name], methods, options.rounds)
        peer = found.get(PEER)
        entries = [
            "" if m not in found else f"{found[m]:.3g} s" if m == PEER or not peer else f"{found[m] / peer:.2f}"
            for m in columns
        ]
        print(f"| {name} | {' | '.join(entries)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
