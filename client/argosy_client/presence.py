"""What the device says of itself: birth, inventory, death, heartbeat (docs/protocol.md; DESIGN.md, decision 8)."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from argosy_client.telemetry import Telemetry
from argosy_common import __version__
from argosy_common.enrolment import Fact
from argosy_common.link import Link, Will
from argosy_common.wire.bodies import Birth, Body, Death, Heartbeat, Inventory
from argosy_common.wire.envelope import Envelope, encode, new_id
from argosy_common.wire.topics import DeviceTopics

MAX_PENDING = 1000
"""Ids that a birth carries; `Birth.pending` takes no more."""


@dataclass(frozen=True)
class Told:
    """What the board is told once, at the daemon's start: by its settings, and by a look around on it."""

    site: str = ""
    shard: str = ""
    metered: bool | None = None
    inventory: Mapping[str, Fact] = field(default_factory=dict)


class Presence:
    """Publishes births, deaths and heartbeats. The boot id is this object's: one a process."""

    def __init__(
        self, names: DeviceTopics, *, name: str, telemetry: Telemetry, death_delay_s: int, told: Told | None = None
    ) -> None:
        self._names = names
        self.name = name
        self.device = names.device
        self._telemetry = telemetry
        self._told = told or Told()
        self._death_delay_s = death_delay_s
        self.boot = new_id()
        self._session = 0

    def will(self) -> Will:
        """Return what the broker says when it loses us."""
        return Will(self._names.birth, _packed(Death(boot=self.boot)), delay_s=self._death_delay_s, retain=True, qos=1)

    def connected(self) -> None:
        """Count a new connection."""
        self._session += 1

    def born(self, link: Link, pending: Sequence[str]) -> bool:
        """Publish the birth, with the ids of the instructions that are not answered for good."""
        birth = Birth(
            boot=self.boot,
            session=self._session,
            name=self.name,
            version=__version__,
            python=platform.python_version(),
            machine=platform.machine(),
            pending=list(pending[-MAX_PENDING:]),
            site=self._told.site,
            shard=self._told.shard,
        )
        return link.publish(self._names.birth, _packed(birth), qos=1, retain=True)

    def describe(self, link: Link) -> bool:
        """Publish what the board is. A coordinator that does not know of it refuses this, and only this."""
        return link.publish(self._names.events, _packed(Inventory(facts=dict(self._told.inventory))), qos=1)

    def gone(self, link: Link) -> bool:
        """Publish the death of a clean stop."""
        return link.publish(self._names.birth, _packed(Death(boot=self.boot, clean=True)), qos=1, retain=True)

    def beat(self, link: Link, *, doing: str, worker_rss: Callable[[], int], yielding: str = "") -> bool:
        """Publish a heartbeat."""
        vitals = self._telemetry.read()
        heartbeat = Heartbeat(
            load=vitals.load,
            memory_used=vitals.memory_used,
            memory_total=vitals.memory_total,
            temperature=vitals.temperature,
            daemon_rss=vitals.rss,
            worker_rss=worker_rss(),
            doing=doing,
            yielding=yielding or None,
            battery=vitals.battery,
            on_mains=vitals.on_mains,
            throttled=vitals.throttled,
            metered=self._told.metered,
        )
        return link.publish(self._names.heartbeat, _packed(heartbeat), qos=0)


def _packed(body: Body) -> bytes:
    return encode(Envelope(kind=body.kind, body=body.pack()))
