"""Blobs over HTTPS: real TLS, a real server, real files; only who may have what is the test's to say."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common import x509
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.ranges import LARGE, blob_path
from argosy_common.clock import SystemClock
from argosy_common.link import TlsFiles
from argosy_common.link.tls import client_context
from argosy_server import bounded_connection, downloads
from argosy_server.ca import CertificateAuthority
from argosy_server.downloads import Downloads
from argosy_server.enrolment import EnrolmentServer
from argosy_server.store import Store
from tests.pki import Pki
from tests.waiting import until

DEVICE, OTHER = "00000000000000aa", "00000000000000bb"
MB = 1024 * 1024


class Bench:
    """An HTTPS port that serves one large blob to one device."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        self.folder = folder
        self.ca = CertificateAuthority.open(folder / "ca", clock)
        self.blobs = BlobStore(folder / "blobs")
        self.content = random.Random(1).randbytes(9 * MB + 5)
        self.ref = self.blobs.put_bytes(self.content)
        self.rights: set[tuple[str, bytes]] = {(DEVICE, self.ref.digest)}
        self.revoked: set[str] = set()
        self.downloads = Downloads(self.blobs, self._may_download, clock=clock)
        self.store = Store.open(f"sqlite:///{folder / 'coordinator.db'}", clock)
        self.server = EnrolmentServer(
            self.store,
            self.ca,
            clock=clock,
            host="127.0.0.1",
            port=0,
            hosts=["127.0.0.1", "10.0.0.5", "localhost", "::1", "fd00::5"],
            brokers=list,
            downloads=self.downloads,
        )
        self.server.start()

    def _may_download(self, device: str, serial: str, digest: bytes) -> bool:
        return (device, digest) in self.rights and serial not in self.revoked

    def close(self) -> None:
        self.server.stop()
        self.store.close()
        assert not self.server.alive()

    def files(self, name: str) -> TlsFiles:
        """Return a device's certificate and key."""
        key = x509.generate_key()
        chain = self.ca.issue_device(name, key.public_key())
        files = TlsFiles(
            self.ca.ca_path, self.folder / f"{name}.crt", self.folder / f"{name}.device-key", x509.COORDINATOR
        )
        files.cert.write_bytes(x509.chain_pem(*chain))
        x509.save_key(files.key, key)
        return files

    def connect(self, files: TlsFiles | None) -> ssl.SSLSocket:
        context = client_context(files) if files else x509.coordinator_trust(self.ca.pem)
        plain = socket.create_connection(("127.0.0.1", self.server.address[1]), 20)
        return context.wrap_socket(plain, server_hostname=x509.COORDINATOR)

    @contextlib.contextmanager
    def asked(
        self, path: str, files: TlsFiles | None, *, method: str = "GET", **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask for a path on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.sock = self.connect(files)
        try:
            connection.request(method, path, headers=headers)
            yield connection.getresponse()
        finally:
            connection.close()

    @property
    def idle(self) -> bool:
        return not self.downloads._under_way

    def still_lets_boards_join(self) -> bool:
        with self.asked("/v1/ca", None) as answer:
            return answer.status == 200 and answer.read() == self.ca.pem.encode()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def code(answer: http.client.HTTPResponse) -> str:
    return str(json.loads(answer.read())["code"])


def test_a_device_gets_the_blob_of_its_instruction_whole_and_in_ranges(bench: Bench) -> None:
    files = bench.files(DEVICE)
    path, size = blob_path(bench.ref.digest), bench.ref.size
    with bench.asked(path, files) as answer:
        assert (answer.status, answer.read()) == (200, bench.content)
    with bench.asked(path, files, Range=f"bytes=1000-{5 * MB}") as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes 1000-{5 * MB}/{size}"
        assert answer.read() == bench.content[1000 : 5 * MB + 1]
    with bench.asked(path, files, Range="bytes=-3") as answer:
        assert answer.read() == bench.content[-3:]
    with bench.asked(path, files, method="HEAD") as answer:
        assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, str(size), b"")
    assert until(lambda: bench.idle)
    assert bench.still_lets_boards_join()


