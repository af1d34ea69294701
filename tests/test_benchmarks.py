"""That the benchmarks run, with every method, and that the methods agree. How fast anything is, no test says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cell, native, report
from benchmarks.methods import METHODS
from benchmarks.workloads import Workload, workloads

ROOT = Path(__file__).resolve().parent.parent
CELLS = [
    pytest.param(workload, method, id=f"{workload.name}-{method}")
    for workload in workloads(quick=True)
    for method in METHODS
    if method not in workload.excluded and workload.name != "chain-100"
]


def measured(workload, method):
    values = {}
    for part in cell.measure(workload, METHODS[method]):
        values |= part
    return values


@pytest.mark.parametrize(("workload", "method"), CELLS)
def test_cell(workload: Workload, method: str):
    if not METHODS[method].available():
        pytest.skip(f"{METHODS[method].module} is not installed")
    values = measured(workload, method)
    assert {"build", "first_call", "step", "memory", "norm"} <= values.keys()
    reference = measured(workload, "GradientTape")
    assert values["norm"] == pytest.approx(reference["norm"], rel=1e-3)
    if method != "stock":
        assert values["nodes"] >= values["optimized_nodes"] > 0


def test_nodes_of_ours_are_those_of_the_gradient_function():
    [chain] = [workload for workload in workloads(quick=True) if workload.name == "chain-100"]
    values = measured(chain, "tf_symgrad")
    # 100 ops and a sum, what computes their gradients, and a few nodes around the op.
    assert values["nodes"] - values["native_nodes"] < 10
    assert 200 < values["native_nodes"] < 400


def test_native():
    [values] = native.measure(1000)
    assert values["native_nodes"] >= 2000


def test_disagreement_is_found():
    cells = [report.Cell("w", name, {"norm": norm}) for name, norm in [("a", 1.0), ("b", 1.00001), ("c", 1.1)]]
    [message] = report.disagreements(cells)
    assert "1.1 by c" in message


def test_table_shows_ratios_and_reasons():
    ours = report.Cell("w", report.OURS, {"build": 0.002, "nodes": 100, "step": 0.5})
    peer = report.Cell("w", "peer", {"build": 0.003, "nodes": 150}, reason="it stopped")
    lines = report.table([ours, peer]).splitlines()
    assert lines[2].split()[2:] == ["2", "ms", "20.0", "µs", "-", "100", "-", "-", "500", "ms", "-"]
    assert lines[3].split()[2:] == ["1.50x", "1.00x", "-", "1.50x", "-", "-", "-", "-"]
    assert lines[-1] == "w, peer: it stopped"


def test_command(tmp_path):
    """Each cell in a process of its own, one of which fails."""
    file = tmp_path / "cells.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "mlp", "--methods", "tf_symgrad,jax"]
    result = subprocess.run(
        [*command, "--json", str(file)], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("workload")
    ours, jax = json.loads(file.read_text())
    assert ours["reason"] == ""
    assert ours["values"]["step"] > 0
    assert jax["values"] or jax["reason"] == "jax is not installed"
