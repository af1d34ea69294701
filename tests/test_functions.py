"""Whole functions, as users write them, against GradientTape: structures, variables, calls, layers, losses.

A rule has its case (tests/cases); here rules meet: shapes that only run time knows next to static ones, outputs that
nobody differentiates, integers between floats, functions in functions, second derivatives of it all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import tf_symgrad
from tests.oracles import Tensor, analytic_mismatch


def rand(*shape: int, lo: float = -1.0, hi: float = 1.0) -> Any:
    seed = sum((i + 2) * n for i, n in enumerate(shape)) + round(16 * hi)
    return np.random.default_rng(seed).uniform(lo, hi, shape)


def z(*shape: int) -> Any:
    return rand(*shape) + 1j * rand(*shape, lo=-0.5)


def spd(n: int) -> Any:
    a = rand(n, n)
    return a @ a.T + n * np.eye(n)


def spectrum(n: int) -> Any:
    """A matrix whose singular values are well apart."""
    return rand(n, n) * 0.2 + np.diag(np.arange(1.0, n + 1))


class Row(NamedTuple):
    name: str
    f: Callable[..., Any]
    x: tuple[Any, ...]
    tol: float = 1.0
    order: int = 2


def row(name: str, f: Callable[..., Any], *x: Any, **options: Any) -> Row:
    return Row(name, f, x, **options)


# ---- Functions ----

i3 = np.array([2, 0, 2])
i22 = np.array([[0, 2], [1, 1]])
labels = np.array([1, 0, 2, 2])


def mlp(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return tf.nn.softplus(tf.nn.gelu(tf.matmul(x, w) + b) @ v)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = tf.einsum("bqhd,bkhd->bhqk", q, k) / tf.sqrt(tf.cast(tf.shape(q)[-1], q.dtype))
    n = tf.shape(scores)[-1]
    mask = tf.linalg.band_part(tf.ones([n, n], q.dtype), -1, 0)
    return tf.einsum("bhqk,bkhd->bqhd", tf.nn.softmax(scores - 1e9 * (1 - mask)), v)


def layer_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-5)


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w: Tensor) -> Any:
    i, f, g, o = tf.split(tf.concat([x, h], 1) @ w, 4, axis=1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
    return {"c": c, "h": [tf.sigmoid(o) * tf.tanh(c)]}


def power_iteration(a: Tensor, v: Tensor) -> Tensor:
    for _ in range(3):
        v = tf.linalg.matvec(a, v)
        v /= tf.norm(v)
    return tf.tensordot(v, tf.linalg.matvec(a, v), 1)


def gradient_inside(x: Tensor) -> Tensor:
    (g,) = tf_symgrad.symbolic_gradient([x], f=lambda x: tf.reduce_sum(x**3 * tf.sin(x)))
    return g * x


def tf_gradients_inside(x: Tensor) -> Tensor:
    return tf.function(lambda x: tf.gradients(tf.reduce_sum(tf.exp(x) * x**2), x)[0])(x) * x


@tf.function
def inner(x: Tensor, n: int = 2) -> Any:
    return [tf.sin(x) * n, tf.reduce_sum(x), tf.argmax(x, -1)]


@tf.function
def outer(x: Tensor) -> Tensor:
    a, b, i = inner(x)
    c, _, _ = inner(a + b, 3)
    return c * tf.one_hot(i, 3, dtype=x.dtype)


def shared_calls(x: Tensor) -> Tensor:
    for _ in range(4):
        x = outer(x) + x
    return x


def routed(x: Tensor, i: Tensor) -> Tensor:
    parts = tf.dynamic_partition(x, i, 2)
    return tf.dynamic_stitch(tf.dynamic_partition(tf.range(tf.size(i)), i, 2), [parts[0] ** 2, tf.sin(parts[1])])


def ragged(x: Tensor) -> Tensor:
    r = tf.RaggedTensor.from_row_lengths(x, [2, 0, 3])
    full = tf.RaggedTensor.from_row_lengths(x, [2, 1, 2])  # the mean of an empty row has Python's order 2 be NaN
    return tf.reduce_sum(r * 2.0 * r, 1), tf.reduce_mean(full.with_values(full.values**3), 1), r.flat_values


def sparse_product(v: Tensor, w: Tensor) -> Tensor:
    s = tf.SparseTensor([[0, 1], [1, 0], [2, 2]], v, [3, 3])
    return tf.sparse.sparse_dense_matmul(s, w), tf.sparse.to_dense(s) ** 2, tf.sparse.reduce_sum(s, 1)


def crop(x: Tensor) -> Tensor:
    boxes = tf.constant([[0.1, 0.2, 0.9, 0.8], [0.0, 0.0, 1.0, 1.0]])
    return tf.image.crop_and_resize(x, boxes, [0, 1], [3, 3])


def gauss_log_prob(x: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    chol = tf.linalg.cholesky(tf.matmul(a, a, transpose_b=True) + 3 * tf.eye(3, dtype=x.dtype))
    u = tf.linalg.triangular_solve(chol, (x - mean)[:, None])
    return -0.5 * tf.reduce_sum(u**2) - tf.reduce_sum(tf.math.log(tf.linalg.diag_part(chol)))


def batch_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Any:
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, scale, offset)
    return tf.nn.elu(y), tf.stop_gradient(mean * variance)


def variable(*shape: int) -> tf.Variable:
    return tf.Variable(rand(*shape, hi=0.9), dtype=tf.float64)


table, weights = variable(5, 3), variable(3, 3)


def with_variables(x: Tensor, i: Tensor) -> Tensor:
    rows = tf.nn.embedding_lookup(table, i)
    return tf.tanh(tf.matmul(rows, weights) * x) + tf.gather(weights, [0, 0]) + weights[1]


def where_nan(x: Tensor) -> Tensor:
    return tf.where(x > 0, tf.sqrt(tf.where(x > 0, x, 1.0)), -x), tf.math.divide_no_nan(x**2, tf.nn.relu(x))


FUNCTIONS = [
    # Elementwise, reductions, broadcasting.
    row("mlp", mlp, rand(4, 3), rand(3, 5), rand(5), rand(5, 2)),
    row("broadcasts", lambda a, b, c: (a * b + c) / (2 + tf.sin(b)) - a**2, rand(3, 1), rand(1, 4), rand()),
    row("scalar", lambda x: tf.exp(tf.sin(x) ** 2), rand()),
    row("empty", lambda x: (tf.reduce_sum(x * x, 0), tf.concat([x, x], 0)), rand(0, 3)),
    row("where", where_nan, rand(2, 3), tol=1e3),
    row(
        "logsumexp",
        lambda x: tf.reduce_logsumexp(x, [0, 2]) + tf.math.reduce_variance(x) * tf.math.reduce_std(x),
        rand(2, 3, 4),
    ),
    row(
        "euclidean",
        lambda x: tf.norm(x, axis=-1) + tf.reduce_prod(x, -1) + tf.math.reduce_euclidean_norm(x, 1),
        rand(3, 4),
    ),
    row("minmax", lambda x, y: tf.reduce_max(x, 1) * tf.reduce_min(x, 0) + tf.maximum(x, y)[0], rand(3, 3), rand(3)),
    row("ties", lambda x: tf.reduce_max(tf.round(x), 1) + tf.maximum(tf.round(x), 0)[:, 0], rand(3, 4, hi=3)),
    row(
        "clips",
        lambda x: [tf.clip_by_value(x, -0.5, 0.5), tf.clip_by_norm(x, 0.5), tf.clip_by_global_norm([x, 2 * x], 1.0)[0]],
        rand(3, 3),
    ),
    row(
        "cumulative",
        lambda x: (
            tf.cumsum(x, 1, exclusive=True, reverse=True) * tf.math.cumprod(x, 0) + tf.math.cumulative_logsumexp(x, 1)
        ),
        rand(3, 4),
    ),
    row(
        "special",
        lambda x: (
            tf.math.lgamma(x)
            + tf.math.digamma(x)
            + tf.math.erf(x)
            + tf.math.erfinv(x / 2)
            + tf.math.bessel_i0e(x)
            + tf.math.ndtri(x / 3)
        ),
        rand(4, lo=0.3),
    ),
    row(
        "betainc",
        lambda x, a: (
            tf.math.betainc(2.0 * tf.ones_like(x), 3.0 * tf.ones_like(x), x)
            + tf.math.xlogy(a, x)
            + tf.math.xlog1py(a, x)
        ),
        rand(4, lo=0.2),
        rand(4),
    ),
    row(
        "igamma",
        lambda a, x: tf.math.igamma(a, x) * tf.math.igammac(a, x),
        rand(3, lo=0.5, hi=2),
        rand(3, lo=0.5, hi=3),
        tol=1e4,
        order=1,
    ),
    row(
        "zeta",
        lambda x: tf.math.zeta(tf.constant(3.0, x.dtype), x + 1) * tf.math.polygamma(tf.ones_like(x), x),
        rand(4, lo=0.5),
        order=1,
    ),
    row(
        "hyperbolic",
        lambda x: tf.asinh(x) * tf.acosh(x + 2) - tf.atanh(x / 2) + tf.sinh(x) / tf.cosh(x) + tf.atan2(x, x[0]),
        rand(4),
    ),
    row("trigonometric", lambda x: tf.acos(x / 2) * tf.asin(x / 2) + tf.atan(x) - tf.tan(x), rand(4)),
    row(
        "mods",
        lambda x, y: tf.math.floormod(x, y) + x % 0.3 + tf.floor(x) * tf.sign(y) + tf.math.mod(x, y),
        rand(4),
        rand(4, lo=0.5),
    ),
    row(
        "powers",
        lambda x, y: (
            tf.pow(x, y) * x ** y[0]
            + tf.math.rsqrt(x)
            + tf.math.reciprocal_no_nan(x)
            + tf.math.squared_difference(x, y)
            + tf.math.expm1(x) * tf.math.log1p(y)
        ),
        rand(3, lo=0.2),
        rand(3),
    ),
    row("complex", lambda x: tf.math.real(x * tf.math.conj(x) + tf.exp(x) / x) + tf.abs(x) + tf.math.angle(x), z(2, 3)),
    row(
        "complex matrices",
        lambda a, b: (
            tf.linalg.matmul(a, b, adjoint_a=True)
            + tf.linalg.adjoint(tf.linalg.matvec(a, b[:, 0])[None]) @ tf.sinh(b[:1])
        ),
        z(3, 3),
        z(3, 3),
    ),
    row("complex parts", lambda x, y: tf.complex(x, y) ** 2 * tf.exp(tf.complex(y, x)), rand(3), rand(3)),
    row(
        "casts",
        lambda x: tf.cast(tf.cast(x, tf.float32), x.dtype) * x + tf.cast(tf.cast(x * 3, tf.int32), x.dtype),
        rand(2, 3),
        tol=1e7,
    ),
    row("add_n", lambda x: tf.add_n([x, x * x, tf.stop_gradient(x) * x]), rand(3)),
    row(
        "identities",
        lambda x: [
            tf.identity(x),
            *tf.identity_n([x, x * 2]),
            tf.ensure_shape(x, [3]),
            tf.debugging.check_numerics(x, "x"),
        ],
        rand(3),
    ),
    # Arrays.
    row(
        "slices",
        lambda x: x[1:, ::-2, None, 1] * 2 + x[-1, 0, 0] + tf.reduce_sum(x[..., tf.newaxis, ::2]),
        rand(3, 4, 3),
    ),
    row("strided slices", lambda x: tf.concat([x[:0:-1, 1], x[1:3, -1], x[tf.shape(x)[0] - 1 :, 0]], 0), rand(4, 3)),
    row("boolean mask", lambda x: tf.boolean_mask(x, x > 0) ** 2, rand(3, 4)),
    row(
        "reshapes",
        lambda x: tf.squeeze(tf.expand_dims(tf.reshape(tf.transpose(x, [2, 0, 1]), [-1, tf.shape(x)[0]]), 0), [0]) ** 2,
        rand(2, 3, 4),
    ),
    row(
        "stack", lambda x, y: tf.stack([x, y * x, *tf.unstack(tf.stack([y, y], 1), axis=1)], -1), rand(2, 3), rand(2, 3)
    ),
    row("splits", lambda x: (lambda a, b, c: [a @ tf.transpose(b), c])(*tf.split(x, [2, 2, -1], 0)), rand(5, 3)),
    row("unused split", lambda x: tf.split(x, 3, 1)[1] ** 3, rand(2, 6)),
    row(
        "tile pad",
        lambda x: (
            tf.pad(tf.tile(x, [2, 1]), [[1, 0], [0, 2]], constant_values=3.0)
            * tf.pad(tf.repeat(x, 2, 0), [[1, 0], [1, 1]], "REFLECT")
        ),
        rand(2, 3),
    ),
    row("symmetric pad", lambda x: tf.pad(x, [[1, 2], [2, 0]], "SYMMETRIC") ** 2, rand(2, 3)),
    row(
        "rolls",
        lambda x: tf.roll(x, [1, -2], [0, 1]) * tf.reverse(x, [1]) + tf.reverse_sequence(x, [1, 2, 3], 1, 0),
        rand(3, 3),
    ),
    row(
        "gathers",
        lambda x, i, j: (
            tf.gather(x, i) * tf.gather(x, i, axis=1)[:3, :3] + tf.reduce_sum(tf.gather(x[:2], j, batch_dims=1))
        ),
        rand(3, 3),
        i3,
        i22,
    ),
    row("gather batch", lambda x, i: tf.gather(x, i, axis=2, batch_dims=1), rand(2, 3, 4), i22),
    row(
        "gather_nd",
        lambda x, i: tf.gather_nd(x, i[:, None]) ** 2 + tf.gather_nd(x, [[0, 0], [1, 2], [0, 0]])[:, None],
        rand(3, 3),
        i3,
    ),
    row(
        "scatters",
        lambda x, u, i: tf.tensor_scatter_nd_add(x, i[:, None], u) * tf.scatter_nd(i[:, None], u, [3, 3]),
        rand(3, 3),
        rand(3, 3),
        i3,
    ),
    row(
        "scatter extremes",
        lambda x, u: tf.tensor_scatter_nd_update(x, [[1], [0]], u) + tf.tensor_scatter_nd_sub(x, [[0], [0]], u),
        rand(3, 3),
        rand(2, 3),
    ),
    row(
        "scatter max",
        lambda x, u: tf.tensor_scatter_nd_max(x, [[1], [0]], u) * tf.tensor_scatter_nd_min(x, [[2], [0]], u),
        rand(3, 3),
        rand(2, 3),
    ),
    row(
        "segments",
        lambda x, i: [
            tf.math.segment_sum(x, [0, 0, 2]),
            tf.math.segment_mean(x, [0, 1, 1]) ** 2,
            tf.math.unsorted_segment_sum(x, i, 3) * x,
            tf.math.segment_max(x, [0, 0, 1]),
        ],
        rand(3, 2),
        i3,
    ),
    row(
        "unsorted segments",
        lambda x, i: [
            tf.math.unsorted_segment_prod(x, i, 4),
            tf.math.unsorted_segment_mean(x, i, 3),
            tf.math.unsorted_segment_sqrt_n(x, i, 3) ** 2,
            tf.math.unsorted_segment_min(x, i, 3),
        ],
        rand(3, 2),
        i3,
        order=1,
    ),
    row(
        "sparse segments",
        lambda x: [
            tf.sparse.segment_sum(x, [0, 2, 2], [0, 0, 1]),
            tf.sparse.segment_mean(x**2, [0, 1, 2], [0, 0, 1]),
            tf.sparse.segment_sqrt_n(x, [1, 1, 2], [0, 0, 1]),
        ],
        rand(3, 2),
        order=1,
    ),
    row("partitions", routed, rand(5), np.array([0, 1, 1, 0, 1], np.int32)),
    row(
        "top_k",
        lambda x: (
            tf.nn.top_k(x, 2).values * tf.sort(x, -1, "DESCENDING")[:, :2]
            + tf.gather(x, tf.argsort(x, -1)[:, :2], batch_dims=1)
        ),
        rand(3, 4),
    ),
    row("ragged", ragged, rand(5, lo=0.1)),
    row("sparse", sparse_product, rand(3), rand(3, 2)),
    row(
        "space to depth",
        lambda x: (
            tf.nn.depth_to_space(tf.nn.space_to_depth(x, 2) ** 2, 2)
            + tf.batch_to_space(tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]), [2, 2], [[0, 0], [0, 0]])
        ),
        rand(1, 4, 4, 1),
    ),
    row(
        "einsum trace",
        lambda a, b: tf.einsum("bij,bjk,b...->bik", a, b, tf.reduce_sum(a, [1, 2])) + tf.einsum("...ij->...ji", a),
        rand(2, 3, 3),
        rand(2, 3, 3),
    ),
    row(
        "einsum ellipsis",
        lambda a, b: tf.einsum("...ij,jk->...ik", a, b) + tf.einsum("bij,kj->bik", a, tf.transpose(b)),
        rand(2, 2, 3),
        rand(3, 4),
    ),
    row(
        "einsum repeated",
        lambda a: tf.einsum("ii->i", a) * tf.einsum("ij,ij->j", a, a) + tf.einsum("ii->", a),
        rand(3, 3),
    ),
    row(
        "tensordot",
        lambda a, b: tf.tensordot(a, b, [[1, 2], [1, 0]]) + tf.reduce_sum(tf.tensordot(a, b, 0)),
        rand(2, 3, 4),
        rand(4, 3, 2),
    ),
    row("meshgrid", lambda x, y: [a * b for a, b in [tf.meshgrid(x, y)]], rand(3), rand(2)),
    row("searchsorted", lambda x: x[0] * tf.cast(tf.searchsorted(tf.sort(x), x), x.dtype), rand(4)),
    row(
        "patches",
        lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], "SAME") ** 2,
        rand(1, 3, 3, 2),
    ),
    # Linear algebra.
    row(
        "solve",
        lambda a, b: tf.linalg.solve(a, b) + tf.linalg.inv(a) @ b + tf.linalg.det(a),
        spd(3),
        rand(3, 2),
        tol=1e2,
    ),
    row("logdet", lambda a: tf.linalg.logdet(a) + tf.linalg.slogdet(a)[1] + tf.linalg.trace(a @ a), spd(3), tol=1e2),
    row("cholesky", gauss_log_prob, rand(3), rand(3), rand(3, 3), tol=1e2),
    row("cholesky solve", lambda a, b: tf.linalg.cholesky_solve(tf.linalg.cholesky(a), b), spd(3), rand(3, 2), tol=1e2),
    row("qr", lambda a: (lambda q, r: q @ tf.sin(r))(*tf.linalg.qr(a)), rand(4, 3), tol=1e3),
    row("svd", lambda a: (lambda s, u, v: (u * tf.exp(s)) @ tf.transpose(v))(*tf.linalg.svd(a)), spectrum(3), tol=1e3),
    row(
        "singular values",
        lambda a: tf.linalg.svd(a, compute_uv=False) ** 2 + tf.linalg.norm(a, ord=2),
        spectrum(3),
        tol=1e3,
        order=1,
    ),
    row("eigh", lambda a: (lambda e, v: (v * tf.sqrt(e)) @ tf.transpose(v))(*tf.linalg.eigh(a)), spectrum(3), tol=1e3),
    row("lstsq", lambda a, b: tf.linalg.lstsq(a, b, l2_regularizer=0.1), rand(4, 2), rand(4, 1), tol=1e2),
    row("pinv", lambda a: tf.linalg.pinv(a) @ tf.sin(a), spectrum(3), tol=1e3),
    row(
        "diagonals",
        lambda x: (
            tf.linalg.diag(x[0]) * tf.linalg.set_diag(x, x[:, 0] ** 2)
            + tf.linalg.band_part(x, 1, 0)
            + tf.linalg.diag_part(x, k=1)[0]
        ),
        rand(3, 3),
    ),
    row(
        "tridiagonal",
        lambda d, b: (
            tf.linalg.tridiagonal_solve(d + tf.constant([[0.0], [4.0], [0.0]], d.dtype), b)
            + tf.linalg.tridiagonal_matmul(d, b)
        ),
        rand(3, 3),
        rand(3, 2),
        tol=1e2,
    ),
    row("cross", lambda a, b: tf.linalg.cross(a, b) + tf.linalg.matvec(tf.linalg.diag(a), b), rand(3), rand(3)),
    row("power iteration", power_iteration, spd(3), rand(3), tol=1e2),
    # Signals and images.
    row(
        "fft",
        lambda x: (
            tf.abs(tf.signal.ifft(tf.signal.fft(tf.complex(x, x)) ** 2)) ** 2
            + tf.math.real(tf.signal.fftshift(tf.signal.fft2d(tf.complex(x, x))))
        ),
        rand(2, 4),
    ),
    row(
        "rfft",
        lambda x: (
            tf.signal.irfft(tf.signal.rfft(x, [6]) ** 2, [6]) + tf.reduce_sum(tf.abs(tf.signal.rfft(x, [4])) ** 2)
        ),
        rand(2, 4),
    ),
    row("stft", lambda x: tf.abs(tf.signal.stft(x, 8, 4, window_fn=None)) ** 2, rand(16)),
    row(
        "dct",
        lambda x: tf.signal.idct(tf.signal.dct(x) ** 2) + tf.signal.overlap_and_add(tf.signal.frame(x, 2, 1), 1),
        rand(2, 4),
    ),
    row(
        "resize",
        lambda x: [tf.image.resize(x, [5, 7], m) for m in ("bilinear", "nearest")],
        rand(1, 3, 3, 2).astype("f"),
        order=1,
    ),
    row(
        "resize bicubic",
        lambda x: tf.image.resize(x, [4, 4], "bicubic", antialias=True),
        rand(1, 3, 3, 1).astype("f"),
        order=1,
    ),
    row("crop", crop, rand(2, 4, 4, 1).astype("f"), order=1),
    row(
        "colours",
        lambda x: tf.image.rgb_to_yuv(tf.image.adjust_gamma(x, 1.5)) ** 2,
        rand(1, 2, 2, 3, lo=0.1).astype("f"),
    ),
    row(
        "total variation",
        lambda x: tf.image.total_variation(x) + tf.image.psnr(x, x**2, 1.0),
        rand(1, 4, 4, 2, lo=0.1).astype("f"),
    ),
    row("sobel", lambda x: tf.image.sobel_edges(x) ** 2, rand(1, 4, 4, 1).astype("f")),
    row(
        "ssim",
        lambda x, y: tf.image.ssim(x, y, 1.0, filter_size=3),
        rand(1, 6, 6, 1, lo=0).astype("f"),
        rand(1, 6, 6, 1, lo=0, hi=0.9).astype("f"),
        tol=1e2,
    ),
    # Neural networks.
    row(
        "conv",
        lambda x, w, b: tf.nn.elu(tf.nn.bias_add(tf.nn.conv2d(x, w, [2, 1], "SAME"), b)),
        rand(2, 5, 4, 2),
        rand(3, 2, 2, 3),
        rand(3),
    ),
    row(
        "dilated conv",
        lambda x, w: (
            tf.nn.conv2d(x, w, 1, [[0, 0], [2, 1], [0, 2], [0, 0]], dilations=1)
            + tf.reduce_sum(tf.nn.atrous_conv2d(x, w, 2, "VALID"))
        ),
        rand(1, 6, 6, 1),
        rand(3, 2, 1, 2),
    ),
    row(
        "conv transpose",
        lambda x, w: tf.nn.conv2d_transpose(x, w, tf.stack([tf.shape(x)[0], 6, 6, 2]), 2),
        rand(1, 3, 3, 2),
        rand(2, 2, 2, 2),
    ),
    row(
        "depthwise",
        lambda x, d, p: tf.nn.separable_conv2d(x, d, p, [1, 1, 1, 1], "SAME"),
        rand(1, 4, 4, 2),
        rand(2, 2, 2, 2),
        rand(1, 1, 4, 3),
    ),
    row(
        "conv1d and 3d",
        lambda x, w, v: (
            tf.nn.conv1d(x, w, 1, "SAME") + tf.reduce_sum(tf.nn.conv3d(x[:, :, None, None], v, [1] * 5, "VALID"))
        ),
        rand(2, 4, 2),
        rand(3, 2, 2),
        rand(2, 1, 1, 2, 2),
    ),
    row(
        "pools",
        lambda x: (
            tf.nn.max_pool2d(x, 2, 1, "SAME") * tf.nn.avg_pool2d(x, 3, 1, "SAME")
            + tf.nn.max_pool2d(x, 2, 2, "VALID")[:, :1, :1]
        ),
        rand(1, 4, 4, 2),
    ),
    row(
        "pools 3d",
        lambda x: tf.nn.max_pool3d(x, 2, 1, "VALID") * tf.nn.avg_pool3d(x, 2, 1, "VALID"),
        rand(1, 3, 3, 3, 1).astype("f"),
    ),
    row("batch norm", batch_norm, rand(3, 2, 2, 2).astype("f"), rand(2).astype("f"), rand(2).astype("f"), tol=10),
    row("layer norm", layer_norm, rand(2, 3, 4), rand(4), rand(4)),
    row("local response", lambda x: tf.nn.local_response_normalization(x, 2), rand(1, 2, 2, 5).astype("f"), order=1),
    row(
        "activations",
        lambda x: (
            tf.nn.selu(x)
            + tf.nn.leaky_relu(x) * tf.nn.relu6(5 * x)
            + tf.nn.silu(x)
            + tf.nn.crelu(x)[:, :3]
            + tf.math.log_sigmoid(x)
        ),
        rand(2, 3),
    ),
    row("attention", attention, rand(1, 3, 2, 2), rand(1, 3, 2, 2), rand(1, 3, 2, 2)),
    row("lstm", lstm_cell, rand(2, 3), rand(2, 2), rand(2, 2), rand(5, 8)),
    row("dropout", lambda x: tf.nn.experimental.stateless_dropout(x * x, 0.4, [1, 2]), rand(5, 4)),
    row("sparse cross entropy", lambda x, i: tf.nn.sparse_softmax_cross_entropy_with_logits(i, x), rand(4, 3), labels),
    # Python forgets the labels in the second derivative.
    row(
        "cross entropy of labels",
        lambda x, p: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(p), x),
        rand(4, 3),
        rand(4, 3),
        order=1,
    ),
    row(
        "cross entropy",
        lambda x, p: (
            tf.nn.softmax_cross_entropy_with_logits(tf.stop_gradient(tf.nn.softmax(p)), x) + tf.nn.log_softmax(x)[:, 0]
        ),
        rand(4, 3),
        rand(4, 3),
    ),
    row(
        "other losses",
        lambda x, p: (
            tf.nn.sigmoid_cross_entropy_with_logits(p, x)
            + tf.nn.weighted_cross_entropy_with_logits(p, x, 2.0)
            + tf.nn.log_poisson_loss(p, x)
            + tf.nn.l2_loss(x)
        ),
        rand(4),
        rand(4, lo=0.1),
    ),
    row(
        "ctc",
        lambda x: tf.nn.ctc_loss([[1, 2]], x, [2], [4], logits_time_major=True, blank_index=0),
        rand(4, 1, 3).astype("f"),
        order=1,
    ),
    row("normalized", lambda x: tf.nn.l2_normalize(x, 1) @ tf.transpose(tf.math.l2_normalize(x, [0, 1])), rand(3, 3)),
    row(
        "embedding bag",
        lambda t, w: (
            tf.nn.embedding_lookup_sparse(
                t,
                tf.SparseTensor([[0, 0], [0, 1], [1, 0]], tf.constant([1, 3, 3], tf.int64), [2, 2]),
                None,
                combiner="mean",
            )
            @ w
        ),
        rand(4, 2),
        rand(2, 2),
        order=1,
    ),
    row(
        "dilation",
        lambda x, w: tf.nn.dilation2d(x, w, [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1]),
        rand(1, 4, 4, 1),
        rand(2, 2, 1),
        order=1,
    ),
    row("fake quant", lambda x: tf.quantization.fake_quant_with_min_max_args(x * 8), rand(5).astype("f"), order=1),
    # Structures, integers, functions in functions, variables.
    row("dict", lambda x: {"b": x[0] * x[1], "a": (tf.argmax(x), [x**2, tf.shape(x)])}, rand(3)),
    row(
        "integer inputs",
        lambda x, n, k: (x[: tf.size(k)] * tf.cast(n, x.dtype), n + 1, tf.reduce_sum(x)),
        rand(4),
        np.int32(3),
        i3,
    ),
    row(
        "an axis that is cast to fewer bits",
        lambda x: tf.reduce_sum(x, tf.cast(tf.constant(2**32, tf.int64), tf.int32)) ** 2,
        rand(3, 3, 3),
    ),
    row("an axis that wraps around", lambda x: tf.reduce_sum(x, tf.constant(2**30) * 4) ** 2, rand(3, 3, 3)),
    row("independent", lambda x, y: (x * 2, tf.ones_like(y) + tf.stop_gradient(y), tf.zeros_like(x)), rand(2), rand(3)),
    row("input is output", lambda x, y: (x, y, x, x + y), rand(2), rand(2)),
    row("calls", shared_calls, rand(2, 3)),
    row("gradient inside", gradient_inside, rand(3)),
    row("tf.gradients inside", tf_gradients_inside, rand(3)),
    row(
        "while",
        lambda x: tf.while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, tf.sin(a) * x), (0, x))[1],
        rand(3),
        order=1,
    ),
    row("cond", lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: tf.sin(x) * x, lambda: x * x), rand(3)),
    row(
        "switch",
        lambda i, x: tf.switch_case(i, [lambda: tf.sin(x), lambda: x * x, lambda: tf.zeros_like(x)]),
        np.int32(1),
        rand(3),
    ),
    row("vectorized map", lambda x: tf.vectorized_map(lambda a: tf.tensordot(a, a, 1) * a, x), rand(3, 2)),
    row("variables", with_variables, rand(2, 3), np.array([1, 4])),
]


# ---- The comparison ----


def tensors(structure: Any) -> list[Tensor]:
    return [tf.convert_to_tensor(y) for y in tf.nest.flatten(structure, expand_composites=True)]


def is_smooth(x: Tensor) -> bool:
    return bool(x.dtype.is_floating or x.dtype.is_complex)


def cotangents(y: list[Tensor], seed: int) -> list[Tensor]:
    random = np.random.default_rng(seed)
    return [
        tf.cast(random.choice([-1, 1], t.shape) * random.uniform(0.5, 1.5, t.shape), t.dtype)
        if is_smooth(t)
        else tf.zeros_like(t)
        for t in y
    ]


def by_tape(f: Callable[..., Any], x: list[Tensor], dy: list[Tensor]) -> list[Tensor]:
    """The gradients as Python knows them; zeros where it finds no path."""
    with tf.GradientTape() as tape:
        tape.watch([a for a in x if is_smooth(a)])
        y = tensors(f(*x))
    pairs = [(a, d) for a, d in zip(y, dy, strict=True) if is_smooth(a)]
    dx = tape.gradient([a for a, _ in pairs], x, [d for _, d in pairs])
    return [tf.zeros_like(a) if d is None else tf.convert_to_tensor(d) for a, d in zip(x, dx, strict=True)]


def mismatches(what: str, got: list[Tensor], expected: list[Tensor], tol: float) -> list[str]:
    found = []
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if a.dtype != b.dtype:
            found.append(f"{what}, input {i}: {a.dtype.name} instead of {b.dtype.name}")
        elif is_smooth(b):
            found += [f"{what}, input {i}: {m}" for m in [analytic_mismatch(a, b, tol)] if m]
        elif np.any(a.numpy()):
            found.append(f"{what}, input {i}: an integer's gradient is not zero")
    return found


def specs(x: list[Tensor], static: bool) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(a.shape if static else [None] * a.shape.rank, a.dtype) for a in x]


def traced(f: Callable[..., Any], x: list[Tensor], static: bool = True) -> Any:
    return tf.function(f, autograph=False).get_concrete_function(*specs(x, static))


def wrong(f: Callable[..., Any], x: list[Tensor], tol: float, order: int) -> list[str]:
    static, unknown = traced(f, x), traced(f, x, static=False)
    dy = cotangents(tensors(f(*x)), 1)
    expected = by_tape(f, x, dy)

    def gradient(of: Any) -> Callable[..., Any]:
        return lambda *inputs: tf_symgrad.symbolic_gradient(list(inputs), f=of)

    inputs = [*x, *dy]
    first, dynamic = traced(gradient(static), inputs), traced(gradient(unknown), inputs, static=False)
    found = mismatches("eager", gradient(static)(*inputs), expected, tol)
    found += mismatches("in a tf.function", first(*inputs), expected, tol)
    found += mismatches("with unknown shapes", dynamic(*inputs), expected, tol)
    kept = tf.function(f, autograph=False, experimental_attributes={"_noinline": True})  # a small one is written out
    found += mismatches("in a call", gradient(lambda *x: kept(*x))(*inputs), expected, tol)
    if order > 1 and not found:
        ddy = cotangents(expected, 2)
        try:
            twice = by_tape(lambda *inputs: by_tape(f, list(inputs[: len(x)]), list(inputs[len(x) :])), inputs, ddy)
        except LookupError as e:
            return [f"GradientTape has no second derivative: {e}"]
        found += mismatches("twice", gradient(first)(*inputs, *ddy), twice, tol)
        found += mismatches("twice with unknown shapes", gradient(dynamic)(*inputs, *ddy), twice, tol)
        found += mismatches("a tape over the op", by_tape(gradient(static), inputs, ddy), twice, tol)
    return found


@pytest.mark.parametrize("row", FUNCTIONS, ids=lambda r: r.name)
def test_function(row: Row) -> None:
    found = wrong(row.f, [tf.constant(x) for x in row.x], row.tol, row.order)
    assert not found, "\n".join([row.name, *found])


def matrix(x: Tensor) -> Any:
    return tf.raw_ops.DenseToCSRSparseMatrix(dense_input=x, indices=np.array([[0, 0], [0, 2], [2, 1]]))


OF_A_SPARSE_MATRIX: dict[str, Callable[..., Any]] = {
    "product": lambda a, w: tf.raw_ops.SparseMatrixMatMul(a=a, b=w),
    "adjoint": lambda a, w: tf.raw_ops.SparseMatrixMatMul(a=a, b=w, adjoint_a=True, transpose_output=True),
    "dense": lambda a, w: tf.raw_ops.CSRSparseMatrixToDense(sparse_input=a, type=w.dtype) * w,
    "values": lambda a, w: tf.raw_ops.CSRSparseMatrixToSparseTensor(sparse_matrix=a, type=w.dtype)[1] * w[0],
    "transposed": lambda a, w: tf.raw_ops.CSRSparseMatrixToDense(
        sparse_input=tf.raw_ops.SparseMatrixTranspose(input=a, type=w.dtype), type=w.dtype
    ),
    "sparse product": lambda a, w: tf.raw_ops.CSRSparseMatrixToDense(
        sparse_input=tf.raw_ops.SparseMatrixSparseMatMul(a=a, b=matrix(w), transpose_b=True, type=w.dtype), type=w.dtype
    ),
}


@pytest.mark.parametrize("name", OF_A_SPARSE_MATRIX)
def test_a_sparse_matrix_as_an_argument(name: str) -> None:
    """A function does not tell what a variant holds that is its argument: shape functions find nothing there."""
    f = OF_A_SPARSE_MATRIX[name]

    def in_place(x: Tensor, w: Tensor) -> Tensor:
        return f(matrix(x), w)

    def in_a_call(x: Tensor, w: Tensor) -> Tensor:
        return tf.function(f)(matrix(x), w)

    x, w = tf.constant(np.arange(1.0, 10.0).reshape(3, 3)), tf.constant(np.cos(np.arange(9.0)).reshape(3, 3))
    dy = cotangents(tensors(tf.function(in_place)(x, w)), 1)
    expected = tf_symgrad.symbolic_gradient([x, w, *dy], f=in_place)
    assert not mismatches("in a call", tf_symgrad.symbolic_gradient([x, w, *dy], f=in_a_call), expected, 1.0)
