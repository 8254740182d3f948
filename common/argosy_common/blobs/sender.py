"""The sending half of one transfer, as a pure state machine: values and `now` in, actions out.

It offers, sends what the receiver's bitmap lacks within the window, and is finished only by the receiver's `Done`.
Every few chunks, half a window apart, carry the flag "acknowledge now": the sender knows its window, the receiver
does not, and so two acknowledgements a window are enough. Way and broker keep the order, so a chunk that is passed
by a later one in the acknowledgements is lost and goes again at once. After a silence (`pacing.Silence`) it offers
again, and the receiver's answer tells what is still missing: nothing is repeated that a slow way still carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from argosy_common.blobs.bitmap import Bitmap, indices
from argosy_common.blobs.frames import Layout
from argosy_common.blobs.pacing import Path, Silence


class SenderState(Enum):
    """Where a sender stands."""

    OFFERED = auto()
    SENDING = auto()
    DELIVERED = auto()
    """All chunks are acknowledged; the receiver checks and syncs them."""
    ENDED = auto()


class SenderEvent(Enum):
    """What moves a sender on."""

    ACCEPTED = auto()
    ALL_ACKED = auto()
    REOFFERED = auto()
    ENDED = auto()


_S, _E = SenderState, SenderEvent
SENDER_TRANSITIONS: dict[tuple[SenderState, SenderEvent], SenderState] = {
    (_S.OFFERED, _E.ACCEPTED): _S.SENDING,
    (_S.SENDING, _E.ACCEPTED): _S.SENDING,
    (_S.DELIVERED, _E.ACCEPTED): _S.SENDING,
    (_S.SENDING, _E.ALL_ACKED): _S.DELIVERED,
    (_S.OFFERED, _E.REOFFERED): _S.OFFERED,
    (_S.SENDING, _E.REOFFERED): _S.OFFERED,
    (_S.DELIVERED, _E.REOFFERED): _S.OFFERED,
    (_S.OFFERED, _E.ENDED): _S.ENDED,
    (_S.SENDING, _E.ENDED): _S.ENDED,
    (_S.DELIVERED, _E.ENDED): _S.ENDED,
}


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Send chunk `index`."""

    index: int
    ack_now: bool


@dataclass(slots=True)
class _Flight:
    """A chunk under way: its place in the order of sending, when it left, how many were acknowledged by then."""

    order: int
    sent_at: float
    acked: int


