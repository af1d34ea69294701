"""The command line, and what it is made of: models with gradients in them, explanations, pictures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tf_symgrad
from tf_symgrad import _cli

X = np.random.default_rng(3).uniform(-1, 1, (4, 3)).astype(np.float32)
WORDS = np.array(["b", "a", "b", "c"])


class Model(tf.Module):
    """A lookup table and an integer variable among the captures, a branch, a loop."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(0)
        self.w = tf.Variable(random.uniform(-1, 1, (3, 3)).astype(np.float32), name="w")
        self.rows = tf.Variable(random.uniform(-1, 1, (3, 3)).astype(np.float32), name="rows")
        self.frozen = tf.Variable(np.float32(0.5), trainable=False, name="frozen")
        self.count = tf.Variable(2, trainable=False, name="count")
        keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([0, 1], tf.int64))
        self.table = tf.lookup.StaticHashTable(keys, 2)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x"), tf.TensorSpec([None], tf.string, name="words")])
    def run(self, x: Any, words: Any) -> Any:
        y = tf.while_loop(lambda i, _: i < self.count, lambda i, y: (i + 1, tf.tanh(y @ self.w)), (0, x))[1]
        y = tf.cond(tf.reduce_sum(y) > 0.0, lambda: y * self.frozen, lambda: y)
        y += tf.gather(self.rows, self.table.lookup(words))
        return {"loss": tf.reduce_sum(y**2), "y": y, "best": tf.argmax(y, 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], name="x")])
    def parts(self, x: Any) -> Any:
        return {
            "y": tf.strings.to_number(tf.strings.as_string(x))
            * tf.raw_ops.NearestNeighbors(points=x[:, None], centers=x[:, None], k=1)[1][0]
        }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model, path = Model(), tmp_path_factory.mktemp("saved") / "model"
    tf.saved_model.save(model, path, signatures={"serving_default": model.run})
    return model, path


def expected(model: Model, wanted: list[Any], output: str, dy: Any = None) -> list[Any]:
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch([x, *wanted])
        y = model.run(x, tf.constant(WORDS))[output]
    gradients = tape.gradient(y, [x, *wanted], dy)
    return [tf.convert_to_tensor(g).numpy() for g in gradients]


