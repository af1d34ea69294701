"""Under tf_symgrad.enable(): calls, branches and loops of a graph are differentiated where they stand."""

import collections
import gc
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import gradients_util
from tensorflow.python.ops.linalg.sparse import sparse_csr_matrix_ops

import tf_symgrad
from tests.oracles import taped

_backward, _enable, _library, _pullback, _structure = (
    importlib.import_module(f"tf_symgrad.{name}")
    for name in ("_backward", "_enable", "_library", "_pullback", "_structure")
)
RANDOM = np.random.default_rng(0)
X = tf.constant(RANDOM.normal(size=(3, 4)), tf.float32)


def variable(*shape: int) -> tf.Variable:
    return tf.Variable(RANDOM.normal(size=shape), dtype=tf.float32)


W, U, V, COUNT = variable(4, 4), variable(4, 4), variable(4, 4), tf.Variable(0.0)
VARIABLES = [W, U, V]


class Said:
    """What was left to Python: reasons, and the kinds of ops between pullbacks."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.ops: collections.Counter[str] = collections.Counter()


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    left, add = Said(), _backward.Backward._add_opaque

    def counting(self: Any, op: Any, *args: Any) -> Any:
        left.ops[op.type] += 1
        return add(self, op, *args)

    monkeypatch.setattr(_enable, "_say", left.reasons.append)
    monkeypatch.setattr(_backward.Backward, "_add_opaque", counting)
    COUNT.assign(0.0)
    yield left
    tf_symgrad.disable()


CASES: dict[str, Callable[[Any], Any]] = {}


def case(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[f.__name__.replace("_", " ")] = f
    return f


def times(n: int, f: Callable[[Any, Any], Any], x: Any) -> Any:
    """n iterations of f."""
    return tf.while_loop(lambda i, _: i < n, lambda i, y: (i + 1, f(i, y)), (0, x), maximum_iterations=n)[1]


def function(f: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(f, autograph=False)  # type: ignore[no-any-return]


CASES["a branch"] = lambda x: tf.exp(tf.cond(x[0, 0] > 0, lambda: x @ W * U[0], lambda: tf.tanh(x)))
CASES["branches"] = lambda x: tf.switch_case(
    tf.cast(tf.abs(x[0, 0]) * 10, tf.int32) % 3, [lambda: x @ W, lambda: tf.sin(x @ U) * x, lambda: x**3]
)
CASES["a loop"] = lambda x: x * times(3, lambda _, y: tf.tanh(y @ W) + x * U[0], tf.sin(x))
CASES["a loop that ends early"] = lambda x: tf.while_loop(
    lambda _, y: tf.reduce_sum(y**2) < 50.0, lambda i, y: (i + 1, y * 1.5 + tf.sin(y @ W)), (0, x), maximum_iterations=9
)[1]
CASES["a loop in a loop"] = lambda x: times(
    3, lambda _, y: tf.tanh(times(2, lambda _, z: tf.sin(z @ W) + y, y)) * U[0], x
)
CASES["a branch in a loop"] = lambda x: times(
    3, lambda i, y: tf.cond(i > 0, lambda: tf.tanh(y @ W), lambda: tf.sin(y) * U[0]), x
)
CASES["a loop in a branch"] = lambda x: tf.cond(
    x[0, 0] > -9, lambda: times(3, lambda _, y: tf.tanh(y @ W), x), lambda: x * V[0]
)
CASES["a scan"] = lambda x: tf.scan(lambda a, b: tf.tanh(a * b + W[0]), x, tf.zeros([4]))
CASES["a map"] = lambda x: tf.map_fn(lambda row: tf.tanh(tf.linalg.matvec(W, row)) * row, x)
CASES["what is computed of constants"] = lambda x: times(
    3, lambda _, y: tf.tanh(y @ W) * tf.fill([4], 0.5) + tf.linalg.diag(tf.range(4.0))[1], x
)


@case
def arrays(x: Any) -> Any:
    def step(i: Any, y: Any, written: Any) -> Any:
        y = tf.tanh(tf.sort(y) @ W) * rows.read(i)
        return i + 1, y, written.write(i, y[0])

    rows, written = tf.TensorArray(x.dtype, 3).unstack(x), tf.TensorArray(x.dtype, 3, element_shape=[4])
    return tf.while_loop(lambda i, *_: i < 3, step, (0, tf.sin(x), written), maximum_iterations=3)[2].stack()


CASES["what nothing depends on"] = lambda x: tf.while_loop(
    lambda i, *_: i < 3, lambda i, y, z: (i + 1, tf.tanh(y @ W), z @ V), (0, x, x), maximum_iterations=3
)[1]
CASES["masks"] = lambda x: times(3, lambda i, y: tf.nn.experimental.stateless_dropout(tf.tanh(y @ W), 0.5, [1, i]), x)


@case
def calls(x: Any) -> Any:
    layer = function(lambda x, y: (tf.tanh(x @ W), y**2 * U[0]))
    y, _ = layer(2 * x, x)
    z, _ = layer(y + x, x)
    return y * z


@case
def calls_in_calls(x: Any) -> Any:
    f = function(lambda x: tf.sin(x @ W))
    g = function(lambda x: f(x) * f(x + 1))
    return g(x) + f(x)


@case
def calls_of_loops(x: Any) -> Any:
    f = function(CASES["a loop"])
    return f(x) * f(x + 1)


@case
def a_variable_that_a_loop_writes(x: Any) -> Any:
    def step(_: Any, y: Any) -> Any:
        COUNT.assign_add(1.0)
        return y * tf.tanh(y + COUNT)

    return times(3, step, x) * COUNT


IDS, WIDE = tf.constant([0, 1, 1]), tf.constant([3, 0, 3], tf.int64)


def looked_up(ids: Any = IDS, where: Any = W) -> Callable[[], Any]:
    return lambda: tf.gather(where, ids)


# What Python makes of rows: where a branch has some, all have them; those of loops are dense.
ROWS: dict[str, Callable[[Any], Any]] = {
    "a branch that is not taken": lambda x: tf.cond(x[0, 0] > 9, looked_up(), lambda: x),
    "a branch that is": lambda x: tf.cond(x[0, 0] > -9, looked_up(), lambda: x),
    "both branches": lambda x: tf.cond(x[0, 0] > 9, looked_up(), lambda: looked_up(IDS[:1])() + x),
    "a branch that is dense": lambda x: tf.cond(x[0, 0] > 9, looked_up(), lambda: x @ W),
    "rows and dense in one branch": lambda x: tf.cond(x[0, 0] > -9, lambda: looked_up()() + x @ W, looked_up()),
    "indices of two dtypes": lambda x: tf.cond(x[0, 0] > 9, looked_up(WIDE), looked_up()),
    "indices of two dtypes, the other way": lambda x: tf.cond(x[0, 0] > 9, looked_up(), looked_up(WIDE)),
    "a wide index": lambda x: tf.cond(x[0, 0] > 9, looked_up(WIDE), lambda: x),
    "of a tensor": lambda x: tf.cond(x[0, 0] > -9, looked_up(where=2 * x), lambda: x),
    "of what is given": lambda x: tf.cond(x[0, 0] > -9, looked_up(where=x), lambda: x),
    "of a matrix of indices": lambda x: tf.cond(
        x[0, 0] > -9, lambda: tf.reduce_sum(tf.gather(W, [[0, 1], [1, 1], [2, 0]]), 1), lambda: x
    ),
    "a branch in a branch": lambda x: tf.cond(
        x[0, 0] > -9, lambda: tf.cond(x[0, 0] > 9, looked_up(), lambda: 2 * x), lambda: x
    ),
    "a call in a branch": lambda x: tf.cond(x[0, 0] > -9, lambda: function(looked_up())(), lambda: x),
    "branches": lambda x: tf.switch_case(
        tf.cast(x[0, 0] > 9, tf.int32), [looked_up(), lambda: x, lambda: W[:3] * 2, looked_up(WIDE)]
    ),
    "a loop": lambda x: times(3, lambda _, y: y * looked_up()(), x),
    "a loop, and dense": lambda x: times(3, lambda _, y: y * looked_up()() + tf.sin(W[:3]), x),
    "a loop over what it looks up in": lambda x: times(3, lambda _, y: 2 * looked_up(where=y)(), x),
    "a loop over indices": lambda x: times(3, lambda i, y: y * tf.gather(U, [i, 0, i]), x),
    "a branch in a loop": lambda x: times(
        3, lambda i, y: tf.cond(i > 1, lambda: looked_up()() * y, lambda: tf.sin(y)), x
    ),
    "a loop in a branch": lambda x: tf.cond(
        x[0, 0] > -9, lambda: times(3, lambda _, y: y * looked_up()(), x), looked_up()
    ),
    "beside a branch": lambda x: looked_up(WIDE)() * tf.cond(x[0, 0] > 9, looked_up(), lambda: x),
}


def by_tape(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def gradients(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, [x, *VARIABLES])

    return gradients


def total(gradients: Sequence[Any]) -> Any:
    return tf.add_n([tf.reduce_sum(tf.convert_to_tensor(dx) ** 2) for dx in gradients if dx is not None])


def twice(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """By tf.gradients, to second order; and the gradients of something else."""

    def gradients(x: Any) -> Any:
        y = f(x)
        dxs = tf.gradients(y, [x, *VARIABLES])
        return dxs, tf.gradients(total(dxs), [x, *VARIABLES]), tf.gradients(y**2, [x, W])

    return gradients


def nested(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def gradients(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            dxs = by_tape(f)(x)
            y = total(dxs)
        return dxs, tape.gradient(y, [x, *VARIABLES])

    return gradients


def persistent(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def gradients(x: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = f(x)
            z = y**2
        return tape.gradient(z, [x, W]), tape.gradient(y, [x, *VARIABLES]), tape.gradient(y, x)

    return gradients


def kind(gradient: Any) -> str:
    return "none" if gradient is None else "rows" if isinstance(gradient, tf.IndexedSlices) else "dense"


def compare(gradients: Callable[[], Callable[[Any], Any]], kinds: bool = True) -> None:
    COUNT.assign(0.0)
    expected = tf.nest.flatten(gradients()(X))
    COUNT.assign(0.0)
    with tf_symgrad.native():
        got = tf.nest.flatten(gradients()(X))
    if kinds:
        assert [*map(kind, got)] == [*map(kind, expected)]
    for e, g in zip(expected, got, strict=True):
        if kinds and isinstance(e, tf.IndexedSlices):  # an optimizer may do more to a row of zeros than to none
            np.testing.assert_array_equal(np.sort(g.indices), np.sort(e.indices))
            assert g.indices.dtype == e.indices.dtype
        if e is not None or g is not None:
            e, g = (0.0 if x is None else tf.convert_to_tensor(x) for x in (e, g))
            np.testing.assert_allclose(g, e, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("by", [by_tape, twice])
def test_gradients(name: str, by: Any, said: Said) -> None:
    compare(lambda: function(by(CASES[name])))
    assert not said.reasons
    assert not said.ops


# Where nothing flows in second derivatives of loops and branches, TensorFlow has zeros and rows of zeros: its nodes are
# connected by counts of iterations.
LOOSE = {"a loop over what it looks up in", "a loop in a branch"}
# A second derivative that TensorFlow fails to compute.
BROKEN = ("a branch in a loop", nested)


@pytest.mark.parametrize(
    ("name", "by"), [(n, by) for n in ROWS for by in (by_tape, twice, nested) if (n, by) != BROKEN]
)
def test_rows(name: str, by: Any, said: Said) -> None:
    compare(lambda: function(by(ROWS[name])), kinds=by is by_tape or name not in LOOSE)
    if by is by_tape:
        assert not said.ops
    if by is not nested:
        assert not said.reasons


@pytest.mark.parametrize("name", ROWS)
def test_rows_by_eager_tapes(name: str, said: Said) -> None:
    compare(lambda: by_tape(function(ROWS[name])))
    assert not said.reasons
    assert not said.ops


@pytest.mark.parametrize("name", ["rows and dense in one branch", "a loop", "a loop, and dense", "of a tensor"])
def test_rows_compiled(name: str, said: Said) -> None:
    """In branches, XLA wants gradients of one shape: they are dense where rows have not."""
    compare(lambda: tf.function(by_tape(ROWS[name]), autograph=False, jit_compile=True), kinds=False)
    assert not said.reasons
    assert not said.ops


@pytest.mark.parametrize("name", CASES)
def test_eager_tapes(name: str, said: Said) -> None:
    compare(lambda: by_tape(function(CASES[name])))
    assert not said.reasons
    assert not said.ops


# A loop in a branch of an unknown length is no more than TensorFlow itself can compile.
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"a loop in a branch"}))
def test_compiled(name: str, said: Said) -> None:
    compare(lambda: tf.function(by_tape(CASES[name]), autograph=False, jit_compile=True))
    assert not said.reasons
    assert not said.ops


@pytest.mark.parametrize(
    "name", ["a branch", "branches", "calls", "calls in calls", "a loop", "a scan", "arrays", "calls of loops"]
)
@pytest.mark.parametrize("by", [nested, persistent])
def test_tapes_that_ask_again(name: str, by: Any, said: Said) -> None:
    """A loop gets outputs for each derivative, which a tape that has recorded it would miss: that one is Python's."""
    compare(lambda: function(by(CASES[name])))
    assert not said.reasons
    if not {"loop", "loops", "scan", "arrays"} & set(name.split()):
        assert not said.ops


