"""Sizes, axes and bounds that f takes as arguments, under jit_compile=True: XLA must know them when it compiles."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from tf_symgrad import symbolic_gradient

X = tf.constant(np.random.default_rng(0).uniform(0.5, 1.5, (5, 3)), tf.float32)


def compiled(f: Callable[..., Any]) -> Any:
    return tf.function(f, jit_compile=True, autograph=False)


def squares(*y: Any) -> Any:
    return tf.add_n([tf.reduce_sum(t * t) for t in y])


def power_loop(x: Any, n: Any) -> Any:
    return squares(tf.while_loop(lambda i, _: i < n, lambda i, y: (i + 1, tf.sin(y) * x), (0, x))[1])


# f of x and an integer scalar, which is 2.
FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "reduce_prod": lambda x, n: tf.reduce_sum(tf.reduce_prod(x[n:], 0)),
    "cumsum": lambda x, n: squares(tf.cumsum(x[n:], 0)),
    "cumsum, axis": lambda x, n: squares(tf.cumsum(x, n - 1)),
    "cumprod": lambda x, n: squares(tf.math.cumprod(x[n:], 0)),
    "slice": lambda x, n: tf.reduce_sum(tf.slice(x, [0, 0], [n, 3])),
    "slice of a stack": lambda x, n: squares(tf.slice(x, [0, 0], tf.stack([n, 3]))),
    "strided_slice": lambda x, n: squares(x[::n]),
    "last": lambda x, n: squares(x[n:][-1]),
    "index": lambda x, n: squares(x[n]),
    "gather": lambda x, n: squares(tf.gather(x[n:], [0, 1])),
    "gather, axis": lambda x, n: squares(tf.gather(x, [0, 1], axis=n - 1)),
    "concat": lambda x, n: squares(tf.concat([x[n:], x], 0)),
    "split": lambda x, n: squares(tf.split(x, tf.stack([n, 5 - n]), num=2)[0]),
    "sort": lambda x, n: squares(tf.sort(x[n:], 0) * [1.0, 2, 3]),
    "top_k": lambda x, n: squares(tf.math.top_k(x[n:, 0], 2)[0]),
    "top_k, k": lambda x, n: squares(tf.math.top_k(x, n)[0]),
    "fill": lambda x, n: squares(x[0, 0] * tf.fill([n], 2.0)),
    "range": lambda x, n: squares(x[0, 0] * tf.cast(tf.range(n + 1), tf.float32)),
    "tile": lambda x, n: squares(tf.tile(x, [n, 1])),
    "repeat": lambda x, n: squares(tf.repeat(x, n, 0)),
    "broadcast_to": lambda x, n: squares(tf.broadcast_to(x, [n, 5, 3])),
    "pad": lambda x, n: squares(tf.pad(x, [[n, 0], [0, n]]) + 1),
    "reshape": lambda x, n: squares(tf.reshape(x, [n + 1, -1]) * x[0, 0]),
    "transpose": lambda x, n: squares(tf.transpose(x, [n - 1, n - 2]) @ x),
    "reverse": lambda x, n: squares(tf.reverse(x, [n - 1]) * [1.0, 2, 3]),
    "roll": lambda x, n: squares(tf.roll(x, n, 0) * x),
    "expand_dims": lambda x, n: squares(tf.expand_dims(x, n) * [2.0]),
    "reduce_max": lambda x, n: tf.reduce_sum(tf.reduce_max(x, n - 1)),
    "reduce_sum": lambda x, n: squares(tf.reduce_sum(x[n:], 0)),
    "one_hot": lambda x, n: squares(x * tf.one_hot(n, 3)),
    "segments": lambda x, n: squares(tf.math.unsorted_segment_sum(x, [0, 1, 0, 1, 0], n)),
    "linspace": lambda x, n: squares(x[0, 0] * tf.linspace(0.0, 1.0, n)),
    "matrix_band": lambda x, n: squares(tf.linalg.band_part(x, n, n)),
    "scatter": lambda x, n: squares(tf.scatter_nd([[0], [1]], x[:2], tf.stack([n, 3]))),
    "while_loop": power_loop,
    "cond": lambda x, n: squares(tf.cond(n > 1, lambda: x * x, lambda: tf.sin(x))),
    "switch_case": lambda x, n: squares(tf.switch_case(n, [lambda: x, lambda: tf.sin(x), lambda: x * x])),
    "value": lambda x, n: tf.reduce_sum(x * tf.cast(n, tf.float32)),
}


def gradient(f: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda x, n: symbolic_gradient([x, n], f=f)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_argument(name: str) -> None:
    g = gradient(FUNCTIONS[name])
    np.testing.assert_allclose(compiled(g)(X, tf.constant(2)), g(X, 2), rtol=1e-5)


# Where the size comes from. Each takes g(x, n) and computes g(X, 2), all of it compiled.
def from_arithmetic(g: Any) -> Any:
    return compiled(lambda x, n: g(x, tf.maximum(n // 2 - 1, 0)))(X, 6)


def from_a_vector(g: Any) -> Any:
    return compiled(lambda x, sizes: g(x, sizes[1]))(X, tf.constant([7, 2]))


def from_a_shape(g: Any) -> Any:
    return compiled(lambda x, y: g(x, tf.shape(y)[0]))(X, tf.zeros([2, 4]))


def from_a_float(g: Any) -> Any:
    return compiled(lambda x, n: g(x, tf.cast(n, tf.int32)))(X, tf.constant(2.5))


def from_a_variable(g: Any) -> Any:
    v = tf.Variable(2)
    return compiled(lambda x: g(x, v.read_value()))(X)


def in_a_function(g: Any) -> Any:
    inner = tf.function(g, autograph=False)
    return compiled(lambda x, n: inner(x, n))(X, tf.constant(2))


def never_inlined(g: Any) -> Any:
    inner = tf.function(g, autograph=False, experimental_attributes={"_noinline": True})
    return compiled(lambda x, n: inner(x, n))(X, tf.constant(2))


def in_a_branch(g: Any) -> Any:
    return compiled(lambda x, n: tf.cond(x[0, 0] > 0, lambda: g(x, n), lambda: x))(X, tf.constant(2))


def in_a_case(g: Any) -> Any:
    return compiled(lambda x, n: tf.switch_case(n - 1, [lambda: x, lambda: g(x, n)]))(X, tf.constant(2))


def in_a_loop(g: Any) -> Any:
    def loop(x: Any, n: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 1, lambda i, y: (i + 1, g(y, n)), (0, x))[1]

    return compiled(loop)(X, tf.constant(2))


def in_map_fn(g: Any) -> Any:
    return compiled(lambda x, n: tf.map_fn(lambda t: g(t, n), x))(X[tf.newaxis], tf.constant(2))[0]


def in_a_compiled_function_of_one_that_is_not(g: Any) -> Any:
    inner = compiled(g)
    return tf.function(lambda x, n: inner(x, n), autograph=False)(X, tf.constant(2))


SOURCES = [
    from_arithmetic, from_a_vector, from_a_shape, from_a_float, from_a_variable, in_a_function, never_inlined,
    in_a_branch, in_a_case, in_a_loop, in_map_fn, in_a_compiled_function_of_one_that_is_not,
]  # fmt: skip
PLACED = ["cumsum", "slice of a stack", "tile", "reduce_max", "while_loop"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.parametrize("name", PLACED)
def test_argument_from(source: Callable[[Any], Any], name: str) -> None:
    g = gradient(FUNCTIONS[name])
    np.testing.assert_allclose(source(g), g(X, 2), rtol=1e-5)


@pytest.mark.parametrize("name", ["cumsum", "slice of a stack", "tile", "reduce_max"])
def test_session(name: str) -> None:
    """A graph of TensorFlow 1 that asks for the compilation."""
    g = gradient(FUNCTIONS[name])
    concrete = tf.function(g, autograph=False).get_concrete_function(tf.TensorSpec([5, 3]), tf.TensorSpec([], tf.int32))
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        concrete.add_to_graph(graph)
        x, n = tf.constant(X.numpy()), tf.compat.v1.placeholder(tf.int32, [])
        call = tf.raw_ops.StatefulPartitionedCall(args=[x, n], Tout=[tf.float32], f=concrete)[0]
        call.op._set_attr("_XlaMustCompile", tf.compat.v1.AttrValue(b=True))
        got = session.run(call, {n: 2})
    np.testing.assert_allclose(got, g(X, 2), rtol=1e-5)


PROGRAM = """
import sys
import numpy as np
import tensorflow as tf
for library in sys.argv[2:]:
    tf.load_library(library)
