"""The rules of csrc/rules/sparse.cc."""

import pytest

from tests.cases.sparse import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sparse(case: Case) -> None:
    check(case)
