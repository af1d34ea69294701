"""That the benchmarks run, with every method, and that the methods agree. How fast anything is, no test says."""

import functools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tensorflow as tf

import tf_symgrad
from benchmarks import __main__ as benchmarks_main
from benchmarks import cell, compare, first, limit, native, nodes, performance, report, single, steps, threads
from benchmarks.methods import METHODS
from benchmarks.workloads import Workload, workloads

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = {workload.name: workload for workload in workloads(quick=True)}
CELLS = [
    pytest.param(workload, method, id=f"{workload.name}-{method}")
    for workload in WORKLOADS.values()
    for method in METHODS
    if method not in workload.excluded and workload.name != "chain-100"
    if METHODS[method].quick or workload.name == "lstm"
]


def measured(workload, method):
    measure = by_process if METHODS[method].module == "torch" else cell.measure
    values = {}
    for part in measure(workload, METHODS[method], step_seconds=0.01):
        values |= part
    return values


def by_process(workload, method, **_):
    """PyTorch's compiler can't be loaded where TensorFlow is."""
    return map(json.loads, run("benchmarks.cell", "--quick", workload.name, method.name).splitlines())


def run(module: str, *args: str, **environment: str) -> str:
    """What `python -m` prints, in a process of its own."""
    command = [sys.executable, "-m", module, *args]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@functools.cache
def norm_by_tape(workload: str):
    return measured(WORKLOADS[workload], "GradientTape")["norm"]


@pytest.mark.parametrize(("workload", "method"), CELLS)
def test_cell(workload: Workload, method: str):
    if missing := benchmarks_main.missing(workload, METHODS[method]):
        pytest.skip(missing)
    values = measured(workload, method)
    assert {"build", "first_call", "step", "memory", "norm"} <= values.keys()
    assert values["norm"] == pytest.approx(norm_by_tape(workload.name), rel=1e-3)
    if METHODS[method].module != "torch" and method != "stock" and "XLA" not in method:
        assert values["optimized_nodes"] > 0
        # A function counts once, and is written out wherever it is called; a loop is written as its Switch and Merge.
        assert values["nodes"] >= values["optimized_nodes"] or workload.name in ("lstm", "calls")


def test_nodes_of_ours_are_those_of_the_gradient_function():
    values = measured(WORKLOADS["chain-100"], "tf_symgrad")
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
    assert lines[2].split()[2:] == ["2", "ms", "20.0", "µs", "-", "100", "-", "-", "500", "ms", "-", "-", "-"]
    assert lines[3].split()[2:] == ["1.50x", "1.00x", "-", "1.50x", "-", "-", "-", "-", "-", "-"]
    assert lines[-1] == "w, peer: it stopped"


def test_command(tmp_path):
    """Each cell in a process of its own, one of which fails."""
    file = tmp_path / "cells.json"
    options = ["--quick", "--only", "mlp", "--methods", "tf_symgrad,jax", "--json", str(file)]
    assert run("benchmarks", *options).startswith("workload")
    about, (ours, jax) = report.read(file)
    assert about["cores"] > 0
    assert str(tmp_path) not in file.read_text()
    assert ours.reason == ""
    assert ours.values["step"] > 0
    assert ours.spread["step"] == 0  # of one run
    assert jax.values or jax.reason == "jax is not installed"


def test_names_are_matched_whole():
    chosen = benchmarks_main.selected(["chain-10", "chain-100", "mlp"], "chain-10,m*", "workload")
    assert chosen == ["chain-10", "mlp"]
    with pytest.raises(SystemExit, match="no workload 'chain'"):
        benchmarks_main.selected(["chain-10"], "chain", "workload")


def test_spread():
    runs = [{"step": x} for x in (1.0, 2.0, 4.0)]
    assert report.median(runs) == {"step": 2.0}
    assert report.spread(runs) == {"step": 1.5}


def written(path, step, spread=0.0):
    lines = report.Lines(str(path), ["--quick"])
    lines.add(report.Cell("w", report.OURS, {"step": step, "norm": 1.0}, {"step": spread}))
    lines.add(report.Cell("w", "GradientTape", {"step": 2.0, "norm": 1.0}, {"step": 0.0}))
    return str(path)