def test_a_tape_that_asks_of_one_input_and_then_of_another(said: Said) -> None:
    """For the second, the loop is Python's, and so are its zeros for the lists that the first has added to it."""

    def gradients(x: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            y = tf.sin(x)
            tape.watch([x, y])
            z = times(3, lambda i, z: tf.sort(z) * tf.tanh(x[i]), y)
        return tape.gradient(z, x), tape.gradient(z, y)

    compare(lambda: function(gradients))
    assert not said.reasons


def in_one_another(x: Any, f: Callable[[Any, Any], Any]) -> Any:
    """Two loops, and what the inner one computes of what neither changes."""
    return times(2, lambda i, y: times(3, lambda j, y: y * f(x, W[:3]), y), x)


def test_a_loop_that_tells_its_length_tells_it_once(said: Said) -> None:
    """An outer loop keeps that for each iteration: all derivatives take the same."""

    def inner(y: Any) -> Any:
        return tf.while_loop(lambda y: tf.reduce_sum(tf.sin(y)) < 3.0, lambda y: (y * 1.5,), [y])[0]

    def loops(x: Any) -> Any:
        return times(2, lambda i, y: inner(tf.tanh(y)), x)

    def again(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return persistent(function(lambda x: total(tf.nest.flatten(f(x)))))

    compare(lambda: function(again(again(loops))), kinds=False)
    assert not said.reasons


SAME: dict[str, Callable[[Any, Any], Any]] = {
    "a product": lambda x, w: tf.sin(x) * tf.tanh(w),
    "of constants": lambda x, w: tf.sin(tf.constant(0.5) + x) * tf.tanh(tf.fill([3, 4], 0.3)) * tf.exp(w),
    "a branch": lambda x, w: tf.cond(x[0, 0] > 9.0, lambda: tf.cos(w), lambda: tf.sin(x) * tf.exp(x)),
    "a call": lambda x, w: function(lambda x: tf.sin(x) * tf.cos(w))(tf.sin(x)),
}


@pytest.mark.parametrize(
    ("same", "where"), [*((same, "alone") for same in SAME), ("a product", "in a call"), ("a call", "in a branch")]
)
def test_what_is_the_same_in_all_iterations_is_kept_once_for_all_gradients(same: str, where: str, said: Said) -> None:
    """TensorFlow differentiates a loop until that gives it no new outputs, if a tape may ask more than once."""

    def loops(x: Any) -> Any:
        return in_one_another(x, SAME[same])

    places: dict[str, Callable[[Any], Any]] = {
        "alone": loops,
        "in a call": lambda x: function(lambda x: loops(x) * x)(tf.sin(x)),
        "in a branch": lambda x: tf.cond(x[0, 0] > -9.0, lambda: loops(x), lambda: tf.sin(x)),
    }

    def gradients(x: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = places[where](x)
        return tape.gradient(y, x), tape.gradient(y, W)

    compare(lambda: function(gradients), kinds=False)
    assert not said.reasons


def test_a_sparse_matrix_that_crosses(said: Said) -> None:
    """TensorFlow makes no op of one of which it does not know the shape."""

    def product(x: Any) -> Any:
        matrix = sparse_csr_matrix_ops.dense_to_csr_sparse_matrix(tf.sin(x), [[0, 1], [2, 3]])
        return sparse_csr_matrix_ops.sparse_matrix_mat_mul(matrix, W)

    compare(lambda: function(by_tape(function(product))))
    assert not said.reasons
    assert not said.ops


def limited(n: Callable[[Any], Any], most: int | None = 6) -> Callable[[Any], Any]:
    """A loop of n iterations, which is to be known from the most that there may be, or from n."""

    def loop(x: Any) -> Any:
        end = n(x)
        step = lambda i, y: (i + 1, tf.tanh(y @ W))  # noqa: E731
        return tf.while_loop(lambda i, _: i < end, step, (0, x), maximum_iterations=end if most is None else most)[1]

    return loop


# Loops whose length a function computes, and XLA finds out.
COUNTED: dict[str, Callable[[Any], Any]] = {
    "by a call": limited(function(lambda x: tf.shape(x)[0] + 2), None),
    "by a call of a call": limited(function(lambda x: function(lambda x: tf.shape(x)[0])(x) + 1), None),
    "by a branch": limited(lambda x: tf.cond(x[0, 0] > 9, lambda: 3, lambda: 4)),
    "by data": limited(function(lambda x: tf.cast(tf.reduce_sum(x) * 0, tf.int32) + 3)),
    "by a loop": limited(lambda _: tf.while_loop(lambda i: i < 3, lambda i: (i + 1,), (0,))[0]),
    "by a call within a loop": lambda x: times(2, lambda _, y: limited(function(lambda _: tf.constant(3)))(y), x),
}


@pytest.mark.parametrize("name", COUNTED)
def test_loops_that_functions_count(name: str, said: Said) -> None:
    compare(lambda: tf.function(by_tape(COUNTED[name]), autograph=False, jit_compile=True))
    assert not said.reasons
    assert not said.ops


def kinds(f: Callable[[Any], Any]) -> collections.Counter[str]:
    graph = function(f).get_concrete_function(tf.TensorSpec([3, 4])).graph
    return collections.Counter(op.type for op in graph.get_operations())


@pytest.mark.parametrize(("name", "more"), [("a loop", 2), ("a branch", 1), ("calls", 1)])
def test_a_node_stays_what_it_is(name: str, more: int) -> None:
    """Beside it there is the pullback, and of a loop what it starts from."""
    with tf_symgrad.native():
        both = kinds(by_tape(CASES[name]))
    both -= kinds(CASES[name])
    assert both["PartitionedCall"] + both["StatefulPartitionedCall"] == more
    assert both.keys() <= {"PartitionedCall", "StatefulPartitionedCall", "Const", "Identity"}


def test_python_goes_on_where_a_node_has_outputs(said: Said) -> None:
    """What the engine has extended, TensorFlow's own gradient functions differentiate, too."""

    def gradients(x: Any) -> Any:
        layer = function(lambda x: tf.tanh(x @ W))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = CASES["a loop"](layer(x))
        z = CASES["branches"](y)
        with tf_symgrad.native():
            first = [tf.gradients(t, [x, *VARIABLES]) for t in (y, z)]
        return first, [tf.gradients(t, [x, *VARIABLES]) for t in (y, z)], tape.gradient(y, [x, *VARIABLES])

    first, second, third = function(gradients)(X)
    for gradient, other in zip([*first, first[0]], [*second, third], strict=True):
        assert [*map(kind, other)] == [*map(kind, gradient)]
        for a, b in zip(gradient, other, strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not said.ops


@tf.custom_gradient  # type: ignore[untyped-decorator]
def times_42(x: Any) -> Any:
    return x * 2, lambda dy: dy * 42 * x


@tf.custom_gradient  # type: ignore[untyped-decorator]
def both(x: Any, y: Any) -> Any:
    z = tf.tanh(x) * y
    return (z, x + y), lambda dz, ds: (dz * 5 * z, ds * 3 * x)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def deaf(x: Any, y: Any) -> Any:
    return x * y, lambda dz: (dz * 7, None)


def with_variable(x: Any) -> Any:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def f(x: Any) -> Any:
        def gradient(dy: Any, variables: Any = None) -> Any:
            return dy * 3 * W[:3], [tf.ones_like(v) * tf.reduce_sum(dy) for v in variables]

        return x @ W, gradient

    return f(x)


def rows_by_hand(x: Any) -> Any:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def f(w: Any) -> Any:
        return w[:3], lambda dy: tf.IndexedSlices(dy * 2, tf.constant([0, 1, 2]), tf.constant([4, 4]))

    return f(W.read_value()) * x


def with_outsider(z: Any) -> Any:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def f(y: Any) -> Any:
        return y * 2, lambda dy: dy * 3 * tf.exp(z)

    return f


CUSTOM: dict[str, Callable[[Any], Any]] = {
    "a call": lambda x: function(lambda x: times_42(tf.sin(x @ W)))(x),
    "a loop": lambda x: times(2, lambda _, y: tf.tanh(times_42(y) @ W), x),
    "a branch": lambda x: tf.cond(x[0, 0] > -9, lambda: times_42(x @ W), lambda: x),
    "the other branch": lambda x: tf.cond(x[0, 0] > 9, lambda: times_42(x @ W), lambda: x),
    "two outputs": lambda x: function(lambda x: tf.add_n(both(x @ W, tf.sin(x))))(x),
    "an output that nobody uses": lambda x: function(lambda x: both(x @ W, tf.sin(x))[1])(x),
    "none": lambda x: times(3, lambda i, y: deaf(y, x @ W), x),
    "none in a call": lambda x: function(lambda x: deaf(tf.sin(x), x @ W))(x),
    "a variable": lambda x: function(with_variable)(x),
    "TensorFlow's": lambda x: times(2, lambda _, y: tf.nn.silu(y @ W), x),
    "a call in a loop in a branch": lambda x: tf.cond(
        x[0, 0] > -9, lambda: times(2, lambda _, y: function(lambda y: times_42(tf.sin(y)))(y), x), lambda: x
    ),
}


@pytest.mark.parametrize("name", CUSTOM)
@pytest.mark.parametrize("by", [by_tape, twice, nested, persistent])
def test_custom_gradients_in_functions(name: str, by: Any, said: Said) -> None:
    compare(lambda: function(by(CUSTOM[name])))
    assert not said.reasons
    if by is by_tape:
        assert not said.ops


@pytest.mark.parametrize("name", ["a call", "a loop", "a branch"])
def test_python_goes_on_where_a_gradient_was_handed_over(name: str, said: Said) -> None:
    def gradients(x: Any) -> Any:
        y = CUSTOM[name](x)
        with tf_symgrad.native():
            first = tf.gradients(y, [x, W])
        return first, tf.gradients(y, [x, W])

    first, second = function(gradients)(X)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not said.ops


CALL = "StatefulPartitionedCall"


@pytest.mark.parametrize(
    ("f", "left"),
    [
        (lambda x: times(2, lambda _, y: rows_by_hand(y), x), "While"),  # IndexedSlices
        (
            lambda x: times(2, lambda _, y: with_outsider(x)(y), x),
            "StatelessWhile",
        ),  # takes what is outside of the loop
        (lambda x: function(lambda x: tf.ensure_shape(tf.py_function(tf.tanh, [x], tf.float32), [3, 4]))(x), CALL),
        (lambda x: function(lambda x: tf.math.betainc(2.0, 3.0, tf.sigmoid(x)))(x), None),  # differs in constants alone
        (lambda x: function(lambda x: x * tf.cast(tf.range(tf.cast(x[0, 0], tf.int32) + 4), tf.float32))(x), None),
        (lambda x: function(lambda x: tf.nn.max_pool2d(x[None, :, :, None], 2, 1, "VALID"))(x), None),
    ],
)
def test_what_is_left_to_python(f: Any, left: str | None, said: Said) -> None:
    compare(lambda: function(by_tape(f)))
    assert [kind for kind in said.ops if kind in _backward._STRUCTURE] == ([left] if left else [])


def test_one_call_that_is_pythons_leaves_the_rest_to_the_engine(said: Said) -> None:
    assert "Betainc" in tf_symgrad._loader.native().rules()

    def f(x: Any) -> Any:
        y = function(lambda x: tf.math.betainc(2.0 + tf.sigmoid(x), 3.0, tf.sigmoid(x)))(x)
        return times(2, lambda _, y: tf.tanh(y @ W), y)

    compare(lambda: function(by_tape(f)))
    assert said.ops == {"PartitionedCall": 1}
    assert not said.reasons


@pytest.mark.parametrize("fail", [["call"], ["loop"], ["call", "loop"]])
def test_what_the_engine_can_not_do_is_left_to_python_node_by_node(
    fail: list[str], said: Said, monkeypatch: Any
) -> None:
    """Here because the engine is not told some of the functions."""
    library_of, kinds = _structure.library_of, {"call": "StatefulPartitionedCall", "loop": "While"}

    def partial(op: Any, *args: Any) -> Any:
        return ({}, {}) if op.type in [kinds[name] for name in fail] else library_of(op, *args)

    def f(x: Any) -> Any:
        return times(2, lambda _, y: tf.tanh(y @ W), function(lambda x: tf.sin(x @ U))(x)) * CASES["a branch"](x)

    monkeypatch.setattr(_structure, "library_of", partial)
    compare(lambda: function(by_tape(f)))
    assert said.ops == {kinds[name]: 1 for name in fail}
    assert len(said.reasons) == len(fail)
    for reason, kind in zip(sorted(said.reasons), sorted(kinds[name] for name in fail), strict=True):
        assert f"(op {kind}) alone" in reason


def test_gradients_are_as_pythons_of_unused_outputs() -> None:
    """Python differentiates all outputs of a call, so that there are zeros where nothing flows."""

    def f(x: Any) -> Any:
        return function(lambda x: (x @ W, x @ U))(x)[0]

    stock = gradients_util._GradientsHelper
    with tf_symgrad.native():
        got = function(lambda x: tf.gradients(f(x), [x, *VARIABLES]))
        graph = got.get_concrete_function(tf.TensorSpec([3, 4]))
    assert stock is gradients_util._GradientsHelper
    assert [*map(kind, graph.structured_outputs)] == ["dense", "dense", "dense", "none"]
    compare(lambda: function(lambda x: tf.gradients(f(x), [x, *VARIABLES])))


def cosines(x: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, tf.cos(y)), [0, x])[1]


def nested_loops(x: Any) -> Any:
    def products(y: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 2, lambda i, z: (i + 1, tf.cos(z) * z), [0, y])[1]

    return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, products(y)), [0, x])[1]


def masked_loops(x: Any) -> Any:
    def clipped(y: Any) -> Any:
        return tf.while_loop(
            lambda i, _: i < 2, lambda i, z: (i + 1, tf.maximum(tf.reduce_mean(z), z) * tf.sin(z)), [0, y]
        )[1]

    return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, clipped(y)), [0, x])[1]


