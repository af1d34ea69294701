"""Rematerialisation, `checkpoint=`: equal gradients by every policy and in every place, and what stays and what is
computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import tf_symgrad
from tests.test_api import in_eager_mode, in_function, in_v1_graph
from tests.test_transforms import in_jit

POLICIES = ["cheap", "auto", "everything", 0, "1KB", "keep:MatMul", "recompute:Tanh,Mul"]
X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)


def weights(count: int, width: int = 6) -> list[Any]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(width, width)) / np.sqrt(width)).astype(np.float32) for _ in range(count)]


def chain(n: int) -> Callable[[Any], Any]:
    """n layers."""
    layers = weights(n)

    def loss(x: Any) -> Any:
        for i, w in enumerate(layers):
            with tf.name_scope(f"layer_{i}"):
                x = tf.tanh(tf.matmul(x, w))
        return tf.reduce_sum(x * x)

    return loss


def attention(x: Any) -> Any:
    for w, v in zip(weights(3), weights(3), strict=True):
        q = tf.matmul(x, w)
        scores = tf.nn.softmax(tf.matmul(q, x, transpose_b=True))
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        x = x + tf.matmul(scores, tf.nn.gelu(tf.matmul((x - mean) * tf.math.rsqrt(variance + 1e-3), v)))
    return tf.reduce_mean(x**2)


def images(x: Any) -> Any:
    x = tf.reshape(x, [1, 4, 6, 1])
    for k in range(3):
        x = tf.nn.conv2d(x, tf.ones([3, 3, x.shape[-1], 2]) * (0.1 * k + 0.1), 1, "SAME")
        x, *_ = tf.compat.v1.nn.fused_batch_norm(x, tf.ones([2]), tf.zeros([2]))
        x = tf.nn.max_pool2d(tf.nn.relu(x), 2, 1, "SAME")
    return tf.reduce_sum(x**2)


def calls(x: Any) -> Any:
    @tf.function(autograph=False)
    def inner(x: Any, w: Any) -> Any:
        return tf.tanh(tf.matmul(x, w)) * 2.0, x

    @tf.function(autograph=False)
    def block(x: Any, w: Any) -> Any:
        y, same = inner(x, w)
        return inner(y, w)[0] + same

    for w in weights(3):
        x = block(x, tf.cast(w, x.dtype))
    return tf.reduce_sum(x**2)


def branches(x: Any) -> Any:
    for i, w in enumerate(weights(3)):
        y = tf.tanh(tf.matmul(x, w))
        x = tf.cond(tf.reduce_sum(y) > 0.1 * i, lambda y=y: tf.sin(y) * y, lambda y=y, x=x: tf.tanh(y) + x)
    return tf.reduce_sum(x**2)


def loop(x: Any) -> Any:
    w = weights(1)[0]
    for _ in range(2):
        x = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.tanh(tf.matmul(x, w))), [0, x])[1]
        x = tf.nn.relu(x)
    return tf.reduce_sum(x**2)


def shapes(x: Any) -> Any:
    """Integers, splits, padding, sums over what broadcasts."""
    a, b = tf.split(x, 2, axis=1)
    y = tf.concat([tf.pad(a, [[0, 0], [1, 1]])[:, 1:-1], b * tf.cast(tf.shape(x)[0], tf.float32)], 1)
    y = tf.transpose(tf.reshape(tf.tanh(y), [tf.shape(y)[1], -1]))
    return tf.reduce_sum(tf.nn.relu(tf.matmul(y, weights(1)[0])) + tf.gather(y, [0, 1, 1, 0]) ** 2)


def draws(x: Any) -> Any:
    for i in range(3):
        x = tf.tanh(tf.matmul(x, weights(1)[0])) * tf.random.stateless_uniform([4, 6], [1, i])
    return tf.reduce_sum(x**2)


def spectrum(x: Any) -> Any:
    """Residuals that the pullback reaches by control edges alone."""
    s, u, _ = tf.linalg.svd(tf.matmul(x, x, transpose_b=True) + tf.linalg.diag([1.0, 2.0, 3.0, 4.0]))
    return tf.reduce_sum(s**2) + tf.reduce_sum(u[:, 0] ** 3)


MODELS: dict[str, Callable[[Any], Any]] = {
    "chain": chain(12),
    **{f.__name__: f for f in (attention, images, calls, branches, loop, shapes, draws, spectrum)},
}
models = pytest.mark.parametrize("model", MODELS)
policies = pytest.mark.parametrize("policy", POLICIES)


def functions(f: Any, policy: Any, **options: Any) -> list[Any]:
    """The gradient function of f and all that it calls; it comes first."""
    concrete = f if hasattr(f, "captured_inputs") else traced(f)
    return list(tf_symgrad.gradient_function(concrete, checkpoint=policy, **options)[1].function)


def traced(f: Any, shape: Any = (4, 6)) -> Any:
    return tf.function(f, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32))


def kept(function: Any) -> set[str]:
    """Results of the forward part that the backward part takes; computed again is what stands under gradients/."""
    inputs = {x for node in function.node_def for x in node.input if node.name.startswith("gradients/")}
    constants = {node.name for node in function.node_def if node.op == "Const"}
    arguments = {arg.name for arg in function.signature.input_arg}
    names = {x for x in inputs if not x.startswith(("gradients/", "^"))} - arguments
    return {x for x in names if x.partition(":")[0] not in constants}


def count(function: Any, op: str) -> int:
    return sum(node.op == op for node in function.node_def)


# ---- The same numbers. ----


@pytest.fixture
def by_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that are set while a process runs, and collected graphs, are of calls: the op's kernel sees neither."""
    monkeypatch.delenv("TF_SYMGRAD_DISABLE_PASS", raising=False)


