"""The blobs of one end and all its peers: fetch, send and serve, over a link that the owner has (spec: "Blobs").

    owner                     exchange                              peer's exchange
    fetch(peer, ref, done) →  Fetch ─────────────────────────────▶  opens the blob
                              opens the partial file  ◀───── Offer
                              Accept {sink, bitmap} ─────────────▶  chunks, as its window allows
                              writes, hashes  ◀──────────── chunks
                              ChunkAck ──────────────────────────▶  more chunks
                              or by a second way: HTTPS
    done(outcome)          ←  SHA-256, fsync, rename; Done ──────▶  forgets it
    send(peer, ref, done)     the same from Offer on; `done` comes with the peer's Done

Who began a transfer drives it on after a reconnect; the other side waits for that, and speaks up after a silence. So
nothing is repeated but what was under way when the connection was cut. Everything may be lost, doubled or reordered.

An offer may say where else the blob can be had. An end with a second way (`downloads.py`) then gets it there, into the
same file with the same bitmap, and asks its sender for chunks only if that way turns back.

The state machines are in `sender.py` and `receiver.py`, and know neither files nor threads nor time. The hot path is
`handle_chunk` and `ChunkAck`: one read, CRC, hash and write a chunk, two acknowledgements a window, all on the calling
thread. The worker thread opens, syncs, renames and calls back.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

from argosy_common.blobs.downloads import Way
from argosy_common.blobs.frames import parse_frame
from argosy_common.blobs.incoming import Incoming
from argosy_common.blobs.outgoing import Outgoing
from argosy_common.blobs.session import DoneCallback, Session, TransferOutcome
from argosy_common.blobs.store import BlobRef, BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, ChunkMalformed, TransferRefused
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Accept, Body, ChunkAck, Done, Fetch, Offer, TransferFailed

__all__ = ["BlobExchange", "TransferOutcome"]

log = get_logger(__name__)


def refuse_uploads(peer: str, offer: Offer) -> ArgosyError | None:
    """Allow no peer to push anything: the rule of an end that only fetches."""
    return TransferRefused(peer="this end", digest=offer.digest.hex(), why=f"{peer} may not push blobs")


def serve_all(_peer: str, _digest: bytes) -> bool:
    """Serve every blob of the store to whoever knows its digest."""
    return True


def no_urls(_ref: BlobRef) -> list[str]:
    """Offer blobs by chunks alone."""
    return []


class BlobExchange:
    """Fetches, sends and serves blobs with any number of peers. Thread-safe.

    Args:
        store: where blobs come from and go to. Pin what must not be evicted, best before it is fetched.
        clock: its monotonic time drives all timers.
        sink: the name of this end's own chunk topic, told to peers in `Accept` ("" where there is only one).
        post: queue a control message for a peer; False if that cannot be done now. Called with the exchange's lock
            held: it must not block nor call back. A `ChunkAck` may go with QoS 0, all others deserve QoS 1.
        post_chunk: queue a chunk frame for a peer and its sink, with QoS 0; as `post`.
        allow_upload: why a peer may not push the blob it offers, or None if it may. Called on the worker thread.
        may_serve: whether a peer may fetch a blob. Called on the worker thread.
        urls: where else a blob that a peer asked for can be had, for its offer. Quick; called with the lock held.
        way: a second way for what we fetch.
        executor: where slow work and callbacks run, one at a time and in order; a thread of our own by default.
        session_timeout_s: a transfer without progress for so long fails.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        clock: Clock,
        sink: str,
        post: Callable[[str, Body], bool],
        post_chunk: Callable[[str, str, bytes], bool],
        allow_upload: Callable[[str, Offer], ArgosyError | None] = refuse_uploads,
        may_serve: Callable[[str, bytes], bool] = serve_all,
        urls: Callable[[BlobRef], list[str]] = no_urls,
        way: Way | None = None,
        executor: Executor | None = None,
        session_timeout_s: float = 3600.0,
    ) -> None:
        worker = executor or ThreadPoolExecutor(1, thread_name_prefix="blobs")
        self._own_worker = None if executor else worker
        self._session = Session(
            store=store,
            clock=clock,
            post=post,
            post_chunk=post_chunk,
            executor=worker,
            timeout_s=session_timeout_s,
        )
        self._outgoing = Outgoing(self._session, may_serve, urls)
        self._incoming = Incoming(self._session, sink, allow_upload, way)

    def fetch(self, peer: str, ref: BlobRef, done: DoneCallback) -> None:
        """Get a blob from `peer`; `done` is called on the worker thread, at once if the blob is here already.

        Fetches of one blob from one peer are joined. The outcome's error is BlobUnknown, BlobCorrupt, DiskFull,
        StorageFailed, TransferRefused, TransferTimedOut or TransferCancelled; what arrived is kept for another attempt
        unless the blob was corrupt or the disk full.
        """
        self._incoming.fetch(peer, ref, done)

    def send(self, peer: str, ref: BlobRef, done: DoneCallback) -> None:
        """Give a blob of our store to `peer`; `done` is called on the worker thread once the peer has it for good.

        The outcome's error is BlobUnknown, StorageFailed, TransferRefused, TransferTimedOut or TransferCancelled.
        """
        self._outgoing.send(peer, ref, done)

    def handle(self, peer: str, body: Body) -> None:
        """Take a control message; other bodies are ignored. Quick: made to be called on the link's thread."""
        match body:
            case ChunkAck():
                self._outgoing.acknowledged(peer, body)
            case Accept():
                self._outgoing.accepted(peer, body)
            case Offer():
                self._incoming.offered(peer, body)
            case Fetch():
                self._outgoing.asked(peer, body.digest)
            case Done():
                self._outgoing.done(peer, body.digest)
            case TransferFailed():
                self._outgoing.failed(peer, body)
                self._incoming.failed(peer, body)
            case _:
                log.debug("blobs.not_a_transfer", kind=body.kind)

    def handle_chunk(self, peer: str, payload: bytes) -> bool:
        """Take a chunk frame; a malformed one is logged and dropped, and its range asked for again. As `handle`.

        Returns whether it was of a transfer that is under way.
        """
        try:
            return self._incoming.chunk(peer, parse_frame(payload, peer=peer))
        except ChunkMalformed as error:
            log.warning("blobs.chunk.malformed", peer=peer, why=error.facts.get("why", ""))
            return False

    def peer_up(self, peer: str) -> None:
        """The way to `peer` is open again: go on where the connection was cut. Every peer counts as up at first."""
        with self._session.lock:
            was_down = peer in self._session.down
            self._session.down.discard(peer)
            self._outgoing.up(peer, was_down=was_down)
            self._incoming.up(peer)

    def peer_down(self, peer: str) -> None:
        """The way to `peer` is closed: nothing is sent and no timer but the session's runs until `peer_up`."""
        with self._session.lock:
            self._session.down.add(peer)
            self._outgoing.lost(peer)

    def tick(self) -> None:
        """Drive the timers; call about once a second."""
        now = self._session.clock.monotonic()
        self._outgoing.tick(now)
        self._incoming.tick(now)

    def cancel(self, peer: str, digest: bytes) -> None:
        """End every transfer of the blob with `peer`; callers get TransferCancelled, and the peer is told."""
        self._outgoing.cancel(peer, digest)
        self._incoming.cancel(peer, digest)

    def close(self) -> None:
        """End all transfers (callers get TransferCancelled), save what arrived, and end the worker thread."""
        self._outgoing.close()
        self._incoming.close()
        if self._own_worker is not None:
            self._own_worker.shutdown(wait=True)
