"""Boards that are two: somebody copied a device's state directory, and both copies come to the broker by turns.

Each throws the other off, under the same name and certificate. What tells them from one board that restarts is the boot
id, which a daemon makes at each start: one that comes back after another took its place belongs to a process that never
ended. A birth that is merely delivered again is no sign of it: its session was seen before.
"""

from __future__ import annotations

from dataclasses import dataclass

from argosy_common.clock import Clock
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Birth
from argosy_server.store import Store

log = get_logger(__name__)

RECENT_S = 3600.0
"""How long a twin that was seen counts as being about; the copies' pauses between attempts are of a minute at most."""


@dataclass
class _Boot:
    boot: str
    session: int


@dataclass
class _Seen:
    last: _Boot
    before: _Boot | None = None
    twin_at: float | None = None


class Twins:
    """Watches births. Written on the link's thread alone; read on any."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def born(self, device: str, birth: Birth) -> None:
        """Take note of a birth; a twin is told of in the log each time, and in the audit log once in `RECENT_S`."""
        now = _Boot(birth.boot, birth.session)
        seen = self._seen.setdefault(device, _Seen(now))
        if seen.last.boot == now.boot:
            seen.last.session = max(seen.last.session, now.session)
            return
        before = seen.before
        if before is not None and before.boot == now.boot and now.session <= before.session:
            return  # an old birth, delivered again
        seen.before, seen.last = seen.last, now
        if before is None or before.boot != now.boot:
            return
        news, seen.twin_at = not self._is_recent(seen), self._clock.monotonic()
        log.error("device.twin", device=device, name=birth.name, boots=f"{now.boot[:8]} {seen.before.boot[:8]}")
        if news:
            self._store.audit.write("coordinator", "device.twin", device, name=birth.name)

    def forget(self, device: str) -> None:
        """Both copies are shut out."""
        self._seen.pop(device, None)

    def recent(self) -> list[str]:
        """Return the devices that were seen to be two a short while ago."""
        return sorted(device for device, seen in list(self._seen.items()) if self._is_recent(seen))

    def _is_recent(self, seen: _Seen) -> bool:
        return seen.twin_at is not None and self._clock.monotonic() - seen.twin_at < RECENT_S