def run(capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    status = _cli.main(list(map(str, arguments)))
    done = capsys.readouterr()
    return status, done.out, done.err


SERVE = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
values = np.load(sys.argv[2], allow_pickle=True)
inputs = {k: tf.constant(values[k]) for k in values.files}
losses = []
for _ in range(5 if "train_step" in model.signatures else 0):
    losses.append(float(model.signatures["train_step"](**inputs)["loss"]))
result = model.signatures["gradients"](**inputs)
np.savez(sys.argv[3], losses=losses, **{k: v.numpy() for k, v in result.items()})
assert not any(name.startswith("tf_symgrad") for name in sys.modules)
"""


def serve(tmp_path: Path, model: Path, **inputs: Any) -> Any:
    """What signature `gradients` of a model returns in a process that has no tf_symgrad."""
    np.savez(tmp_path / "in.npz", **inputs)
    command = [sys.executable, "-c", SERVE, str(model), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(tmp_path / "out.npz")


@pytest.mark.parametrize("options", [(), ("--checkpoint", "everything")], ids=["keep all", "everything"])
def test_gradients_of_inputs_and_variables(saved: Any, tmp_path: Path, capsys: Any, options: tuple[str, ...]) -> None:
    model, path = saved
    out = tmp_path / "out"
    status, text, error = run(capsys, "add-gradient", "--saved-model", path, "--loss", "loss", "--out", out, *options)
    assert status == 0, error
    assert "gradients(" in text
    assert "gradient_rows: float32[3, 3]" in text
    got = serve(tmp_path, out, x=X, words=WORDS)
    assert sorted(got.files) == ["gradient_rows", "gradient_w", "gradient_x", "loss", "losses"]
    for g, e in zip(("x", "w", "rows"), expected(model, [model.w, model.rows], "loss"), strict=True):
        np.testing.assert_allclose(got[f"gradient_{g}"], e, rtol=1e-5, atol=1e-6)
    assert "serving_default" in tf.saved_model.load(out).signatures


def test_an_unknown_policy(saved: Any, tmp_path: Path, capsys: Any) -> None:
    command = ("add-gradient", "--saved-model", saved[1], "--loss", "loss", "--out", tmp_path / "out")
    status, _, error = run(capsys, *command, "--checkpoint", "some")
    assert status == 2
    assert "everything" in error


def test_an_output_that_is_no_scalar_takes_a_cotangent(saved: Any, tmp_path: Path, capsys: Any) -> None:
    model, path = saved
    out, dy = tmp_path / "out", np.cos(np.arange(12, dtype=np.float32)).reshape(4, 3)
    wrt = ("--wrt", "x", "frozen")
    status, _, error = run(capsys, "add-gradient", "--saved-model", path, "--loss", "y", "--out", out, *wrt)
    assert status == 0, error
    got = serve(tmp_path, out, x=X, words=WORDS, d_y=dy)
    assert sorted(got.files) == ["gradient_frozen", "gradient_x", "losses", "y"]
    for g, e in zip(("x", "frozen"), expected(model, [model.frozen], "y", dy), strict=True):
        np.testing.assert_allclose(got[f"gradient_{g}"], e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_step(saved: Any, tmp_path: Path, capsys: Any, optimizer: str) -> None:
    _, path = saved
    out = tmp_path / "out"
    command = ("add-gradient", "--saved-model", path, "--loss", "loss", "--out", out)
    status, _, error = run(capsys, *command, "--train", optimizer, "--learning-rate", "0.01")
    assert status == 0, error
    losses = serve(tmp_path, out, x=X, words=WORDS)["losses"]

    model, x = Model(), tf.constant(X)  # the same by Keras
    keras = {"sgd": tf.keras.optimizers.SGD, "adam": tf.keras.optimizers.Adam}[optimizer](0.01)
    for loss in losses:
        with tf.GradientTape() as tape:
            y = model.run(x, tf.constant(WORDS))["loss"]
        np.testing.assert_allclose(loss, y, rtol=1e-5)
        variables = [model.w, model.rows]
        gradients = tape.gradient(y, variables)
        keras.apply_gradients(zip(map(tf.convert_to_tensor, gradients), variables, strict=True))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--loss", "loss", "--signature", "none"], "no signature 'none': there are 'serving_default'"),
        (["--loss", "nothing"], "no output 'nothing': there are"),
        (["--loss", "best"], "Output 'best' of signature 'serving_default' is int64"),
        ([], "2 outputs that could have a gradient"),
        (["--loss", "loss", "--wrt", "z"], "no input or variable 'z'. Inputs: "),
        (["--loss", "loss", "--wrt", "words"], "Input 'words' of signature 'serving_default' is no floating-point"),
        (["--loss", "loss", "--wrt", "x", "--train", "sgd"], "needs variables"),
        (["--loss", "loss", "--name", "serving_default"], "has a signature 'serving_default' already"),
    ],
)
def test_wrong_requests(saved: Any, tmp_path: Path, capsys: Any, arguments: list[str], says: str) -> None:
    _, path = saved
    status, text, error = run(capsys, "add-gradient", "--saved-model", path, "--out", tmp_path / "out", *arguments)
    assert (status, text) == (2, "")
    assert says in error
    assert list(tmp_path.iterdir()) == []


def test_wrong_folders(saved: Any, tmp_path: Path, capsys: Any) -> None:
    _, path = saved
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept").write_text("kept")
    command = ("add-gradient", "--loss", "loss", "--saved-model")
    assert "not an empty folder" in run(capsys, *command, path, "--out", full)[2]
    assert [p.name for p in full.iterdir()] == ["kept"]
    assert "kept is a file" in run(capsys, *command, path, "--out", full / "kept" / "out")[2]
    assert "is no folder" in run(capsys, "inspect", tmp_path / "nowhere")[2]
    assert "is no SavedModel" in run(capsys, "inspect", full)[2]
    damaged = tmp_path / "damaged"
    shutil.copytree(path, damaged)
    data = (damaged / "saved_model.pb").read_bytes()
    (damaged / "saved_model.pb").write_bytes(data[: len(data) // 2])
    status, _, error = run(capsys, "inspect", damaged)
    assert status == 2
    assert "can't be loaded" in error
    shutil.rmtree(damaged / "variables")
    (damaged / "saved_model.pb").write_bytes(data)
    assert "can't be loaded" in run(capsys, "inspect", damaged)[2]


@pytest.mark.parametrize("command", ["inspect", "explain", "add-gradient"])
def test_signatures_that_are_none(command: str, saved: Any, tmp_path: Path, capsys: Any) -> None:
    """What a damaged file calls its signatures is a variable."""
    damaged = tmp_path / "damaged"
    shutil.copytree(saved[1], damaged)
    file = damaged / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    nodes = model.meta_graphs[0].object_graph_def.nodes
    variable = next(i for i, node in enumerate(nodes) if node.HasField("variable"))
    for child in nodes[0].children:
        if child.local_name == "signatures":
            child.node_id = variable
    file.write_bytes(model.SerializeToString())
    named = ("--saved-model", damaged, "--out", tmp_path / "out") if command == "add-gradient" else (damaged,)
    status, _, error = run(capsys, command, *named)
    assert status == 2
    assert "signatures must be functions by name" in " ".join(error.split())


def test_inspect(saved: Any, tmp_path: Path, capsys: Any) -> None:
    _, path = saved
    status, text, error = run(capsys, "inspect", path, "--json", "--plot", tmp_path / "picture.dot", "--unknown", 8)
    assert status == 0, error
    (signature,) = json.loads(text).values()
    assert signature["differentiable"]
    assert {x["name"]: x["gradient"] for x in signature["inputs"]}.items() >= {
        ("x", True), ("words", False), ("w", True), ("rows", True), ("frozen", True), ("count", False),
    }  # fmt: skip
    assert signature["gradient_nodes"] > signature["forward_nodes"] > 0
    picture = (tmp_path / "picture.dot").read_text()
    assert picture.startswith("digraph")
    assert all(color in picture for color in ("#d6e8fa", "#fff1b8", "#f9d7d6"))
    if shutil.which("dot"):
        assert run(capsys, "inspect", path, "--plot", tmp_path / "picture.svg")[0] == 0
        assert "<svg" in (tmp_path / "picture.svg").read_text()
    else:
        assert "apt install graphviz" in run(capsys, "inspect", path, "--plot", tmp_path / "picture.svg")[2]
    assert "yes" in run(capsys, "inspect", path)[1]


def test_what_can_not_be_differentiated(tmp_path: Path, capsys: Any) -> None:
    model = Model()
    tf.saved_model.save(model, tmp_path / "model", signatures=model.parts)
    status, text, error = run(capsys, "inspect", tmp_path / "model")
    assert status == 1, error
    assert "NearestNeighbors" in text
    command = ("add-gradient", "--saved-model", tmp_path / "model", "--out", tmp_path / "out")
    status, _, error = run(capsys, *command)
    assert status == 2
    assert "NearestNeighbors" in error
    assert not (tmp_path / "out").exists()


def test_explain_tells_where_gradients_end() -> None:
    v = tf.Variable([1.0, 2.0], name="v")

    @tf.function(input_signature=[tf.TensorSpec([2])] * 3 + [tf.TensorSpec([], tf.int32)], autograph=False)
    def f(a: Any, b: Any, c: Any, n: Any) -> Any:
        y = tf.cond(n > 0, lambda: a * tf.floor(b), lambda: a + tf.cast(tf.cast(b, tf.int32), tf.float32))
        y = tf.while_loop(lambda i, _: i < n, lambda i, y: (i + 1, y * v + tf.stop_gradient(c)), (0, y))[1]
        return tf.reduce_sum(y) + tf.cast(tf.argmax(c), tf.float32)

    found = {x.name: x for x in tf_symgrad.explain(f).inputs}
    assert {name: x.connected for name, x in found.items()} == {
        "a": True,
        "b": False,
        "c": False,
        "n": False,
        "v": True,
    }
    assert [cut.op for cut in found["b"].cuts] == ["Floor", "Cast"]
    assert sorted(cut.op for cut in found["c"].cuts) == ["ArgMax", "StopGradient"]
    assert all(__file__ in cut.line for cut in found["c"].cuts)
    assert "ends at StopGradient" in str(tf_symgrad.explain(f))


def test_explain_leaves_out_shapes_of_what_has_a_gradient() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])], autograph=False)
    def f(x: Any, y: Any) -> Any:
        return tf.reduce_sum(x) * tf.cast(tf.size(x) + tf.size(y), tf.float32)

    x, y = tf_symgrad.explain(f).inputs
    assert (x.connected, x.cuts) == (True, [])
    assert (y.connected, [cut.op for cut in y.cuts]) == (False, ["Size"])


def test_explain_knows_custom_gradients() -> None:
    @tf.custom_gradient
    def half(x: Any, y: Any) -> Any:
        return x * y, lambda dy: (7.0 * dy, None)

    explanation = tf_symgrad.explain(lambda x, y: tf.reduce_sum(half(tf.sin(x), y)), args=[X, X])
    x, y = explanation.inputs
    assert (x.connected, y.connected) == (True, False)
    (cut,) = y.cuts
    assert cut.why == "its custom gradient is None here"
    assert "__custom_" not in str(explanation)
    assert f"made at {__file__}" in str(cut)


def test_pictures_of_gradients(tmp_path: Path) -> None:
    f = tf.function(lambda x: tf.reduce_sum(tf.tanh(x))).get_concrete_function(tf.TensorSpec([3]))
    tf_symgrad.function_gradient(f).plot(tmp_path / "gradient.dot")
    tf_symgrad.explain(f).plot(tmp_path / "explanation.dot")
    text = (tmp_path / "gradient.dot").read_text()
    assert "TanhGrad" in text
    assert text == (tmp_path / "explanation.dot").read_text()


def test_explain_counts_what_is_kept() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.tanh(tf.sin(x)))

    kept = tf_symgrad.explain(f, unknown=7).kept
    assert sorted(kept.values()) == [7 * 5 * 4]  # tanh; x is an input
    assert tf_symgrad.explain(f).kept_bytes == 5 * 4


def test_explain_counts_what_loops_keep() -> None:
    w = tf.Variable(2.0)

    def loop(count: Any, x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < count, lambda i, y: (i + 1, w * tf.sin(tf.exp(y))), (0, x))[1]

    batch, number = tf.TensorSpec([None, 5]), tf.TensorSpec([], tf.int32)
    counted = tf_symgrad.explain(tf.function(lambda x: loop(9, x), input_signature=[batch]), unknown=7)
    lists = [size for size in counted.kept.values() if size > 4]
    assert lists
    assert set(lists) == {9 * 7 * 5 * 4}
    assert counted.gradient_nodes > 20  # those of bodies, too
    assert all(n.startswith("while") for n in counted.repeated)
    unknown = tf_symgrad.explain(tf.function(loop, input_signature=[number, batch]))
    assert -1 in unknown.kept.values()
    assert "of unknown size" in str(unknown)


def test_explain_knows_a_gradient_within_the_function_from_its_own() -> None:
    def f(x: Any) -> Any:
        return tf.gradients(tf.exp(tf.sin(x)), x)[0] * x

    explanation = tf_symgrad.explain(tf.function(f, input_signature=[tf.TensorSpec([3])]))
    assert explanation.scope == "gradients_1"
    assert "gradients/Exp_grad/mul" in explanation.repeated
    assert explanation.kept["gradients/Sin_grad/Cos:0"] == 3 * 4


def test_value_and_gradient_are_of_one_draw(tmp_path: Path, capsys: Any) -> None:
    model = tf.Module()
    model.w = tf.Variable(tf.ones(50))
    run_ = tf.function(
        lambda x: {"loss": tf.reduce_sum(tf.nn.dropout(model.w * x, 0.5))},
        input_signature=[tf.TensorSpec([], name="x")],
    )
    tf.saved_model.save(model, tmp_path / "model", signatures=run_)
    command = ("add-gradient", "--saved-model", tmp_path / "model", "--loss", "loss", "--out", tmp_path / "out")
    assert run(capsys, *command, "--train", "sgd")[0] == 0
    loaded = tf.saved_model.load(tmp_path / "out")
    for _ in range(5):
        got = loaded.signatures["gradients"](x=tf.constant(1.0))
        np.testing.assert_allclose(got["gradient_x"], got["loss"], rtol=1e-5)  # loss is linear in x


def test_a_model_that_was_not_saved_before(tmp_path: Path) -> None:
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([tf.keras.Input([3]), tf.keras.layers.Dense(2, "tanh"), tf.keras.layers.Dense(1)])
    call = tf.function(
        lambda x: {"score": tf.reduce_sum(model(x))}, input_signature=[tf.TensorSpec([None, 3], name="x")]
    )
    tf_symgrad.save_with_gradients(model, tmp_path / "out", signatures={"serving_default": call}, wrt=["inputs"])
    got = serve(tmp_path, tmp_path / "out", x=X)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(model(x))
    np.testing.assert_allclose(got["gradient_x"], tape.gradient(y, x), rtol=1e-5)


def test_a_model_that_has_the_signature_that_it_is_saved_with(tmp_path: Path) -> None:
    model = tf.keras.Sequential([tf.keras.Input([3]), tf.keras.layers.Dense(1, "tanh", use_bias=False)])
    added = tf_symgrad.save_with_gradients(model, tmp_path / "out", wrt=["inputs"])["gradients"]
    dy = tf.ones([len(X), 1])
    got = added(inputs=tf.constant(X, tf.float32), d_output_0=dy)["gradient_inputs"]
    (expected,) = tf_symgrad.vjp(model, tf.constant(X, tf.float32))[1](dy)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_program(tmp_path: Path) -> None:
    def tf_symgrad_command(*arguments: str) -> Any:
        command = [sys.executable, "-m", "tf_symgrad", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    assert tf_symgrad_command("--version").stdout == f"tf_symgrad {tf_symgrad.__version__}\n"
    assert tf_symgrad_command("inspect").returncode == 2
    done = tf_symgrad_command("inspect", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


LOST = """
import sys
import tensorflow as tf


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.v = tf.Variable([1.0, 2.0, 3.0], name="v")

    @tf.function(input_signature=[tf.TensorSpec([3], name="x")])
    def run(self, x):
        v = self.v

        @tf.custom_gradient
        def scaled(x):
            return x * v, lambda dy, variables: (5.0 * dy * v, [dy])

        @tf.custom_gradient
        def times_seven(x):
            return x * 1.0, lambda dy: 7.0 * dy

        return {"y": tf.reduce_sum(times_seven(scaled(x)))}


model = Model()
options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.run}, options=options)
"""
BY_HAND = """
import tensorflow as tf

