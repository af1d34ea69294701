"""SavedModels: models that were loaded are differentiated like those that were saved, and gradients can be saved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, graph_pb2

import tf_symgrad

X = np.random.default_rng(1).uniform(-1, 1, (4, 3))


class Plain(tf.Module):
    """Variables, branches, loops, functions in functions, some of which are not inlined."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(0)
        self.w = tf.Variable(random.uniform(-1, 1, (3, 3)))
        self.b = tf.Variable(random.uniform(-1, 1, 3))
        self.table = tf.Variable(random.uniform(-1, 1, (5, 3)))

    @tf.function(experimental_attributes={"_noinline": True})
    def layer(self, x: Any) -> Any:
        return tf.tanh(tf.matmul(x, self.w) + self.b)

    @tf.function
    def block(self, x: Any, n: Any) -> Any:
        x = tf.while_loop(lambda i, _: i < n, lambda i, v: (i + 1, self.layer(v) * x + self.b), (0, x))[1]
        return tf.cond(tf.reduce_sum(x) > 0.0, lambda: self.layer(x), lambda: x * self.b)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float64, "x")])
    def loss(self, x: Any) -> Any:
        rows = tf.gather(self.table, tf.argmax(x, 1))
        x = tf.switch_case(tf.size(x) % 2, [lambda: self.block(x, 3) * rows, lambda: self.block(x, 2)])
        return {"loss": tf.reduce_sum(x**2)}


def keras_model() -> Any:
    tf.keras.utils.set_random_seed(0)
    x = inputs = tf.keras.Input([6, 3], dtype="float64")
    x = tf.keras.layers.Conv1D(4, 3, activation="gelu", dtype="float64")(x)
    x = tf.keras.layers.LayerNormalization(dtype="float64")(x)
    x = tf.keras.layers.GRU(4, dtype="float64")(x)
    x = tf.keras.layers.Dropout(0.5, dtype="float64")(x)
    x = tf.keras.layers.BatchNormalization(dtype="float64")(x)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(2, activation="softmax", dtype="float64")(x))


def by_tape(f: Any, x: Any, variables: list[Any]) -> list[Any]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nest.flatten(f(x))
    gradients = tape.gradient(y, [x, *variables], unconnected_gradients="zero")
    return [tf.convert_to_tensor(g).numpy() for g in gradients]


