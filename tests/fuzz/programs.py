"""Random well-formed TensorFlow programs: `random_program(rng)` is a function of tensors, the same for equal seeds.

A program is a list of steps over the values made so far, each an op or a structure (a call, a branch, a loop, an array,
a custom gradient) that holds programs itself. All values are kept tame, so that differences mean mistakes: what is
added to the values goes through `tame`. Ties, kinks and what has no gradient are left to the case tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.fuzz.operations import operation

Value = Any
Step = Callable[[list[Value]], Value]
Program = Callable[..., Value]


SHAPE = (3, 4)  # of all values
# What is equal by construction, rows that were gathered twice or zeros that were padded, would be ties of a maximum.
UNEQUAL = np.sin(np.arange(12.0)).reshape(SHAPE)


def tame(x: Value) -> Value:
    """A value of moderate size, whatever came before: what is far from 0 grows slowly, at every order."""
    return tf.asinh(x + UNEQUAL)


def hidden(x: Value, rank: int | None) -> Value:
    """The same values in a tensor whose sizes TensorFlow knows when it runs, its rank perhaps before."""
    sizes = tf.boolean_mask(list(SHAPE), tf.math.is_finite(tf.reshape(x, [-1])[:2]))
    return tf.reshape(x, sizes if rank is None else tf.ensure_shape(sizes, [rank]))


def rows(x: Value) -> Value:
    """A matrix of a row."""
    return tf.tile(x[None], [3, 1]) + UNEQUAL


def positive(x: Value) -> Value:
    return 0.5 + tf.nn.softplus(x)


UNARY: list[Callable[[Value], Value]] = [
    tf.sin,
    tf.tanh,
    tf.exp,
    tf.sigmoid,
    tf.nn.softplus,
    tf.nn.elu,
    tf.nn.selu,
    tf.nn.silu,
    tf.square,
    tf.math.erf,
    tf.atan,
    tf.asinh,
    tf.math.sinh,
    lambda x: tf.sqrt(positive(x)),
    lambda x: tf.math.log(positive(x)),
    lambda x: tf.math.rsqrt(positive(x)),
    lambda x: tf.math.lgamma(positive(x)),
    lambda x: tf.math.log1p(positive(x)),
    lambda x: 1.0 / positive(x),
    lambda x: tf.stop_gradient(x) * x,
    tf.negative,
    tf.identity,
]
BINARY: list[Callable[[Value, Value], Value]] = [
    tf.add,
    tf.subtract,
    tf.multiply,
    lambda x, y: x / positive(y),
    lambda x, y: tf.pow(positive(x), y),
    tf.math.squared_difference,
    lambda x, y: tf.atan2(positive(x), positive(y)),
    lambda x, y: tf.where(tf.sin(x) > 0.1, x, y),
    tf.maximum,
    tf.minimum,
    lambda x, y: tf.math.xlogy(x, positive(y)),
]


class Generator:
    """Draws steps. `size` elements an axis are plenty: shapes matter here, and not their sizes."""

    def __init__(self, rng: random.Random, orders: int, hides: random.Random | None, tables: bool) -> None:
        self.rng, self.orders, self.hides, self.tables = rng, orders, hides, tables

    def program(self, length: int, depth: int) -> Program:
        steps = [self._perhaps_hidden(self.step(depth)) for _ in range(length)]

        def run(*inputs: Value) -> Value:
            values = list(inputs)
            for step in steps:
                values.append(tame(step(values)))
            # The result has the shape of the first input, so that programs fit into structures.
            total = tf.zeros_like(inputs[0])
            for value in values[len(inputs) :]:
                total += value
            return tame(total)

        return run

    def _perhaps_hidden(self, step: Step) -> Step:
        if self.hides is None or self.hides.random() < 0.5:
            return step
        rank = self.hides.choice([2, 2, None])
        return lambda values: hidden(step(values), rank)

    def _entering(self, x: Value) -> Value:
        """What a loop starts with: of no static shape, where what an iteration makes may have none."""
        return x if self.hides is None else hidden(x, None)

    def step(self, depth: int) -> Step:
        kinds = ["unary"] * 4 + ["binary"] * 4 + ["array"] * 5 + ["reduce"] * 2 + ["product"] * 2 + ["matrix", "signal"]
        if depth:
            kinds += ["call", "cond", "switch", "while", "for", "scan", "map", "custom", "data_loop", "list"]
            kinds += ["again"] * (self.orders == 1 or self.tables)  # a tape of a tape can't
        kinds += ["operation"] * 6 * self.tables
        kind = self.rng.choice(kinds)
        make: Callable[[int], Step] = getattr(self, f"_{kind}")
        return make(depth)

    def _pick(self) -> Callable[[list[Value]], Value]:
        back = self.rng.choice([1, 1, 2, 3])
        return lambda values: values[max(-back, -len(values))]

    def _unary(self, depth: int) -> Step:
        op, x = self.rng.choice(UNARY), self._pick()
        return lambda values: op(x(values))

    def _binary(self, depth: int) -> Step:
        op, x, y = self.rng.choice(BINARY), self._pick(), self._pick()
        how = self.rng.choice(["same", "row", "column", "scalar"])

        def run(values: list[Value]) -> Value:
            a, b = x(values), y(values)
            if how == "row":
                b = tf.reduce_sum(b, 0, keepdims=True)
            elif how == "column":
                b = tf.reduce_sum(b, -1, keepdims=True)
            elif how == "scalar":
                b = tf.reduce_mean(b)
            return op(a, b) if self_is_first else op(b, a)

        self_is_first = self.rng.random() < 0.5
        return run

    def _reduce(self, depth: int) -> Step:
        op = self.rng.choice([tf.reduce_sum, tf.reduce_mean, tf.reduce_logsumexp, tf.math.reduce_std, tf.reduce_max])
        keep, axis, x = self.rng.random() < 0.7, self.rng.choice([0, -1]), self._pick()

        def run(values: list[Value]) -> Value:
            a = x(values)
            reduced = op(a, axis, keepdims=True)
            return a * reduced if keep else reduced + tf.zeros_like(a)

        return run

    def _product(self, depth: int) -> Step:
        kind, x, y = self.rng.randrange(5), self._pick(), self._pick()

        def run(values: list[Value]) -> Value:
            a, b = x(values), y(values)
            match kind:
                case 0:
                    return tf.matmul(tf.matmul(a, b, transpose_b=True), a)
                case 1:
                    return tf.linalg.matvec(a, b[0])[:, None] + a
                case 2:
                    return tf.einsum("ij,kj->ki", a, b) @ b
                case 3:
                    return tf.nn.softmax(a) * tf.nn.log_softmax(b)
                case _:
                    image = tf.cast(a, tf.float64)[None, :, :, None]
                    kernel = tf.reshape(b[:2, :2], [2, 2, 1, 1])
                    return tf.nn.conv2d(image, kernel, 1, "SAME")[0, :, :, 0]

        return run

    def _array(self, depth: int) -> Step:
        kind, x, y = self.rng.randrange(14), self._pick(), self._pick()
        k = self.rng.randrange(3)

        def run(values: list[Value]) -> Value:
            a, b = x(values), y(values)
            match kind:
                case 0:
                    return tf.concat([a[:k], b[k:]], 0)
                case 1:
                    return tf.transpose(tf.reshape(a, SHAPE[::-1]))
                case 2:
                    return tf.gather(a, [k, 0, k], axis=0) + b
                case 3:
                    return tf.reverse(a, [k % 2])
                case 4:
                    return tf.roll(a, k, 0) * b
                case 5:
                    return tf.cumsum(a, k % 2, exclusive=k == 1, reverse=k == 2)
                case 6:
                    return tf.pad(a, [[1, 0], [0, 1]], "REFLECT" if k else "CONSTANT")[1:, :-1]
                case 7:
                    return tf.stack(tf.unstack(a, SHAPE[k % 2], axis=k % 2)[::-1], axis=k % 2)
                case 8:
                    return tf.tile(a, [2, 1])[k : k + 3]
                case 9:
                    return (
                        tf.tensor_scatter_nd_update(a, [[k], [0]], b[:2])
                        if k
                        else tf.tensor_scatter_nd_add(a, [[k]], b[:1])
                    )
                case 10:
                    return tf.math.unsorted_segment_sum(a, [k, 0, k], 3)
                case 11:
                    return tf.sort(a, axis=k % 2)
                case 12:
                    return tf.concat(tf.split(a, [1, 3], axis=1)[::-1], 1)
                case _:
                    return tf.linalg.band_part(a, k, k) + tf.linalg.diag(tf.linalg.diag_part(a @ tf.transpose(b))) @ b

        return run

    def _matrix(self, depth: int) -> Step:
        kind, x = self.rng.randrange(6), self._pick()

        def run(values: list[Value]) -> Value:
            a = x(values)
            spread = tf.linalg.diag(tf.range(1.0, SHAPE[0] + 1.0, dtype=a.dtype))
            square = tf.matmul(a, a, transpose_b=True) + 4.0 * spread  # positive, with a gap between eigenvalues
            match kind:
                case 0:
                    return tf.linalg.solve(square, a)
                case 1:
                    return tf.linalg.cholesky(square) @ a
                case 2:
                    return tf.linalg.inv(square) @ a
                case 3:
                    return tf.linalg.triangular_solve(square, a, lower=True)
                case 4:
                    return tf.linalg.eigvalsh(square)[:, None] * a
                case _:
                    return tf.math.log(tf.linalg.det(square)) * a

        return run

    def _signal(self, depth: int) -> Step:
        kind, x = self.rng.randrange(6), self._pick()

        def run(values: list[Value]) -> Value:
            a = x(values)
            image = a[None, :, :, None]
            match kind:
                case 0:
                    return tf.math.real(tf.signal.fft(tf.cast(a, tf.complex128) * (1.0 + 0.5j)))
                case 1:
                    return tf.math.abs(tf.complex(a, positive(a)))
                case 2:
                    return tf.nn.avg_pool2d(image, 2, 1, "SAME")[0, :, :, 0]
                case 3:
                    return tf.nn.l2_normalize(a, axis=1) * tf.norm(a + 2.0)
                case 4:
                    return tf.math.cumprod(tf.tanh(a), axis=1)
                case _:
                    return tf.nn.depthwise_conv2d(image, tf.ones([2, 2, 1, 1], a.dtype), [1] * 4, "SAME")[0, :, :, 0]

        return run

    def _operation(self, depth: int) -> Step:
        (_, mean), x = operation(self.rng), self._pick()
        return lambda values: x(values) * tf.tanh(mean(x(values)))

    # -- Structure.

    def _inner(self, depth: int) -> Program:
        return self.program(self.rng.randint(1, 3), depth - 1)

    def _call(self, depth: int) -> Step:
        inner, x, y = self._inner(depth), self._pick(), self._pick()
        kept = {"_noinline": True} if self.rng.random() < 0.5 else None  # a small function is written out else
        function = tf.function(inner, autograph=False, experimental_attributes=kept)
        return lambda values: function(x(values), y(values))

    def _cond(self, depth: int) -> Step:
        then, other, x = self._inner(depth), self._inner(depth), self._pick()
        captured = self._pick()

        def run(values: list[Value]) -> Value:
            a, c = x(values), captured(values)
            return tf.cond(tf.reduce_sum(a) > 0.1, lambda: then(a, c), lambda: other(a))

        return run

    def _switch(self, depth: int) -> Step:
        branches, x = [self._inner(depth) for _ in range(3)], self._pick()

        def run(values: list[Value]) -> Value:
            a = x(values)
            index = tf.cast(3.0 * tf.sigmoid(tf.reduce_sum(a)), tf.int32)
            return tf.switch_case(index, [lambda p=p: p(a) for p in branches])

        return run

    def _while(self, depth: int) -> Step:
        body, x, captured, trips = self._inner(depth), self._pick(), self._pick(), self.rng.randrange(4)

        def run(values: list[Value]) -> Value:
            a, c = x(values), captured(values)
            return tf.while_loop(lambda i, _: i < trips, lambda i, v: (i + 1, body(v, c)), [0, self._entering(a)])[1]

        return run

    def _data_loop(self, depth: int) -> Step:
        """A loop whose length the data decide."""
        body, x = self._inner(depth), self._pick()

        def run(values: list[Value]) -> Value:
            a = x(values)

            def go_on(i: Value, v: Value) -> Value:
                return tf.logical_and(i < 4, tf.reduce_sum(tf.sin(v)) < 1.0)

            return tf.while_loop(go_on, lambda i, v: (i + 1, body(v)), [0, self._entering(a)])[1]

        return run

    def _for(self, depth: int) -> Step:
        """A loop that writes an array and reads another one."""
        body, x, y = self._inner(depth), self._pick(), self._pick()

        def run(values: list[Value]) -> Value:
            a, b = x(values), y(values)
            rows = tf.TensorArray(a.dtype, 3, element_shape=[None]).unstack(a)
            made = tf.TensorArray(a.dtype, 3, element_shape=[SHAPE[1]])

            def step(i: Value, state: Value, made: Value) -> Any:
                state = body(state) * tf.tanh(rows.read(i))
                return i + 1, state, made.write(i, state[0])

            state = self._entering(tf.ones_like(a) * tf.reduce_mean(b))
            return tf.while_loop(lambda i, *_: i < 3, step, [0, state, made])[2].stack()

        return run

    def _scan(self, depth: int) -> Step:
        body, x, reverse = self._inner(depth), self._pick(), self.rng.random() < 0.3

        def run(values: list[Value]) -> Value:
            a = x(values)
            return tf.scan(lambda s, row: tf.ensure_shape(body(rows(s * row))[1], SHAPE[1:]), a, a[0], reverse=reverse)

        return run

    def _map(self, depth: int) -> Step:
        body, x = self._inner(depth), self._pick()
        return lambda values: tf.map_fn(lambda row: body(rows(row))[2], x(values))

    def _again(self, depth: int) -> Step:
        """What is computed again on the way back."""
        inner, x = self._inner(depth), self._pick()
        return lambda values: tf.recompute_grad(inner)(x(values))

    def _list(self, depth: int) -> Step:
        """A stack that a loop pushes to and another one pops from."""
        inner, x = self._inner(depth), self._pick()

        def run(values: list[Value]) -> Value:
            a = x(values)
            empty = tf.raw_ops.EmptyTensorList(element_shape=SHAPE, max_num_elements=-1, element_dtype=a.dtype)

            def push(i: Value, v: Value, stack: Value) -> Any:
                return i + 1, inner(v), tf.raw_ops.TensorListPushBack(input_handle=stack, tensor=v)

            def pop(i: Value, v: Value, stack: Value) -> Any:
                stack, top = tf.raw_ops.TensorListPopBack(
                    input_handle=stack, element_shape=SHAPE, element_dtype=a.dtype
                )
                return i + 1, tf.tanh(v) * top, stack

            _, v, stack = tf.while_loop(lambda i, *_: i < 2, push, [0, self._entering(a), empty])
            return tf.while_loop(lambda i, *_: i < 2, pop, [0, v, stack])[1]

        return run

    def _custom(self, depth: int) -> Step:
        inner, x, factor = self._inner(depth), self._pick(), self.rng.choice([1.0, 0.5, -2.0])

        def run(values: list[Value]) -> Value:
            @tf.custom_gradient
            def scaled(a: Value) -> Any:
                return inner(a), lambda dy: factor * dy * tf.cos(a)

            return scaled(x(values))

        return run


def random_program(
    rng: random.Random, orders: int = 1, hides: random.Random | None = None, tables: bool = False
) -> Program:
    """A function of two matrices of float64, to be differentiated so often.

    Args:
      rng: draws the steps.
      orders: how often.
      hides: draws of which values TensorFlow does not know the shapes.
      tables: whether steps may be ops of the case tables.
    """
    generator = Generator(rng, orders, hides, tables)
    if orders > 2:
        return generator.program(rng.randint(1, 3), rng.choice([0, 0, 1]))
    # Most are small: what two steps do to each other, few large ones would not show as often.
    length = rng.choice([1, 2, 2, 3, 3, 4, 6])
    return generator.program(length, rng.choice([0, 1, 1, 1, 2]) if length > 1 else 1)
