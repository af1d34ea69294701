"""Rules that another library brings (SYMGRAD_REGISTER), in a process of its own: registration is for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tf_symgrad

RULES = """
#include "csrc/rules/rule.h"
namespace symgrad {
namespace {
// The cotangent of each element is that of the one that stands for it.
constexpr Rule kRules[] = {RULE(Unique, return {gather(dy, o.out(1))};) %s};
SYMGRAD_REGISTER(kRules)
}  // namespace
}  // namespace symgrad
"""

USE = """
import ctypes, sys
import tensorflow as tf
import tf_symgrad
tf_symgrad.load()
ctypes.CDLL(sys.argv[1])
x = tf.constant([3.0, 1.0, 3.0])
print(tf_symgrad.symbolic_gradient([x], f=lambda x: tf.reduce_sum(tf.raw_ops.Unique(x=x).y ** 2))[0].numpy().tolist())
"""


def compile_rules(folder: Path, more: str = "") -> Path:
    source, library = folder / "rules.cc", folder / "librules.so"
    source.write_text(RULES % more)
    include, symgrad = tf_symgrad.get_include(), Path(tf_symgrad.get_library_path())
    link = [f"-L{symgrad.parent}", "-ltf_symgrad", f"-Wl,-rpath,{symgrad.parent}", "-Wl,--allow-shlib-undefined"]
    flags = ["-std=c++17", "-shared", "-fPIC", f"-I{include}"]
    subprocess.run(["g++", *flags, str(source), "-o", str(library), *link], check=True, capture_output=True, text=True)
    return library


@pytest.mark.parametrize("clash", [False, True])
def test_a_library_brings_rules(tmp_path: Path, clash: bool) -> None:
    library = compile_rules(tmp_path, "UNARY(Sin, dy)" if clash else "")
    run = subprocess.run([sys.executable, "-c", USE, str(library)], capture_output=True, text=True, check=False)
    if clash:
        assert "more than one rule for: Sin" in run.stderr
    else:
        assert run.stdout.strip() == "[6.0, 2.0, 6.0]", run.stderr[-2000:]
