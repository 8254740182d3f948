"""Boxes and signatures: X25519, HKDF-SHA256, an AEAD, P-256 (specs/secure-aggregation.md, 6). All of `cryptography`.

A box is for one holder in one round: its key is derived from a fresh key of the client's and a single-use prekey of the
holder's, and is used once, which is why its nonce may be zero.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from argosy_common.prg import Suite, derive
from argosy_common.statement import encoded

BOX_OVERHEAD = 16
"""Bytes of a box beyond its content."""
MOST_SIGNATURE = 72
PREKEY_BYTES = 32
_NONCE = bytes(12)

SigningKey = ec.EllipticCurvePrivateKey
VerifyingKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class BoxAddress:
    """What a box's key binds, beside the two keys that agree on it.

    Attributes:
        sid: of the round.
        client, holder: full fingerprints.
    """

    sid: bytes
    client: bytes
    holder: bytes


def seal(suite: Suite, ephemeral: X25519PrivateKey, prekey: bytes, address: BoxAddress, content: bytes) -> bytes:
    """Return the box for the holder of `prekey`.

    Raises:
        ValueError: a prekey that agrees on nothing secret, such as the all-zero one.
    """
    key = _box_key(ephemeral, prekey, raw_public(ephemeral), prekey, address)
    return _aead(suite, key).encrypt(_NONCE, content, None)


def unseal(suite: Suite, prekey: X25519PrivateKey, ephemeral: bytes, address: BoxAddress, box: bytes) -> bytes:
    """Return what is in a box.

    Raises:
        ValueError: it is not for this key and address, or was changed.
    """
    key = _box_key(prekey, ephemeral, ephemeral, raw_public(prekey), address)
    try:
        return _aead(suite, key).decrypt(_NONCE, box, None)
    except InvalidTag:
        raise ValueError("the box does not open") from None


def agrees(prekey: bytes) -> bool:
    """Tell whether a prekey agrees on something secret: nobody can seal a box to one that does not."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(prekey))
    except ValueError:
        return False
    return True


def _box_key(own: X25519PrivateKey, other: bytes, ephemeral: bytes, prekey: bytes, address: BoxAddress) -> bytes:
    shared = own.exchange(X25519PublicKey.from_public_bytes(other))  # refuses an all-zero result by ValueError
    return derive(shared, "argosy/secagg/box", address.sid, ephemeral, prekey, address.client, address.holder)


def _aead(suite: Suite, key: bytes) -> AESGCM | ChaCha20Poly1305:
    return AESGCM(key) if suite is Suite.AES else ChaCha20Poly1305(key)


def raw_public(key: X25519PrivateKey) -> bytes:
    """Return the 32 bytes of the public half."""
    return key.public_key().public_bytes_raw()


# --- identities -----------------------------------------------------------------------------------------------------


def public_der(key: VerifyingKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(der: bytes) -> bytes:
    """Return the full fingerprint of a public key: SHA-256 of its DER SubjectPublicKeyInfo."""
    return hashlib.sha256(der).digest()


@lru_cache(maxsize=1024)
def verifying_key(der: bytes) -> VerifyingKey:
    """Read a P-256 public key.

    Raises:
        ValueError: it is not one, or not in the one form that its fingerprint is taken of.
    """
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the public key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the public key is not one of P-256")  # noqa: TRY004  (a peer's fault, not the caller's)
    if public_der(key) != der:
        raise ValueError("the public key is in another form than the usual one")
    return key


def sign(key: SigningKey, purpose: str, *parts: bytes | int) -> bytes:
    """Sign a purpose and its parts; see `argosy_common.statement.encoded`."""
    return key.sign(encoded(purpose, *parts), ec.ECDSA(hashes.SHA256()))


def signed(key: VerifyingKey, signature: bytes, purpose: str, *parts: bytes | int) -> bool:
    """Tell whether `signature` is one of the key's under a purpose and its parts."""
    try:
        key.verify(signature, encoded(purpose, *parts), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
