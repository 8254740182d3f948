"""EdgeGrid: the Flower `Grid` whose nodes are boards behind a broker.

It gives messages their ids, stores their arrays as blobs once for all devices, hands them to the daemon, and waits with
a bound. Where Flower would be silent it is loud: too few devices, no valid reply, arrays that changed shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from argosy_common.blobs import BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import (
    AppRaised,
    ArgosyError,
    ArraysChanged,
    CutOff,
    NoValidReply,
    ReplyTimedOut,
    TooFewDevices,
)
from argosy_common.flower import compat
from argosy_common.flower.courier import Late
from argosy_common.flower.messages import MessageDumper, load_message, round_of
from argosy_common.flower.rounds import device_id, is_phase
from argosy_common.flower.secure import HOLDER
from argosy_common.flower.seen import Seen
from argosy_common.flower.streaming import Accept, as_it_is
from argosy_common.logs import get_logger
from argosy_common.straggler.conditions import Condition
from argosy_common.wire.envelope import new_id
from argosy_server.runs.holdings import Holdings
from argosy_server.runs.phases import Phase
from argosy_server.runs.port import DaemonPort, NodeAnswer, PushedMessage

log = get_logger(__name__)

_STARVING_GAP_S = 5.0
"""Flower's `sample_nodes` asks every second for devices that are missing; calls further apart are not that loop."""


@dataclass(frozen=True)
class GridSettings:
    """Bounds of waiting, in seconds, and checks."""

    device_wait_s: float = 60.0
    """How long a strategy may wait for its minimum of devices."""
    reply_timeout_s: float = 3600.0
    """How long a device may take where neither the message nor the caller says."""
    check_arrays: bool = True
    """Refuse train replies whose arrays have other shapes than those sent."""


@dataclass(frozen=True)
class _Sent:
    """An instruction that is under way; it holds the message's head only, never its arrays."""

    head: Message
    device: str
    phase: Phase
    shapes: dict[str, tuple[int, ...]]
    at: float
    deadline_s: float