def test_several_ranges_share_a_connection(bench: Bench) -> None:
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = secured = bench.connect(bench.files(DEVICE))
    for start in (0, 7, 8 * MB):
        connection.request("GET", blob_path(bench.ref.digest), headers={"Range": f"bytes={start}-{start + 999}"})
        assert connection.getresponse().read() == bench.content[start : start + 1000]
        assert connection.sock is secured
    connection.close()


def test_without_a_certificate_nothing_is_served(bench: Bench) -> None:
    with bench.asked(blob_path(bench.ref.digest), None) as answer:
        assert (answer.status, code(answer)) == (403, "download-refused")


def test_another_device_and_the_coordinator_itself_are_refused_whether_or_not_the_blob_is_there(bench: Bench) -> None:
    for files in (bench.files(OTHER), bench.ca.coordinator_tls()):
        for digest in (bench.ref.digest, bytes(32)):
            with bench.asked(blob_path(digest), files) as answer:
                assert (answer.status, code(answer)) == (403, "download-refused")


def test_one_certificate_of_a_device_may_be_refused_and_another_served(bench: Bench) -> None:
    stolen = bench.files(DEVICE)
    bench.revoked.add(x509.serial_text(x509.load_certificate(stolen.cert)))
    with bench.asked(blob_path(bench.ref.digest), stolen) as answer:
        assert (answer.status, code(answer)) == (403, "download-refused")
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE)) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("kind", ["foreign", "expired", "server"])
def test_a_certificate_that_is_not_a_devices_of_ours_does_not_pass_the_handshake(
    bench: Bench, kind: str, tmp_path: Path
) -> None:
    if kind == "server":
        files = bench.ca.issue_server(["127.0.0.1"], "enrolment")
    else:
        stranger = Pki(tmp_path / "stranger")
        stranger.certificate, stranger._key = (
            (stranger.certificate, stranger._key) if kind == "foreign" else (bench.ca.certificate, bench.ca._key)
        )
        theirs = stranger.client(DEVICE) if kind == "foreign" else stranger.expired_client(DEVICE)
        files = TlsFiles(bench.ca.ca_path, theirs.cert, theirs.key, x509.COORDINATOR)
    with pytest.raises(OSError), bench.asked(blob_path(bench.ref.digest), files) as answer:  # noqa: PT011  (which one is a race)
        answer.read()
    assert bench.still_lets_boards_join()


def test_a_blob_that_is_gone_is_named(bench: Bench) -> None:
    bench.blobs.delete(bench.ref.digest)
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE)) as answer:
        assert (answer.status, code(answer)) == (404, "blob-unknown")


@pytest.mark.parametrize(
    "header", ["bytes=", "bytes=x", "bytes=9-3", f"bytes={10 * MB}-", "bytes=0-1,5-6", "bytes=" + "9" * 5000, "bytes"]
)
def test_garbage_ranges_are_refused_by_name(bench: Bench, header: str) -> None:
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE), Range=header) as answer:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == f"bytes */{bench.ref.size}"
        assert code(answer) == "download-refused"
    assert bench.idle


def test_units_we_do_not_know_are_ignored_as_the_standard_says(bench: Bench) -> None:
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE), Range="lines=1-2") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("00", 400),
        ("G" * 64, 400),
        ("..%2f..%2fca%2fca.key", 404),
        ("../../ca/ca.key", 404),
        ("%00" * 64, 400),
        ("", 404),
    ],
)
def test_names_that_are_no_digests_reach_no_file(bench: Bench, name: str, status: int) -> None:
    with bench.asked(f"/v1/blobs/{name}", bench.files(DEVICE)) as answer:
        assert answer.status in (status, 404)
        assert b"PRIVATE" not in answer.read()


