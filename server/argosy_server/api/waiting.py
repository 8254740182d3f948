"""Long polls: bounded in time, bounded in number, and ended early when the API stops."""

from __future__ import annotations

import threading
from collections.abc import Callable

from argosy_common.clock import Clock

LONGEST_WAIT_S = 25.0
SLICE_S = 0.25
MOST_WAITERS = 24
"""Of the forty worker threads that serve requests; the rest stay free for requests that do not wait."""


class Waiting:
    """Waits on behalf of requests.

    When too many wait already, `until` returns at once: the caller polls a little faster, and nobody starves.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closing = threading.Event()
        self._seats = threading.BoundedSemaphore(MOST_WAITERS)

    def until(self, happened: Callable[[float], bool], wait_s: float) -> None:
        """Call `happened(slice in seconds)`, which may block for its slice, until it is true or `wait_s` is over."""
        if wait_s <= 0 or not self._seats.acquire(blocking=False):
            return
        try:
            ends = self._clock.monotonic() + min(wait_s, LONGEST_WAIT_S)
            while not self._closing.is_set():
                left = ends - self._clock.monotonic()
                if left <= 0 or happened(min(SLICE_S, left)):
                    return
        finally:
            self._seats.release()

    def pause(self, seconds: float) -> None:
        """Sleep, or return early because the API stops."""
        self._closing.wait(seconds)

    def close(self) -> None:
        """End all waits."""
        self._closing.set()
