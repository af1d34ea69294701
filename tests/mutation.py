"""Is the net tight? Each gradient of each case is made 0.1 % wrong, and whatever no check reports is printed.

    python -m tests.mutation [--minutes N] [family ...]

A family of rules is a process. What is zero or infinite anyway can't be told from itself and counts as seen. A gradient
survives that no case of its op reports; single cases may be silent. In half precision 0.1 % is nothing.
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

import numpy as np

from tests.cases import FAMILIES, cases
from tests.harness import Case, Point, Tensor, checked_dtypes, failures, native
from tests.structure import concrete

WRONG = 1.001


def looked_at(case: Case) -> dict[str, bool]:
    """The inputs of a case whose first gradient tells anything, and whether somebody says so when it is 0.1 % wrong."""
    letters = checked_dtypes(case)
    letter = next((x for x in "dzfc" if x in letters), None)
    if letter is None:
        return {}
    tried = set()

    def wrong(inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
        dx = native(inputs, f, order)
        tried.update(i for i, g in enumerate(dx) if not g.dtype.is_integer)
        return [g if g.dtype.is_integer else g * WRONG for g in dx]

    once = replace(case, orders=1, unknown=False, dtypes=letter, why=case.why or "order 1 is what errs")
    reported = failures(once, wrong)
    point = Point(once, letter)
    f = concrete(point.f, point.x, compiled=case.compiled)
    try:
        y = f(*point.x) if case.compiled else point.f(*point.x)
    except (NotImplementedError, RuntimeError):  # no eager execution
        y = f(*point.x)
    inputs = [*point.x, *point.cotangents(y)]
    right = concrete(lambda *inputs: native(list(inputs), f, 1), inputs, compiled=case.compiled)(*inputs)
    return {
        name: any(f"d/d{name} " in line or "d/d" not in line for line in reported)  # what fails, is found out
        for i, name in enumerate(point.names)
        if i in tried and (np.isfinite(g := right[i].numpy()) & (g != 0)).any()
    }


def of_family(family: str, deadline: float) -> tuple[str, dict[str, list[str]], int]:
    """The gradients, op and input, that may be wrong in all cases of a family, with these cases; and how many cases
    there was no time for."""
    silent: dict[str, list[str]] = {}
    heard, left = set(), 0
    for case in cases(family):
        if case.graph_only:
            continue
        if time.time() > deadline:
            left += 1
            continue
        try:
            for name, reported in looked_at(case).items():
                gradient = f"{case.op}: {name}"
                if reported:
                    heard.add(gradient)
                else:
                    silent.setdefault(gradient, []).append(str(case))
        except Exception as e:  # whatever it is, the other cases are looked at as well
            silent[f"{case}: {type(e).__name__}: {str(e)[:100]}"] = []
    return family, {gradient: silent[gradient] for gradient in silent if gradient not in heard}, left


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
        for family, survivors, left in pool.map(of_family, arguments.families, [deadline] * len(arguments.families)):
            total += len(survivors)
            print(f"{family}: {len(survivors)} survive" + (f"; no time for {left} cases" if left else ""), flush=True)
            for gradient, silent in survivors.items():
                print(f"  {gradient}  ({'; '.join(silent)})" if silent else f"  {gradient}", flush=True)
    return min(total, 1)


if __name__ == "__main__":
    sys.exit(main())
