"""Time as a value that is handed in. No other module asks the operating system what time it is.

`monotonic` measures durations and judges every deadline. `wall` is for showing and for certificates only: a board
boots in 1970, so nothing is decided by it on a device (DESIGN.md, decision 6).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...

    def wall(self) -> datetime:
        """The wall clock, timezone-aware, in UTC. May be wrong by decades on a device."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def wall(self) -> datetime:
        """See `Clock.wall`."""
        return datetime.now(UTC)
