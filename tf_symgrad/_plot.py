"""Pictures of gradient functions: forward, kept and backward told apart."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorflow.core.framework import graph_pb2

from tf_symgrad._explain import INPUTS, SCOPE

if TYPE_CHECKING:
    from tf_symgrad._explain import Explanation

_MOST_NODES = 300  # more than this is drawn by name scope
_COLORS = {"input": "#f5f5f5", "forward": "#d6e8fa", "kept": "#fff1b8", "backward": "#f9d7d6"}


def picture(explanation: Explanation, path: str | os.PathLike[str]) -> None:
    """Draws the gradient function of an `Explanation`, for its `plot`.

    Blue: what is computed of `f`; yellow: that of it which the way back takes; red: the way back. Large functions are
    drawn by name scope.
    """
    if explanation.graph is None:
        raise ValueError(f"function '{explanation.function}' has no gradient to draw: {explanation.error}")
    try:
        import graphviz
    except ImportError as error:
        raise ImportError("pictures need the package graphviz: pip install 'tf_symgrad[plot]'") from error
    path = Path(path)
    drawing = graphviz.Digraph(name=explanation.function, graph_attr={"rankdir": "TB", "fontname": "sans-serif"})
    drawing.attr("node", shape="box", style="filled,rounded", fontname="sans-serif", fontsize="10", color="#888888")
    _draw(explanation, explanation.graph, drawing)
    if path.suffix in (".dot", ".gv"):
        path.write_text(drawing.source)
        return
    if shutil.which("dot") is None:
        raise FileNotFoundError(
            "pictures are laid out by Graphviz' program `dot`: install it (Debian, Ubuntu: apt install graphviz), or "
            "write a .dot file"
        )
    path.write_bytes(drawing.pipe(format=path.suffix.lstrip(".") or "svg"))


def _draw(explanation: Explanation, graph: graph_pb2.GraphDef, drawing: Any) -> None:
    kept = {name.partition(":")[0] for name in explanation.kept}
    nodes = [node for node in graph.node if node.op not in ("Const", "NoOp")]
    depth = None if len(nodes) <= _MOST_NODES else _depth([node.name for node in nodes])
    members: dict[str, list[str]] = defaultdict(list)
    kinds: dict[str, str] = {}
    group: dict[str, str] = {}
    for node in nodes:
        kind = "input" if node.op in INPUTS else "backward" if explanation.is_backward(node.name) else "forward"
        kind = "kept" if node.name in kept else kind
        name = node.name if depth is None else f"{_scope(node.name, depth)} ({kind})"
        group[node.name] = name
        kinds[name] = kind
        members[name].append(node.op)
    for name, ops in members.items():
        label = name.removeprefix(f"{explanation.scope}/")
        if kinds[name] != "input":
            label += f"\n{ops[0]}" if len(ops) == 1 else f"\n{len(ops)} nodes"
        drawing.node(_id(name), label, fillcolor=_COLORS[kinds[name]])
    edges = {(group[source], group[node.name]) for node in nodes for source in _sources(node) if source in group}
    for source, target in sorted(edges):
        if source != target:
            drawing.edge(_id(source), _id(target))


def _sources(node: Any) -> list[str]:
    return [x.partition(":")[0] for x in node.input if not x.startswith("^")]


def _id(name: str) -> str:
    return name.replace(":", "_").replace("\\", "_")


def _scope(name: str, depth: int) -> str:
    return "/".join([part for part in name.split("/") if part != SCOPE][:depth])


def _depth(names: list[str]) -> int:
    """The deepest level of name scopes that leaves few enough of them."""
    depth = 1
    while depth < 16 and len({_scope(name, depth + 1) for name in names}) <= _MOST_NODES:
        depth += 1
    return depth
