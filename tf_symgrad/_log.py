"""What users should know of how something was done: said once, whatever it was about."""

from __future__ import annotations

import logging
import re
import threading

logger = logging.getLogger("tf_symgrad")

_lock = threading.Lock()
_said: set[tuple[str, str]] = set()


def once(message: str, reason: str) -> None:
    """Logs a warning, whose `%s` is the reason, unless the like of it was logged before."""
    kind = (message, re.sub("'[^']*'", "''", reason))
    with _lock:
        new = kind not in _said
        _said.add(kind)
    if new:
        logger.warning(message, reason)
