"""The glue of one end: many peers, many transfers, one store (specs/transport.md, "Blobs")."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from argosy_common.blobs.store import BlobRef, BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError
from argosy_common.wire.bodies import Body, Offer


@dataclass(frozen=True)
class TransferOutcome:
    """How a transfer ended. `error` is None when the blob arrived whole.

    Attributes:
        ref: the blob.
        error: why it failed.
        wire_bytes: chunk bytes that travelled for it, headers and repetitions included; 0 if it was there already.
        seconds: from the call until the end.
    """

    ref: BlobRef
    error: ArgosyError | None
    wire_bytes: int
    seconds: float


class BlobExchange:
    """Fetches, sends and serves blobs with any number of peers. Thread-safe; see the module's text."""

    def __init__(
        self,
        store: BlobStore,
        *,
        clock: Clock,
        sink: str,
        post: Callable[[str, Body], bool],
        post_chunk: Callable[[str, str, bytes], bool],
        allow_upload: Callable[[str, Offer], ArgosyError | None],
        may_serve: Callable[[str, bytes], bool] = lambda _peer, _digest: True,
        executor: Executor | None = None,
        session_timeout_s: float = 3600.0,
    ) -> None: ...

    def fetch(self, peer: str, ref: BlobRef, done: Callable[[TransferOutcome], None]) -> None:
        """Get a blob from `peer`."""

    def send(self, peer: str, ref: BlobRef, done: Callable[[TransferOutcome], None]) -> None:
        """Give a blob of our store to `peer`."""

    def handle(self, peer: str, body: Body) -> None:
        """Take a control message: Fetch, Offer, Accept, ChunkAck, Done or TransferFailed."""

    def handle_chunk(self, peer: str, payload: bytes) -> None:
        """Take a chunk frame."""

    def peer_up(self, peer: str) -> None:
        """The way to `peer` is open (again)."""

    def peer_down(self, peer: str) -> None:
        """The way to `peer` is closed: nothing is sent and no timer runs until `peer_up`."""

    def tick(self) -> None:
        """Drive the timers; call about once a second."""

    def cancel(self, peer: str, digest: bytes) -> None:
        """End every transfer of the blob with `peer`; what arrived stays for a later attempt."""

    def close(self) -> None:
        """End all transfers and the worker thread."""
