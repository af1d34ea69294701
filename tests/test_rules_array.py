"""The rules of csrc/rules/array.cc."""

import pytest

from tests.cases.array import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_array(case: Case) -> None:
    check(case)