def test_a_slower_commit_is_seen(tmp_path, capsys):
    before = written(tmp_path / "a.jsonl", 1.0)
    assert compare.main([before, written(tmp_path / "b.jsonl", 1.05)]) == 0
    assert compare.main([before, written(tmp_path / "c.jsonl", 1.5)]) == 1
    assert "1.50" in capsys.readouterr().out
    assert compare.main([before, written(tmp_path / "d.jsonl", 1.5, spread=0.8)]) == 0  # may be noise


def test_page(tmp_path):
    page = performance.page(written(tmp_path / "a.jsonl", 1.0))
    assert "python -m benchmarks --quick" in page
    assert "| w | 2.00 |" in page
    assert str(tmp_path) not in page
    assert performance.plot(written(tmp_path / "a.jsonl", 1.0), "step").startswith("<svg")


def test_steps(capsys):
    assert steps.main(["--quick", "--only", "mlp", "--methods", "tf_symgrad,GradientTape,jax", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert "| mlp |" in out
    assert " ms |" in out


@pytest.mark.parametrize("command", ["steps", "first", "nodes"])
def test_the_compiler_of_pytorch_is_loaded_before_tensorflow(command: str, tmp_path: Path):
    stub = "import sys; print('loaded'); sys.exit('tensorflow' in sys.modules)"  # and no further
    (tmp_path / "triton.py").write_text(stub)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert run(f"benchmarks.{command}", "--methods", "GradientTape,torch", PYTHONPATH=paths) == "loaded\n"


def test_nodes_are_compared_op_by_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert nodes.main(["--quick", "--only", "mlp"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| mlp | tf_symgrad | GradientTape |\n|---|---:|---:|\n| all nodes | ")
    assert nodes.table("w", {"a": Counter(MatMul=2, Sum=1), "b": Counter(MatMul=2)}).splitlines()[2:] == [
        "| all nodes | 3 | 2 |",
        "| Sum | 1 | 0 |",
    ]


def test_flops_are_those_of_products() -> None:
    """A dense layer and a convolution, whose gradients take what they take, once for each of their inputs."""

    def f(x, kernel, w):
        return tf.reduce_sum(tf.einsum("ab,bc->ac", tf.reshape(tf.nn.conv2d(x, kernel, 2, "SAME"), [3, -1]), w))

    shapes = [3, 8, 8, 2], [3, 3, 2, 5], [80, 7]
    concrete = tf.function(f).get_concrete_function(*map(tf.TensorSpec, shapes))
    convolution, product = 2 * (3 * 4 * 4 * 5) * (3 * 3 * 2), 2 * 3 * 80 * 7
    assert limit.flops_of(concrete) == convolution + product
    assert limit.flops_of(tf_symgrad.function_gradient(concrete)) == 3 * convolution + 2 * product
    by_op = tf.function(lambda *xs: tf_symgrad.symbolic_gradient(xs, f=concrete, wrt=[False, True, True]))
    assert limit.flops_of(by_op.get_concrete_function(*map(tf.TensorSpec, shapes))) == 2 * convolution + 2 * product


def test_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert first.main(["--quick", "--only", "mlp,lstm", "--methods", "native,GradientTape,jax", "--rounds", "1"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[2:]] == ["mlp", "lstm"]
    for _, loss, ours, tape, *_ in rows[2:]:
        assert 0 < float(loss) < 10
        assert 0 < float(ours) < 10
        assert float(tape.removesuffix(" s")) > 0


def test_limit_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert limit.main(["--quick", "--only", "mlp"]) == 0
    name, *numbers = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert name == "mlp"
    assert all(float(x) >= 0 for x in numbers)
    assert threads.main(["--quick", "--seconds", "0.05"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7


@pytest.mark.parametrize("order", [1, 2])
def test_single_ops(order: int, capsys: pytest.CaptureFixture[str]):
    asked = ["--only", "x[*][*]2,matvec,einsum bij bij->b", "--rounds", "1", "--worse", "1000", "--order", str(order)]
    assert single.main(asked) == 0
    printed = capsys.readouterr().out
    assert "| x**2 |" in printed
    assert "3 ops" in printed
    for family in (single.elementwise, single.reductions, single.products, single.arrays, single.linear_algebra):
        names = [name for name, _ in family()]
        assert len(names) == len(set(names))
        assert not any("," in name for name in names)
