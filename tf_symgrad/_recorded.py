"""What a tape has recorded, asked without harm to it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import tape as tape_lib
from tensorflow.python.framework import dtypes, ops


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
    """Notes that a tape is going to watch a tensor of a graph, and whether it has recorded what that was made of.

    If not, gradients of that tape do not flow on from there, but nobody could tell so later.
    """
    if isinstance(tensor, ops.EagerTensor) or not hasattr(tensor, "graph"):
        return
    made = bool(tensor.op.inputs)
    # Asked of all tapes of this thread first, which costs nothing.
    known = made and pywrap_tfe.TFE_Py_TapeSetShouldRecordBackprop([tensor]) and recorded(tape, [tensor])[0]
    _notes(tensor.graph).setdefault(tensor.op.name, {})[id(tape._tape)] = made and not known


def _notes(graph: Any) -> dict[str, dict[int, bool]]:
    notes: dict[str, dict[int, bool]] | None = getattr(graph, "_symgrad_watched", None)
    if notes is None:
        notes = graph._symgrad_watched = {}
    return notes


class UnclearError(Exception):
    """The graph does not tell what the tape has recorded."""


def off_tape(tape: tape_lib.Tape, ys: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    """Of all tensors that lead to y those that the tape has not recorded.

    Args:
      tape: the tape.
      ys: tensors of a graph.
      known: those that may be on the tape without being made of others: sources, and what comes from outside.

    Raises:
      UnclearError: something is on the tape that the graph does not explain.
    """
    if not ys:
        return []
    notes = {name: made for name, by in _notes(ys[0].graph).items() if (made := by.get(id(tape._tape))) is not None}
    todo, seen, tensors = [y.op for y in ys], {id(y.op) for y in ys}, {id(y): y for y in ys}
    made_of = []
    carries = functools.cache(lambda dtype: dtype.is_floating or dtype.is_complex or not dtype.is_numpy_compatible)
    while todo:
        op = todo.pop()
        inputs = list(op.inputs)
        made_of.append((op, list(op.outputs), inputs))
        tensors.update((id(t), t) for t in [*op.outputs, *inputs])
        for t in inputs:
            of = t.op
            if id(of) not in seen and carries(t.dtype):
                seen.add(id(of))
                todo.append(of)
    answers = recorded(tape, list(tensors.values()))
    on = {key for key, answer in zip(tensors, answers, strict=True) if answer}
    explained = {id(t) for t in known}
    for op, outputs, inputs in made_of:
        if notes.get(op.name):
            raise UnclearError("a tape watches what it has not recorded")
        made = any(id(t) in on for t in inputs) or op.name in notes
        if not made and any(id(t) in on and id(t) not in explained and t.dtype != dtypes.resource for t in outputs):
            raise UnclearError("a tape has recorded what is no op of the graph")
    return [t for key, t in tensors.items() if key not in on]
