"""Certificate requests, and what an identity key says of one: whoever sends it holds both keys."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from argosy_common.errors import RequestInvalid
from argosy_common.x509.keys import PrivateKey, PublicKey, bounded, p256

_STATEMENT = b"argosy/enrol/v1"
_RENEWAL = b"argosy/renew/v1"


def make_csr(tls_key: PrivateKey, common_name: str = "argosy device") -> bytes:
    """Return a PEM certificate request signed by `tls_key`. The name is for people: the authority ignores it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(distinguished_name(common_name))
    return builder.sign(tls_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def verify_csr(pem: bytes) -> x509.CertificateSigningRequest:
    """Read a request and check that its sender holds the P-256 key in it.

    Raises:
        RequestInvalid: it cannot be read, has another kind of key, or its signature is wrong.
    """
    try:
        csr = x509.load_pem_x509_csr(bounded(pem))
        p256(csr.public_key())
        signed = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise RequestInvalid(why="the certificate request cannot be read") from None
    if not signed:
        raise RequestInvalid(why="the certificate request is not signed by its own key")
    return csr


def csr_key(csr: x509.CertificateSigningRequest) -> PublicKey:
    """Return the P-256 key of a verified request."""
    return p256(csr.public_key())


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


def distinguished_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
