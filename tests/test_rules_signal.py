"""The rules of csrc/rules/signal.cc."""

import pytest

from tests.cases.signal import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_signal(case: Case) -> None:
    check(case)
