"""What a tape has recorded, asked without harm to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import tape as tape_lib
from tensorflow.python.framework import ops


def recorded(tape: tape_lib.Tape, tensors: Sequence[Any]) -> list[bool]:
    """For each tensor whether gradients of that tape flow to it: it was watched, or made of what is.

    TensorFlow tells so of all tapes of a thread together. A new thread has none, and is given this one.
    """
    answers: list[bool] = []

    def ask() -> None:
        pywrap_tfe.TFE_Py_TapeSetAdd(tape._tape)
        try:
            answers.extend(pywrap_tfe.TFE_Py_TapeSetShouldRecordBackprop([t]) for t in tensors)
        finally:
            pywrap_tfe.TFE_Py_TapeSetRemove(tape._tape)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answers


def note_watch(tape: tape_lib.Tape, tensor: Any) -> None:
    """Notes that a tape is going to watch a tensor of a graph that it has not recorded.

    Gradients of that tape do not flow to what the tensor was made of, but nobody could tell so later.
    """
    if isinstance(tensor, ops.EagerTensor) or not hasattr(tensor, "graph") or not tensor.op.inputs:
        return
    known = pywrap_tfe.TFE_Py_TapeSetShouldRecordBackprop([tensor])  # by any tape of this thread
    if not known or not recorded(tape, [tensor])[0]:
        _watched(tensor.graph).setdefault(tensor.op.name, set()).add(id(tape._tape))


def may_be_watched(tape: tape_lib.Tape, op: Any) -> bool:
    """Whether that has been noted of an output of an op, as far as can be told: tapes that are gone have left notes."""
    return id(tape._tape) in _watched(op.graph).get(op.name, ())


def _watched(graph: Any) -> dict[str, set[int]]:
    notes: dict[str, set[int]] | None = getattr(graph, "_symgrad_watched", None)
    if notes is None:
        notes = graph._symgrad_watched = {}
    return notes
