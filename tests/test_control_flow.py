"""Branches and loops, against GradientTape at order 1 and 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, types_pb2

import tf_symgrad
from tests import structure
from tf_symgrad import _loader

Fn = Callable[..., Any]

VECTOR = np.array([0.3, 0.8, 0.5])
OTHER = np.array([0.9, 0.2, 0.7])
MATRIX = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.4], [0.6, 0.8, 0.9]])


def loop(count: int, body: Fn, *variables: Any, **options: Any) -> Any:
    """The first variable after `count` times body."""
    result = tf.while_loop(lambda i, *_: i < count, lambda i, *v: (i + 1, *body(i, *v)), (0, *variables), **options)
    return result[1]


def nested(x: Any) -> Any:
    def body(i: Any, v: Any) -> tuple[Any]:
        v = tf.while_loop(lambda j, u: j < i, lambda j, u: (j + 1, tf.sin(u) * x), (0, v))[1]
        return (tf.cond(tf.reduce_sum(v) > 1.0, lambda: v * x, lambda: v + x),)

    return loop(3, body, x)


def nested_branches(depth: int) -> Fn:
    def f(x: Any) -> Any:
        y = x * 1.5
        for _ in range(depth):
            y = tf.cond(tf.reduce_sum(y) > 0.0, lambda y=y: tf.sin(y) + x, lambda y=y: y * x)
        return y

    return f


FUNCTIONS: list[tuple[str, Fn, tuple[Any, ...]]] = [
    ("branch taken", lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: tf.sin(x) * x, lambda: tf.exp(x)), (VECTOR,)),
    ("branch not taken", lambda x: tf.cond(tf.reduce_sum(x) < 0.0, lambda: x * x, lambda: tf.exp(x)), (VECTOR,)),
    (
        "branches with different inputs and residuals",
        lambda x, y: tf.cond(tf.reduce_sum(x) < 0.0, lambda: tf.sin(x) * tf.tanh(x), lambda: tf.exp(y)),
        (VECTOR, OTHER),
    ),
    (
        "a branch that ignores its input",
        lambda x: x * tf.cond(x[0] > 0.0, lambda: 2.0 * tf.ones(3, x.dtype), lambda: x),
        (VECTOR,),
    ),
    (
        "case",
        lambda x: tf.switch_case(
            tf.cast(x[0] * 4.0, tf.int32), [lambda: x * x, lambda: tf.sin(x) * tf.cos(x), lambda: x]
        ),
        (VECTOR,),
    ),
    ("branch after branch", nested_branches(4), (VECTOR,)),
    ("loop", lambda x: loop(4, lambda i, v: (tf.sin(v) * v,), x), (VECTOR,)),
    ("loop of no iteration", lambda x: loop(0, lambda i, v: (tf.sin(v) * v,), x), (VECTOR,)),
    (
        "loop-invariant weights",
        lambda x, m: loop(4, lambda i, v: (tf.tanh(tf.linalg.matvec(m, v)) + x,), x),
        (VECTOR, MATRIX),
    ),
    (
        "as many iterations as the data say",
        lambda x: tf.while_loop(lambda v: tf.reduce_sum(v) < 20.0, lambda v: (v * 1.7 + x,), (x,))[0],
        (VECTOR,),
    ),
    (
        "variables that swap, one without influence",
        lambda x, y: loop(3, lambda i, a, b, c: (b * x, tf.sin(a), c * 2.0), x, y, y),
        (VECTOR, OTHER),
    ),
    ("loops and branches in loops", nested, (VECTOR,)),
    (
        "a shape that grows",
        lambda x: tf.reduce_sum(
            loop(
                3,
                lambda i, v: (tf.concat([v, tf.sin(v)], 0),),
                x,
                shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
            )
        ),
        (VECTOR,),
    ),
    ("scan", lambda x: tf.scan(lambda a, e: a * e + tf.sin(e), x), (VECTOR,)),
    ("map_fn", lambda x: tf.map_fn(lambda e: e * e * x[0], x), (VECTOR,)),
    ("foldl", lambda x: tf.foldl(lambda a, e: a * e + tf.sin(e), x), (VECTOR,)),
]


def tape(f: Fn, xs: list[Any], dy: Any) -> list[Any]:
    with tf.GradientTape() as t:
        t.watch(xs)
        y = f(*xs)
    gradients = t.gradient(y, xs, output_gradients=dy)
    return [tf.zeros_like(x) if g is None else tf.convert_to_tensor(g) for g, x in zip(gradients, xs, strict=True)]


@pytest.mark.parametrize(("name", "f", "values"), FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
def test_like_the_tape(name: str, f: Fn, values: tuple[Any, ...]) -> None:
    xs = [tf.constant(v) for v in values]
    concrete = tf.function(f).get_concrete_function(*xs)
    dy = tf.reshape(tf.cast(tf.range(1, 1 + tf.size(f(*xs))), tf.float64), tf.shape(f(*xs))) / 3.0

    def native(*xs: Any) -> list[Any]:
        return tf_symgrad.symbolic_gradient([*xs, dy], f=concrete)

    expected = tf.function(lambda *xs: tape(f, list(xs), dy))(*xs)
    for run in (native, tf.function(native)):
        for got, want in zip(run(*xs), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)

    ones = [tf.ones_like(x) for x in xs]
    second = tf_symgrad.symbolic_gradient([*xs, *ones], f=tf.function(native).get_concrete_function(*xs))
    expected = tf.function(
        lambda *xs: tape(lambda *xs: tf.add_n([tf.reduce_sum(g) for g in tape(f, list(xs), dy)]), list(xs), None)
    )(*xs)
    for got, want in zip(second, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)


def test_the_gradient_of_a_weight_is_one_product_after_the_loop() -> None:
    """Rows of all iterations are multiplied at once; a bias takes the operands that are there for the weight."""
    x, w, b = tf.TensorSpec([9, 2, 4]), tf.TensorSpec([8, 4]), tf.TensorSpec([4])

    def f(x: Any, w: Any, b: Any) -> Any:
        return tf.reduce_sum(loop(9, lambda i, h: (tf.tanh(tf.concat([x[i], h], 1) @ w + b),), x[0]) ** 2)

    concrete = tf.function(f).get_concrete_function(x, w, b)
    _, library = tf_symgrad.gradient_function(concrete, [False, True, True])
    bodies = [f for f in library.function if "body_pullback" in f.signature.name]
    sums = [node for f in bodies for node in f.node_def if node.op == "AddV2" and node.attr["T"].type == tf.float32]
    assert not sums
    assert sum(node.op == "TensorListConcatV2" for f in library.function for node in f.node_def) == 2

    rng = np.random.default_rng(0)
    xs = [tf.constant(rng.normal(size=spec.shape), tf.float32) for spec in (x, w, b)]
    expected = tf.function(lambda *xs: tape(f, list(xs), None))(*xs)
    for got, want in zip(tf_symgrad.symbolic_gradient(xs, f=concrete), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def layer(count: int | None = None) -> Fn:
    """Over the first `count` of xs, or all, with weights that are larger than what an iteration multiplies."""

    def f(xs: Any, w: Any, b: Any) -> Any:
        n = tf.shape(xs)[0] if count is None else count
        return tf.reduce_sum(
            loop(n, lambda i, h: (tf.tanh(tf.concat([xs[i], h], 1) @ w + b),), tf.zeros([16, 60], b.dtype)) ** 2
        )

    return f


LAYER = ((16, 4), (64, 60), (60,))  # an element of xs, w, b


def loops_in(library: Any, name: str) -> list[Any]:
    """The loops of the functions so named."""
    found = [f.node_def for f in library.function if name in f.signature.name]
    return [node for nodes in found for node in nodes if node.op.endswith("While")]


@pytest.mark.parametrize(("count", "blocks"), [(16, 0), (17, 1), (40, 1), (None, 1)])
def test_products_over_rows_are_done_beside_the_next_block(count: int | None, blocks: int) -> None:
    x, w, b = (tf.TensorSpec(shape) for shape in LAYER)
    concrete = tf.function(layer(count)).get_concrete_function(tf.TensorSpec([count, *x.shape]), w, b)
    _, library = tf_symgrad.gradient_function(concrete, [False, True, True])
    taken = {node.attr["body"].func.name for node in structure.nodes(library) if node.op.endswith("While")}
    assert len(loops_in(library, "while_pullback")) == 1
    assert len([f for f in taken if "block_pullback" in f]) == blocks
    if blocks:
        [outer] = loops_in(library, "while_pullback")
        [body] = [f for f in library.function if f.signature.name == outer.attr["body"].func.name]
        assert {"StatelessWhile", "TensorListConcatV2"} <= {node.op for node in body.node_def}


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 17, 24, 35])
def test_blocks_of_all_lengths(count: int, static: bool) -> None:
    """With a last block that is full, that is not, and none; and their derivative, which is no loop of loops."""
    rng = np.random.default_rng(0)
    x, w, b = (tf.constant(0.3 * rng.normal(size=shape)) for shape in ((count, *LAYER[0]), *LAYER[1:]))
    f = layer(count if static else None)
    specs = [tf.TensorSpec([count if static else None, *LAYER[0]], tf.float64), w, b]
    concrete = tf.function(f).get_concrete_function(*specs)
    one = tf.constant(1.0, tf.float64)

    def native(x: Any, w: Any, b: Any) -> Any:
        return tf.add_n([tf.reduce_sum(g**2) for g in tf_symgrad.symbolic_gradient([x, w, b, one], f=concrete)])

    for got, want in zip(
        tf_symgrad.symbolic_gradient([x, w, b, one], f=concrete),
        tf.function(lambda *xs: tape(f, list(xs), None))(x, w, b),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)

    penalty = tf.function(native).get_concrete_function(*specs)
    _, library = tf_symgrad.gradient_function(penalty)
    bodies = {node.attr["body"].func.name for node in structure.nodes(library) if node.op.endswith("While")}
    assert not any("While" in node.op for f in library.function if f.signature.name in bodies for node in f.node_def)
    expected = tf.function(
        lambda *xs: tape(lambda *xs: tf.add_n([tf.reduce_sum(g**2) for g in tape(f, list(xs), None)]), list(xs), None)
    )(x, w, b)
    for got, want in zip(tf_symgrad.symbolic_gradient([x, w, b, one], f=penalty), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("named", ["", "nothing", "other", "itself"])
def test_what_a_loop_is_the_same_as_must_fit(named: str) -> None:
    """An attr that leads nowhere, or to what takes or gives something else, does not lead away from the loop."""
    f = tf.function(lambda x: loop(3, lambda i, v: (v * x,), x)).get_concrete_function(tf.TensorSpec([2]))
    library = function_pb2.FunctionDefLibrary()
    library.CopyFrom(f.graph.as_graph_def().library)
    root, other = library.function.add(), library.function.add()
    root.CopyFrom(f.function_def)
    [node] = [n for n in root.node_def if n.op.endswith("While")]
    node.attr["_symgrad_same_as"].func.name = root.signature.name if named == "itself" else named
    other.signature.name = "other"  # as many inputs and outputs, but of one dtype
    for i in range(len(node.attr["T"].list.type)):
        other.signature.input_arg.add(name=f"x{i}", type=types_pb2.DT_FLOAT)
        other.signature.output_arg.add(name=f"y{i}", type=types_pb2.DT_FLOAT)
        other.ret[f"y{i}"] = f"x{i}"
    asked = attr_value_pb2.NameAttrList(name=root.signature.name).SerializeToString()
    _, gradient = _loader.native().build_gradient(library.SerializeToString(), asked)[:2]
    made = [definition.signature.name for definition in function_pb2.FunctionDefLibrary.FromString(gradient).function]
    assert any("body_pullback" in name for name in made)


def test_a_variable_in_a_loop_and_in_a_branch() -> None:
    w = tf.Variable(OTHER)

    @tf.function
    def f(x: Any) -> Any:
        y = loop(3, lambda i, v: (v * w + x,), x)
        return tf.reduce_sum(tf.cond(tf.reduce_sum(y) > 0.0, lambda: y * w, lambda: y))

    x = tf.constant(VECTOR)
    with tf.GradientTape() as t:
        t.watch(x)
        y = f(x)
    expected = t.gradient(y, [x, w])
    concrete = f.get_concrete_function(tf.TensorSpec([3], tf.float64))
    for got, want in zip(tf_symgrad.symbolic_gradient([x], f=concrete, capture_gradients=True), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_remote_call() -> None:
    """Python has no gradient of it: it is that of the function that is called."""
    spec = tf.TensorSpec([3], tf.float64)
    called = tf.function(lambda x, y: (tf.sin(x) * y, x * x)).get_concrete_function(spec, spec)
    cpu = "/job:localhost/replica:0/task:0/device:CPU:0"

    def remote(x: Any, y: Any) -> Any:
        a, b = tf.raw_ops.RemoteCall(target=cpu, args=[x, y], Tout=[tf.float64, tf.float64], f=called)
        return tf.reduce_sum(a * b)

    def first(f: Fn) -> Fn:
        return lambda x, y: tf.reduce_sum(tf_symgrad.symbolic_gradient([x, y], f=f)[0])

    def local(x: Any, y: Any) -> Any:
        return tf.reduce_sum(tf.sin(x) * y * x * x)

    xs = [tf.constant(VECTOR), tf.constant(OTHER)]
    for f, g in ((remote, local), (first(remote), first(local))):
        got, want = (tf_symgrad.symbolic_gradient(xs, f=h) for h in (f, g))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


MATRIX_SPEC = tf.TensorSpec([3, 3], tf.float64)


def gradient_of(f: Fn, *specs: tf.TensorSpec) -> Any:
    """A library of the gradient function and all that it calls."""
    return tf_symgrad.gradient_function(tf.function(f, autograph=False).get_concrete_function(*specs))[1]


def recurrent(x: Any, w: Any) -> Any:
    """The only stack is that of the states: weights, inputs, positions and next states need none."""
    return loop(4, lambda i, h: (tf.tanh(x[i] @ w + h @ tf.transpose(w)),), x[0])


@pytest.mark.parametrize(
    ("f", "specs", "stacks"),
    [
        (recurrent, [tf.TensorSpec([4, 3, 3], tf.float64), MATRIX_SPEC], 1),
        (lambda x: loop(4, lambda i, v: (tf.sin(v) * v,), x), [MATRIX_SPEC], 2),
        (lambda x: loop(4, lambda i, v: (v + 2.0 * x,), x), [MATRIX_SPEC], 0),
        (lambda x: loop(4, lambda i, v: (v * tf.cast(i * i, v.dtype),), x), [MATRIX_SPEC], 0),
    ],
)
def test_only_what_the_pullback_needs_is_stacked(f: Fn, specs: list[tf.TensorSpec], stacks: int) -> None:
    pushes = [node for f in gradient_of(f, *specs).function for node in f.node_def if node.op == "TensorListPushBack"]
    assert len(pushes) == stacks


def test_what_is_computed_again_is_found_in_linear_time() -> None:
    """Each value is used twice by the next, and each condition: paths through them double with every step."""

    def body(i: Any, v: Any) -> Any:
        y = v
        for _ in range(60):
            y = y * y
        return i + 1, y

    def condition(i: Any, v: Any) -> Any:
        holds = i < 3
        for _ in range(60):
            holds = tf.logical_and(holds, holds)
        return holds

    f = tf.function(lambda x: tf.while_loop(condition, body, (0, x))[1], autograph=False)
    ones = tf.ones([3], tf.float64)
    (dx,) = tf_symgrad.symbolic_gradient([ones, ones], f=f.get_concrete_function(tf.TensorSpec([3], tf.float64)))
    np.testing.assert_allclose(dx, np.full(3, 2.0**180))


@pytest.mark.parametrize("n", [3, 12])
def test_variables_that_take_their_values_from_one_another(n: int) -> None:
    """A cotangent of one variable reaches all others, one more with each iteration."""

    def body(i: Any, *v: Any) -> Any:
        return i + 1, *(v[(k + 1) % n] * (1 + 0.1 * k) for k in range(n))

    def f(x: Any) -> Any:
        start = [x * k for k in range(1, n + 1)]
        return tf.while_loop(lambda i, *_: i < n + 2, body, (0, *start))[1]

    x = tf.constant([0.5, -1.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.function(f)(x)
    (dx,) = tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=f)
    np.testing.assert_allclose(dx, tape.gradient(y, x), rtol=1e-12)


def test_the_length_of_a_list_is_known_in_a_loop() -> None:
    """The zeros that the cotangent of a list begins with are made when building, not of the list."""
    library = gradient_of(lambda x: tf.map_fn(lambda t: t * tf.sin(t), x), MATRIX_SPEC)
    ops = {node.op for f in library.function for node in f.node_def}
    assert "TensorListReserve" in ops
    assert not {"TensorListLength", "TensorListElementShape"} & ops


def until_large(x: Any, **options: Any) -> Any:
    return tf.while_loop(lambda v: tf.reduce_sum(v) < 9.0, lambda v: (tf.exp(v),), (x,), **options)[0]


@tf.function
def by_range(count: int, x: Any) -> Any:
    for _ in tf.range(1, 1 + 2 * count, 2):
        x = tf.sin(x)
    return x


@pytest.mark.parametrize(
    ("f", "bound"),
    [
        (lambda x: loop(4, lambda i, v: (tf.sin(v),), x), 4),
        (lambda x: by_range(5, x), 5),
        (lambda x: until_large(x, maximum_iterations=7), 7),
        (lambda x: tf.while_loop(lambda i, v: i >= 2, lambda i, v: (i - 3, tf.sin(v)), (10, x))[1], 3),
        (
            lambda x: tf.while_loop(lambda i, v: i < 1, lambda i, v: (i + 1, tf.sin(v)), (1, x))[1],
            1,
        ),  # which XLA compiles
        (until_large, -1),
        (lambda x: tf.while_loop(lambda i, v: i < 9, lambda i, v: (i * 2, tf.sin(v)), (1, x))[1], -1),
    ],
)
def test_a_stack_is_as_long_as_the_loop_where_that_can_be_read(f: Fn, bound: int) -> None:
    """XLA compiles stacks of fixed length only."""
    lengths = set()
    for function in gradient_of(f, MATRIX_SPEC).function:
        nodes = {node.name: node for node in function.node_def}
        lists = [node for node in function.node_def if node.op == "EmptyTensorList"]
        lengths |= {nodes[node.input[1].split(":")[0]].attr["value"].tensor.int_val[0] for node in lists}
    assert lengths == {bound}


def test_a_loop_that_is_counted_asks_for_nothing_else() -> None:
    """On a GPU each part of a condition, which is a number of the host, would go to the device and back."""
    library = gradient_of(lambda x: loop(4, lambda i, v: (tf.sin(v),), x, maximum_iterations=9), MATRIX_SPEC)
    functions = {function.signature.name: function for function in library.function}
    loops = [node for node in structure.nodes(library) if node.op.endswith("While")]
    conditions = [sorted(node.op for node in functions[x.attr["cond"].func.name].node_def) for x in loops]
    assert conditions == [["Const", "Less"]] * 2


@pytest.mark.parametrize("jit", [False, True], ids=["function", "jit"])
def test_products_after_a_loop_have_derivatives(jit: bool) -> None:
    """The rows of all iterations are more than those of one: a weight's and a bias's gradient, again."""
    rng = np.random.default_rng(0)
    x = [tf.constant(rng.normal(size=shape)) for shape in ([40, 40], [40], [2, 40])]
    one = tf.constant(1.0, tf.float64)

    def f(w: Any, b: Any, h: Any) -> Any:
        return tf.reduce_sum(tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, tf.tanh(h @ w + b)), [0, h])[1])

    def penalty(dx: Any) -> Any:
        return tf.reduce_sum(tf.sin(dx[0])) + tf.reduce_sum(tf.sin(dx[1]))

    def once(*x: Any) -> Any:
        return penalty(tf_symgrad.symbolic_gradient([*x, one], f=f))

    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = f(*x)
        z = penalty(inner.gradient(y, x))
    got = tf.function(lambda *x: tf_symgrad.symbolic_gradient([*x, one], f=once), jit_compile=jit, autograph=False)(*x)
    for a, b in zip(got, outer.gradient(z, x), strict=True):
        np.testing.assert_allclose(a, b, 1e-9, 1e-12)


NEVER: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "an index": (lambda a, i: tf.sin(tf.gather(a, i)), 7),
    "a shape": (lambda a, i: tf.reduce_sum(tf.sin(tf.reshape(a, [i, 2]))), 5),
    "a factor": (lambda a, i: tf.reduce_sum(tf.linalg.cholesky(tf.reshape(a, [2, 2]) - tf.eye(2))), 0),
    "rows of a variable": (lambda a, i: tf.sin(tf.gather(TABLE, i)) * a[0], 7),
}
TABLE = tf.Variable([1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", NEVER)
def test_what_no_iteration_computes_does_not_fail(name: str) -> None:
    """It is the same in all iterations, and is computed beside the loop, unless that could end in an error."""
    of, i = NEVER[name]

    @tf.function(autograph=False)
    def f(x: Any, a: Any, i: Any, n: Any) -> Any:
        return tf.while_loop(lambda k, _: k < n, lambda k, y: (k + 1, y * of(a, i)), [0, x])[1]

    def by_tape(*args: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(args[:2])
            y = f(*args)
        return tape.gradient(y, args[:2], unconnected_gradients="zero")

    args = tf.constant(2.0), tf.constant([0.5, 0.0, 0.0, 0.5]), tf.constant(i), tf.constant(0)
    expected = [1.0, np.zeros(4)]
    got = tf_symgrad.grad(f, wrt=(0, 1))(*args)
    with tf_symgrad.native():
        for gradients in (got, by_tape(*args), tf.function(by_tape)(*args)):
            for g, e in zip(gradients, expected, strict=True):
                np.testing.assert_array_equal(g, e)
