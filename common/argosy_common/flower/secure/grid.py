"""The coordinator's half: `SecureGrid`, a Grid around any Grid (specs/secure-aggregation.md).

    from argosy_common.flower.secure.grid import SecureGrid

    strategy.start(grid=SecureGrid(grid, strategy=strategy), ...)

A strategy gets one reply with the weighted mean of the arrays and metrics of all devices in the sum, and their weight;
to one that only ever takes that mean nothing has changed. Cohorts above what a group may be are split, groups run side
by side, and one that fails is left out of the mean.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from argosy_common.clock import Clock, SystemClock
from argosy_common.errors import ArgosyError, SecureTooFewDevices, SecureUnsuitable
from argosy_common.flower import compat
from argosy_common.flower.courier import Courier
from argosy_common.flower.layer import GridLayer
from argosy_common.flower.messages import round_of
from argosy_common.flower.rounds import Report, device_id
from argosy_common.flower.secure import PHASES, SECAGG, parcels
from argosy_common.flower.secure.cohort import Cohort, PrekeyPool, in_groups
from argosy_common.flower.secure.digest import instruction_digest
from argosy_common.flower.secure.outcome import Outcome, fold
from argosy_common.flower.secure.parcels import Stage
from argosy_common.flower.secure.scales import Scales
from argosy_common.flower.secure.session import GroupSession
from argosy_common.flower.secure.vectors import vector_size
from argosy_common.logs import get_logger
from argosy_common.run_settings import SecureSettings
from argosy_common.secagg import fleet as fleet_lists
from argosy_common.secagg.admission import Admission, opened
from argosy_common.secagg.client import ring_round
from argosy_common.secagg.messages import Announcement, Prekey, Prior, Signed, run_id
from argosy_common.secagg.parameters import FEWEST_CLIENTS, Parameters
from argosy_common.secagg.round import GroupRound
from argosy_common.secagg.sealing import fingerprint, public_der, sign, verifying_key
from argosy_common.secure_ledger import Attempt, Ledger

log = get_logger(__name__)

SLOTS = 32
"""Metrics that fit under the mask."""
LONG_S = 3600.0
"""For updates, where neither the strategy nor a message says."""


@dataclass
class _Phase:
    """One call of `send_and_receive`."""

    round: int | None
    kind: str
    heads: dict[int, Message]
    base: ArrayRecord | None
    instruction: bytes
    deadline: float
    timeout: float
    sessions: list[GroupSession] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Group:
    """A group to be: its cohort, a prekey of each of its nodes in their order, its prime, and the codec's digits."""

    cohort: Cohort
    roster: Sequence[Prekey]
    p: int
    digits: Literal[1, 2]


