"""Keys and certificates: P-256 throughout, one private certificate authority, no public trust store anywhere.

Rules:
- A device has two keys: the *identity key* stays for life and gives the device its name; the *TLS key* is renewed.
- A request (CSR) proves only that its sender holds the key: its subject and extensions are never copied.
- A board's clock may stand in 1970. What a device verifies (the authority, the coordinator's server certificate) is
  therefore valid from 1970 on, and `coordinator_trust` leaves the time of day out altogether. What the coordinator
  verifies (a device's certificate) has honest dates, since the coordinator's clock is the one that is trusted.
- The root signs intermediates only, and may be offline; an intermediate issues all else. So what an end shows is its
  *chain*: its own certificate, then the intermediate's. Whoever has the root can check that. (A certificate that a root
  issued itself, as the first versions did, is a chain of one.)
- The coordinator is known by the name `COORDINATOR`, a subject alternative name of its server certificate, not by the
  address at which a device happens to reach it (NAT, port forwarding, DHCP).
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from argosy_common.errors import CertificateInvalid, RequestInvalid
from argosy_common.files import write_atomic

COORDINATOR = "coordinator"
"""Common name of the coordinator's certificates, and the name a device expects in its server certificate."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BACKDATED = timedelta(days=1)
CA_LIFE = timedelta(days=20 * 365)
INTERMEDIATE_LIFE = timedelta(days=5 * 365)
SERVER_LIFE = timedelta(days=825)
DEVICE_LIFE = timedelta(days=7)
"""Devices renew their certificates by themselves (`argosy_common.renewal`)."""

_STATEMENT = b"argosy/enrol/v1"
_RENEWAL = b"argosy/renew/v1"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h; Python's ssl has no name for it
_MAX_PEM = 16 * 1024
_MAX_CHAIN = 4

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


# --- keys ----------------------------------------------------------------------------------------------------------


def generate_key() -> PrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def generate_identity_key() -> PrivateKey:
    """Make a P-256 key whose node id Flower may use (it reserves 0 and 1)."""
    while True:
        key = generate_key()
        if node_id(device_id(key.public_key())) > 1:
            return key


def key_pem(key: PrivateKey) -> bytes:
    """Return the unencrypted PKCS #8 form, for a file that only its owner may read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def save_key(path: Path, key: PrivateKey) -> None:
    """Write a key readable by its owner only (0600), whole or not at all.

    Raises:
        OSError: as the file system reports it.
    """
    write_atomic(path, key_pem(key))


def load_key(path: Path) -> PrivateKey:
    """Read a P-256 key.

    Raises:
        CertificateInvalid: the file is missing, unreadable, or holds something else.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateInvalid(path=path, why=error) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid(path=path, why="it is not a P-256 key")
    return key


