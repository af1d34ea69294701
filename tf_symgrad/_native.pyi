"""The engine over serialized protos (csrc/python/module.cc)."""

from collections.abc import Sequence

class StatusError(RuntimeError):
    """A failed call. Its args are the status code, a number of tf.errors, and the message."""

def build_gradient(library: bytes, f: bytes, wrt: Sequence[bool] | None = None) -> tuple[str, bytes]: ...
def rules() -> dict[str, bool]: ...
