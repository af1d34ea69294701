"""TF_AddGradients with libtf_symgrad_cc loaded, in graphs of programs that know TensorFlow's C API alone: each rule
against the op; calls, branches and loops; and TFSG_AddGradients."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from tests import c_graph
from tests.c_graph import CGraph
from tests.cases import FAMILIES, cases
from tests.spec import Case, Point, possible_dtypes
from tests.structure import concrete

# TF_AddGradients does not say which inputs of an op are asked for.
ASKS_FOR_ALL = {"IgammaGradA"}
TOLERANCE = {"d": 1e-9, "z": 1e-9, "f": 1e-4, "c": 1e-4, "h": 2e-2, "b": 2e-2}


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    c_graph.load()


@dataclass
class Row:
    """A case in one dtype, as names of tensors of a graph."""

    name: str
    letter: str
    x: list[str]
    y: list[str]
    dy: list[str]
    expected: list[str]  # the gradients by the op


def points(family: str) -> Iterator[tuple[Case, str, Point, list[Any]]]:
    """A real and a complex point for each case."""
    for case in cases(family):
        if case.graph_only or case.compiled or case.op in ASKS_FOR_ALL:
            continue
        letters = case.dtypes or possible_dtypes(case)
        for wanted in ("dfbh", "zc"):
            letter = next((x for x in wanted if x in letters), None)
            if letter is None:
                continue
            point = Point(case, letter)
            try:
                y = point.f(*point.x)
            except (NotImplementedError, RuntimeError):  # no eager execution
                y = concrete(point.f, point.x)(*point.x)
            except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError):  # no kernel
                continue
            yield case, letter, point, point.cotangents(y)


def write(graph: tf.Graph, family: str) -> list[Row]:
    """The cases of a family, and their gradients by the op, in a graph."""
    rows = []
    for case, letter, point, dy in list(points(family)):
        with graph.as_default():
            x = [tf.constant(v.numpy()) for v in point.x]
            cotangents = [tf.constant(v.numpy()) for v in dy]
            y = point.f(*x)
            expected = tf_symgrad.symbolic_gradient([*x, *cotangents], f=point.f)
        rows.append(Row(str(case), letter, *([t.name for t in ts] for ts in (x, y, cotangents, expected))))
    return rows


def add_gradients(graph: CGraph, row: Row) -> list[str | None]:
    """TF_AddGradients refuses an x that y does not depend on: its gradient is None here."""
    asked = list(row.x)
    while asked:
        try:
            got = graph.add_gradients(row.y, asked, row.dy)
        except tf.errors.InvalidArgumentError as error:
            unreachable = re.search("for node '(.*)' as it's unreachable", str(error))
            if not unreachable:
                raise
            asked.remove(f"{unreachable[1]}:0")
            continue
        by_name = dict(zip(asked, got, strict=True))
        return [by_name.get(x) for x in row.x]
    return [None] * len(row.x)


def session(graph_def: Any) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return tf.compat.v1.Session(graph=graph, config=config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule(family: str) -> None:
    python = tf.Graph()
    rows = write(python, family)
    graph = CGraph(python.as_graph_def())
    wrong, added = [], []
    for row in rows:
        try:
            added.append(add_gradients(graph, row))
        except tf.errors.OpError as error:
            added.append([])
            if not (row.name.startswith("Collective") and "it needs an instance key of its own" in str(error)):
                wrong.append(f"{row.name} ({row.letter}): {error}")
    with session(graph.graph_def()) as runs:
        for row, got in zip(rows, added, strict=True):
            if not got:
                continue
            expected, values = runs.run([row.expected, [name or [] for name in got]])
            for i, (want, value) in enumerate(zip(expected, values, strict=True)):
                value = np.zeros_like(want) if got[i] is None else value
                tolerance = TOLERANCE[row.letter]
                same = want.shape == value.shape and np.allclose(
                    value.astype(complex), want.astype(complex), tolerance, tolerance, equal_nan=True
                )
                if not same:
                    wrong.append(f"{row.name} ({row.letter}), input {i}: {value} instead of {want}")
    graph.close()
    assert not wrong, "\n".join(wrong)


# ---- Functions. ----

X = np.array([0.5, -1.25, 2.0])


def looped(x: Any, w: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.sin(x) * w), (0, x))[1]


def branched(x: Any, w: Any) -> Any:
    return tf.cond(tf.reduce_sum(w) > 0, lambda: tf.tanh(x) * w, lambda: x)


def chosen(x: Any, w: Any) -> Any:
    return tf.switch_case(tf.constant(1), [lambda: x, lambda: tf.exp(x * w), lambda: w])


def called(x: Any, w: Any) -> Any:
    return tf.function(lambda a: tf.function(tf.sin)(a) * tf.sin(a * w))(x)


def captured(x: Any, w: Any) -> Any:
    return tf.map_fn(lambda a: a * a * tf.reduce_sum(w), x)


STRUCTURES = [looped, branched, chosen, called, captured]


def build(f: Any) -> tuple[Any, list[str]]:
    """A graph: h = x * w, y = f(h, w)^2; and the names of y, h, x and w."""
    with tf.Graph().as_default() as graph:
        x, w = tf.constant(X, name="x"), tf.constant([0.25, 1.5, -0.5], tf.float64, name="w")
        h = tf.multiply(x, w, name="h")
        tf.square(f(h, w), name="y")
    return graph.as_graph_def(), ["y:0", "h:0", "x:0", "w:0"]


def by_tape(f: Any) -> list[Any]:
    """d(sum y) by h, x and w."""
    x, w = tf.constant(X), tf.constant([0.25, 1.5, -0.5], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        h = x * w
        y = tf.square(f(h, w))
    return [g.numpy() for g in tape.gradient(y, [h, x, w])]


def values(graph: CGraph, names: list[str | None]) -> list[Any]:
    with session(graph.graph_def()) as runs:
        found: list[Any] = runs.run(names)
        return found


@pytest.mark.parametrize("f", STRUCTURES)
def test_structures(f: Any) -> None:
    graph_def, (y, *x) = build(f)
    graph = CGraph(graph_def)
    dx = graph.add_gradients([y], x, None)
    for value, want in zip(values(graph, dx), by_tape(f), strict=True):
        np.testing.assert_allclose(value, want)


@pytest.mark.parametrize("f", STRUCTURES)
def test_structures_at_once(f: Any) -> None:
    graph_def, (y, *x) = build(f)
    graph = CGraph(graph_def)
    dx, (shared,) = graph.add_gradients_at_once([y], x)
    *got, original, again = values(graph, [*dx, y, shared])
    for value, want in zip(got, by_tape(f), strict=True):
        np.testing.assert_allclose(value, want)
    np.testing.assert_array_equal(original, again)


@pytest.mark.parametrize("f", [*STRUCTURES, lambda x, w: tf.nn.softplus(x) / w])
def test_second_derivatives(f: Any) -> None:
    graph_def, (y, _, x, w) = build(f)
    graph = CGraph(graph_def)
    (first,) = graph.add_gradients([y], [x], None)
    assert first is not None
    twice = graph.add_gradients([first], [x, w], None)
    at_once, _ = graph.add_gradients_at_once([first], [x, w])

    a, b = tf.constant(X), tf.constant([0.25, 1.5, -0.5], tf.float64)
    with tf.GradientTape() as outer:
        outer.watch([a, b])
        with tf.GradientTape() as tape:
            tape.watch(a)
            c = tf.square(f(a * b, b))
        d = tape.gradient(c, a)
    expected = outer.gradient(d, [a, b])
    got = values(graph, [*twice, *at_once])
    for value, want in zip(got, [*expected, *expected], strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-6)


def test_one_draw_for_value_and_gradient() -> None:
    """A function that draws is called a second time by TF_AddGradients; at once, y and its gradient share a draw."""
    graph_def, (y, _, x, _) = build(
        lambda x, w: tf.function(lambda a: a * tf.sin(a * tf.random.uniform([3], 0, 0.5, a.dtype)))(x)
    )
    graph = CGraph(graph_def)
    (dx,), (shared,) = graph.add_gradients_at_once([y], [x], prefix="g")
    assert dx is not None
    assert dx.startswith("g/")
    assert shared is not None
    assert shared.startswith("g/")
    with session(graph.graph_def()) as runs:
        h = X * [0.25, 1.5, -0.5]
        for _ in range(3):
            value, slope = runs.run([shared, dx])
            # y = (h sin(h u))^2 tells u, as 0 <= h u is small
            u = np.arcsin(np.sqrt(value) / np.abs(h)) / np.abs(h)
            want = 2 * h * np.sin(h * u) * (np.sin(h * u) + h * u * np.cos(h * u)) * [0.25, 1.5, -0.5]
            np.testing.assert_allclose(slope, want, rtol=1e-6)


def test_nothing_that_was_there_changes() -> None:
    graph_def, (y, *x) = build(called)
    graph = CGraph(graph_def)
    before = {node.name: node for node in graph.graph_def().node}
    graph.add_gradients_at_once([y], x)
    graph.add_gradients([y], x, None)
    after = {node.name: node for node in graph.graph_def().node}
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("gradients") for name in after.keys() - before.keys())


def test_plain_graphs_are_not_added_twice() -> None:
    graph_def, (y, *x) = build(lambda x, w: tf.nn.softplus(x) * w)
    graph = CGraph(graph_def)
    _, shared = graph.add_gradients_at_once([y], x)
    assert shared == [y]


def test_backward_nodes_take_the_device_and_the_name_of_forward_ones() -> None:
    with tf.Graph().as_default() as python:
        x = tf.constant(X, name="x")
        with tf.device("/device:CPU:0"):
            tf.math.erfc(x, name="layer/y")
    graph = CGraph(python.as_graph_def())
    (dx,) = graph.add_gradients(["layer/y:0"], ["x:0"], None)
    assert dx is not None
    assert dx.startswith("gradients/layer/y/")
    (node,) = [node for node in graph.graph_def().node if node.name == dx.partition(":")[0]]
    assert node.device == "/device:CPU:0"


def test_variables() -> None:
    with tf.Graph().as_default() as python:
        v = tf.Variable(X, name="v")
        tf.square(tf.gather(v, [0, 0, 2]), name="y")
        init = v.initializer.name
    graph = CGraph(python.as_graph_def())
    dx = [*graph.add_gradients(["y:0"], ["v:0"], None), *graph.add_gradients_at_once(["y:0"], ["v:0"])[0]]
    with session(graph.graph_def()) as runs:
        runs.run(init)
        for value in runs.run(dx):
            np.testing.assert_allclose(value, [4 * X[0], 0, 2 * X[2]])


def test_what_nothing_depends_on_has_no_gradient() -> None:
    graph_def, (y, *_) = build(lambda x, w: x)
    graph = CGraph(graph_def)
    dx, _ = graph.add_gradients_at_once(["x:0"], ["x:0", "w:0", y])
    assert dx[1:] == [None, None]
    np.testing.assert_array_equal(values(graph, dx[:1])[0], np.ones(3))


# ---- Errors. ----


def test_errors_name_node_and_op() -> None:
    with tf.Graph().as_default() as python:
        x = tf.constant(X, name="x")
        tf.raw_ops.PreventGradient(input=x, message="out of order", name="stop")
    graph = CGraph(python.as_graph_def())
    for add in (
        lambda: graph.add_gradients(["stop:0"], ["x:0"], None),
        lambda: graph.add_gradients_at_once(["stop:0"], ["x:0"]),
    ):
        with pytest.raises(tf.errors.UnimplementedError, match=r"node 'stop' \(op PreventGradient\).*out of order"):
            add()


def test_control_flow_of_tensorflow_1_is_refused() -> None:
    with tf.Graph().as_default() as python:
        x = tf.constant(X, name="x")
        y, _ = tf.raw_ops.Switch(data=x, pred=True, name="switch")
        tf.identity(y, name="y")
    graph = CGraph(python.as_graph_def())
    with pytest.raises(tf.errors.UnimplementedError, match="'switch'.*TensorFlow 1.*TF_GraphToFunction"):
        graph.add_gradients_at_once(["y:0"], ["x:0"])


def test_the_library_may_be_loaded_twice_and_alone() -> None:
    code = (
        "import ctypes, sys\n"
        "for _ in range(2):\n"
        "    version = ctypes.CDLL(sys.argv[1]).TFSG_Version\n"
        "    version.restype = ctypes.c_char_p\n"
        "    print(version().decode())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(c_graph.CC_LIBRARY)], capture_output=True, text=True)
    assert done.stdout.split() == [tf_symgrad.__version__] * 2, done.stderr
