"""The pseudo-random generator of masks and dithers: a stream cipher's key stream, from `cryptography` alone.

A key is derived for one purpose from a secret or a public seed; its key stream, as unsigned little-endian words of one
or two bytes, gives uniform elements of a field by rejection, never by `mod p`. `tests/common/test_prg.py` fixes both by
test vectors: a board and its coordinator may run different versions.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from argosy_common.statement import encoded

SEED_BYTES = 32

Elements = NDArray[np.unsignedinteger[Any]]
"""uint8 where p ≤ 256, else uint16; values 0 … p−1."""


class Suite(StrEnum):
    """Which stream cipher; one a round, fixed in message 1."""

    AES = "aes256-ctr"
    """Where the CPU has AES instructions."""
    CHACHA = "chacha20"
    """Where it has not, as on a Raspberry Pi 4."""


def derive(secret: bytes, purpose: str, *parts: bytes | int) -> bytes:
    """Return 32 bytes: HKDF-SHA256 (RFC 5869, no salt) of `secret` for a purpose; see `encoded`."""
    return HKDF(hashes.SHA256(), 32, None, encoded(purpose, *parts)).derive(secret)


class KeyStream:
    """The key stream of one key, from its beginning. A key is used for one stream only."""

    def __init__(self, suite: Suite, key: bytes) -> None:
        """Begin a stream.

        Args:
            suite: the cipher.
            key: 32 bytes, of `derive`.
        """
        if len(key) != SEED_BYTES:
            raise ValueError(f"a key has {SEED_BYTES} bytes")
        nonce = bytes(16)
        cipher: Cipher[Any] = (
            Cipher(algorithms.AES256(key), modes.CTR(nonce))
            if suite is Suite.AES
            else Cipher(algorithms.ChaCha20(key, nonce), None)
        )
        self._next = cipher.encryptor()

    def draw(self, count: int) -> NDArray[np.uint8]:
        """Return the next `count` bytes, in an array of its own."""
        out = np.empty(count, np.uint8)
        self._next.update_into(bytes(count), out.data)
        return out


def uniform(suite: Suite, key: bytes, count: int, p: int) -> Elements:
    """Return `count` elements, uniform in 0 … p−1 and independent, as far as the cipher is one.

    Words of the stream that are ≥ p are left out, so each that is kept is as likely as any other.

    Args:
        suite: the cipher.
        key: 32 bytes.
        count: how many.
        p: 128 to 256, or 32769 to 65536, so that at least half of the words are kept.
    """
    dtype: np.dtype[Any] = np.dtype(np.uint8) if p <= 256 else np.dtype("<u2")
    if not 2 * p > 256**dtype.itemsize:
        raise ValueError(f"no elements mod {p} are drawn here")
    stream = KeyStream(suite, key)
    kept: list[Elements] = []
    missing = count
    while missing > 0:
        # the share that is rejected, and six standard deviations: nearly always one draw
        rejected = 1 - p / 256**dtype.itemsize
        words = int(missing / (1 - rejected) + 6 * (missing * rejected) ** 0.5) + 2
        drawn = stream.draw(words * dtype.itemsize).view(dtype)
        sound = drawn[drawn < p][:missing]
        kept.append(sound)
        missing -= len(sound)
    return np.concatenate(kept).astype(dtype.newbyteorder("="), copy=False) if kept else np.empty(0, dtype)
