"""Is the net tight? Each gradient of each case is made 0.1 % wrong, and whatever no check reports is printed.

    python -m tests.mutation [--minutes N] [family ...]

A family of rules is a process. What is zero anyway can't be told from itself and counts as seen.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import tensorflow as tf

from tests.cases import FAMILIES, cases
from tests.harness import Case, Point, Tensor, checked_dtypes, failures, native

WRONG = 1.001


def survivors(case: Case) -> list[str]:
    """The inputs of a case whose first gradient may be 0.1 % wrong and nobody says so."""
    letters = checked_dtypes(case)
    letter = next(x for x in "dzfcbh" if x in letters)
    tried = set()

    def wrong(inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
        dx = native(inputs, f, order)
        tried.update(i for i, g in enumerate(dx) if not g.dtype.is_integer)
        return [g if g.dtype.is_integer else g * WRONG for g in dx]

    once = replace(case, orders=1, unknown=False, dtypes=letter, why=case.why or "order 1 is what errs")
    reported = failures(once, wrong)
    point = Point(once, letter)
    f = tf.function(point.f).get_concrete_function(*point.x)
    right = native([*point.x, *point.cotangents(f(*point.x))], f, 1)
    return [
        name
        for i, name in enumerate(point.names)
        if i in tried
        and abs(right[i].numpy()).max(initial=0) > 0
        and not any(f"d/d{name} " in line for line in reported)
    ]


def of_family(family: str, deadline: float) -> tuple[str, list[str], int]:
    """What survives in a family, and how many cases there was no time for."""
    lines, left = [], 0
    for case in cases(family):
        if case.graph_only:
            continue
        if time.time() > deadline:
            left += 1
            continue
        try:
            lines += [f"{case}: {name}" for name in survivors(case)]
        except Exception as e:  # whatever it is, the other cases are looked at as well
            lines.append(f"{case}: {type(e).__name__}: {str(e)[:100]}")
    return family, lines, left


def main() -> int:
    """Prints who survives; the exit status says whether anybody does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=FAMILIES)
    parser.add_argument("--minutes", type=float, default=30)
    arguments = parser.parse_args()
    deadline = time.time() + 60 * arguments.minutes
    jobs = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
    total = 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for family, lines, left in pool.map(of_family, arguments.families, [deadline] * len(arguments.families)):
            total += len(lines)
            print(f"{family}: {len(lines)} survive" + (f"; no time for {left} cases" if left else ""), flush=True)
            for line in lines:
                print(f"  {line}", flush=True)
    return min(total, 1)


if __name__ == "__main__":
    sys.exit(main())
