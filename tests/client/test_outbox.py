"""The outbox: how often a reply without a receipt is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from argosy_client.gateway import Gateway
from argosy_client.instruction import State
from argosy_client.journal import Entry
from argosy_client.outbox import Outbox
from argosy_common.blobs import BlobStore
from argosy_common.blobs.exchange import BlobExchange
from argosy_common.wire.bodies import Body, Reply
from argosy_common.wire.envelope import Envelope

ENTRY = Entry(1, "1" * 32, 7, 1, State.ANSWERED, 1, 60.0, b"", b"")


@dataclass
class HandClock:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Yard(Gateway):
    """An outbox whose gateway only notes when something was sent."""

    folder: Path
    clock: HandClock = field(default_factory=HandClock)
    sent: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = BlobStore(self.folder)
        exchange = BlobExchange(
            store, clock=self.clock, sink="", post=lambda _peer, _body: False, post_chunk=lambda *_chunk: False
        )
        self.outbox = Outbox(
            gateway=self,
            exchange=exchange,
            store=store,
            clock=self.clock,
            resend_s=6.0,
            delivered=lambda _message, _reply: None,
        )

    def post_event(self, envelope: Envelope, kind: type[Body]) -> bool:  # noqa: ARG002  (as the gateway's)
        self.sent.append(self.clock.now)
        return True

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now += 1.0
            self.outbox.tick()


def test_a_reply_that_nobody_takes_is_sent_ever_more_seldom(tmp_path: Path) -> None:
    """A coordinator that is away for days must not find a broker full of copies."""
    yard = Yard(tmp_path)
    yard.outbox.post(ENTRY, Reply())
    yard.wait(24 * 3600)
    gaps = [int(after - before) for before, after in zip(yard.sent, yard.sent[1:], strict=False)]
    assert gaps[:5] == [6, 12, 24, 48, 60]
    assert set(gaps[5:]) == {60}


def test_with_a_new_connection_the_pauses_begin_anew(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.outbox.post(ENTRY, Reply())
    yard.wait(3600)
    yard.sent.clear()
    yard.outbox.link_up()
    yard.wait(20)
    assert yard.sent == [3600.0, 3606.0, 3618.0]
