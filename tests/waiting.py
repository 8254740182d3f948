"""Waiting in tests: always bounded, always polling."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 20.0


def until(condition: Callable[[], object], *, patience_s: float = PATIENCE_S) -> bool:
    """Poll until `condition()` is true; return whether it became so within `patience_s`."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())