class Sender:
    """One blob on its way to one peer.

    Attributes:
        state: see `SENDER_TRANSITIONS`.
        progress_at: when the receiver last took something.
    """

    def __init__(self, layout: Layout, path: Path, now: float) -> None:
        self.layout = layout
        self.state = SenderState.OFFERED
        self.progress_at = now
        self._path = path
        self._acked = Bitmap(layout.count)
        self._flight: dict[int, _Flight] = {}
        self._order = 0
        self._cursor = 0
        self._unflagged = 0
        self._offered_at: float | None = now
        self._silence = Silence(now)

    def accepted(self, have: bytes, now: float) -> None:
        """The receiver tells what it has; what it lacks goes (again), whatever we believed.

        Raises:
            ValueError: the bitmap names chunks that do not exist; nothing changed.
        """
        if self.state is SenderState.ENDED:
            return
        acked = Bitmap.load(self.layout.count, have)
        if self._offered_at is not None:
            self._path.answered(now - self._offered_at)
            self._offered_at = None
        self._forget_flight()
        self._acked = acked
        self._cursor = acked.upto
        self._silence.heard(now)
        self.progress_at = now
        self._move(SenderEvent.ACCEPTED)
        self._check_all_acked()

    def acknowledged(self, upto: int, more: bytes, now: float) -> None:
        """The receiver has chunks 0 … upto−1, and those of the bitmap `more`, whose bit 0 is chunk `upto`.

        Chunks that do not exist are ignored: the receiver could only fool itself.
        """
        if self.state is not SenderState.SENDING:
            return
        newest: _Flight | None = None
        for index in [*range(self._acked.upto, min(upto, self.layout.count)), *indices(more, upto)]:
            if index < self.layout.count and self._acked.add(index):
                self.progress_at = now
                flight = self._settle(index)
                if flight is not None and (newest is None or flight.order > newest.order):
                    newest = flight
        if newest is not None:
            self._measure(newest, now)
            self._give_up_passed(newest)
            self._silence.heard(now)
        self._check_all_acked()

    def next_chunk(self, now: float) -> SendChunk | None:
        """Return the next chunk to send, counted as sent; None when nothing is left or the window is full."""
        if self.state is not SenderState.SENDING:
            return None
        self._skip()
        if self._cursor >= self.layout.count:
            return None
        index = self._cursor
        length = self.layout.length(index)
        if not self._path.may_send(length):
            return None
        if not self._flight:
            self._silence.restart(now)
        self._path.sent(length)
        self._order += 1
        self._flight[index] = _Flight(self._order, now, self._acked.count)
        self._unflagged += length
        half = self._unflagged * 2 >= self._path.window - length
        ack_now = half or self._is_last() or not self._path.may_send(length)
        if ack_now:
            self._unflagged = 0
        return SendChunk(index, ack_now)

    def not_sent(self, index: int) -> None:
        """The link did not take the chunk."""
        if self._settle(index) is not None:
            self._cursor = min(self._cursor, index)

    def silent(self, now: float) -> bool:
        """Tell whether the receiver has been silent too long. If so the blob must be offered again."""
        waits = self._flight or self.state in (SenderState.OFFERED, SenderState.DELIVERED)
        if not waits or not self._silence.over(now):
            return False
        self._forget_flight()
        self._offered_at = None
        self._move(SenderEvent.REOFFERED)
        return True

    def reoffer(self, now: float) -> None:
        """The connection is new or the receiver begins again: forget what was under way and wait for an `Accept`."""
        self._forget_flight()
        self._silence.restart(now)
        self._offered_at = now
        self._move(SenderEvent.REOFFERED)

    def wait(self, now: float) -> None:
        """The connection is new and the receiver should speak first; if it does not soon, `silent` says so."""
        self._silence.hurry(now)

    def end(self) -> None:
        """`Done` or a failure: nothing is sent any more."""
        self._forget_flight()
        self._move(SenderEvent.ENDED)

    @property
    def starving(self) -> bool:
        """Whether chunks are left and no acknowledgement is due that would wake us."""
        if self.state is not SenderState.SENDING or self._flight:
            return False
        self._skip()
        return self._cursor < self.layout.count

    def _move(self, event: SenderEvent) -> None:
        self.state = SENDER_TRANSITIONS[self.state, event]

    def _skip(self) -> None:
        while self._cursor < self.layout.count and (self._cursor in self._acked or self._cursor in self._flight):
            self._cursor += 1

    def _is_last(self) -> bool:
        self._skip()
        return self._cursor >= self.layout.count

    def _settle(self, index: int) -> _Flight | None:
        flight = self._flight.pop(index, None)
        if flight is not None:
            self._path.settled(self.layout.length(index))
        return flight

    def _forget_flight(self) -> None:
        for index in list(self._flight):
            self._settle(index)
        self._cursor = self._acked.upto
        self._unflagged = 0

    def _measure(self, flight: _Flight, now: float) -> None:
        """Learn the rate at which the way delivered while this chunk was under way."""
        if now > flight.sent_at:
            self._path.measured((self._acked.count - flight.acked) * self.layout.chunk / (now - flight.sent_at))

    def _give_up_passed(self, newest: _Flight) -> None:
        """Give up what left before `newest` and did not arrive with it."""
        for index in [index for index, flight in self._flight.items() if flight.order < newest.order]:
            self._settle(index)
            self._cursor = min(self._cursor, index)

    def _check_all_acked(self) -> None:
        if self._acked.full and self.state is SenderState.SENDING:
            self._move(SenderEvent.ALL_ACKED)
