"""Jacobians and Hessians, by batches of cotangents or tangents."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_symgrad import _calls, _vectorized
from tf_symgrad._halves import Halves
from tf_symgrad._transforms import grad


def jacobian(f: Callable[..., Any], wrt: int | str = 0) -> Callable[..., Any]:
    """A function that returns the Jacobian of `f` by one of its arguments.

    It is of shape `[*y.shape, *x.shape]` for each tensor y that `f` returns and each tensor x that the argument is made
    of: the structure of the value, of structures like the argument. All rows are computed at once, by the pullback of a
    batch of cotangents; or all columns, by the pushforward, where the x have fewer elements than the y.

    Args:
      f: any callable, see `value_and_grad`. Its results are floating or complex tensors, or structures of these.
      wrt: the position of an argument, or the name of one: a tensor or a structure of tensors. A variable stands for
        its value.

    Examples:
      >>> tf_symgrad.jacobian(lambda x: x**2)(tf.constant([1.0, 2.0]))
      <tf.Tensor: shape=(2, 2), dtype=float32, numpy=
      array([[2., 0.],
             [0., 4.]], dtype=float32)>
    """

    if not isinstance(wrt, (int, str)) or isinstance(wrt, bool):
        raise TypeError(f"wrt must be the position or the name of an argument, not {wrt!r}.")
    f = _calls.callable_of(f)

    def of_arguments(*args: Any, **kwargs: Any) -> Any:
        name, values, named = _calls.with_tensors(f, wrt, args, kwargs)
        argument = values[name] if isinstance(name, int) else named[name]
        xs = [_tensor(x, wrt) for x in tf.nest.flatten(argument)]

        def of_tensors(*xs: Any) -> Any:
            given = tf.nest.pack_sequence_as(argument, xs)
            if isinstance(name, int):
                return _calls.converted(f)(*values[:name], given, *values[name + 1 :], **named)
            return _calls.converted(f)(*values, **{**named, name: given})

        halves = Halves(of_tensors, xs)
        sizes = [x.shape.num_elements() for x in xs]
        rows = [y.shape.num_elements() for y in halves.tensors]
        forward = None not in sizes and (None in rows or sum(sizes) < sum(rows))
        blocks = _by_columns(halves, xs) if forward else _by_rows(halves, xs)
        matrices = [tf.nest.pack_sequence_as(argument, block) for block in blocks]
        given = iter(matrices)
        leaves = [None if y is None else next(given) for y in tf.nest.flatten(halves.value, expand_composites=True)]
        return tf.nest.pack_sequence_as(halves.value, leaves, expand_composites=True)

    return of_arguments


def _tensor(x: Any, name: int | str) -> Any:
    value = _calls.variable_of(x)
    if value is None and not isinstance(x, _calls.TENSORS):
        raise TypeError(
            f"wrt names argument {name!r}, in which there is {x!r}: no tensor or variable. Pass these, or lists, "
            "tuples and dicts of them; of a sparse or ragged tensor its values: f of x.with_values(values)."
        )
    return tf.convert_to_tensor(x if value is None else value)


def _by_columns(halves: Halves, xs: Sequence[Any]) -> list[list[Any]]:
    """For each y and each x the derivatives, by the tangents that are 1 in one place."""

    def push(i: int, tangent: Any) -> list[Any]:
        tangents = [tangent if j == i else None for j in range(len(xs))]
        return list(tf.nest.flatten(halves.pushforward(*tangents), expand_composites=True))

    columns = []
    for i, x in enumerate(xs):
        found = _vectorized.over(functools.partial(push, i), _basis(x))
        last = [tf.transpose(d, [*range(1, d.shape.rank), 0]) for d in found]
        columns.append([tf.reshape(d, tf.concat([tf.shape(d)[:-1], tf.shape(x)], 0)) for d in last])
    return [list(block) for block in zip(*columns, strict=True)]


def _by_rows(halves: Halves, xs: Sequence[Any]) -> list[list[Any]]:
    """For each y and each x the derivatives, by the cotangents that are 1 in one place."""
    connected = [k >= 0 for k in halves.gradients[: len(xs)]]
    zeros = [tf.zeros_like(y) for y in halves.tensors]

    def pull(i: int, cotangent: Any) -> list[Any]:
        gradients = halves.pull([cotangent if j == i else zero for j, zero in enumerate(zeros)])
        return [dx for dx, c in zip(gradients, connected, strict=False) if c]

    blocks = []
    for i, y in enumerate(halves.tensors):
        found = iter(_vectorized.over(functools.partial(pull, i), _basis(y)) if any(connected) else [])
        shapes = [tf.concat([tf.shape(y), tf.shape(x)], 0) for x in xs]
        places = zip(connected, shapes, xs, strict=True)
        blocks.append([tf.reshape(next(found), shape) if c else tf.zeros(shape, x.dtype) for c, shape, x in places])
    return blocks


def _basis(x: Any) -> Any:
    """A batch of tensors like x, each of which is 1 in another place."""
    return tf.reshape(tf.eye(tf.size(x), dtype=x.dtype), tf.concat([[tf.size(x)], tf.shape(x)], 0))


def hessian(f: Callable[..., Any], wrt: int | str = 0) -> Callable[..., Any]:
    """A function that returns the Hessian of `f`, a scalar, by one of its arguments.

    It is of shape `[*x.shape, *x.shape]` for a tensor x; for a structure, a structure of structures, as of `jacobian`.

    Examples:
      >>> tf_symgrad.hessian(lambda x: x[0] ** 2 * x[1])(tf.constant([1.0, 2.0]))
      <tf.Tensor: shape=(2, 2), dtype=float32, numpy=
      array([[4., 2.],
             [2., 0.]], dtype=float32)>
    """
    return jacobian(grad(f, wrt, unconnected_gradients="zero"), wrt)