def public_der(key: PublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(key: PublicKey) -> bytes:
    """Return the PEM SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def parse_public_pem(pem: bytes) -> PublicKey:
    """Read a P-256 public key that came from outside.

    Raises:
        RequestInvalid: it is not one.
    """
    try:
        key = serialization.load_pem_public_key(_bounded(pem))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestInvalid(why="the public key cannot be read") from None
    return _p256(key)


def parse_public_der(der: bytes) -> PublicKey:
    """Read a P-256 public key from its DER SubjectPublicKeyInfo.

    Raises:
        RequestInvalid: it is not one.
    """
    try:
        key = serialization.load_der_public_key(_bounded(der))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestInvalid(why="the public key cannot be read") from None
    return _p256(key)


def load_public_key(path: Path) -> PublicKey:
    """Read the PEM file of a P-256 public key.

    Raises:
        CertificateInvalid: the file is missing, unreadable, or holds something else.
    """
    try:
        pem = path.read_bytes()
        if b"PRIVATE KEY" in pem:
            raise CertificateInvalid(path=path, why="it holds a private key, which is for its owner alone")
        return parse_public_pem(pem)
    except OSError as error:
        raise CertificateInvalid(path=path, why=error.strerror or error) from None
    except RequestInvalid:
        raise CertificateInvalid(path=path, why="it is not the PEM form of a P-256 public key") from None


def _p256(key: object) -> PublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestInvalid(why="only P-256 keys are taken")
    return key


def _bounded(pem: bytes) -> bytes:
    if len(pem) > _MAX_PEM:
        raise RequestInvalid(why=f"{len(pem)} bytes are too many for a key or a certificate request")
    return pem


# --- names ---------------------------------------------------------------------------------------------------------


def fingerprint(public: PublicKey) -> bytes:
    """Return what a key is known by: the SHA-256 (32 bytes) of its DER SubjectPublicKeyInfo."""
    return hashlib.sha256(public_der(public)).digest()


def short_fingerprint(public: PublicKey) -> str:
    """Return the first 16 hex digits of the fingerprint, for a person to compare."""
    return fingerprint(public)[:8].hex()


def device_id(identity: PublicKey) -> str:
    """Return the name of the device with this identity key: its short fingerprint."""
    return short_fingerprint(identity)


def in_groups(device: str) -> str:
    """Return a device id as a person compares it with another: `65a6 7278 f845 1c2d`."""
    return " ".join(device[at : at + 4] for at in range(0, len(device), 4))


def node_id(device: str) -> int:
    """Return Flower's integer for a device id: the same 8 bytes, unsigned, big-endian."""
    return int(device, 16)


def spki_pin(certificate: x509.Certificate) -> str:
    """Return `sha256:<hex>` of the certificate's public key, which a person compares or pastes."""
    return f"sha256:{fingerprint(certificate_key(certificate)).hex()}"


def subject_cn(certificate: x509.Certificate) -> str:
    """Return the subject's common name; empty where there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


# --- requests ------------------------------------------------------------------------------------------------------


def make_csr(tls_key: PrivateKey, common_name: str = "argosy device") -> bytes:
    """Return a PEM certificate request signed by `tls_key`. The name is for people: the authority ignores it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name))
    return builder.sign(tls_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def verify_csr(pem: bytes) -> x509.CertificateSigningRequest:
    """Read a request and check that its sender holds the P-256 key in it.

    Raises:
        RequestInvalid: it cannot be read, has another kind of key, or its signature is wrong.
    """
    try:
        csr = x509.load_pem_x509_csr(_bounded(pem))
        _p256(csr.public_key())
        signed = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise RequestInvalid(why="the certificate request cannot be read") from None
    if not signed:
        raise RequestInvalid(why="the certificate request is not signed by its own key")
    return csr


def csr_key(csr: x509.CertificateSigningRequest) -> PublicKey:
    """Return the P-256 key of a verified request."""
    return _p256(csr.public_key())


def csr_der(csr: x509.CertificateSigningRequest) -> bytes:
    """Return the bytes that name a request: two requests are the same if these are."""
    return csr.public_bytes(serialization.Encoding.DER)


def sign_enrolment(identity: PrivateKey, csr: bytes) -> bytes:
    """Sign a DER request with the identity key: ECDSA with SHA-256 over "argosy/enrol/v1" || SHA-256(request)."""
    return identity.sign(_STATEMENT + hashlib.sha256(csr).digest(), ec.ECDSA(hashes.SHA256()))


def verify_enrolment(identity: PublicKey, csr: bytes, signature: bytes) -> None:
    """Check what `sign_enrolment` made.

    Raises:
        RequestInvalid: the holder of the identity key did not sign this request.
    """
    try:
        identity.verify(signature, _STATEMENT + hashlib.sha256(csr).digest(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise RequestInvalid(why="the identity key did not sign this certificate request") from None


def sign_renewal(identity: PrivateKey, csr: bytes, serial: int) -> bytes:
    """Sign a DER request for the successor of the certificate with this serial number.

    ECDSA with SHA-256 over "argosy/renew/v1" || SHA-256(request) || serial (20 bytes, big-endian).
    """
    return identity.sign(_renewal(csr, serial), ec.ECDSA(hashes.SHA256()))


def verify_renewal(identity: PublicKey, csr: bytes, serial: int, signature: bytes) -> None:
    """Check what `sign_renewal` made.

    Raises:
        RequestInvalid: the holder of the identity key did not ask for this.
    """
    try:
        identity.verify(signature, _renewal(csr, serial), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise RequestInvalid(why="the identity key did not sign this renewal") from None


def _renewal(csr: bytes, serial: int) -> bytes:
    return _RENEWAL + hashlib.sha256(csr).digest() + serial.to_bytes(20, "big")


# --- certificates --------------------------------------------------------------------------------------------------


def self_signed_ca(key: PrivateKey, common_name: str, now: datetime, *, life: timedelta = CA_LIFE) -> x509.Certificate:
    """Make a root that may sign certificates of devices and of the coordinator, and one level of authority below."""
    usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
    builder = (
        _builder(common_name, key.public_key(), EPOCH, now + life)
        .issuer_name(_name(common_name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def issue_intermediate(
    root: x509.Certificate,
    root_key: PrivateKey,
    public: PublicKey,
    common_name: str,
    now: datetime,
    *,
    life: timedelta = INTERMEDIATE_LIFE,
) -> x509.Certificate:
    """Issue the certificate of an authority below the root, which issues no further one."""
    usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=True)
    return (
        _builder(common_name, public, EPOCH, now + life)
        .issuer_name(root.subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority(root_key), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def issue_server(
    ca: x509.Certificate,
    ca_key: PrivateKey,
    public: PublicKey,
    hosts: Iterable[str],
    now: datetime,
    *,
    life: timedelta = SERVER_LIFE,
) -> x509.Certificate:
    """Issue the coordinator's server certificate for `hosts` (names or IP addresses) and for the name `COORDINATOR`."""
    names: list[x509.GeneralName] = [_general_name(host) for host in dict.fromkeys([COORDINATOR, *hosts])]
    return _issue(
        ca,
        ca_key,
        _builder(COORDINATOR, public, EPOCH, now + life).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        ),
        ExtendedKeyUsageOID.SERVER_AUTH,
    )


def issue_client(
    ca: x509.Certificate,
    ca_key: PrivateKey,
    public: PublicKey,
    common_name: str,
    now: datetime,
    *,
    life: timedelta = DEVICE_LIFE,
) -> x509.Certificate:
    """Issue a client certificate for `common_name`, valid from a day ago for `life` from now."""
    builder = _builder(common_name, public, now - BACKDATED, now + life)
    return _issue(ca, ca_key, builder, ExtendedKeyUsageOID.CLIENT_AUTH)


def issue_signer(
    ca: x509.Certificate, ca_key: PrivateKey, public: PublicKey, common_name: str, now: datetime
) -> x509.Certificate:
    """Issue a certificate for signing what others run. Who checks signatures leaves dates out, so it is from 1970."""
    builder = _builder(common_name, public, EPOCH, now + SERVER_LIFE)
    return _issue(ca, ca_key, builder, ExtendedKeyUsageOID.CODE_SIGNING)


def _authority(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _issue(
    ca: x509.Certificate, ca_key: PrivateKey, builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier
) -> x509.Certificate:
    return (
        builder.issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(_authority(ca_key), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(common_name: str, public: PublicKey, start: datetime, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _usage(*, digital_signature: bool, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Read one PEM certificate with a P-256 key that came from outside.

    Raises:
        RequestInvalid: it is not one.
    """
    try:
        certificate = x509.load_pem_x509_certificate(_bounded(pem))
        certificate_key(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestInvalid(why="the certificate cannot be read") from None
    return certificate


def chain_pem(*chain: x509.Certificate) -> bytes:
    """Return the PEM form of several certificates, each issued by the next."""
    return b"".join(map(certificate_pem, chain))


def parse_chain(pem: bytes) -> list[x509.Certificate]:
    """Read a PEM chain that came from outside: a certificate, then its issuers' up to the root, which is left out.

    Raises:
        RequestInvalid: it is none, or longer than any of ours.
    """
    try:
        chain = x509.load_pem_x509_certificates(_bounded(pem))
        for certificate in chain:
            certificate_key(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestInvalid(why="the certificate cannot be read") from None
    if len(chain) > _MAX_CHAIN:
        raise RequestInvalid(why=f"{len(chain)} certificates are too many for a chain")
    return chain


def load_chain(path: Path) -> list[x509.Certificate]:
    """Read a chain of our own.

    Raises:
        CertificateInvalid: the file is missing, unreadable, or holds something else.
    """
    try:
        return parse_chain(path.read_bytes())
    except OSError as error:
        raise CertificateInvalid(path=path, why=error.strerror or error) from None
    except RequestInvalid as error:
        raise CertificateInvalid(path=path, why=error.facts["why"]) from None


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate of our own; of a chain, the first.

    Raises:
        CertificateInvalid: the file is missing, unreadable, or holds something else.
    """
    try:
        return parse_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateInvalid(path=path, why=error.strerror or error) from None
    except RequestInvalid:
        raise CertificateInvalid(path=path, why="it is not a certificate with a P-256 key") from None


def serial_text(certificate: x509.Certificate) -> str:
    """Return the serial number as messages and the database have it: hexadecimal."""
    return f"{certificate.serial_number:x}"


def certificate_key(certificate: x509.Certificate) -> PublicKey:
    """Return the P-256 key that a certificate is for.

    Raises:
        RequestInvalid: it is for another kind of key.
    """
    return _p256(certificate.public_key())


def same_key(certificate: x509.Certificate, public: PublicKey) -> bool:
    """Tell whether the certificate is for this key."""
    return certificate_key(certificate) == public


def may_sign_code(certificate: x509.Certificate) -> bool:
    """Tell whether `issue_signer` issued it, and nothing else of ours."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return list(usage) == [ExtendedKeyUsageOID.CODE_SIGNING]


def chains_to(chain: list[x509.Certificate], root: x509.Certificate) -> bool:
    """Tell whether each certificate of `chain` was issued by the next, and the last by `root`; no dates are looked at.

    An issuer must be an authority that may have as many authorities below it as it has here (RFC 5280, 6.1.4).
    """
    issuers = [*chain[1:], root]
    return bool(chain) and all(
        _may_issue(issuer, below) and issued_by(certificate, issuer)
        for below, (certificate, issuer) in enumerate(zip(chain, issuers, strict=True))
    )


def _may_issue(authority: x509.Certificate, below: int) -> bool:
    try:
        limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return limits.ca and usage.key_cert_sign and (limits.path_length is None or below <= limits.path_length)


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether this authority signed the certificate; dates are not looked at."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


# --- what a device trusts ------------------------------------------------------------------------------------------


def coordinator_trust(ca_pem: str) -> ssl.SSLContext:
    """Return the device's TLS 1.3 client context: this authority only, the server's name must be `COORDINATOR`.

    Pass `server_hostname=COORDINATOR` when wrapping a socket. OpenSSL verifies the chain, the signatures, the server
    purpose and the name, but not the dates: a board without a clock battery must be able to join and to connect
    (module docstring). A stolen server key is answered by a new authority, not by waiting for a date.

    Raises:
        ssl.SSLError: `ca_pem` is not a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca_pem)
    context.verify_flags |= _NO_CHECK_TIME
    return context
