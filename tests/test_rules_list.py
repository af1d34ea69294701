"""The rules of csrc/rules/list.cc."""

import pytest

from tests.cases.list import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_list(case: Case) -> None:
    check(case)
