"""Two exchanges with a wire between them, and every accident that can befall it."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argosy_common.blobs import BlobRef
from argosy_common.blobs.frames import CHUNK, HEADER
from argosy_common.errors import (
    BlobCorrupt,
    BlobUnknown,
    DiskFull,
    TransferCancelled,
    TransferRefused,
    TransferTimedOut,
)
from argosy_common.wire.bodies import Accept, ChunkAck, Done, Fetch, Offer, TransferFailed
from tests.common.blobs.pair import Message, Outcomes, Pair, noise, put

MB = 1024 * 1024


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def whole(size: int) -> int:
    """Wire bytes of a blob that travels once."""
    return size + -(-size // CHUNK) * HEADER.size


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * MB + 7])
def test_a_fetched_blob_arrives_whole_and_once(pair: Pair, size: int) -> None:
    ref = put(pair.coordinator, size)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: done)
    assert done.error is None
    assert pair.device.store.path(ref.digest).read_bytes() == noise(size)
    assert done[0].wire_bytes == pair.chunk_bytes() == whole(size)
    assert not list(pair.device.store.partials.iterdir())


@pytest.mark.parametrize("size", [0, 3 * MB])
def test_a_pushed_blob_is_done_only_when_the_peer_has_it(pair: Pair, size: int) -> None:
    ref = put(pair.device, size)
    done = Outcomes()
    pair.device.exchange.send("coordinator", ref, done)
    while not done:
        had = pair.coordinator.store.has(ref.digest)
        pair.step()
        assert not done or had
    assert done.error is None
    assert done[0].wire_bytes == whole(size)


def test_acknowledgements_are_few(pair: Pair) -> None:
    ref = put(pair.coordinator, 16 * MB)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    while not done:
        pair.clock.now += 0.001
        pair.step()
    acks = sum(message.kind == ChunkAck.kind for message in pair.delivered)
    assert acks <= 64 / 2 + 3  # 64 chunks, one acknowledgement for two, and a few before the window was known


def test_a_blob_that_is_here_costs_nothing(pair: Pair) -> None:
    put(pair.coordinator, MB)
    ref = put(pair.device, MB)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.device.exchange.send("coordinator", ref, done)
    pair.settle(lambda: len(done) == 2)
    assert [outcome.error for outcome in done] == [None, None]
    assert pair.chunk_bytes() == 0


def test_fetches_of_one_blob_are_joined(pair: Pair) -> None:
    ref = put(pair.coordinator, MB)
    done = Outcomes()
    for _ in range(3):
        pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: len(done) == 3)
    assert pair.chunk_bytes() == whole(MB)
    assert sum(message.kind == Fetch.kind for message in pair.delivered) == 1


def test_ten_cuts_cost_no_more_than_what_was_under_way(pair: Pair) -> None:
    size = 40 * MB
    ref = put(pair.coordinator, size)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    lost_before = pair.chunk_bytes()
    for cut in range(10):
        target = pair.chunk_bytes() + 3 * MB
        while pair.chunk_bytes() < target:
            pair.clock.now += 0.001
            pair.step(most=3)
        pair.cut()
        pair.tick(30.0)
        if cut % 2:  # and the device's daemon was stopped and started again
            pair.device.exchange.close()
            pair.device.executor.run()
            pair.device.start()
            pair.wire.clear()
            pair.mend()
            done.clear()
            pair.device.exchange.fetch("coordinator", ref, done)
        else:
            pair.mend()
    pair.settle(lambda: done)
    assert done.error is None
    assert lost_before == 0
    assert pair.chunk_bytes() == whole(size)  # what reached the device reached it once


def test_a_push_goes_on_after_the_receiver_was_restarted(pair: Pair) -> None:
    size = 8 * MB
    ref = put(pair.device, size)
    done = Outcomes()
    pair.device.exchange.send("coordinator", ref, done)
    while pair.chunk_bytes() < 4 * MB:
        pair.step()
    pair.cut()
    pair.coordinator.exchange.close()
    pair.coordinator.executor.run()
    pair.coordinator.start()
    pair.wire.clear()
    pair.mend()
    pair.settle(lambda: done)
    assert done.error is None
    assert pair.chunk_bytes() == whole(size)


def test_a_fetch_goes_on_after_the_sender_was_restarted(pair: Pair) -> None:
    ref = put(pair.coordinator, 8 * MB)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    while pair.chunk_bytes() < 4 * MB:
        pair.step()
    pair.wire.clear()
    pair.coordinator.exchange.close()
    pair.coordinator.start()
    pair.settle(lambda: done)
    assert done.error is None
    assert pair.chunk_bytes() == whole(8 * MB)


def test_after_a_power_cut_what_was_saved_is_not_sent_again(pair: Pair) -> None:
    size = 40 * MB
    ref = put(pair.coordinator, size)
    pair.device.exchange.fetch("coordinator", ref, Outcomes())
    while pair.chunk_bytes() < 35 * MB:
        pair.step()
    pair.cut()
    # the process is gone without a word: only what it had written by then is there
    (partial,) = pair.device.store.partials.iterdir()
    content = partial.read_bytes()
    partial.unlink()  # another inode: the dead process's lock stays with the old one
    partial.write_bytes(content)
    pair.device.start()
    pair.mend()
    before = pair.chunk_bytes()
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: done)
    assert done.error is None
    assert pair.chunk_bytes() - before <= size - 32 * MB + MB


class Accidents:
    """Loses, doubles, reorders and damages messages, by a seed, until a bound."""

    def __init__(self, seed: int, bound: int) -> None:
        self._rng = random.Random(seed)
        self._left = bound

    def __call__(self, messages: list[Message]) -> list[Message]:
        result: list[Message] = []
        for message in messages:
            fate = self._rng.random() if self._left > 0 else 1.0
            self._left -= fate < 0.4
            if fate < 0.1:
                continue
            if fate < 0.2:
                result += [message, message]
            elif fate < 0.3:
                result.insert(self._rng.randrange(len(result) + 1), message)
            elif fate < 0.4 and message.is_chunk:
                place = self._rng.randrange(len(message.data))
                damaged = message.data[:place] + bytes([message.data[place] ^ 0x10]) + message.data[place + 1 :]
                result.append(Message(message.target, "chunk", damaged))
            else:
                result.append(message)
        return result


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), fetched=st.booleans(), size=st.integers(0, 3 * MB))
def test_loss_doubles_disorder_and_damage_only_cost_time(
    tmp_path_factory: pytest.TempPathFactory, seed: int, fetched: bool, size: int
) -> None:
    pair = Pair(tmp_path_factory.mktemp("pair"), accident=Accidents(seed, bound=40))
    source, target = (pair.coordinator, pair.device) if fetched else (pair.device, pair.coordinator)
    ref = put(source, size, seed)
    done = Outcomes()
    if fetched:
        target.exchange.fetch(source.name, ref, done)
    else:
        source.exchange.send(target.name, ref, done)
    rng = random.Random(seed)
    while not done and pair.clock.now < 2000:
        if rng.random() < 0.01:
            pair.cut()
            pair.mend()
        if not pair.step(most=rng.randrange(1, 6)):
            pair.tick()
    assert done
    assert done.error is None
    assert target.store.path(ref.digest).read_bytes() == noise(size, seed)
    assert not list(target.store.partials.iterdir())


def test_a_single_lost_chunk_does_not_wait_for_a_timeout(pair: Pair) -> None:
    ref = put(pair.coordinator, 4 * MB)
    done = Outcomes()
    lost: list[Message] = []

    def lose_the_fifth(messages: list[Message]) -> list[Message]:
        chunks = sum(message.is_chunk for message in pair.delivered)
        if chunks == 5 and not lost and messages[0].is_chunk:
            lost.append(messages[0])
            return messages[1:]
        return messages

    pair.accident = lose_the_fifth
    pair.device.exchange.fetch("coordinator", ref, done)
    began = pair.clock.now
    while not done and pair.clock.now < began + 5:
        pair.clock.now += 0.001
        pair.step(most=1)
    assert lost
    assert done.error is None


def test_a_slow_link_is_not_flooded_with_repetitions(pair: Pair) -> None:
    """A chunk takes 20 s, longer than any first timeout; what is repeated stays a small part."""
    size = 40 * CHUNK
    ref = put(pair.coordinator, size)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    while not done:
        if pair.wire and pair.wire[0].is_chunk:
            for _ in range(20):
                pair.tick()
            pair.step(most=1)
        elif not pair.step(most=1):
            pair.tick()
    assert done.error is None
    assert pair.chunk_bytes() < 1.2 * whole(size)


def test_an_unknown_blob_has_its_error(pair: Pair) -> None:
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", BlobRef(bytes(32), 10), done)
    pair.device.exchange.send("coordinator", BlobRef(bytes(32), 10), done)
    pair.settle(lambda: len(done) == 2)
    assert all(isinstance(outcome.error, BlobUnknown) for outcome in done)


def test_a_refused_push_tells_why(pair: Pair) -> None:
    pair.coordinator.allow = lambda _, offer: TransferRefused(peer="us", digest="", why=f"{offer.size} is too much")
    ref = put(pair.device, MB)
    done = Outcomes()
    pair.device.exchange.send("coordinator", ref, done)
    pair.settle(lambda: done)
    assert isinstance(done.error, TransferRefused)
    assert "1048576 is too much" in done.error.message
    assert pair.chunk_bytes() == 0


def corrupt(end_folder: Path, ref: BlobRef) -> None:
    file = end_folder / "sha256" / ref.hex
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_blob_that_does_not_match_is_fetched_once_again_and_given_up(pair: Pair) -> None:
    size = 3 * CHUNK
    ref = put(pair.coordinator, size)
    corrupt(pair.coordinator.store.root, ref)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: done)
    assert isinstance(done.error, BlobCorrupt)
    assert pair.chunk_bytes() == 2 * whole(size)
    assert not pair.device.store.has(ref.digest)
    pair.settle(lambda: not list(pair.device.store.partials.iterdir()))


def test_a_damaged_leftover_heals_by_itself(pair: Pair) -> None:
    ref = put(pair.coordinator, 4 * MB)
    pair.device.exchange.fetch("coordinator", ref, Outcomes())
    while pair.chunk_bytes() < 2 * MB:
        pair.step()
    pair.cut()
    pair.device.exchange.close()
    pair.device.executor.run()
    (partial,) = pair.device.store.partials.iterdir()
    with partial.open("r+b") as stream:
        stream.write(b"damage")
    pair.device.start()
    pair.mend()
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: done)
    assert done.error is None
    assert pair.device.store.path(ref.digest).read_bytes() == noise(4 * MB)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_has_its_name_and_gets_its_room_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    ref = put(pair.coordinator, 4 * MB)
    real = os.pwrite

    def fills_up(handle: int, data: memoryview, offset: int) -> int:
        if offset > 2 * MB:
            raise OSError(code, os.strerror(code))
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", fills_up)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: done)
    assert isinstance(done.error, DiskFull)
    while pair.step():
        pass
    assert not list(pair.device.store.partials.iterdir())
    assert pair.delivered[-1].kind == TransferFailed.kind
    monkeypatch.undo()
    again = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, again)
    pair.settle(lambda: again)
    assert again.error is None


def test_a_blob_larger_than_the_disk_is_refused_before_it_travels(pair: Pair) -> None:
    offer = Offer(digest=bytes(32), size=2**38, chunk=MB, chunks_digest=bytes(32))
    pair.coordinator.exchange.handle(pair.device.name, offer)
    while pair.step():
        pass
    (answer,) = pair.delivered
    assert answer.kind == TransferFailed.kind
    assert b"disk-full" in answer.data


def test_silence_ends_a_transfer_with_its_name(pair: Pair) -> None:
    ref = put(pair.coordinator, MB)
    done = Outcomes()
    pair.coordinator.connected = False
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: done, seconds=700)
    assert isinstance(done.error, TransferTimedOut)


def test_cancelling_calls_everyone_and_frees_both_ends(pair: Pair) -> None:
    ref = put(pair.coordinator, 4 * MB)
    done = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, done)
    while pair.chunk_bytes() < MB:
        pair.step()
    pair.device.exchange.cancel("coordinator", ref.digest)
    pair.settle(lambda: done)
    assert isinstance(done.error, TransferCancelled)
    while pair.step():
        pass
    before = len(pair.delivered)
    for _ in range(100):
        pair.tick()
        pair.step()
    assert len(pair.delivered) == before  # nobody goes on
    again = Outcomes()
    pair.device.exchange.fetch("coordinator", ref, again)
    pair.settle(lambda: again)
    assert again.error is None
    assert pair.chunk_bytes() < whole(4 * MB) + 2 * MB


def test_a_callback_that_raises_harms_nobody(pair: Pair) -> None:
    ref = put(pair.coordinator, MB)
    done = Outcomes()

    def broken(_: object) -> None:
        raise RuntimeError("the callback's own mistake")

    pair.device.exchange.fetch("coordinator", ref, broken)
    pair.device.exchange.fetch("coordinator", ref, done)
    pair.settle(lambda: done)
    assert done.error is None


HOSTILE = [
    Offer(digest=b"x" * 32, size=2**40, chunk=1024, chunks_digest=bytes(32)),
    Offer(digest=b"x" * 32, size=0, chunk=1024, chunks_digest=bytes(32)),
    Accept(digest=b"x" * 32, have=b"\xff" * 50_000),
    Accept(digest=b"x" * 32, sink="../#/+", have=b""),
    ChunkAck(digest=b"x" * 32, upto=2**62, more=b"\xff" * 4096),
    Done(digest=b"x" * 32),
    Fetch(digest=b"x" * 32),
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: type(body).__name__)
def test_hostile_control_messages_out_of_the_blue_change_nothing(pair: Pair, body: Offer) -> None:
    pair.coordinator.exchange.handle(pair.device.name, body)
    while pair.step():
        pass
    assert not list((pair.coordinator.store.root / "sha256").iterdir())
    assert pair.coordinator.exchange._incoming._transfers.keys() <= {(pair.device.name, b"x" * 32)}


@pytest.mark.parametrize(
    ("sink", "have"), [("../#/+", b""), ("", b"\xff" * 50_000), ("w1", b"\x00\x10")], ids=["sink", "long", "stray"]
)
def test_a_hostile_acceptance_ends_the_transfer(pair: Pair, sink: str, have: bytes) -> None:
    ref = put(pair.coordinator, 12 * CHUNK)
    pair.coordinator.exchange.handle(pair.device.name, Fetch(digest=ref.digest))
    pair.coordinator.executor.run()
    pair.coordinator.exchange.handle(pair.device.name, Accept(digest=ref.digest, sink=sink, have=have))
    assert not pair.coordinator.exchange._outgoing._transfers
    assert pair.wire[-1].kind == TransferFailed.kind


def test_hostile_acknowledgements_fool_only_their_sender(pair: Pair) -> None:
    ref = put(pair.coordinator, 12 * CHUNK)
    other = Outcomes()
    pair.coordinator.exchange.handle(pair.device.name, Fetch(digest=ref.digest))
    pair.coordinator.executor.run()
    pair.coordinator.exchange.handle(pair.device.name, Accept(digest=ref.digest))
    pair.coordinator.exchange.handle(pair.device.name, ChunkAck(digest=ref.digest, upto=2**62, more=b"\xff" * 4096))
    pair.device.exchange.fetch("coordinator", ref, other)
    pair.settle(lambda: other)
    assert other.error is None


def test_a_peer_cannot_make_us_hold_transfers_without_end(pair: Pair) -> None:
    for number in range(1000):
        digest = number.to_bytes(32, "big")
        pair.coordinator.exchange.handle(
            pair.device.name, Offer(digest=digest, size=MB, chunk=CHUNK, chunks_digest=bytes(32))
        )
    assert len(pair.coordinator.exchange._incoming._transfers) == 256
    pair.coordinator.exchange.close()


def test_many_devices_at_once_share_a_bounded_amount_of_memory(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    ref = put(pair.coordinator, 8 * MB)
    waiting: dict[str, int] = {}

    def count(peer: str, _sink: str, frame: bytes) -> bool:
        waiting[peer] = waiting.get(peer, 0) + len(frame)
        return True

    pair.coordinator.exchange._session.post_chunk = count
    pair.coordinator.exchange._session.post = lambda _peer, _body: True
    for number in range(200):
        pair.coordinator.exchange.handle(f"device-{number}", Fetch(digest=ref.digest))
    pair.coordinator.executor.run()
    for number in range(200):
        pair.coordinator.exchange.handle(f"device-{number}", Accept(digest=ref.digest))
    assert sum(waiting.values()) <= 17 * MB
    first = sorted(waiting)
    pair.coordinator.exchange.peer_down(first[0])
    for _ in range(20):  # those who answer make room for those who wait
        pair.clock.now += 0.01
        for peer in list(waiting):
            done = min(waiting[peer] // (CHUNK + HEADER.size), 32)
            pair.coordinator.exchange.handle(peer, ChunkAck(digest=ref.digest, upto=done))
            if done == 32:
                pair.coordinator.exchange.handle(peer, Done(digest=ref.digest))
        pair.coordinator.executor.run()
    assert len(waiting) == 200
