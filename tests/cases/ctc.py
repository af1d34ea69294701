"""Connectionist temporal classification."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.harness import case, rand

# In double precision too, the kernel's loss has the precision of float.
ONCE = "the kernel computes loss and gradient together; nothing differentiates the latter"
LABELS = dict(
    labels_indices=np.int64([[0, 0], [0, 1], [1, 0]]),
    labels_values=np.int32([0, 0, 2]),
    sequence_length=np.int32([4, 3]),
)


def dense_loss(logits: Any) -> Any:
    """A loss from elementary ops, with a custom gradient that takes tensors of the forward pass."""
    return tf.nn.ctc_loss(np.int32([[1, 3], [3, 1]]), logits, np.int32([2, 1]), np.int32([5, 4]), blank_index=0)


CASES = [
    *(
        case("CTCLoss", dict(inputs=rand(4, 2, 4), **LABELS, **attrs), outputs=(0,), orders=1, dtypes="f", why=ONCE)
        for attrs in ({}, dict(ctc_merge_repeated=False), dict(preprocess_collapse_repeated=True))
    ),
    case(
        "CTCLoss",
        dict(logits=rand(5, 2, 4)),
        fn=dense_loss,
        orders=1,
        dtypes="f",
        unknown=False,
        why="it is a recursion over a known time; its custom gradient is differentiated as what it is, not as the loss",
        tag="dense",
    ),
    case("CTCLossV2", dict(inputs=rand(4, 2, 4), **LABELS), outputs=(0,), graph_only=True),
]
