"""A file under a passphrase: Scrypt makes the key, ChaCha20-Poly1305 seals it piece by piece, in order, to its end.

    "argosy sealed 1\\n" ‖ salt (16 bytes) ‖ pieces

A piece is at most 1 MiB, and its tag of 16 bytes. Its nonce is its number (11 bytes, big-endian) and a byte that is 1
in the last one only (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015): pieces that are missing,
doubled or in another order do not open, nor does a file that was cut between two. A key is used for one file only,
since the salt is random.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAGIC = b"argosy sealed 1\n"
SALT = 16
COST = 2**16
"""Of each guess at a passphrase: 64 MiB and about a second on a Raspberry Pi 4. A part of the format."""
PIECE = 1024 * 1024
TAG = 16


class SealBroken(Exception):
    """Another passphrase, or the file has changed."""


def _cipher(passphrase: bytes, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(Scrypt(salt=salt, length=32, n=COST, r=8, p=1).derive(passphrase))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


class Sealer(io.RawIOBase):
    """Seals what is written to it into `stream`. Closing it writes the last piece; `stream` stays open."""

    def __init__(self, stream: IO[bytes], passphrase: bytes, salt: bytes) -> None:
        self._stream = stream
        self._cipher = _cipher(passphrase, salt)
        self._number = 0
        self._left = bytearray()
        stream.write(MAGIC + salt)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Take bytes; a piece is sealed once it is known not to be the last one."""
        view = memoryview(data).cast("B")
        self._left += view
        while len(self._left) > PIECE:
            self._seal(last=False)
        return view.nbytes

    def close(self) -> None:
        """Seal what is left as the last piece."""
        try:
            if not self.closed:
                self._seal(last=True)
        finally:
            super().close()

    def _seal(self, *, last: bool) -> None:
        piece = bytes(self._left[:PIECE])
        self._stream.write(self._cipher.encrypt(_nonce(self._number, last=last), piece, MAGIC))
        del self._left[:PIECE]
        self._number += 1


class Opener(io.RawIOBase):
    """Reads what was sealed in `stream`, whose magic has been read."""

    def __init__(self, stream: IO[bytes], passphrase: bytes) -> None:
        self._stream = stream
        self._cipher = _cipher(passphrase, stream.read(SALT).ljust(SALT, b"\0"))
        self._number = 0
        self._ahead = stream.read(PIECE + TAG)
        self._piece = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` with what comes next.

        Raises:
            SealBroken: the piece does not open.
        """
        if not self._piece and not self._ended:
            self._open()
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._piece))
        target[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _open(self) -> None:
        sealed, self._ahead = self._ahead, self._stream.read(PIECE + TAG)
        self._ended = not self._ahead
        try:
            opened = self._cipher.decrypt(_nonce(self._number, last=self._ended), sealed, MAGIC)
        except InvalidTag:
            raise SealBroken from None
        self._number += 1
        self._piece = memoryview(opened)