def natively(concrete: Any, x: Any, variables: list[Any]) -> list[Any]:
    """The gradients for x and for variables of the model that `concrete` belongs to."""
    dy = [tf.ones_like(y) for y in tf.nest.flatten(concrete(x))]

    def gradients(x: Any) -> Any:
        return tf_symgrad.symbolic_gradient([x, *dy], f=concrete, capture_gradients=True)

    eager, in_graph = gradients(x), tf.function(gradients)(x)
    for a, b in zip(eager, in_graph, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    handles = [id(c) for c in concrete.captured_inputs]
    found = [eager[1 + handles.index(id(v.handle))] if id(v.handle) in handles else tf.zeros_like(v) for v in variables]
    return [g.numpy() for g in [eager[0], *found]]


def equal(got: list[Any], expected: list[Any]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert np.any(b)
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_signature_of_a_plain_module(tmp_path: Path) -> None:
    model, x = Plain(), tf.constant(X)
    expected = by_tape(model.loss, x, [model.w, model.b, model.table])
    equal(natively(model.loss.get_concrete_function(), x, [model.w, model.b, model.table]), expected)

    tf.saved_model.save(model, tmp_path, model.loss)
    loaded = tf.saved_model.load(tmp_path)
    variables = [loaded.w, loaded.b, loaded.table]
    equal(natively(loaded.loss.get_concrete_function(), x, variables), expected)
    equal(natively(loaded.signatures["serving_default"], x, variables), expected)
    equal(natively(loaded.loss.get_concrete_function(), x, variables), expected)


def test_a_loaded_function_within_another(tmp_path: Path) -> None:
    tf.saved_model.save(Plain(), tmp_path)
    loaded, x = tf.saved_model.load(tmp_path), tf.constant(X)
    f = tf.function(lambda x: loaded.loss(tf.sin(x))["loss"] ** 2).get_concrete_function(x)
    variables = [loaded.w, loaded.b, loaded.table]
    equal(natively(f, x, variables), by_tape(f, x, variables))


def test_a_second_derivative_of_a_loaded_function(tmp_path: Path) -> None:
    model, x = Plain(), tf.constant(X)
    tf.saved_model.save(model, tmp_path)
    loaded = tf.saved_model.load(tmp_path)

    def gradient(x: Any) -> Any:
        dx = tf_symgrad.symbolic_gradient([x, 1.0], f=loaded.loss.get_concrete_function(), capture_gradients=True)
        return [tf.reduce_sum(tf.sin(d)) for d in dx]

    def by_python(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model.loss(x)["loss"]
        return [tf.reduce_sum(tf.sin(d)) for d in tape.gradient(y, [x, model.w, model.b, model.table])]

    tf.config.run_functions_eagerly(True)
    expected = by_tape(lambda x: tf.add_n(by_python(x)), x, [model.w, model.b, model.table])
    tf.config.run_functions_eagerly(False)
    f = tf.function(lambda x: tf.add_n(gradient(x))).get_concrete_function(x)
    equal(natively(f, x, [loaded.w, loaded.b, loaded.table]), expected)


@pytest.mark.parametrize("how", ["export", "save"])
def test_a_keras_model(tmp_path: Path, how: str) -> None:
    model = keras_model()
    x = tf.constant(np.random.default_rng(2).uniform(-1, 1, (2, 6, 3)))
    weights = [v.value for v in model.trainable_variables]
    scaled = tf.constant([[1.0, -2.0]], tf.float64)
    expected = by_tape(lambda x: model(x) * scaled, x, weights)
    if how == "export":
        model.export(tmp_path, verbose=False)
    else:
        tf.saved_model.save(model, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    signature = loaded.signatures["serving_default"]
    (y,) = signature.structured_outputs
    f = tf.function(lambda x: signature(x)[y] * scaled).get_concrete_function(x)

    kept = {v.name.partition(":")[0]: v for v in signature.variables}
    variables = [kept[v.path] for v in model.trainable_variables]
    equal(natively(f, x, variables), expected)


# ---- Gradients in SavedModels ----

SAVED_X = [[0.3, -0.2, 0.9], [0.5, 0.4, -0.7]]
SERVE = """
import sys
import tensorflow as tf

{load}
loaded = tf.saved_model.load(sys.argv[1])
gradients = loaded.signatures["serving_default"](x=tf.constant({x}, tf.float64))
print({{name: value.numpy().tolist() for name, value in sorted(gradients.items())}})
assert {plain} == (not any(name.startswith("tf_symgrad") for name in sys.modules))
"""


def served(path: Path, plain: bool) -> dict[str, Any]:
    """What the signature returns in a fresh process."""
    load = "" if plain else "import tf_symgrad; tf_symgrad.load()"
    code = SERVE.format(load=load, x=SAVED_X, plain=plain)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(eval(done.stdout))


class Gradients(tf.Module):
    """A model whose signature gives its gradients: by the op, or by the function that the op stands for."""

    def __init__(self, by_op: bool) -> None:
        super().__init__()
        self.model = Plain()
        self.by_op = by_op

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float64, "x")])
    def gradients(self, x: Any) -> Any:
        f = self.model.loss.get_concrete_function()
        if self.by_op:
            dx = tf_symgrad.symbolic_gradient([x, 1.0], f=f, capture_gradients=True)
        else:
            name, library = tf_symgrad.gradient_function(f)
            tf.graph_util.import_graph_def(graph_pb2.GraphDef(library=library))
            inputs = [x, *f.captured_inputs, tf.constant(1.0, tf.float64)]
            tout, called = [tf.float64] * (len(inputs) - 1), attr_value_pb2.NameAttrList(name=name)
            dx = tf.raw_ops.StatefulPartitionedCall(args=inputs, Tout=tout, f=called)
        return {f"gradient_{i}": d for i, d in enumerate(dx)}


@pytest.mark.parametrize("by_op", [True, False])
def test_a_saved_gradient(tmp_path: Path, by_op: bool) -> None:
    model = Gradients(by_op)
    expected = model.gradients(tf.constant(SAVED_X, tf.float64))
    options = tf.saved_model.SaveOptions(namespace_whitelist=["TfSymgrad"])
    tf.saved_model.save(model, tmp_path, model.gradients, options=options)
    got = served(tmp_path, plain=not by_op)
    assert got.keys() == expected.keys()
    equal([got[name] for name in expected], list(expected.values()))
    if by_op:
        with pytest.raises(AssertionError, match="TfSymgrad>SymbolicGradient"):
            served(tmp_path, plain=True)


def test_importing_the_package_is_all_that_loading_the_op_needs(tmp_path: Path) -> None:
    module = tf.Module()
    module.gradient = tf.function(
        lambda x: tf_symgrad.symbolic_gradient([x, tf.ones([3])], f=tf.math.tanh)[0],
        input_signature=[tf.TensorSpec([3])],
    )
    options = tf.saved_model.SaveOptions(namespace_whitelist=["TfSymgrad"])
    tf.saved_model.save(module, str(tmp_path), options=options)
    program = (
        "import sys, tensorflow as tf, tf_symgrad; model = tf.saved_model.load(sys.argv[1]);"
        "print(model.gradient(tf.zeros([3])).numpy().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "[1.0, 1.0, 1.0]\n", done.stderr[-2000:]
