"""Control flow of TensorFlow 1 against finite differences, at order 1 and 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2

import tf_symgrad
from tests.frames import function_of_frames, loop, v1
from tf_symgrad import _loader

VECTOR = np.array([0.3, 0.8, 0.5])
SPEC = tf.TensorSpec([3], tf.float64)


def positive(x: Any) -> Any:
    return tf.reduce_sum(x) > 0.0


def branch_after_branch(x: Any) -> Any:
    """Two branches of one predicate, the second on what the first gives."""
    predicate = positive(x)
    y = v1.cond(predicate, lambda: tf.sin(x), lambda: x)
    return v1.cond(predicate, lambda: y * x, lambda: y + x)


def loop_in_branch_in_loop(x: Any) -> Any:
    def inner(i: Any, v: Any) -> Any:
        return loop(i, lambda _, u: (tf.sin(u) * x,), v)

    return loop(3, lambda i, v: (v1.cond(tf.equal(i, 1), lambda: v + x, lambda: inner(i, v)),), x)


def array(size: int, **attrs: Any) -> Any:
    return v1.TensorArray(tf.float64, size, **attrs)


def array_of_states(x: Any) -> Any:
    """A recurrent network: its inputs and outputs are in arrays, and the last step writes something else."""
    inputs = array(3).unstack(tf.stack([x, x * x, tf.sin(x)]))

    def step(i: Any, state: Any, outputs: Any) -> Any:
        state = tf.tanh(state * inputs.read(i))
        return i + 1, state, v1.cond(i < 2, lambda: outputs.write(i, state), lambda: outputs.write(i, x))

    _, state, outputs = v1.while_loop(lambda i, *_: i < 3, step, (0, x, array(0, dynamic_size=True)))
    return tf.reduce_sum(outputs.stack() ** 2, 0) + state


def array_read_back(x: Any) -> Any:
    """Each element is made of the one before, but for one that is left out."""
    start = array(4, element_shape=[3], clear_after_read=False).write(0, x)

    def step(i: Any, v: Any, elements: Any) -> Any:
        last = elements.read(tf.where(tf.equal(i, 3), 1, i - 1))
        flow = v1.cond(tf.equal(i, 2), lambda: elements.flow, lambda: elements.write(i, last * v).flow)
        return i + 1, v + last, tf.TensorArray(tf.float64, handle=elements.handle, flow=flow)

    return v1.while_loop(lambda i, *_: i < 4, step, (1, x, start))[1]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "branch taken": lambda x: v1.cond(positive(x), lambda: tf.sin(x) * x, lambda: tf.exp(x)),
    "branch not taken": lambda x: v1.cond(positive(-x), lambda: tf.sin(x) * x, lambda: tf.exp(x)),
    "a branch that is constant": lambda x: x * v1.cond(positive(-x), lambda: tf.sin(x), lambda: 2.0 * tf.ones_like(x)),
    "two results": lambda x: tf.add_n(v1.cond(positive(x), lambda: [tf.sin(x), x * x], lambda: [x, x * 3.0])),
    "branch after branch": branch_after_branch,
    "branch in branch": lambda x: v1.cond(
        positive(x), lambda: v1.cond(positive(-x), lambda: tf.sin(x), lambda: x * x * x[2]), lambda: x
    ),
    "case": lambda x: v1.case([(x[0] > 1.0, lambda: x), (x[1] > 0.5, lambda: x * x)], default=lambda: tf.sin(x)),
    "loop": lambda x: loop(4, lambda i, v: (tf.sin(v) * v,), x),
    "loop with an invariant": lambda x: loop(4, lambda i, v: (tf.sin(v) * x,), x),
    "loop of no iteration": lambda x: loop(0, lambda i, v: (tf.sin(v) * x,), x),
    "loop after loop": lambda x: loop(2, lambda i, v: (v * x,), loop(3, lambda i, v: (tf.sin(v) + x,), x)),
    "loop in loop": lambda x: loop(3, lambda i, v: (loop(i, lambda j, u: (tf.sin(u) * x,), v),), x),
    "branch in loop": lambda x: loop(3, lambda i, v: (v1.cond(i < 2, lambda: v * x, lambda: tf.sin(v)),), x),
    "loop in branch": lambda x: v1.cond(positive(x), lambda: loop(3, lambda i, v: (tf.sin(v) * x,), x), lambda: x),
    "loop in branch in loop": loop_in_branch_in_loop,
    "map": lambda x: tf.map_fn(lambda e: e * tf.sin(e) * x[0], x),
    "scan": lambda x: tf.scan(lambda a, e: a * e + tf.sin(e), x),
    "array of states": array_of_states,
    "array read back": array_read_back,
    "two variables from one tensor": lambda x: v1.while_loop(
        lambda a, b: tf.reduce_sum(a) < 20.0, lambda a, b: (a * 1.7 + b, tf.sin(b) * a), (x, x)
    )[0],
}


def differences(f: Callable[[Any], Any], x: Any, step: float = 1e-6) -> Any:
    """The gradient of the sum of f."""
    rows = step * np.eye(len(x))
    return np.array([np.sum(f(x + row) - f(x - row)) for row in rows]) / (2 * step)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_like_finite_differences(name: str) -> None:
    f = function_of_frames(FUNCTIONS[name], SPEC)
    assert {node.op for node in f.graph.as_graph_def().node} & {"Merge", "Switch"}
    x = tf.constant(VECTOR)

    def gradient(x: Any) -> Any:
        return tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=f)[0]

    np.testing.assert_allclose(gradient(x), differences(f, x), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(tf.function(gradient)(x), gradient(x), rtol=1e-12)
    first = tf.function(gradient).get_concrete_function(SPEC)
    second = tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=first)[0]
    np.testing.assert_allclose(second, differences(gradient, x), rtol=1e-6, atol=1e-8)


def build(definition: function_pb2.FunctionDef) -> None:
    library = function_pb2.FunctionDefLibrary(function=[definition])
    name = attr_value_pb2.NameAttrList(name=definition.signature.name)
    _loader.native().build_gradient(library.SerializeToString(), name.SerializeToString(), None)


def nodes(definition: function_pb2.FunctionDef, op: str) -> list[Any]:
    return [node for node in definition.node_def if node.op == op]


def test_a_merge_that_joins_no_branches_is_an_error() -> None:
    definition = function_of_frames(FUNCTIONS["branch taken"], SPEC).function_def
    (merge,) = nodes(definition, "Merge")
    merge.input[1] = merge.input[0]
    with pytest.raises(_loader.native().StatusError, match=rf"{merge.name}.*differ in 0 predicates"):
        build(definition)


def test_a_loop_without_a_condition_is_an_error() -> None:
    definition = function_of_frames(FUNCTIONS["loop"], SPEC).function_def
    for switch in nodes(definition, "Switch"):
        switch.input[1] = switch.input[0]
    with pytest.raises(_loader.native().StatusError, match="has no LoopCond"):
        build(definition)


def test_a_loop_that_does_not_go_on_is_an_error() -> None:
    definition = function_of_frames(FUNCTIONS["loop"], SPEC).function_def
    for merge in nodes(definition, "Merge"):
        merge.input[1] = merge.input[0]
    with pytest.raises(_loader.native().StatusError, match="must be a NextIteration"):
        build(definition)


def test_a_gradient_array_is_an_error() -> None:
    """TensorFlow's own gradient, in f, of a function with an array."""

    def f(x: Any) -> Any:
        elements = array(1).write(0, x)
        y = elements.read(0)
        return elements.grad("gradients").write(0, y * y).read(0)

    definition = function_of_frames(f, SPEC).function_def
    with pytest.raises(_loader.native().StatusError, match="a gradient that TensorFlow made"):
        build(definition)


@pytest.mark.parametrize("make", [tf.reduce_sum, lambda x: tf.image.resize(x[None, :, None, None], [1, 1])[0, 0, 0, 0]])
def test_a_flow_that_comes_from_no_array_is_an_error(make: Callable[[Any], Any]) -> None:
    def f(x: Any) -> Any:
        elements = v1.TensorArray(tf.float32, 1)
        x = tf.cast(x, tf.float32)
        flow = tf.raw_ops.TensorArrayWriteV3(handle=elements.handle, index=0, value=x, flow_in=make(x))
        return tf.raw_ops.TensorArrayReadV3(handle=elements.handle, index=0, flow_in=flow, dtype=tf.float32)

    definition = function_of_frames(f, SPEC).function_def
    with pytest.raises(_loader.native().StatusError, match="takes a result of it for its flow"):
        build(definition)
