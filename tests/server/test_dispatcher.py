"""Instructions and answers, with a real store and gateway and no broker: what devices say is handed in."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.errors import StorageFailed
from argosy_common.link import Link, LinkSettings
from argosy_common.wire.bodies import Birth, BlobPart, Death, Offer, Received, Reply
from argosy_common.wire.envelope import Envelope
from argosy_server.dispatcher import Dispatcher
from argosy_server.gateway import Gateway
from argosy_server.instruction import Answer, Outgoing, RunApp
from argosy_server.registry import Registry
from argosy_server.store import Store
from tests.server.store.test_tables import _device
from tests.waiting import until

DEVICE = "00000000000000aa"
MESSAGE = "ab" * 16


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


class Bench:
    """A dispatcher and what is around it."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.store = Store.open(f"sqlite:///{folder / 'argosy.db'}", self.clock)
        self.registry = Registry(clock=self.clock, grace_s=10.0)
        self.blobs = BlobStore(folder / "blobs")
        link = Link(LinkSettings("127.0.0.1", 1, "coordinator", tls=None), clock=self.clock, rng=random.Random(1))
        self.gateway = Gateway(link, self.store, clock=self.clock, sink="c0")
        self.dispatcher = Dispatcher(
            gateway=self.gateway,
            store=self.store,
            blobs=self.blobs,
            registry=self.registry,
            clock=self.clock,
            sink="c0",
            resend_s=6.0,
            grace_s=10.0,
            max_upload=1000,
        )
        self.run = self.store.runs.create(
            app_name="a", app_digest="00", app_size=1, server_app="a:b", client_app="a:b", run_config={}, options={}
        )
        self.answers: list[Answer] = []
        self.dispatcher.listen(self.run, self.answers.append)

    def ask(self, device: str = DEVICE, message: str = MESSAGE) -> None:
        out = Outgoing(message, device, int(device, 16), 1, "train", b"", (), 3600.0)
        self.dispatcher.submit(RunApp(self.run, BlobRef(b"\x01" * 32, 1), "a:b", {}), [out])

    def born(self, *pending: str) -> None:
        body = Birth(
            boot="11" * 16, session=1, name="pi", version="1", python="3", machine="arm", pending=list(pending)
        )
        self.dispatcher._on_birth(DEVICE, Envelope(kind="birth"), body)

    def tick(self, seconds: float) -> None:
        self.clock.now += seconds
        self.registry.tick()
        self.dispatcher.tick()

    def codes(self, count: int) -> list[str | None]:
        until(lambda: len(self.answers) >= count, patience_s=5)
        return [answer.error.code if answer.error else None for answer in self.answers]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.dispatcher.close()
    made.store.close()


def test_a_device_that_was_lost_before_it_was_asked_is_answered_for_at_once(bench: Bench) -> None:
    bench.born()
    bench.registry.died(DEVICE, Death(boot="11" * 16))
    bench.tick(11)
    bench.ask()
    bench.tick(1)
    assert bench.codes(1) == ["device-lost"]


def test_what_a_board_says_of_its_place_is_taken_as_in_the_site_that_it_enrolled_at(bench: Bench) -> None:
    bench.store.devices.add(_device(DEVICE, site="lab"))
    body = Birth(boot="11" * 16, session=1, name="pi", version="1", python="3", machine="arm", site="north", shard="a")
    bench.dispatcher._on_birth(DEVICE, Envelope(kind="birth"), body)
    assert bench.registry.conditions() == {DEVICE: {"site": "lab/north", "shard": "a"}}


def test_a_node_that_nobody_ever_saw_is_answered_for_after_the_grace(bench: Bench) -> None:
    bench.ask("00000000000000bb")
    bench.tick(5)
    assert bench.answers == []
    bench.tick(6)
    assert bench.codes(1) == ["device-lost"]


def test_a_device_that_never_comes_back_to_a_new_broker_is_lost(bench: Bench) -> None:
    bench.born()
    bench.ask()
    bench.dispatcher.link_down()
    bench.dispatcher.link_up()
    bench.tick(60)
    assert bench.registry.online() == [DEVICE]
    bench.tick(31)
    bench.tick(11)
    assert bench.codes(1) == ["device-lost"]


