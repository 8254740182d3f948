"""A rollout: one version of a model on its way to the boards, ring by ring. It decides, and does nothing.

Pure: rollout, fleet and time in, rollout out. `rollouts.py` keeps it in the database and talks to the devices.

Rules:
1. A ring is a share of the fleet or the devices with a tag; rings add up. The order in which a share admits is fixed by
   a hash of the rollout's number and the device's id; a device that cannot be reached is passed over until it can be,
   so that no rollout hangs on a canary that is switched off. Who was admitted stays so, whatever the fleet becomes.
2. Only an admitted device is sent the version, and only the rings up to the present one admit.
3. The next ring opens when the present one has lasted its time and enough of its reachable devices report the version
   active. A ring of which nobody can be reached waits.
4. Failures over a ring's limit end the rollout: every device that was sent the version is told to go back. So does an
   operator's stop. A pause admits and sends nothing, and still lets failures end the rollout.
5. Nothing is decided but by what devices reported and what an operator said. Every decision can be made again after a
   restart from what was kept, and comes out the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

LEAST_REQUESTS = 20
"""Fewer requests say nothing about a share of failures."""


class RolloutState(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    """All rings are done. Devices that come later, and belong to them, still get the version."""
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    """Whoever could be reached is back; who comes later is sent back as well."""


TRANSITIONS: dict[tuple[RolloutState, str], RolloutState] = {
    (RolloutState.RUNNING, "advance"): RolloutState.RUNNING,
    (RolloutState.RUNNING, "complete"): RolloutState.FINISHED,
    (RolloutState.RUNNING, "pause"): RolloutState.PAUSED,
    (RolloutState.PAUSED, "resume"): RolloutState.RUNNING,
    (RolloutState.RUNNING, "fail"): RolloutState.ROLLING_BACK,
    (RolloutState.PAUSED, "fail"): RolloutState.ROLLING_BACK,
    (RolloutState.RUNNING, "stop"): RolloutState.ROLLING_BACK,
    (RolloutState.PAUSED, "stop"): RolloutState.ROLLING_BACK,
    (RolloutState.FINISHED, "stop"): RolloutState.ROLLING_BACK,
    (RolloutState.ROLLING_BACK, "returned"): RolloutState.ROLLED_BACK,
}
"""`pause`, `resume` and `stop` are an operator's; the others follow from reports and time."""

UNDER_WAY = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK})
"""A model has at most one rollout in these."""
GOING_BACK = frozenset({RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK})


class MemberState(StrEnum):
    """What became of one device in a rollout."""

    PENDING = "pending"
    """It is admitted, and nothing was sent to it."""
    SENT = "sent"
    FETCHING = "fetching"
    REFUSED = "refused"
    ACTIVE = "active"
    ROLLED_BACK = "rolled-back"


FAILED = frozenset({MemberState.REFUSED, MemberState.ROLLED_BACK})
ANSWERED = FAILED | {MemberState.ACTIVE}


@dataclass(frozen=True)
class Ring:
    """Whom a step of a rollout admits, and what it takes to go beyond it. Either `share` or `tag` is given."""

    share: float | None = None
    """Of all devices, 0 < share ≤ 1; a part of a device counts as a device."""
    tag: str | None = None
    hold_s: float = 600.0
    """The least time that the ring lasts."""
    least_active: float = 0.9
    """The share of its reachable devices that must have the version active."""
    max_errors: float | None = 0.02
    """The share of devices that may fail, and that of requests; None: any."""
    max_p95_ms: float | None = None
    """A device whose p95 is above it counts as failed; None: any is good."""

    @property
    def text(self) -> str:
        """Return it as a person writes it."""
        return f"tag:{self.tag}" if self.tag is not None else f"{100 * (self.share or 0):.4g}%"


@dataclass(frozen=True)
class Member:
    """A device in a rollout, by what it reported last."""

    state: MemberState = MemberState.PENDING
    answered: int | None = None
    """The version that it spoke of last: the rollout's, or the one that it goes back to."""
    in_force: int | None = None
    """The version that answers requests on it."""
    requests: int = 0
    errors: int = 0
    p95_ms: float | None = None

    @property
    def was_sent(self) -> bool:
        """Whether it may have the version."""
        return self.state is not MemberState.PENDING


