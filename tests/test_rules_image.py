"""The rules of csrc/rules/image.cc."""

import pytest

from tests.cases.image import CASES
from tests.harness import Case, check


@pytest.mark.parametrize("case", CASES, ids=str)
def test_image(case: Case) -> None:
    check(case)
