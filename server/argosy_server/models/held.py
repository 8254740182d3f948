"""A rollout in memory, beside what the database has of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from argosy_common.wire.bodies import ErrorPart
from argosy_server.models.rollout import Member, MemberState, Report, Ring, Rollout, RolloutState
from argosy_server.store import RolloutDeviceRow, RolloutRow

ENGINE = ("answered", "in_force", "requests", "errors", "p95_ms")
"""The fields of a `Member` that are kept in its report."""


def rollout_of(row: RolloutRow, devices: Iterable[RolloutDeviceRow]) -> Rollout:
    """Return what the database has of a rollout, for the engine."""
    members = {
        each.device: Member(
            state=MemberState(each.state), **{name: each.report[name] for name in ENGINE if name in each.report}
        )
        for each in devices
    }
    return Rollout(
        id=row.id,
        name=row.name,
        version=row.version,
        previous=row.previous,
        rings=tuple(Ring(**ring) for ring in row.rings),
        since=row.since,
        ring=row.ring,
        state=RolloutState(row.state),
        why=row.why,
        members=members,
    )


@dataclass
class Held:
    """A rollout in memory, with what of it is not in the database yet."""

    row: RolloutRow
    rollout: Rollout
    seen: dict[str, RolloutDeviceRow] = field(default_factory=dict)
    """What the last reports said beyond what the engine knows."""
    dirty: set[str] = field(default_factory=set)
    told: dict[str, float] = field(default_factory=dict)
    """When each device was last sent its target, by our monotonic clock."""

    def become(self, rollout: Rollout) -> None:
        """Take the engine's next state, and note what differs."""
        before = self.rollout.members
        self.dirty.update(each for each, it in rollout.members.items() if before.get(each) != it)
        self.rollout = rollout


@dataclass(frozen=True)
class Told:
    """A device's report, as a driver takes it."""

    rollout: int
    report: Report
    error: ErrorPart | None
    seen: dict[str, Any]
    """What is kept of it for people to see; the engine does not look at it."""
