"""Replies on their way, again and again until the coordinator says that it has them and their blobs.

A reply is in the journal before it comes here and never changes: every copy is the same bytes. It is sent at once,
beside the offers of its blobs; the receipt comes when the coordinator has them all.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from argosy_client.gateway import COORDINATOR, Gateway
from argosy_client.instruction import State
from argosy_client.journal import Entry
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.exchange import BlobExchange, TransferOutcome
from argosy_common.clock import Clock
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Reply
from argosy_common.wire.envelope import Envelope

log = get_logger(__name__)

MAX_PAUSE_S = 60.0
"""Between two copies of a reply."""


@dataclass
class _Letter:
    """One reply."""

    id: str
    """Of the instruction it answers."""
    run: int
    round: int | None
    reply: Reply
    envelope: Envelope
    left: int
    """Blobs still to be uploaded."""
    sent_at: float | None = None
    pause_s: float = 0.0
    """How long it may wait for its receipt now; longer at each copy."""
    blobs: tuple[BlobRef, ...] = field(default=())


class Outbox:
    """The replies without a receipt. Safe to use from any thread.

    Args:
        delivered: told of each reply that has its receipt, with the body as it was sent.
        resend_s: seconds without a receipt after which a reply is sent again; twice as long at each further copy, and
            `MAX_PAUSE_S` at most, for a coordinator that is away.
    """

    def __init__(
        self,
        *,
        gateway: Gateway,
        exchange: BlobExchange,
        store: BlobStore,
        clock: Clock,
        resend_s: float,
        delivered: Callable[[str, bytes], None],
    ) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._store = store
        self._clock = clock
        self._resend_s = resend_s
        self._delivered = delivered
        self._letters: dict[str, _Letter] = {}
        self._lock = threading.Lock()

    def post(self, entry: Entry, reply: Reply) -> None:
        """Send a reply and upload its blobs side by side, and keep on until its receipt.

        What was delivered before is sent as it was then; the coordinator asks for the blobs if it lacks them again.
        """
        blobs = tuple(dict.fromkeys(BlobRef(part.digest, part.size) for part in reply.blobs))
        left = 0 if entry.state is State.DELIVERED else len(blobs)
        letter = _Letter(entry.id, entry.run, entry.round, reply, _enclosed(entry, reply), left, blobs=blobs)
        with self._lock:
            if entry.id in self._letters:
                return
            self._letters[entry.id] = letter
        for ref in blobs:
            self._store.pin(ref.digest)
        if left:
            for ref in blobs:
                self._exchange.send(COORDINATOR, ref, lambda outcome: self._uploaded(letter, outcome))
        self._send(letter)

    def repeat(self, message: str) -> bool:
        """Send a reply again that is here; False if there is none of that id."""
        with self._lock:
            letter = self._letters.get(message)
        if letter is not None:
            self._send(letter)
        return letter is not None

    def received(self, message: str) -> None:
        """The coordinator has the reply: forget it."""
        letter = self._drop(message)
        if letter is not None:
            self._delivered(message, letter.envelope.body)

    def refused(self, envelope_id: str) -> bool:
        """The coordinator cannot read the reply in that envelope, so no copy of it helps: give it up."""
        with self._lock:
            letters = list(self._letters.values())
        for letter in letters:
            if letter.envelope.id == envelope_id:
                log.error("outbox.reply_refused", message=letter.id)
                self.received(letter.id)
                return True
        return False

    def cancel(self, message: str) -> None:
        """Stop sending a reply that nobody wants any more."""
        letter = self._drop(message)
        if letter is not None and letter.left:
            for ref in letter.blobs:
                self._exchange.cancel(COORDINATOR, ref.digest)

    def serves(self, digest: bytes) -> bool:
        """Tell whether the blob belongs to a reply without a receipt."""
        with self._lock:
            return any(digest == ref.digest for letter in self._letters.values() for ref in letter.blobs)

    @property
    def uploading(self) -> bool:
        """Tell whether blobs are on their way up."""
        return any(letter.left for letter in self._all())

    def link_up(self) -> None:
        """The link or the coordinator is back: what was sent before may be lost, so send it all."""
        for letter in self._all():
            letter.pause_s = 0.0
            self._send(letter)

    def tick(self) -> None:
        """Send again what has waited too long for its receipt. Called about once a second."""
        now = self._clock.monotonic()
        for letter in self._all():
            if letter.sent_at is None or now - letter.sent_at >= letter.pause_s:
                self._send(letter)

    # --- inside --------------------------------------------------------------------------------------------------

    def _all(self) -> list[_Letter]:
        with self._lock:
            return list(self._letters.values())

    def _uploaded(self, letter: _Letter, outcome: TransferOutcome) -> None:
        """One blob is over. If it failed, the coordinator asks for it again or gives the reply up."""
        if outcome.error is not None:
            log.warning("outbox.upload_failed", message=letter.id, code=outcome.error.code, why=outcome.error.message)
        with self._lock:
            letter.left -= 1

    def _send(self, letter: _Letter) -> None:
        if self._gateway.post_event(letter.envelope, Reply):
            letter.sent_at = self._clock.monotonic()
            letter.pause_s = max(self._resend_s, min(2 * letter.pause_s, MAX_PAUSE_S))

    def _drop(self, message: str) -> _Letter | None:
        with self._lock:
            letter = self._letters.pop(message, None)
        if letter is not None:
            for ref in letter.blobs:
                self._store.unpin(ref.digest)
        return letter


def _enclosed(entry: Entry, reply: Reply) -> Envelope:
    """Return the envelope of a reply; its id follows from the instruction's, so that every copy is the same bytes."""
    return Envelope(
        kind=reply.kind,
        body=reply.pack(),
        id=hashlib.sha256(f"reply to {entry.id}".encode()).hexdigest()[:32],
        run=entry.run,
        round=entry.round,
        reply_to=entry.id,
    )
