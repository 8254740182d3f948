"""Many small records, few commits: what arrives while one commit is on its way to disk shares the next.

A commit costs an fsync whatever it holds, so a round of many devices must not cost one a reply. Each record is still
on disk before its callback runs (DESIGN.md: record first, then publish).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from argosy_common.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

LARGEST = 500
"""Records in one commit."""


class GroupCommit(Generic[T]):
    """A thread that hands queued records to `commit` in order, all that wait at once.

    With `linger_s` the first of them waits so long for company: for records that nobody waits for.
    `commit` runs on that thread only; what it raises is logged and the records are given to `failed`.
    """

    def __init__(
        self,
        name: str,
        commit: Callable[[Sequence[T]], None],
        failed: Callable[[Sequence[T], Exception], None] = lambda _records, _error: None,
        *,
        linger_s: float = 0.0,
    ) -> None:
        self._commit = commit
        self._failed = failed
        self._linger_s = linger_s
        self._hurry = threading.Event()
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._settled = threading.Condition()
        self._put = 0
        self._done = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, record: T) -> None:
        """Queue a record; returns at once. Nothing is taken after `close`."""
        with self._settled:
            if self._closed:
                return
            self._put += 1
            self._queue.put(record)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that was put so far is committed; False when that took too long."""
        with self._settled:
            target = self._put
            self._hurry.set()
            return self._settled.wait_for(lambda: self._done >= target, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Commit what waits, and end the thread."""
        with self._settled:
            if self._closed:
                return
            self._closed = True
            self._hurry.set()
            self._queue.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        last = False
        while not last:
            waiting = [self._queue.get()]
            if self._linger_s:
                self._hurry.wait(self._linger_s)
                self._hurry.clear()
            while len(waiting) < LARGEST and waiting[-1] is not None and not self._queue.empty():
                waiting.append(self._queue.get())
            records = [record for record in waiting if record is not None]
            last = len(records) < len(waiting)
            try:
                if records:
                    self._commit(records)
            except Exception as error:  # noqa: BLE001  (the thread must go on; told to whoever put the records)
                log.error("commit.failed", exc=error, thread=self._thread.name, records=len(records))
                self._failed(records, error)
            with self._settled:
                self._done += len(records)
                self._settled.notify_all()
