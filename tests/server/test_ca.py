from __future__ import annotations

import contextlib
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as cx509

from argosy_common import x509
from argosy_common.errors import CertificateInvalid, StorageFailed
from argosy_server.ca import CertificateAuthority
from argosy_server.root_key import take_offline
from tests.client.power import Fuse, PowerCut


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
    (tmp_path / "ca" / "intermediate.key").unlink()
    with pytest.raises(CertificateInvalid, match="missing"):
        CertificateAuthority.open(tmp_path / "ca", clock)
    (tmp_path / "ca" / "ca.crt").rename(tmp_path / "saved.crt")
    with pytest.raises(CertificateInvalid, match="of no use without"):
        CertificateAuthority.open(tmp_path / "ca", clock)
    (tmp_path / "saved.crt").rename(tmp_path / "ca" / "ca.crt")
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
    for name in ("ca.key", "ca.crt", "intermediate.crt"):
        (tmp_path / name).unlink()
    ca = CertificateAuthority.open(tmp_path, clock)
    assert x509.chains_to(x509.load_chain(ca.coordinator_tls().cert), ca.certificate)


def test_the_coordinator_and_devices_get_client_certificates_by_name(tmp_path: Path, clock: FixedClock) -> None:
    ca = CertificateAuthority.open(tmp_path, clock)
    files = ca.coordinator_tls()
    before = files.cert.read_bytes()
    assert x509.subject_cn(x509.load_certificate(files.cert)) == "coordinator"
    assert ca.coordinator_tls().cert.read_bytes() == before
    chain = ca.issue_device("ab" * 8, x509.generate_key().public_key())
    device = chain[0]
    assert x509.subject_cn(device) == "ab" * 8
    assert device.not_valid_after_utc == clock.now + x509.DEVICE_LIFE
    assert x509.chains_to(chain, ca.certificate)


# --- two levels ----------------------------------------------------------------------------------------------------


def test_the_root_signs_nothing_but_the_intermediate(tmp_path: Path, clock: FixedClock) -> None:
    ca = CertificateAuthority.open(tmp_path, clock)
    issued = [x509.load_chain(files.cert) for files in (ca.issue_server(["pi"]), ca.coordinator_tls())]
    issued += [
        ca.issue_device("ab" * 8, x509.generate_key().public_key()),
        x509.parse_chain(ca.signer("models")[1].encode()),
    ]
    for chain in issued:
        assert chain[1:] == [ca.issuer]
        assert x509.chains_to(chain, ca.certificate)
        assert not x509.chains_to(chain[:1], ca.certificate)
    assert x509.issued_by(ca.issuer, ca.certificate)


def test_it_works_on_without_the_roots_key_and_under_the_same_pin(tmp_path: Path, clock: FixedClock) -> None:
    before = CertificateAuthority.open(tmp_path, clock)
    assert before.root_is_here
    (tmp_path / "ca.key").unlink()
    ca = CertificateAuthority.open(tmp_path, clock)
    assert not ca.root_is_here
    assert (ca.pin, ca.issuer) == (before.pin, before.issuer)
    assert x509.chains_to(ca.issue_device("ab" * 8, x509.generate_key().public_key()), ca.certificate)
    clock.now += timedelta(days=4.5 * 365)
    assert CertificateAuthority.open(tmp_path, clock).issuer == before.issuer, "late, and told of, but good still"


def test_a_root_that_goes_while_the_coordinator_runs_is_gone_for_it_too(tmp_path: Path, clock: FixedClock) -> None:
    ca = CertificateAuthority.open(tmp_path / "ca", clock)
    ca.write_crl([1])
    both = ca.crl_path.read_bytes()
    take_offline(tmp_path / "ca", tmp_path / "root.key")
    assert not ca.root_is_here
    ca.write_crl([1, 2])
    lists = ca.crl_path.read_bytes().split(b"-----BEGIN X509 CRL-----")
    assert len(lists) == 3
    assert both.endswith(lists[2]), "the root's own stays as it was"


def test_the_intermediate_is_renewed_in_time_with_its_key_and_its_name(tmp_path: Path, clock: FixedClock) -> None:
    before = CertificateAuthority.open(tmp_path, clock)
    device = before.issue_device("ab" * 8, x509.generate_key().public_key())
    clock.now += timedelta(days=4.5 * 365)
    ca = CertificateAuthority.open(tmp_path, clock)
    assert ca.issuer != before.issuer
    assert ca.issuer.not_valid_after_utc == clock.now + x509.INTERMEDIATE_LIFE
    assert x509.chains_to([device[0], ca.issuer], ca.certificate)