with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
    with open(sys.argv[1], "rb") as file:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(file.read()), name="")
    for n in 2, 3, 2:
        print(*np.ravel(session.run("call:0", {"n:0": n})))
"""


@pytest.mark.parametrize("name", ["cumsum", "while_loop"])
def test_process_that_has_the_libraries_alone(name: str, tmp_path: Path) -> None:
    """What a program in C does: it loads two libraries, and runs a graph that asks for the compilation."""
    g = gradient(FUNCTIONS[name])
    concrete = tf.function(g, autograph=False).get_concrete_function(tf.TensorSpec([5, 3]), tf.TensorSpec([], tf.int32))
    with tf.Graph().as_default() as graph:
        concrete.add_to_graph(graph)
        n = tf.compat.v1.placeholder(tf.int32, [], name="n")
        call = tf.raw_ops.StatefulPartitionedCall(
            args=[tf.constant(X.numpy()), n], Tout=[tf.float32], f=concrete, name="call"
        )
        call[0].op._set_attr("_XlaMustCompile", tf.compat.v1.AttrValue(b=True))
    (tmp_path / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    library = Path(tf_symgrad.get_library_path())
    libraries = [str(library), str(library.with_name("libtf_symgrad_xla.so"))]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "graph.pb"), *libraries]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for n, line in zip((2, 3, 2), done.stdout.splitlines(), strict=True):
        np.testing.assert_allclose([float(number) for number in line.split()], np.ravel(g(X, n)), rtol=1e-4)


@pytest.mark.parametrize("name", PLACED)
def test_compiled_anew_for_another_value(name: str) -> None:
    g = gradient(FUNCTIONS[name])
    h = compiled(g)
    for n in (1, 2, 1) if name == "reduce_max" else (1, 2, 3, 1):
        np.testing.assert_allclose(h(X, tf.constant(n)), g(X, n), rtol=1e-5)


def test_not_compiled_anew_for_values_that_no_shape_depends_on() -> None:
    """Of labels and of weights, XLA needs no value: one program serves all."""
    traces = []

    def loss(w: Any, labels: Any) -> Any:
        traces.append(1)
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, w))

    g = compiled(lambda w, labels: symbolic_gradient([w, labels], f=loss)[0])
    for seed in range(3):
        labels = tf.constant(np.random.default_rng(seed).integers(0, 3, 5), tf.int32)
        want = tf.nn.softmax(X * seed) - tf.one_hot(labels, 3)
        np.testing.assert_allclose(g(X * seed, labels), want, atol=1e-6)
    assert not marked(g.get_concrete_function(X, labels))


def marked(concrete: Any) -> list[str]:
    """The nodes that the user's own functions have as marks: none, ever."""
    functions = concrete.graph.as_graph_def().library.function
    nodes = [*concrete.graph.as_graph_def().node, *(node for f in functions for node in f.node_def)]
    return [node.name for node in nodes if "_XlaCompileTimeConstantInputs" in node.attr]


