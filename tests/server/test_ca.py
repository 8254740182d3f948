from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from argosy_common import x509
from argosy_common.errors import CertificateInvalid, StorageFailed
from argosy_server.ca import CertificateAuthority


class FixedClock:
    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.now.timestamp()

    def wall(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


def test_the_pin_survives_a_restart_and_a_lost_certificate(tmp_path: Path, clock: FixedClock) -> None:
    pin = CertificateAuthority.open(tmp_path / "ca", clock).pin
    assert CertificateAuthority.open(tmp_path / "ca", clock).pin == pin
    (tmp_path / "ca" / "ca.crt").unlink()
    again = CertificateAuthority.open(tmp_path / "ca", clock)
    assert again.pin == pin
    assert again.ca_path.read_text() == again.pem


def test_a_lost_or_foreign_key_is_a_named_error_and_nothing_is_overwritten(tmp_path: Path, clock: FixedClock) -> None:
    CertificateAuthority.open(tmp_path / "ca", clock)
    key = tmp_path / "ca" / "ca.key"
    key.unlink()
    with pytest.raises(CertificateInvalid, match="missing"):
        CertificateAuthority.open(tmp_path / "ca", clock)
    x509.save_key(key, x509.generate_key())
    foreign = key.read_bytes()
    with pytest.raises(CertificateInvalid, match="does not belong"):
        CertificateAuthority.open(tmp_path / "ca", clock)
    assert key.read_bytes() == foreign


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path, clock: FixedClock) -> None:
    (tmp_path / "ca").write_text("a file")
    with pytest.raises(StorageFailed):
        CertificateAuthority.open(tmp_path / "ca", clock)


def test_server_files_are_kept_while_they_fit_and_replaced_when_they_do_not(tmp_path: Path, clock: FixedClock) -> None:
    ca = CertificateAuthority.open(tmp_path, clock)
    files = ca.issue_server(["pi.local", "10.0.0.5"])
    first = files.cert.read_bytes()
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert ca.issue_server(["10.0.0.5", "pi.local"]) == files
    assert files.cert.read_bytes() == first
    second = ca.issue_server(["10.0.0.6"]).cert.read_bytes()
    assert second != first
    clock.now += timedelta(days=600)
    assert ca.issue_server(["10.0.0.6"]).cert.read_bytes() != second
    files.key.write_bytes(b"garbage")
    ca.issue_server(["10.0.0.6"])
    assert x509.same_key(x509.load_certificate(files.cert), x509.load_key(files.key).public_key())


def test_certificates_of_another_authority_are_replaced(tmp_path: Path, clock: FixedClock) -> None:
    CertificateAuthority.open(tmp_path, clock).coordinator_tls()
    for name in ("ca.key", "ca.crt"):
        (tmp_path / name).unlink()
    ca = CertificateAuthority.open(tmp_path, clock)
    x509.load_certificate(ca.coordinator_tls().cert).verify_directly_issued_by(ca.certificate)


def test_the_coordinator_and_devices_get_client_certificates_by_name(tmp_path: Path, clock: FixedClock) -> None:
    ca = CertificateAuthority.open(tmp_path, clock)
    files = ca.coordinator_tls()
    before = files.cert.read_bytes()
    assert x509.subject_cn(x509.load_certificate(files.cert)) == "coordinator"
    assert ca.coordinator_tls().cert.read_bytes() == before
    device = ca.issue_device("ab" * 8, x509.generate_key().public_key())
    assert x509.subject_cn(device) == "ab" * 8
    assert device.not_valid_after_utc == clock.now + x509.DEVICE_LIFE
    device.verify_directly_issued_by(ca.certificate)