def bounded_loops(x: Any) -> Any:
    def bounded(y: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 2, lambda i, z: (i + 1, tf.maximum(tf.cos(z) * z, 0.1 * y)), [0, y])[1]

    return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, bounded(y)), [0, x])[1]


def scanned(x: Any) -> Any:
    return tf.reduce_sum(tf.scan(lambda a, b: tf.sin(a * b), tf.stack([x, x, x]), initializer=x))


def branch(x: Any) -> Any:
    return tf.cond(x > 0, lambda: tf.sin(x) * x, lambda: x)


RNN = tf.keras.layers.SimpleRNN(
    2, kernel_initializer=tf.keras.initializers.Constant([[0.8, -0.6]]), recurrent_initializer="identity"
)


def recurrent(x: Any) -> Any:
    return tf.reduce_sum(RNN(tf.reshape(x, [1, 1, 1]) * tf.constant([[[0.5], [-0.3], [0.2]]])) ** 2)


@pytest.mark.parametrize(
    ("f", "order"),
    [
        *((f, order) for f in (cosines, branch, scanned, nested_loops) for order in (0, 1, 2)),
        (masked_loops, 0),
        (masked_loops, 1),
        (bounded_loops, 2),  # TensorFlow's own gradient of loops goes on with those of the engine
        (recurrent, 2),
    ],
)
def test_eager_tapes_that_may_ask_again_over_derivatives(f: Callable[[Any], Any], order: int, said: Said) -> None:
    """TensorFlow differentiates a function until that gives it no new outputs: a loop keeps nothing twice."""
    x = tf.constant(0.3)
    if f is recurrent:
        f(x)  # which makes its variables
    once, expected = f, f
    for _ in range(order):
        once = taped(once)
    for _ in range(order + 1):
        expected = tf_symgrad.grad(expected)
    expected = tf.function(expected)(x)
    with tf_symgrad.native():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = tf.function(once)(x)
        np.testing.assert_allclose(tape.gradient(y, x), expected, rtol=1e-4)
        with tf.GradientTape(), tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.function(once)(x)
        np.testing.assert_allclose(inner.gradient(y, x), expected, rtol=1e-4)
    assert not said.reasons


