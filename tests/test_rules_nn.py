"""The rules of csrc/rules/nn.cc."""

import pytest

from tests.cases.nn import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nn(case: Case) -> None:
    check(case)
