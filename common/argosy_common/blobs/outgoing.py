"""The transfers in which we send: those we began (`send`), and those that a peer asked for (`Fetch`)."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from argosy_common.blobs.frames import Layout, layout_for, pack_frame
from argosy_common.blobs.pacing import Budget, Path
from argosy_common.blobs.sender import Sender, SenderState
from argosy_common.blobs.session import (
    MAX_PER_PEER,
    DoneCallback,
    Key,
    Session,
    TransferOutcome,
    told_error,
)
from argosy_common.blobs.store import BlobRef, BlobStore, storage_errors
from argosy_common.errors import ArgosyError, BlobUnknown, StorageFailed, TransferCancelled, TransferRefused
from argosy_common.logs import get_logger
from argosy_common.wire import topics
from argosy_common.wire.bodies import Accept, ChunkAck, Offer, TransferFailed

log = get_logger(__name__)

_TURNS = 8
"""Waiting transfers that get a turn at each acknowledgement."""
_FRESH_OFFER_S = 1.0
_REMEMBERED = 256


class Source:
    """An open blob, shared by all transfers of it. Open until the last `release`, even if the store deletes it."""

    def __init__(self, store: BlobStore, digest: bytes) -> None:
        self.path = store.path(digest)
        with storage_errors(self.path):
            self._handle = os.open(self.path, os.O_RDONLY)
            self.size = os.fstat(self._handle).st_size
        self._users = 1

    def share(self) -> Source:
        """Return this source for one more user."""
        self._users += 1
        return self

    def release(self) -> bool:
        """Give one use back; return whether it was the last."""
        self._users -= 1
        if not self._users:
            os.close(self._handle)
        return not self._users

    def read(self, layout: Layout, index: int) -> bytes:
        """Return chunk `index`; raises `StorageFailed`."""
        length = layout.length(index)
        with storage_errors(self.path):
            data = os.pread(self._handle, length, index * layout.chunk)
        if len(data) != length:
            raise StorageFailed(path=self.path, why="the file is shorter than it was")
        return data

    def chunks_digest(self, layout: Layout) -> bytes:
        """Return the SHA-256 of the concatenated SHA-256 digests of the chunks."""
        whole = hashlib.sha256()
        for index in range(layout.count):
            whole.update(hashlib.sha256(self.read(layout, index)).digest())
        return whole.digest()


@dataclass
class _Transfer:
    """One blob on its way out. `sender`, `offer` and `source` are None until the worker has opened the blob."""

    key: Key
    began: float
    pushed: bool
    """Whether we began it; who began drives it on after a reconnect."""
    waiters: list[DoneCallback] = field(default_factory=list)
    ref: BlobRef | None = None
    source: Source | None = None
    sender: Sender | None = None
    offer: Offer | None = None
    offered_at: float = 0.0
    sink: str = ""
    wire_bytes: int = 0


class Outgoing:
    """All transfers of one exchange in which we send."""

    def __init__(
        self,
        session: Session,
        may_serve: Callable[[str, bytes], bool],
        urls: Callable[[BlobRef], list[str]],
    ) -> None:
        self._session = session
        self._may_serve = may_serve
        self._urls = urls
        self._transfers: dict[Key, _Transfer] = {}
        self._per_peer: Counter[str] = Counter()
        self._paths: dict[str, Path] = {}
        self._budget = Budget()
        self._sources: dict[bytes, Source] = {}
        self._chunk_lists: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._ready: OrderedDict[Key, None] = OrderedDict()

    # --- how a transfer begins

    def send(self, peer: str, ref: BlobRef, done: DoneCallback) -> None:
        """Begin to give a blob to `peer`, or join a transfer under way."""
        with self._session.lock:
            transfer = self._transfers.get((peer, ref.digest))
            if transfer is None:
                transfer = self._begin((peer, ref.digest), pushed=True)
            transfer.ref = transfer.ref or ref
            transfer.waiters.append(done)

    def asked(self, peer: str, digest: bytes) -> None:
        """A peer wants a blob (again)."""
        session = self._session
        with session.lock:
            transfer = self._transfers.get((peer, digest))
            if transfer is None:
                if self._per_peer[peer] >= MAX_PER_PEER:
                    error = TransferRefused(peer="this end", digest=digest.hex(), why="too many transfers at once")
                    session.tell_failed(peer, digest, error)
                else:
                    self._begin((peer, digest), pushed=False)
            elif transfer.sender is not None:
                just_said = session.clock.monotonic() - transfer.offered_at < _FRESH_OFFER_S
                if transfer.sender.state is not SenderState.OFFERED or not just_said:
                    self._offer(transfer)

    def _begin(self, key: Key, *, pushed: bool) -> _Transfer:
        transfer = _Transfer(key, self._session.clock.monotonic(), pushed)
        self._transfers[key] = transfer
        self._per_peer[key[0]] += 1
        self._session.on_worker(lambda: self._open(transfer))
        return transfer

    def _open(self, transfer: _Transfer) -> None:
        """On the worker: open the blob, hash its chunks, offer it."""
        peer, digest = transfer.key
        session = self._session
        try:
            if not transfer.pushed and not self._may_serve(peer, digest):
                raise BlobUnknown(peer="this end", digest=digest.hex())
            with session.lock:
                known = self._sources.get(digest)
                source = known.share() if known is not None else Source(session.store, digest)
                self._sources[digest] = source
                path = self._path(peer)
            try:
                layout = layout_for(source.size, path.goodput)
                if not layout.transferable:
                    raise TransferRefused(peer="this end", digest=digest.hex(), why="it is too large to send")
                chunks_digest = self._chunks_digest(source, digest, layout)
            except ArgosyError:
                self._release(digest, source)
                raise
        except ArgosyError as error:
            with session.lock:
                self._end(transfer, error, tell=not transfer.pushed)
            return
        with session.lock:
            if self._transfers.get(transfer.key) is not transfer:  # cancelled meanwhile
                self._release(digest, source)
                return
            transfer.ref = BlobRef(digest, source.size)
            transfer.source = source
            urls = [] if transfer.pushed else self._urls(transfer.ref)
            transfer.offer = Offer(
                digest=digest, size=source.size, chunk=layout.chunk, chunks_digest=chunks_digest, urls=urls
            )
            transfer.sender = Sender(layout, path, session.clock.monotonic())
            self._offer(transfer)

    def _chunks_digest(self, source: Source, digest: bytes, layout: Layout) -> bytes:
        """Computed once for all peers; it is needed for offers only, so blobs that stay here never pay for it."""
        key = (digest, layout.chunk)
        found = self._chunk_lists.get(key)
        if found is None:
            found = self._chunk_lists[key] = source.chunks_digest(layout)
            if len(self._chunk_lists) > _REMEMBERED:
                self._chunk_lists.popitem(last=False)
        return found

    # --- what the receiver says

    def accepted(self, peer: str, body: Accept) -> None:
        """Send what the peer lacks."""
        session = self._session
        with session.lock:
            transfer = self._transfers.get((peer, body.digest))
            if transfer is None:  # we were restarted, and forgot it: begin again
                self.asked(peer, body.digest)
                return
            if transfer.sender is None:
                return
            if body.sink and not topics.NAME.match(body.sink):
                self._refuse(transfer, "its sink is no topic name")
                return
            try:
                transfer.sender.accepted(body.have, session.clock.monotonic())
            except ValueError as error:
                self._refuse(transfer, str(error))
                return
            transfer.sink = body.sink
            self._ready[transfer.key] = None
            self._pump()

    def _refuse(self, transfer: _Transfer, why: str) -> None:
        peer, digest = transfer.key
        self._end(transfer, TransferRefused(peer=peer, digest=digest.hex(), why=why), tell=True)

    def acknowledged(self, peer: str, body: ChunkAck) -> None:
        """Learn what arrived, and send on."""
        with self._session.lock:
            transfer = self._transfers.get((peer, body.digest))
            if transfer is None or transfer.sender is None:
                return
            transfer.sender.acknowledged(body.upto, body.more, self._session.clock.monotonic())
            self._ready[transfer.key] = None
            self._pump()

    def done(self, peer: str, digest: bytes) -> None:
        """The receiver has it whole, checked and synced."""
        with self._session.lock:
            transfer = self._transfers.get((peer, digest))
            if transfer is not None:
                self._end(transfer, None)

    def failed(self, peer: str, body: TransferFailed) -> None:
        """The receiver will not have it."""
        with self._session.lock:
            transfer = self._transfers.get((peer, body.digest))
            if transfer is not None:
                self._end(transfer, told_error(peer, body))

    # --- the connection, time, and the end

    def up(self, peer: str, *, was_down: bool) -> None:
        """The connection is new, and what was under way is lost. Who began a transfer speaks first.

        Where it was the peer's connection, we hear of it late: by then the peer may have asked and been answered.
        """
        with self._session.lock:
            for transfer in self._of(peer):
                if transfer.pushed:
                    self._offer(transfer)
                elif was_down and transfer.sender is not None:
                    transfer.sender.wait(self._session.clock.monotonic())

    def lost(self, peer: str) -> None:
        """The connection is cut, and with it what was under way: its room goes to other peers."""
        with self._session.lock:
            for transfer in self._of(peer):
                if transfer.sender is not None:
                    transfer.sender.reoffer(self._session.clock.monotonic())
            self._pump(len(self._ready))

    def tick(self, now: float) -> None:
        """Offer again after a silence, end what made no progress, and give everyone who waits a turn."""
        with self._session.lock:
            for transfer in list(self._transfers.values()):
                sender = transfer.sender
                if sender is None:
                    continue
                if now - sender.progress_at >= self._session.timeout_s:
                    self._end(transfer, self._session.timed_out(transfer.key), tell=True)
                elif transfer.key[0] not in self._session.down and sender.silent(now):
                    self._say_offer(transfer)
                elif sender.starving:
                    self._ready[transfer.key] = None
            self._pump(len(self._ready))

    def cancel(self, peer: str, digest: bytes) -> None:
        """End a transfer from our side."""
        with self._session.lock:
            transfer = self._transfers.get((peer, digest))
            if transfer is not None:
                self._end(transfer, TransferCancelled(digest=digest.hex(), peer=peer), tell=True)

    def close(self) -> None:
        """End all transfers."""
        with self._session.lock:
            for transfer in list(self._transfers.values()):
                peer, digest = transfer.key
                self._end(transfer, TransferCancelled(digest=digest.hex(), peer=peer))

    def _of(self, peer: str) -> list[_Transfer]:
        return [transfer for (whose, _), transfer in self._transfers.items() if whose == peer]

    def _offer(self, transfer: _Transfer) -> None:
        if transfer.sender is None:
            return
        transfer.sender.reoffer(self._session.clock.monotonic())
        self._say_offer(transfer)

    def _say_offer(self, transfer: _Transfer) -> None:
        transfer.offered_at = self._session.clock.monotonic()
        if transfer.offer is not None:
            self._session.tell(transfer.key[0], transfer.offer)

    def _end(self, transfer: _Transfer, error: ArgosyError | None, *, tell: bool = False) -> None:
        peer, digest = transfer.key
        if self._transfers.get(transfer.key) is not transfer:
            return
        del self._transfers[transfer.key]
        self._ready.pop(transfer.key, None)
        self._per_peer[peer] -= 1
        if transfer.sender is not None:
            transfer.sender.end()
        if transfer.source is not None:
            self._release(digest, transfer.source)
        if tell and error is not None:
            self._session.tell_failed(peer, digest, error)
        seconds = self._session.clock.monotonic() - transfer.began
        ref = transfer.ref or BlobRef(digest, 0)
        log.debug("blobs.sent", peer=peer, digest=ref.hex, bytes=transfer.wire_bytes, seconds=seconds, error=error)
        self._session.settle(transfer.waiters, TransferOutcome(ref, error, transfer.wire_bytes, seconds))

    def _release(self, digest: bytes, source: Source) -> None:
        with self._session.lock:
            if source.release() and self._sources.get(digest) is source:
                del self._sources[digest]

    def _path(self, peer: str) -> Path:
        return self._paths.setdefault(peer, Path(self._budget))

    # --- the chunks

    def _pump(self, turns: int = _TURNS) -> None:
        """Let transfers that are ready send what their windows allow, in turn."""
        for _ in range(min(turns, len(self._ready))):
            key, _nothing = self._ready.popitem(last=False)
            transfer = self._transfers.get(key)
            if transfer is None or transfer.sender is None or key[0] in self._session.down:
                continue
            self._send_chunks(transfer, transfer.sender)
            if transfer.sender.starving and key in self._transfers:
                self._ready[key] = None

    def _send_chunks(self, transfer: _Transfer, sender: Sender) -> None:
        peer, digest = transfer.key
        now = self._session.clock.monotonic()
        while (chunk := sender.next_chunk(now)) is not None:
            try:
                payload = transfer.source.read(sender.layout, chunk.index) if transfer.source is not None else b""
            except StorageFailed as error:
                self._end(transfer, error, tell=True)
                return
            offset = chunk.index * sender.layout.chunk
            frame = pack_frame(digest, offset, payload, ack_now=chunk.ack_now)
            if not self._session.post_chunk(peer, transfer.sink, frame):
                sender.not_sent(chunk.index)
                return
            transfer.wire_bytes += len(frame)