@pytest.fixture
def unoptimized(by_the_pass: None) -> Iterator[None]:
    """TensorFlow's optimiser, which fuses ops and so rounds otherwise, leaves functions as they are."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@models
@policies
@pytest.mark.usefixtures("unoptimized")
def test_gradients_are_equal(model: str, policy: Any) -> None:
    f = MODELS[model]
    reference = in_function(tf_symgrad.value_and_grad(f), X)
    got = in_function(tf_symgrad.value_and_grad(f, checkpoint=policy), X)
    for a, b in zip(got, reference, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("run", [in_eager_mode, in_function, in_jit, in_v1_graph], ids=lambda f: f.__name__)
@pytest.mark.parametrize("policy", ["cheap", "everything", "keep:MatMul"])
def test_everywhere(run: Any, policy: Any) -> None:
    """In float64: what is computed again is fused otherwise, on some processors, and so rounded otherwise."""
    x = X.astype(np.float64)
    for f in (chain(6), attention, calls):
        reference = run(tf_symgrad.value_and_grad(f), x)
        got = run(tf_symgrad.value_and_grad(f, checkpoint=policy), x)
        for a, b in zip(got, reference, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("policy", ["auto", "everything", "keep:MatMul", "recompute:Tanh"])
@pytest.mark.parametrize("model", ["chain", "attention", "calls"])
def test_second_order(model: str, policy: Any) -> None:
    def hvp(checkpoint: Any) -> Any:
        inner = tf_symgrad.grad(MODELS[model], checkpoint=checkpoint)
        return tf_symgrad.grad(lambda x: tf.reduce_sum(inner(x) * tf.sin(x)), checkpoint=checkpoint)

    np.testing.assert_allclose(hvp(policy)(tf.constant(X)), hvp(None)(tf.constant(X)), rtol=1e-4, atol=1e-5)
    # The gradient function is a function like any other.
    f = tf.function(MODELS[model], autograph=False)
    with tf.GradientTape() as tape:
        x = tf.constant(X)
        tape.watch(x)
        dx = tf_symgrad.grad(f, checkpoint=policy)(x)
        y = tf.reduce_sum(dx * tf.sin(x))
    np.testing.assert_allclose(tape.gradient(y, x), hvp(None)(x), rtol=1e-4, atol=1e-5)


@models
@policies
@pytest.mark.usefixtures("unoptimized")
def test_pullbacks(model: str, policy: Any) -> None:
    def both(checkpoint: Any) -> Callable[[Any], Any]:
        def f(x: Any) -> Any:
            y, pullback = tf_symgrad.vjp(MODELS[model], x, checkpoint=checkpoint)
            return y, pullback(2.0)[0]

        return f

    for a, b in zip(in_function(both(policy), X), in_function(both(None), X), strict=True):
        np.testing.assert_array_equal(a, b)


@policies
@pytest.mark.usefixtures("unoptimized")
def test_variables_rows_and_effects(policy: Any) -> None:
    """Lookups, a read after a write, and the order of writes."""
    table, scale, log = tf.Variable(tf.ones([5, 6])), tf.Variable(2.0), tf.Variable([0.0, 0.0])

    @tf.function(autograph=False)
    def f(x: Any) -> Any:
        y = tf.tanh(x * scale) + tf.gather(table, [0, 2, 2, 4])
        log.assign([tf.reduce_sum(y), scale])
        scale.assign_add(1.0)
        z = tf.tanh(tf.matmul(y, weights(1)[0]) * scale)
        scale.assign(5.0)
        return tf.reduce_sum(z * tf.tanh(z))

    def run(checkpoint: Any) -> list[Any]:
        scale.assign(2.0)
        value, gradients = tf_symgrad.value_and_grad(f, (0, table, scale), checkpoint=checkpoint)(tf.constant(X))
        return [value, *gradients, log.numpy(), scale.numpy()]

    for a, b in zip(run(policy), run(None), strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(a), tf.convert_to_tensor(b))

    concrete = traced(lambda x: tf.reduce_sum(tf.tanh(tf.gather(table, [0, 2, 2, 4]) * x)))
    rows, reference = (
        tf_symgrad.symbolic_gradient([tf.constant(X)], f=concrete, variables=[table], sparse=True, checkpoint=c)[1]
        for c in (policy, None)
    )
    assert isinstance(rows, tf.IndexedSlices)
    np.testing.assert_array_equal(rows.values, reference.values)


@pytest.mark.parametrize("policy", [None, *POLICIES])
@pytest.mark.parametrize("kind", ["chain", "loop"])
def test_what_a_constant_is_ordered_after_does_not_happen_again(kind: str, policy: Any) -> None:
    """Pullbacks copy constants, those that wait for a write of f, too; and what is computed again waits for others."""
    count, scale = tf.Variable(0.0), tf.Variable(0.9)

    @tf.function(autograph=False)
    def f(x: Any) -> Any:
        with tf.control_dependencies([count.assign_add(1.0)]):
            three, limit = tf.constant(3.0), tf.constant(4)

        def step(x: Any) -> Any:
            return tf.sin(tf.tanh(tf.pow(x, three) + 0.5) * scale)

        if kind == "chain":
            return tf.reduce_sum(step(step(step(step(x)))))
        return tf.reduce_sum(tf.while_loop(lambda i, _: i < limit, lambda i, x: (i + 1, step(x)), [0, x])[1])

    def derivative(x: Any) -> Any:
        y, pullback = tf_symgrad.vjp(f, x, checkpoint=policy)
        return pullback(tf.ones_like(y))[0]

    x = tf.constant([0.3, 0.4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    expected = tape.gradient(y, x)
    gradient = tf_symgrad.grad(f, checkpoint=policy)  # its loop reads a variable: after what f writes before
    runs = ((derivative, 1), (tf.function(derivative, autograph=False), 1), (gradient, int(kind == "loop")))
    for run, writes in runs:
        count.assign(0.0)
        np.testing.assert_allclose(run(x), expected, rtol=1e-5)
        assert count == writes


@policies
@pytest.mark.parametrize("nested", [False, True])
def test_stateful_draws_are_not_drawn_again(policy: Any, nested: bool) -> None:
    def layer(x: Any) -> Any:
        return tf.nn.dropout(tf.sin(x), 0.5) * x

    drop = tf.function(layer, autograph=False) if nested else layer

    @tf.function(autograph=False)
    def f(x: Any) -> Any:
        return tf.reduce_sum(drop(drop(x)))

    x = tf.constant(np.full((100, 10), 0.7, np.float32))
    value, dx = tf_symgrad.value_and_grad(f, checkpoint=policy)(x)
    # y = m2 sin(u) u of u = m1 sin(x) x, where each mask is 0 or 2: what x can be, and what dy/dx is then.
    u = 2 * np.sin(0.7) * 0.7
    slope = 2 * (np.cos(u) * u + np.sin(u)) * 2 * (np.cos(0.7) * 0.7 + np.sin(0.7))
    both = np.isclose(dx, slope, rtol=1e-4)
    assert np.all(both | np.isclose(dx, 0))
    assert 100 < both.sum() < 400
    np.testing.assert_allclose(value, both.sum() * 2 * np.sin(u) * u, rtol=1e-4)


# ---- What stays. ----


def test_a_chain_keeps_the_root_of_its_length() -> None:
    numbers = {n: len(kept(functions(chain(n), "everything")[0])) for n in (16, 64, 256)}
    assert len(kept(functions(chain(64), None)[0])) >= 64
    for n, number in numbers.items():
        # About sqrt(n) cuts, and a last segment of about sqrt(n).
        assert number <= 3 * np.sqrt(n), numbers


def test_a_budget_is_met_with_as_little_as_it_takes() -> None:
    layer = 4 * 6 * 4  # bytes
    again = [
        count(functions(chain(64), budget)[0], "Tanh") - 64 for budget in (layer * 80, layer * 40, layer * 24, layer)
    ]
    assert again[0] == 0
    assert again == sorted(again)
    assert again[-1] >= 32


def test_a_budget_is_for_gradients_too() -> None:
    """As with convolutions: large images come first, and are needed last, beside the gradients of large weights."""

    def loss(x: Any, w: Any) -> Any:
        for _ in range(8):
            x = tf.tanh(x)  # 8 that stay, of 1 MiB
        return tf.reduce_sum(tf.matmul(tf.reduce_mean(x, 0, keepdims=True), w))  # a gradient of 8 MiB

    f = tf.function(loss).get_concrete_function(tf.TensorSpec([1024, 256]), tf.TensorSpec([256, 8192]))
    again = {mib: count(functions(f, mib * 2**20)[0], "Tanh") - 8 for mib in (20, 14)}
    assert again[20] == 0
    assert 0 < again[14] < 8


def test_cheap_keeps_what_is_dear() -> None:
    def f(x: Any) -> Any:
        for w in weights(4):
            x = tf.matmul(x, w)
            x = tf.sin(x) * tf.cos(x) * tf.exp(x)
        return tf.reduce_sum(x)

    none, cheap = (functions(f, policy)[0] for policy in (None, "cheap"))
    assert count(cheap, "MatMul") == count(none, "MatMul")
    assert count(cheap, "Exp") > count(none, "Exp")
    assert kept(cheap) == {f"MatMul{k}:product:0" for k in ("", "_1", "_2", "_3")}
    assert len(kept(none)) > 10


def test_names() -> None:
    f = chain(8)
    assert kept(functions(f, "keep:MatMul")[0]) == {f"layer_{i}/MatMul:product:0" for i in range(8)}
    some = functions(f, "recompute:layer_1,layer_2,layer_3")[0]
    assert not any(x.startswith(("layer_1/", "layer_2/", "layer_3/")) for x in kept(some))
    assert count(some, "MatMul") == count(functions(f, None)[0], "MatMul") + 3
    within = kept(functions(calls, "keep:MatMul")[0])
    assert sum(x.endswith("MatMul:product:0") for x in within) == 6
    assert all("MatMul" in x or "Identity" in x for x in within)  # an argument, passed on


def test_calls_are_seen_through() -> None:
    """Also with what is ordered around them."""
    assert not any(node.op.endswith("PartitionedCall") for node in functions(calls, "auto")[0].node_def)
    v = tf.Variable(1.0)

    @tf.function(autograph=False)
    def reads(x: Any) -> Any:
        return x * v

    @tf.function(autograph=False)
    def writes(x: Any) -> Any:
        v.assign_add(1.0)
        return tf.tanh(x)

    @tf.function(autograph=False)
    def f(x: Any) -> Any:
        return tf.reduce_sum(reads(writes(reads(writes(reads(x))))))

    for policy in (None, *POLICIES[:5]):
        v.assign(1.0)
        value, (dx, dv) = tf_symgrad.value_and_grad(f, (0, v), checkpoint=policy)(tf.constant(X))
        assert v.numpy() == 3.0
        with tf.GradientTape() as tape:
            x, a, b, c = tf.constant(X), tf.constant(1.0), tf.constant(2.0), tf.constant(3.0)
            tape.watch([x, a, b, c])
            y = tf.reduce_sum(c * tf.tanh(b * tf.tanh(a * x)))
        expected = tape.gradient(y, [x, a, b, c])
        np.testing.assert_allclose(value, y, rtol=1e-6)
        np.testing.assert_allclose(dx, expected[0], rtol=1e-5)
        np.testing.assert_allclose(dv, sum(expected[1:]), rtol=1e-5)


def test_stateless_draws_are_repeated() -> None:
    function = functions(draws, "keep:MatMul")[0]
    assert count(function, "StatelessRandomUniformV2") > 3


@pytest.mark.usefixtures("by_the_pass")
def test_grappler_does_not_merge() -> None:
    """What is computed again is there after TensorFlow's optimiser, too."""
    n, runtime = 16, context.context()
    step = tf.function(tf_symgrad.value_and_grad(chain(n), checkpoint="everything"), autograph=False)
    runtime.enable_graph_collection()
    try:
        step(tf.constant(X))
        graphs = runtime.export_run_metadata().function_graphs
    finally:
        runtime.disable_graph_collection()
    tanhs = max(sum(node.op == "Tanh" for node in graph.post_optimization_graph.node) for graph in graphs)
    assert tanhs >= n + n // 3