def scaled(op, dy, *rest):
    y, x, v = op.inputs
    return [None, 5.0 * dy * v, dy]

def times_seven(op, dy, *rest):
    return [None, 7.0 * dy]
"""


def test_custom_gradients_that_were_not_saved_are_given_by_hand(tmp_path: Path, capsys: Any) -> None:
    """In another process than the one that saved the model, as its gradients would be known there."""
    done = subprocess.run([sys.executable, "-c", LOST, str(tmp_path / "model")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    arguments = ("add-gradient", "--saved-model", tmp_path / "model", "--out", tmp_path / "out")
    status, _, error = run(capsys, *arguments)
    assert status == 2
    names = dict(
        zip(("times_seven", "scaled"), re.findall(r"its gradient is '(CustomGradient-\d+)'", error), strict=True)
    )
    assert "--gradient NAME=FILE.py:FUNCTION" in error
    (tmp_path / "by_hand.py").write_text(BY_HAND)
    given = [x for f, name in names.items() for x in ("--gradient", f"{name}={tmp_path}/by_hand.py:{f}")]
    status, _, error = run(capsys, *arguments, *given)
    assert status == 0, error
    got = serve(tmp_path, tmp_path / "out", x=X[0])
    np.testing.assert_allclose(got["gradient_x"], 35 * np.float32([1, 2, 3]))
    np.testing.assert_allclose(got["gradient_v"], 7 * np.ones(3))


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        ("CustomGradient-1", "must be NAME=FILE.py:FUNCTION"),
        ("a=nothing.py:f", "can't be run"),
        ("a=EMPTY:f", "no func"),
    ],
)
def test_gradients_by_hand_that_are_none(gradient: str, message: str, saved: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty.py").write_text("")
    gradient = gradient.replace("EMPTY", str(tmp_path / "empty.py"))
    arguments = ("add-gradient", "--saved-model", saved[1], "--out", tmp_path / "out", "--gradient", gradient)
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert message in error
