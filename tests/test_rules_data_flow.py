"""The rules of csrc/rules/data_flow.cc."""

import pytest

from tests.cases.data_flow import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_data_flow(case: Case) -> None:
    check(case)