def rows_of(f: Callable[[Any], Any], x: Any) -> Any:
    """A loop that reads an array and writes another one."""
    rows = tf.TensorArray(x.dtype, 3, element_shape=[None]).unstack(x)
    made = tf.TensorArray(x.dtype, 3, element_shape=[4])

    def step(i: Any, state: Any, made: Any) -> Any:
        state = f(state) * tf.tanh(rows.read(i))
        return i + 1, state, made.write(i, state[0])

    state = tf.ones_like(x) * tf.reduce_mean(x)
    return tf.while_loop(lambda i, *_: i < 3, step, [0, state, made])[2].stack()


def test_sums_of_lists_of_which_unequally_much_is_known(said: Said) -> None:
    """TensorFlow refuses them, in a function that is called, too, where it knows less of a list than its graph does."""

    def scattered(x: Any) -> Any:
        return tf.tensor_scatter_nd_update(x, [[1], [0]], x[:2])

    def loops(x: Any) -> Any:
        return rows_of(scattered, rows_of(tf.stop_gradient, x))

    def of(f: Any) -> Any:
        def gradient(x: Any) -> Any:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(x)
                y = tf.reduce_sum(f(x) * tf.cos(x))
            return tape.gradient(y, x)

        return tf.function(gradient, autograph=False).get_concrete_function(X)

    compare(lambda: of(of(tf.function(loops, autograph=False).get_concrete_function(X))))
    assert not said.reasons


