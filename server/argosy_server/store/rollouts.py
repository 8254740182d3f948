"""Rollouts, and what each device came to in them. What they mean is for `argosy_server.models.rollout`."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from argosy_common.clock import Clock
from argosy_server.store.audit import put_audit
from argosy_server.store.database import Database
from argosy_server.store.rows import Json, RolloutDeviceRow, RolloutRow
from argosy_server.store.tables import Rollout, RolloutDevice


class Rollouts:
    """The tables of rollouts."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        *,
        name: str,
        version: int,
        previous: int | None,
        rings: list[Json],
        state: str,
        actor: str,
        label: str = "",
        action: str = "model.rollout",
    ) -> RolloutRow:
        """Add a rollout; it is in the audit log, as `action`."""
        now = self._clock.wall()
        made = Rollout(
            name=name,
            version=version,
            label=label,
            previous=previous,
            rings=rings,
            ring=0,
            state_text=state,
            since=now,
            created_at=now,
            why="",
        )
        with self._database.write() as session:
            session.add(made)
            session.flush()
            detail: dict[str, object] = {"rollout": made.id, "previous": previous, "rings": len(rings)}
            row = made.to_row(RolloutRow)
            put_audit(session, now, actor, action, subject=row.reference, detail=detail)
            return row

    def list(self) -> list[RolloutRow]:
        """Return all rollouts, the oldest first."""
        with self._database.read() as session:
            return [each.to_row(RolloutRow) for each in session.scalars(select(Rollout).order_by(Rollout.id))]

    def devices(self, rollout: int) -> tuple[RolloutDeviceRow, ...]:
        """Return the devices of a rollout."""
        query = select(RolloutDevice).where(RolloutDevice.rollout == rollout).order_by(RolloutDevice.device)
        with self._database.read() as session:
            return tuple(each.to_row(RolloutDeviceRow) for each in session.scalars(query))

    def save(self, row: RolloutRow, devices: Sequence[RolloutDeviceRow], *, actor: str = "", action: str = "") -> None:
        """Keep where a rollout and some of its devices stand now, all or nothing; with an action, it is audited."""
        with self._database.write() as session:
            found = session.get_one(Rollout, row.id)
            found.ring, found.state_text, found.why = row.ring, row.state, row.why
            found.since, found.ended_at = row.since, row.ended_at
            for each in devices:
                session.merge(
                    RolloutDevice(
                        rollout=each.rollout,
                        device=each.device,
                        state_text=each.state,
                        error=each.error,
                        updated_at=each.updated_at,
                        report=each.report,
                    )
                )
            if action:
                detail: dict[str, object] = {"rollout": row.id, "state": row.state, "why": row.why}
                put_audit(session, self._clock.wall(), actor, action, subject=row.reference, detail=detail)
