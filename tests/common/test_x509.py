from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as cx509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from argosy_common import x509
from argosy_common.errors import CertificateInvalid, RequestInvalid

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_a_key_survives_its_file_and_is_private(tmp_path: Path) -> None:
    key = x509.generate_key()
    x509.save_key(tmp_path / "tls.key", key)
    assert stat.S_IMODE((tmp_path / "tls.key").stat().st_mode) == 0o600
    assert x509.load_key(tmp_path / "tls.key").private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_broken_key_file_is_a_named_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tls.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CertificateInvalid):
        x509.load_key(path)


def test_a_public_key_survives_its_file(tmp_path: Path) -> None:
    public = x509.generate_key().public_key()
    (tmp_path / "operator.pub").write_bytes(x509.public_pem(public))
    found = x509.load_public_key(tmp_path / "operator.pub")
    assert found == public
    assert x509.fingerprint(found).hex().startswith(x509.short_fingerprint(public))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "No such file"),
        (b"garbage", "not the PEM form"),
        (x509.public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()), "not the PEM form of a P-256"),
        (x509.key_pem(x509.generate_key()), "a private key"),
    ],
    ids=["no file", "garbage", "another curve", "a private key"],
)
def test_a_file_without_a_public_key_is_a_named_error(tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "operator.pub"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CertificateInvalid, match=named):
        x509.load_public_key(path)


def test_only_p256_keys_are_taken(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    path = tmp_path / "tls.key"
    path.write_bytes(x509.key_pem(other))
    with pytest.raises(CertificateInvalid, match="P-256"):
        x509.load_key(path)
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    rsa_pem = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for pem in (x509.public_pem(other.public_key()), rsa_pem):
        with pytest.raises(RequestInvalid, match="P-256"):
            x509.parse_public_pem(pem)
    csr = cx509.CertificateSigningRequestBuilder().subject_name(cx509.Name([])).sign(rsa_key, hashes.SHA256())
    with pytest.raises(RequestInvalid, match="P-256"):
        x509.verify_csr(csr.public_bytes(serialization.Encoding.PEM))


def test_device_id_and_node_id_name_the_same_eight_bytes() -> None:
    key = x509.generate_identity_key()
    device = x509.device_id(key.public_key())
    assert len(device) == 16
    assert x509.node_id(device).to_bytes(8, "big").hex() == device
    assert x509.node_id("ffffffffffffffff") == 2**64 - 1


def test_a_request_with_a_changed_byte_is_refused() -> None:
    key = x509.generate_key()
    csr = x509.verify_csr(x509.make_csr(key, "a board"))
    assert x509.csr_key(csr) == key.public_key()
    der = bytearray(x509.csr_der(csr))
    der[-1] ^= 1
    broken = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(RequestInvalid):
        x509.verify_csr(broken.encode())


@given(st.binary(max_size=300))
def test_hostile_bytes_are_refused_as_requests_keys_and_certificates(data: bytes) -> None:
    wrapped = b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n"
    for parse in (x509.verify_csr, x509.parse_public_pem, x509.parse_certificate):
        for pem in (data, wrapped, wrapped.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST")):
            with pytest.raises(RequestInvalid):
                parse(pem)


def test_an_enrolment_signature_holds_for_one_request_and_one_identity() -> None:
    identity, stranger, tls = (x509.generate_key() for _ in range(3))
    csr = x509.csr_der(x509.verify_csr(x509.make_csr(tls, "a board")))
    signature = x509.sign_enrolment(identity, csr)
    x509.verify_enrolment(identity.public_key(), csr, signature)
    for public, der, signed in (
        (stranger.public_key(), csr, signature),
        (identity.public_key(), csr + b"x", signature),
        (identity.public_key(), csr, b""),
    ):
        with pytest.raises(RequestInvalid):
            x509.verify_enrolment(public, der, signed)


def test_a_client_certificate_is_dated_a_day_back_and_lives_seven_days() -> None:
    ca_key = x509.generate_key()
    ca = x509.self_signed_ca(ca_key, "root", NOW)
    certificate = x509.issue_client(ca, ca_key, x509.generate_key().public_key(), "ab" * 8, NOW)
    assert certificate.not_valid_before_utc == NOW - timedelta(days=1)
    assert certificate.not_valid_after_utc == NOW + x509.DEVICE_LIFE
    assert x509.subject_cn(certificate) == "ab" * 8
    certificate.verify_directly_issued_by(ca)


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Shake hands over a socket pair; raises what the client raises."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True):
                pass
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    ours.settimeout(10)
    theirs.settimeout(10)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name):
            pass
    finally:
        ours.close()
        thread.join(10)


def _server_context(folder: Path, key: x509.PrivateKey, certificate: cx509.Certificate) -> ssl.SSLContext:
    x509.save_key(folder / "server.key", key)
    (folder / "server.crt").write_bytes(x509.certificate_pem(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return context


@pytest.mark.parametrize("issued_at", [datetime(1990, 1, 1, tzinfo=UTC), NOW, datetime(2090, 1, 1, tzinfo=UTC)])
def test_a_device_trusts_the_coordinator_whatever_its_clock_says(tmp_path: Path, issued_at: datetime) -> None:
    ca_key, key = x509.generate_key(), x509.generate_key()
    ca = x509.self_signed_ca(ca_key, "root", issued_at, life=timedelta(days=1))
    server = x509.issue_server(ca, ca_key, key.public_key(), ["127.0.0.1"], issued_at, life=timedelta(days=1))
    trust = x509.coordinator_trust(x509.certificate_pem(ca).decode())
    _handshake(trust, _server_context(tmp_path, key, server), x509.COORDINATOR)


def test_a_device_certificate_or_another_authority_cannot_pose_as_the_coordinator(tmp_path: Path) -> None:
    ca_key, other_key, key = (x509.generate_key() for _ in range(3))
    ca = x509.self_signed_ca(ca_key, "root", NOW)
    other = x509.self_signed_ca(other_key, "root", NOW)
    trust = x509.coordinator_trust(x509.certificate_pem(ca).decode())
    device = x509.issue_client(ca, ca_key, key.public_key(), x509.COORDINATOR, NOW)
    stranger = x509.issue_server(other, other_key, key.public_key(), [], NOW)
    for impostor in (device, stranger):
        with pytest.raises(ssl.SSLCertVerificationError):
            _handshake(trust, _server_context(tmp_path, key, impostor), x509.COORDINATOR)
