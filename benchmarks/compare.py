"""`python -m benchmarks.compare BEFORE AFTER`: what two files of `python -m benchmarks --json` have in common.

A ratio above 1 is for the worse. It counts where it exceeds the threshold and what several runs of either were apart;
then the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import report

_MEASURES = ("build", "native_build", "nodes", "optimized_nodes", "first_call", "step", "step_cpu", "memory")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.partition(": ")[2])
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--threshold", type=float, default=1.1, help="from which ratio on it is worse")
    parser.add_argument("--methods", default=report.OURS, help="whose cells may be worse, separated by commas")
    options = parser.parse_args(arguments)
    before = {(cell.workload, cell.method): cell for cell in report.read(options.before)[1]}
    worse = 0
    for cell in report.read(options.after)[1]:
        earlier = before.get((cell.workload, cell.method))
        if earlier is None:
            continue
        for measure in _MEASURES:
            if not earlier.values.get(measure) or measure not in cell.values:
                continue
            ratio = cell.values[measure] / earlier.values[measure]
            noise = 1 + max(cell.spread.get(measure, 0.0), earlier.spread.get(measure, 0.0))
            is_worse = cell.method in options.methods.split(",") and ratio > max(options.threshold, noise)
            worse += is_worse
            print(f"{cell.workload:20} {cell.method:14} {measure:16} {ratio:6.2f}{'  worse' if is_worse else ''}")
    print(f"{worse} worse")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
