"""One question to all holders of a group, asked again of those that were away (specs/secure-aggregation.md, 6).

Everything a holder is asked is idempotent, so that asking twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError
from argosy_common.flower.courier import Courier
from argosy_common.flower.secure import HOLDER, parcels

AGAIN_S = (1.0, 15.0)
"""The first and the longest pause before a holder that was away is asked again."""

_AWAY = frozenset({"device-lost", "instruction-expired", "reply-timed-out", "worker-died", "worker-timed-out"})
"""Errors after which a holder may well answer the next time."""

Accept = Callable[[int, RecordDict], None]
"""Takes the content of a holder's answer in, by the holder's index; raises a named error where it does not hold."""


@dataclass
class _Absence:
    """A holder that did not answer though it might."""

    error: ArgosyError
    again_at: float
    pause: float


@dataclass
class Question:
    """See the module.

    Attributes:
        stage: what is asked.
        nodes: of the holders, by index.
        request: returns what one holder is sent.
        accept: see `Accept`.
        until: when nothing is waited for any more, on the monotonic clock.
        number: Flower's round.
        refused: holders that answered with an error that asking again does not mend, or whose answer did not hold.
    """

    stage: str
    nodes: Sequence[int]
    request: Callable[[int], RecordDict]
    accept: Accept
    until: float
    number: int | None
    courier: Courier
    clock: Clock
    refused: dict[int, ArgosyError] = field(default_factory=dict)
    _waiting: dict[str, int] = field(default_factory=dict)
    _away: dict[int, _Absence] = field(default_factory=dict)
    _ids: list[str] = field(default_factory=list)
    _pauses: dict[int, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Ask everybody."""
        self._send(range(len(self.nodes)))

    @property
    def waiting(self) -> list[str]:
        """The ids of messages that are not answered yet."""
        return list(self._waiting)

    @property
    def settled(self) -> bool:
        """Whether nobody is left who could still answer."""
        return not self._waiting and not self._away

    def due(self) -> float:
        """Return when to look again at the latest, on the monotonic clock."""
        return min([self.until, *(absence.again_at for absence in self._away.values())])

    def advance(self) -> dict[int, ArgosyError]:
        """Take in what is here, and ask those again who are back; return who refused since the last time."""
        news: dict[int, ArgosyError] = {}
        for reply in self.courier.take(self.waiting, self._accept):
            holder = self._waiting.pop(reply.metadata.reply_to_message_id)
            if not reply.has_error():
                continue
            error = parcels.error_of(reply)
            if error.code in _AWAY:
                pause = self._pauses.get(holder, AGAIN_S[0])
                self._pauses[holder] = min(2 * pause, AGAIN_S[1])
                self._away[holder] = _Absence(error, self.clock.monotonic() + pause, pause)
            else:
                self.refused[holder] = news[holder] = error
        self._ask_again()
        return news

    def end(self) -> tuple[int, int]:
        """Wait for no more answers; return the bytes that went down and up."""
        return self.courier.end(self._ids)

    def causes(self) -> dict[int, ArgosyError | None]:
        """Return why each holder that has not answered has not: None for one that is silent."""
        away = {holder: absence.error for holder, absence in self._away.items()}
        return {**dict.fromkeys(self._waiting.values()), **away, **self.refused}

    def _accept(self, reply: Message) -> Message:
        reply = parcels.accept(reply)
        self.accept(self._waiting[reply.metadata.reply_to_message_id], reply.content)
        return reply

    def _ask_again(self) -> None:
        now = self.clock.monotonic()
        due = [holder for holder, absence in self._away.items() if absence.again_at <= now]
        if not due or now >= self.until:
            return
        online = self.courier.nodes()
        back = [holder for holder in due if self.nodes[holder] in online]
        for holder in due:
            if holder in back:
                del self._away[holder]
            else:  # no message for one that is not there; only a look, as often
                self._away[holder].again_at = now + AGAIN_S[0]
        self._send(back)

    def _send(self, holders: Sequence[int]) -> None:
        if not holders:
            return
        left = max(self.until - self.clock.monotonic(), 1.0)
        group = "" if self.number is None else str(self.number)
        messages = [Message(self.request(j), self.nodes[j], HOLDER, ttl=left, group_id=group) for j in holders]
        ids = self.courier.push(messages, timeout=left)
        self._ids += ids
        self._waiting.update(zip(ids, holders, strict=True))
