"""The table: what tf_symgrad measures, and its peers as multiples of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

OURS = "tf_symgrad"


@dataclasses.dataclass
class Cell:
    """What one method did on one workload.

    Attributes:
      values: medians over its processes, of what could be measured.
      spread: of each value, how far its least and its greatest are apart, in medians.
      reason: why not all of it could.
    """

    workload: str
    method: str
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    spread: dict[str, float] = dataclasses.field(default_factory=dict)
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table: a number made of measured ones; None where one of these is missing."""

    title: str
    value: Callable[[dict[str, float]], float]
    show: Callable[[float], str]

    def of(self, cell: Cell) -> float | None:
        try:
            return self.value(cell.values)
        except KeyError:
            return None


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError


def _count(count: float) -> str:
    return f"{count:,.0f}"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


COLUMNS = (
    Column("build", lambda v: v["build"], _time),
    Column("per node", lambda v: v["build"] / v["nodes"], _microseconds),
    Column("engine per node", lambda v: v["native_build"] / v["native_nodes"], _microseconds),
    Column("nodes", lambda v: v["nodes"], _count),
    Column("optimized", lambda v: v["optimized_nodes"], _count),
    Column("first call", lambda v: v["first_call"], _time),
    Column("step", lambda v: v["step"], _time),
    Column("step, CPU", lambda v: v["step_cpu"], _time),
    Column("memory", lambda v: v["memory"], _megabytes),
    Column("GPU memory", lambda v: v["accelerator_memory"], _megabytes),
)

LEGEND = """\
The lines of tf_symgrad are absolute, those of its peers are multiples of them: above 1x, tf_symgrad is better.
  build            from the traced forward function to a gradient function that is ready to be called, in CPU time
  per node         build time over nodes
  engine per node  the part of it that is native
  nodes            of the gradient function and all that it calls, before TensorFlow optimises it
  optimized        nodes that TensorFlow's optimiser leaves
  first call       optimises, places and runs the function
  step             a later call; and the CPU time of it, of all threads
  memory           by which the process grew at its peak
  GPU memory       at its peak, where there is a GPU
Of JAX, nodes are equations, then XLA instructions, and its build time includes the forward function's.
"""


def median(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The median of each value over several runs."""
    keys = {key for run in runs for key, value in run.items() if value is not None}
    return {key: statistics.median(run[key] for run in runs if run.get(key) is not None) for key in sorted(keys)}


def spread(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How far several runs are apart, as a part of their median."""
    found = {}
    for key, middle in median(runs).items():
        values = [run[key] for run in runs if run.get(key) is not None]
        found[key] = (max(values) - min(values)) / middle if middle else 0.0
    return found


class Lines:
    """A file of JSON lines: how and where it was measured, then a line for each cell."""

    def __init__(self, path: str | None, command: Sequence[str]) -> None:
        self._path = Path(path) if path else None
        if self._path:
            hidden = [x for i, x in enumerate(command) if "--json" not in (x, command[i - 1] if i else "")]
            self._path.write_text(json.dumps({"command": ["python", "-m", "benchmarks", *hidden], **machine()}) + "\n")

    def add(self, cell: Cell) -> None:
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(cell)) + "\n")


def read(path: str | Path) -> tuple[dict[str, Any], list[Cell]]:
    """What a file of Lines says."""
    first, *rest = Path(path).read_text().splitlines()
    return json.loads(first), [Cell(**json.loads(line)) for line in rest]


def machine() -> dict[str, Any]:
    """What a number depends on, and nothing that tells whose machine it is."""
    from importlib import metadata

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    versions = {}
    for package in ("tensorflow", "jax", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def disagreements(cells: Iterable[Cell]) -> list[str]:
    """Methods whose gradients are not those of the first method that ran the workload."""
    found, first = [], dict[str, Cell]()
    for cell in cells:
        if "norm" not in cell.values:
            continue
        reference = first.setdefault(cell.workload, cell)
        norm, expected = cell.values["norm"], reference.values["norm"]
        if not math.isclose(norm, expected, rel_tol=1e-3, abs_tol=1e-6):
            found.append(
                f"{cell.workload}: the norm of the gradients is {norm:.6g} by {cell.method}, "
                f"but {expected:.6g} by {reference.method}"
            )
    return found


def table(cells: Sequence[Cell]) -> str:
    """The table, a line for each cell, and under it why there are gaps in it."""
    ours = {cell.workload: cell for cell in cells if cell.method == OURS}
    lines = [["workload", "method", *(column.title for column in COLUMNS)]]
    for cell in cells:
        reference = None if cell.method == OURS else ours.get(cell.workload)
        lines.append([cell.workload, cell.method, *(_entry(column, cell, reference) for column in COLUMNS)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(_justified, line, widths, range(len(line)))) for line in lines]
    text.insert(1, "-" * len(text[0]))
    gaps = [f"{cell.workload}, {cell.method}: {cell.reason}" for cell in cells if cell.reason]
    return "\n".join([*text, "", LEGEND, *gaps])


def _entry(column: Column, cell: Cell, ours: Cell | None) -> str:
    value = column.of(cell)
    if value is None:
        return "-"
    if ours is None:
        return column.show(value)
    reference = column.of(ours)
    return f"{value / reference:.2f}x" if reference else column.show(value)


def _justified(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 2 else text.rjust(width)
