"""A few random programs against the tape, and ops by themselves; `make fuzz` runs many."""

import argparse
import time

import pytest

from tests.fuzz import effects, every_op
from tests.fuzz.differential import compare


@pytest.mark.parametrize(
    ("seed", "mode", "order"),
    [
        *((seed, "function", 1 + seed % 2) for seed in range(8)),
        *((seed, "eager", 1) for seed in range(8, 12)),
        *((seed, "enable", 1 + seed % 2) for seed in range(12, 18)),
    ],
)
def test_agrees_with_the_tape(seed: int, mode: str, order: int) -> None:
    assert compare(seed, mode, order) == ""


def test_branches_whose_residuals_are_of_unknown_and_unequal_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grappler took the shape of one branch's residual for that of the other's, as they crossed in one slot."""
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1")
    assert compare(3000117, "function", 3) == ""


@pytest.mark.parametrize("way", effects.WAYS)
def test_programs_with_effects(way: str) -> None:
    asked = [(seed, kind) for seed in (1, 2) for kind in ("eager", "graph")] + [(seed, "graph") for seed in (6, 8, 12)]
    if way in ("tapes in branches", "tapes after TensorFlow"):  # which take ten times as long
        asked = [(1, "eager"), (1, "graph"), (8, "graph")]
    assert {(seed, kind): effects.compare(seed, way, kind) for seed, kind in asked} == dict.fromkeys(asked, "")


def test_every_op_by_itself() -> None:
    """Twice each: the process lives, and both gradients and errors come."""
    count = 2 * len(every_op.ops())
    outcomes = every_op.of_batch(range(count), time.time() + 600, argparse.Namespace())
    assert min(outcomes["gradients"], outcomes["errors"]) > count / 10
