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


class NotedTape(tape_lib.Tape):  # type: ignore[misc]
    """A tape that knows of what it watches: of each op whether the tape had recorded it, if there was anything to."""

    __slots__ = ("watched",)

    def __init__(self, tape: Any) -> None:
        super().__init__(tape)
        self.watched: dict[Any, bool] = {}


def note_watch(tape: NotedTape, tensor: Any) -> None:
    """Notes that a tape is going to watch a tensor of a graph, and whether it has recorded what that was made of.

    If not, gradients of that tape do not flow on from there, but nobody could tell so later.
    """
    if isinstance(tensor, ops.EagerTensor) or not hasattr(tensor, "graph"):
        return
    made = bool(tensor.op.inputs)
    # Asked of all tapes of this thread first, which costs nothing.
    known = made and pywrap_tfe.TFE_Py_TapeSetShouldRecordBackprop([tensor]) and recorded(tape, [tensor])[0]
    tape.watched.setdefault(tensor.op, known or not made)


class UnclearError(Exception):
    """The graph does not tell what the tape has recorded."""


def off_tape(tape: NotedTape, ys: Sequence[Any], known: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Of what leads to y the tensors that the tape has not recorded, and the ops that gradients do not pass.

    The outputs of those ops are on the tape all the same, as somebody watches them.

    Args:
      tape: the tape.
      ys: tensors of a graph.
      known: those that may be on the tape without being made of others: sources, and what comes from outside.

    Raises:
      UnclearError: something is on the tape that the graph does not explain.
    """
    if not ys:
        return [], []
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
        made = any(id(t) in on for t in inputs) or op in tape.watched
        if not made and any(id(t) in on and id(t) not in explained and t.dtype != dtypes.resource for t in outputs):
            raise UnclearError("a tape has recorded what is no op of the graph")
    blocked = [op for op, *_ in made_of if not tape.watched.get(op, True)]
    return [t for key, t in tensors.items() if key not in on], blocked
