"""The rules of csrc/rules/ctc.cc."""

import pytest

from tests.cases.ctc import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ctc(case: Case) -> None:
    check(case)
