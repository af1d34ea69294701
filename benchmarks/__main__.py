"""`python -m benchmarks`: measures, each cell in a process of its own, and prints a table."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import native, report
from benchmarks.methods import METHODS, Method
from benchmarks.report import Cell
from benchmarks.workloads import Workload, workloads

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    cells = _cells(options)
    lines = report.Lines(options.json, sys.argv[1:] if arguments is None else arguments)
    deadline = time.monotonic() + 60 * (options.minutes or (5 if options.quick else 60))
    progress = Progress(len(cells) * _rounds(options))
    # The methods of a workload take turns, so that what else the machine does falls on all of them.
    for workload, group in itertools.groupby(cells, key=lambda cell: cell.workload):
        members = list(group)
        runs: dict[str, list[dict[str, Any]]] = {cell.method: [] for cell in members}
        for _ in range(_rounds(options)):
            for cell in members:
                progress.begin(f"{workload}, {cell.method}")
                if not cell.reason:  # what fails once fails again
                    values, cell.reason = _process(cell, options, deadline)
                    runs[cell.method].append(values)
        for cell in members:
            cell.values, cell.spread = report.median(runs[cell.method]), report.spread(runs[cell.method])
            lines.add(cell)
    progress.end()
    print(report.table(cells))
    wrong = report.disagreements(cells)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


class Progress:
    """A line on a terminal that says where it is; elsewhere a line each."""

    def __init__(self, count: int) -> None:
        self._count, self._done, self._start = count, 0, time.monotonic()

    def begin(self, what: str) -> None:
        passed = time.monotonic() - self._start
        left = f", {passed / self._done * (self._count - self._done):.0f} s left" if self._done else ""
        self._done += 1
        line = f"[{self._done}/{self._count}] {what}: {passed:.0f} s{left}"
        print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, file=sys.stderr, end="", flush=True)
        if not sys.stderr.isatty():
            print(file=sys.stderr)

    def end(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(": ")[2])
    names = "names, separated by commas; * stands for anything"
    parser.add_argument("--only", metavar="WORKLOADS", default="*", help=names)
    parser.add_argument("--methods", default="*", help=f"{names}: {', '.join(METHODS)}")
    parser.add_argument("--quick", action="store_true", help="small workloads, once: to see that it works")
    parser.add_argument("--repeat", type=int, default=3, help="processes for each cell, whose median counts")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a process")
    parser.add_argument("--minutes", type=float, help="for all; 5 if --quick, else 60: what is left then is left out")
    parser.add_argument(
        "--native", type=int, metavar="LENGTH", help="also the engine alone on a chain of so many ops, say 1000000"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="writes all that was measured, a line for each cell when it is done"
    )
    return parser.parse_args(arguments)


def _rounds(options: argparse.Namespace) -> int:
    return 1 if options.quick else int(options.repeat)


def _cells(options: argparse.Namespace) -> list[Cell]:
    """What to measure; with a reason where a method can't."""
    all_workloads = {workload.name: workload for workload in workloads(options.quick)}
    methods = {name: method for name, method in METHODS.items() if method.quick or not options.quick}
    chosen = selected(methods, options.methods, "method")
    cells = []
    for name in selected(all_workloads, options.only, "workload"):
        for method in chosen:
            reason = all_workloads[name].excluded.get(method)
            cells.append(Cell(name, method, reason=reason or missing(all_workloads[name], METHODS[method])))
    if options.native:
        cells.append(Cell(f"{native.PREFIX}{options.native}", report.OURS))
    return cells


def missing(*needing: Workload | Method) -> str:
    absent = [each.module for each in needing if not importlib.util.find_spec(each.module)]
    return f"{absent[0]} is not installed" if absent else ""


def selected(names: Iterable[str], patterns: str, what: str) -> list[str]:
    known, wanted = list(names), patterns.split(",")
    for pattern in wanted:
        if not fnmatch.filter(known, pattern):
            sys.exit(f"there is no {what} '{pattern}': {', '.join(known)}")
    return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)]


def methods_here(patterns: str) -> list[str]:
    """Those that are to run in this process, TensorFlow's among them.

    PyTorch's compiler is loaded before TensorFlow is: both hold an LLVM, and the process ends the other way round.
    """
    names = selected(METHODS, patterns, "method")
    if any(METHODS[name].module == "torch" for name in names) and importlib.util.find_spec("triton"):
        importlib.import_module("triton")
    return names


def _process(cell: Cell, options: argparse.Namespace, deadline: float) -> tuple[dict[str, Any], str]:
    timeout = min(options.timeout, deadline - time.monotonic())
    if timeout <= 0:
        return {}, "no time was left"
    command = [sys.executable, "-m", "benchmarks.cell", cell.workload, cell.method]
    command += ["--quick"] if options.quick else []
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    reason = ""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        reason = f"not done after {timeout:.0f} s"
    if process.returncode != 0 and not reason:
        last = err.strip().splitlines()[-1:] or [""]
        reason = f"failed ({process.returncode}): {last[0][:300]}"
    values: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith("{"):
            values |= json.loads(line)
    return values, reason


if __name__ == "__main__":
    sys.exit(main())
