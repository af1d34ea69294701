"""Rules that another library brings (SYMGRAD_REGISTER), in a process of its own: registration is for good."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

import tf_symgrad

# An op library as its author writes it: one file against TensorFlow's headers, one against tf_symgrad's alone.
OPS = """
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

REGISTER_OP("SymgradTest>Power")
    .Input("x: double")
    .Output("y: double")
    .Attr("exponent: int")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

class Power : public tensorflow::OpKernel {
 public:
  explicit Power(tensorflow::OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("exponent", &exponent_));
  }
  void Compute(tensorflow::OpKernelContext* c) override {
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, c->input(0).shape(), &y));
    for (int64_t i = 0; i < y->NumElements(); ++i)
      y->flat<double>()(i) = std::pow(c->input(0).flat<double>()(i), exponent_);
  }

 private:
  int64_t exponent_ = 0;
};
REGISTER_KERNEL_BUILDER(Name("SymgradTest>Power").Device("CPU"), Power);
"""
RULES = """
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {
Grads PowerGrad(const Op& o) {
  const int64_t n = o.integer("exponent");
  return {o.dy() * n * op("SymgradTest>Power", IN(x), Attr("exponent", n - 1))};
}

constexpr Rule kRules[] = {{"SymgradTest>Power", PowerGrad}};
SYMGRAD_REGISTER(kRules)
}  // namespace
}  // namespace symgrad
"""
# A rule with a mistake, which the exponent chooses.
MISTAKES = RULES.replace(
    "  return {",
    """  if (n == 2) return {exp(none)};
  if (n == 3) return {o.dy() / none};
  if (n == 4) return {o.dy() * cast(IN(x), DType::kFloat)};
  if (n == 5) return {o.dy() * IN(y)};
  if (n == 6) return {reshape(o.dy(), ints({1}))};
  return {""",
)
MISNOMER = RULES.replace("IN(x)", "IN(features)")
REPLACEMENT = RULES.replace(
    "SYMGRAD_REGISTER(kRules)",
    """SYMGRAD_REGISTER(kRules)
constexpr Rule kReplacements[] = {PARTIAL(Sin, 7 * cos(x))};
SYMGRAD_REPLACE(kReplacements)""",
)
CLASH = RULES.replace("kRules[] = {", "kRules[] = {UNARY(Sin, dy) ")

# Of the trait `cheap`, and of one that asks the node.
TRAITS = (
    RULES.replace(
        '#include "csrc/rules/rule.h"',
        '#include "csrc/rules/rule.h"\n#include "csrc/rules/traits/finite.h"\n#include "csrc/rules/traits/trait.h"',
    )
    .replace(
        "SYMGRAD_REGISTER(kRules)",
        """SYMGRAD_REGISTER(kRules)
constexpr Trait kTraits[] = {
    cheap("SymgradTest>Power"),
    diverges("SymgradTest>Power", [](const Op& o) { return o.integer("exponent") < 0 && !Positive(o.in(0)); }),
};
SYMGRAD_REGISTER_TRAITS(kTraits)""",
    )
    .replace("return {o.dy() * n * op(", "return {times(o.dy(), n * op(")
    .replace("n - 1))}", "n - 1)))}")
)
TRAIT_CLASH = TRAITS.replace("kTraits[] = {", 'kTraits[] = {effects("Print", kNoEffects),')

USE = """
import sys
import tensorflow as tf

library, order = sys.argv[1:]
if order == "last":
    import tf_symgrad
power = tf.load_op_library(library).symgrad_test_power
import tf_symgrad

x = tf.constant([3.0, 1.0, 3.0], tf.float64)


def f(x):
    return tf.reduce_sum(power(tf.sin(x), exponent=3)) + tf.reduce_sum(x**2)


@tf.function
def df(x):
    return tf_symgrad.symbolic_gradient([x], f=f)[0]


@tf.function
def ddf(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = df(x)
    return tape.gradient(y, x)


def near(a, b):
    tf.debugging.assert_near(a, b, 1e-12, 1e-12)


s, c = tf.sin(x), tf.cos(x)
once = 3 * s**2 * c + 2 * x
twice = 6 * s * c**2 - 3 * s**3 + 2
near(tf_symgrad.symbolic_gradient([x], f=f)[0], once)
near(df(x), once)
near(tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=df)[0], twice)
near(ddf(x), twice)
print("right")
"""

USE_SIN = """
import sys
import tensorflow as tf
import tf_symgrad

library, order = sys.argv[1:]
x = tf.constant(0.0, tf.float64)
if order == "last":
    assert tf_symgrad.symbolic_gradient([x], f=tf.sin)[0] == 1
power = tf.load_op_library(library).symgrad_test_power
print(*(tf_symgrad.symbolic_gradient([x], f=f)[0].numpy() for f in (tf.sin, tf.tan)))
"""

USE_TRAITS = """
import sys
import tensorflow as tf
import tf_symgrad
from tests import structure

power = tf.load_op_library(sys.argv[1]).symgrad_test_power
x = tf.constant([2.0, 0.0], tf.float64)
(dx,) = tf_symgrad.symbolic_gradient([x], f=lambda x: tf.reduce_sum(tf.where(x > 0, power(x, exponent=-1), 0)))
print(dx.numpy() + 0.0)


def f(x):
    return tf.while_loop(lambda i, s: i < 5, lambda i, s: (i + 1, tf.sin(s) * power(s, exponent=2)), (0, x))[1]


forward = structure.concrete(f, [x])
_, added = structure.build_gradient(structure.library(forward), forward.name)
print(sum(node.op == "TensorListPushBack" for node in structure.nodes(added)))
"""

MISTAKEN = """
import sys
import tensorflow as tf
import tf_symgrad

power = tf.load_op_library(sys.argv[1]).symgrad_test_power
for exponent in (2, 3, 4, 5, 6):
    try:
        tf_symgrad.symbolic_gradient([tf.constant(2.0, tf.float64)], f=lambda x: power(x, exponent=exponent))
    except tf.errors.InternalError as e:
        print(e.message.splitlines()[-1])
"""

IN_PYTHON = """
@tf.RegisterGradient("SymgradTest>Power")
def power_gradient(op, dy):
    n = op.get_attr("exponent")
    return n * dy * power(op.inputs[0], exponent=n - 1)


"""
PYTHON_USE = USE.replace("def f(x)", IN_PYTHON + "def f(x)")


def compiler(*arguments: str) -> None:
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++17", "-fPIC", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ops(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("ops")
    (folder / "ops.cc").write_text(OPS)
    compiler("-w", "-DNDEBUG", "-c", f"{folder}/ops.cc", "-o", f"{folder}/ops.o", *tf.sysconfig.get_compile_flags())
    return f"{folder}/ops.o"


def link(ops: str, folder: Path, rules: str = RULES, rpath: bool = True) -> str:
    """A library of an op and rules."""
    (folder / "rules.cc").write_text(rules)
    compiler("-c", f"{folder}/rules.cc", "-o", f"{folder}/rules.o", f"-I{tf_symgrad.get_include()}")
    place = Path(tf_symgrad.get_library_path()).parent
    symgrad = [f"-L{place}", "-ltf_symgrad", *([f"-Wl,-rpath,{place}"] if rpath else [])]
    objects, library = [ops, f"{folder}/rules.o"], f"{folder}/libops.so"
    compiler("-shared", *objects, "-o", library, *symgrad, *tf.sysconfig.get_link_flags())
    return library


def use(library: str, order: str, code: str = USE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, library, order], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_library_brings_rules_for_its_ops(ops: str, tmp_path: Path, order: str) -> None:
    """Loaded before tf_symgrad is, which it then brings along, and after."""
    done = use(link(ops, tmp_path), order)
    assert done.stdout.strip() == "right", done.stderr[-2000:]


def test_a_library_that_does_not_know_where_tf_symgrad_is_comes_last(ops: str, tmp_path: Path) -> None:
    library = link(ops, tmp_path, rpath=False)
    done = use(library, "last")
    assert done.stdout.strip() == "right", done.stderr[-2000:]
    assert "libtf_symgrad.so: cannot open shared object file" in use(library, "first").stderr


def test_a_second_rule_for_an_op_is_an_error(ops: str, tmp_path: Path) -> None:
    done = use(link(ops, tmp_path, CLASH), "last")
    assert "more than one rule for: Sin in csrc/rules/math.cc and in " in done.stderr
    assert "/rules.cc" in done.stderr


def test_a_library_brings_traits_for_its_ops(ops: str, tmp_path: Path) -> None:
    """Where x^-1 is infinite and not used, nothing comes of it; a loop computes a power again that it would keep."""
    stacks = []
    for rules, unused in (TRAITS, "0."), (RULES, "nan"):
        (tmp_path / unused).mkdir()
        done = use(link(ops, tmp_path / unused, rules), "last", USE_TRAITS)
        assert done.stdout, done.stderr[-2000:]
        dx, count = done.stdout.splitlines()
        assert dx.strip("[]").split() == ["-0.25", unused]
        stacks.append(int(count))
    assert stacks[0] < stacks[1]


def test_a_second_trait_of_a_kind_is_an_error(ops: str, tmp_path: Path) -> None:
    done = use(link(ops, tmp_path, TRAIT_CLASH), "last")
    assert "more than one trait of a kind for: Print in csrc/rules/traits/effects.cc and in " in done.stderr


def test_a_mistake_of_a_rule_is_named(ops: str, tmp_path: Path) -> None:
    """The symbolic zero where a word is not linear, inputs of different dtypes, a gradient of another shape."""
    done = use(link(ops, tmp_path, MISTAKES), "last", MISTAKEN)
    zero, divisor, dtypes, name, shape = done.stdout.splitlines()
    assert "a rule emitted op Exp: input 0 is `none`" in zero
    assert "a rule emitted op RealDiv: input 1 is `none`" in divisor
    assert "a rule emitted op Mul: its inputs are double and float, and must be of one dtype" in dtypes
    assert "the rule reads 'y', and the op's signature has: x" in name
    assert "its rule gives input 0 a gradient of shape [1], not []" in shape


def test_a_name_that_no_op_has_is_an_error_of_the_table(ops: str, tmp_path: Path) -> None:
    done = use(link(ops, tmp_path, MISNOMER), "last")
    assert "rules read what no op of their tables has: features in " in done.stderr
    assert "/rules.cc" in done.stderr


def test_a_library_replaces_a_rule(ops: str, tmp_path: Path) -> None:
    for order in "first", "last":
        done = use(link(ops, tmp_path, REPLACEMENT), order, USE_SIN)
        assert done.stdout.strip() == "7.0 1.0", done.stderr[-2000:]


def test_a_gradient_that_python_registers_for_an_op_of_a_library(ops: str, tmp_path: Path) -> None:
    library = f"{tmp_path}/libops.so"
    compiler("-shared", ops, "-o", library, *tf.sysconfig.get_link_flags())
    done = use(library, "last", PYTHON_USE)
    assert done.stdout.strip() == "right", done.stderr[-2000:]
    assert "no gradient is registered for this op" in use(library, "last").stderr


def test_cmake_builds_a_library_with_rules(ops: str, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    (tmp_path / "rules.cc").write_text(RULES)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(ops CXX)\n"
        "find_package(tf_symgrad CONFIG REQUIRED)\n"
        f"add_library(ops SHARED rules.cc {ops})\n"
        f"target_link_libraries(ops PRIVATE tf_symgrad::tf_symgrad {' '.join(tf.sysconfig.get_link_flags())})\n"
    )
    build = str(tmp_path / "build")
    configure = ["cmake", "-S", str(tmp_path), "-B", build, f"-Dtf_symgrad_DIR={tf_symgrad.get_cmake_dir()}"]
    for command in [configure, ["cmake", "--build", build]]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    done = use(f"{build}/libops.so", "first")
    assert done.stdout.strip() == "right", done.stderr[-2000:]
