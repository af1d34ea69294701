"""The cases of every family of rules: tests/cases/<family>.py mirrors csrc/rules/<family>.cc."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.harness import Case

FAMILIES: tuple[str, ...] = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def cases(family: str) -> "list[Case]":
    """The cases of one family."""
    found: list[Case] = importlib.import_module(f"{__name__}.{family}").CASES
    return found
