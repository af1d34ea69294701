"""The cache of built gradients."""

from __future__ import annotations

from typing import NamedTuple

from tf_symgrad import _loader


class CacheInfo(NamedTuple):
    """What the cache of this process holds, and how it was used.

    Attributes:
      hits: how often a gradient was asked for that the cache had.
      misses: how often one had to be built.
      evictions: how many gradients had to go, because `max_bytes` was reached.
      entries: how many gradients there are now.
      bytes: what they take.
      max_bytes: what they may take.
    """

    hits: int
    misses: int
    evictions: int
    entries: int
    bytes: int
    max_bytes: int


def cache_info() -> CacheInfo:
    """Says what the cache of built gradients holds, and how it was used.

    The op's graph pass and kernel and the Python functions share it, so that a gradient is built once.

    Examples:
      >>> dx = tf_symgrad.symbolic_gradient([tf.constant(1.0)], f=tf.math.tanh)
      >>> tf_symgrad.cache_info().entries > 0
      True
    """
    return CacheInfo(**_loader.native().cache_info())
