"""Rollouts of the devices' own packages: the same engine, and each board knows by itself what it goes back to.

Boards may have had different versions before. So to the engine the new version is version 1, with none before it, and
what it calls a withdrawal is the word to go back. Whether a version can be had, and is higher than what is there, is
for each board to judge: only its apt knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from argosy_common.errors import (
    ArgosyError,
    UpgradeNotFound,
    UpgradeStateForbids,
    UpgradeUnderWay,
    UpgradeUnsuitable,
)
from argosy_common.wire.bodies import Body, Upgrade, UpgradeState
from argosy_server.models.driver import Driver
from argosy_server.models.held import Held, Told
from argosy_server.models.rollout import MemberState, Report, Ring
from argosy_server.store import RolloutRow

NAME = "argosy-device"
VERSION = 1


class Upgrades(Driver[UpgradeState]):
    """All upgrades of the fleet; see `Driver`."""

    area = "upgrade"

    def start(self, version: str, rings: Sequence[Ring], actor: str) -> int:
        """Begin to upgrade the fleet to a version of the packages; return the rollout's number.

        Raises:
            UpgradeUnderWay: another upgrade is.
            UpgradeUnsuitable: it cannot be done so.
        """
        with self._lock:
            self._check_rings(version, rings)
            self._check_idle(self._latest(NAME))
            number = self._begin(NAME, VERSION, None, rings, actor, label=version)
        self._begin_at_once()
        return number

    # --- inside

    def _has(self, row: RolloutRow) -> bool:
        return bool(row.label)

    def _message(self, held: Held) -> Body:
        return Upgrade(rollout=held.row.id, version=held.row.label, back=held.rollout.target is None)

    def _told(self, held: Held, body: UpgradeState) -> Told | None:
        if body.version != held.row.label:
            return None
        # by its word and not by what runs on it: it may have had that version before, and keep it
        may_have_it = body.state in ("active", "fetching")
        report = Report(VERSION, MemberState(body.state), in_force=VERSION if may_have_it else None)
        return Told(body.rollout, report, body.error, {"running": body.running})

    def _about(self, row: RolloutRow) -> dict[str, Any]:
        return {"version": row.label}

    def _not_found(self, key: str) -> ArgosyError:
        return UpgradeNotFound(rollout=key)

    def _forbids(self, held: Held, verb: str) -> ArgosyError:
        return UpgradeStateForbids(rollout=held.row.id, state=held.rollout.state.value, verb=verb)

    def _under_way(self, held: Held) -> ArgosyError:
        return UpgradeUnderWay(rollout=held.row.id, version=held.row.label, state=held.rollout.state.value)

    def _unsuitable(self, what: str, why: str) -> ArgosyError:
        return UpgradeUnsuitable(version=what, why=why)
