"""The programs in examples/, compiled by the lines that they and the documentation print, and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

import tf_symgrad

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SYMGRAD = Path(tf_symgrad.get_library_path()).parent
ENVIRONMENT = {
    **os.environ,
    "TF": tf.sysconfig.get_lib(),
    "SYMGRAD": str(SYMGRAD),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
NUMBERS = ["dy/da = -0.803236, by hand -0.803236", "dy/db = -0.270036, by hand -0.270036"]


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-ec", command], env=ENVIRONMENT, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def compile_as_printed(source: Path, folder: Path) -> None:
    """Runs the compiler's line at the top of a file, in a folder that the file is copied to."""
    for file in source.parent.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    text = "\n".join(re.sub(r"^\s*(//!?|\*|/\*\*?)? ?", "", line) for line in source.read_text().splitlines())
    found = re.search(r"^ *((?:gcc|g\+\+|rustc|javac) (?:.*\\\n)*.*)", text, re.MULTILINE)
    assert found
    command = found[1].partition("*/")[0]
    shell(command.replace("\\\n", " "), folder)


def model_with_a_table(folder: Path) -> str:
    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([0, 1], tf.int64))
            self.table = tf.lookup.StaticHashTable(keys, -1)
            self.rows = tf.Variable([[1.0, 2.0], [3.0, 4.0]], name="rows")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([2])])
        def score(self, words: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.math.softplus(tf.gather(self.rows, self.table.lookup(words)) * x))

    model = Model()
    tf.saved_model.save(model, str(folder / "model"), signatures={"score": model.score})
    return str(folder / "model")


def test_c_add_gradients(tmp_path: Path) -> None:
    compile_as_printed(EXAMPLES / "c" / "add_gradients.c", tmp_path)
    assert shell("./add_gradients $SYMGRAD/libtf_symgrad_cc.so", tmp_path).splitlines() == NUMBERS
    without = subprocess.run("./add_gradients", env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert "No gradient defined for op: Erfc" in without.stderr


def test_c_train(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    compile_as_printed(EXAMPLES / "c" / "train.c", tmp_path)
    shell("python save_digits.py .", tmp_path)
    lines = shell("./train model digits.bin", tmp_path).splitlines()
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in lines]  # type: ignore[index]
    assert losses[-1] < losses[0] / 4
    assert float(re.search(r"accuracy ([\d.]+) %", lines[-1])[1]) > 93  # type: ignore[index]


def test_c_find_signature(tmp_path: Path) -> None:
    compile_as_printed(EXAMPLES / "c" / "find_signature.c", tmp_path)
    lines = shell(f"./find_signature {model_with_a_table(tmp_path)} score", tmp_path).splitlines()
    assert lines[0].startswith("function __inference_signature_wrapper")
    arguments = [line.rpartition(": ")[::2] for line in lines if line.startswith(("input", "capture"))]
    assert arguments[:2] == [("input words", "no gradient"), ("input x", "differentiable")]
    # The table, what it returns for other words, and the variable.
    assert sorted(kind for _, kind in arguments[2:]) == ["differentiable", "no gradient", "no gradient"]
    gradients = [line for line in lines if line.startswith("gradient by")]
    assert len(gradients) == 2
    assert all("none" not in line for line in gradients)
    wrong = subprocess.run(
        ["./find_signature", "model", "nothing"], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True
    )
    assert "no signature 'nothing', only '__saved_model_init_op', 'score'" in wrong.stderr


def test_cpp_add_gradients(tmp_path: Path) -> None:
    compile_as_printed(EXAMPLES / "cpp" / "add_gradients.cc", tmp_path)
    assert shell("./add_gradients", tmp_path).splitlines() == NUMBERS


def test_java(tmp_path: Path) -> None:
    if shutil.which("javac") is None:
        pytest.skip("no JDK")
    source = EXAMPLES / "java" / "AddGradients.java"
    for file in source.parent.iterdir():
        shutil.copy(file, tmp_path)
    home = Path(os.path.realpath(shutil.which("javac") or "")).parents[1]
    steps = re.search(r"<pre>(.*)</pre>", source.read_text(), re.DOTALL)
    assert steps
    commands = re.sub(r"^ \* ?", "", steps[1], flags=re.MULTILINE)
    assert shell(f"export JAVA_HOME={home}\n{commands}", tmp_path).splitlines() == NUMBERS


def test_rust(tmp_path: Path) -> None:
    if shutil.which("rustc") is None:
        pytest.skip("no Rust")
    compile_as_printed(EXAMPLES / "rust" / "add_gradients.rs", tmp_path)
    assert shell("./add_gradients $SYMGRAD/libtf_symgrad_cc.so", tmp_path).splitlines() == NUMBERS
