"""Rules written in Python, and rules in C++ for Python's gradients, each in a process of its own: both are for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import test_registration

ops = test_registration.ops  # the object file of op SymgradTest>Power


def scenarios(code: str, *arguments: str) -> None:
    """Runs each function of a script; fails with the output if one of them does."""
    main = """
for name, scenario in list(globals().items()):
    if name.startswith("scenario_"):
        scenario()
        print(name)
"""
    expected = [line[4:].partition("(")[0] for line in code.splitlines() if line.startswith("def scenario_")]
    done = subprocess.run(
        [sys.executable, "-c", code + main, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.split() == expected, done.stderr[-4000:]


IN_PYTHON = """
import sys
import numpy as np
import tensorflow as tf
import tf_symgrad
from tensorflow.python.eager import context

power = tf.load_op_library(sys.argv[1]).symgrad_test_power
X = tf.constant([0.5, 2.0, -1.0], tf.float64)
traces = []


@tf_symgrad.rule("SymgradTest>Power")
def power_gradient(op, dy):
    n = op.get_attr("exponent")
    traces.append((n, op.inputs[0].shape.rank))
    return n * dy * power(op.inputs[0], exponent=n - 1) if n else tf.zeros_like(dy)


def cube(x):
    return power(x, exponent=3)


def near(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12)


def refused(error, message, call):
    try:
        call()
    except error as e:
        assert message in str(e), e
    else:
        raise AssertionError(message)


def scenario_one_trace_for_each_set_of_attrs():
    traces.clear()

    def f(x):
        for _ in range(20):
            x = power(x, exponent=1)
        return tf.reduce_sum(cube(x))

    near(tf_symgrad.symbolic_gradient([X], f=f)[0], 3 * X**2)
    assert traces == [(3, 1), (1, 1)] or traces == [(1, 1), (3, 1)], traces
    near(tf_symgrad.symbolic_gradient([X], f=lambda x: tf.reduce_sum(cube(x) * x))[0], 4 * X**3)
    assert len(traces) == 2, traces


def scenario_every_order_and_mode():
    tf_symgrad.testing.check_grads(lambda x: cube(tf.sin(x)) * x, [X])
    third = tf_symgrad.grad(tf_symgrad.grad(tf_symgrad.grad(lambda x: power(x, exponent=4))))
    near(third(X[1]), 24 * X[1])
    near(tf.function(third)(X[1]), 24 * X[1])


def scenario_structure():
    @tf.function
    def called(x):
        return cube(x)

    def loop(x):
        return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, cube(called(y))), (0, x))[1]

    x = X[:1] * 2 + 0.1
    near(tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=loop)[0], 81 * x**80)
    branch = lambda x: tf.cond(x[0] > 0, lambda: cube(x), lambda: x)
    near(tf_symgrad.symbolic_gradient([X, tf.ones_like(X)], f=branch)[0], 3 * X**2)


def scenario_a_function_that_python_has_no_graph_of():
    f = tf.function(cube).get_concrete_function(tf.TensorSpec([3], tf.float64))
    definition = type(f.function_def)()
    definition.CopyFrom(f.function_def)
    definition.signature.name = "copied"
    context.context().add_function_def(definition)
    near(tf_symgrad.symbolic_gradient([X, tf.ones_like(X)], f="copied")[0], 3 * X**2)


