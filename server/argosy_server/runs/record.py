"""What is written down of runs: their events as they happen, and how they end, whatever the disk does meanwhile.

A full disk or a database that is away stops no run by itself: what must not be lost waits in memory, in order, until it
can be written. What does not come to that before the daemon ends is found by its next start, which calls the run
interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, DiskFull, StorageFailed
from argosy_common.logs import get_logger
from argosy_server.crash_points import reach
from argosy_server.group_commit import GroupCommit
from argosy_server.store import Store
from argosy_server.store.rows import RunChanges

log = get_logger(__name__)

EVENTS_LINGER_S = 0.05
RETRY_S = 1.0
"""What finds no room, or no database, is tried again after so many seconds."""
FLUSH_S = 10.0
PATIENCE_S = 2.0
"""So long a run waits at most for its events to be written, before it goes on without a checkpoint."""


@dataclass(frozen=True)
class End:
    """How a run ended."""

    status: str
    error: ArgosyError | None
    final_model: str | None
    seconds: float | None

    @property
    def event(self) -> dict[str, Any]:
        """The data of the event `run-finished`."""
        wire = self.error.to_wire() if self.error else None
        return {"status": self.status, "error": wire, "seconds": self.seconds, "final_model": self.final_model}


class RunRecord:
    """The record of all runs. Safe to use from any thread."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._ledger = GroupCommit("events", self._write, linger_s=EVENTS_LINGER_S)

    def event(self, run: int, name: str, data: dict[str, Any]) -> None:
        """Have an event of a run written down, and wake those who wait for one; returns at once."""
        self._ledger.put((run, name, data))

    def end(self, run: int, end: End) -> None:
        """Write down how a run ended; the events first: who sees it over may then count on having them all."""
        self.event(run, "run-finished", end.event)
        self.flush()
        reach("run.told")
        self.verdict(run, end.event)
        reach("run.ended")

    def flush(self) -> None:
        """Return once all events so far are written down, or the daemon is closing."""
        while not self._ledger.flush(FLUSH_S) and not self._closing.is_set():
            pass

    def written(self) -> bool:
        """Have all events so far written down now; False where the disk, or the database, does not take them."""
        return self._ledger.flush(PATIENCE_S)

    def verdict(self, run: int, told: dict[str, Any]) -> None:
        """Write down a run's end as its event tells of it."""
        row = RunChanges(
            status=told["status"],
            error=told["error"],
            final_model=told["final_model"],
            finished_at=self._clock.wall(),
        )
        self.insist(lambda: self._store.runs.update(run, **row), f"the end of run {run}")
        self._wake()

    def insist(self, write: Callable[[], object], what: str) -> bool:
        """Write what must not be lost, again and again until it is; False when the daemon is closing meanwhile."""
        while True:
            try:
                write()
            except (DiskFull, StorageFailed) as error:
                log.error("run.not_recorded", what=what, code=error.code, why=error.message)
                if self._closing.wait(RETRY_S):
                    return False
            else:
                return True

    def wait(self, run: int, after: int, timeout_s: float) -> bool:
        """Wait until `run` has an event later than `after`; False when the time is over."""
        deadline = self._clock.monotonic() + timeout_s
        with self._news:
            while not self._store.events.after(run, after, 1):
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return False
                self._news.wait(left)
        return True

    def closing(self) -> None:
        """From now on what fails is tried once."""
        self._closing.set()

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        self._ledger.close()

    def _write(self, events: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
        self.insist(lambda: self._store.events.append_many(events), "events")
        self._wake()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()
