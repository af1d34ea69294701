"""The package as a user's program has it, for type checkers: `make lint` runs mypy and pyright over this."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

import tf_symgrad
import tf_symgrad.testing
from tf_symgrad.testing import check_grads


def loss(x: Any) -> Any:
    return tf.reduce_sum(x**2)


def use(x: Any, op: Any) -> None:
    f: Callable[..., tuple[Any, Any]] = tf_symgrad.value_and_grad(loss, wrt=(0,), unconnected_gradients="zero")
    value, gradients = f(x)
    y, pullback = tf_symgrad.vjp(loss, x)
    dx: tuple[Any, ...] = pullback(y)
    tf_symgrad.jacobian(loss, wrt="x")(x)
    (product,) = tf_symgrad.hvp(loss, [x], [x])
    tf_symgrad.testing.check_grads(loss, [x])
    check_grads(loss, [x], order=2, modes=["rev"])
    dxs: list[Any] = tf_symgrad.symbolic_gradient([x], f=loss, sparse=True)
    name, library = tf_symgrad.gradient_function(loss)
    kept: int = tf_symgrad.explain(loss).kept_bytes
    tf_symgrad.raw_ops.SymbolicGradient(input=[x], Tout=[tf.float32], f=loss)
    print(value, gradients, dx, product, dxs, name, library, kept, tf_symgrad.register_python_gradients())


@tf_symgrad.rule("MyPackage>MyOp")
def my_op_gradient(op: Any, dy: Any) -> list[Any]:
    return [dy]


same: Callable[[Any, Any], list[Any]] = my_op_gradient
