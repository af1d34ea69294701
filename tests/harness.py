"""The check that each case of the case tables (tests/cases) goes through.

The gradients of order 1 and 2 (the gradient of the gradient, in x and dy) are compared with finite differences, with
Python's (or those of a formula that the case expects), and with themselves at unknown static shapes, in double
precision, real and complex. In the other dtypes order 1 is compared with Python's. What no CPU kernel takes is compiled
by XLA, where that can do it; otherwise the emitted graph is compared.
"""

import os
import shlex
from collections.abc import Iterable
from typing import Any, Protocol

import pytest
import tensorflow as tf

import tf_symgrad
from tests import structure
from tests.oracles import (
    Function,
    Tensor,
    analytic_mismatch,
    python_gradient,
)
from tests.spec import DTYPES, Case, Point, Rand, possible_dtypes
from tests.structure import concrete
from tf_symgrad._differences import Tolerance, gradient_mismatches, tolerance_of_differences

__all__ = ["Case", "Rand", "case", "check", "failures", "rand"]

ERRORS = (tf.errors.OpError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def rand(*shape: int, lo: float = -1.0, hi: float = 1.0, dtype: str | None = None) -> Rand:
    """A random floating input of the dtype under test. In a list, a part of a list input."""
    return Rand(shape, lo, hi, dtype)


def case(op: str, args: dict[str, Any], *, wrt: str | tuple[str, ...] | None = None, **options: Any) -> Case:
    """A row of a case table: `tf.raw_ops.<op>(**args)`; the options are the fields of Case."""
    return Case(op, args, wrt=(wrt,) if isinstance(wrt, str) else wrt, **options)


class Gradient(Protocol):
    """The engine under test: the gradients of f at `inputs` = x + dy. Tests of the harness err in a chosen `order`."""

    def __call__(self, inputs: list[Tensor], f: Any, order: int) -> list[Tensor]: ...


def native(inputs: list[Tensor], f: Any, order: int) -> list[Tensor]:
    """The gradients of tf_symgrad."""
    dx: list[Tensor] = tf_symgrad.symbolic_gradient(inputs, None, f)
    return dx


def check(case: Case) -> None:
    """Fails the running test with everything that is wrong with a case."""
    if wrong := failures(case):
        test = shlex.quote(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])
        pytest.fail("\n".join([str(case), *wrong, f"re-run: python -m pytest {test}"]), pytrace=False)


def failures(case: Case, gradient: Gradient = native) -> list[str]:
    """What is wrong with the gradients of a case: a line for each input, order, dtype and comparison."""
    if case.graph_only:
        point = Point(case, (case.dtypes or "f")[0])
        return structure.differences(point.f, point.x)
    letters = checked_dtypes(case)
    if not letters:
        return ["  nothing can be checked: no dtype has a CPU kernel of the op and of Python's gradient; say dtypes="]
    whole = [x for x in (_first_of("df", letters), _first_of("zc", letters)) if x]
    if not whole and not case.has_peer:
        whole = ["f"]  # somebody must be the peer
    precise = {DTYPES[x].is_complex: _Check(case, x, gradient) for x in whole}
    wrong = [line for c in precise.values() for line in c.all_orders()]
    for letter in letters:
        if letter not in whole:
            wrong += _Check(case, letter, gradient).first_order(precise.get(DTYPES[letter].is_complex))
    return wrong


def checked_dtypes(case: Case) -> str:
    """The dtypes in which a case is checked: the letters of DTYPES."""
    return case.dtypes or "".join(x for x in possible_dtypes(case) if _runs(case, x))


