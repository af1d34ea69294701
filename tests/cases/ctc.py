"""Connectionist temporal classification."""

import numpy as np

from tests.harness import case, rand

# In double precision too, the kernel's loss has the precision of float.
ONCE = "the kernel computes loss and gradient together; nothing differentiates the latter"
LABELS = dict(
    labels_indices=np.int64([[0, 0], [0, 1], [1, 0]]),
    labels_values=np.int32([0, 0, 2]),
    sequence_length=np.int32([4, 3]),
)

IGNORE = dict(ignore_longer_outputs_than_inputs=True)

CASES = [
    *(
        case("CTCLoss", dict(inputs=rand(4, 2, 4), **LABELS, **attrs), outputs=(0,), orders=1, dtypes="f", why=ONCE)
        for attrs in ({}, dict(ctc_merge_repeated=False), dict(preprocess_collapse_repeated=True), IGNORE)
    ),
    case("CTCLossV2", dict(inputs=rand(4, 2, 4), **LABELS), outputs=(0,), graph_only=True),
]
