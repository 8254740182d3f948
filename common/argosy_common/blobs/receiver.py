"""The receiving half of one transfer, as a pure state machine: values and `now` in, actions out.

It tells by a bitmap what it has (`Accept`), takes chunks in any order, acknowledges when the sender asks for it, when
a chunk is out of order or came twice, and after the last; then it has the whole checked. A blob that does not match
its digest is thrown away and fetched once again, then given up.

Where a second way is at hand (`downloads.py`) it brings the chunks instead, and the sender hears nothing until all are
here or the way turns back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from argosy_common.blobs.bitmap import Bitmap
from argosy_common.blobs.frames import Layout
from argosy_common.blobs.pacing import Silence

ACK_BITMAP = 4096
"""The bytes that `ChunkAck.more` may have."""


SMALL = 4
"""Chunks of a blob whose last chunk is not acknowledged by itself."""


class ReceiverState(Enum):
    """Where a receiver stands."""

    ASKED = auto()
    """We asked for the blob, or it was offered and its file is not open yet."""
    DOWNLOADING = auto()
    """The chunks come by a second way, and nothing is asked of the sender."""
    RECEIVING = auto()
    CHECKING = auto()
    """All chunks are here; hash, sync and rename are under way."""
    ENDED = auto()


class ReceiverEvent(Enum):
    """What moves a receiver on."""

    OFFERED = auto()
    DIVERTED = auto()
    """It was offered, and a second way takes it."""
    TURNED_BACK = auto()
    """The second way leaves the rest to the sender."""
    WHOLE = auto()
    MISMATCHED = auto()
    ENDED = auto()


_S, _E = ReceiverState, ReceiverEvent
RECEIVER_TRANSITIONS: dict[tuple[ReceiverState, ReceiverEvent], ReceiverState] = {
    (_S.ASKED, _E.OFFERED): _S.RECEIVING,
    (_S.ASKED, _E.DIVERTED): _S.DOWNLOADING,
    (_S.DOWNLOADING, _E.TURNED_BACK): _S.RECEIVING,
    (_S.DOWNLOADING, _E.WHOLE): _S.CHECKING,
    (_S.RECEIVING, _E.WHOLE): _S.CHECKING,
    (_S.CHECKING, _E.MISMATCHED): _S.RECEIVING,
    (_S.ASKED, _E.ENDED): _S.ENDED,
    (_S.DOWNLOADING, _E.ENDED): _S.ENDED,
    (_S.RECEIVING, _E.ENDED): _S.ENDED,
    (_S.CHECKING, _E.ENDED): _S.ENDED,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the peer to offer the blob."""


@dataclass(frozen=True, slots=True)
class SendAccept:
    """Tell the sender what is here."""

    have: bytes


@dataclass(frozen=True, slots=True)
class SendAck:
    """Acknowledge chunks 0 … upto−1, and those of `more`."""

    upto: int
    more: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """Every chunk is here: check the digest, and call `matched` or `mismatched`."""


ReceiverAction = Ask | SendAccept | SendAck | Check


class Receiver:
    """One blob on its way from one peer.

    Attributes:
        state: see `RECEIVER_TRANSITIONS`.
        progress_at: when something new last arrived.
        have: the chunks that are here; None before the offer.
    """

    def __init__(self, now: float) -> None:
        self.state = ReceiverState.ASKED
        self.progress_at = now
        self.have: Bitmap | None = None
        self._mismatches = 0
        self._silence = Silence(now)

    def offered(self, have: Bitmap, now: float) -> ReceiverAction:
        """The offer came and was found good; `have` is what an earlier attempt left."""
        self.have = have
        self.progress_at = now
        self._silence.restart(now)
        self._move(ReceiverEvent.OFFERED)
        return self._accept_or_check(have)

    def diverted(self, have: Bitmap, now: float) -> ReceiverAction | None:
        """The offer came and was found good, and a second way will bring what `have` lacks; None: let it begin."""
        if have.full:
            return self.offered(have, now)
        self.have = have
        self.progress_at = now
        self._move(ReceiverEvent.DIVERTED)
        return None

    def downloaded(self, index: int, now: float) -> ReceiverAction | None:
        """The second way brought a chunk, and it is in the file."""
        if self.have is None or self.state is not ReceiverState.DOWNLOADING:
            return None
        if self.have.add(index):
            self.progress_at = now
        if not self.have.full:
            return None
        self._move(ReceiverEvent.WHOLE)
        return Check()

    def turned_back(self, now: float) -> ReceiverAction | None:
        """The second way gave up: the sender is asked for what is still missing."""
        if self.have is None or self.state is not ReceiverState.DOWNLOADING:
            return None
        self.progress_at = now
        self._silence.restart(now)
        self._move(ReceiverEvent.TURNED_BACK)
        return SendAccept(self.have.pack())

    def offered_again(self, now: float) -> ReceiverAction | None:
        """The sender wants to know (again) what is here."""
        if self.state is not ReceiverState.RECEIVING:
            return None
        return self.resume(now)

    def lacks(self, index: int) -> bool:
        """Tell whether the chunk is wanted and must be written."""
        return self.state is ReceiverState.RECEIVING and self.have is not None and index not in self.have

    def arrived(self, index: int, now: float, *, ack_now: bool) -> tuple[ReceiverAction, ...]:
        """The chunk is in the file (or was there already)."""
        have = self.have
        if have is None or self.state is not ReceiverState.RECEIVING:
            return ()
        in_order = index == have.upto
        if have.add(index):
            self.progress_at = now
            self._silence.heard(now)
        if have.full:
            self._move(ReceiverEvent.WHOLE)
            # a small blob is checked and synced in a moment: its `Done` says all that an acknowledgement would
            return (Check(),) if have.upto <= SMALL else (SendAck(have.upto, b""), Check())
        if ack_now or not in_order:
            return (SendAck(have.upto, have.pack_above(ACK_BITMAP)),)
        return ()

    def mismatched(self, layout: Layout, now: float) -> ReceiverAction | None:
        """The digest is wrong: all is thrown away and asked for once again; None: it was the second time, give up."""
        self._mismatches += 1
        if self._mismatches > 1:
            return None
        self.have = Bitmap(layout.count)
        self._silence.restart(now)
        self._move(ReceiverEvent.MISMATCHED)
        return SendAccept(b"")

    def silent(self, now: float) -> ReceiverAction | None:
        """Return what to say again when nothing new came for too long."""
        if self.state not in (ReceiverState.ASKED, ReceiverState.RECEIVING) or not self._silence.over(now):
            return None
        return self._say_again()

    def resume(self, now: float) -> ReceiverAction | None:
        """Return what to say again when the connection is new."""
        self._silence.restart(now)
        return self._say_again()

    def wait(self, now: float) -> None:
        """The connection is new and the sender will speak first."""
        self._silence.restart(now)

    def end(self) -> None:
        """It is stored, or it failed."""
        if self.state is not ReceiverState.ENDED:
            self._move(ReceiverEvent.ENDED)

    def _say_again(self) -> ReceiverAction | None:
        if self.state is ReceiverState.ASKED:
            return Ask()
        if self.state is ReceiverState.RECEIVING and self.have is not None:
            return SendAccept(self.have.pack())
        return None

    def _accept_or_check(self, have: Bitmap) -> ReceiverAction:
        if not have.full:
            return SendAccept(have.pack())
        self._move(ReceiverEvent.WHOLE)
        return Check()

    def _move(self, event: ReceiverEvent) -> None:
        self.state = RECEIVER_TRANSITIONS[self.state, event]
