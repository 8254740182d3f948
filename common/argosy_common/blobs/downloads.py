"""A second way by which a blob may come, besides chunks: what it and the exchange ask of each other.

The exchange owns the transfer: its file, its bitmap, its end. A way only brings chunks, whole and in any order, and
may turn back at any moment; then the sender is asked for the rest, so nothing comes twice. A way's promise: each
download of its brings something new, or is turned back, within a bounded time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from argosy_common.blobs.frames import Layout
from argosy_common.blobs.store import BlobRef
from argosy_common.wire.bodies import Offer

MQTT = "mqtt"
"""The way of the chunks, as `TransferOutcome.via` names it."""


class Download(Protocol):
    """One blob on its way; every call is for the way's own thread. Once stopped, it wants nothing and ignores all."""

    @property
    def ref(self) -> BlobRef:
        """The blob."""
        ...

    @property
    def layout(self) -> Layout:
        """How it is cut into chunks."""
        ...

    @property
    def urls(self) -> Sequence[str]:
        """Where its sender says that it can be had. Not to be trusted."""
        ...

    def gaps(self) -> list[tuple[int, int]]:
        """Return the runs of missing chunks, each as the first one and the one behind the last; empty: nothing to do.

        Most recent: chunks that an earlier attempt brought by any way are not among them.
        """
        ...

    def take(self, index: int, payload: memoryview) -> bool:
        """Put a whole chunk in its place; return whether more is wanted."""
        ...

    def spent(self, count: int) -> None:
        """Count bytes that travelled besides the chunks taken."""
        ...

    def turn_back(self) -> None:
        """Leave the rest to the chunks."""
        ...


class Way(Protocol):
    """Brings blobs by another way than chunks. `takes`, `start` and `stop` are called with locks held: be quick."""

    @property
    def name(self) -> str:
        """What `TransferOutcome.via` calls it."""
        ...

    def takes(self, offer: Offer) -> bool:
        """Tell whether to try this way for what is offered."""
        ...

    def start(self, download: Download) -> None:
        """Begin to bring it, on a thread of its own."""
        ...

    def stop(self, download: Download) -> None:
        """End it, as soon as may be."""
        ...
