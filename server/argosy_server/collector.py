"""A reply is an answer once its blobs are here: waiting for them, each side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable

from argosy_common.blobs import BlobRef
from argosy_common.blobs.exchange import BlobExchange, TransferOutcome
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, error_from_wire
from argosy_common.wire.bodies import Reply
from argosy_server.instruction import Answered, Pending
from argosy_server.store import InstructionState


class Collector:
    """Waits for the blobs of one reply, which its device offers beside it or is asked for; then hands the reply on."""

    def __init__(
        self,
        entry: Pending,
        reply: Reply,
        missing: list[BlobRef],
        size: int,
        *,
        exchange: BlobExchange,
        clock: Clock,
        done: Callable[[Answered], None],
    ) -> None:
        """Collect `missing`, blobs of `reply`, whose own envelope body has `size` bytes; tell `done` once, whatever."""
        self._exchange = exchange
        self._clock = clock
        self._done = done
        self._entry = entry
        self._reply = reply
        self._missing = missing
        self._left = len(missing)
        self._began = clock.monotonic()
        self._bytes = size
        self._failure: ArgosyError | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Fetch all side by side; without any, hand on at once."""
        if not self._missing:
            self._hand_on()
        for ref in self._missing:
            self._exchange.fetch(self._entry.out.device, ref, self._fetched)

    def _fetched(self, outcome: TransferOutcome) -> None:
        with self._lock:
            self._left -= 1
            self._bytes += outcome.wire_bytes
            self._failure = self._failure or outcome.error
            last = self._left == 0
        if last:
            self._hand_on()

    def _hand_on(self) -> None:
        reported = error_from_wire(self._reply.error.model_dump()) if self._reply.error else None
        error = self._failure or reported
        self._done(
            Answered(
                entry=self._entry,
                reply=self._reply,
                error=error,
                state=InstructionState.FAILED if error else InstructionState.REPLIED,
                bytes_up=self._bytes,
                upload_s=self._clock.monotonic() - self._began,
                fetched=tuple(ref.digest for ref in self._missing),
            )
        )
