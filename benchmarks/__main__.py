"""`python -m benchmarks`: measures, each cell in a process of its own, and prints a table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import native, report
from benchmarks.methods import METHODS
from benchmarks.report import Cell
from benchmarks.workloads import workloads

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    cells = []
    for cell in _cells(options):
        if not cell.reason:
            start = time.perf_counter()
            _run(cell, options)
            took = f"{time.perf_counter() - start:.0f} s"
            print(f"{cell.workload}, {cell.method}: {took}{cell.reason and ', ' + cell.reason}", file=sys.stderr)
        cells.append(cell)
    print(report.table(cells))
    if options.json:
        Path(options.json).write_text(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1) + "\n")
    wrong = report.disagreements(cells)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(": ")[2])
    names = "names, or their beginnings, separated by commas"
    parser.add_argument("--only", metavar="WORKLOADS", default="", help=names)
    parser.add_argument("--methods", default="", help=f"{names}: {', '.join(METHODS)}")
    parser.add_argument("--quick", action="store_true", help="small workloads, once: to see that it works")
    parser.add_argument("--repeat", type=int, default=3, help="processes for each cell, whose median counts")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a process")
    parser.add_argument(
        "--native", type=int, metavar="LENGTH", help="also the engine alone on a chain of so many ops, say 1000000"
    )
    parser.add_argument("--json", metavar="FILE", help="writes all that was measured, in seconds and bytes")
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> list[Cell]:
    """What to measure; with a reason where a method can't."""
    cells = []
    methods = [method for name, method in METHODS.items() if _selected(name, options.methods)]
    for workload in workloads(options.quick):
        if not _selected(workload.name, options.only):
            continue
        for method in methods:
            missing = "" if method.available() else f"{method.module} is not installed"
            cells.append(Cell(workload.name, method.name, reason=workload.excluded.get(method.name) or missing))
    if options.native:
        cells.append(Cell(f"{native.PREFIX}{options.native}", report.OURS))
    return cells


def _selected(name: str, prefixes: str) -> bool:
    return not prefixes or any(name.startswith(prefix) for prefix in prefixes.split(","))


def _run(cell: Cell, options: argparse.Namespace) -> None:
    """Measures a cell, in place. What fails once fails again."""
    runs: list[dict[str, Any]] = []
    while not cell.reason and len(runs) < (1 if options.quick else options.repeat):
        values, cell.reason = _process(cell, options)
        runs.append(values)
    cell.values = report.median(runs)


def _process(cell: Cell, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "benchmarks.cell", cell.workload, cell.method]
    command += ["--quick"] if options.quick else []
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    reason = ""
    try:
        out, err = process.communicate(timeout=options.timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        reason = f"not done after {options.timeout:.0f} s"
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
