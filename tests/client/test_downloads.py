"""The device's second way: real TLS, a real coordinator's port, real cuts; the transfer is the test's."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_client import downloads
from argosy_client.downloads import CLOSED_S, HttpsWay
from argosy_common import x509
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.bitmap import Bitmap
from argosy_common.blobs.frames import CHUNK, Layout
from argosy_common.blobs.ranges import LARGE, blob_path
from argosy_common.clock import SystemClock
from argosy_common.enrolment import DEFAULT_PORT
from argosy_common.link import TlsFiles
from argosy_common.link.tls import client_context
from argosy_common.wire.bodies import Offer
from argosy_server import downloads as serving
from argosy_server.ca import CertificateAuthority
from argosy_server.downloads import Downloads
from argosy_server.enrolment import EnrolmentServer
from argosy_server.local_fleet import free_ports
from argosy_server.store import Store
from tests.proxy import Proxy
from tests.waiting import until

DEVICE = "00000000000000aa"
SIZE = 9_000_000


class ShiftedClock(SystemClock):
    """The system's clock, which a test may move on."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Transfer:
    """A download as the exchange would give it: a bitmap and the bytes."""

    def __init__(self, ref: BlobRef, urls: list[str], have: tuple[int, ...] = ()) -> None:
        self.ref = ref
        self.layout = Layout(ref.size, CHUNK)
        self.urls = urls
        self.content = bytearray(ref.size)
        self.bitmap = Bitmap(self.layout.count)
        self.taken: list[int] = []
        self.overhead = 0
        self.back = threading.Event()
        self.paused: Callable[[], None] = lambda: None
        for index in have:
            self.bitmap.add(index)

    def gaps(self) -> list[tuple[int, int]]:
        return self.bitmap.gaps()

    def take(self, index: int, payload: memoryview) -> bool:
        self.paused()
        assert len(payload) == self.layout.length(index)
        start = index * CHUNK
        self.content[start : start + len(payload)] = payload
        self.taken.append(index)
        self.bitmap.add(index)
        return not self.bitmap.full

    def spent(self, count: int) -> None:
        self.overhead += count

    def turn_back(self) -> None:
        self.back.set()


