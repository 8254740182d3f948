"""The HTTPS server itself: real TLS on a free port, spoken to in raw bytes."""

from __future__ import annotations

import json
import socket
import ssl
import threading

import pytest

from argosy_common import x509
from argosy_common.enrolment import MAX_BODY
from argosy_common.errors import PortInUse, SettingsInvalid, StorageFailed
from argosy_server.ca import CertificateAuthority
from argosy_server.enrolment import EnrolmentServer
from argosy_server.store import Store
from tests.server.enrolment.conftest import SetClock


def _say(server: EnrolmentServer, ca: CertificateAuthority, data: bytes) -> tuple[int, bytes]:
    """Send raw bytes over TLS verified against the CA; return the status and the body (0 where none came)."""
    context = x509.coordinator_trust(ca.pem)
    with (
        socket.create_connection(("127.0.0.1", server.address[1]), 20) as plain,
        context.wrap_socket(plain, server_hostname=x509.COORDINATOR) as secured,
    ):
        received = b""
        try:
            secured.sendall(data)
            while piece := secured.recv(65536):
                received += piece
        except (ConnectionError, ssl.SSLError):
            pass  # it may hang up on hostile bytes at any moment
    head, _, body = received.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body


def _post(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode() + body


_GET_CA = b"GET /v1/ca HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_the_authority_is_given_to_anybody_over_tls_1_3_only(server: EnrolmentServer, ca: CertificateAuthority) -> None:
    assert _say(server, ca, _GET_CA) == (200, ca.pem.encode())
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_verify_locations(cadata=ca.pem)
    with (
        socket.create_connection(("127.0.0.1", server.address[1]), 20) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain, server_hostname=x509.COORDINATOR)


@pytest.mark.parametrize("size", [0, 1, 100, 10_000, MAX_BODY, MAX_BODY + 1, 4_000_000])
def test_hostile_bodies_of_every_size_are_refused_and_the_server_goes_on(
    server: EnrolmentServer, ca: CertificateAuthority, store: Store, size: int
) -> None:
    status, body = _say(server, ca, _post(b"{" * size))
    if size <= MAX_BODY:  # on longer ones the server may hang up while we still send
        assert status == 400
        assert json.loads(body)["code"] == "request-invalid"
    else:
        assert status in (0, 400)
    assert _say(server, ca, _GET_CA)[0] == 200
    assert store.audit.tail()[-1].action == "device.enrol-refused"


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 1000,
        b"GET " + b"/" * 200_000,
        b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 50_000,
        b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"DELETE /v1/enrol HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_request_of_ours_changes_nothing(
    server: EnrolmentServer, ca: CertificateAuthority, data: bytes
) -> None:
    assert _say(server, ca, data)[0] in (0, 400, 404, 405)
    assert _say(server, ca, _GET_CA)[0] == 200


def test_a_stranger_who_hangs_up_half_way_changes_nothing(server: EnrolmentServer, ca: CertificateAuthority) -> None:
    context = x509.coordinator_trust(ca.pem)
    for data in (b"", b"POST", _post(b"{", 5000)):
        with socket.create_connection(("127.0.0.1", server.address[1]), 20) as plain:
            if data:
                with context.wrap_socket(plain, server_hostname=x509.COORDINATOR) as secured:
                    secured.sendall(data)
    assert _say(server, ca, _GET_CA)[0] == 200


def test_troubles_of_the_coordinators_own_are_not_told_to_strangers(
    server: EnrolmentServer, ca: CertificateAuthority, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageFailed(path="/secret/path", why="it is on fire")

    monkeypatch.setattr(store.audit, "write", fail)
    status, body = _say(server, ca, _post(b"{}"))
    assert status == 503
    assert json.loads(body)["code"] == "storage-failed"
    assert b"secret" not in body


def test_a_port_in_use_and_a_foreign_address_are_named(
    server: EnrolmentServer, store: Store, ca: CertificateAuthority, clock: SetClock
) -> None:
    def other(host: str, port: int) -> EnrolmentServer:
        return EnrolmentServer(store, ca, clock=clock, host=host, port=port, hosts=["127.0.0.1"], brokers=list)

    with pytest.raises(PortInUse, match=str(server.address[1])):
        other(*server.address).start()
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(SettingsInvalid, match=r"enrolment\.host"):
            other(host, 0).start()
    unstarted = other("127.0.0.1", 0)
    unstarted.stop()
    assert server.alive()


def test_it_stops_in_time_with_connections_open_and_its_port_is_free_again(
    store: Store, ca: CertificateAuthority, clock: SetClock
) -> None:
    server = EnrolmentServer(store, ca, clock=clock, host="127.0.0.1", port=0, hosts=["127.0.0.1"], brokers=list)
    server.start()
    context = x509.coordinator_trust(ca.pem)
    with socket.create_connection(("127.0.0.1", server.address[1]), 20) as plain:
        context.check_hostname = True
        with context.wrap_socket(plain, server_hostname=x509.COORDINATOR) as secured:
            secured.sendall(_post(b"{", 5000))
            server.stop()
            assert not server.alive()
    again = EnrolmentServer(
        store, ca, clock=clock, host="127.0.0.1", port=server.address[1], hosts=["127.0.0.1"], brokers=list
    )
    again.start()
    assert again.url == f"https://127.0.0.1:{again.address[1]}"
    again.stop()
    again.stop()
    assert "enrolment" not in [thread.name for thread in threading.enumerate()]