def test_an_offline_root_renews_the_intermediate_from_its_file(tmp_path: Path, clock: FixedClock) -> None:
    folder, stick = tmp_path / "ca", tmp_path / "root.key"
    before = CertificateAuthority.open(folder, clock)
    take_offline(folder, stick)
    clock.now += timedelta(days=365)
    renewed = CertificateAuthority.renew(folder, clock, stick)
    assert renewed.issuer.not_valid_after_utc == clock.now + x509.INTERMEDIATE_LIFE
    again = CertificateAuthority.open(folder, clock)
    assert (again.issuer, again.pin, again.root_is_here) == (renewed.issuer, before.pin, False)
    other = tmp_path / "other.key"
    x509.save_key(other, x509.generate_key())
    with pytest.raises(CertificateInvalid, match="does not belong"):
        CertificateAuthority.renew(folder, clock, other)
    assert CertificateAuthority.open(folder, clock).issuer == renewed.issuer


@pytest.mark.parametrize("what", ["nothing", "a device of the root's own", "an intermediate"])
def test_the_power_may_be_cut_between_any_two_files(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for allowed in range(20):
        folder = tmp_path / f"ca-{allowed}"
        if what != "nothing":
            CertificateAuthority.open(folder, clock)
        if what == "a device of the root's own":  # as the first versions left it
            for name in ("intermediate.key", "intermediate.crt"):
                (folder / name).unlink()
        if what == "an intermediate":
            clock.now += timedelta(days=4.5 * 365)
        with monkeypatch.context() as patched:
            fuse = Fuse(patched, allowed)
            with contextlib.suppress(PowerCut):
                CertificateAuthority.open(folder, clock)
        ca = CertificateAuthority.open(folder, clock)
        assert x509.chains_to(ca.issue_device("ab" * 8, x509.generate_key().public_key()), ca.certificate)
        if not fuse.blown:
            return
    raise AssertionError("it never came to an end")


# --- taking the root offline ---------------------------------------------------------------------------------------


def test_the_roots_key_is_moved_whole_and_private_wherever_the_power_is_cut(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for allowed in range(10):
        folder, stick = tmp_path / f"ca-{allowed}", tmp_path / f"stick-{allowed}.key"
        CertificateAuthority.open(folder, clock)
        key = (folder / "ca.key").read_bytes()
        with monkeypatch.context() as patched:
            fuse = Fuse(patched, allowed)
            with contextlib.suppress(PowerCut):
                take_offline(folder, stick)
        assert key in [path.read_bytes() for path in (folder / "ca.key", stick) if path.exists()]
        if fuse.blown:
            take_offline(folder, stick)
        assert not (folder / "ca.key").exists()
        assert stick.read_bytes() == key
        assert stat.S_IMODE(stick.stat().st_mode) == 0o600
        if not fuse.blown:
            return
    raise AssertionError("it never came to an end")


def test_it_is_not_moved_where_it_would_be_lost_or_stay(tmp_path: Path, clock: FixedClock) -> None:
    folder = tmp_path / "ca"
    CertificateAuthority.open(folder, clock)
    other = tmp_path / "other.key"
    x509.save_key(other, x509.generate_key())
    with pytest.raises(CertificateInvalid, match="another key"):
        take_offline(folder, other)
    with pytest.raises(CertificateInvalid, match="not off the coordinator"):
        take_offline(folder, folder / "saved" / "root.key")
    with pytest.raises(StorageFailed):
        take_offline(folder, tmp_path / "no such folder" / "root.key")
    (folder / "intermediate.crt").unlink()
    with pytest.raises(CertificateInvalid):
        take_offline(folder, tmp_path / "root.key")
    assert (folder / "ca.key").exists()


# --- clocks that jump


DECADE = timedelta(days=3652)


@pytest.mark.parametrize("jump", [DECADE, -DECADE], ids=["ahead", "back"])
def test_what_was_made_while_the_clock_was_wrong_is_made_anew_once_it_is_right(
    tmp_path: Path, clock: FixedClock, jump: timedelta
) -> None:
    folder, right = tmp_path / "ca", clock.now
    first = CertificateAuthority.open(folder, clock)
    first.coordinator_tls()
    for clock.now in (right + jump, right):
        again = CertificateAuthority.open(folder, clock)
        mine = x509.load_certificate(again.coordinator_tls().cert)
        lists = cx509.load_pem_x509_crl(again.write_crl([]).read_bytes())
        assert again.list_holds()
        for begins in (again.certificate.not_valid_before_utc, again.issuer.not_valid_before_utc):
            assert begins <= clock.now
        assert mine.not_valid_before_utc <= clock.now < mine.not_valid_after_utc
        assert lists.last_update_utc <= clock.now
    assert again.pin == first.pin
    assert again.issuer.subject == first.issuer.subject
    assert again.issuer.not_valid_after_utc > right
