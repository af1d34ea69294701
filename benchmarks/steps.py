"""`python -m benchmarks.steps`: the steps of all methods of a workload by turns, in one process.

What else the machine does falls on all of them, so that ratios mean more than those of processes one after another.
Time and memory of building and of first calls are what `python -m benchmarks` measures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from benchmarks.__main__ import methods_here, missing, selected
from benchmarks.cell import seed
from benchmarks.methods import METHODS
from benchmarks.report import OURS
from benchmarks.workloads import Workload, workloads

WARM_UP = 3  # rounds that don't count
SLICE = 0.05  # seconds that a method has in a round, or one step


def rounds(workload: Workload, methods: Sequence[str], count: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """By method, seconds of a step in each round; and why others have none."""
    calls: dict[str, Callable[[], Any]] = {}
    failed: dict[str, str] = {}
    for name in methods:
        reason = workload.excluded.get(name) or missing(workload, METHODS[name])
        if reason:
            failed[name] = reason
            continue
        seed()
        try:
            call = METHODS[name].build(workload.make(METHODS[name].operations())).call
            call()
            calls[name] = call
        except Exception as error:  # of whatever library
            failed[name] = str(error).partition("\n")[0][:300]
    steps: dict[str, list[float]] = {name: [] for name in calls}
    turns = list(calls.items())
    random = Random(0)
    for _ in range(WARM_UP + count):
        random.shuffle(turns)  # threads of one method spin on for a while in the next one's turn
        for name, call in turns:
            repeat = max(1, int(SLICE / steps[name][-1])) if steps[name] else 1
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            steps[name].append((time.perf_counter() - start) / repeat)
    return {name: times[WARM_UP:] for name, times in steps.items()}, failed


def row(workload: str, methods: Sequence[str], steps: dict[str, list[float]]) -> str:
    """Milliseconds of ours, and what the others take as multiples of that."""
    medians = {name: statistics.median(times) for name, times in steps.items()}
    ours = medians.get(OURS)
    entries = []
    for name in methods:
        if name not in medians:
            entries.append("")
        elif name == OURS or ours is None:
            entries.append(f"{1e3 * medians[name]:.3g} ms")
        else:
            entries.append(f"{medians[name] / ours:.2f}")
    return f"| {workload} | {' | '.join(entries)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__.partition(": ")[2])
    names = "names, separated by commas; * stands for anything"
    parser.add_argument("--only", metavar="WORKLOADS", default="*", help=names)
    parser.add_argument("--methods", default="*", help=f"{names}: {', '.join(METHODS)}")
    parser.add_argument("--rounds", type=int, default=12, help="whose median counts")
    parser.add_argument("--quick", action="store_true", help="small workloads: to see that it works")
    options = parser.parse_args(arguments)
    methods = methods_here(options.methods)
    known = {workload.name: workload for workload in workloads(options.quick)}
    reasons = []
    print(f"| | {' | '.join(methods)} |\n|---|{'---:|' * len(methods)}")
    for name in selected(known, options.only, "workload"):
        steps, failed = rounds(known[name], methods, options.rounds)
        print(row(name, methods, steps), flush=True)
        reasons += [f"{name}, {method}: {reason}" for method, reason in failed.items()]
    print(*reasons, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
