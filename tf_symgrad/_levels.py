"""Gradients in the graph that is being built, and in those that it is inside of.

What is asked for may lead out of a branch, a loop or a function that is being traced, to tensors of the graphs around
it. Each graph is a part of the way back: its gradients are added where somebody asks, and those of the tensors that it
has from outside are cotangents in the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import backprop_util
from tensorflow.python.framework import ops

from tf_symgrad import _part, _pullback, _recorded
from tf_symgrad._backward import Backward, NotNativeError, pullbacks_with_copy_of, summed, tensor_name

Seeds = list[tuple[Any, Any]]  # tensors of a graph, and their cotangents
Plan = Callable[..., Backward]  # makes one, and says what that leaves to Python


class Level:
    """One graph on the way back.

    Attributes:
      graph: the graph.
      leading_out: tensors of graphs around it that gradients flow on to, and what stands for them.
    """

    def __init__(self, graph: Any, plan: Plan) -> None:
        self.graph, self._plan = graph, plan
        captures = [(t, inner) for t, inner in getattr(graph, "captures", ()) if not isinstance(inner, ops.EagerTensor)]
        self._inner = {id(t): inner for t, inner in captures}
        self._captured = [(t, i) for t, i in captures if t.dtype != tf.resource and backprop_util.IsTrainable(t)]
        self.leading_out: list[tuple[Any, Any]] = []

    def place(self, x: Any) -> Any:
        """What a source is in this graph; None if it is not in it, or is reached from a graph around it."""
        if not isinstance(x, tf.Tensor):
            raise NotNativeError(f"a {type(x).__name__} is no tensor")
        if not isinstance(x, ops.EagerTensor) and x.graph is self.graph:
            if x.dtype._is_ref_dtype:
                raise NotNativeError("a variable of TensorFlow 1 is no resource")
            return x
        return self._inner.get(id(x)) if isinstance(x, ops.EagerTensor) or x.dtype == tf.resource else None

    def add(self, seeds: Seeds, xs: Sequence[Any]) -> dict[str, Any]:
        """Adds the gradients by some tensors of this graph to the default graph."""
        raise NotImplementedError


class TapeLevel(Level):
    """What a tape has recorded of a graph."""

    def __init__(self, graph: Any, plan: Plan, tape: _recorded.NotedTape, sources: Sequence[Any]) -> None:
        super().__init__(graph, plan)
        self._tape = tape
        on = _recorded.recorded(tape, [t for t, _ in self._captured])
        led = [pair for pair, recorded in zip(self._captured, on, strict=True) if recorded]
        self.leading_out = [(t, inner) for t, inner in led if not isinstance(t, ops.EagerTensor)]
        is_source = {id(x) for x in sources}
        if any(isinstance(t, ops.EagerTensor) and id(t) not in is_source for t, _ in led):
            raise NotNativeError("gradients lead out of the graph, to what was computed eagerly")

    def add(self, seeds: Seeds, xs: Sequence[Any]) -> dict[str, Any]:
        ys, handles = [y for y, _ in seeds], _pullback.handles_of(self.graph)
        try:
            on_tape = _recorded.leading_to(self._tape, ys, [*xs, *self._inner.values()], handles)
        except _recorded.UnclearError as error:
            raise NotNativeError(str(error)) from None
        is_x = {id(x) for x in xs}
        off = [t for t in on_tape.off if id(t) not in is_x]
        return self._plan(self.graph, ys, xs, on_tape.ops, on_tape.blocked, off, tape=True).add(seeds)


class GraphLevel(Level):
    """A graph as `tf.gradients` sees it."""

    def __init__(self, graph: Any, plan: Plan, sources: Sequence[Any], stops: Collection[Any], scope: str) -> None:
        super().__init__(graph, plan)
        self._scope, self._blocked = scope, {t.op for t in stops if t.graph is graph}
        around = {id(g) for g in _part.inside_out(getattr(graph, "outer_graph", None))}
        if any(id(x.graph) in around for x in sources):
            self.leading_out = [(t, i) for t, i in self._captured if not isinstance(t, ops.EagerTensor)]

    def add(self, seeds: Seeds, xs: Sequence[Any]) -> dict[str, Any]:
        ys = [y for y, _ in seeds]
        self._check_constants(ys, xs)
        passed = _part.between(ys, xs, self._blocked)
        return self._plan(self.graph, ys, xs, passed, self._blocked).add(seeds, self._scope)

    def _check_constants(self, ys: Sequence[Any], xs: Sequence[Any]) -> None:
        """Refuses what would look as if nothing flowed there.

        Raises:
          ValueError: something is to be differentiated by a constant of which it has a copy, as it is a gradient.
        """
        for x in xs:
            copies = [dx for call in pullbacks_with_copy_of(x) for dx in call.outputs]
            if copies and _part.between(ys, copies, self._blocked):
                raise ValueError(
                    f"tf_symgrad.enable: '{x.name}' is a constant, and taken for a number by gradients that were made "
                    "before, which are to be differentiated by it now. Let tf.identity of it take its place, or ask "
                    "for these by it, too."
                )


def gradients(seeds: Seeds, sources: Sequence[Any], levels: Iterable[Level]) -> list[Any]:
    """Adds the gradients of some tensors to the default graph.

    Args:
      seeds: tensors of these graphs, and their cotangents.
      sources: what is to be differentiated by: tensors of these graphs, eager ones, handles of variables; or None.
      levels: the graphs, from the innermost outwards.

    Returns:
      The gradient of each source, or None.

    Raises:
      NotNativeError: Python is to do it.
    """
    found: list[list[Any]] = [[] for _ in sources]
    way = iter(levels)
    pending: dict[Any, Seeds] = {}
    for y, dy in seeds:
        pending.setdefault(y.graph, []).append((y, dy))
    while pending:
        level = next(way, None)
        if level is None:
            raise NotNativeError("gradients lead to a graph that is not around this one")
        if level.graph not in pending:
            continue
        places = [None if x is None else level.place(x) for x in sources]
        xs = [x for x in [*places, *(inner for _, inner in level.leading_out)] if x is not None]
        results = level.add(pending.pop(level.graph), list({id(x): x for x in xs}.values()))
        for parts, x in zip(found, places, strict=True):
            if x is not None and tensor_name(x) in results:
                parts.append(results[tensor_name(x)])
        for outer, inner in level.leading_out:
            if tensor_name(inner) in results:
                pending.setdefault(outer.graph, []).append((outer, results[tensor_name(inner)]))
    return [summed(parts) if parts else None for parts in found]
