"""The table of ops: it is complete, and says what is so."""

import json
import subprocess
import sys

import pytest
import tensorflow as tf

from tests import coverage
from tests.test_registry import expect_none, rules
from tf_symgrad import _coverage

REMEDY = "run `make coverage` and look at what has changed"


def test_what_python_differentiates_has_a_rule_or_is_announced():
    announced = {op for names in coverage.sections(coverage.NOT_YET).values() for op in names}
    differentiable = {op for op, gradient in coverage.python().items() if gradient}
    lacking = differentiable - rules().keys() - coverage.ENGINE.keys()
    expect_none("Python has a gradient; write a rule, or say in tests/data/not_yet.txt why not", lacking - announced)
    expect_none("tests/data/not_yet.txt names them, for nothing", announced - lacking)


def test_what_python_declares_without_a_gradient_is_declared():
    without = {op for op, gradient in coverage.python().items() if not gradient} & coverage.registered().keys()
    expect_none("Python declares them NotDifferentiable; add a rule or NO_GRAD", without - rules().keys())


def test_other_ops_are_sorted():
    unsorted = [op for kind, ops in coverage.others().items() if kind not in coverage.KINDS for op in ops]
    wrong = (f"{op}: {coverage.kinds(op) or 'nowhere'}" for op in unsorted)
    expect_none("must be in one section of tests/data/beyond_python.txt", wrong)


@pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="the table is that of TensorFlow with its GPU kernels")
def test_table_is_current():
    known, now = _coverage.data(), coverage.data()
    ops = known["ops"].keys() | now["ops"].keys()
    expect_none(f"stale; {REMEDY}", (op for op in ops if known["ops"].get(op) != now["ops"].get(op)))
    assert known == now, REMEDY
    assert _coverage.DATA.read_text() == coverage.text(now), REMEDY


def test_document_is_that_of_the_table():
    assert _coverage.DOCUMENT.read_text() == _coverage.as_markdown(_coverage.data()), REMEDY


def test_command_line():
    def run(*options: str) -> str:
        return subprocess.check_output([sys.executable, "-m", "tf_symgrad", "coverage", *options], text=True)

    assert json.loads(run("--json"))["ops"]["Abs"]["orders"] == 2
    assert all(line in run() for line in ["\nAbs ", *_coverage.counts(_coverage.data())])
