"""Which inputs of a function reach its outputs by differentiable ops, and where the ways of others end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2

from tf_symgrad import _custom, _loader, _nodes, _sources, _specs
from tf_symgrad._function import Function

_CALLS = {"PartitionedCall", "StatefulPartitionedCall", "RemoteCall"}
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
LOOPS = {"While", "StatelessWhile"}
SHAPES = {"Shape", "ShapeN", "Size", "Rank"}


@dataclass(frozen=True)
class Cut:
    """A node at which the way from an input to the outputs ends: no gradient passes it."""

    function: str
    node: str
    op: str
    why: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.op} '{self.node}' in '{self.function}'{self.line}: {self.why}"


@dataclass
class Input:
    """An input of the function.

    Attributes:
      name: its name, a variable's where it is one.
      dtype: its dtype; of a variable, the value's.
      connected: whether a path of differentiable ops leads from it to an output.
      cuts: where the paths end that don't reach an output.
    """

    name: str
    dtype: str
    connected: bool
    cuts: list[Cut] = field(default_factory=list)


class Paths:
    """Which inputs reach which outputs of functions by differentiable ops, and where the others end."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._rules: Mapping[str, bool] = _loader.rules()
        self._memo: dict[tuple[str, frozenset[int]], tuple[set[int], set[int], list[Cut]]] = {}

    def inputs(self) -> list[Input]:
        function = self._function
        found = []
        for i, (spec, value) in enumerate(zip(function.inputs, [*function.arguments, *function.captures], strict=True)):
            variable = _specs.variable_spec(value) if spec.dtype == tf.resource else None
            name = next((v.name for v in function.variables if getattr(v, "handle", None) is value), spec.name)
            smooth, _, cuts = self._reach(function.name, frozenset([i]))
            if not _specs.continuous((variable or spec).dtype):
                smooth, cuts = set(), []  # its dtype says it all
            # That a shape has no derivative is news only where nothing else is asked of the input.
            told = [cut for cut in dict.fromkeys(cuts) if not smooth or cut.op not in SHAPES]
            found.append(Input(str(name).partition(":")[0], (variable or spec).dtype.name, bool(smooth), told))
        return found

    def _reach(self, name: str, sources: frozenset[int]) -> tuple[set[int], set[int], list[Cut]]:
        """Of a function whose inputs `sources` vary: outputs that vary smoothly, outputs that vary, and cuts."""
        key = (name, sources)
        if key not in self._memo:
            self._memo[key] = (set(), set(), [])  # what a recursive call finds
            self._memo[key] = self._walk(name, sources)
        return self._memo[key]

    def _walk(self, name: str, sources: frozenset[int]) -> tuple[set[int], set[int], list[Cut]]:
        member = self._function.library.get(name)
        if member is None:
            return set(), set(), []
        definition = member.cached_definition
        arguments = [arg.name for arg in definition.signature.input_arg]
        smooth = {arguments[i] for i in sources if i < len(arguments)}  # tensors, as nodes name them
        varying = set(smooth)
        pending: list[tuple[set[str], list[Cut]]] = []  # what a node makes that is cut, and why
        for node in _in_order(definition):
            data = _nodes.data_inputs(node)
            inputs = {i for i, x in enumerate(data) if x in varying}
            if not inputs:
                continue
            passed = frozenset(i for i, x in enumerate(data) if x in smooth)
            flows, cuts = self._through(name, node, passed)
            outputs = _nodes.outputs(node)
            varying.update(outputs)
            smooth.update(x for i, x in enumerate(outputs) if i in flows)
            if cuts and passed:
                pending.append((set(outputs), cuts))
        results = [definition.ret[arg.name] for arg in definition.signature.output_arg]
        needed = _ancestors(definition, results)
        cuts = [cut for outputs, found in pending if outputs & needed for cut in found]
        reached = {i for i, x in enumerate(results) if x in smooth}
        return reached, {i for i, x in enumerate(results) if x in varying}, cuts

    def _through(self, function: str, node: node_def_pb2.NodeDef, passed: frozenset[int]) -> tuple[set[int], list[Cut]]:
        """The outputs of a node that vary smoothly with the inputs `passed`, and the cuts that it makes."""
        dtypes = _nodes.output_dtypes(node)
        every = {i for i, t in enumerate(dtypes) if _specs.continuous(t) or t in (tf.variant, tf.resource)}

        def cut(why: str) -> list[Cut]:
            name = function.partition(_custom.SUFFIX)[0]
            return [Cut(name, node.name, node.op, why, _sources.source_line(name, node.name))]

        if _custom.GRADIENT in node.attr:
            outputs = node.attr[_custom.OUTPUTS].list.i
            if any(outputs[i] != -1 for i in passed if i < len(outputs)) or not passed:
                return every, []
            return set(), cut("its custom gradient is None here")
        if "_gradient_op_type" in node.attr:
            return every, []
        if node.op in LOOPS:
            return self._loop(node, passed)
        callees, skipped = _callees(node, self._function.library)
        if callees:
            found = [self._reach(callee, frozenset(i - skipped for i in passed if i >= skipped)) for callee in callees]
            return set().union(*(smooth for smooth, _, _ in found)), [c for _, _, cuts in found for c in cuts]
        if not passed:
            return set(), []
        if node.op in ("StopGradient", "PreventGradient"):
            return set(), cut("it stops gradients")
        if node.op not in self._rules:
            if _custom.is_registered(node.op):
                return every, []
            return every, cut("it has no rule: an error, where its gradient is needed")
        if not self._rules[node.op]:
            return set(), cut("its derivative is zero, or there is none")
        if not every:
            return set(), cut(f"its outputs are {', '.join(t.name for t in dtypes)}")
        return every, []

    def _loop(self, node: node_def_pb2.NodeDef, passed: frozenset[int]) -> tuple[set[int], list[Cut]]:
        body, smooth = node.attr["body"].func.name, set(passed)
        while True:  # what varies in one iteration may vary another variable in the next
            reached, _, cuts = self._reach(body, frozenset(smooth))
            if reached <= smooth:
                return smooth, cuts
            smooth |= reached


