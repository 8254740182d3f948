"""The transfers in which we receive: those we asked for (`fetch`), and those a peer offered and was allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from argosy_common.blobs.bitmap import Bitmap
from argosy_common.blobs.downloads import MQTT, Way
from argosy_common.blobs.frames import HEADER, Frame, Layout
from argosy_common.blobs.partial import CHECKPOINT_BYTES, Partial
from argosy_common.blobs.receiver import (
    Ask,
    Check,
    Receiver,
    ReceiverAction,
    ReceiverState,
    SendAccept,
    SendAck,
)
from argosy_common.blobs.session import (
    MAX_PER_PEER,
    DoneCallback,
    Key,
    Session,
    TransferOutcome,
    told_error,
)
from argosy_common.blobs.store import BlobRef
from argosy_common.errors import (
    ArgosyError,
    BlobCorrupt,
    DiskFull,
    TransferCancelled,
    TransferRefused,
)
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Accept, ChunkAck, Done, Fetch, Offer, TransferFailed

log = get_logger(__name__)

_CHECKPOINT_S = 2.0


@dataclass
class _Transfer:
    """One blob on its way in. `partial` is None until the worker has taken the offer and opened the file."""

    key: Key
    ref: BlobRef
    began: float
    asked: bool
    """Whether we asked for it; who began drives it on after a reconnect."""
    receiver: Receiver
    waiters: list[DoneCallback] = field(default_factory=list)
    partial: Partial | None = None
    opening: bool = False
    saving: bool = False
    saved_at: float = 0.0
    wire_bytes: int = 0
    via: set[str] = field(default_factory=set)
    download: _Download | None = None
    """Set while a second way is at it."""


class _Download:
    """See `downloads.Download`."""

    def __init__(self, incoming: Incoming, transfer: _Transfer, offer: Offer) -> None:
        self.ref = transfer.ref
        self.layout = Layout(offer.size, offer.chunk)
        self.urls = tuple(offer.urls)
        self._incoming = incoming
        self._transfer = transfer

    def gaps(self) -> list[tuple[int, int]]:
        """See `downloads.Download.gaps`."""
        return self._incoming.gaps(self._transfer, self)

    def take(self, index: int, payload: memoryview) -> bool:
        """See `downloads.Download.take`."""
        return self._incoming.downloaded(self._transfer, self, index, payload)

    def spent(self, count: int) -> None:
        """See `downloads.Download.spent`."""
        self._incoming.spent(self._transfer, count)

    def turn_back(self) -> None:
        """See `downloads.Download.turn_back`."""
        self._incoming.turned_back(self._transfer, self)


class Incoming:
    """All transfers of one exchange in which we receive."""

    def __init__(
        self,
        session: Session,
        sink: str,
        allow_upload: Callable[[str, Offer], ArgosyError | None],
        way: Way | None = None,
    ) -> None:
        self._session = session
        self._sink = sink
        self._allow_upload = allow_upload
        self._way = way
        self._transfers: dict[Key, _Transfer] = {}
        self._per_peer: Counter[str] = Counter()

    # --- how a transfer begins

    def fetch(self, peer: str, ref: BlobRef, done: DoneCallback) -> None:
        """Get a blob from `peer`, or join a transfer under way, or be done at once if it is here."""
        session = self._session
        with session.lock:
            transfer = self._transfers.get((peer, ref.digest))
            if transfer is not None:
                transfer.waiters.append(done)
                return
            if session.store.has(ref.digest):
                session.settle([done], TransferOutcome(ref, None, 0, 0.0))
                return
            transfer = self._begin((peer, ref.digest), ref, asked=True)
            transfer.waiters.append(done)
            session.tell(peer, Fetch(digest=ref.digest))

    def offered(self, peer: str, offer: Offer) -> None:
        """A peer offers what we asked for, or wants to push a blob."""
        session = self._session
        with session.lock:
            transfer = self._transfers.get((peer, offer.digest))
            if transfer is None:
                if self._per_peer[peer] >= MAX_PER_PEER:
                    self._refuse(peer, offer, "too many transfers at once")
                    return
                transfer = self._begin((peer, offer.digest), BlobRef(offer.digest, offer.size), asked=False)
            if transfer.receiver.state is not ReceiverState.ASKED:
                self._do(transfer, transfer.receiver.offered_again(session.clock.monotonic()))
            elif not transfer.opening:
                transfer.opening = True
                session.on_worker(lambda: self._open(transfer, offer))

    def _begin(self, key: Key, ref: BlobRef, *, asked: bool) -> _Transfer:
        now = self._session.clock.monotonic()
        transfer = _Transfer(key, ref, now, asked, Receiver(now), saved_at=now)
        self._transfers[key] = transfer
        self._per_peer[key[0]] += 1
        return transfer

    def _refuse(self, peer: str, offer: Offer, why: str) -> None:
        error = TransferRefused(peer="this end", digest=offer.digest.hex(), why=why)
        self._session.tell_failed(peer, offer.digest, error)

    def _open(self, transfer: _Transfer, offer: Offer) -> None:
        """On the worker: judge the offer, open the file, accept."""
        peer, digest = transfer.key
        session = self._session
        partial = None
        try:
            if not session.store.has(digest):
                self._judge(transfer, offer)
                partial = Partial(session.store, peer, transfer.ref, Layout(offer.size, offer.chunk))
        except ArgosyError as error:
            with session.lock:
                self._end(transfer, error, tell=True)
            return
        with session.lock:
            if self._transfers.get(transfer.key) is not transfer:  # cancelled meanwhile
                if partial is not None:
                    partial.close()
                return
            transfer.opening = False
            if partial is None:  # it came another way
                self._stored(transfer)
                return
            transfer.partial = partial
            if self._way is not None and transfer.asked and self._way.takes(offer):
                self._divert(self._way, transfer, offer, partial.saved)
            else:
                self._do(transfer, transfer.receiver.offered(partial.saved, session.clock.monotonic()))

    def _divert(self, way: Way, transfer: _Transfer, offer: Offer, have: Bitmap) -> None:
        """Have the second way bring what is missing. With the lock held."""
        self._do(transfer, transfer.receiver.diverted(have, self._session.clock.monotonic()))
        if transfer.receiver.state is ReceiverState.DOWNLOADING:
            transfer.download = _Download(self, transfer, offer)
            way.start(transfer.download)

    def _judge(self, transfer: _Transfer, offer: Offer) -> None:
        """Raise why this offer cannot be taken."""
        peer, digest = transfer.key
        if not Layout(offer.size, offer.chunk).transferable:
            raise TransferRefused(peer="this end", digest=digest.hex(), why="it has too many chunks")
        if transfer.asked and offer.size != transfer.ref.size:
            raise BlobCorrupt(digest=digest.hex(), peer=peer)
        if not transfer.asked and (refusal := self._allow_upload(peer, offer)) is not None:
            raise refusal

    # --- what the sender says

    def chunk(self, peer: str, frame: Frame) -> bool:
        """Take one chunk; the hot path. Chunks of no transfer of ours are dropped; return whether it was of one."""
        session = self._session
        with session.lock:
            transfer = self._transfers.get((peer, frame.digest))
            if transfer is None or transfer.partial is None:
                return False
            receiver, partial = transfer.receiver, transfer.partial
            length = frame.payload.nbytes
            index = partial.layout.index_of(frame.offset, length, peer=peer)
            transfer.wire_bytes += HEADER.size + length
            if receiver.lacks(index) and not self._write(transfer, partial, index, frame.payload, MQTT):
                return True
            for action in receiver.arrived(index, session.clock.monotonic(), ack_now=frame.ack_now):
                self._do(transfer, action)
            if partial.unsaved >= CHECKPOINT_BYTES:
                self._checkpoint(transfer)
            return True

    def _write(self, transfer: _Transfer, partial: Partial, index: int, payload: memoryview, via: str) -> bool:
        """Put a chunk into the file; False if that failed, and ended the transfer. With the lock held."""
        transfer.via.add(via)
        try:
            partial.write(index, payload)
        except ArgosyError as error:
            self._end(transfer, error, tell=True)
            return False
        return True

    def failed(self, peer: str, body: TransferFailed) -> None:
        """The sender does not have it, or gave up; a second way finds out for itself, and asks again if it must."""
        with self._session.lock:
            transfer = self._transfers.get((peer, body.digest))
            if transfer is not None and transfer.receiver.state in (ReceiverState.ASKED, ReceiverState.RECEIVING):
                self._end(transfer, told_error(peer, body))

    # --- what a second way says, on its own thread

    def gaps(self, transfer: _Transfer, download: _Download) -> list[tuple[int, int]]:
        """See `Download.gaps`."""
        with self._session.lock:
            have = transfer.receiver.have
            return have.gaps() if have is not None and transfer.download is download else []

    def downloaded(self, transfer: _Transfer, download: _Download, index: int, payload: memoryview) -> bool:
        """See `Download.take`."""
        with self._session.lock:
            partial, receiver, way = transfer.partial, transfer.receiver, self._way
            if partial is None or way is None or transfer.download is not download:
                return False
            transfer.wire_bytes += payload.nbytes
            if not self._write(transfer, partial, index, payload, way.name):
                return False
            action = receiver.downloaded(index, self._session.clock.monotonic())
            if receiver.state is not ReceiverState.DOWNLOADING:
                transfer.download = None
            self._do(transfer, action)
            if partial.unsaved >= CHECKPOINT_BYTES:
                self._checkpoint(transfer)
            return transfer.download is download

    def spent(self, transfer: _Transfer, count: int) -> None:
        """See `Download.spent`."""
        with self._session.lock:
            transfer.wire_bytes += count

    def turned_back(self, transfer: _Transfer, download: _Download) -> None:
        """See `Download.turn_back`."""
        with self._session.lock:
            if transfer.download is download:
                transfer.download = None
                self._do(transfer, transfer.receiver.turned_back(self._session.clock.monotonic()))

    def _do(self, transfer: _Transfer, action: ReceiverAction | None) -> None:
        peer, digest = transfer.key
        session = self._session
        match action:
            case SendAck(upto, more):
                session.tell(peer, ChunkAck(digest=digest, upto=upto, more=more))
            case SendAccept(have):
                session.tell(peer, Accept(digest=digest, sink=self._sink, have=have))
            case Ask():
                session.tell(peer, Fetch(digest=digest))
            case Check():
                session.on_worker(lambda: self._check(transfer))
            case None:
                pass

    # --- the end of a transfer, on the worker

    def _check(self, transfer: _Transfer) -> None:
        """Hash, sync, rename; or throw away and ask once again."""
        partial = transfer.partial
        session = self._session
        peer, digest = transfer.key
        if partial is None or self._transfers.get(transfer.key) is not transfer:
            return
        try:
            matches = partial.matches()
            if matches:
                partial.commit()
            else:
                log.warning("blobs.mismatch", peer=peer, digest=digest.hex())
                partial.reset()
        except ArgosyError as error:
            with session.lock:
                self._end(transfer, error, tell=True)
            return
        with session.lock:
            if matches:
                self._stored(transfer)
                return
            again = transfer.receiver.mismatched(partial.layout, session.clock.monotonic())
            if again is None:
                self._end(transfer, BlobCorrupt(digest=digest.hex(), peer=peer), tell=True)
            else:
                self._do(transfer, again)

    def _stored(self, transfer: _Transfer) -> None:
        self._session.tell(transfer.key[0], Done(digest=transfer.key[1]))
        self._end(transfer, None)

    def _end(self, transfer: _Transfer, error: ArgosyError | None, *, tell: bool = False) -> None:
        peer, digest = transfer.key
        session = self._session
        if self._transfers.get(transfer.key) is not transfer:
            return
        del self._transfers[transfer.key]
        self._per_peer[peer] -= 1
        transfer.receiver.end()
        if transfer.download is not None and self._way is not None:
            self._way.stop(transfer.download)
            transfer.download = None
        if tell and error is not None:
            session.tell_failed(peer, digest, error)
        if transfer.partial is not None and error is not None:
            useless = isinstance(error, DiskFull | BlobCorrupt)
            session.on_worker(lambda: self._let_go(transfer, discard=useless))
        seconds = session.clock.monotonic() - transfer.began
        via = "+".join(sorted(transfer.via))
        log.debug("blobs.received", peer=peer, digest=digest.hex(), bytes=transfer.wire_bytes, via=via, error=error)
        session.settle(transfer.waiters, TransferOutcome(transfer.ref, error, transfer.wire_bytes, seconds, via))

    def _let_go(self, transfer: _Transfer, *, discard: bool) -> None:
        """On the worker: keep what arrived for a later attempt, or give a full disk its room back."""
        partial, have = transfer.partial, transfer.receiver.have
        if partial is None:
            return
        try:
            if discard:
                partial.discard()
            elif have is not None and partial.unsaved:
                partial.checkpoint(have.pack())
        except ArgosyError as error:
            log.warning("blobs.partial.lost", digest=transfer.ref.hex, why=error.message)
        finally:
            partial.close()

    # --- the connection, time, cancelling

    def up(self, peer: str) -> None:
        """The connection is new. Who began a transfer speaks first."""
        now = self._session.clock.monotonic()
        with self._session.lock:
            for (whose, _), transfer in list(self._transfers.items()):
                if whose == peer and transfer.asked:
                    self._do(transfer, transfer.receiver.resume(now))
                elif whose == peer:
                    transfer.receiver.wait(now)

    def tick(self, now: float) -> None:
        """Ask again after a silence, save what arrived, and end what made no progress."""
        session = self._session
        with session.lock:
            for transfer in list(self._transfers.values()):
                receiver = transfer.receiver
                if transfer.opening or receiver.state is ReceiverState.CHECKING:
                    continue
                diverted = receiver.state is ReceiverState.DOWNLOADING  # that way has bounds of its own
                if not diverted and now - receiver.progress_at >= session.timeout_s:
                    self._end(transfer, session.timed_out(transfer.key), tell=True)
                    continue
                if transfer.key[0] not in session.down:
                    self._do(transfer, receiver.silent(now))
                if now - transfer.saved_at >= _CHECKPOINT_S:
                    self._checkpoint(transfer)

    def cancel(self, peer: str, digest: bytes) -> None:
        """End a transfer from our side."""
        with self._session.lock:
            transfer = self._transfers.get((peer, digest))
            if transfer is not None:
                self._end(transfer, TransferCancelled(digest=digest.hex(), peer=peer), tell=True)

    def close(self) -> None:
        """End all transfers; what arrived stays for the next start."""
        with self._session.lock:
            for transfer in list(self._transfers.values()):
                peer, digest = transfer.key
                self._end(transfer, TransferCancelled(digest=digest.hex(), peer=peer))

    def _checkpoint(self, transfer: _Transfer) -> None:
        """Have the worker save the bitmap of this moment."""
        partial, have = transfer.partial, transfer.receiver.have
        coming = transfer.receiver.state in (ReceiverState.RECEIVING, ReceiverState.DOWNLOADING)
        if not coming or partial is None or have is None:
            return
        if transfer.saving or not partial.unsaved:
            return
        transfer.saving = True
        packed = have.pack()
        partial.unsaved = 0
        self._session.on_worker(lambda: self._save(transfer, partial, packed))

    def _save(self, transfer: _Transfer, partial: Partial, packed: bytes) -> None:
        try:
            partial.checkpoint(packed)
        except ArgosyError as error:
            with self._session.lock:
                self._end(transfer, error, tell=True)
        finally:
            with self._session.lock:
                transfer.saving = False
                transfer.saved_at = self._session.clock.monotonic()
