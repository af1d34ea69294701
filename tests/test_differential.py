"""A few random programs against the tape; `make fuzz` runs many."""

import pytest

from tests.fuzz.differential import compare


@pytest.mark.parametrize(
    ("seed", "mode", "order"),
    [*((seed, "function", 1 + seed % 2) for seed in range(8)), *((seed, "eager", 1) for seed in range(8, 12))],
)
def test_agrees_with_the_tape(seed: int, mode: str, order: int) -> None:
    assert compare(seed, mode, order) == ""
