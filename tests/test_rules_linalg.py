"""The rules of csrc/rules/linalg.cc."""

import pytest

from tests.cases.linalg import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linalg(case: Case) -> None:
    check(case)
