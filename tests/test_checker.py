"""The test of the tests: a gradient that is a little wrong in one place is reported, by each comparison on its own; and
so is memory that is left behind. What only `make fuzz` and `make sanitize` build compiles."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests import leaks, soak
from tests.harness import Case, case, failures, native, rand
from tests.oracles import Tensor

Error = Callable[[Tensor], Tensor]

MATMUL = case("MatMul", {"a": rand(2, 2, lo=0.5), "b": rand(2, 2, lo=0.5)}, dtypes="d")
EXPECTED = case(
    "MatMul",
    {"a": rand(2, 2, lo=0.5), "b": rand(2, 2, lo=0.5)},
    dtypes="df",
    tag="expected",
    python=False,
    expected=lambda a, b, dy: [dy @ tf.transpose(b), tf.transpose(a) @ dy],
    why="a formula takes Python's place",
)
SAMPLE = [
    MATMUL,
    case("Mul", {"x": rand(2, 3, lo=0.5), "y": rand(3, lo=0.5)}, dtypes="d"),
    case("Mul", {"x": rand(2, lo=0.5), "y": rand(2, lo=0.5)}, dtypes="z", tag="complex"),
    case("Mul", {"x": rand(3, lo=0.5), "y": rand(3, lo=0.5)}, dtypes="f", tag="single"),
    case("AddN", {"inputs": [rand(2), rand(2)]}, fn=lambda inputs: tf.exp(inputs[0]) * tf.exp(inputs[1]), dtypes="d"),
]
ALONE: dict[str, dict[str, Any]] = {
    "finite differences": {"python": False, "unknown": False},
    "Python": {"fd": False, "unknown": False},
    "what is expected": {"fd": False, "unknown": False},
    "static ones": {"fd": False, "python": False},
}


def slightly(at: int) -> Error:
    """0.1 % too much in one element."""

    def error(dx: Tensor) -> Tensor:
        size = tf.size(dx)
        factor = 1 + tf.one_hot(at % size, size, dtype=dx.dtype) / 1000
        return tf.reshape(factor * tf.reshape(dx, [-1]), tf.shape(dx))

    return error


ERRORS: dict[str, Error] = {
    "first element": slightly(0),
    "last element": slightly(-1),
    "sign": tf.negative,
    "NaN": lambda dx: dx * float("nan"),
}


class Wrong:
    """The native gradient with an error in one input's gradient of one order, maybe only where shapes are unknown."""

    def __init__(self, error: Error, which: int, order: int, unknown: bool = False) -> None:
        self.error = error
        self.which = which
        self.order = order
        self.unknown = unknown

    def __call__(self, inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
        dx = native(inputs, f, order)
        if order == self.order and (inputs[0].shape.rank is None or not self.unknown):
            dx[self.which] = self.error(dx[self.which])
        return dx


def reported(case: Case, peer: str, wrong: Wrong) -> bool:
    """Whether one comparison finds the error, and nothing else."""
    found = failures(replace(case, **ALONE[peer], orders=wrong.order, why="one comparison at a time"), wrong)
    assert all(f"order {wrong.order}" in line and f"against {peer}" in line for line in found), found
    return len(found) == 1


@pytest.mark.parametrize("case", [*SAMPLE, EXPECTED], ids=str)
def test_right_is_right(case: Case) -> None:
    assert not failures(case)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("peer", ["finite differences", "Python"])
@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_wrong_is_reported(case: Case, peer: str, order: int, error: str) -> None:
    for which in (0, -1):
        assert reported(case, peer, Wrong(ERRORS[error], which, order))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("peer", ["finite differences", "Python"])
def test_missing_conj_is_reported(peer: str, order: int) -> None:
    assert reported(SAMPLE[2], peer, Wrong(tf.math.conj, 0, order))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("peer", ["finite differences", "Python"])
def test_wrong_transposition_is_reported(peer: str, order: int) -> None:
    assert reported(MATMUL, peer, Wrong(tf.transpose, 1, order))


@pytest.mark.parametrize("peer", ["finite differences", "Python"])
def test_wrong_shape_is_reported(peer: str) -> None:
    assert reported(MATMUL, peer, Wrong(lambda dx: dx[None], 1, 1))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("order", [1, 2])
def test_other_than_expected_is_reported(order: int, error: str) -> None:
    for which in (0, -1):
        assert reported(replace(EXPECTED, dtypes="d"), "what is expected", Wrong(ERRORS[error], which, order))


def test_other_than_expected_is_reported_in_further_dtypes() -> None:
    def wrong(inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
        dx = native(inputs, f, order)
        return [dx[0] * 1.01, *dx[1:]] if inputs[0].dtype == tf.float32 else dx

    found = failures(EXPECTED, wrong)
    assert len(found) == 1
    assert "float32: d/da against what is expected" in found[0]


def test_tolerance_holds_for_unknown_shapes() -> None:
    assert not failures(replace(MATMUL, tol=1e9), Wrong(slightly(0), 0, 1, unknown=True))


@pytest.mark.parametrize("order", [1, 2])
def test_error_in_unknown_shapes_is_reported(order: int) -> None:
    assert reported(MATMUL, "static ones", Wrong(slightly(0), 0, order, unknown=True))


@pytest.mark.parametrize("dtype", ["h", "b", "c"])
def test_error_in_further_dtypes_is_reported(dtype: str) -> None:
    def wrong(inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
        dx = native(inputs, f, order)
        narrow = inputs[0].dtype in (tf.float16, tf.bfloat16, tf.complex64)
        return [dx[0] * 1.3, *dx[1:]] if narrow else dx

    precise = "z" if dtype == "c" else "d"
    for python in (True, False):
        found = failures(replace(MATMUL, dtypes=dtype + precise, python=python, why="both peers"), wrong)
        assert len(found) == 1
        assert f"against {'Python' if python else precise}" in found[0]


def test_errors_of_the_engine_are_reported() -> None:
    def fails(inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
        raise tf.errors.UnimplementedError(None, None, "no rule")

    assert "no rule" in failures(MATMUL, fails)[0]


@pytest.mark.parametrize(("leaked", "verdict"), [(0.0, 0), (1.0, 1)])
def test_a_leak_is_found(leaked: float, verdict: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        leaks, "in_a_process", lambda way, rounds, *_: leaks.growth(way.one_round, rounds, leaked=leaked)
    )
    monkeypatch.setattr(sys, "argv", ["leaks", "--rounds=2000", "function"])
    assert leaks.main() == verdict


def test_a_leak_is_found_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PARTS", 2)
    each, rounds = soak.growth(soak.by_op, seconds=4, threads=2, leaked=2000.0)
    assert soak.grows(each, 0.0, rounds)
    assert soak.grows(20.0, 1.0, 4000)
    assert not soak.grows(1.5, 1.0, 4000)


def test_the_fuzz_target_compiles(tmp_path: Path) -> None:
    """In one piece, as that takes a quarter of the time."""
    names = [f"fuzz/{name}" for name in ("engine", "mutator", "wiring", "values", "standalone")]
    (tmp_path / "all.cc").write_text("".join(f'#include "tests/{name}.cc"\n' for name in names))
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++17", "-DNDEBUG", "-w", "-fsyntax-only", "-I."]
    done = subprocess.run(
        [*command, *tf.sysconfig.get_compile_flags(), str(tmp_path / "all.cc")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
