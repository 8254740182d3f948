"""Messages out, replies in as they come, over any Grid, for layers that talk to devices in more than one step.

A Grid of ours waits without polling, and is told when a conversation is over. Any other is asked with `push_messages`
and `pull_messages`, ever more seldom while nothing comes. What Flower's own SuperLink says of a node that went away is
then told by the names that our own transport has for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol, cast, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from argosy_common.clock import Clock
from argosy_common.errors import (
    REGISTRY,
    DeviceLost,
    InstructionExpired,
    MessageUnsendable,
    ReplyTimedOut,
    WorkerDied,
)
from argosy_common.flower import compat
from argosy_common.flower.rounds import device_id
from argosy_common.flower.streaming import Accept, accepted

_PAUSE_S = (0.05, 2.0)
"""The first and the longest pause between two looks at a Grid that cannot wait."""
_LEAST_LIFE_S = 600.0
"""The least that a message lives on Flower's own transport. There a node reckons how long its reply may live by its own
clock, and the SuperLink drops the reply of one that is ahead by more than the message's life."""
_OFFLINE_S = 60
"""After that long without a heartbeat the SuperLink takes a node for gone."""


class Late(NamedTuple):
    """An answer that came when nobody waited for it any more."""

    message_id: str
    node: int
    message_type: str
    seconds: float | None
    """From the sending of its message; None: there will be none, since the node came back without it."""


@runtime_checkable
class PatientGrid(Protocol):
    """A Grid that can wait for any of several replies."""

    def push(self, messages: Iterable[Message], *, timeout: float) -> list[str]:
        """Send messages, each to be answered within `timeout` seconds; return their ids."""
        ...

    def take(self, ids: Collection[str], accept: Accept) -> list[Message]:
        """Return the replies that are here, errors among them, each once."""
        ...

    def wait(self, ids: Collection[str], seconds: float) -> None:
        """Wait until one of `ids` is answered, at most `seconds`."""
        ...

    def end(self, ids: Collection[str]) -> tuple[int, int]:
        """Wait no more for any of `ids`, the answered ones among them; return the bytes sent down and up for them."""
        ...

    def late(self) -> list[Late]:
        """Return, once each, the answers that came when nobody waited for them any more; their content is gone."""
        ...

    def online(self) -> list[int]:
        """Return the nodes that are online, without waiting for more."""
        ...


class Courier:
    """One thread's conversations over a Grid."""

    def __init__(self, grid: Grid, clock: Clock, sleep: Callable[[float], None] = time.sleep) -> None:
        self._grid = grid
        self._patient = grid if isinstance(grid, PatientGrid) else None
        self._clock = clock
        self._sleep = sleep
        self._heads: dict[str, Message] = {}
        self._untaken: dict[str, Message] = {}
        self._sent_at: dict[str, float] = {}
        self._overdue: dict[str, Message] = {}
        """What `end` was told of before its answer came, by id; on a grid that cannot wait."""
        self._pause = _PAUSE_S[0]

    @property
    def prompt(self) -> bool:
        """Whether the grid can wait, so that answers come in seconds."""
        return self._patient is not None

    def push(self, messages: list[Message], *, timeout: float) -> list[str]:
        """Send messages; return their ids.

        Raises:
            MessageUnsendable: the grid took none of them, as Flower's own does where they are too large together.
        """
        self._pause = _PAUSE_S[0]
        if self._patient is not None:
            return self._patient.push(messages, timeout=timeout)
        for message in messages:
            message.metadata.ttl = max(min(message.metadata.ttl, timeout), _LEAST_LIFE_S)
        ids = cast("list[str | None]", list(self._grid.push_messages(messages)))
        if messages and not ids:
            raise MessageUnsendable(why="the grid took none of them; Flower's log says more")
        return [self._sent(message, ids) for message in messages]

    def _sent(self, message: Message, ids: Collection[str | None]) -> str:
        """Return a message's id. One that the grid did not take, since its node is gone, is answered by that error."""
        head = compat.head_of(message)
        name = head.metadata.message_id
        if name in ids:
            self._heads[name] = head
            self._sent_at[name] = self._clock.monotonic()
        else:
            self._untaken[name] = compat.error_reply(head, _lost(head))
        return name

    def take(self, ids: Collection[str], accept: Accept) -> list[Message]:
        """Return the replies to `ids` that are here; what `accept` refuses becomes an error reply."""
        if not ids:
            return []
        if self._patient is not None:
            return self._patient.take(ids, accept)
        found = [self._untaken.pop(each) for each in list(ids) if each in self._untaken]
        asked = [each for each in ids if each in self._heads]
        for reply in self._grid.pull_messages(asked) if asked else ():
            head = self._heads.pop(reply.metadata.reply_to_message_id, None)
            if head is not None:
                self._sent_at.pop(head.metadata.message_id, None)
                found.append(accepted(_named(reply, head), head, accept))
        self._pause = _PAUSE_S[0] if found else min(self._pause * 1.3, _PAUSE_S[1])
        return found

    def wait(self, ids: Collection[str], seconds: float) -> None:
        """Wait until one of `ids` may be answered, at most `seconds`."""
        if seconds <= 0:
            return
        if self._patient is not None and ids:
            self._patient.wait(ids, seconds)
        else:
            self._sleep(min(self._pause, seconds))

    def end(self, ids: Collection[str]) -> tuple[int, int]:
        """Forget `ids`; return the bytes sent down and up for them, where the grid knows."""
        if self._patient is not None:
            return self._patient.end(ids)
        for each in ids:
            head = self._heads.pop(each, None)
            if head is not None:
                self._overdue[each] = head
            self._untaken.pop(each, None)
        return 0, 0

    def late(self) -> list[Late]:
        """Return, once each, the answers that came when nobody waited for them any more.

        A grid that cannot wait still holds them: they are taken out of it, and so never met again.
        """
        if self._patient is not None:
            return self._patient.late()
        now, found = self._clock.monotonic(), []
        for reply in self._grid.pull_messages(list(self._overdue)) if self._overdue else ():
            head = self._overdue.pop(reply.metadata.reply_to_message_id, None)
            if head is not None:
                meta = head.metadata
                took = now - self._sent_at.pop(meta.message_id, now)
                found.append(Late(meta.message_id, meta.dst_node_id, meta.message_type, took))
        return found

    def nodes(self) -> set[int]:
        """Return the nodes that are online."""
        return set(self._grid.get_node_ids() if self._patient is None else self._patient.online())


def _named(reply: Message, head: Message) -> Message:
    """Return an error of Flower's own as the named one that it stands for, and every other reply as it is."""
    if not reply.has_error() or (reply.error.reason or "").partition(": ")[0] in REGISTRY:
        return reply
    seconds = round(head.metadata.ttl)
    for error in (
        _lost(head),
        InstructionExpired(message=head.metadata.message_id),
        ReplyTimedOut(device=_device(head), seconds=seconds),
        WorkerDied(why=reply.error.reason),
    ):
        named = compat.error_reply(head, error)
        if named.error.code == reply.error.code:
            return named
    return reply


def _lost(head: Message) -> DeviceLost:
    return DeviceLost(device=_device(head), grace_s=_OFFLINE_S)


def _device(head: Message) -> str:
    return device_id(head.metadata.dst_node_id)
