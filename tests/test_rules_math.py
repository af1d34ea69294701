"""The rules of csrc/rules/math.cc."""

import pytest

from tests.cases.math import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_math(case: Case) -> None:
    check(case)
