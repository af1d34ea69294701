"""The array operations that losses are written with, of TensorFlow, JAX and PyTorch, under the same names.

Each is a namespace. `derivative(f)`, the gradient of a scalar function of one array, is by the method that is measured:
losses that hold derivatives are written with it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def tensorflow(derivative: Callable[[Any], Any] | None = None) -> SimpleNamespace:
    import tensorflow as tf

    def scan(step: Callable[..., Any], carry: tuple[Any, ...], xs: Any) -> Any:
        """The carry after all steps."""
        count = xs.shape[0]
        start = (tf.constant(0), *carry)
        end = tf.while_loop(
            lambda t, *_: t < count, lambda t, *c: (t + 1, *step(c, xs[t])), start, maximum_iterations=count
        )
        return end[1:]

    def cross_entropy(ids: Any, logits: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits))

    return SimpleNamespace(
        tanh=tf.tanh,
        sin=tf.sin,
        sigmoid=tf.sigmoid,
        square=tf.square,
        relu=tf.nn.relu,
        gelu=tf.nn.gelu,
        rsqrt=tf.math.rsqrt,
        softmax=tf.nn.softmax,
        matmul=tf.matmul,
        einsum=tf.einsum,
        sum=tf.reduce_sum,
        mean=tf.reduce_mean,
        mean_of_rows=lambda x: tf.reduce_mean(x, -1, keepdims=True),
        reshape=tf.reshape,
        transpose=tf.transpose,
        take=tf.gather,
        split=lambda x, count: tf.split(x, count, 1),
        zeros=tf.zeros,
        cross_entropy=cross_entropy,
        scan=scan,
        derivative=derivative,
    )


def jax() -> SimpleNamespace:
    import jax
    import jax.numpy as jnp

    def cross_entropy(ids: Any, logits: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1))

    return SimpleNamespace(
        tanh=jnp.tanh,
        sin=jnp.sin,
        sigmoid=jax.nn.sigmoid,
        square=jnp.square,
        relu=jax.nn.relu,
        gelu=lambda x: jax.nn.gelu(x, approximate=False),
        rsqrt=jax.lax.rsqrt,
        softmax=jax.nn.softmax,
        matmul=jnp.matmul,
        einsum=jnp.einsum,
        sum=jnp.sum,
        mean=jnp.mean,
        mean_of_rows=lambda x: jnp.mean(x, -1, keepdims=True),
        reshape=jnp.reshape,
        transpose=jnp.transpose,
        take=lambda table, ids: jnp.take(table, ids, axis=0),
        split=lambda x, count: jnp.split(x, count, 1),
        zeros=jnp.zeros,
        cross_entropy=cross_entropy,
        scan=lambda step, carry, xs: jax.lax.scan(lambda c, x: (step(c, x), None), carry, xs)[0],
        derivative=jax.grad,
    )


def torch() -> SimpleNamespace:
    import torch
    from torch.nn import functional

    def scan(step: Callable[..., Any], carry: tuple[Any, ...], xs: Any) -> Any:
        for x in xs:
            carry = step(carry, x)
        return carry

    def cross_entropy(ids: Any, logits: Any) -> Any:
        return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids.reshape(-1))

    return SimpleNamespace(
        tanh=torch.tanh,
        sin=torch.sin,
        sigmoid=torch.sigmoid,
        square=torch.square,
        relu=torch.relu,
        gelu=functional.gelu,
        rsqrt=torch.rsqrt,
        softmax=lambda x: torch.softmax(x, -1),
        matmul=torch.matmul,
        einsum=torch.einsum,
        sum=torch.sum,
        mean=torch.mean,
        mean_of_rows=lambda x: torch.mean(x, -1, keepdim=True),
        reshape=torch.reshape,
        transpose=torch.permute,
        take=lambda table, ids: table[ids],
        split=lambda x, count: torch.chunk(x, count, 1),
        zeros=lambda shape: torch.zeros(shape, device=device()),
        cross_entropy=cross_entropy,
        scan=scan,
        derivative=torch.func.grad,
    )


def device() -> str:
    """Where PyTorch's tensors are."""
    import torch as library

    return "cuda" if library.cuda.is_available() else "cpu"
