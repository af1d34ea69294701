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

    def way_back(self, ys: Sequence[Any], xs: Sequence[Any]) -> Backward:
        """The way back from some tensors of this graph to others."""
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

    def way_back(self, ys: Sequence[Any], xs: Sequence[Any]) -> Backward:
        handles = _pullback.handles_of(self.graph)
        try:
            on_tape = _recorded.leading_to(self._tape, ys, [*xs, *self._inner.values()], handles)
        except _recorded.UnclearError as error:
            raise NotNativeError(str(error)) from None
        is_x = {id(x) for x in xs}
        off = [t for t in on_tape.off if id(t) not in is_x]
        return self._plan(self.graph, ys, xs, on_tape.ops, on_tape.blocked, off, tape=True)


class GraphLevel(Level):
    """A graph as `tf.gradients` sees it."""

    def __init__(self, graph: Any, plan: Plan, sources: Sequence[Any], stops: Collection[Any]) -> None:
        super().__init__(graph, plan)
        self._blocked = {t.op for t in stops if t.graph is graph}
        around = {id(g) for g in _part.inside_out(getattr(graph, "outer_graph", None))}
        if any(id(x.graph) in around for x in sources):
            self.leading_out = [(t, i) for t, i in self._captured if not isinstance(t, ops.EagerTensor)]

    def way_back(self, ys: Sequence[Any], xs: Sequence[Any]) -> Backward:
        self._check_constants(ys, xs)
        return self._plan(self.graph, ys, xs, _part.between(ys, xs, self._blocked), self._blocked)

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


class WayOut:
    """The way back from some tensors, out of the graphs that they are in. Nothing is added to a graph before `add`."""

    def __init__(
        self, ys: Sequence[Any], sources: Sequence[Any], graphs: Iterable[Any], level_of: Callable[[Any], Level]
    ) -> None:
        """Plans it.

        Args:
          ys: tensors of these graphs.
          sources: what is to be differentiated by: tensors of these graphs, eager ones, handles of variables; or None.
          graphs: the graphs, from the innermost outwards.
          level_of: makes the level that a graph is.

        Raises:
          NotNativeError: Python is to do it.
        """
        self._count = len(sources)
        self._levels: list[tuple[Level, list[Any], Backward]] = []
        pending: dict[Any, list[Any]] = {}
        for y in ys:
            pending.setdefault(y.graph, []).append(y)
        for graph in graphs:
            if graph not in pending:
                continue
            level = level_of(graph)
            places = [None if x is None else level.place(x) for x in sources]
            xs = [x for x in [*places, *(inner for _, inner in level.leading_out)] if x is not None]
            backward = level.way_back(pending.pop(graph), list({id(x): x for x in xs}.values()))
            self._levels.append((level, places, backward))
            for outer, inner in level.leading_out:
                if tensor_name(inner) in backward.reached:
                    pending.setdefault(outer.graph, []).append(outer)
        if pending:
            raise NotNativeError("gradients lead to a graph that is not around this one")

    def add(self, seeds: Seeds, scope: str = "") -> list[Any]:
        """Adds the gradients to the default graph.

        Args:
          seeds: the tensors, and their cotangents.
          scope: the name scope.

        Returns:
          The gradient of each source, or None.
        """
        found: list[list[Any]] = [[] for _ in range(self._count)]
        pending: dict[Any, Seeds] = {}
        for y, dy in seeds:
            pending.setdefault(y.graph, []).append((y, dy))
        for level, places, backward in self._levels:
            results = backward.add(pending.get(level.graph, []), scope)
            for parts, x in zip(found, places, strict=True):
                if x is not None and tensor_name(x) in results:
                    parts.append(results[tensor_name(x)])
            for outer, inner in level.leading_out:
                if tensor_name(inner) in results:
                    pending.setdefault(outer.graph, []).append((outer, results[tensor_name(inner)]))
        return [summed(parts) if parts else None for parts in found]
