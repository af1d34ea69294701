"""`python -m benchmarks.nodes`: what TensorFlow's optimiser leaves of each graph, op by op where they differ."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from benchmarks.__main__ import methods_here, missing, selected
from benchmarks.cell import seed
from benchmarks.methods import METHODS
from benchmarks.report import OURS
from benchmarks.workloads import Workload, workloads

# What frames and copies are made of: their number says how a loop is written, not what is computed.
PLUMBING = frozenset(["Enter", "Exit", "Identity", "Merge", "NextIteration", "NoOp", "Switch"])


def ops(workload: Workload, method: str) -> Counter[str]:
    """The nodes of a method after TensorFlow's optimiser, by op."""
    seed()
    built = METHODS[method].build(workload.make(METHODS[method].operations()))
    if built.optimized_ops is None:
        raise ValueError(f"what {method} runs is not known")
    built.call()
    return built.optimized_ops()


def table(workload: str, found: dict[str, Counter[str]]) -> str:
    """As Markdown: all nodes, then the ops of which the methods have unequal numbers."""
    lines = [f"| {workload} | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    lines.append(f"| all nodes | {' | '.join(str(c.total()) for c in found.values())} |")
    plumbing = [sum(c[op] for op in PLUMBING) for c in found.values()]
    if any(plumbing):
        lines.append(f"| {', '.join(sorted(PLUMBING))} | {' | '.join(map(str, plumbing))} |")
    for op in sorted(set().union(*found.values()) - PLUMBING):
        counts = [c[op] for c in found.values()]
        if len(set(counts)) > 1:
            lines.append(f"| {op} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__.partition(": ")[2])
    names = "names, separated by commas; * stands for anything"
    parser.add_argument("--only", metavar="WORKLOADS", default="*", help=names)
    parser.add_argument("--methods", default=f"{OURS},GradientTape", help=f"{names}: {', '.join(METHODS)}")
    parser.add_argument("--quick", action="store_true", help="small workloads: to see that it works")
    options = parser.parse_args(arguments)
    known = {workload.name: workload for workload in workloads(options.quick)}
    methods = methods_here(options.methods)
    for name in selected(known, options.only, "workload"):
        chosen = [m for m in methods if not known[name].excluded.get(m) and not missing(known[name], METHODS[m])]
        if chosen:
            print(table(name, {method: ops(known[name], method) for method in chosen}), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
