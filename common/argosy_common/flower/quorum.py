"""QuorumGrid: a Grid around any Grid that decides who is waited for.

A phase of a round (all `train`, or all `evaluate` messages that are sent together) is over by the rule of
`argosy_common.straggler.cutoff`. Who has not answered by then is late: its answer is told of by the grid below, teaches
the run how slow that device is, and is no answer to anything else. Boards that hold the same shard of a site's data
stand in for one another: the first answer counts, the others are refused by name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from argosy_common.clock import Clock, SystemClock
from argosy_common.errors import CutOff, ShardCounted
from argosy_common.flower import compat
from argosy_common.flower.courier import Courier, Late
from argosy_common.flower.layer import GridLayer
from argosy_common.flower.rounds import Report, device_id, is_phase, phase_of
from argosy_common.flower.streaming import Accept, as_it_is
from argosy_common.run_settings import StragglerSettings
from argosy_common.straggler.conditions import UNKNOWN, Condition
from argosy_common.straggler.cutoff import Cutoff, How, Rule, Unit
from argosy_common.straggler.track import Overdue, Track, with_margin

LOOK_S = 1.0
"""How often it is looked at who is still online."""
_LONGEST_S = 3600.0
"""For answers, where neither the strategy nor a message says."""


@runtime_checkable
class TellingGrid(Protocol):
    """A Grid that knows what devices say of themselves."""

    def conditions(self) -> dict[int, Condition]:
        """Return the last word of each device that is online."""
        ...


@dataclass(frozen=True)
class Expected:
    """What a layer above says of the phase that it is about to send.

    Attributes:
        asked: how many devices it asks.
        enough: how many answers complete the phase.
        quorum: with how many its deadline ends it.
        heard: nodes that must be waited for although they are slow.
    """

    asked: int
    enough: int
    quorum: int
    heard: frozenset[int] = frozenset()


@dataclass
class _Batch:
    """Messages of one phase that were sent together."""

    round: int | None
    kind: str
    heads: dict[str, Message]
    cutoff: Cutoff
    began: float
    until: float
    how: How | None = None
    away: dict[int, float] = field(default_factory=dict)
    """Since when each node that is waited for has not been online."""
    looked: float = -math.inf
    cut: set[str] = field(default_factory=set)
    """The messages that are answered for, since the phase is over."""

    def node(self, message_id: str) -> int:
        return self.heads[message_id].metadata.dst_node_id


class QuorumGrid(GridLayer):
    """See the module. Used by one thread, the server app's.

    Args:
        grid: where messages go, Flower's own or another layer.
        settings: the run's choices; where they are not enabled, every device is waited for, but for shards that another
            board has brought.
        track: what the run knows of its devices; a layer that chooses whom to ask reads it.
        least: returns the fewest answers that a phase of so many devices needs, whatever the settings.
        report: is told `phase-settled`.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        settings: StragglerSettings | None = None,
        track: Track | None = None,
        least: Callable[[int], int] | None = None,
        report: Report | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(grid)
        self.track = track or Track()
        self._settings = settings or StragglerSettings()
        self._least = least or (lambda _asked: 1)
        self._report = report or (lambda _name, _data: None)
        self._clock = clock or SystemClock()
        self._courier = Courier(grid, self._clock, sleep)
        self._batches: dict[str, _Batch] = {}
        """By the id of each message that is not ended."""
        self._expected: dict[tuple[int | None, str], Expected] = {}
        self._units: dict[int, tuple[str, str] | None] = {}
        """What each device last said that its answer counts for; None: for itself alone."""

    # --- for the layer that chooses whom to ask

    def expect(self, round_: int | None, kind: str, expected: Expected) -> None:
        """Say what is enough for a phase that is about to be sent."""
        self._expected = {(round_, kind): expected}

    def quorum(self, asked: int) -> int:
        """Return the fewest answers with which a deadline ends a phase that is to have `asked`."""
        wanted = self._settings.quorum if self._settings.enabled else 1.0
        share = wanted if isinstance(wanted, int) else math.ceil(wanted * asked)
        return max(1, min(asked, max(share, self._least(asked))))

    def conditions(self) -> dict[int, Condition]:
        """Return what the devices online say of themselves, and remember which of them hold the same data.

        Where the grid below does not know, nothing is said of them.
        """
        if not isinstance(self._grid, TellingGrid):
            return dict.fromkeys(self._courier.nodes(), UNKNOWN)
        told = self._grid.conditions()
        self._units.update({node: condition.unit for node, condition in told.items()})
        return told

    # --- the Grid interface, and that of layers (`argosy_common.flower.streaming`, `courier`)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies that were waited for, errors among them."""
        return list(self.stream(messages, timeout=timeout, accept=as_it_is))

    def stream(self, messages: Iterable[Message], *, timeout: float | None, accept: Accept) -> Iterator[Message]:
        """Send messages; yield each reply as it arrives, until the phase is over.

        Raises:
            NoValidReply: as the grid below.
        """
        ids = self.push(list(messages), timeout=_LONGEST_S if timeout is None else min(timeout, 1e8))
        waiting = set(ids)
        while waiting:
            found = self.take(waiting, accept)
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            yield from (reply for reply in found if not _is_cut(reply))
            self.wait(waiting, LOOK_S)
        self.end(ids)

    def push(self, messages: Iterable[Message], *, timeout: float) -> list[str]:
        """Send messages, each to be answered within `timeout` seconds; return their ids."""
        outgoing = list(messages)
        self.late()
        by_phase: dict[tuple[int | None, str], list[Message]] = {}
        for message in outgoing:
            if is_phase(message.metadata.message_type):
                by_phase.setdefault(phase_of(message), []).append(message)
        if not by_phase.keys() <= self._expected.keys():
            self.conditions()  # whoever expects the phase has just asked for them
        ids = self._courier.push(outgoing, timeout=timeout)
        for (round_, kind), sent in by_phase.items():
            batch = self._open(round_, kind, [compat.head_of(message) for message in sent], timeout)
            self._batches.update(dict.fromkeys(batch.heads, batch))
        return ids

    def take(self, ids: Collection[str], accept: Accept) -> list[Message]:
        """Return the replies that are here; once a phase is over, each device that is missing in it is answered for."""
        self.late()
        asked = [each for each in ids if not self._is_over(each)]
        found = self._courier.take(asked, partial(self._accept, accept)) if asked else []
        for reply in found:
            batch = self._batches.get(reply.metadata.reply_to_message_id)
            if batch is not None and reply.has_error():
                batch.cutoff.give_up(batch.node(reply.metadata.reply_to_message_id))
        taken = {reply.metadata.reply_to_message_id for reply in found}
        for batch in self._of(ids):
            self._judge(batch)
        return [*found, *self._cut(set(ids) - taken)]

    def wait(self, ids: Collection[str], seconds: float) -> None:
        """Wait until one of `ids` is answered or its phase may be over, at most `seconds`."""
        if any(self._is_over(each) for each in ids):
            return
        now = self._clock.monotonic()
        bounds = [min(batch.cutoff.due(now - batch.began), LOOK_S) for batch in self._of(ids)]
        if ids:
            self._courier.wait(ids, max(min([seconds, *bounds]), 0.001))

    def end(self, ids: Collection[str]) -> tuple[int, int]:
        """Wait no more for any of `ids`; return the bytes sent down and up for them.

        Raises:
            NoValidReply: as the grid below.
        """
        batches = self._of(ids)
        for batch in batches:
            self._settle(batch)
        for each in ids:
            self._batches.pop(each, None)
        return self._courier.end(ids)

    def late(self) -> list[Late]:
        """Return, once each, the answers that came when nobody waited for them any more; learn from them."""
        found = self._courier.late()
        for each in found:
            if each.seconds is None:
                self.track.free(each.node)
            else:
                self.track.late(each.node, each.message_type, each.seconds)
        return found

    def online(self) -> list[int]:
        """Return the nodes that are online, without waiting for more."""
        return sorted(self._courier.nodes())

    # --- one phase

    def _open(self, round_: int | None, kind: str, heads: Sequence[Message], timeout: float) -> _Batch:
        now = self._clock.monotonic()
        nodes = [head.metadata.dst_node_id for head in heads]
        units: dict[int, Unit] = {node: self._units.get(node) or node for node in nodes}
        distinct = len(set(units.values()))
        expected = self._expected.get((round_, kind), Expected(len(nodes), distinct, self.quorum(distinct)))
        part = len(nodes) / expected.asked  # of a phase that is sent in parts, such as groups
        heard = expected.heard & set(nodes)
        usual = [seconds for node in heard if (seconds := self.track.seconds(node, kind)) is not None]
        rule = Rule(
            quorum=min(distinct, max(self._least(distinct), math.ceil(expected.quorum * part))),
            enough=min(distinct, math.ceil(expected.enough * part)),
            deadline=self._deadline(kind),
            timeout=timeout,
            heard_until=with_margin(max(usual)) if usual else 0.0,
        )
        cutoff = Cutoff(rule, units, heard)
        return _Batch(round_, kind, {head.metadata.message_id: head for head in heads}, cutoff, now, now + timeout)

    def _deadline(self, kind: str) -> float | None:
        if not self._settings.enabled:
            return math.inf
        return self.track.deadline(kind) if self._settings.deadline == "auto" else self._settings.deadline

    def _accept(self, accept: Accept, reply: Message) -> Message:
        """Take a valid reply in, unless what it brings was counted."""
        message_id = reply.metadata.reply_to_message_id
        batch = self._batches.get(message_id)
        if batch is None:
            return accept(reply)
        node = batch.node(message_id)
        seconds = self._clock.monotonic() - batch.began
        self.track.answered(node, batch.kind, seconds)
        by = batch.cutoff.counted_by(node)
        if by is not None:
            site, shard = self._units.get(node) or ("", "")
            raise ShardCounted(device=device_id(node), site=site, shard=shard, by=device_id(by))
        taken = accept(reply)
        batch.cutoff.count(node, seconds)
        return taken

    def _judge(self, batch: _Batch) -> None:
        """Find out whether a phase is over by now."""
        now = self._clock.monotonic()
        if batch.how is None and now - batch.looked >= LOOK_S and batch.cutoff.open:
            batch.looked = now
            self._look(batch, now)
        batch.how = batch.how or batch.cutoff.verdict(now - batch.began)

    def _look(self, batch: _Batch, now: float) -> None:
        """Do without devices that have been gone for the grace; they may come back before."""
        if not self._settings.enabled:
            return  # the coordinator's own grace decides
        gone = batch.cutoff.open - set(self._courier.nodes())
        batch.away = {node: batch.away.get(node, now) for node in gone}
        for node, since in batch.away.items():
            if now - since >= self._settings.grace:
                batch.cutoff.give_up(node)

    def _cut(self, ids: set[str]) -> list[Message]:
        """Return the replies that stand for those who are missing in phases that are over, each once."""
        replies = []
        for each in ids:
            batch = self._batches.get(each)
            if batch is None or batch.how is None or each in batch.cut:
                continue
            batch.cut.add(each)
            seconds = round(self._clock.monotonic() - batch.began, 1)
            error = CutOff(device=device_id(batch.node(each)), seconds=seconds)
            replies.append(_cut_reply(batch.heads[each], error))
        return replies

    def _settle(self, batch: _Batch) -> None:
        """A phase is over: remember who was left behind, and tell of it."""
        now = self._clock.monotonic()
        how = batch.how or batch.cutoff.verdict(now - batch.began) or How.TIMEOUT
        cutoff = batch.cutoff
        for each in batch.cut:
            overdue = Overdue(batch.kind, batch.round, batch.began, batch.until)
            self.track.left(batch.node(each), overdue)
        self.track.settled(batch.kind, cutoff.counted)
        if self._settings.enabled:
            self._report(
                "phase-settled",
                {
                    "round": batch.round,
                    "phase": batch.kind,
                    "how": how.value,
                    "seconds": now - batch.began,
                    "quorum": cutoff.rule.quorum,
                    "enough": cutoff.rule.enough,
                    "deadline_s": cutoff.deadline,
                    "counted": {device_id(node): seconds for node, seconds in cutoff.counted.items()},
                    "away": sorted(map(device_id, batch.away)),
                },
            )

    def _of(self, ids: Collection[str]) -> list[_Batch]:
        """Return the phases that `ids` belong to, each once."""
        return list({id(batch): batch for each in ids if (batch := self._batches.get(each))}.values())

    def _is_over(self, message_id: str) -> bool:
        batch = self._batches.get(message_id)
        return batch is not None and batch.how is not None


_CUT = "_argosy_cut"


def _cut_reply(head: Message, error: CutOff) -> Message:
    reply = compat.error_reply(head, error)
    reply.__dict__[_CUT] = True
    return reply


def _is_cut(reply: Message) -> bool:
    return _CUT in reply.__dict__