def scenario_tapes_and_tf_gradients():
    def by_tape(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = cube(x)
            dx = tape.gradient(y, x)
        return outer.gradient(dx, x)

    near(by_tape(X), 6 * X)
    near(tf.function(by_tape)(X), 6 * X)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.constant([2.0], tf.float64)
        near(session.run(tf.gradients(cube(x), x)[0]), [12.0])
        (dx,) = tf_symgrad.symbolic_gradient([x, tf.ones_like(x)], f=cube)
        near(session.run(dx), [12.0])


def scenario_a_saved_model(folder="/tmp"):
    import tempfile
    f = tf.function(lambda x: {"y": tf.reduce_sum(cube(x))}, input_signature=[tf.TensorSpec([3], tf.float64, "x")])
    model = tf.Module()
    model.f = f
    with tempfile.TemporaryDirectory() as folder:
        tf_symgrad.save_with_gradients(model, folder + "/out", signatures={"serving_default": f})
        loaded = tf.saved_model.load(folder + "/out").signatures["gradients"](x=X)
    near(loaded["gradient_x"], 3 * X**2)


def scenario_explained():
    f = tf.function(cube).get_concrete_function(tf.TensorSpec([3], tf.float64))
    explained = tf_symgrad.explain(f)
    assert explained.inputs[0].connected and not explained.error, str(explained)


def scenario_what_does_not_fit():
    refused(ValueError, "no op 'Nothing': load its library", lambda: tf_symgrad.rule("Nothing"))
    refused(ValueError, "'Sin' has a rule of the engine's", lambda: tf_symgrad.rule("Sin"))
    tf.no_gradient("NearestNeighbors")
    refused(ValueError, "none (tf.no_gradient)", lambda: tf_symgrad.rule("NearestNeighbors"))
    other = lambda op, dy: dy
    refused(ValueError, "has a rule already", lambda: tf_symgrad.rule("SymgradTest>Power")(other))

    def returns(what):
        def power_gradient(op, dy):
            return what(op, dy)

        power_gradient.__qualname__ = "power_gradient"
        tf_symgrad.rule("SymgradTest>Power")(power_gradient)  # defined anew, as in a notebook
        return tf_symgrad.symbolic_gradient([X, X], f=lambda x: cube(x))[0]

    near(returns(lambda op, dy: 7.0 * dy), 7 * X)
    assert returns(lambda op, dy: tf.IndexedSlices(dy, [2, 1, 0], op.inputs[0].shape)).numpy()[0] == -1.0
    near(returns(lambda op, dy: op.outputs[0] * dy), X**4)
    refused(ValueError, "returns 2 gradients, but the op has 1 inputs", lambda: returns(lambda op, dy: [dy, dy]))
    refused(TypeError, "float32 for input 0, which is float64", lambda: returns(lambda op, dy: tf.cast(dy, tf.float32)))
    v = tf.Variable(2.0, dtype=tf.float64)
    refused(ValueError, "neither an input nor an output of the op", lambda: returns(lambda op, dy: v * dy))
"""


def test_rules_in_python(ops: str, tmp_path: Path) -> None:
    scenarios(IN_PYTHON, test_registration.link(ops, tmp_path, "", rpath=False))


FOR_PYTHON = '''
import sys
import numpy as np
import tensorflow as tf
import tf_symgrad

power = tf.load_op_library(sys.argv[1]).symgrad_test_power
X = tf.constant([0.5, 2.0, -1.0], tf.float64)
assert "Mod" not in tf_symgrad.__dir__()


def gradients(f, x, times=1):
    """By tapes, in eager mode and in a function, and by tf.gradients."""
    def by_tape(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x) if times == 1 else by_tape_of(f, x)
        return tape.gradient(y, x)

    def by_tape_of(f, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    def by_graph(x):
        y = f(x)
        for _ in range(times):
            (y,) = tf.gradients(y, x)
        return y

    return [by_tape(x), tf.function(by_tape)(x), tf.function(by_graph)(x)]


def near(results, expected):
    for got in results:
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-12)


def scenario_nothing_before():
    for call in (lambda: gradients(lambda x: tf.raw_ops.Mod(x=x, y=tf.constant(0.7, tf.float64)), X),
                 lambda: gradients(lambda x: power(x, exponent=3), X)):
        try:
            call()
        except LookupError:
            continue
        raise AssertionError("TensorFlow has a gradient of it by now")


def scenario_all_names():
    names = tf_symgrad.register_python_gradients()
    assert names == tf_symgrad.register_python_gradients()
    assert len(names) > 70 and {"Mod", "Lu", "HSVToRGB", "SymgradTest>Power"} <= set(names), names
    assert not {"RandomShuffle", "TensorMapInsert", "Sin"} & set(names)


def scenario_ops_of_tensorflow():
    mod = lambda x: tf.raw_ops.Mod(x=x, y=tf.constant(0.7, tf.float64))
    near(gradients(lambda x: mod(x) * x, X), mod(X) + X)
    matrix = tf.constant([[2.0, 1.0], [1.0, 3.0]], tf.float64)
    log_det = lambda a: tf.reduce_sum(tf.math.log(tf.linalg.diag_part(tf.linalg.lu(a)[0])))
    near(gradients(log_det, matrix), tf.transpose(tf.linalg.inv(matrix)))
    unique = lambda x: tf.unique(x)[0] ** 2
    near(gradients(unique, X), 2 * X)
    single = tf.constant([[[0.3, 0.5, 0.7]]])
    hue = lambda x: tf.raw_ops.AdjustHue(images=x, delta=0.0)
    near(gradients(lambda x: hue(x) * 2.0, single), 2 * tf.ones_like(single))


def scenario_the_docstring():
    import doctest
    from tf_symgrad._registry import register_python_gradients

    globs = {"tf": tf, "tf_symgrad": tf_symgrad}
    (test,) = doctest.DocTestFinder(recurse=False).find(register_python_gradients, "docstring", globs=globs)
    assert len(test.examples) == 4 and doctest.DocTestRunner().run(test).failed == 0


def scenario_second_derivatives():
    mod = lambda x: tf.raw_ops.Mod(x=x, y=tf.constant(5.0, tf.float64))
    near(gradients(lambda x: tf.reduce_sum(mod(x) ** 3), tf.abs(X), 2), 6 * tf.abs(X))
    near(gradients(lambda x: tf.reduce_sum(power(x, exponent=4)), X, 2), 12 * X**2)


def scenario_rules_of_a_library():
    near(gradients(lambda x: power(x, exponent=3), X), 3 * X**2)


def scenario_ops_that_are_declared_to_have_none():
    @tf.function
    def f(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.image.hsv_to_rgb(x)
        return tape.gradient(y, x)

    x = tf.constant([[[0.3, 0.5, 0.7]]])
    assert np.abs(f(x)).max() > 0.1
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.image.hsv_to_rgb(x)
    assert tape.gradient(y, x) is None
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.random.shuffle(x[0, 0])
    assert tape.gradient(y, x) is None
'''


def test_rules_for_python(ops: str, tmp_path: Path) -> None:
    scenarios(FOR_PYTHON, test_registration.link(ops, tmp_path))