@pytest.mark.parametrize("name", ["cumsum", "slice of a stack", "tile", "fill", "last"])
def test_size_that_is_known_at_run_time_only(name: str) -> None:
    """The counter of a loop around the op."""
    g = gradient(FUNCTIONS[name])

    def loop(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, g(x, i)), (1, x))[1]

    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must be a compile-time constant: pass a constant"
    ) as error:
        compiled(loop)(X)
    assert "input 1" in str(error.value)


def test_index_that_is_known_at_run_time_only() -> None:
    """XLA can do without."""
    g = gradient(FUNCTIONS["index"])

    def loop(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y + g(x, i)), (0, x))[1]

    np.testing.assert_allclose(compiled(loop)(X), X + g(X, 0) + g(X, 1) + g(X, 2), rtol=1e-6)


def test_shape_that_depends_on_the_data() -> None:
    def f(x: Any) -> Any:
        return squares(tf.cumsum(x[: tf.cast(x[0, 0] * 4, tf.int32)], 0))

    def g(x: Any) -> Any:
        return symbolic_gradient([x], f=f)[0]

    np.testing.assert_allclose(compiled(g)(X), g(X), rtol=1e-5)


def test_second_derivative() -> None:
    first = gradient(FUNCTIONS["cumsum"])

    def g(x: Any, n: Any) -> Any:
        return symbolic_gradient([x, n], f=lambda x, n: squares(first(x, n)))[0]

    np.testing.assert_allclose(compiled(g)(X, tf.constant(2)), g(X, 2), rtol=1e-5)

    def tape(x: Any, n: Any) -> Any:
        with tf.GradientTape() as t:
            t.watch(x)
            y = squares(first(x, n))
        return t.gradient(y, x)

    np.testing.assert_allclose(compiled(tape)(X, tf.constant(2)), g(X, 2), rtol=1e-5)
