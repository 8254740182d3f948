"""P-256 keys: making, reading and writing them, and what they are called."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from argosy_common.errors import CertificateInvalid, RequestInvalid
from argosy_common.files import write_atomic

_MAX_PEM = 16 * 1024
PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


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
        key = serialization.load_pem_public_key(bounded(pem))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestInvalid(why="the public key cannot be read") from None
    return p256(key)


def parse_public_der(der: bytes) -> PublicKey:
    """Read a P-256 public key from its DER SubjectPublicKeyInfo.

    Raises:
        RequestInvalid: it is not one.
    """
    try:
        key = serialization.load_der_public_key(bounded(der))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestInvalid(why="the public key cannot be read") from None
    return p256(key)


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


def p256(key: object) -> PublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestInvalid(why="only P-256 keys are taken")
    return key


def bounded(pem: bytes) -> bytes:
    if len(pem) > _MAX_PEM:
        raise RequestInvalid(why=f"{len(pem)} bytes are too many for a key or a certificate request")
    return pem


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