def _in_order(definition: function_pb2.FunctionDef) -> Iterator[node_def_pb2.NodeDef]:
    """Nodes, each after those that it takes data from."""
    nodes = {node.name: node for node in definition.node_def}
    done: set[str] = set()
    for root in definition.node_def:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                yield node
                continue
            if node.name in done:
                continue
            done.add(node.name)
            stack.append((node, True))
            for x in node.input:
                source = nodes.get(x.partition(":")[0])
                if source is not None and source.name not in done:
                    stack.append((source, False))


def _ancestors(definition: function_pb2.FunctionDef, results: Iterable[str]) -> set[str]:
    """The tensors that results are computed from, as nodes name them."""
    nodes = {node.name: node for node in definition.node_def}
    found: set[str] = set()
    pending = list(results)
    while pending:
        x = pending.pop()
        if x in found or x.startswith("^"):
            continue
        found.add(x)
        node = nodes.get(x.partition(":")[0])
        if node is not None:
            pending += node.input
    return found


def _callees(node: node_def_pb2.NodeDef, library: Mapping[str, Any]) -> tuple[list[str], int]:
    """The functions that a node calls one of with its inputs, and how many leading inputs they do not get."""
    if node.op in library:
        return [node.op], 0
    if node.op in _CALLS:
        return [node.attr["f"].func.name], int(node.op == "RemoteCall")
    if node.op in ("If", "StatelessIf"):
        return [node.attr["then_branch"].func.name, node.attr["else_branch"].func.name], 1
    if node.op in _BRANCHES:
        return [f.name for f in node.attr["branches"].list.func], 1
    return [], 0