class Bench:
    """A coordinator's port with one large blob for one device, and that device's way to it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ShiftedClock()
        self.ca = CertificateAuthority.open(folder / "ca", self.clock)
        self.blobs = BlobStore(folder / "blobs")
        self.content = random.Random(1).randbytes(SIZE)
        self.ref = self.blobs.put_bytes(self.content)
        self.allowed = True
        self.served = Downloads(self.blobs, lambda device, *_: self.allowed and device == DEVICE, clock=self.clock)
        self.store = Store.open(f"sqlite:///{folder / 'coordinator.db'}", self.clock)
        self.server = EnrolmentServer(
            self.store, self.ca, clock=self.clock, host="127.0.0.1", port=0, hosts=["127.0.0.1"], brokers=list,
            downloads=self.served,
        )  # fmt: skip
        self.server.start()
        key = x509.generate_key()
        cert = folder / "device.crt"
        cert.write_bytes(x509.chain_pem(*self.ca.issue_device(DEVICE, key.public_key())))
        x509.save_key(folder / "device.key", key)
        self.files = TlsFiles(self.ca.ca_path, cert, folder / "device.key", x509.COORDINATOR)
        self.way = self.new_way()

    def new_way(self, joined_at: tuple[str, int] | None = None) -> HttpsWay:
        return HttpsWay(self.context, clock=self.clock, rng=random.Random(1), joined_at=joined_at)

    def context(self) -> ssl.SSLContext:
        return client_context(self.files)

    def url(self, port: int | None = None) -> str:
        return f"https://127.0.0.1:{port or self.server.address[1]}{blob_path(self.ref.digest)}"

    def bring(self, urls: list[str], have: tuple[int, ...] = ()) -> Transfer:
        transfer = Transfer(self.ref, urls, have)
        self.way.start(transfer)
        return transfer

    def close(self) -> None:
        self.way.close()
        assert not any(thread.is_alive() for thread in self.way._threads)
        self.server.stop()
        self.store.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(downloads, "CONNECT_S", 1.0)
    made = Bench(tmp_path)
    yield made
    made.close()


def offer(ref: BlobRef, *urls: str) -> Offer:
    return Offer(digest=ref.digest, size=ref.size, chunk=CHUNK, chunks_digest=bytes(32), urls=list(urls))


def test_a_blob_comes_whole(bench: Bench) -> None:
    transfer = bench.bring([bench.url()])
    assert until(lambda: transfer.bitmap.full)
    assert bytes(transfer.content) == bench.content
    assert transfer.taken == list(range(transfer.layout.count))
    assert 0 < transfer.overhead < 2000
    assert not transfer.back.is_set()


def test_only_what_is_missing_is_asked_for(bench: Bench) -> None:
    have = (0, 1, 7, 8, 34)
    transfer = bench.bring([bench.url()], have)
    assert until(lambda: transfer.bitmap.full)
    assert sorted(transfer.taken) == [index for index in range(transfer.layout.count) if index not in have]


def test_after_a_cut_it_goes_on_with_what_is_missing(bench: Bench) -> None:
    proxy = Proxy(bench.server.address)
    transfer = Transfer(bench.ref, [bench.url(proxy.address[1])])
    cuts = [5, 20]

    def cut_sometimes() -> None:
        if cuts and len(transfer.taken) == cuts[0]:
            del cuts[0]
            proxy.cut()

    transfer.paused = cut_sometimes
    bench.way.start(transfer)
    assert until(lambda: transfer.bitmap.full)
    proxy.close()
    assert bytes(transfer.content) == bench.content
    assert transfer.taken == sorted(set(transfer.taken)), "no chunk came twice"
    assert not cuts


def test_a_connection_that_the_server_closes_between_two_gaps_is_never_opened_again_without_tls(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[http.client.HTTPConnection] = []
    monkeypatch.setattr(http.client.HTTPConnection, "connect", opened.append)
    render = serving.BlobResponse.init_headers

    def closing(self: serving.BlobResponse, headers: dict[str, str]) -> None:
        render(self, {**headers, "Connection": "close"})

    monkeypatch.setattr(serving.BlobResponse, "init_headers", closing)
    transfer = bench.bring([bench.url()], (3, 9))
    assert until(lambda: transfer.bitmap.full)
    assert not opened
    assert not transfer.back.is_set()


def test_where_nobody_answers_the_rest_is_left_to_mqtt_and_that_is_remembered(bench: Bench) -> None:
    assert bench.way.takes(offer(bench.ref, bench.url()))
    transfer = bench.bring([bench.url(free_ports(1)[0])])
    assert transfer.back.wait(30)
    assert not transfer.taken
    assert not bench.way.takes(offer(bench.ref, bench.url()))
    bench.clock.ahead += CLOSED_S + 1
    assert bench.way.takes(offer(bench.ref, bench.url()))


def test_the_next_address_is_tried_and_the_good_one_comes_first_from_then_on(bench: Bench) -> None:
    dead = bench.url(free_ports(1)[0])
    transfer = bench.bring([dead, bench.url()])
    assert until(lambda: transfer.bitmap.full)
    assert bench.way._addresses(transfer)[0] == ("127.0.0.1", bench.server.address[1])


def test_the_address_at_which_it_joined_needs_no_url_that_works(bench: Bench) -> None:
    bench.way.close()
    bench.way = bench.new_way(("127.0.0.1", bench.server.address[1]))
    transfer = bench.bring([bench.url(free_ports(1)[0])])
    assert until(lambda: transfer.bitmap.full)


def test_a_blob_that_is_not_for_this_device_is_left_to_mqtt_at_once(bench: Bench) -> None:
    bench.allowed = False
    transfer = bench.bring([bench.url()])
    assert transfer.back.wait(20)
    assert bench.way.takes(offer(bench.ref, bench.url())), "the next blob may be another matter"


def test_whoever_is_not_our_coordinator_gets_no_request(bench: Bench, tmp_path: Path) -> None:
    other = CertificateAuthority.open(tmp_path / "other", bench.clock)
    bench.files = TlsFiles(other.ca_path, bench.files.cert, bench.files.key, x509.COORDINATOR)
    transfer = bench.bring([bench.url()])
    assert transfer.back.wait(30)
    assert not transfer.taken


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x",
        "https://127.0.0.1:1/etc/passwd",
        "https://user@127.0.0.1:1{path}",
        "https://127.0.0.1:1{path}?x=1",
        "https://:99999{path}",
        "https://[::1{path}",
        "file:///etc/passwd",
        "",
    ],
)
def test_urls_of_another_form_are_not_followed(bench: Bench, url: str) -> None:
    transfer = Transfer(bench.ref, [url.format(path=blob_path(bench.ref.digest))])
    assert bench.way._addresses(transfer) == []


def test_a_url_without_a_port_means_the_port_that_joining_means(bench: Bench) -> None:
    path = blob_path(bench.ref.digest)
    transfer = Transfer(bench.ref, [f"https://coordinator{path}", f"https://[fd00::5]:99{path}"])
    assert bench.way._addresses(transfer) == [("coordinator", DEFAULT_PORT), ("fd00::5", 99)]


def test_small_blobs_and_offers_without_urls_are_not_for_this_way(bench: Bench) -> None:
    assert not bench.way.takes(offer(bench.ref))
    assert not bench.way.takes(offer(BlobRef(bytes(32), LARGE - 1), bench.url()))


def test_a_download_ends_when_it_is_stopped_and_brings_nothing_afterwards(bench: Bench) -> None:
    transfer = Transfer(bench.ref, [bench.url()])
    reached, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        reached.set()
        go_on.wait(20)

    transfer.paused = pause
    bench.way.start(transfer)
    assert reached.wait(20)
    bench.way.stop(transfer)
    go_on.set()
    assert until(lambda: not bench.way._jobs)
    assert len(transfer.taken) <= 1
    assert not transfer.back.is_set()


def test_a_line_that_drips_is_left_to_mqtt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CHUNK_S", -1.0)  # every chunk takes longer
    transfer = bench.bring([bench.url()])
    assert transfer.back.wait(40)
