"""Who is there: presence of devices from births, deaths and heartbeats (DESIGN.md, decision 8).

Presence is a view, not a record: it is rebuilt from retained births after every restart, so it lives in memory only. A
death makes a device *away*; when it stays away for the grace time it is *lost*, and what it owed is answered for it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from argosy_common.clock import Clock
from argosy_common.wire.bodies import Birth, Death, Heartbeat

CONDITION = ("battery", "on_mains", "temperature", "throttled", "metered", "load")
"""What of a heartbeat bears on whether to give a device work: the fields of a `Condition`."""
DOUBT_S = 90.0
"""How long a device that was online may take to come back to a broker that did: its link waits up to a minute."""


class Presence(Enum):
    """Where a device stands."""

    UNSEEN = "unseen"
    ONLINE = "online"
    AWAY = "away"
    LOST = "lost"
    SHUT_OUT = "shut-out"
    """An operator revoked it: whatever it says counts for nothing."""


TRANSITIONS: dict[tuple[Presence, str], Presence] = {
    (Presence.UNSEEN, "birth"): Presence.ONLINE,
    (Presence.UNSEEN, "death"): Presence.AWAY,
    (Presence.ONLINE, "birth"): Presence.ONLINE,
    (Presence.ONLINE, "death"): Presence.AWAY,
    (Presence.AWAY, "birth"): Presence.ONLINE,
    (Presence.AWAY, "death"): Presence.AWAY,
    (Presence.AWAY, "grace-over"): Presence.LOST,
    (Presence.LOST, "birth"): Presence.ONLINE,
    (Presence.LOST, "death"): Presence.LOST,
    **{(state, "revoke"): Presence.SHUT_OUT for state in Presence},
    (Presence.SHUT_OUT, "birth"): Presence.SHUT_OUT,
    (Presence.SHUT_OUT, "death"): Presence.SHUT_OUT,
    (Presence.SHUT_OUT, "readmit"): Presence.UNSEEN,
}


@dataclass(frozen=True)
class DeviceView:
    """What is known of one device at this moment."""

    device: str
    presence: Presence = Presence.UNSEEN
    since: datetime | None = None
    """Wall-clock time of the last change, by the coordinator's clock; for showing only."""
    boot: str = ""
    doing: str = ""
    heartbeat: dict[str, object] = field(default_factory=dict)
    site: str = ""
    """The site that it enrolled at."""
    place: str = ""
    """Where in that site it says that it stands, in its last birth."""
    shard: str = ""
    """Which part of its site's data it says that it holds."""
    away_at: float = 0.0
    doubted_at: float | None = None
    """Since when we wait for a word of it (infinite until the broker is back, which may have forgotten its will)."""

    @property
    def online(self) -> bool:
        """True while the device can be given work."""
        return self.presence is Presence.ONLINE

    @property
    def condition(self) -> dict[str, object]:
        """What it last said of itself: the fields of a `Condition` that are known, as plain data."""
        told = {name: self.heartbeat[name] for name in CONDITION if name in self.heartbeat}
        if self.place or self.shard:
            # No site has a slash in its name, so nothing that a board says leads out of the one that it enrolled at.
            told["site"] = self.site if self.place in ("", self.site) else f"{self.site}/{self.place}"
        if self.shard:
            told["shard"] = self.shard
        return told


