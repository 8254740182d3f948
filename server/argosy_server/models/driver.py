"""Drives rollouts: what the engine decides is kept, then sent; what devices report is kept, then decided upon.

Of what is rolled out it knows nothing: `rollouts` does that for models, `upgrades` for the devices' own packages.

Everything is in the database before a device hears of it, so a coordinator that is killed anywhere goes on from there:
what was admitted stays admitted, and what may not have been sent is sent again, which changes nothing on a device that
had it. A report that was lost with us is given again by the device, when it is sent the same again.

Of several rollouts of one name the newest that a device is a member of governs it. So a board that was away while a
version was taken back is sent back when it comes, and one that joins later gets what its ring ended with.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Body, ModelState, UpgradeState
from argosy_common.wire.envelope import Envelope
from argosy_server.models.held import ENGINE, Held, Told, rollout_of
from argosy_server.models.rollout import (
    FAILED,
    GOING_BACK,
    TRANSITIONS,
    UNDER_WAY,
    Fleet,
    MemberState,
    Ring,
    Rollout,
    RolloutState,
    ring_to_json,
)
from argosy_server.store import DeviceState, RolloutDeviceRow, RolloutRow, Store

log = get_logger(__name__)

Reported = TypeVar("Reported", ModelState, UpgradeState)

COORDINATOR = "coordinator"
"""The actor of what follows from reports and time, in the audit log."""
FLEET_FOR_S = 5.0
"""The list of devices is read from the database at most this often."""
FETCHING_FACTOR = 10
"""A device that says it is fetching is asked again so much later than one that says nothing."""
ENDED = frozenset({RolloutState.FINISHED, RolloutState.ROLLED_BACK})


class Driver(ABC, Generic[Reported]):
    """All rollouts of one kind. Safe to use from any thread.

    Args:
        post: sends a body to a device; False if that cannot be done now.
        online: returns the devices that can be reached.
        resend_s: a device that does not answer is sent the same again after so long.
    """

    area: ClassVar[str]
    """What its actions in the audit log begin with."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        post: Callable[[str, Body], bool],
        online: Callable[[], Collection[str]],
        resend_s: float,
    ) -> None:
        self._store = store
        self._clock = clock
        self._post = post
        self._online = online
        self._resend_s = resend_s
        self._lock = threading.RLock()
        self._reports: queue.SimpleQueue[tuple[str, Reported]] = queue.SimpleQueue()
        self._tags: dict[str, list[str]] = {}
        self._tags_read_at: float | None = None
        self._held = {row.id: self._load(row) for row in store.rollouts.list() if self._has(row)}

    # --- what is rolled out

    @abstractmethod
    def _has(self, row: RolloutRow) -> bool:
        """Tell whether a rollout is of this kind."""

    @abstractmethod
    def _message(self, held: Held) -> Body:
        """Return what a member is to be told now."""

    @abstractmethod
    def _told(self, held: Held, body: Reported) -> Told | None:
        """Return what a report says; None if it is about something else than this rollout."""

    @abstractmethod
    def _about(self, row: RolloutRow) -> dict[str, Any]:
        """Return what people are shown of what is rolled out."""

    @abstractmethod
    def _not_found(self, key: str) -> ArgosyError:
        """Return the error for a rollout that is not there."""

    @abstractmethod
    def _forbids(self, held: Held, verb: str) -> ArgosyError:
        """Return the error for what its state does not allow."""

    @abstractmethod
    def _under_way(self, held: Held) -> ArgosyError:
        """Return the error for a second rollout beside this one."""

    @abstractmethod
    def _unsuitable(self, what: str, why: str) -> ArgosyError:
        """Return the error for a rollout that cannot be meant."""

    # --- for operators

    def follow(self, key: str, verb: str, actor: str) -> int:
        """Do an operator's `pause`, `resume` or `stop` to a rollout, or to the latest of a name; return its number.

        Raises:
            RolloutNotFound, UpgradeNotFound: there is none.
            RolloutStateForbids, UpgradeStateForbids: its state does not allow that.
        """
        with self._lock:
            held = self._find(key)
            if (held.rollout.state, verb) not in TRANSITIONS:
                raise self._forbids(held, verb)
            why = f"stopped by {actor}" if verb == "stop" else ""
            held.become(held.rollout.followed(verb, self._clock.wall(), why))
            held.told.clear()
            self._save(held, actor, f"{self.area}.{verb}")
        self._begin_at_once()
        return held.row.id

    def rows(self) -> list[dict[str, Any]]:
        """Return all rollouts as plain data, the oldest first."""
        with self._lock:
            return [self._view(held) for held in self._held.values()]

    def show(self, key: str) -> dict[str, Any]:
        """Return a rollout, or the latest of a name, with its devices.

        Raises:
            RolloutNotFound, UpgradeNotFound: there is none.
        """
        with self._lock:
            held = self._find(key)
            names = {row.device: row.name for row in self._store.devices.list()}
            devices = [self._device_view(held, each, names.get(each, each)) for each in sorted(held.rollout.members)]
            return {**self._view(held), "devices": sorted(devices, key=lambda it: str(it["name"]))}

    # --- for devices

    def take(self, device: str, _envelope: Envelope, body: Reported) -> None:
        """Take a device's report, at once. It is checked, kept, and decided upon at the next tick."""
        self._reports.put((device, body))

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

    def _take(self, device: str, body: Reported) -> None:
        held = self._held.get(body.rollout)
        told = None if held is None else self._told(held, body)
        if held is None or told is None or device not in held.rollout.members:
            log.info("rollout.foreign_report", device=device, rollout=body.rollout)
            return
        if told.report.version not in (held.rollout.version, held.rollout.previous):
            log.warning("rollout.other_version", device=device, rollout=body.rollout, version=told.report.version)
            return
        held.become(held.rollout.reported(device, told.report))
        known, error = held.seen.get(device), told.error.model_dump() if told.error else None
        if error is None and known is not None and held.rollout.members[device].state in FAILED:
            error = known.error  # why it failed stays to be seen once it is back
        held.seen[device] = self._device_row(held, device, error, told.seen)
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
            self._save(held, COORDINATOR, f"{self.area}.{_event(before, after)}" if moved else "")
        self._send(held, due)

    def _send(self, held: Held, due: Iterable[str]) -> None:
        """Send the target to devices; the database has that it is."""
        message = None
        for device in due:
            message = message or self._message(held)
            if self._post(device, message):
                held.told[device] = self._clock.monotonic()
                log.info("rollout.sent", rollout=held.row.id, device=device, kind=message.kind)

    def _is_time(self, held: Held, device: str) -> bool:
        told = held.told.get(device)
        fetching = held.rollout.members[device].state is MemberState.FETCHING
        pause = self._resend_s * (FETCHING_FACTOR if fetching else 1)
        return told is None or self._clock.monotonic() - told >= pause

    def _begin(
        self, name: str, version: int, previous: int | None, rings: Sequence[Ring], actor: str, *, label: str = ""
    ) -> int:
        row = self._store.rollouts.create(
            name=name,
            version=version,
            label=label,
            previous=previous,
            rings=[ring_to_json(ring) for ring in rings],
            state=RolloutState.RUNNING.value,
            actor=actor,
            action=f"{self.area}.rollout",
        )
        self._held[row.id] = self._load(row)
        return row.id

    def _check_idle(self, latest: Held | None) -> None:
        if latest is not None and latest.rollout.state in UNDER_WAY:
            raise self._under_way(latest)

    def _check_rings(self, what: str, rings: Sequence[Ring]) -> None:
        self._tags_read_at = None
        fleet = self._fleet()
        if not rings:
            raise self._unsuitable(what, why="it has no ring")
        if not fleet.tags:
            raise self._unsuitable(what, why="no device is enrolled")
        shares = [ring.share for ring in rings if ring.share is not None]
        if shares != sorted(set(shares)):
            raise self._unsuitable(what, why="each share must be larger than the one before")
        for ring in rings:
            if (ring.share is None) == (ring.tag is None):
                raise self._unsuitable(what, why="a ring is either a share or a tag")
            if ring.tag is not None and not any(ring.tag in tags for tags in fleet.tags.values()):
                raise self._unsuitable(what, why=f"no device has the tag '{ring.tag}'")

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
            raise self._not_found(key[:128])
        return found

    def _load(self, row: RolloutRow) -> Held:
        rows = {each.device: each for each in self._store.rollouts.devices(row.id)}
        return Held(row, rollout_of(row, rows.values()), rows)

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
            seen = {key: it for key, it in known.report.items() if key not in ENGINE} if known else {}
        told = {name: getattr(member, name) for name in ENGINE}
        now = self._clock.wall()
        return RolloutDeviceRow(held.row.id, device, member.state.value, error, now, {**told, **seen})

    def _view(self, held: Held) -> dict[str, Any]:
        rollout, row = held.rollout, held.row
        fleet = self._fleet()
        counts = Counter(it.state.value for it in rollout.members.values())
        return {
            "rollout": row.id,
            **self._about(row),
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


def _without(fleet: Fleet, devices: set[str]) -> Fleet:
    """Return a fleet without those that a newer rollout governs."""
    if not devices:
        return fleet
    tags = {each: tags for each, tags in fleet.tags.items() if each not in devices}
    return Fleet(tags, [each for each in fleet.reachable if each not in devices])


def _event(before: Rollout, after: Rollout) -> str:
    if after.state is before.state:
        return "advance"
    return "fail" if after.state in GOING_BACK and before.state not in GOING_BACK else after.state.value


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
