"""The base of layers: a Grid around a Grid that passes on what it does not change."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

_PAUSE_S = 0.5
"""Between two looks at a Grid that cannot wait."""


@runtime_checkable
class WaitingGrid(Protocol):
    """A Grid that can wait for any of several replies."""

    def wait(self, ids: Collection[str], seconds: float) -> None:
        """Wait until one of `ids` is answered, at most `seconds`."""
        ...


def wait_for(grid: Grid, ids: Collection[str], seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until one of `ids` may be answered, at most `seconds`; on a grid that cannot wait, for a moment."""
    if ids and isinstance(grid, WaitingGrid):
        grid.wait(ids, seconds)
    else:
        sleep(max(0.0, min(_PAUSE_S, seconds)))


class GridLayer(Grid):
    """See the module. A layer overrides what it is about, mostly `send_and_receive`."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Any) -> None:  # noqa: ANN401  (Flower's Run is private)
        """See `Grid.set_run`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:  # noqa: ANN401  (Flower's Run is private)
        """See `Grid.run`."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See `Grid.create_message`."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid.get_node_ids`."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """See `Grid.get_nodes`."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid.push_messages`."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `Grid.pull_messages`."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See `Grid.send_and_receive`."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    def wait(self, ids: Collection[str], seconds: float) -> None:
        """Wait until one of `ids` may be answered, at most `seconds`."""
        wait_for(self._grid, ids, seconds)
