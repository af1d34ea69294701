"""Settings that must be made before TensorFlow is imported, and which tests are run."""

import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The same kernels on each machine: by default TensorFlow takes these where the processor has AVX-512 alone, and its
# others know no dilations on the way back.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def pytest_configure(config: Any) -> None:
    """A GPU is seen where `-m` speaks of it: all else is to be the same wherever it runs."""
    if "gpu" not in config.getoption("markexpr"):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # processes share it
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # float32 is float32


@pytest.fixture(autouse=True)
def _no_seed() -> Iterator[None]:
    """A seed that a test sets is its own: with one, calls of a function draw the same numbers."""
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.eager import context

        if context.global_seed() is not None:
            context.set_global_seed(None)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Tests marked `gpu` are left out where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What `tf_symgrad.enable()` left to Python; it is undone afterwards."""
    import tf_symgrad

    enable = importlib.import_module("tf_symgrad._enable")
    reasons: list[str] = []
    monkeypatch.setattr(enable, "_say", reasons.append)
    yield reasons
    tf_symgrad.disable()
    assert not enable._installed
