"""Who says more than any honest device could is not listened to for a while, so that the others are heard.

Every device has a bucket of `BURST` drops that fills up by `RATE` a second. A message takes one, one that had to be
refused `REFUSED` of them. Whose bucket is empty is quiet for `QUIET_S` seconds: what it says is dropped unread, and the
broker is told to take nothing of it. An honest device says a few things a second, and a few dozen while a blob moves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from argosy_common.clock import Clock
from argosy_common.logs import get_logger
from argosy_server.store.audit import Audit

log = get_logger(__name__)

RATE = 200.0
BURST = 4000.0
REFUSED = 10.0
QUIET_S = 300.0
MOST = 100_000
"""Buckets that are kept."""


@dataclass
class _Bucket:
    drops: float
    at: float


class Floods:
    """The buckets of all devices. `take` is called for each message, on the link's thread; the rest from anywhere."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._quiet: dict[str, float] = {}
        """Until when."""
        self._new: list[str] = []
        self._lock = threading.Lock()

    def quiet(self, device: str) -> bool:
        """Tell whether nothing is taken of a device now."""
        return device in self._quiet

    def take(self, device: str, *, refused: bool = False) -> None:
        """Count a message of a device that is enrolled."""
        now = self._clock.monotonic()
        bucket = self._buckets.get(device)
        if bucket is None:
            if len(self._buckets) > MOST:
                self._buckets.clear()  # somebody invents names, where a broker lets him
            bucket = self._buckets[device] = _Bucket(BURST, now)
        bucket.drops = min(BURST, bucket.drops + (now - bucket.at) * RATE) - (REFUSED if refused else 1.0)
        bucket.at = now
        if bucket.drops < 0:
            with self._lock:
                self._quiet[device] = now + QUIET_S
                self._new.append(device)
            del self._buckets[device]

    def news(self) -> tuple[list[str], list[str]]:
        """Return who is to be quiet since the last call, and whose time is over, which counts from now on again."""
        now = self._clock.monotonic()
        with self._lock:
            began, self._new = self._new, []
            over = [device for device, until in self._quiet.items() if until <= now]
            for device in over:
                del self._quiet[device]
        return began, over

    def all_quiet(self) -> set[str]:
        """Return all devices of which nothing is taken now."""
        with self._lock:
            return set(self._quiet)


class FloodGate:
    """Shuts out whom `Floods` finds, and lets in again whose time is over. Each on a thread: brokers may be slow."""

    def __init__(
        self, floods: Floods, audit: Audit, *, shut_out: Callable[[str], object], let_in: Callable[[str], None]
    ) -> None:
        self._floods = floods
        self._audit = audit
        self._shut_out = shut_out
        self._let_in = let_in

    def tick(self) -> None:
        """Call about once a second."""
        began, over = self._floods.news()
        if began or over:
            threading.Thread(target=self._act, args=(began, over), name="floods", daemon=True).start()

    def _act(self, began: Sequence[str], over: Sequence[str]) -> None:
        for device in began:
            log.error("coordinator.flooded", device=device, quiet_s=QUIET_S)
            self._audit.write("coordinator", "device.flooding", device, quiet_s=QUIET_S)
            self._shut_out(device)
        for device in over:
            self._let_in(device)
