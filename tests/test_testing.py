"""tf_symgrad.testing.check_grads: right passes, 0.1 % wrong does not, and what can't be told is said so."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tf_symgrad.testing import check_grads

F64, F32 = tf.float64, tf.float32
X = tf.constant([0.5, 2.0, -1.0], F64)


class Affine(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable([1.0, 2.0, 3.0], dtype=F64)

    def __call__(self, x: Any) -> Any:
        return tf.tanh(self.w * x)


def structured(weights: Any, rest: Any) -> Any:
    return {"y": [weights["w"] @ rest[0]], "nothing": None, "count": rest[1] + 1}


RIGHT: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "double": (lambda x: tf.sin(x) ** 2, [X]),
    "single": (lambda x: tf.sin(x) ** 2, [tf.cast(X, F32)]),
    "half": (lambda x: tf.sin(x) ** 2, [tf.cast(X, tf.float16)]),
    "bfloat16": (lambda x: tf.sin(x) ** 2, [tf.cast(X, tf.bfloat16)]),
    "complex": (lambda z: (tf.exp(z) * tf.math.conj(z), tf.abs(z)), [tf.complex(X, 1 + X / 3)]),
    "structures": (structured, [{"w": np.ones((2, 3))}, (np.ones((3, 2)), tf.constant(3))]),
    "sparse": (
        lambda s, y: tf.sparse.sparse_dense_matmul(s, y) ** 2,
        [tf.SparseTensor([[0, 1], [1, 0]], X[:2], [2, 2]), tf.ones([2, 2], F64)],
    ),
    "ragged": (lambda r: tf.reduce_sum(r**2, 1), [tf.RaggedTensor.from_row_lengths(X, [1, 2])]),
    "module": (Affine(), [X]),
    "tf.function": (
        tf.function(lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y)), (0, x))),
        [X],
    ),
    "variable": (lambda p: tf.sin(p["v"]) * p["x"], [{"v": tf.Variable(X), "x": X}]),
    "numbers": (lambda x, n: x * tf.cast(n, F32), [2.0, 3]),
    "close to where f ends": (tf.math.log, [tf.constant([0.05, 1.0], F64)]),
    "a large constant": (lambda x: 1e5 + x**2, [X]),
    "close to a kink": (tf.abs, [tf.constant([1e-3, -1e-3], F64)]),
    "many elements": (lambda x: tf.math.cumsum(x) ** 2, [tf.linspace(tf.constant(0.0, F64), 1.0, 300)]),
}


@pytest.mark.parametrize("what", RIGHT)
def test_right_passes(what: str) -> None:
    f, args = RIGHT[what]
    check_grads(f, args)


def test_order_3() -> None:
    check_grads(lambda x: tf.sin(x) * tf.exp(x), [X[:1]], order=3)


def wrong(factor: Any, order: int) -> Callable[[Any], Any]:
    """x^2, with a derivative of some order that is multiplied by a factor."""

    @tf.custom_gradient
    def derivative(x: Any, dy: Any) -> Any:
        def gradient(d: Any) -> Any:
            of_x = 2 * tf.math.conj(d) * dy * (factor if order == 2 else 1)
            return of_x, 2 * d * x

        return 2 * tf.math.conj(x) * dy, gradient

    @tf.custom_gradient
    def square(x: Any) -> Any:
        return x**2, lambda dy: derivative(x, dy) * (factor if order == 1 else 1)

    return lambda x: square(x)  # a wrapped one has no name of its own


@pytest.mark.parametrize("mode", ["rev", "fwd"])
@pytest.mark.parametrize("order", [1, 2])
def test_one_wrong_element_is_found(order: int, mode: str) -> None:
    """0.1 % too much in one element, in each dtype that can tell."""
    at, modes = (mode, [mode]) if order == 1 else (f"{mode} of rev", ["rev", mode])
    for dtype in (F64, tf.complex128, F32):
        factor = tf.constant([1, 1.001 if dtype != F32 else 1.01, 1], dtype)
        with pytest.raises(
            AssertionError, match=rf"{at}, .*{dtype.name}\[3\]: element \[1\]: expected .* got"
        ) as error:
            check_grads(wrong(factor, order), [tf.cast(X, dtype)], modes=modes)
        assert "(1 of 3 elements differ)" in str(error.value)


def test_missing_and_infinite_gradients_are_found() -> None:
    for factor in (0.0, float("nan"), float("inf"), -1.0):
        with pytest.raises(AssertionError, match="3 of 3"):
            check_grads(wrong(tf.constant(factor, F64), 1), [X])


def test_the_report_says_which_argument_and_result() -> None:
    def f(x: Any, rest: Any) -> Any:
        return x + wrong(tf.constant(1.1, F64), 1)(rest["a"][0]), rest["a"][0] * 1.0

    with pytest.raises(AssertionError) as error:
        check_grads(f, [X, {"a": [X], "b": 3}], order=1)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("Gradients of test_the_report_says_which_argument_and_result.<locals>.f against")
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "  rev, by args[1]['a'][0], float64[3]",
        "  fwd, of result 0, float64[3]",
    ]


UNDECIDED: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "kink": (lambda x: tf.nn.relu(x), [1.0, 0.0], "kink"),
    "kink beside x": (tf.abs, [1.0, 1e-7], "kink"),
    "jump": (lambda x: x + tf.floor(x), [1.0], "jump"),
    "half of the digits": (lambda x: tf.cast(tf.cast(x, F32) ** 2, F64), [1.1, 2.3], "can't tell"),
}


@pytest.mark.parametrize("what", UNDECIDED)
def test_what_differences_can_not_tell(what: str) -> None:
    f, x, message = UNDECIDED[what]
    with pytest.raises(AssertionError, match=f"finite differences can't tell, .*{message}|{message}"):
        check_grads(f, [tf.constant(x, F64)])


def test_noise_is_not_taken_for_a_wrong_gradient() -> None:
    with pytest.raises(AssertionError, match="can't tell, f is too noisy"):
        check_grads(lambda x: 1e6 + 1e-3 * x**2, [tf.constant([1.0, 3.0])], order=1)


def test_variables_that_a_function_reads() -> None:
    layer = tf.keras.layers.Dense(2, activation="tanh")
    x = tf.constant([[0.5, 2.0]])
    layer(x)
    before = [v.numpy() for v in layer.trainable_variables]
    check_grads(layer, [x], variables=layer.trainable_variables)
    for v, value in zip(layer.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)

    module, unread = Affine(), tf.Variable(1.0)
    check_grads(module, [X], order=3, variables=[*module.trainable_variables, unread])
    check_grads(lambda: tf.exp(module.w) * tf.gather(module.w, [0, 0, 1]), [], variables=[module.w])


def test_a_wrong_gradient_of_a_variable_is_found() -> None:
    w = tf.Variable([1.0, 2.0, 3.0], dtype=F64)
    for order, modes, at in [(1, ["rev"], "rev, by"), (2, ["rev"], "rev of rev, by"), (2, ["fwd"], "fwd, of result 0")]:
        f = wrong(tf.constant([1, 1.001, 1], F64), order if modes == ["rev"] else 1)
        with pytest.raises(AssertionError, match=rf"{at}.*element \[1\]") as error:
            check_grads(lambda x: x * f(w + 0), [X], order=order, modes=modes, variables=[w])  # noqa: B023
        assert ("by variables[0], float64[3]" in str(error.value)) == (modes == ["rev"])
        np.testing.assert_array_equal(w, [1, 2, 3])
    check_grads(lambda x: x * f(w + 0), [X])  # which says nothing of w


def test_tolerances() -> None:
    f = wrong(tf.constant(1.001, F64), 1)
    check_grads(f, [X], order=1, rtol=1e-2)
    check_grads(f, [X], order=1, atol=1e-1)
    with pytest.raises(AssertionError):
        check_grads(f, [X], order=1, rtol=1e-4, atol=0.0)


REFUSED: dict[str, tuple[Callable[[], None], type[Exception], str]] = {
    "random": (lambda: check_grads(lambda x: x * tf.random.uniform([], dtype=F64), [X]), ValueError, "deterministic"),
    "no variable": (
        lambda: check_grads(lambda x: x, [X], variables=[tf.constant(1.0)]),
        TypeError,
        "variables must be",
    ),
    "infinite": (lambda: check_grads(tf.math.log, [X]), ValueError, "not finite at this point"),
    "integers": (lambda: check_grads(lambda n: n, [1]), ValueError, "no floating or complex tensor"),
    "no result": (lambda: check_grads(tf.argmax, [X]), ValueError, "returns no floating"),
    "no list": (lambda: check_grads(tf.sin, X), TypeError, r"args must be a list.*check_grads\(f, \[x\]\)"),
    "mode": (lambda: check_grads(tf.sin, [X], modes=["reverse"]), ValueError, "modes must be some of"),
    "order": (lambda: check_grads(tf.sin, [X], order=0), ValueError, "order must be an integer, 1 or more"),
    "f": (lambda: check_grads(3, [X]), TypeError, "must be a function"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call()


def test_docstring() -> None:
    import tf_symgrad

    globs = {"tf": tf, "tf_symgrad": tf_symgrad}
    (test,) = doctest.DocTestFinder(recurse=False).find(check_grads, "check_grads", globs=globs)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