class _Check:
    """The checks of a case in one dtype."""

    def __init__(self, case: Case, letter: str, gradient: Gradient) -> None:
        self.case = case
        self.letter = letter
        self.gradient = gradient
        self.wrong: list[str] = []
        self.gradients: list[Any] = []
        self.point = Point(case, letter)
        # The function of order k - 1, to be differentiated at x with the cotangent dy; as Python computes it, too.
        self.order = 1
        self.x = self.point.x
        self.names = self.point.names
        self.static = self._concrete(self.point.f, self.x)
        self.f: Function = self.static if case.compiled else self.point.f
        try:
            y = self.f(*self.x)
        except (NotImplementedError, RuntimeError):  # no eager execution
            self.f = self.static
            y = self.f(*self.x)
        self.python: Function | None = self.f if case.has_peer else None
        self.dy = self.point.cotangents(y)

    def all_orders(self) -> list[str]:
        """Each turn of the loop differentiates the functions of the turn before."""
        try:
            unknown = self._concrete(self.point.f, self.x, static=False) if self.case.unknown else None
            while self.order <= self.case.orders:
                inputs = [*self.x, *self.dy]
                self.static = self._concrete(self._gradient_of(self.static), inputs)
                self.gradients.append(self.static)
                dx = self.static(*inputs)
                if self.case.fd:
                    self._against_finite_differences(dx)
                self._against_python(dx, may_fail=(LookupError,) if self.order > 1 else ())
                if unknown:
                    unknown = self._concrete(self._gradient_of(unknown), inputs, static=False)
                    pairs = zip(unknown(*inputs), dx, strict=True)
                    mismatches = (analytic_mismatch(a, b, self.case.tol) for a, b in pairs)
                    self._report("with unknown shapes against static ones", mismatches)
                self.f = self.static
                self.names = [*self.names, *(f"{'d' * self.order}y[{i}]" for i in range(len(self.dy)))]
                self.x, self.dy = inputs, self.point.cotangents(dx)
                self.order += 1
        except ERRORS as e:
            self._fail(f"{type(e).__name__}: {e}")
        return self.wrong

    def first_order(self, precise: "_Check | None") -> list[str]:
        """The gradient against Python's; where Python has none, against that in another, more precise dtype."""
        inputs = [*self.x, *self.dy]
        try:
            dx = self._concrete(self._gradient_of(self.static), inputs)(*inputs)
        except ERRORS as e:
            self._fail(f"{type(e).__name__}: {e}")
            return self.wrong
        peer = precise.gradients[0] if precise and precise.gradients else None
        self._against_python(dx, may_fail=ERRORS if peer and self.case.dtypes is None else ())
        if not self.python and precise and peer:
            expected = peer(*(tf.cast(a, b.dtype) for a, b in zip(inputs, peer.inputs, strict=False)))
            pairs = ((a, tf.cast(b, a.dtype)) for a, b in zip(dx, expected, strict=True))
            self._report(f"against {precise.letter}", (analytic_mismatch(a, b, self.case.tol) for a, b in pairs))
        return self.wrong

    def _concrete(self, f: Function, inputs: list[Tensor], static: bool = True) -> Any:
        return concrete(f, inputs, static, self.case.compiled)

    def _gradient_of(self, f: Any) -> Function:
        return lambda *inputs: self.gradient(list(inputs), f, self.order)

    def _against_finite_differences(self, dx: list[Tensor]) -> None:
        def tolerance(eps: float) -> Tolerance:
            return tolerance_of_differences(eps).times(self.case.tol)

        mismatches = gradient_mismatches(self.f, self.x, self.dy, dx, tolerance)
        self._report("against finite differences", mismatches)

    def _against_python(self, dx: list[Tensor], may_fail: tuple[type[Exception], ...]) -> None:
        if not self.python:
            return
        missing: list[int] = []
        expected_one = self.case.expected if self.order == 1 else None
        gradient = expected_one or python_gradient(self.python, len(self.x), missing)
        try:
            expected = gradient(*self.x, *self.dy)
        except ERRORS as e:
            self.python = None
            if not isinstance(e, may_fail):
                self._fail(f"Python's gradient fails; say python=False if it must: {type(e).__name__}: {e}")
            return
        self.python = gradient
        # Finite differences are the judge where Python finds no path.
        skipped = set(missing) if self.case.fd else set()
        pairs = enumerate(zip(dx, expected, strict=True))
        mismatches = ("" if i in skipped else analytic_mismatch(a, b, self.case.tol) for i, (a, b) in pairs)
        self._report("against what is expected" if self.case.expected else "against Python", mismatches)

    def _report(self, comparison: str, mismatches: Iterable[str]) -> None:
        for name, mismatch in zip(self.names, mismatches, strict=True):
            if mismatch:
                self._fail(f"d/d{name} {comparison}: {mismatch}")

    def _fail(self, what: str) -> None:
        self.wrong.append(f"  order {self.order}, {DTYPES[self.letter].name}: {what}")


def _first_of(preferred: str, letters: str) -> str:
    return next((letter for letter in preferred if letter in letters), "")


def _runs(case: Case, letter: str) -> bool:
    """Whether this machine has kernels for a case and for its Python gradient in a dtype."""
    point = Point(case, letter)
    try:
        f = concrete(point.f, point.x, compiled=True) if case.compiled else point.f
        y = f(*point.x)
        if case.has_peer:
            gradient = case.expected or python_gradient(f, len(point.x))
            gradient(*point.x, *point.cotangents(y))
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as e:
        return not any(s in str(e) for s in ("OpKernel", "Could not find device", "could not be found"))
    except ERRORS:
        pass  # to be found again, and reported, by the check
    return True
