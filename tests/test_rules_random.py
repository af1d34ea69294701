"""The rules of csrc/rules/random.cc."""

import pytest

from tests.cases.random import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_random(case: Case) -> None:
    check(case)
