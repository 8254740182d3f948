"""Replies one by one from a grid that can only be asked: bounds, errors, and what it does not take."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from argosy_common.errors import MessageUnsendable, ReplyInvalid
from argosy_common.flower import compat
from argosy_common.flower.streaming import as_it_is, stream
from tests.grids import BareGrid


class SlowGrid(BareGrid):
    """Answers each node after as many looks as its number says; never, when that is zero."""

    def __init__(self) -> None:
        compat.become_task(run_id=1, node_id=1)
        self.looks = 0
        self.now = 0.0
        self.slept: list[float] = []
        self.taken: list[str] = []
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            name = f"m{message.metadata.dst_node_id}"
            compat.set_message_id(message, name)
            self._waiting[name] = message
        return list(self._waiting)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.looks += 1
        ready = [name for name in message_ids if 0 < self._waiting[name].metadata.dst_node_id - 10 <= self.looks]
        self.taken += ready
        metrics = RecordDict({"m": MetricRecord({"x": 1})})
        return [Message(metrics, reply_to=self._waiting.pop(name)) for name in ready]

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def messages(*nodes: int) -> list[Message]:
    return [Message(RecordDict({"m": MetricRecord({"x": 0})}), node, "train") for node in nodes]


def test_replies_come_in_the_order_of_their_arrival_and_pauses_grow_while_none_comes() -> None:
    grid = SlowGrid()
    replies = stream(grid, messages(16, 12), timeout=60, accept=as_it_is, clock=grid, sleep=grid.sleep)
    assert [reply.metadata.src_node_id for reply in replies] == [12, 16]
    assert grid.slept[0] == pytest.approx(0.15)
    assert max(grid.slept) > 0.3


def test_it_ends_when_the_time_is_over() -> None:
    grid = SlowGrid()
    replies = list(stream(grid, messages(10, 11), timeout=30, accept=as_it_is, clock=grid, sleep=grid.sleep))
    assert [reply.metadata.src_node_id for reply in replies] == [11]
    assert grid.now == pytest.approx(30)
    assert max(grid.slept) <= 3.0


def test_a_reply_that_is_refused_is_that_nodes_error() -> None:
    def refuse(reply: Message) -> Message:
        if reply.metadata.src_node_id == 12:
            raise ReplyInvalid(why="nonsense")
        return reply

    grid = SlowGrid()
    replies = list(stream(grid, messages(11, 12), timeout=9, accept=refuse, clock=grid, sleep=grid.sleep))
    assert [reply.has_error() for reply in replies] == [False, True]
    assert str(replies[1].error.reason).startswith("reply-invalid")
    assert replies[1].metadata.src_node_id == 12


def test_a_message_that_the_grid_does_not_take_is_told() -> None:
    class Full(SlowGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return [*super().push_messages(list(messages)[:1]), None]  # type: ignore[list-item]  # as Flower's does

    grid = Full()
    with pytest.raises(MessageUnsendable):
        list(stream(grid, messages(11, 12), timeout=9, accept=as_it_is, clock=grid, sleep=grid.sleep))
