"""What the two directions of an exchange share: its collaborators, who is reachable, and how a transfer is settled.

Two rules hold for everything here. State is touched under `Session.lock` only; `post` and `post_chunk` are called
with it held, so they may only queue. Files are opened, synced and renamed, and callbacks called, on one worker thread
and without the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from argosy_common.blobs.store import BlobRef, BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    BlobUnknown,
    ProgrammingError,
    TransferRefused,
    TransferTimedOut,
    error_from_wire,
)
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Body, ErrorPart, TransferFailed

log = get_logger(__name__)

Key = tuple[str, bytes]
"""Peer and digest: at most one transfer a direction."""

MAX_PER_PEER = 256
"""Transfers a direction that one peer may make us hold open."""


@dataclass(frozen=True)
class TransferOutcome:
    """How a transfer ended. `error` is None when the blob arrived whole.

    Attributes:
        ref: the blob.
        error: why it failed.
        wire_bytes: bytes that travelled for it, headers and repetitions included; 0 if it was there already.
        seconds: from the call until the end.
        via: by which way they came: "mqtt", "https", "https+mqtt" where each brought a part, "" if nothing travelled.
    """

    ref: BlobRef
    error: ArgosyError | None
    wire_bytes: int
    seconds: float
    via: str = ""


DoneCallback = Callable[[TransferOutcome], None]


@dataclass
class Session:
    """See the module's text."""

    store: BlobStore
    clock: Clock
    post: Callable[[str, Body], bool]
    post_chunk: Callable[[str, str, bytes], bool]
    executor: Executor
    timeout_s: float
    lock: threading.RLock = field(default_factory=threading.RLock)
    down: set[str] = field(default_factory=set)
    closed: bool = False

    def on_worker(self, job: Callable[[], None]) -> None:
        """Run `job` on the worker thread, after all that were submitted before; what it raises is a bug, and logged."""
        try:
            self.executor.submit(_guarded, job)
        except RuntimeError:  # closed: nobody waits for it any more
            log.debug("blobs.closed")

    def tell(self, peer: str, body: Body) -> None:
        """Send a control message if the peer can be reached; what is lost is said again after a silence."""
        if peer not in self.down:
            self.post(peer, body)

    def tell_failed(self, peer: str, digest: bytes, error: ArgosyError) -> None:
        """Tell the peer that we give the transfer up."""
        told = ErrorPart.model_validate({**error.to_wire(), "message": error.message[:8192]})
        self.tell(peer, TransferFailed(digest=digest, error=told))

    def settle(self, waiters: list[DoneCallback], outcome: TransferOutcome) -> None:
        """Call everyone who waits, on the worker thread."""
        for waiter in waiters:
            self.on_worker(_call(waiter, outcome))

    def timed_out(self, key: Key) -> TransferTimedOut:
        """Name a transfer that made no progress."""
        peer, digest = key
        return TransferTimedOut(digest=digest.hex(), peer=peer, seconds=round(self.timeout_s))


def _call(waiter: DoneCallback, outcome: TransferOutcome) -> Callable[[], None]:
    return lambda: waiter(outcome)


def _guarded(job: Callable[[], None]) -> None:
    try:
        job()
    except Exception as error:  # noqa: BLE001  (one bad callback must not end the transfers of all others)
        log.error("blobs.job.failed", exc=error)


def told_error(peer: str, body: TransferFailed) -> ArgosyError:
    """Return our word for what the peer says has failed. Its disk and its limits are not ours, so it is quoted."""
    if body.error.code == BlobUnknown.code:
        return BlobUnknown(peer=peer, digest=body.digest.hex())
    error = error_from_wire(body.error.model_dump())
    why = body.error.message if isinstance(error, ProgrammingError) else error.message
    return TransferRefused(peer=peer, digest=body.digest.hex(), why=why.rstrip("."))
