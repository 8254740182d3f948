"""How much may be under way to one peer, and when silence means loss. Values and `now` in, values out."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_WINDOW = 1024 * 1024
"""Bytes under way to one peer at most: it bounds the delay of heartbeats and the memory of broker and link."""
QUEUEING_S = 0.2
"""What a transfer may add to the delay of everything else on the connection."""
MAX_BASE_RTT_S = 1.0
SILENCE_S = 6.0
MAX_SILENCE_S = 120.0
SOON_S = 2.0

_WEIGHT = 0.25


@dataclass
class Budget:
    """Bytes under way to all peers together, so that a thousand fetches at once do not fill the memory."""

    limit: int = 16 * MAX_WINDOW
    used: int = 0


@dataclass
class Path:
    """What is known of the way to one peer. All transfers to that peer share it.

    Attributes:
        goodput: acknowledged bytes a second, smoothed; None before the first measurement.
        base_rtt: the shortest time in which an offer was accepted, seconds: what the way takes when nothing queues.
        in_flight: bytes sent and neither acknowledged nor given up.
    """

    budget: Budget = field(default_factory=Budget)
    goodput: float | None = None
    base_rtt: float = MAX_BASE_RTT_S
    in_flight: int = 0

    @property
    def window(self) -> float:
        """Bytes that may be under way: what the way carries in its own round trip and 0.2 s of queueing."""
        if self.goodput is None:
            return 0.0
        return min(self.goodput * (QUEUEING_S + self.base_rtt), MAX_WINDOW)

    def may_send(self, length: int) -> bool:
        """Tell whether `length` more bytes fit; one chunk always does when nothing is under way."""
        if self.budget.used + length > self.budget.limit:
            return False
        return self.in_flight == 0 or self.in_flight + length <= self.window

    def sent(self, length: int) -> None:
        """Count bytes that were sent."""
        self.in_flight += length
        self.budget.used += length

    def settled(self, length: int) -> None:
        """Take back bytes that were acknowledged or given up."""
        self.in_flight -= length
        self.budget.used -= length

    def measured(self, rate: float) -> None:
        """Learn from one acknowledged chunk; `rate` in bytes a second."""
        self.goodput = rate if self.goodput is None else self.goodput + _WEIGHT * (rate - self.goodput)

    def answered(self, seconds: float) -> None:
        """Learn from an offer that was accepted after `seconds`."""
        self.base_rtt = min(self.base_rtt, max(0.0, seconds))


class Silence:
    """Judges a silence: 6 s, or 4× the longest gap that was met, doubled at each silence in a row.

    The gap keeps a slow link from being taken for a dead one, where each repetition would make it slower still.
    """

    def __init__(self, now: float) -> None:
        self._began = self._since = now
        self._gap = 0.0
        self._row = 0

    def heard(self, now: float) -> None:
        """Something arrived."""
        self._gap = max(self._gap, now - self._began)
        self._row = 0
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin to wait at `now`, learning nothing: something was sent, or the connection is new."""
        self._began = self._since = now

    def hurry(self, now: float) -> None:
        """The other end is expected to speak within 2 s."""
        self._began, self._since = now, now - self._patience + SOON_S

    def over(self, now: float) -> bool:
        """Tell whether it has lasted too long; if so another begins, with more patience."""
        if now - self._since < self._patience:
            return False
        self._row = min(self._row + 1, 8)
        self._since = now
        return True

    @property
    def _patience(self) -> float:
        return min(max(SILENCE_S, 4 * self._gap) * 2.0**self._row, MAX_SILENCE_S)
