"""A device is shut out of a real Mosquitto while it is connected: at once, both ways, and for good."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509 as cx509

from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.link import Link, LinkSettings, TlsFiles
from argosy_common.wire.topics import DeviceTopics
from argosy_server.broker import Broker, open_broker
from argosy_server.ca import CertificateAuthority
from argosy_server.revocation import end_session
from argosy_server.root_key import take_offline
from argosy_server.settings import BrokerTable
from tests.waiting import until, up

A, B = DeviceTopics("default", "0a" * 8), DeviceTopics("default", "0b" * 8)


class Yard:
    """An authority, a broker that reads its list, and links to it."""

    def __init__(self, folder: Path) -> None:
        self.ca = CertificateAuthority.open(folder / "ca", SystemClock())
        self.crl = self.ca.write_crl([])
        self.files: dict[str, TlsFiles] = {}
        self.links: list[Link] = []
        settings = BrokerTable.model_validate({"kind": "mosquitto", "host": "127.0.0.1", "port": 0})
        tls = self.ca.issue_server(["127.0.0.1"], "broker")
        self.broker: Broker = open_broker(
            settings, tls, folder / "broker", clock=SystemClock(), rng=random.Random(1), crl=self.crl
        )
        self.folder = folder

    def issue_by_the_root(self, name: str) -> None:
        """Give a device a certificate as the first versions did, which had no intermediate."""
        key, root_key = x509.generate_key(), x509.load_key(self.ca.folder / "ca.key")
        issued = x509.issue_client(self.ca.certificate, root_key, key.public_key(), name, SystemClock().wall())
        files = TlsFiles(self.ca.ca_path, self.folder / f"{name}.crt", self.folder / f"{name}.key", x509.COORDINATOR)
        files.cert.write_bytes(x509.certificate_pem(issued))
        x509.save_key(files.key, key)
        self.files[name] = files

    def revoke(self, *names: str) -> None:
        self.ca.write_crl(self.serial(name) for name in names)
        self.broker.shut_out([])

    def link(self, name: str) -> Link:
        if name == x509.COORDINATOR:
            files = self.ca.coordinator_tls()
        elif name in self.files:
            files = self.files[name]
        else:
            key = x509.generate_key()
            files = TlsFiles(
                self.ca.ca_path, self.folder / f"{name}.crt", self.folder / f"{name}.key", x509.COORDINATOR
            )
            files.cert.write_bytes(x509.chain_pem(*self.ca.issue_device(name, key.public_key())))
            x509.save_key(files.key, key)
            self.files[name] = files
        host, port = self.broker.address
        settings = LinkSettings(host, port, name, files, backoff_cap_s=0.2)
        self.links.append(Link(settings, clock=SystemClock(), rng=random.Random(2)))
        return self.links[-1]

    def serial(self, name: str) -> int:
        return x509.load_certificate(self.files[name].cert).serial_number

    def end_session(self, device: str) -> bool:
        key, certificate = self.ca.issue_for_take_over(device)
        where = self.broker.address
        clock, rng = SystemClock(), random.Random(3)
        return end_session(device, key, certificate, self.ca.ca_path, where, clock=clock, rng=rng)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    made.broker.start()
    yield made
    for link in made.links:
        link.stop(1.0)
    made.broker.stop()


def test_an_entry_of_the_access_list_silences_a_live_session_both_ways(yard: Yard) -> None:
    seen: list[str] = []
    got: list[bytes] = []
    coordinator, a, b = yard.link(x509.COORDINATOR), yard.link(A.device), yard.link(B.device)
    coordinator.subscribe("argosy/v1/+/d/+/up/evt", lambda delivery: seen.append(delivery.topic), qos=1)
    a.subscribe(A.jobs, lambda delivery: got.append(delivery.payload), qos=1)
    for link in (coordinator, a, b):
        up(link)
    assert a.publish(A.events, b"before")
    assert coordinator.publish(A.jobs, b"before")
    assert until(lambda: seen == [A.events] and got == [b"before"])
    yard.broker.shut_out([A.device])

    def silenced() -> bool:
        seen.clear()
        a.publish(A.events, b"after")
        b.publish(B.events, b"")
        return until(lambda: B.events in seen, patience_s=5) and A.events not in seen

    assert until(silenced, patience_s=10)
    got.clear()
    assert coordinator.publish(A.jobs, b"after")
    assert not until(lambda: bool(got), patience_s=0.5)
    assert a.connected  # which is why the session must be ended besides
    yard.broker.shut_out([])
    assert until(lambda: a.publish(A.events, b"again") and A.events in seen)


def test_a_session_is_ended_and_its_owner_cannot_come_back_while_others_stay(yard: Yard) -> None:
    a, b = up(yard.link(A.device)), up(yard.link(B.device))
    downs: list[str] = []
    b.on_down(downs.append)
    yard.ca.write_crl([yard.serial(A.device)])
    yard.broker.shut_out([A.device])
    assert yard.end_session(A.device)
    assert until(lambda: not a.connected, patience_s=5)
    assert until(lambda: "revoked" in str(a.last_error)), a.last_error
    assert not a.connected
    assert downs == []
    assert b.publish(B.events, b"")
    again = yard.link(A.device)
    again.start()
    assert not again.wait_connected(1.0)


def test_lists_of_one_second_follow_one_another(yard: Yard) -> None:
    """OpenSSL keeps the first of two lists of the same date."""
    a, b = yard.link(A.device), yard.link(B.device)
    for count, link in enumerate((a, b), 1):
        revoked = [yard.serial(name) for name in (A.device, B.device)[:count]]
        yard.ca.write_crl(revoked)
        yard.broker.shut_out([])
        link.start()
        assert until(refused(link)), link.last_error
    made = cx509.load_pem_x509_crl(yard.crl.read_bytes())
    assert {each.serial_number for each in made} == {yard.serial(A.device), yard.serial(B.device)}
    assert made.next_update_utc is not None
    assert made.next_update_utc >= yard.ca.issuer.not_valid_after_utc
    yard.ca.write_crl([])
    yard.broker.shut_out([])
    assert a.wait_connected(10)


def refused(link: Link) -> Callable[[], bool]:
    """Whether the broker refuses it; one that came before the list was read again is made to come once more."""

    def is_refused() -> bool:
        if link.connected:
            link.reconnect()
        return "revoked" in str(link.last_error)

    return is_refused


def test_certificates_from_before_there_was_an_intermediate_are_good_and_can_be_revoked(yard: Yard) -> None:
    yard.issue_by_the_root(A.device)
    yard.issue_by_the_root(B.device)
    up(yard.link(A.device)).stop()
    yard.revoke(A.device)
    a = yard.link(A.device)
    a.start()
    assert until(refused(a)), a.last_error
    up(yard.link(B.device))


def test_with_the_root_offline_devices_are_revoked_as_before_and_its_own_list_stays_in_force(
    yard: Yard, tmp_path: Path
) -> None:
    for name in (A.device, B.device):
        yard.issue_by_the_root(name)
    yard.revoke(A.device)
    take_offline(yard.ca.folder, tmp_path / "root.key")
    yard.ca = CertificateAuthority.open(yard.ca.folder, SystemClock())
    c, d = "0c" * 8, "0d" * 8
    for name in (c, d):
        up(yard.link(name)).stop()
    yard.revoke(c)
    for name in (A.device, c):
        link = yard.link(name)
        link.start()
        assert until(refused(link)), link.last_error
    for name in (B.device, d):
        up(yard.link(name))


def test_what_ending_a_session_needs_is_gone_afterwards(yard: Yard) -> None:
    before = sorted(path.name for path in yard.ca.folder.iterdir())
    assert yard.end_session(A.device)
    assert sorted(path.name for path in yard.ca.folder.iterdir()) == before
    yard.broker.stop()
    assert not yard.end_session(A.device)