def test_barriers_under_xla() -> None:
    """What XLA is given has the second computation behind a barrier."""
    n, x = 16, tf.constant(X)
    texts = []
    for policy in (None, "everything"):
        step = tf.function(tf_symgrad.grad(chain(n), checkpoint=policy), autograph=False, jit_compile=True)
        texts.append(step.experimental_get_compiler_ir(x)(stage="hlo"))
    assert "opt-barrier" not in texts[0]
    assert texts[1].count(" opt-barrier(") >= 2
    assert texts[1].count(" dot(") >= texts[0].count(" dot(") + n // 3


# ---- The option, wherever there is one. ----


@pytest.mark.parametrize("policy", ["sqrt", "keep:", "keep:MatMul,", "12 elephants", "-1", "nan", "AUTO"])
def test_unknown_policies(policy: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)cheap.*auto.*everything.*bytes.*keep:.*recompute:"):
        tf_symgrad.grad(chain(2), checkpoint=policy)(tf.constant(X))


def test_names_of_nothing() -> None:
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"neither an op type nor a name scope.*'Matmull', 'block'"
    ):
        tf_symgrad.grad(chain(2), checkpoint="keep:Matmull,layer_1,block")(tf.constant(X))
    tf_symgrad.grad(chain(2), checkpoint="keep:Conv2D")(tf.constant(X))  # an op, which this function has not


