"""Replies one by one, as they arrive, from any Flower Grid: what the layers above the transport are built on.

A Grid of ours has `stream` itself and waits without polling. Any other is asked with `push_messages` and
`pull_messages`, ever more seldom while nothing comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, MessageUnsendable
from argosy_common.flower import compat

Accept = Callable[[Message], Message]
"""Takes a reply in and returns what is made of it; raises a named error that then stands for that node's reply."""

_POLL_S = (0.1, 3.0)
"""The first and the longest pause between two looks at a Grid that cannot wait. Flower's own pause is 3 s."""


@runtime_checkable
class StreamingGrid(Protocol):
    """A Grid that hands replies out as they arrive."""

    def stream(self, messages: Iterable[Message], *, timeout: float | None, accept: Accept) -> Iterator[Message]:
        """Send messages; yield each reply, or its error, once `accept` has seen it. Ends after `timeout` seconds."""
        ...


def as_it_is(reply: Message) -> Message:
    """Accept a reply as it came."""
    return reply


def stream(
    grid: Grid,
    messages: Iterable[Message],
    *,
    timeout: float | None,
    accept: Accept,
    clock: Clock,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Message]:
    """Send messages over any grid; yield each reply as it arrives, errors among them.

    Args:
        timeout: seconds to wait for all of them; None: as long as the grid itself sees fit, and without end where it
            has no `stream`, as with Flower's own.
        accept: see `Accept`; called in the order of arrival. Replies that are errors are not shown to it.

    Raises:
        MessageUnsendable: the grid did not take one of the messages.
    """
    if isinstance(grid, StreamingGrid):
        return grid.stream(messages, timeout=timeout, accept=accept)
    deadline = None if timeout is None else clock.monotonic() + timeout
    heads = _push(grid, list(messages))
    return _pull(grid, heads, accept, lambda: _POLL_S[1] if deadline is None else deadline - clock.monotonic(), sleep)


def _push(grid: Grid, messages: list[Message]) -> dict[str, Message]:
    """Send messages; return their heads by id."""
    ids = cast("list[str | None]", list(grid.push_messages(messages)))  # Flower's own may put None among them
    sent = {name: compat.head_of(message) for name, message in zip(ids, messages, strict=False) if name}
    if len(sent) != len(messages):
        raise MessageUnsendable(why="the grid did not take it; Flower's log says more")
    return sent


def _pull(
    grid: Grid,
    waiting: dict[str, Message],
    accept: Accept,
    left: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Message]:
    pause = _POLL_S[0]
    while waiting:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            head = waiting.pop(reply.metadata.reply_to_message_id, None)
            if head is not None:
                yield accepted(reply, head, accept)
        pause = _POLL_S[0] if replies else min(pause * 1.5, _POLL_S[1])
        if left() <= 0:
            return
        if waiting and not replies:
            sleep(min(pause, left()))


def accepted(reply: Message, head: Message, accept: Accept) -> Message:
    """Return what `accept` makes of a reply to `head`, or the error reply that stands for its refusal."""
    if reply.has_error():
        return reply
    try:
        return accept(reply)
    except ArgosyError as error:
        return compat.error_reply(head, error)
