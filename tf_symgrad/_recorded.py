"""What a tape has recorded, asked without harm to it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import tape as tape_lib
from tensorflow.python.framework import dtypes, ops

from tf_symgrad import _part

_Result = TypeVar("_Result")


def _ask(tape: tape_lib.Tape, question: Callable[[Callable[[Any], bool]], _Result]) -> _Result:
    """Asks something about a tape, for whom it can be told of each tensor whether gradients of the tape flow to it.

    TensorFlow tells so of all tapes of a thread together. A thread that has none is given this one.
    """

    def ask() -> _Result:
        pywrap_tfe.TFE_Py_TapeSetAdd(tape._tape)
        try:
            return question(lambda t: bool(pywrap_tfe.TFE_Py_TapeSetShouldRecordBackprop([t])))
        finally:
            pywrap_tfe.TFE_Py_TapeSetRemove(tape._tape)

    return _thread().submit(ask).result()


@functools.cache
def _thread() -> concurrent.futures.Executor:
    return concurrent.futures.ThreadPoolExecutor(1, "tf_symgrad")


os.register_at_fork(after_in_child=_thread.cache_clear)  # a child has none of its parent's threads


def recorded(tape: tape_lib.Tape, tensors: Sequence[Any]) -> list[bool]:
    """For each tensor whether gradients of that tape flow to it: it was watched, or made of what is."""
    return _ask(tape, lambda is_on: [is_on(t) for t in tensors]) if tensors else []


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


@dataclasses.dataclass
class Recorded:
    """What of a graph leads to some y on a tape.

    Attributes:
      ops: those whose outputs are on the tape, as far back as it goes.
      off: the tensors beside them that are not.
      blocked: of those ops the ones that gradients do not pass: the tape watches an output, but not what it is made of.
    """

    ops: set[Any]
    off: list[Any]
    blocked: set[Any]


def leading_to(tape: NotedTape, ys: Sequence[Any], known: Sequence[Any], handles: Mapping[int, Any]) -> Recorded:
    """What a tape has recorded of what leads to y.

    Args:
      tape: the tape.
      ys: tensors of a graph, on the tape.
      known: those that may be on the tape without being made of others: sources, and what comes from outside.
      handles: by identity of what stands for a variable in the graph, the variable's handle, which tapes know.

    Raises:
      UnclearError: something is on the tape that the graph does not explain.
    """
    if not ys:
        return Recorded(set(), [], set())
    explained = {id(t) for t in known}

    def walk(is_on: Callable[[Any], bool]) -> Recorded:
        found = Recorded({y.op for y in ys}, [], set())
        todo, on = list(found.ops), functools.cache(lambda key: is_on(handles.get(key, tensors[key])))
        tensors: dict[int, Any] = {}
        while todo:
            op = todo.pop()
            inputs, outputs = list(op.inputs), list(op.outputs)
            tensors.update((id(t), t) for t in [*inputs, *outputs])
            if not tape.watched.get(op, True):
                found.blocked.add(op)
                continue
            before = {t.op for t in inputs if on(id(t)) and _part.carries(t.dtype)} - found.ops
            found.ops |= before
            todo += before
            if op in tape.watched or any(on(id(t)) for t in inputs):
                continue
            if any(on(id(t)) and id(t) not in explained and t.dtype != dtypes.resource for t in outputs):
                raise UnclearError("a tape has recorded what is no op of the graph")
        found.off = [t for key, t in tensors.items() if not on(key)]
        return found

    return _ask(tape, walk)
