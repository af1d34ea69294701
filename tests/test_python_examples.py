"""The examples in Python, with small sizes: what they print, and that there is a picture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder: Path, script: str, *arguments: str, **environment: str) -> str:
    for module in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "100%" in done.stderr or "check" in script or "explain" in script  # a progress bar went to its end
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def test_poisson(tmp_path: Path) -> None:
    text = run(tmp_path, "poisson.py", "--steps", "300")
    assert number(r"largest error against the solution: (\S+)", text) < 0.15
    assert (tmp_path / "build" / "poisson.png").stat().st_size > 10_000


def test_neural_ode(tmp_path: Path) -> None:
    text = run(tmp_path, "neural_ode.py", "--steps", "60")
    assert number(r"loss: \S+ to (\S+)", text) < number(r"loss: (\S+) to", text) / 10
    assert number(r"loop: (\d+) to", text) < number(r"loop: \d+ to (\d+)", text)  # the data decide
    assert (tmp_path / "build" / "neural_ode.png").stat().st_size > 10_000


def test_two_towers(tmp_path: Path) -> None:
    text = run(tmp_path, "two_towers.py", "--items", "100000", "--steps", "300")
    assert "rows in a step's gradient: 1,536 of 100,000" in text
    assert number(r"recall: ([\d.]+)%", text) > 20
    assert (tmp_path / "build" / "two_towers.png").stat().st_size > 10_000


def test_private_digits(tmp_path: Path) -> None:
    text = run(tmp_path, "private_digits.py", "--steps", "80")
    assert number(r"test accuracy: ([\d.]+)%", text) > 65
    assert (tmp_path / "build" / "private_digits.png").stat().st_size > 10_000


def test_keras_fit(tmp_path: Path) -> None:
    text = run(tmp_path, "keras_fit.py", "--epochs", "1", "--layers", "2")
    accuracies = [number(rf"{name}: test accuracy ([\d.]+)%", text) for name in ("tape", "native")]
    assert abs(accuracies[0] - accuracies[1]) < 3
    assert number(r"largest difference of losses: (\S+)", text) < 1e-3
    assert (tmp_path / "build" / "keras_fit.png").stat().st_size > 10_000


def test_saliency_is_served_without_tf_symgrad(tmp_path: Path) -> None:
    assert number(r"test accuracy: ([\d.]+)%", run(tmp_path, "saliency/save.py", "--epochs", "5")) > 70
    text = run(tmp_path, "saliency/explain.py", "--steps", "100", PYTHONPATH="")
    assert number(r"difference of the scores, to (\S+)", text) < 1e-3
    assert "tf_symgrad was imported: False" in text
    assert (tmp_path / "build" / "saliency" / "saliency.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def recurrence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that CMake builds the custom op in."""
    if shutil.which("cmake") is None:
        pytest.skip("no CMake")
    folder = tmp_path_factory.mktemp("recurrence")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(EXAMPLES.parent)}
    for command in (["cmake", "-S", str(EXAMPLES / "custom_op"), "-B", str(folder)], ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("rule", ["native", "python"])
def test_custom_op(rule: str, recurrence: Path, tmp_path: Path) -> None:
    text = run(tmp_path, "custom_op/check_recurrence.py", rule, RECURRENCE_BUILD=str(recurrence))
    assert text.splitlines() == [
        "values: right",
        "gradients of order 1 and 2: right",
        "value_and_grad and GradientTape: as of the loop",
    ]


def test_every_example_is_run() -> None:
    """Here, in test_examples.py, or by `make demo`."""
    tests = Path(__file__).read_text() + (Path(__file__).with_name("test_examples.py")).read_text()
    modules = {"recurrence.py"}
    for path in EXAMPLES.rglob("*.py"):
        assert path.name in tests or path.name in modules or path.name == "train_digits.py", path
