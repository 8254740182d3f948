"""A fleet of which a test sets the pace, on a clock that moves only while somebody waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from argosy_common.errors import AppRaised
from argosy_common.flower import compat
from argosy_common.flower.courier import Late
from argosy_common.flower.streaming import Accept, accepted
from argosy_common.straggler.conditions import UNKNOWN, Condition
from tests.grids import BareGrid

Pace = Callable[[int, str], float | None]
"""Returns how many seconds a node takes for a kind of work; None: it never answers."""


class MovingClock:
    """A clock that `sleep` moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)


@dataclass
class _Work:
    message: Message
    sent_at: float
    ready_at: float
    ended: bool = False
    told: bool = False


@dataclass
class Fleet:
    """What both kinds of grid do: nodes train by adding 1 to what they got, weighing `weights` (1 by default)."""

    pace: Pace
    nodes: list[int]
    clock: MovingClock = field(default_factory=MovingClock)
    conditions: dict[int, Condition] = field(default_factory=dict)
    failing: set[int] = field(default_factory=set)
    gone: dict[int, float] = field(default_factory=dict)
    """When each node goes away for good."""
    weights: dict[int, float] = field(default_factory=dict)
    asked: list[tuple[int, str]] = field(default_factory=list)
    _free_at: dict[int, float] = field(default_factory=dict)
    work: dict[str, _Work] = field(default_factory=dict)

    def online(self) -> list[int]:
        return [node for node in self.nodes if self.clock.now < self.gone.get(node, float("inf"))]

    def give(self, message: Message) -> str:
        """Queue a message at its node, which does one after the other."""
        name = f"{len(self.work):032x}"
        compat.set_message_id(message, name)
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        self.asked.append((node, kind))
        seconds = self.pace(node, kind)
        begins = max(self.clock.now, self._free_at.get(node, 0.0))
        ready = float("inf") if seconds is None else begins + seconds
        if ready >= self.gone.get(node, float("inf")):
            ready = float("inf")
        self._free_at[node] = ready
        self.work[name] = _Work(message, self.clock.now, ready)
        return name

    def reply(self, work: _Work) -> Message:
        message = work.message
        node = message.metadata.dst_node_id
        if node in self.failing:
            return compat.error_reply(compat.head_of(message), AppRaised(why="it was told to"))
        metrics = MetricRecord({"num-examples": self.weights.get(node, 1.0), "loss": float(node)})
        content = RecordDict({"metrics": metrics})
        for name, record in message.content.array_records.items():
            if message.metadata.message_type == "train":
                moved = {each: Array(np.asarray(array.numpy() + 1.0)) for each, array in record.items()}
                content[name] = ArrayRecord(moved)
        return Message(content, reply_to=compat.head_of(message))

    def here(self, ids: Collection[str]) -> list[str]:
        """Return those of `ids` that are answered by now, in the order of their answers."""
        found = [each for each in ids if (it := self.work.get(each)) and not it.told and it.ready_at <= self.clock.now]
        return sorted(found, key=lambda each: self.work[each].ready_at)

    def next_at(self, ids: Collection[str]) -> float:
        return min((self.work[each].ready_at for each in ids if not self.work[each].told), default=float("inf"))


class ImpatientGrid(BareGrid):
    """As Flower's own: it can only be asked."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def get_node_ids(self) -> Iterable[int]:
        return self.fleet.online()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self.fleet.give(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for each in self.fleet.here(list(message_ids)):
            self.fleet.work[each].told = True
            replies.append(self.fleet.reply(self.fleet.work[each]))
        return replies


class PatientPacedGrid(ImpatientGrid):
    """As ours: it waits, and tells what came late and what devices say of themselves."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)

    def conditions(self) -> dict[int, Condition]:
        return {node: self.fleet.conditions.get(node, UNKNOWN) for node in self.fleet.online()}

    def online(self) -> list[int]:
        return self.fleet.online()

    def push(self, messages: Iterable[Message], *, timeout: float) -> list[str]:
        assert timeout > 0
        return list(self.push_messages(messages))

    def take(self, ids: Collection[str], accept: Accept) -> list[Message]:
        found = []
        for each in self.fleet.here(ids):
            work = self.fleet.work[each]
            work.told = True
            found.append(accepted(self.fleet.reply(work), compat.head_of(work.message), accept))
        return found

    def wait(self, ids: Collection[str], seconds: float) -> None:
        until = min(self.fleet.next_at(ids), self.fleet.clock.now + seconds)
        self.fleet.clock.now = max(self.fleet.clock.now, until) + 1e-6

    def end(self, ids: Collection[str]) -> tuple[int, int]:
        for each in ids:
            work = self.fleet.work[each]
            if not work.told:
                work.ended = True
        return 0, 0

    def late(self) -> list[Late]:
        found = []
        for name, work in self.fleet.work.items():
            if work.ended and not work.told and work.ready_at <= self.fleet.clock.now:
                work.told = True
                meta = work.message.metadata
                found.append(Late(name, meta.dst_node_id, meta.message_type, work.ready_at - work.sent_at))
        return found
