"""Attr `wrt`: gradients of some inputs alone; and resources that are no variables, which have none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_symgrad import raw_ops

X = np.array([0.5, -1.0, 2.0], np.float32)
SPEC = tf.TensorSpec([3], tf.float32)
RUNS = {
    "eager": lambda f: f,
    "function": lambda f: tf.function(f, autograph=False),
    "xla": lambda f: tf.function(f, autograph=False, jit_compile=True),
}
runs = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


@pytest.fixture(params=["pass", "kernel"], autouse=True)
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TF_SYMGRAD_DISABLE_PASS", "1" if request.param == "kernel" else "0")
    return str(request.param)


def concrete(f: Callable[..., Any], *specs: Any) -> Any:
    return tf.function(f, autograph=False).get_concrete_function(*specs)


def gradients(inputs: Any, f: Any, wrt: Any) -> list[Any]:
    return raw_ops.SymbolicGradient(input=inputs, Tout=[tf.float32] * sum(wrt), f=f, wrt=wrt)


# ---- Some inputs of several. ----


@runs
@pytest.mark.parametrize("wrt", [(1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_wanted_inputs_alone(wrt: tuple[int, ...], run: Any) -> None:
    def f(x: Any, y: Any, z: Any) -> Any:
        return x * y**2 * z**3

    function = concrete(f, SPEC, SPEC, SPEC)
    got = run(lambda x: gradients([x, 2 * x, 3 * x, tf.ones(3)], function, [bool(w) for w in wrt]))(tf.constant(X))
    y, z = 2 * X, 3 * X
    want = [y**2 * z**3, 2 * X * y * z**3, 3 * X * y**2 * z**2]
    want = [d for d, wanted in zip(want, wrt, strict=True) if wanted]
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5)


@runs
def test_op_in_op(run: Any) -> None:
    square = concrete(lambda a, b: a * b**3, SPEC, SPEC)
    inner = concrete(lambda x: gradients([x, x, tf.ones(3)], square, [False, True])[0], SPEC)  # 3 x b^2
    got = run(lambda x: gradients([x, tf.ones(3)], inner, [True])[0])(tf.constant(X))
    np.testing.assert_allclose(got, 9 * X**2, rtol=1e-5)


@runs
def test_variable_that_is_not_wanted(run: Any) -> None:
    v = tf.Variable(X)
    f = concrete(lambda x: x**2 * v, SPEC)

    def outer(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, v])
            (dx,) = gradients([x, v.handle, tf.ones(3)], f, [True, False])
        return dx, *tape.gradient(dx, [x, v])

    for got, want in zip(run(outer)(tf.constant(X)), [2 * X * X, 2 * X, 2 * X], strict=True):
        np.testing.assert_allclose(got, want)


def test_static_shapes() -> None:
    def read(x: Any, v: Any) -> Any:
        return tf.reduce_sum(x) * tf.raw_ops.ReadVariableOp(resource=v, dtype=tf.float32)

    f = concrete(read, SPEC, tf.TensorSpec([], tf.resource))
    with tf.Graph().as_default():
        v = tf.compat.v1.get_variable("v", shape=[5], use_resource=True)
        (dv,) = gradients([tf.zeros(3), v.handle, tf.zeros(5)], f, [False, True])
        assert dv.shape == [5]


@pytest.mark.parametrize(
    ("wrt", "tout", "message"),
    [
        ([True], 1, r"wrt has length 1, needs 2: a flag for each of the N inputs of the function"),
        ([True, False, True], 2, r"wrt has length 3, needs 2"),
        ([True, False], 2, r"wrt asks for 1 gradients, but Tout has 2 dtypes"),
        ([True, True], 1, r"wrt asks for 2 gradients, but Tout has 1 dtypes"),
        ([True, False, False, False], 1, r"wrt has 4 flags and Tin only 3 dtypes"),
    ],
)
def test_wrong_wrt(wrt: list[bool], tout: int, message: str) -> None:
    f = concrete(lambda x, y: x * y, SPEC, SPEC)
    g = tf.function(lambda x: raw_ops.SymbolicGradient(input=[x, x, x], Tout=[tf.float32] * tout, f=f, wrt=wrt))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        g(tf.constant(X))


def test_dtype_of_a_wanted_input() -> None:
    f = concrete(lambda i, x: x * tf.cast(i, x.dtype), tf.TensorSpec([], tf.int32), SPEC)
    g = tf.function(lambda x: raw_ops.SymbolicGradient(input=[1, x, x], Tout=[tf.int32], f=f, wrt=[False, True]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Tout\[0\] is int32, must be float, .* input 'x'"):
        g(tf.constant(X))


# ---- Resources that are no variables. ----


def table() -> Any:
    keys, values = tf.constant([0, 1, 2], tf.int64), tf.constant([1.0, 3.0, 5.0])
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1.0)


def direct(x: Any, t: Any) -> Any:
    return x * t.lookup(tf.constant([0, 1, 2], tf.int64))


def called(x: Any, t: Any) -> Any:
    return tf.function(lambda x: direct(tf.exp(x), t), autograph=False)(x)


def branch(x: Any, t: Any) -> Any:
    return tf.cond(x[2] > 0, lambda: direct(x, t), lambda: x)


def loop(x: Any, t: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, direct(x, t)), (0, x))[1]


TABLES = {
    "direct": (direct, np.array([1.0, 3.0, 5.0])),
    "called": (called, np.exp(X) * [1, 3, 5]),
    "branch": (branch, np.array([1.0, 3.0, 5.0])),
    "loop": (loop, np.array([1.0, 9.0, 25.0])),
}


@pytest.mark.parametrize("run", [RUNS["eager"], RUNS["function"]], ids=["eager", "function"])
@pytest.mark.parametrize("how", TABLES)
def test_lookup_table(how: str, run: Any) -> None:
    f, want = TABLES[how]
    t = table()
    function = concrete(lambda x: f(x, t), SPEC)
    captures = function.captured_inputs  # the table, and what it gives for keys that it lacks
    wrt = [True, *[capture.dtype != tf.resource for capture in captures]]
    got = run(lambda x: gradients([x, *captures, tf.ones(3)], function, wrt))(tf.constant(X))[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("how", TABLES)
def test_lookup_table_that_is_wanted(how: str) -> None:
    t = table()
    function = concrete(lambda x: TABLES[how][0](x, t), SPEC)
    captures = function.captured_inputs
    g = tf.function(lambda x: gradients([x, *captures, tf.ones(3)], function, [True] * (1 + len(captures))))
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"(?s)no variables, and so have no gradient.*by attr wrt.*input [12] .*\(op LookupTableFindV2\)",
    ):
        g(tf.constant(X))


def test_other_resources() -> None:
    iterator = iter(tf.data.Dataset.from_tensors(X).repeat())
    queue = tf.queue.FIFOQueue(9, [tf.float32], [[3]])
    v = tf.Variable(2.0)
    function = tf.function(lambda x: x * next(iterator) * queue.dequeue() * v).get_concrete_function(SPEC)
    captures = function.captured_inputs
    wrt = [True, *[handle is v.handle for handle in captures]]
    for run in RUNS["eager"], RUNS["function"]:
        for _ in range(2):
            queue.enqueue(X)
        dx, dv = run(lambda x: gradients([x, *captures, tf.ones(3)], function, wrt))(tf.constant(X))
        np.testing.assert_allclose(dx, 2 * X**2)
        np.testing.assert_allclose(dv, np.sum(X**3))
    all_wanted = tf.function(lambda x: gradients([x, *captures, tf.ones(3)], function, [True] * len(wrt)))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        all_wanted(tf.constant(X))
    assert error.match("IteratorGetNext")
    assert error.match("QueueDequeueV2")


def test_variable_that_nothing_depends_on() -> None:
    v, w = tf.Variable(X), tf.Variable([X, X])
    f = concrete(lambda x: (x * 2, v.read_value(), w.assign_add(w)), SPEC)
    wrt = [True] * 3
    g = tf.function(lambda x: gradients([x, v.handle, w.handle, x, tf.zeros(3), tf.zeros([2, 3])], f, wrt))
    if f.captured_inputs[0] is v.handle:
        dx, dv, dw = g(tf.constant(X))
        np.testing.assert_allclose(dx, 2 * X)
        np.testing.assert_allclose(dv, np.zeros(3))
        np.testing.assert_allclose(dw, np.zeros([2, 3]))
