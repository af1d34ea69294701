"""The engine over serialized protos (csrc/python/module.cc)."""

from collections.abc import Sequence
from typing import Any

class StatusError(RuntimeError):
    """A failed call. Its args are the status code, a number of tf.errors, and the message."""

def build_gradient(
    library: bytes, f: bytes, wrt: Sequence[bool] | None = None, values: bool = False, sparse: bool = False
) -> tuple[Any, ...]: ...
def rules() -> dict[str, bool]: ...
def cache_info() -> dict[str, int]: ...
def replace_stock(on: bool) -> None: ...