def arrays_of_rows(x: Any) -> Any:
    return rows_of(tf.sin, x)


JACOBIANS: dict[str, Callable[[Any], Any]] = {
    "a loop": lambda x: times(3, lambda i, y: tf.sin(y), x),
    "arrays": arrays_of_rows,
    "a map": lambda x: tf.map_fn(lambda row: row * tf.sin(row), x),
    "a scan": lambda x: tf.scan(lambda a, row: tf.sin(a * row), x, initializer=x[0]),
    "a call of a loop": lambda x: function(lambda x: times(3, lambda i, y: tf.sin(y), x))(x),
}


@pytest.mark.parametrize("name", JACOBIANS)
def test_jacobians_of_gradients_of_loops(name: str, said: Said) -> None:
    """TensorFlow vectorises what it knows the elements of, or nothing: lists that a node got as outputs among it."""

    def jacobians(vectorised: bool) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            with tf.GradientTape(persistent=True) as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = tf.reduce_sum(JACOBIANS[name](x) * tf.cos(x))
                dx = inner.gradient(y, x)
            by_rows = outer.batch_jacobian(dx, x, experimental_use_pfor=vectorised)
            return outer.jacobian(dx, x, experimental_use_pfor=vectorised), by_rows

        return function(run)

    expected = jacobians(vectorised=False)(X)
    with tf_symgrad.native():
        got = jacobians(vectorised=True)(X)
    for e, g in zip(expected, got, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5)
    assert not said.reasons


