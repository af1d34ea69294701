"""Damaged SavedModels and the command line: a status and a message. `make fuzz` tries more of them."""

from tests.fuzz.saved_models import survey


def test_damaged_models() -> None:
    outcomes = survey(first=30, count=30)
    assert not outcomes["wrong"], outcomes
    assert outcomes["2"] > 20, outcomes
    assert outcomes["0"] > 5, outcomes
