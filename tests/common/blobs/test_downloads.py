"""A second way beside the chunks: one file and one bitmap, whichever way a chunk came."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.blobs import BlobRef
from argosy_common.blobs.bitmap import Bitmap
from argosy_common.blobs.downloads import Download
from argosy_common.blobs.frames import CHUNK, HEADER
from argosy_common.errors import BlobCorrupt, TransferCancelled, TransferRefused
from argosy_common.wire.bodies import Accept, Done, ErrorPart, Fetch, Offer, TransferFailed
from tests.common.blobs.pair import DEVICE, Outcomes, Pair, noise, put

MB = 1024 * 1024
URL = "https://coordinator:8444/v1/blobs/x"


class HandWay:
    """A second way that the test walks."""

    name = "https"

    def __init__(self) -> None:
        self.open = True
        self.begun: list[Download] = []
        self.stopped: list[Download] = []

    def takes(self, offer: Offer) -> bool:
        return self.open and bool(offer.urls)

    def start(self, download: Download) -> None:
        self.begun.append(download)

    def stop(self, download: Download) -> None:
        self.stopped.append(download)

    def bring(self, content: bytes, most: int | None = None) -> list[int]:
        """Bring the missing chunks in order, `most` at most; return which."""
        download = self.begun[-1]
        brought: list[int] = []
        for first, end in download.gaps():
            for index in range(first, end):
                if most is not None and len(brought) >= most:
                    return brought
                start = index * download.layout.chunk
                brought.append(index)
                if not download.take(index, memoryview(content[start : start + download.layout.length(index)])):
                    return brought
        return brought


class Bench:
    """A pair whose device has a second way, and a blob at the coordinator."""

    def __init__(self, folder: Path, size: int = 5 * MB + 7) -> None:
        self.pair = Pair(folder)
        self.way = HandWay()
        self.content = noise(size)
        self.ref = put(self.pair.coordinator, size)
        self.pair.coordinator.urls = [URL]
        self.pair.device.way = self.way
        self.pair.device.start()
        self.done = Outcomes()

    def fetch(self) -> None:
        self.pair.device.exchange.fetch("coordinator", self.ref, self.done)

    def begin(self) -> None:
        """Fetch, and step until the second way has begun."""
        before = len(self.way.begun)
        self.fetch()
        self.pair.settle(lambda: len(self.way.begun) > before)

    def restart(self) -> None:
        """Stop the device's daemon and start it again."""
        self.pair.device.exchange.close()
        self.pair.device.executor.run()
        self.pair.device.start()
        self.done.clear()

    def said(self, kind: str) -> int:
        return sum(message.kind == kind for message in self.pair.delivered)

    @property
    def whole(self) -> bool:
        return self.pair.device.store.path(self.ref.digest).read_bytes() == self.content


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@given(st.integers(0, 70), st.sets(st.integers(0, 69)))
def test_gaps_are_what_is_missing(size: int, members: set[int]) -> None:
    have = Bitmap(size)
    for index in {each for each in members if each < size}:
        have.add(index)
    gaps = have.gaps()
    assert [index for first, end in gaps for index in range(first, end)] == [i for i in range(size) if i not in have]
    assert all(end < first for (_, end), (first, _) in pairwise(gaps))


def test_the_second_way_brings_all_and_the_sender_sends_nothing(bench: Bench) -> None:
    bench.begin()
    assert list(bench.way.begun[0].urls) == [URL]
    bench.way.bring(bench.content)
    bench.way.begun[0].spent(100)
    bench.pair.settle(lambda: bench.done and bench.said(Done.kind))
    assert bench.done.error is None
    assert bench.done[0].via == "https"
    assert bench.done[0].wire_bytes == len(bench.content) + 100
    assert bench.whole
    assert bench.said("chunk") == bench.said(Accept.kind) == 0
    assert bench.way.stopped == []
    assert not list(bench.pair.device.store.partials.iterdir())


def test_an_offer_without_urls_or_a_way_that_does_not_take_it_goes_by_chunks(bench: Bench) -> None:
    bench.way.open = False
    bench.fetch()
    bench.pair.settle(lambda: bench.done)
    assert bench.done[0].via == "mqtt"
    assert bench.way.begun == []


