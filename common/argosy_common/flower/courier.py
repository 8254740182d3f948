"""Messages out, replies in as they come, over any Grid, for layers that talk to devices in more than one step.

A Grid of ours waits without polling, and is told when a conversation is over. Any other is asked with `push_messages`
and `pull_messages`, ever more seldom while nothing comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol, cast, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from argosy_common.clock import Clock
from argosy_common.errors import MessageUnsendable
from argosy_common.flower import compat
from argosy_common.flower.streaming import Accept, accepted

_PAUSE_S = (0.05, 2.0)
"""The first and the longest pause between two looks at a Grid that cannot wait."""


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
        self._pause = _PAUSE_S[0]

    def push(self, messages: list[Message], *, timeout: float) -> list[str]:
        """Send messages; return their ids.

        Raises:
            MessageUnsendable: the grid did not take one of them.
        """
        self._pause = _PAUSE_S[0]
        if self._patient is not None:
            return self._patient.push(messages, timeout=timeout)
        for message in messages:
            message.metadata.ttl = min(message.metadata.ttl, timeout)
        ids = cast("list[str | None]", list(self._grid.push_messages(messages)))  # Flower's own may put None among them
        sent = {name: compat.head_of(message) for name, message in zip(ids, messages, strict=False) if name}
        if len(sent) != len(messages):
            raise MessageUnsendable(why="the grid did not take it; Flower's log says more")
        self._heads.update(sent)
        return list(sent)

    def take(self, ids: Collection[str], accept: Accept) -> list[Message]:
        """Return the replies to `ids` that are here; what `accept` refuses becomes an error reply."""
        if not ids:
            return []
        if self._patient is not None:
            return self._patient.take(ids, accept)
        found = []
        for reply in self._grid.pull_messages(list(ids)):
            head = self._heads.pop(reply.metadata.reply_to_message_id, None)
            if head is not None:
                found.append(accepted(reply, head, accept))
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
            self._heads.pop(each, None)
        return 0, 0

    def nodes(self) -> set[int]:
        """Return the nodes that are online."""
        return set(self._grid.get_node_ids() if self._patient is None else self._patient.online())