@pytest.mark.parametrize("policy", [True, 1.5, ["MatMul"]])
def test_what_is_no_policy(policy: Any) -> None:
    with pytest.raises(TypeError, match="checkpoint must be"):
        tf_symgrad.grad(chain(2), checkpoint=policy)


def test_names_of_gradient_functions_say_what_they_hold() -> None:
    f = traced(chain(8))
    names = [tf_symgrad.gradient_function(f, checkpoint=c)[0] for c in (None, "everything", "")]
    assert names[0] == names[2] != names[1]


def test_the_raw_op() -> None:
    """In a graph, and in a function that is differentiated: its own policy holds there."""
    concrete = traced(chain(16))

    def gradient(x: Any, policy: str) -> Any:
        concrete.add_to_graph()
        return tf_symgrad.raw_ops.SymbolicGradient(
            input=[x, *concrete.captured_inputs, 1.0],
            Tout=[tf.float32],
            f=concrete,
            wrt=[True, *[False] * len(concrete.captured_inputs)],
            checkpoint=policy,
        )[0]

    outer = [traced(lambda x, policy=policy: tf.reduce_sum(gradient(x, policy))) for policy in ("", "everything")]
    a, b = (tf_symgrad.symbolic_gradient([tf.constant(X)], f=f)[0] for f in outer)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    sizes = [sum(count(f, "Tanh") for f in functions(f, None)) for f in outer]
    assert sizes[1] > sizes[0]


def test_the_policy_is_an_attr_of_the_op() -> None:
    step = traced(tf_symgrad.grad(chain(2), checkpoint=12345))
    ops = [op for op in step.graph.get_operations() if op.type == "TfSymgrad>SymbolicGradient"]
    assert [op.get_attr("checkpoint") for op in ops] == [b"12345"]