def test_after_the_way_turned_back_only_the_rest_comes_by_chunks(bench: Bench) -> None:
    bench.begin()
    brought = bench.way.bring(bench.content, most=8)
    bench.way.begun[0].turn_back()
    bench.pair.settle(lambda: bench.done)
    assert bench.done[0].via == "https+mqtt"
    assert bench.whole
    left = len(bench.content) - len(brought) * CHUNK
    assert bench.pair.chunk_bytes() == left + -(-left // CHUNK) * HEADER.size
    assert bench.done[0].wire_bytes == len(brought) * CHUNK + bench.pair.chunk_bytes()


def test_what_came_by_chunks_is_not_asked_of_the_second_way_and_the_reverse(bench: Bench) -> None:
    bench.way.open = False
    bench.fetch()
    while bench.pair.chunk_bytes() < MB:
        bench.pair.step(most=1)
    bench.restart()  # between the two lives the daemon learns of the second way, and what arrived is on disk
    bench.way.open = True
    bench.begin()
    by_chunks = set(range(21)) - {i for first, end in bench.way.begun[0].gaps() for i in range(first, end)}
    assert by_chunks == set(range(4))
    assert bench.way.bring(bench.content, most=5) == [4, 5, 6, 7, 8]
    bench.restart()
    bench.begin()
    assert bench.way.bring(bench.content) == list(range(9, 21))
    bench.pair.settle(lambda: bench.done)
    assert bench.whole


@pytest.mark.parametrize("seconds", [100.0, 10_000.0])  # the sender's patience lasts 600
def test_a_second_way_goes_on_while_the_broker_is_away(bench: Bench, seconds: float) -> None:
    bench.begin()
    bench.way.bring(bench.content, most=3)
    bench.pair.cut()
    bench.pair.tick(seconds)
    bench.way.bring(bench.content)
    bench.pair.settle(lambda: bench.done)
    assert bench.done.error is None
    bench.pair.mend()
    bench.pair.settle(lambda: not bench.pair.coordinator.exchange._outgoing._transfers)
    assert bench.said(Done.kind) == (seconds < 600)


def test_a_sender_that_has_lost_patience_is_asked_again_when_the_way_turns_back(bench: Bench) -> None:
    bench.begin()
    error = ErrorPart(code="transfer-timed-out", message="m")
    bench.pair.coordinator.exchange.cancel(DEVICE, bench.ref.digest)
    bench.pair.device.exchange.handle("coordinator", TransferFailed(digest=bench.ref.digest, error=error))
    bench.pair.step()
    assert not bench.done
    bench.way.begun[0].turn_back()
    bench.pair.settle(lambda: bench.done)
    assert bench.done.error is None


def test_a_corrupt_download_is_fetched_once_again_by_chunks(bench: Bench) -> None:
    bench.begin()
    bench.way.bring(bytes(len(bench.content)))
    bench.pair.settle(lambda: bench.done)
    assert bench.done.error is None
    assert bench.done[0].via == "https+mqtt"
    assert bench.whole


def test_what_is_corrupt_both_ways_is_named_and_nothing_stays(bench: Bench) -> None:
    bench.pair.coordinator.store.path(bench.ref.digest).write_bytes(bytes(len(bench.content)))
    bench.begin()
    bench.way.bring(bytes(len(bench.content)))
    bench.pair.settle(lambda: bench.done)
    assert isinstance(bench.done.error, BlobCorrupt)
    bench.pair.step()
    assert not list(bench.pair.device.store.partials.iterdir())
    assert not bench.pair.device.store.has(bench.ref.digest)


def test_a_cancelled_download_is_stopped_and_takes_nothing_more(bench: Bench) -> None:
    bench.begin()
    bench.way.bring(bench.content, most=2)
    bench.pair.device.exchange.cancel("coordinator", bench.ref.digest)
    bench.pair.settle(lambda: bench.done)
    assert isinstance(bench.done.error, TransferCancelled)
    assert bench.way.stopped == bench.way.begun
    assert bench.way.begun[0].gaps() == []
    assert not bench.way.begun[0].take(2, memoryview(bench.content[2 * CHUNK : 3 * CHUNK]))
    bench.way.begun[0].turn_back()
    assert len(bench.done) == 1


def test_a_disk_that_fails_under_a_download_ends_it_by_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.begin()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    assert bench.way.bring(bench.content) == [0]
    bench.pair.device.executor.run()
    assert bench.done.error is not None
    assert bench.done.error.code == "disk-full"
    assert bench.way.stopped == bench.way.begun


def test_a_pushed_blob_never_goes_a_second_way(bench: Bench) -> None:
    ref = BlobRef(bench.ref.digest, len(bench.content))
    bench.pair.coordinator.exchange.send(DEVICE, ref, bench.done)
    bench.pair.settle(lambda: bench.done)
    assert bench.done.error is None
    assert bench.way.begun == []
    assert bench.said(Fetch.kind) == 0


def test_an_offer_of_another_size_is_refused_whatever_its_urls(bench: Bench) -> None:
    bench.ref = BlobRef(bench.ref.digest, 17)
    bench.fetch()
    bench.pair.settle(lambda: bench.done)
    assert isinstance(bench.done.error, BlobCorrupt | TransferRefused)
    assert bench.way.begun == []
