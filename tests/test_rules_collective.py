"""The rules of csrc/rules/collective.cc."""

import pytest

from tests.cases.collective import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_collective(case: Case) -> None:
    check(case)