def test_a_device_is_given_its_work_although_the_database_refuses_to_note_its_birth(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.dispatcher.exchange.peer_down(DEVICE)

    def refuse(*_: object, **__: object) -> None:
        raise StorageFailed(path="db", why="read-only")

    monkeypatch.setattr(bench.store.devices, "seen", refuse)
    with pytest.raises(StorageFailed):
        bench.born()
    assert DEVICE not in bench.dispatcher.exchange._session.down


def test_an_answer_that_was_committed_although_the_database_said_it_failed_is_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.born()
    bench.ask()
    commit = bench.store.instructions.answered_many

    def commit_and_fail(*given: object) -> None:
        commit(*given)  # type: ignore[arg-type]  # handed through
        raise StorageFailed(path="db", why="the connection was lost")

    reply = Envelope(kind="reply", reply_to=MESSAGE)
    with monkeypatch.context() as failing:
        failing.setattr(bench.store.instructions, "answered_many", commit_and_fail)
        bench.dispatcher._on_reply(DEVICE, reply, Reply())
        assert bench.dispatcher._ledger.flush(5)
    for _ in range(2):
        bench.dispatcher._on_reply(DEVICE, reply, Reply())
    assert bench.dispatcher._ledger.flush(5)
    assert bench.codes(1) == [None]


def test_posting_fails_quietly_when_the_database_does(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageFailed(path="db", why="gone")

    monkeypatch.setattr(bench.store.devices, "get", refuse)
    assert not bench.gateway.post(DEVICE, Received(), reply_to=MESSAGE)
    assert not bench.gateway.post_chunk(DEVICE, "", b"")


def part_of(content: bytes) -> BlobPart:
    return BlobPart(digest=hashlib.sha256(content).digest(), size=len(content))


def offer_of(content: bytes) -> Offer:
    part = part_of(content)
    return Offer(digest=part.digest, size=part.size, chunk=1024, chunks_digest=b"\x02" * 32)


def test_a_reply_whose_blobs_are_too_large_together_is_an_error_and_nothing_is_fetched(bench: Bench) -> None:
    bench.born()
    bench.ask()
    parts = [part_of(b"a" * 600), part_of(b"b" * 600)]
    bench.dispatcher._on_reply(DEVICE, Envelope(kind="reply", reply_to=MESSAGE), Reply(blobs=parts))
    assert bench.codes(1) == ["reply-invalid"]


def test_a_device_may_not_bring_more_than_one_reply_can_hold_before_it_names_it(bench: Bench) -> None:
    bench.born()
    bench.ask()
    assert bench.dispatcher._allow_upload(DEVICE, offer_of(b"a" * 600)) is None
    assert bench.dispatcher._allow_upload(DEVICE, offer_of(b"a" * 600)) is None
    assert bench.dispatcher._allow_upload(DEVICE, offer_of(b"b" * 600)) is not None


def test_what_a_device_brought_and_never_named_is_handed_out_for_deletion(bench: Bench) -> None:
    gone: set[bytes] = set()
    bench.dispatcher.on_unclaimed(gone.update)
    bench.born()
    bench.ask()
    for content in (b"named", b"unnamed"):
        assert bench.dispatcher._allow_upload(DEVICE, offer_of(content)) is None
        bench.blobs.put_bytes(content)
    reply = Reply(blobs=[part_of(b"named")])
    bench.dispatcher._on_reply(DEVICE, Envelope(kind="reply", reply_to=MESSAGE), reply)
    assert bench.codes(1) == [None]
    assert bench.dispatcher._ledger.flush(5)
    assert gone == {part_of(b"unnamed").digest}


def test_the_blobs_of_a_reply_that_came_too_late_are_handed_out_for_deletion(bench: Bench) -> None:
    gone: set[bytes] = set()
    bench.dispatcher.on_unclaimed(gone.update)
    bench.born()
    bench.ask()
    reply = Reply(blobs=[part_of(b"slow")])
    bench.dispatcher._on_reply(DEVICE, Envelope(kind="reply", reply_to=MESSAGE), reply)
    bench.tick(3601)
    assert bench.codes(1)[0] == "reply-timed-out"
    bench.dispatcher.exchange.cancel(DEVICE, reply.blobs[0].digest)
    assert until(lambda: gone == {reply.blobs[0].digest}, patience_s=5)
    assert bench.codes(2)[0] == "reply-timed-out"
    assert [answer.late for answer in bench.answers] == [False, True]


def test_a_late_reply_is_told_once_as_late_and_only_that_of_the_device_that_was_asked(bench: Bench) -> None:
    bench.born()
    bench.ask()
    bench.dispatcher.give_up([MESSAGE], 12.0)
    assert bench.codes(1) == ["reply-timed-out"]
    for device in ("00000000000000bb", DEVICE, DEVICE):
        bench.dispatcher._on_reply(device, Envelope(kind="reply", reply_to=MESSAGE), Reply(run_s=30.0))
    assert [(answer.device, answer.late) for answer in bench.answers] == [(DEVICE, False), (DEVICE, True)]
    late = bench.answers[1].reply
    assert late is not None
    assert late.run_s == 30.0


def test_a_device_that_comes_back_without_what_it_was_given_up_for_is_told_to_be_free(bench: Bench) -> None:
    bench.born()
    bench.ask()
    bench.ask(message="cd" * 16)
    bench.dispatcher.give_up([MESSAGE, "cd" * 16], 12.0)
    assert bench.codes(2) == ["reply-timed-out", "reply-timed-out"]
    bench.born(MESSAGE)
    assert [(answer.id, answer.late, answer.reply) for answer in bench.answers[2:]] == [("cd" * 16, True, None)]


def test_nobody_is_told_of_a_late_reply_to_a_run_that_is_over(bench: Bench) -> None:
    bench.born()
    bench.ask()
    bench.dispatcher.give_up([MESSAGE], 12.0)
    assert bench.codes(1) == ["reply-timed-out"]
    bench.dispatcher.close_run(bench.run)
    bench.dispatcher._on_reply(DEVICE, Envelope(kind="reply", reply_to=MESSAGE), Reply())
    assert len(bench.answers) == 1
    assert not bench.dispatcher._overdue


def test_nothing_is_kept_of_what_was_answered_or_closed(bench: Bench) -> None:
    bench.born()
    for number in range(3):
        bench.ask(message=f"{number:032x}")
    bench.dispatcher._on_reply(DEVICE, Envelope(kind="reply", reply_to=f"{0:032x}"), Reply())
    assert bench.codes(1) == [None]
    assert bench.dispatcher._allow_upload(DEVICE, offer_of(b"still owed")) is None
    bench.dispatcher.close_run(bench.run)
    assert bench.dispatcher._allow_upload(DEVICE, offer_of(b"nothing owed")) is not None
    assert not bench.dispatcher._pending
    assert not bench.dispatcher._owed
