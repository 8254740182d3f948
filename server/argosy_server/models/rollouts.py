"""Drives rollouts: what the engine decides is kept, then sent; what devices report is kept, then decided upon.

Everything is in the database before a device hears of it, so a coordinator that is killed anywhere goes on from there:
what was admitted stays admitted, and what may not have been sent is sent again, which changes nothing on a device that
had it. A report that was lost with us is given again by the device, when it is sent the same again.

Of several rollouts of a model the newest that a device is a member of governs it. So a board that was away while a
version was taken back is sent back when it comes, and one that joins later gets what its ring ended with.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    RolloutNotFound,
    RolloutStateForbids,
    RolloutUnderWay,
    RolloutUnsuitable,
)
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Body, ModelState
from argosy_common.wire.envelope import Envelope
from argosy_server.models.deploys import Deploys
from argosy_server.models.drifting import Drift
from argosy_server.models.rollout import (
    FAILED,
    GOING_BACK,
    TRANSITIONS,
    UNDER_WAY,
    Fleet,
    Member,
    MemberState,
    Report,
    Ring,
    Rollout,
    RolloutState,
    ring_to_json,
)
from argosy_server.store import DeviceState, RolloutDeviceRow, RolloutRow, Store

log = get_logger(__name__)

COORDINATOR = "coordinator"
"""The actor of what follows from reports and time, in the audit log."""
FLEET_FOR_S = 5.0
"""The list of devices is read from the database at most this often."""
FETCHING_FACTOR = 10
"""A device that says it is fetching is asked again so much later than one that says nothing."""
KEPT = ("backend", "ran_on", "p50_ms", "drift")
"""What is kept of a report for people to see; the engine does not look at it."""
ENDED = frozenset({RolloutState.FINISHED, RolloutState.ROLLED_BACK})


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


class Rollouts:
    """All rollouts. Safe to use from any thread.

    Args:
        post: sends a body to a device; False if that cannot be done now.
        online: returns the devices that can be reached.
        signer: returns the key that signs models, and its chain.
        resend_s: a device that does not answer is sent the same again after so long.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        post: Callable[[str, Body], bool],
        online: Callable[[], Collection[str]],
        signer: Callable[[], tuple[x509.PrivateKey, str]],
        resend_s: float,
    ) -> None:
        self._store = store
        self._clock = clock
        self._post = post
        self._online = online
        self._deploys = Deploys(store, signer)
        self._resend_s = resend_s
        self._lock = threading.RLock()
        self._reports: queue.SimpleQueue[tuple[str, ModelState]] = queue.SimpleQueue()
        self._tags: dict[str, list[str]] = {}
        self._tags_read_at: float | None = None
        self._held = {row.id: self._load(row) for row in store.rollouts.list()}

    # --- for operators

    def start(self, reference: str, rings: Sequence[Ring], actor: str) -> int:
        """Begin to roll out a version; return the rollout's number.

        Raises:
            ModelNotFound: there is no such version.
            RolloutUnderWay: another version of the model is on its way.
            RolloutUnsuitable: it cannot be rolled out so.
        """
        model = self._store.models.get(reference)
        self._deploys.check(model)
        with self._lock:
            self._check_rings(model.reference, rings)
            latest = self._latest(model.name)
            self._check_idle(latest)
            out = latest.rollout.target if latest else None
            if latest is not None and model.version == out:
                out = self._before_again(latest, model.reference)
            if out is not None and model.version < out:
                why = f"version {out} is out, and boards take a lower one only as a rollback: `argosy model rollback`"
                raise RolloutUnsuitable(model=model.reference, why=why)
            number = self._begin(model.name, model.version, out, rings, actor)
        self._begin_at_once()
        return number

    def follow(self, key: str, verb: str, actor: str) -> int:
        """Do an operator's `pause`, `resume` or `stop` to a rollout, or to the latest of a model; return its number.

        Raises:
            RolloutNotFound: there is none.
            RolloutStateForbids: its state does not allow that.
        """
        with self._lock:
            held = self._find(key)
            if (held.rollout.state, verb) not in TRANSITIONS:
                raise RolloutStateForbids(rollout=held.row.id, state=held.rollout.state.value, verb=verb)
            why = f"stopped by {actor}" if verb == "stop" else ""
            held.become(held.rollout.followed(verb, self._clock.wall(), why))
            held.told.clear()
            self._save(held, actor, f"model.{verb}")
        self._begin_at_once()
        return held.row.id

    def roll_back(self, reference: str, actor: str) -> int:
        """Have the boards go back to a lower version, or to the one before; return the number of the rollout that does.

        Raises:
            ModelNotFound, RolloutNotFound: there is no such version, or nothing was ever rolled out.
            RolloutUnderWay, RolloutStateForbids, RolloutUnsuitable: that cannot be done now, or at all.
        """
        name, _, version = reference.partition(":")
        with self._lock:
            latest = self._find(name)
            current = latest.rollout
            wanted = self._store.models.get(reference).version if version else current.previous
            goes_down = current.previous is None or current.previous < current.version
            if goes_down and wanted == current.previous and (current.state, "stop") in TRANSITIONS:
                return self.follow(str(current.id), "stop", actor)
            if not version:
                why = f"rollout {current.id} is {current.state.value}: name the version to go back to, as NAME:VERSION"
                raise RolloutUnsuitable(model=name, why=why)
            self._check_idle(latest)
            if current.target is None or wanted is None or wanted >= current.target:
                out = "none" if current.target is None else f"version {current.target}"
                raise RolloutUnsuitable(
                    model=reference, why=f"a rollback goes to a lower version than what is out: {out}"
                )
            number = self._begin(name, wanted, current.target, [Ring(share=1.0, hold_s=0.0, max_errors=None)], actor)
        self._begin_at_once()
        return number

    def rows(self) -> list[dict[str, Any]]:
        """Return all rollouts as plain data, the oldest first."""
        with self._lock:
            return [self._view(held) for held in self._held.values()]

    def show(self, key: str) -> dict[str, Any]:
        """Return a rollout, or the latest of a model, with its devices.

        Raises:
            RolloutNotFound: there is none.
        """
        with self._lock:
            held = self._find(key)
            names = {row.device: row.name for row in self._store.devices.list()}
            devices = [self._device_view(held, each, names.get(each, each)) for each in sorted(held.rollout.members)]
            return {**self._view(held), "devices": sorted(devices, key=lambda it: str(it["name"]))}

    def drifts(self) -> list[Drift]:
        """Return what boards last told of the drift of the versions that are out, a version each."""
        with self._lock:
            found: dict[str, dict[str, float]] = {}
            governed: set[tuple[str, str]] = set()
            for held in reversed(self._held.values()):
                rollout = held.rollout
                for device, member in rollout.members.items():
                    if (rollout.name, device) in governed:
                        continue
                    governed.add((rollout.name, device))
                    row = held.seen.get(device)
                    drift = row.report.get("drift") if row else None
                    if drift is not None and member.in_force is not None:
                        found.setdefault(f"{rollout.name}:{member.in_force}", {})[device] = float(drift)
            return [Drift(model, by_device) for model, by_device in sorted(found.items())]

    # --- for devices

    def take(self, device: str, _envelope: Envelope, body: ModelState) -> None:
        """Take a device's report, at once. It is checked, kept, and decided upon at the next tick."""
        self._reports.put((device, body))

    def may_serve(self, device: str, digest: bytes) -> bool:
        """Tell whether a device may fetch a blob: it is one of the version that it was sent and has not answered."""
        with self._lock:
            for held in self._held.values():
                member = held.rollout.members.get(device)
                if member is None or not member.was_sent or held.rollout.settled(device):
                    continue
                if digest in self._deploys.digests(held.rollout):
                    return True
        return False

    # --- time

    def tick(self) -> None:
        """Decide, keep, send. Called about once a second, and after each command; what fails is tried again."""
        with self._lock:
            while not self._reports.empty():  # nobody else takes them out
                self._take(*self._reports.get_nowait())
            if not self._held:
                return
            fleet = self._fleet()
            governed: dict[str, set[str]] = {}
            finished: set[str] = set()
            for held in reversed(self._held.values()):
                mine = governed.setdefault(held.rollout.name, set())
                self._drive(held, _without(fleet, mine), admits=held.rollout.name not in finished)
                mine.update(held.rollout.members)
                if held.rollout.state is RolloutState.FINISHED:
                    finished.add(held.rollout.name)

    # --- inside

    def _begin_at_once(self) -> None:
        """Do not wait for the next tick. What the operator wished for is kept: if this fails, the ticker does it."""
        try:
            self.tick()
        except ArgosyError as error:
            log.error("rollout.not_begun_yet", code=error.code, why=error.message)

    def _take(self, device: str, body: ModelState) -> None:
        held = self._held.get(body.rollout)
        if held is None or held.rollout.name != body.name or device not in held.rollout.members:
            log.info("rollout.foreign_report", device=device, rollout=body.rollout, model=body.name)
            return
        if body.version not in (held.rollout.version, held.rollout.previous):
            log.warning("rollout.other_version", device=device, rollout=body.rollout, version=body.version)
            return
        report = Report(
            version=body.version,
            state=MemberState(body.state),
            in_force=body.in_force,
            requests=body.requests,
            errors=body.errors,
            p95_ms=body.p95_ms,
        )
        held.become(held.rollout.reported(device, report))
        known, error = held.seen.get(device), body.error.model_dump() if body.error else None
        if error is None and known is not None and held.rollout.members[device].state in FAILED:
            error = known.error  # why it failed stays to be seen once it is back
        held.seen[device] = self._device_row(held, device, error, {key: getattr(body, key) for key in KEPT})
        held.dirty.add(device)

    def _drive(self, held: Held, fleet: Fleet, *, admits: bool) -> None:
        before = held.rollout
        if before.state in UNDER_WAY or (before.state is RolloutState.FINISHED and admits):
            held.become(before.stepped(fleet, self._clock.wall()))
        if held.rollout.target != before.target:
            held.told.clear()
        due = [each for each in held.rollout.due(fleet.reachable) if self._is_time(held, each)]
        held.become(held.rollout.sent(due))
        after = held.rollout
        moved = (before.state, before.ring) != (after.state, after.ring)
        if moved:
            log.info("rollout.moved", rollout=after.id, state=after.state.value, ring=after.ring, why=after.why)
        if moved or held.dirty:
            self._save(held, COORDINATOR, _action(before, after) if moved else "")
        self._send(held, due)

    def _send(self, held: Held, due: Iterable[str]) -> None:
        """Send the target to devices; the database has that it is."""
        message = None
        for device in due:
            message = message or self._deploys.message(held.rollout)
            if self._post(device, message):
                held.told[device] = self._clock.monotonic()
                log.info("rollout.sent", rollout=held.row.id, device=device, kind=message.kind)

    def _is_time(self, held: Held, device: str) -> bool:
        told = held.told.get(device)
        fetching = held.rollout.members[device].state is MemberState.FETCHING
        pause = self._resend_s * (FETCHING_FACTOR if fetching else 1)
        return told is None or self._clock.monotonic() - told >= pause

    def _begin(self, name: str, version: int, previous: int | None, rings: Sequence[Ring], actor: str) -> int:
        row = self._store.rollouts.create(
            name=name,
            version=version,
            previous=previous,
            rings=[ring_to_json(ring) for ring in rings],
            state=RolloutState.RUNNING.value,
            actor=actor,
        )
        self._held[row.id] = self._load(row)
        return row.id

    def _before_again(self, latest: Held, reference: str) -> int | None:
        """Return what was before a version that is out, and is rolled out again for the boards that refused it."""
        rollout = latest.rollout
        if rollout.state is not RolloutState.FINISHED or all(map(rollout.took, rollout.members)):
            raise RolloutUnsuitable(model=reference, why="it is the version that is out already")
        return rollout.previous if rollout.previous is not None and rollout.previous < rollout.version else None

    def _check_idle(self, latest: Held | None) -> None:
        if latest is not None and latest.rollout.state in UNDER_WAY:
            about = f"{latest.row.name}:{latest.row.version}"
            raise RolloutUnderWay(rollout=latest.row.id, model=about, state=latest.rollout.state.value)

    def _check_rings(self, model: str, rings: Sequence[Ring]) -> None:
        self._tags_read_at = None
        fleet = self._fleet()
        if not rings:
            raise RolloutUnsuitable(model=model, why="it has no ring")
        if not fleet.tags:
            raise RolloutUnsuitable(model=model, why="no device is enrolled")
        shares = [ring.share for ring in rings if ring.share is not None]
        if shares != sorted(set(shares)):
            raise RolloutUnsuitable(model=model, why="each share must be larger than the one before")
        for ring in rings:
            if (ring.share is None) == (ring.tag is None):
                raise RolloutUnsuitable(model=model, why="a ring is either a share or a tag")
            if ring.tag is not None and not any(ring.tag in tags for tags in fleet.tags.values()):
                raise RolloutUnsuitable(model=model, why=f"no device has the tag '{ring.tag}'")

    def _fleet(self) -> Fleet:
        now = self._clock.monotonic()
        if self._tags_read_at is None or now - self._tags_read_at >= FLEET_FOR_S:
            rows = self._store.devices.list()
            self._tags = {row.device: row.tags for row in rows if row.state is DeviceState.ENROLLED}
            self._tags_read_at = now
        return Fleet(self._tags, frozenset(self._online()) & self._tags.keys())

    def _latest(self, name: str) -> Held | None:
        return next((held for held in reversed(self._held.values()) if held.rollout.name == name), None)

    def _find(self, key: str) -> Held:
        found = self._held.get(int(key)) if key.isascii() and key.isdecimal() and len(key) < 19 else self._latest(key)
        if found is None:
            raise RolloutNotFound(rollout=key[:128])
        return found

    def _load(self, row: RolloutRow) -> Held:
        rows = {each.device: each for each in self._store.rollouts.devices(row.id)}
        return Held(row, _rollout(row, rows.values()), rows)

    def _save(self, held: Held, actor: str, action: str) -> None:
        """Keep what changed. Where that fails, it is still what changed."""
        rollout = held.rollout
        ended = (held.row.ended_at or self._clock.wall()) if rollout.state in ENDED else None
        row = replace(
            held.row, ring=rollout.ring, state=rollout.state.value, since=rollout.since, why=rollout.why, ended_at=ended
        )
        devices = [self._device_row(held, each) for each in sorted(held.dirty)]
        self._store.rollouts.save(row, devices, actor=actor, action=action)
        held.row = row
        held.seen.update((each.device, each) for each in devices)
        held.dirty.clear()

    def _device_row(
        self, held: Held, device: str, error: dict[str, Any] | None = None, seen: dict[str, Any] | None = None
    ) -> RolloutDeviceRow:
        """Return a member as the database keeps it; what is not given stays as it was."""
        member, known = held.rollout.members[device], held.seen.get(device)
        if seen is None:
            error = known.error if known else None
            seen = {key: known.report.get(key) for key in KEPT} if known else {}
        told = {name: getattr(member, name) for name in _ENGINE}
        now = self._clock.wall()
        return RolloutDeviceRow(held.row.id, device, member.state.value, error, now, {**told, **seen})

    def _view(self, held: Held) -> dict[str, Any]:
        rollout, row = held.rollout, held.row
        fleet = self._fleet()
        counts = Counter(it.state.value for it in rollout.members.values())
        return {
            "rollout": row.id,
            "model": f"{row.name}:{row.version}",
            "name": row.name,
            "version": row.version,
            "previous": row.previous,
            "state": rollout.state.value,
            "ring": rollout.ring,
            "rings": [{"text": ring.text, **ring_to_json(ring)} for ring in rollout.rings],
            "since": _iso(rollout.since),
            "created_at": _iso(row.created_at),
            "ended_at": _iso(row.ended_at),
            "why": rollout.why,
            "waits_for": rollout.waits_for(fleet, self._clock.wall()),
            "counts": {state.value: counts[state.value] for state in MemberState if counts[state.value]},
            "allowed": min(rollout.allowed(fleet), len(fleet.tags)),
            "to_go": len([each for each in rollout.members if not rollout.settled(each)]),
        }

    def _device_view(self, held: Held, device: str, name: str) -> dict[str, Any]:
        row = held.seen.get(device) or self._device_row(held, device)
        member = held.rollout.members[device]
        return {
            "device": device,
            "name": name,
            "online": device in self._fleet().reachable,
            "state": member.state.value,
            "settled": held.rollout.settled(device),
            "error": row.error,
            "updated_at": _iso(row.updated_at),
            **row.report,
        }


_ENGINE = ("answered", "in_force", "requests", "errors", "p95_ms")
"""The fields of a `Member` that are kept in its report."""


def _rollout(row: RolloutRow, devices: Iterable[RolloutDeviceRow]) -> Rollout:
    """Return what the database has of a rollout, for the engine."""
    members = {
        each.device: Member(
            state=MemberState(each.state), **{name: each.report[name] for name in _ENGINE if name in each.report}
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


def _without(fleet: Fleet, devices: set[str]) -> Fleet:
    """Return a fleet without those that a newer rollout governs."""
    if not devices:
        return fleet
    tags = {each: tags for each, tags in fleet.tags.items() if each not in devices}
    return Fleet(tags, [each for each in fleet.reachable if each not in devices])


def _action(before: Rollout, after: Rollout) -> str:
    if after.state is before.state:
        return "model.advance"
    return (
        "model.fail" if after.state in GOING_BACK and before.state not in GOING_BACK else f"model.{after.state.value}"
    )


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