class Registry:
    """The views of all devices. Safe to use from any thread; listeners run on the caller's thread."""

    def __init__(self, *, clock: Clock, grace_s: float) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._views: dict[str, DeviceView] = {}
        self._lock = threading.Lock()
        self._on_lost: Callable[[str], None] = lambda _device: None

    def on_lost(self, listener: Callable[[str], None]) -> None:
        """Name who is told of a device whose grace is over."""
        self._on_lost = listener

    def view(self, device: str) -> DeviceView:
        """Return the view of `device`, which may be unseen."""
        with self._lock:
            return self._views.get(device, DeviceView(device))

    def online(self) -> list[str]:
        """Return the devices that can be given work, sorted."""
        with self._lock:
            return sorted(view.device for view in self._views.values() if view.online)

    def conditions(self) -> dict[str, dict[str, object]]:
        """Return the condition of each device that can be given work; see `DeviceView.condition`."""
        with self._lock:
            return {view.device: view.condition for view in self._views.values() if view.online}

    def born(self, device: str, birth: Birth, site: str) -> bool:
        """Note a birth of a device of `site`; True if it was not online under this boot id before."""
        before = self.view(device)
        with self._lock:
            view = self._views.get(device, DeviceView(device))
            view = replace(view, site=site, place=birth.site, shard=birth.shard)
            self._moved(view, "birth", birth.boot, before.doing if before.boot == birth.boot else "idle")
        return not (before.online and before.boot == birth.boot)

    def died(self, device: str, death: Death) -> None:
        """Note a death. That of an earlier boot (a late last will) changes nothing."""
        view = self.view(device)
        if view.boot and view.boot != death.boot:
            return
        self._move(device, "death", death.boot, "")

    def beat(self, device: str, heartbeat: Heartbeat) -> None:
        """Note a heartbeat."""
        with self._lock:
            view = replace(self._views.get(device, DeviceView(device)), doubted_at=None)
            shown = heartbeat.model_dump(exclude_none=True, exclude={"doing"})
            self._views[device] = replace(view, heartbeat=shown, doing=heartbeat.doing)

    def does(self, device: str, doing: str) -> None:
        """Note what the device does, in a word or two."""
        with self._lock:
            view = self._views.get(device, DeviceView(device))
            self._views[device] = replace(view, doing=doing)

    def shut_out(self, device: str) -> None:
        """An operator revoked the device: it is gone at once and for good, and the listener of the lost is told."""
        self._move(device, "revoke", "", "")
        self._on_lost(device)

    def readmit(self, device: str) -> None:
        """An operator let a revoked device in again: it is seen when it comes."""
        if self.view(device).presence is Presence.SHUT_OUT:
            self._move(device, "readmit", "", "")

    def link_down(self) -> None:
        """The broker is gone. Whoever is online stays so, but has to show it once the broker is back."""
        with self._lock:
            for view in [view for view in self._views.values() if view.online]:
                self._views[view.device] = replace(view, doubted_at=math.inf)

    def link_up(self) -> None:
        """The broker is back: who gives no sign of life, by a birth or a heartbeat, within `DOUBT_S` is away."""
        now = self._clock.monotonic()
        with self._lock:
            for view in [view for view in self._views.values() if view.doubted_at is not None]:
                self._views[view.device] = replace(view, doubted_at=now)

    def tick(self) -> None:
        """Declare lost the devices whose grace is over, and tell the listener. Called about once a second."""
        now = self._clock.monotonic()
        with self._lock:
            views = list(self._views.values())
            silent = [v for v in views if v.online and v.doubted_at is not None and now - v.doubted_at >= DOUBT_S]
            over = [v for v in views if v.presence is Presence.AWAY and now - v.away_at >= self._grace_s]
            for view in silent:
                self._moved(view, "death", view.boot, "")
            for view in over:
                self._moved(view, "grace-over", view.boot, "")
        for view in over:
            self._on_lost(view.device)

    def _move(self, device: str, event: str, boot: str, doing: str) -> None:
        with self._lock:
            self._moved(self._views.get(device, DeviceView(device)), event, boot, doing)

    def _moved(self, view: DeviceView, event: str, boot: str, doing: str) -> None:
        """Follow one transition of the table; with the lock held."""
        after = TRANSITIONS[(view.presence, event)]
        if after is not view.presence:
            view = replace(view, presence=after, since=self._clock.wall(), away_at=self._clock.monotonic())
        self._views[view.device] = replace(view, boot=boot, doing=doing, doubted_at=None)