class EdgeGrid(Grid):
    """See the module. Used by one thread, the server app's."""

    def __init__(
        self,
        *,
        port: DaemonPort,
        store: BlobStore,
        run_id: int,
        settings: GridSettings,
        clock: Clock,
        wanted: Callable[[], int | None],
    ) -> None:
        """Make a grid; `wanted` tells the minimum that the strategy last said it waits for, if it is known."""
        self._port = port
        self._store = store
        self._run = compat.empty_run(run_id)
        self._settings = settings
        self._clock = clock
        self._wanted = wanted
        self._sent: dict[str, _Sent] = {}
        self._overdue: dict[str, tuple[_Sent, float]] = {}
        """What is no longer waited for, since when: its answer is late, if it ever comes."""
        self._late: list[Late] = []
        self._phases: dict[str, Phase] = {}
        """Of each instruction that somebody may still ask for."""
        self._holdings = Holdings(port.release)
        self.seen = Seen()
        """What devices say that they trained on."""
        self._hungry_since: float | None = None
        self._asked_at = float("-inf")

    # --- the Grid interface

    def set_run(self, run: Any) -> None:  # noqa: ANN401  (Flower's Run is private, and an int in older versions)
        """See `Grid.set_run`."""
        self._run = compat.empty_run(run) if isinstance(run, int) else run

    @property
    def run(self) -> Any:  # noqa: ANN401  (Flower's Run is private)
        """See `Grid.run`."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See `Grid.create_message`; kept for older apps."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids of the devices that are online.

        Raises:
            TooFewDevices: it was asked again and again for `device_wait_s` seconds, and nothing was sent meanwhile nor
                under way, as Flower's `sample_nodes` does, for ever, below the strategy's minimum.
        """
        nodes = self._port.nodes()
        now = self._clock.monotonic()
        # an app that works with push and pull may ask while it waits for answers; their deadlines bound that
        if now - self._asked_at > _STARVING_GAP_S or any(
            now < each.at + each.deadline_s for each in self._sent.values()
        ):
            self._hungry_since = now
        self._asked_at = now
        waited = now - (self._hungry_since if self._hungry_since is not None else now)
        if waited > 0.5:
            self._port.event("waiting-for-devices", online=len(nodes), wanted=self._wanted())
        if waited >= self._settings.device_wait_s:
            wanted = self._wanted()
            raise TooFewDevices(
                wanted=wanted if wanted is not None else f"more than {len(nodes)}",
                online=len(nodes),
                waited=round(waited),
                devices=", ".join(map(device_id, nodes)) or "none",
            )
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids. The devices' answers are had with `pull_messages`."""
        return self.push(messages, timeout=self._settings.reply_timeout_s)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return, without waiting, the replies to `message_ids` that are here; each is returned once."""
        ids = list(message_ids)
        replies = self.take(ids, as_it_is)
        for each in ids:
            if each not in self._sent:
                self._phases.pop(each, None)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, at most `timeout` seconds (`reply_timeout_s` if None).

        Returns:
            The replies, errors among them; those that missed the time are absent.

        Raises:
            NoValidReply: it was a train or evaluate phase and not one reply is valid.
        """
        return list(self.stream(messages, timeout=timeout, accept=as_it_is))

    def stream(self, messages: Iterable[Message], *, timeout: float | None, accept: Accept) -> Iterator[Message]:
        """Do as `send_and_receive`, and yield each reply as it arrives.

        What `accept` refuses counts as that device's failure, under the error that it raises.

        Raises:
            NoValidReply: as `send_and_receive`, once all replies are out.
        """
        outgoing = list(messages)
        del messages
        if not outgoing:
            return
        seconds = min(timeout, 1e8) if timeout is not None else self._settings.reply_timeout_s
        deadline = self._clock.monotonic() + seconds
        ids = self.push(outgoing, timeout=seconds)
        del outgoing
        while self._waiting(ids) and self._port.wait_for(self._waiting(ids), deadline):
            for reply in self._answers(ids, accept):
                yield reply
                del reply
        self.end(ids)

    # --- what layers that take more than one step build on (`argosy_common.flower.courier.PatientGrid`)

    def take(self, ids: Collection[str], accept: Accept) -> list[Message]:
        """Return, without waiting, the replies to `ids` that are here; each is returned once. See `stream`."""
        return list(self._answers(ids, accept))

    def wait(self, ids: Collection[str], seconds: float) -> None:
        """Wait until one of `ids` that is not taken yet is answered, at most `seconds`."""
        waiting = self._waiting(ids)
        if waiting:
            self._port.wait_for(waiting, self._clock.monotonic() + seconds)

    def end(self, ids: Collection[str]) -> tuple[int, int]:
        """Wait no more for any of `ids`; return the bytes that went down and up for their phases.

        Raises:
            NoValidReply: it was a train or evaluate phase and not one reply is valid.
        """
        self._missed(self._waiting(ids))
        phases = {id(phase): phase for each in ids if (phase := self._phases.pop(each, None)) is not None}
        for phase in phases.values():
            self._finish(phase)
        return sum(each.bytes_down for each in phases.values()), sum(each.bytes_up for each in phases.values())

    def late(self) -> list[Late]:
        """Return, once each, the answers that came when nobody waited for them any more."""
        self._note_late()
        found, self._late = self._late, []
        return found

    def online(self) -> list[int]:
        """Return the node ids of the devices that are online, whatever the strategy waits for."""
        return self._port.nodes()

    def conditions(self) -> dict[int, Condition]:
        """Return what the devices that are online last said of themselves, by node id."""
        return self._port.conditions()

    def _waiting(self, ids: Collection[str]) -> set[str]:
        return {each for each in ids if each in self._sent}

    def _answers(self, ids: Collection[str], accept: Accept) -> Iterator[Message]:
        for answer in self._port.take(self._waiting(ids)):
            yield self._open(answer, accept)

    # --- out

    def push(self, messages: Iterable[Message], *, timeout: float) -> list[str]:
        """Send messages, each to be answered within `timeout` seconds; return their ids."""
        outgoing = list(messages)
        del messages
        self._hungry_since = None
        self._asked_at = float("-inf")
        self._note_late()
        now = self._clock.monotonic()
        for message in outgoing:
            compat.set_message_id(message, new_id())
        dumper = MessageDumper(self._store, release=True)
        dumped = [dumper.dump(message) for message in outgoing]
        rounds = [round_of(message.content, message.metadata.group_id) for message in outgoing]
        phases = _phases(outgoing, rounds, now)
        pushed: list[PushedMessage] = []
        for message, number, dump in zip(outgoing, rounds, dumped, strict=True):
            meta = message.metadata
            self._holdings.hold(message)
            deadline = min(meta.ttl, timeout)
            phase = self._phases[meta.message_id] = phases[(number, meta.message_type)]
            self._sent[meta.message_id] = _Sent(
                compat.head_of(message), device_id(meta.dst_node_id), phase, _shapes(message), now, deadline
            )
            pushed.append(
                PushedMessage(
                    id=meta.message_id,
                    node_id=meta.dst_node_id,
                    round=phase.round,
                    message_type=meta.message_type,
                    flower=dump.flower,
                    blobs=tuple((ref.digest, ref.size) for ref in dump.blobs),
                    deadline_s=deadline,
                )
            )
        for phase in phases.values():
            self._tell(phase, "phase-started", phase.started())
        self._holdings.flush()
        self._port.push(pushed)
        return [message.id for message in pushed]

    # --- in

    def _open(self, answer: NodeAnswer, accept: Accept) -> Message:
        """Turn an answer into a Flower message, and count it."""
        sent = self._sent.pop(answer.id)
        try:
            reply = accept(self._read(sent, answer))
            error = None
        except ArgosyError as caught:
            reply = compat.error_reply(sent.head, caught)
            error = caught
            if not answer.facts:  # it was answered for, and may still answer itself
                self._overdue[answer.id] = (sent, answer.at)
        data = sent.phase.add(
            sent.device,
            seconds=self._clock.monotonic() - sent.at,
            error=error,
            facts=answer.facts,
            metrics=_metrics(reply),
        )
        self._tell(sent.phase, "device-reply", data)
        return reply

    def _read(self, sent: _Sent, answer: NodeAnswer) -> Message:
        """Return the reply; raises the named error that stands in its place."""
        if answer.error is not None:
            raise answer.error
        reply = load_message(answer.flower, self._store, peer=sent.device)
        self._holdings.hold(reply)
        if reply.has_error():
            raise AppRaised(why=reply.error.reason)
        self.seen.take(sent.device, reply)
        self._check_shapes(sent, reply)
        return compat.addressed(reply, sent.head)

    def _check_shapes(self, sent: _Sent, reply: Message) -> None:
        if not self._settings.check_arrays or sent.phase.name != "train":
            return
        for name, shape in _shapes(reply).items():
            expected = sent.shapes.get(name, shape)
            if shape != expected:
                raise ArraysChanged(device=sent.device, array=name, found=list(shape), expected=list(expected))

    def _missed(self, ids: set[str]) -> None:
        if not ids:
            return
        now = self._clock.monotonic()
        self._port.give_up(ids, round(now - min(self._sent[each].at for each in ids), 1))
        for each in ids:
            sent = self._sent.pop(each)
            self._overdue[each] = (sent, now)
            seconds = now - sent.at
            kind = ReplyTimedOut if seconds >= sent.deadline_s else CutOff
            error = kind(device=sent.device, seconds=round(seconds, 1))
            data = sent.phase.add(sent.device, seconds=seconds, error=error, facts={}, metrics={})
            self._tell(sent.phase, "device-reply", data)

    def _note_late(self) -> None:
        for answer in self._port.late():
            sent, since = self._overdue.pop(answer.id, (None, 0.0))
            if sent is None:
                continue
            took, meta = answer.at - sent.at, sent.head.metadata
            if not answer.facts:
                self._late.append(Late(meta.message_id, meta.dst_node_id, meta.message_type, None))
                continue
            self._late.append(Late(meta.message_id, meta.dst_node_id, meta.message_type, took))
            data = sent.phase.late(
                sent.device, seconds=took, late_s=answer.at - since, error=answer.error, facts=answer.facts
            )
            self._tell(sent.phase, "device-late", data)

    def _finish(self, phase: Phase) -> None:
        self._tell(phase, "phase-finished", phase.finished(self._clock.monotonic()))
        if not phase.replied and is_phase(phase.name):  # a query's failures are the app's to judge
            raise NoValidReply(phase=phase.name, round=phase.round, causes=phase.causes())

    def _tell(self, phase: Phase, event: str, data: dict[str, object]) -> None:
        """Record an event of a phase; what holders of shares are asked is told by the layer that asks."""
        if phase.name != HOLDER:
            self._port.event(event, **data)


def _phases(messages: list[Message], rounds: list[int | None], now: float) -> dict[tuple[int | None, str], Phase]:
    """Group messages that are sent together into phases: one a round and message type."""
    phases: dict[tuple[int | None, str], Phase] = {}
    for message, number in zip(messages, rounds, strict=True):
        meta = message.metadata
        phase = phases.setdefault((number, meta.message_type), Phase(number, meta.message_type, [], now))
        phase.devices.append(device_id(meta.dst_node_id))
    return phases


def _shapes(message: Message) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of a message by name.

    One-dimensional uint8 arrays are left out: tree ensembles travel as such, opaque and growing.
    """
    return {
        name: tuple(array.shape)
        for record in message.content.array_records.values()
        for name, array in record.items()
        if not (array.dtype == "uint8" and len(array.shape) == 1)
    }


def _metrics(reply: Message) -> dict[str, float]:
    """Return the scalar metrics of a reply by name."""
    if not reply.has_content():
        return {}
    return {
        name: float(value)
        for record in reply.content.metric_records.values()
        for name, value in record.items()
        if isinstance(value, int | float)
    }