class SecureGrid(GridLayer):
    """See the module. Used by one thread, the server app's.

    Args:
        grid: where messages go, Flower's own or another layer.
        settings: the run's choices.
        strategy: the strategy that will use this grid.
        app: of `digest.app_digest`, where the devices know their app.
        run_config: the run's configuration, as the devices get it.
        fleet: the operator's signed fleet list, and its version; None: coordinator trusted at enrolment. Devices that
            it does not name are left out, and told of: the others would refuse to take part with one of them.
        ledger: where sets and endings are written down; by default in memory.
        node_ids_are_identities: whether a node id is that of its identity key, as on Argosy's own transport.
        report: is told what happens; see `Outcome.described`.

    Raises:
        SecureUnsuitable: the strategy looks at single updates.
        FleetListInvalid: the fleet list is none.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        settings: SecureSettings | None = None,
        strategy: Strategy | None = None,
        app: bytes = b"",
        run_config: Mapping[str, Any] | None = None,
        fleet: tuple[int, bytes] | None = None,
        ledger: Ledger | None = None,
        node_ids_are_identities: bool = False,
        report: Report | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(grid)
        self._settings = settings or SecureSettings()
        self._app = app
        self._run_config = dict(run_config or {})
        self._fleet = fleet
        self._ledger = ledger or Ledger()
        self._report = report or (lambda _name, _data: None)
        self._clock = clock or SystemClock()
        self._rng = rng or np.random.default_rng()
        self._courier = Courier(grid, self._clock, sleep)
        self._pool = PrekeyPool(
            self._courier,
            self._clock,
            self._refused,
            fleet=None if fleet is None else fleet_lists.read(fleet[1], where="of this run"),
            node_ids_are_identities=node_ids_are_identities,
        )
        self._scales = Scales(self._settings.prime, self._settings.bound)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._coordinator = public_der(self._key.public_key())
        self._steps = 0
        self._cap = self._settings.weight_cap
        self._weight_key = "num-examples"
        self._phase: _Phase | None = None
        if strategy is not None:
            self.serve(compat.traits_of(strategy))

    def serve(self, strategy: compat.StrategyTraits) -> None:
        """Learn which strategy will use this grid.

        Raises:
            SecureUnsuitable: it does not only take the mean.
        """
        if strategy.averages is None:
            why = "it looks at single updates, or may; FedAvg, FedAvgM, FedProx, FedAdam, FedAdagrad and FedYogi do not"
            raise SecureUnsuitable(what=f"the strategy {strategy.name}", why=why)
        self._weight_key = strategy.averages

    def described(self) -> dict[str, object]:
        """Return what this grid does, as plain data."""
        return {**self._settings.to_wire(), "fleet": self._fleet[0] if self._fleet else None}

    # --- the Grid interface

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: ARG002  (as `Grid`)
        """Refuse: replies are only had summed up, all at once."""
        raise SecureUnsuitable(what="push_messages", why="single replies are never seen; use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: ARG002  (as `Grid`)
        """Refuse; see `push_messages`."""
        raise SecureUnsuitable(what="pull_messages", why="single replies are never seen; use send_and_receive")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send one instruction to many devices and return what their replies sum up to.

        Args:
            messages: the same content for all of them, of type `train` or `evaluate`.
            timeout: seconds for the masked updates; the holders have `recovery` seconds beyond.

        Returns:
            One reply that stands for all devices in the sum; or, where nothing could be summed, the errors.

        Raises:
            SecureUnsuitable: instructions that differ, or of another type.
            SecureTooFewDevices: fewer than four devices were chosen.
            NoValidReply: not one device sent an update.
        """
        outgoing = list(messages)
        del messages
        if not outgoing:
            return []
        phase = self._begin(outgoing, timeout)
        content = outgoing[0].content
        self._phase = phase
        try:
            groups = self._groups(phase)
            if groups:
                self._steps += 1
            for number, group in enumerate(groups):
                self._open(phase, content, number, group)
            self._converse(phase)
            return self._end(phase)
        finally:
            self._phase = None

    # --- a phase

    def _begin(self, messages: list[Message], timeout: float | None) -> _Phase:
        first = messages[0]
        kind = first.metadata.message_type
        if kind not in PHASES:
            raise SecureUnsuitable(what=f"'{kind}' messages", why="each device's answer would be seen by itself")
        config = self._run_config
        digests = {id(it): it for it in (each.content for each in messages)}
        group_id = first.metadata.group_id
        found = {
            instruction_digest(kind, it, app=self._app, run_config=config, group_id=group_id) for it in digests.values()
        }
        nodes = {message.metadata.dst_node_id: message for message in messages}
        addressings = {_addressing(message) for message in messages}
        if len(found) != 1 or len(nodes) != len(messages) or len(addressings) != 1:
            raise SecureUnsuitable(what="instructions that differ", why="one device could be singled out by them")
        if len(nodes) < FEWEST_CLIENTS:
            raise SecureTooFewDevices(needed=FEWEST_CLIENTS, what=f"devices in each '{kind}'", found=len(nodes))
        records = list(first.content.array_records.values())
        if kind == "train" and len(records) != 1:
            raise SecureUnsuitable(what=f"{len(records)} records of arrays", why="one model is trained")
        seconds = min(first.metadata.ttl, LONG_S if timeout is None else timeout)
        return _Phase(
            round_of(first.content, first.metadata.group_id),
            kind,
            nodes,
            records[0] if kind == "train" else None,
            found.pop(),
            self._clock.monotonic() + seconds,
            seconds,
        )

    def _groups(self, phase: _Phase) -> list[_Group]:
        """Return the groups, with a prekey of each member."""
        p, digits = self._scales.start(0 if phase.base is None else vector_size(phase.base))
        self._end_abandoned(phase)
        prekeys = self._pool.take(list(phase.heads))
        cohorts = in_groups(prekeys, p, self._ledger.attempts(phase.instruction))
        return [_Group(cohort, [prekeys[node] for node in cohort.nodes], p, digits) for cohort in cohorts]

    def _end_abandoned(self, phase: _Phase) -> None:
        """End the attempts at this instruction that were interrupted: by us, or by the end of a coordinator before us.

        Devices that answered one take part in another only with proof that it was given up. Where holders have voted
        for its set already, they do not give it up any more, and it stays undecided: for the operator to override.
        """
        sessions = []
        for attempt in self._ledger.attempts(phase.instruction):
            if attempt.certificate or self._ledger.override(attempt.sid):
                continue
            message_1 = self._ledger.message_1(attempt.sid)
            nodes = self._pool.nodes_of(attempt.members)
            if message_1 and nodes:
                sessions.append(self._abandoned(phase, message_1, nodes))
        self._go_on(sessions)

    def _abandoned(self, phase: _Phase, message_1: bytes, nodes: tuple[int, ...]) -> GroupSession:
        announcement = opened(message_1)
        parameters = Parameters.of(len(nodes), announcement.p)
        admission = _admission(announcement, parameters)
        session = self._session(phase, admission, nodes, message_1, presumed=len(nodes))
        log.info("secure.abandoned", sid=announcement.sid.hex(), devices=len(nodes))
        session.abandon(SecureTooFewDevices(needed=parameters.n_min, what="updates in a sum", found=0))
        return session

    def _session(
        self,
        phase: _Phase,
        admission: Admission,
        nodes: tuple[int, ...],
        message_1: bytes,
        *,
        uploads: Sequence[str] = (),
        presumed: int = 0,
    ) -> GroupSession:
        return GroupSession(
            GroupRound(admission, self._rng),
            nodes,
            {name: index for index, name in enumerate(uploads)},
            message_1=message_1,
            courier=self._courier,
            clock=self._clock,
            ledger=self._ledger,
            told=self._refused,
            recovery_s=self._settings.recovery,
            number=phase.round,
            presumed=presumed,
        )

    def _open(self, phase: _Phase, content: RecordDict, number: int, group: _Group) -> None:
        """Announce a group's round: the instruction, with message 1, to all its members."""
        nodes = group.cohort.nodes
        parameters = Parameters.of(len(nodes), group.p)
        announcement = self._announcement(phase, number, group, parameters)
        signature = sign(self._key, "argosy/secagg/announcement", announcement.packed)
        message_1 = Signed(announcement=announcement.packed, signature=signature).packed
        self._write_down(announcement)
        self._ledger.keep_open(announcement.sid, message_1)
        bound = RecordDict(dict(content))
        bound[SECAGG] = ConfigRecord({"stage": Stage.UPDATE, parcels.MESSAGE_1: message_1})
        if self._fleet is not None:
            bound[parcels.FLEET] = parcels.bytes_record(list=self._fleet[1])
        messages = [compat.with_content(phase.heads[node], bound) for node in nodes]
        ids = self._courier.push(messages, timeout=phase.timeout)
        phase.uploads += ids
        admission = _admission(announcement, parameters)
        phase.sessions.append(self._session(phase, admission, nodes, message_1, uploads=ids))

    def _announcement(self, phase: _Phase, number: int, group: _Group, parameters: Parameters) -> Announcement:
        size = 0 if phase.base is None else vector_size(phase.base)
        before = group.cohort.before
        return Announcement(
            coordinator=self._coordinator,
            run=run_id(self._coordinator),
            round=self._steps,
            attempt=0 if before is None else before.attempt + 1,
            group=number,
            suite=self._settings.suite,
            p=parameters.p,
            A=parameters.A,
            U=parameters.U,
            T=parameters.T,
            n_min=parameters.n_min,
            size=size,
            digits=group.digits,
            weighting=self._settings.weights,
            weight=self._weight_key,
            w_cap=1 if self._settings.weights == "equal" else self._cap,
            slots=SLOTS,
            seed=os.urandom(32),
            scales=self._scales.of(size, parameters.n).astype("<f4").tobytes(),
            fleet_version=self._fleet[0] if self._fleet else 0,
            deadline_s=phase.timeout + self._settings.recovery,
            instruction=phase.instruction,
            fixed=() if before is None else tuple(sorted(before.released)),
            prior=None if before is None else self._prior(before),
            roster=tuple(group.roster),
        )

    def _prior(self, before: Attempt) -> Prior:
        """Return what shows how an attempt ended: its certificate, else the operator's override, else nothing."""
        if before.certificate:
            return Prior(sid=before.sid, certificate=before.certificate)
        override = self._ledger.override(before.sid)
        name = "secure.overridden" if override else "secure.undecided"
        log.warning(name, sid=before.sid.hex(), devices=len(before.members))
        return Prior(sid=before.sid, override=override)

    def _write_down(self, announcement: Announcement) -> None:
        """Write an attempt down before anybody is told of it: those who answer are bound by it.

        Raises:
            StorageFailed, DiskFull: it could not be written.
        """
        members = tuple(fingerprint(prekey.identity) for prekey in announcement.roster)
        attempt = Attempt(
            sid=announcement.sid,
            attempt=announcement.attempt,
            at=int(self._clock.wall().timestamp()),
            members=members,
            released=announcement.fixed,
        )
        self._ledger.write(announcement.instruction, attempt)

    def _converse(self, phase: _Phase) -> None:
        """Let all groups go on side by side, until each is over."""
        self._go_on(phase.sessions, phase.deadline)

    def _go_on(self, sessions: Sequence[GroupSession], deadline: float = math.inf) -> None:
        while True:
            for session in sessions:
                session.go_on(late=self._clock.monotonic() >= deadline)
            open_ = [session for session in sessions if not session.over]
            if not open_:
                return
            waiting = [each for session in open_ for each in session.waiting]
            due = min([session.due() for session in open_] + [deadline])
            now = self._clock.monotonic()
            self._courier.wait(waiting, min(max(due - now, 0.01), 60.0))

    def _end(self, phase: _Phase) -> list[Message]:
        """End the conversation, tell what came of it, learn from it, and return what the strategy gets."""
        outcome = fold(phase.sessions, self._weight_key)
        for session in phase.sessions:
            self._report("secure-group", outcome.described(session, phase.round, phase.kind))
        if not phase.sessions:
            told = {"round": phase.round, "phase": phase.kind, "error": outcome.error.to_wire()}
            self._report("secure-failed", told)
        self._courier.end(phase.uploads)  # raises where not one device sent an update
        self._learn(outcome)
        head = next(iter(phase.heads.values()))
        if not outcome.sums:
            return [compat.error_reply(compat.head_of(it), outcome.error) for it in phase.heads.values()]
        return [Message(outcome.content(phase.base), reply_to=compat.head_of(head))]

    def _learn(self, outcome: Outcome) -> None:
        """Adapt scales and the cap of weights to what was seen."""
        self._scales.learn(
            [(ring_round(it.round.admission.announcement), it.sum.ring) for it in outcome.sums if it.sum]
        )
        capped = sum(it.sum.tally.capped for it in outcome.sums if it.sum)
        if capped:
            self._cap = min(self._cap * 4, 2**31)
            log.warning("secure.weights_capped", devices=capped, next_cap=self._cap)

    def _refused(self, node: int, stage: str, error: ArgosyError) -> None:
        phase = self._phase
        log.warning("secure.refused", device=device_id(node), stage=stage, code=error.code, why=error.message)
        where = {"round": phase.round, "phase": phase.kind} if phase else {}
        self._report("secure-refused", {**where, "device": device_id(node), "stage": stage, "error": error.to_wire()})


def _admission(announcement: Announcement, parameters: Parameters) -> Admission:
    identities = tuple(verifying_key(prekey.identity) for prekey in announcement.roster)
    return Admission(announcement, parameters, identities, 0)


def _addressing(message: Message) -> tuple[str, str]:
    """Return what an app can read of a message beside its records, and what must be the same for all."""
    return message.metadata.message_type, message.metadata.group_id
