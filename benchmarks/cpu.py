"""Whose CPU time it is, where several parts of a protocol take turns in one process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Cpu:
    """CPU seconds of all threads of this process, by who had the turn."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str | int, float] = defaultdict(float)
        self._turn: str | int | None = None
        self._since = 0.0

    @contextmanager
    def of(self, who: str | int | None) -> Iterator[None]:
        """Count what is done inside as `who`'s, and not as whose turn it was; None: as nobody's."""
        before = self._turn
        self._pass_to(who)
        try:
            yield
        finally:
            self._pass_to(before)

    def _pass_to(self, who: str | int | None) -> None:
        now = time.process_time()
        if self._turn is not None:
            self.seconds[self._turn] += now - self._since
        self._turn, self._since = who, now
