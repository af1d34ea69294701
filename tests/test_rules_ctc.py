"""The rules of csrc/rules/ctc.cc."""

import pytest
import tensorflow as tf

import tf_symgrad
from tests.cases.ctc import CASES
from tests.harness import Case, check
from tests.oracles import analytic_mismatch, python_gradient


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ctc(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("blank", [0, -1])
def test_dense_loss(blank: int) -> None:
    """The loss from elementary ops: its custom gradient takes tensors that are written after its node."""
    labels, logits = tf.constant([[1, 2], [2, 1]]), tf.random.stateless_normal([5, 2, 4], [3, 7])

    def loss(x: tf.Tensor) -> list[tf.Tensor]:
        return [tf.nn.ctc_loss(labels, x, [2, 1], [5, 4], blank_index=blank)]

    dy = tf.constant([0.5, -2.0])
    got = tf_symgrad.symbolic_gradient([logits, dy], f=loss)[0]
    assert not analytic_mismatch(got, python_gradient(loss, 1)(logits, dy)[0])
