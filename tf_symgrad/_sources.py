"""Where the user's program made a node."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.util import tf_stack

# How the engine's messages name a function, and a node of the function that was named last.
_NAMED = re.compile(r"function '(?P<function>[^'\n]+)'|node '(?P<node>[^'\n]+)' \(op [^)\n]+")


def with_sources(message: str) -> str:
    """Adds to each node that a message names the source line that made it, where that is known."""
    function = ""

    def locate(found: re.Match[str]) -> str:
        nonlocal function
        if found["function"]:
            function = found["function"]
            return found[0]
        return found[0] + source_line(function, found["node"], traces)

    traces: dict[str, Any] = {}
    return _NAMED.sub(locate, message)


def source_line(function: str, node: str, traces: dict[str, Any] | None = None) -> str:
    """Where the user's program made a node of a function: ", made at file:line", or nothing where that is not known.

    `traces` remembers those of each function.
    """
    traces = {} if traces is None else traces
    if function not in traces:
        runtime = context.context()
        traces[function] = {}
        if runtime.has_function(function):
            with contextlib.suppress(tf.errors.OpError):
                traces[function] = tf_stack.LoadTracesFromDebugInfo(runtime.get_graph_debug_info(function))
    known = traces[function]
    frames = [f for f in known[node] if not _is_internal(f.filename)] if node in known else []
    return f", made at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


_INTERNAL = tuple(os.path.dirname(os.path.abspath(module)) + os.sep for module in (tf.__file__, __file__))


def _is_internal(filename: str) -> bool:
    return filename.startswith(_INTERNAL) or filename.startswith("<")