@dataclass(frozen=True)
class Report:
    """What a device said, in the engine's terms; see `ModelState`."""

    version: int
    state: MemberState
    in_force: int | None = None
    requests: int = 0
    errors: int = 0
    p95_ms: float | None = None


@dataclass(frozen=True)
class Fleet:
    """The devices that may take part, with their tags, and which of them can be reached now."""

    tags: Mapping[str, Collection[str]]
    reachable: Collection[str]


@dataclass(frozen=True)
class Rollout:
    """One rollout, whole. Methods return the rollout that follows."""

    id: int
    name: str
    version: int
    previous: int | None
    """What the devices go back to; None: to no model at all."""
    rings: tuple[Ring, ...]
    since: datetime
    """When the present ring opened, or the state was entered."""
    ring: int = 0
    state: RolloutState = RolloutState.RUNNING
    why: str = ""
    """Why it is being, or was, rolled back."""
    members: Mapping[str, Member] = field(default_factory=dict)

    # --- what happens

    def followed(self, event: str, now: datetime, why: str = "") -> Self:
        """Follow one transition of the table.

        Raises:
            KeyError: there is no such way from this state.
        """
        return replace(self, state=TRANSITIONS[self.state, event], since=now, why=why or self.why)

    def reported(self, device: str, report: Report) -> Self:
        """Take what a device said. Of another version, or from no member, it changes nothing."""
        member = self.members.get(device)
        if member is None or report.version not in (self.version, self.previous):
            return self
        state = report.state
        if report.version != self.version:  # it speaks of going back
            state = MemberState.ROLLED_BACK if report.state is MemberState.ACTIVE else member.state
        told = Member(
            state=state,
            answered=report.version,
            in_force=report.in_force,
            requests=report.requests,
            errors=report.errors,
            p95_ms=report.p95_ms,
        )
        return self._with({device: told})

    def sent(self, devices: Collection[str]) -> Self:
        """Note that the version, or the way back, is being sent to these; to be kept before it is."""
        return self._with(
            {each: replace(self.members[each], state=MemberState.SENT) for each in devices if not self._was_sent(each)}
        )

    def stepped(self, fleet: Fleet, now: datetime) -> Self:
        """Decide, once: fail, admit, go on to the next ring, or end."""
        if self.state in (RolloutState.RUNNING, RolloutState.PAUSED) and (why := self.failure(fleet)):
            return self.followed("fail", now, why)
        if self.state is RolloutState.ROLLING_BACK and not self.due(fleet.reachable):
            return self.followed("returned", now)
        if self.state not in (RolloutState.RUNNING, RolloutState.FINISHED):
            return self
        admitted = self._with(dict.fromkeys(self._missing(fleet), Member()))
        if self.state is RolloutState.FINISHED or not admitted._may_advance(fleet, now):
            return admitted
        if self.ring == len(self.rings) - 1:
            return admitted.followed("complete", now)
        return replace(admitted.followed("advance", now), ring=self.ring + 1)

    # --- what follows from it

    @property
    def target(self) -> int | None:
        """The version that its members are to have in force now; None: none."""
        return self.previous if self.state in GOING_BACK else self.version

    def settled(self, device: str) -> bool:
        """Tell whether a member needs to be told nothing more."""
        member = self.members[device]
        if self.state in GOING_BACK:
            return not member.was_sent or (member.answered is not None and self._is_back(member))
        return member.state in ANSWERED and member.answered == self.version

    def took(self, device: str) -> bool:
        """Tell whether a member has the version active."""
        return self.members[device].state is MemberState.ACTIVE

    def due(self, reachable: Collection[str]) -> list[str]:
        """Return the members among `reachable` that are to be sent the target, sorted."""
        if self.state is RolloutState.PAUSED:
            return []
        return sorted(each for each in self.members if each in reachable and not self.settled(each))

    def failure(self, fleet: Fleet) -> str:
        """Say why the rollout has failed; empty while it has not. Devices that say nothing are not failures."""
        ring = self.rings[self.ring]
        if ring.max_errors is None:
            return ""
        asked = {each: it for each, it in self.members.items() if it.state in ANSWERED or each in fleet.reachable}
        failed = [each for each, it in asked.items() if it.state in FAILED or _slow(it, ring)]
        if failed and len(failed) > ring.max_errors * len(asked):
            return (
                f"{len(failed)} of {len(asked)} devices failed with it, over the limit of {_percent(ring.max_errors)}"
            )
        active = [it for it in asked.values() if it.state is MemberState.ACTIVE]
        requests, errors = sum(it.requests for it in active), sum(it.errors for it in active)
        if requests >= LEAST_REQUESTS and errors > ring.max_errors * requests:
            return f"{errors} of {requests} requests failed with it, over the limit of {_percent(ring.max_errors)}"
        return ""

    def waits_for(self, fleet: Fleet, now: datetime) -> str:
        """Say what a running rollout waits for, to a person; empty where it waits for nothing."""
        ring = self.rings[self.ring]
        reachable, active = self._heard(fleet)
        if self.state is not RolloutState.RUNNING:
            return ""
        if not self.members:
            return f"no device of ring {ring.text} can be reached"
        if not reachable:
            return f"none of the {len(self.members)} devices up to ring {ring.text} can be reached"
        if active < ring.least_active * reachable:
            return f"{active} of {reachable} reachable devices have it active, and {_percent(ring.least_active)} must"
        left = (self.since + timedelta(seconds=ring.hold_s) - now).total_seconds()
        return f"ring {ring.text} lasts another {math.ceil(left)} s" if left > 0 else ""

    def allowed(self, fleet: Fleet) -> int:
        """Return how many devices of a fleet the rings up to the present one allow at most."""
        tagged = {each for ring in self.rings[: self.ring + 1] for each in fleet.tags if _tagged(ring, fleet, each)}
        shares = [ring.share for ring in self.rings[: self.ring + 1] if ring.share is not None]
        return max([_portion(max(shares), len(fleet.tags))] if shares else [0]) + len(tagged)

    # --- inside

    def _missing(self, fleet: Fleet) -> Iterator[str]:
        """Yield whom the rings up to the present one admit and who is not admitted yet (rule 1)."""
        chosen = set(self.members)
        for ring in self.rings[: self.ring + 1]:
            if ring.tag is not None:
                new = [each for each in sorted(fleet.tags) if each not in chosen and _tagged(ring, fleet, each)]
            else:
                room = _portion(ring.share or 0, len(fleet.tags)) - len(chosen & set(fleet.tags))
                others = [each for each in fleet.tags if each not in chosen and each in fleet.reachable]
                new = sorted(others, key=lambda it: place(self.id, it))[: max(0, room)]
            chosen.update(new)
            yield from new

    def _may_advance(self, fleet: Fleet, now: datetime) -> bool:
        ring = self.rings[self.ring]
        reachable, active = self._heard(fleet)
        if now - self.since < timedelta(seconds=ring.hold_s):
            return False
        return reachable > 0 and active > 0 and active >= ring.least_active * reachable

    def _heard(self, fleet: Fleet) -> tuple[int, int]:
        """Return how many members can be reached, and how many of these have the version active."""
        found = [it for each, it in self.members.items() if each in fleet.reachable]
        return len(found), sum(it.state is MemberState.ACTIVE for it in found)

    def _is_back(self, member: Member) -> bool:
        """A refusal of the version proves nothing more than that the one before it stayed."""
        return member.in_force != self.version and (member.in_force == self.previous or member.state in FAILED)

    def _was_sent(self, device: str) -> bool:
        return self.members[device].was_sent

    def _with(self, members: Mapping[str, Member]) -> Self:
        return replace(self, members={**self.members, **members}) if members else self


def place(rollout: int, device: str) -> bytes:
    """Return where a device stands in the order in which a rollout's shares admit."""
    return hashlib.sha256(f"argosy/rollout/{rollout}/{device}".encode()).digest()


def ring_to_json(ring: Ring) -> dict[str, Any]:
    """Return a ring as the database keeps it."""
    return asdict(ring)


def _portion(share: float, count: int) -> int:
    """Return a share of `count` devices, rounded up: 5 % of ten are one. A last bit too many is no device."""
    return min(count, math.ceil(round(share * count, 6)))


def _tagged(ring: Ring, fleet: Fleet, device: str) -> bool:
    return ring.tag is not None and ring.tag in fleet.tags[device]


def _slow(member: Member, ring: Ring) -> bool:
    limit = ring.max_p95_ms
    return member.state is MemberState.ACTIVE and limit is not None and (member.p95_ms or 0.0) > limit


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
