"""What a GPU would change, asked without one, of TensorFlow's placer and memory types (data/placement.cc)."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework import function_pb2

import tf_symgrad
from tests import structure
from tests.cases import FAMILIES, cases
from tests.spec import Point, possible_dtypes
from tests.test_c_api import run

TENSORFLOW = tf.sysconfig.get_lib()
OP = "TfSymgrad>SymbolicGradient"


@dataclass
class Placed:
    """Where the nodes of some functions are, and how many of their tensors are copied between memories."""

    errors: list[str]
    on_cpu: set[str]
    copies: list[str]


def by_tape(point: Point) -> Any:
    """The gradient of a case by a tape, with the forward pass in it: a function of inputs and cotangents."""
    n = len(point.x)

    def gradient(*inputs: Any) -> Any:
        x, dy = inputs[:n], inputs[n:]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = point.f(*x)
        return [tf.convert_to_tensor(dx) for dx in tape.gradient(y, x, output_gradients=dy) if dx is not None]

    return structure.concrete(gradient, [*point.x, *point.cotangents(point.f(*point.x))])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By case: the gradient function and the tape's, placed. And the memory of the arguments of calls."""
    folder = tmp_path_factory.mktemp("placement")
    library, roots = function_pb2.FunctionDefLibrary(), {}
    for family in FAMILIES:
        for case in cases(family)[::6]:
            if case.graph_only or case.compiled or not case.python or "f" not in (case.dtypes or possible_dtypes(case)):
                continue
            point = Point(case, "f")
            f = structure.concrete(point.f, point.x)
            _, added = structure.build_gradient(structure.library(f), f.name)
            try:
                peer = structure.library(by_tape(point))
            except (
                TypeError,
                LookupError,
                NotImplementedError,
                tf.errors.OpError,
            ):  # Python has none, or the CPU no kernel
                continue
            roots[str(case)] = [{g.signature.name for g in functions.function} for functions in (added, peer)]
            for functions in (structure.library(f), added, peer):
                library.MergeFrom(functions)
    (folder / "library").write_bytes(library.SerializeToString())

    source, program = Path(__file__).with_name("data") / "placement.cc", folder / "placement"
    compiler = [
        *shlex.split(os.environ.get("CXX", "g++")),
        "-std=c++17",
        "-O0",
        "-DNDEBUG",
        "-w",
        *tf.sysconfig.get_compile_flags(),
    ]
    libraries = [
        "-Wl,--no-as-needed",
        "-l:libtensorflow_cc.so.2",
        "-l:libtensorflow_framework.so.2",
        f"-Wl,-rpath,{TENSORFLOW}",
    ]
    run([*compiler, str(source), "-o", str(program), f"-L{TENSORFLOW}", *libraries])
    lines = [
        line.split("\t")
        for line in run([str(program), str(folder / "library"), tf_symgrad.get_library_path()]).split("\n")
    ]
    placed = {line[1]: line[2:] for line in lines if line[0] == "function"}

    def of(names: set[str]) -> Placed:
        parts = [placed[name] for name in names]
        ops = {op for part in parts for op in part[1].split()}
        return Placed([part[0] for part in parts if part[0]], ops, [copy for part in parts for copy in part[2].split()])

    report: dict[str, Any] = {case: [of(names) for names in both] for case, both in roots.items()}
    return report | {line[1]: line[2:] for line in lines if line[0] == "memory"}


def test_arguments_of_calls(report: dict[str, Any]) -> None:
    """TensorFlow knows by name which calls have int32 on the host. The op's kernel counts on not being one of them."""
    assert report[OP] == ["", "device device host device "]
    assert report["PartitionedCall"] == ["", "device host host device "]


# What the tape moves less: it slices indices on the host, and has less of a gradient for a list that is scattered to.
MORE_COPIES = {"SparseTensorDenseMatMul", "TensorListGather", "TensorListScatter"}


def test_placement(report: dict[str, Any]) -> None:
    """All nodes can be placed; none is on the CPU, and no tensor copied, where the tape's is not."""
    placed = {case: both for case, both in report.items() if isinstance(both[0], Placed)}
    assert len(placed) > 100
    wrong = []
    for case, (ours, tapes) in placed.items():
        if ours.errors:
            wrong.append(f"{case}: {ours.errors}")
        if more := ours.on_cpu - tapes.on_cpu:
            wrong.append(f"{case}: {more} on the CPU")
        if len(ours.copies) > len(tapes.copies) and case.partition(":")[0] not in MORE_COPIES:
            wrong.append(f"{case}: {ours.copies}, the tape's {tapes.copies}")
    assert not wrong, "\n".join(wrong)
    assert sum(len(ours.copies) for ours, _ in placed.values()) < sum(len(tapes.copies) for _, tapes in placed.values())
