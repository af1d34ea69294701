"""Where the engine's gradients and those of TensorFlow's Python are of different kinds: None, zeros, rows.

An optimizer treats these differently, so that code that stays as it is must get what it got. tests/test_enable.py finds
out, of all cases of all rules, that these tables are complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Inputs that Python has no gradient of, though there is one: None, which stays None.
DEAF = {
    "Betainc": [0, 1],
    "FusedBatchNorm": [3, 4],
    "FusedBatchNormV2": [3, 4],
    "FusedBatchNormV3": [3, 4],
    "FusedBatchNormGrad": [3, 4],
    "FusedBatchNormGradV2": [3, 4],
    "FusedBatchNormGradV3": [3, 4],
    "ImageProjectiveTransformV2": [1],
    "ImageProjectiveTransformV3": [1, 3],
    "MatrixDiagV2": [4],
    "MatrixDiagV3": [4],
    "MatrixDiagPartV2": [2],
    "MatrixDiagPartV3": [2],
    "PadV2": [2],
    "Zeta": [0],
}

# Ops of which Python makes zeros where the engine knows that nothing flows; and such as make rows, or no gradient, for
# reasons of their own. Python keeps them.
_PYTHONS = {
    *("MaxPoolGrad", "MaxPoolGradV2", "MaxPoolGradGrad", "MaxPoolGradGradV2", "NextAfter", "Sign"),
    *("LeakyReluGrad", "Relu6Grad", "ReluGrad"),
    *("GatherNd", "IdentityN", "MatrixSolveLs", "RaggedTensorToTensor"),
}


def is_pythons(kind: str) -> bool:
    """Whether Python is to differentiate ops of this kind, or `is_python_op` is to be asked of each."""
    return kind in _PYTHONS or kind in _SOME


def is_python_op(op: Any) -> bool:
    """The same of one op."""
    return op.type in _PYTHONS or bool(_SOME[op.type](op))


def _counts_from_the_end(op: Any) -> bool:
    axis = tf.get_static_value(op.inputs[2])
    return axis is not None and bool(axis < 0)


def _is_half(op: Any) -> bool:
    return op.inputs[0].dtype not in (tf.float32, tf.float64)


def _passes_a_handle(op: Any) -> bool:
    return bool(op.outputs[0].dtype == tf.resource)


_SOME: dict[str, Callable[[Any], bool]] = {
    "GatherV2": _counts_from_the_end,
    "Identity": _passes_a_handle,
    "ResizeBicubic": _is_half,
}
