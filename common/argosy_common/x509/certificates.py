"""Reading certificates and chains of them, and judging whether they hold together."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from argosy_common.errors import CertificateInvalid, RequestInvalid
from argosy_common.x509.keys import PublicKey, bounded, fingerprint, p256

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h; Python's ssl has no name for it
_MAX_CHAIN = 4


def spki_pin(certificate: x509.Certificate) -> str:
    """Return `sha256:<hex>` of the certificate's public key, which a person compares or pastes."""
    return f"sha256:{fingerprint(certificate_key(certificate)).hex()}"


def subject_cn(certificate: x509.Certificate) -> str:
    """Return the subject's common name; empty where there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Read one PEM certificate with a P-256 key that came from outside.

    Raises:
        RequestInvalid: it is not one.
    """
    try:
        certificate = x509.load_pem_x509_certificate(bounded(pem))
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
        chain = x509.load_pem_x509_certificates(bounded(pem))
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
    return p256(certificate.public_key())


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