def test_graphs_of_one_function_have_names_of_their_own() -> None:
    """TensorFlow names after them what it makes of a loop's body, which another loop of that body may not return."""
    with tf.Graph().as_default():
        loop = next(op for op in cosines(tf.constant(0.3)).op.graph.get_operations() if "While" in op.type)
        names = []
        for _ in range(2):
            _pullback.set_graphs(loop)
            names.append(loop._body_graph.name)
    assert len({*names, loop.get_attr("body").name}) == 3


def test_what_was_made_natively_is_differentiated_by_python_afterwards() -> None:
    """A loop over a variable in a branch, whose graphs were the engine's functions."""
    scale = tf.Variable(2.0)

    @tf.function(autograph=False)
    def f(x: Any) -> Any:
        def loop() -> Any:
            return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y) * scale), [0, x])[1]

        return tf.cond(x < 1.0, loop, lambda: x)

    def derivative(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    x = tf.constant(0.3)
    with tf_symgrad.native():
        expected = derivative(x)
    np.testing.assert_allclose(tf.function(derivative, autograph=False)(x), expected, rtol=1e-6)
    np.testing.assert_allclose(derivative(x), expected, rtol=1e-6)


def test_a_function_stays_when_its_last_other_reference_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python may collect that at any time: while the next one is made, too."""
    definition = tf.function(tf.sin).get_concrete_function(tf.constant(0.3)).function_def
    definition.signature.name = "stays"
    references = [_library.atomic(definition)]
    make = _library._Definition.__init__

    def make_late(*args: Any) -> None:
        references.clear()
        gc.collect()
        make(*args)

    monkeypatch.setattr(_library._Definition, "__init__", make_late)
    function = _library.atomic(definition)
    assert context.context().has_function("stays")
    del function
    gc.collect()
    assert not context.context().has_function("stays")


def test_no_call_is_named_like_one_that_was_written_out() -> None:
    """TensorFlow inlines it, and would name its nodes like those of the other."""

    def f(x: Any) -> Any:
        with tf.name_scope("loop/start"):
            return tf.sin(x)

    x = tf.constant(0.3)
    definition = tf.function(f).get_concrete_function(x).function_def
    definition.signature.name = "written_out"  # that of f is taken
    graph = _pullback.concrete(_library.atomic(definition), [x]).graph
    assert "loop/start/Sin" in {op.name for op in graph.get_operations()}
    assert graph.unique_name("loop/start") == "loop/start_1"
    assert graph.unique_name("loop") == "loop_1"


def test_a_backward_function_that_would_grow_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all end, and TensorFlow would not."""
    x = tf.constant(0.3)
    with tf_symgrad.native():
        second = tf.function(taped(taped(cosines)))
        monkeypatch.setattr(_enable, "_MAX_GROWTH", 1)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            with pytest.raises(RuntimeError, match="no backward function can be made"):
                second(x)


def test_nodes_that_a_session_has_run_stay_as_they_are() -> None:
    """Where TensorFlow is told to give branches and loops all outputs at once, so that there is nothing to add."""
    v1 = tf.compat.v1
    v1.experimental.output_all_intermediates(True)
    try:
        with tf.Graph().as_default(), v1.Session() as session, tf_symgrad.native():
            x = tf.constant(2.0)
            y = tf.cond(x > 1.0, lambda: tf.square(x * x), lambda: x)
            z = tf.while_loop(lambda i, _: i < 2, lambda i, z: (i + 1, z * x), [0, y])[1]
            assert session.run(z) == 64.0
            (first,) = tf.gradients(z, x)
            (second,) = tf.gradients(first, x)  # not after a run of the first: of gradients TensorFlow returns no more
            assert session.run([first, second]) == [192.0, 480.0]
    finally:
        v1.experimental.output_all_intermediates(None)
