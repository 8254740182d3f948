"""What devices tell of their hardware and software after each birth: kept, and noted where it is another board's.

The device's word is all there is, so a change is news for people and decides nothing. A device whose inventory never
stays the same cannot fill the audit log: changes are taken once a minute, and what was passed over is told again with
its next birth.
"""

from __future__ import annotations

import math

from argosy_common.clock import Clock
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Inventory
from argosy_common.wire.envelope import Envelope
from argosy_server.store import Store

log = get_logger(__name__)

EVERY_S = 60.0


class Inventories:
    """Takes inventories in. Called on the link's thread alone."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._changed_at: dict[str, float] = {}

    def take(self, device: str, _envelope: Envelope, body: Inventory) -> None:
        """Keep what an enrolled device says it is."""
        if self._store.devices.get(device).inventory == body.facts:
            return  # as nearly always
        now = self._clock.monotonic()
        if now - self._changed_at.get(device, -math.inf) < EVERY_S:
            log.warning("inventory.too_often", device=device)
            return
        self._changed_at[device] = now
        changed = self._store.devices.describe(device, body.facts)
        log.info("inventory.taken", device=device, changed=changed)