def test_a_reader_that_takes_nothing_is_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_connection, "CONNECTION_LIFE_S", 0.5)
    bench.ref = bench.blobs.put_bytes(bytes(64 * MB))  # more than the sockets take by themselves
    bench.rights.add((DEVICE, bench.ref.digest))
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE)) as answer:
        assert until(lambda: not bench.idle)
        assert until(lambda: bench.idle)
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.read()
    assert bench.still_lets_boards_join()


def test_a_device_that_says_nothing_is_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_connection, "CONNECTION_LIFE_S", 0.3)
    with bench.connect(bench.files(DEVICE)) as secured:
        secured.settimeout(20)
        with contextlib.suppress(OSError):
            secured.sendall(b"GET /v1/blobs/")
            assert secured.recv(1) == b""


def test_a_download_that_makes_progress_outlives_the_life_of_a_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_connection, "CONNECTION_LIFE_S", 1.0)
    bench.ref = bench.blobs.put_bytes(bytes(48 * MB))
    bench.rights.add((DEVICE, bench.ref.digest))
    clock, received = SystemClock(), 0
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE)) as answer:
        began = clock.monotonic()
        while piece := answer.read(2 * MB):
            received += len(piece)
            ends = began + 3.0 * received / bench.ref.size  # three seconds for all of it
            until(lambda ends=ends: clock.monotonic() >= ends)  # type: ignore[misc]  # the loop's own value
    assert received == bench.ref.size


def test_the_newest_downloads_of_a_device_win(bench: Bench) -> None:
    bench.ref = bench.blobs.put_bytes(bytes(64 * MB))
    bench.rights.add((DEVICE, bench.ref.digest))
    files = bench.files(DEVICE)
    with contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(bench.asked(blob_path(bench.ref.digest), files)) for _ in range(3)]
        with pytest.raises((OSError, http.client.HTTPException)):
            first.read()
        assert [len(each.read()) for each in others] == [bench.ref.size] * 2
    assert until(lambda: bench.idle)


def test_downloads_leave_room_for_boards_that_join(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MAX_DOWNLOADS", 1)
    bench.ref = bench.blobs.put_bytes(bytes(64 * MB))
    bench.rights |= {(DEVICE, bench.ref.digest), (OTHER, bench.ref.digest)}
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE)) as first:
        assert first.status == 200
        with bench.asked(blob_path(bench.ref.digest), bench.files(OTHER)) as second:
            assert (second.status, code(second)) == (503, "download-refused")
            assert second.headers["Connection"] == "close"
        assert bench.still_lets_boards_join()


def test_a_right_that_ends_ends_the_download(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "ASK_AGAIN_S", 0.0)
    bench.ref = bench.blobs.put_bytes(bytes(64 * MB))
    bench.rights.add((DEVICE, bench.ref.digest))
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE)) as answer:
        answer.read(MB)
        bench.rights.clear()
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.read()
    assert until(lambda: bench.idle)


def test_it_stops_in_time_and_in_silence_with_a_download_under_way(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ref = bench.blobs.put_bytes(bytes(64 * MB))
    bench.rights.add((DEVICE, bench.ref.digest))
    with bench.asked(blob_path(bench.ref.digest), bench.files(DEVICE)):
        assert until(lambda: not bench.idle)
        bench.server.stop()
    assert not bench.server.alive()
    assert bench.idle
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_only_large_blobs_have_urls_and_loopback_is_not_told_twice(bench: Bench) -> None:
    large = BlobRef(bytes(32), LARGE)
    port, path = bench.server.address[1], blob_path(large.digest)
    assert bench.server.blob_urls(large) == [
        f"https://127.0.0.1:{port}{path}",
        f"https://10.0.0.5:{port}{path}",
        f"https://[fd00::5]:{port}{path}",
    ]
    assert bench.server.blob_urls(BlobRef(bytes(32), LARGE - 1)) == []
    bench.server.stop()
    assert bench.server.blob_urls(large) == []
