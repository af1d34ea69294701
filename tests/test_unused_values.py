"""Zero times infinity is zero: what a program computes and does not use has no gradient, whatever its partials are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from tests.structure import op_types

math = tf.math
Function = Callable[[Any], Any]

X = np.array([0.7, -1.0, 0.0, 2.0, 1.0, -1e-300, 1e4, -0.3, 1.3])

# As small as they are, they would be written out.
KEPT = {"experimental_attributes": {"_noinline": True}}
SQUARE = tf.function(lambda h: h * h, **KEPT)
LOG = tf.function(math.log, **KEPT)


def branch(x: Any, f: Function) -> Any:
    return tf.cond(tf.reduce_sum(tf.gather(x, [3])) > -1e9, lambda: f(x), lambda: x)


def loop(step: Function, x: Any) -> Any:
    return tf.while_loop(lambda i, h: i < 2, lambda i, h: (i + 1, step(h)), [0, x])[1]


# Beyond one half, or where said, each is smooth; elsewhere it, or its derivative, is infinite or NaN.
UNUSED: dict[str, Function] = {
    "sqrt": math.sqrt,
    "rsqrt": math.rsqrt,
    "log": math.log,
    "log1p": lambda x: math.log1p(x - 1),
    "reciprocal": math.reciprocal,
    "quotient": lambda x: x / (x * x),
    "pow": lambda x: x**0.3,
    "x to the x": lambda x: tf.pow(x, x),
    "x log x": lambda x: x * math.log(x),
    "xlogy": lambda x: math.xlogy(x, x),
    "xlog1py": lambda x: math.xlog1py(x, x - 1),
    "xdivy": lambda x: tf.raw_ops.Xdivy(x=x, y=x),
    "div_no_nan": lambda x: math.divide_no_nan(x, math.sqrt(x)),
    "digamma": math.digamma,
    "lgamma": math.lgamma,
    "polygamma": lambda x: math.polygamma(tf.ones_like(x), x),
    "zeta": lambda x: math.zeta(3 * tf.ones_like(x), x),
    "spence": math.special.spence,
    "mod": lambda x: math.floormod(2.3 * x, tf.sign(tf.nn.relu(x))),
    # What is made of infinite values and NaN.
    "sin": lambda x: math.sin(math.sqrt(x)),
    "exp": lambda x: math.exp(0.3 * math.log(x)),
    "tanh": lambda x: math.tanh(math.log(x)),
    "sigmoid": lambda x: math.sigmoid(math.log(x)),
    "relu": lambda x: tf.nn.relu(math.log(x) + 2),
    "relu6": lambda x: tf.nn.relu6(math.log(x) + 2),
    "leaky_relu": lambda x: tf.nn.leaky_relu(math.log(x)),
    "elu": lambda x: tf.nn.elu(math.log(x)),
    "selu": lambda x: tf.nn.selu(math.log(x)),
    "softplus": lambda x: math.softplus(math.log(x)),
    "softsign": lambda x: tf.nn.softsign(math.log(x)),
    "square": lambda x: math.square(math.log(x)),
    "squared_difference": lambda x: math.squared_difference(math.log(x), x),
    "abs": lambda x: math.abs(math.log(x)),
    "atan2": lambda x: math.atan2(math.log(x), x),
    "erf": lambda x: math.erf(math.log(x)),
    "maximum": lambda x: math.maximum(math.log(x), 0.3 * x),
    "two roots": lambda x: math.sqrt(math.log(x) + 1.2),
    # Across functions.
    "argument of a call": lambda x: SQUARE(math.log(x)),
    "result of a call": lambda x: LOG(x) * LOG(x),
    "call in a call": lambda x: tf.function(lambda y: SQUARE(LOG(y)) * y)(x),
    "small calls": lambda x: tf.function(math.square)(tf.function(math.log)(x)),
    "argument of a branch": lambda x: branch(math.log(x), math.square),
    "result of a branch": lambda x: math.square(branch(x, math.log)),
    "a loop's variable": lambda x: loop(lambda h: h * h, math.log(x)),
    "after an iteration": lambda x: loop(lambda h: math.log(h) * math.log(h) + 2, x),
}
ELSEWHERE: dict[str, tuple[Function, Function]] = {
    "acos": (math.acos, lambda x: abs(x) < 0.9),
    "asin": (math.asin, lambda x: abs(x) < 0.9),
    "acosh": (math.acosh, lambda x: x > 1.1),
    "atanh": (math.atanh, lambda x: abs(x) < 0.9),
    "erfinv": (math.erfinv, lambda x: abs(x) < 0.9),
    "ndtri": (math.ndtri, lambda x: (x > 0.1) & (x < 0.9)),
    "exp overflows": (math.exp, lambda x: x < 3),
    "softplus by hand": (lambda x: math.log(1 + math.exp(x)), lambda x: x < 3),
    "sinh": (math.sinh, lambda x: x < 3),
    "cosh": (math.cosh, lambda x: x < 3),
    "expm1": (math.expm1, lambda x: x < 3),
}
CASES = {name: (f, lambda x: x > 0.5) for name, f in UNUSED.items()} | ELSEWHERE
NO_XLA = {"euclidean_norm", "spence", "root of sums of rows"}  # XLA has no such function


def derivative(f: Function, x: Any, order: int, weights: Any) -> Any:
    """The gradient of sum(f), or of its own product with weights."""

    def first(x: Any) -> Any:
        return tf_symgrad.symbolic_gradient([x], f=lambda x: tf.reduce_sum(f(x)))[0]

    return (
        first(x) if order == 1 else tf_symgrad.symbolic_gradient([x], f=lambda x: tf.reduce_sum(weights * first(x)))[0]
    )


@pytest.mark.parametrize("jit", [False, True], ids=["function", "jit"])
@pytest.mark.parametrize("name", CASES)
def test_unused_elements_have_no_gradient(name: str, jit: bool) -> None:
    """Those where() does not choose get zero; the others what they get alone, at orders 1 and 2."""
    if jit and name in NO_XLA:
        pytest.skip("XLA does not compile the forward function")
    f, used = CASES[name]
    x, chosen = tf.constant(X), np.where(used(X))[0]
    weights = np.cos(np.arange(len(X)))
    for order in (1, 2):
        got = tf.function(
            lambda x, order=order: derivative(lambda x: tf.where(used(x), f(x), 0), x, order, weights),
            jit_compile=jit,
            autograph=False,
        )(x)
        alone = derivative(f, tf.gather(x, chosen), order, weights[chosen])
        expected = np.zeros(len(X))
        expected[chosen] = alone
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-12, err_msg=f"order {order}")


# Functions at their minima, where the tangent is vertical: (function, point, subgradient).
MINIMA: dict[str, tuple[Function, list[float], list[float]]] = {
    "norm": (tf.norm, [0, 0, 0], [0, 0, 0]),
    "norm of rows": (lambda x: tf.norm(tf.reshape(x, [2, 2]), axis=1), [0, 0, 3, 4], [0, 0, 0.6, 0.8]),
    "euclidean_norm": (math.reduce_euclidean_norm, [0, 0, 0], [0, 0, 0]),
    "root of a mean of squares": (lambda x: math.sqrt(tf.reduce_mean(x**2)), [0, 0], [0, 0]),
    "distance": (lambda x: math.sqrt(tf.reduce_sum(tf.square(x - [1.0, 2.0]))), [1, 2], [0, 0]),
    "hypotenuse": (lambda x: math.sqrt(x[0] ** 2 + x[1] ** 2), [0, 0], [0, 0]),
    "reduce_std": (math.reduce_std, [1, 1, 1, 1], [0, 0, 0, 0]),
    "reduce_std of columns": (lambda x: math.reduce_std(tf.reshape(x, [2, 2]), 0), [1, 2, 1, 5], [0, -0.5, 0, 0.5]),
    "power of a relu": (lambda x: tf.nn.relu(x) ** 0.3, [-1, 0, 1], [0, 0, 0.3]),
    "root of a relu": (lambda x: math.sqrt(tf.nn.relu(x)), [-1, 0, 1], [0, 0, 0.5]),
    "root of |x|": (lambda x: math.sqrt(math.abs(x)), [-1, 0, 1], [-0.5, 0, 0.5]),
    "root of an underflow": (lambda x: math.sqrt(math.exp(x)), [-2000, 0], [0, 0.5]),
    "root of sums of rows": (lambda x: math.sqrt(math.segment_sum(x * x, [0, 0, 1])), [0, 0, 2], [0, 0, 1]),
    "root of cumulative sums": (lambda x: math.sqrt(math.cumsum(x * x)[1:]), [0, 0, 2], [0, 0, 1]),
    "root of a maximum": (lambda x: math.sqrt(math.maximum(x * x, 2 * x * x)), [0, 2], [0, 2**0.5]),
    "root of what was put together": (lambda x: math.sqrt(tf.concat([x * x, x**2], 0)), [0, 2], [0, 2]),
    "root of a stack": (lambda x: math.sqrt(tf.stack([x * x, x**2])), [0, 2], [0, 2]),
    "root of a pool": (
        lambda x: math.sqrt(tf.nn.avg_pool1d(tf.reshape(x * x, [1, -1, 1]), 1, 1, "VALID")),
        [0, 2],
        [0, 1],
    ),
    "root of a product": (lambda x: math.sqrt(tf.reduce_prod(x * x)), [0, 2], [0, 0]),
    "root of an einsum": (lambda x: math.sqrt(tf.einsum("i,i->i", x, x)), [0, 2], [0, 1]),
    "norm of order 3": (lambda x: tf.norm(x[:, None], ord=3, axis=1), [0, 2], [0, 1]),
    "power of a square": (lambda x: tf.reduce_sum(x * x) ** 0.5, [0, 0], [0, 0]),
    "atan2": (lambda x: math.atan2(x, 2 * x), [0, 0], [0, 0]),
    "angle": (lambda x: math.angle(tf.complex(x, 2 * x)), [0, 0], [0, 0]),
    "complex abs": (lambda x: math.abs(tf.complex(x, 2 * x)), [0, 0], [0, 0]),
}


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64], ids=lambda t: t.name)
@pytest.mark.parametrize("name", MINIMA)
def test_minima_have_the_subgradient_zero(name: str, dtype: Any) -> None:
    f, at, expected = MINIMA[name]
    x = tf.constant(at, dtype)
    for jit in (False,) if name in NO_XLA else (False, True):
        first, second = (
            tf.function(lambda x, order=order: derivative(f, x, order, 1.0), jit_compile=jit, autograph=False)(x)
            for order in (1, 2)
        )
        np.testing.assert_allclose(first, expected, rtol=1e-5)
        assert np.isfinite(second).all()


def test_norms_that_underflow() -> None:
    x = tf.constant([1e-30, 1e-30])
    for norm in (tf.norm, math.reduce_euclidean_norm):
        np.testing.assert_array_equal(derivative(norm, x, 1, 1.0), [0, 0])


def test_smooth_powers_of_squares_keep_their_second_derivative() -> None:
    x = tf.constant([0.0, 2.0], tf.float64)
    power = lambda p: derivative(lambda x: tf.pow(x * x, tf.fill([2], tf.constant(p, tf.float64))), x, 2, 1.0)  # noqa: E731
    np.testing.assert_allclose(power(1.0), [2, 2])
    np.testing.assert_allclose(power(1.5), [0, 12])


def test_what_is_infinite_and_used_stays_infinite() -> None:
    x = tf.constant([0.0, 4.0], tf.float64)
    np.testing.assert_array_equal(derivative(math.sqrt, x, 1, 1.0), [np.inf, 0.25])
    np.testing.assert_array_equal(derivative(math.log, x, 1, 1.0), [np.inf, 0.25])


def test_a_zero_cotangent_keeps_its_own_derivative() -> None:
    """At x = 1 the cotangent of the logarithm is zero, and moves with x."""
    got = derivative(lambda x: math.square(math.log(x)), tf.constant([1.0], tf.float64), 2, 1.0)
    np.testing.assert_allclose(got, [2.0])


def test_a_sum_that_vanishes_is_no_minimum() -> None:
    """The difference of two squares is zero where neither of them is."""
    x = tf.constant([1.0, 2.0], tf.float64)
    f = lambda x: math.sqrt(tf.add_n([x * x, -1.0 * tf.square(tf.constant([1.0, 1.0], tf.float64))]))  # noqa: E731
    np.testing.assert_array_equal(derivative(f, x, 1, 1.0), [np.inf, 2 / 3**0.5])


def test_who_meets_no_infinity_pays_nothing() -> None:
    """Layer normalisation, gelu and attention: the root of a variance and an epsilon is no pole."""

    def f(x: Any, w: Any) -> Any:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        h = tf.matmul((x - mean) * math.rsqrt(variance + 1e-6), w) / 8.0
        return tf.reduce_mean(tf.nn.gelu(h, approximate=False) * tf.nn.relu(h) * math.tanh(h) * tf.nn.softmax(h))

    specs = [tf.TensorSpec(shape, tf.float32) for shape in ([5, 8], [8, 8])]
    _, library = tf_symgrad.gradient_function(tf.function(f).get_concrete_function(*specs))
    types = op_types(library)
    assert not {"MulNoNan", "Xdivy", "DivNoNan"} & types
    assert {"RsqrtGrad", "TanhGrad", "ReluGrad"} <= types
