"""Chunk frames, and how a blob is cut into chunks. Bytes and numbers in, values out; strict (spec: "Blobs").

A frame is a header of 48 bytes and the chunk's payload. Big-endian:

    bytes 0–1    magic        "AC"
    byte  2      version      1
    byte  3      flags        bit 0: acknowledge now (see `sender.py`); the others are 0
    bytes 4–35   digest       SHA-256 of the whole blob
    bytes 36–43  offset       of the payload in the blob
    bytes 44–47  crc          CRC-32 of the payload
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from argosy_common.errors import ChunkMalformed

MAGIC = b"AC"
VERSION = 1
ACK_NOW = 0x01
HEADER = struct.Struct("!2sBB32sQI")

MIN_CHUNK = 1024
MAX_CHUNK = 1024 * 1024
"""No frame is longer than this and its header: the brokers we ship with take no larger packets."""
CHUNK = 256 * 1024
SLOW_CHUNK = 64 * 1024
MAX_CHUNKS = 56 * 1024 * 8
"""As many as the bitmap of an `Accept` can name."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One chunk on its way. `payload` is a view into the received bytes, not a copy."""

    digest: bytes
    offset: int
    ack_now: bool
    payload: memoryview


def pack_frame(digest: bytes, offset: int, payload: bytes, *, ack_now: bool) -> bytes:
    """Return the wire form of a chunk."""
    flags = ACK_NOW if ack_now else 0
    return b"".join((HEADER.pack(MAGIC, VERSION, flags, digest, offset, zlib.crc32(payload)), payload))


def parse_frame(data: bytes, *, peer: str) -> Frame:
    """Check and return the chunk in `data`, which came from `peer` (named in errors only).

    Raises:
        ChunkMalformed: wrong length, magic, version, flags or checksum.
    """
    if not HEADER.size < len(data) <= HEADER.size + MAX_CHUNK:
        raise ChunkMalformed(peer=peer, why=f"it has {len(data)} bytes")
    magic, version, flags, digest, offset, crc = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ChunkMalformed(peer=peer, why="it does not begin as a chunk")
    if version != VERSION or flags & ~ACK_NOW:
        raise ChunkMalformed(peer=peer, why=f"its version {version} or flags {flags} are unknown")
    payload = memoryview(data)[HEADER.size :]
    if zlib.crc32(payload) != crc:
        raise ChunkMalformed(peer=peer, why="its checksum is wrong")
    return Frame(digest, offset, bool(flags & ACK_NOW), payload)


@dataclass(frozen=True, slots=True)
class Layout:
    """A blob of `size` bytes in chunks of `chunk` bytes; the last may be shorter."""

    size: int
    chunk: int

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return -(-self.size // self.chunk)

    def length(self, index: int) -> int:
        """Bytes in chunk `index`."""
        return min(self.chunk, self.size - index * self.chunk)

    def index_of(self, offset: int, length: int, *, peer: str) -> int:
        """Return the index of the chunk that lies at `offset` and has `length` bytes.

        Raises:
            ChunkMalformed: there is none.
        """
        index, rest = divmod(offset, self.chunk)
        if rest or index >= self.count or length != self.length(index):
            raise ChunkMalformed(peer=peer, why=f"{length} bytes at {offset} are no chunk of {self.size} bytes")
        return index

    @property
    def transferable(self) -> bool:
        """Whether a bitmap of an `Accept` can name every chunk."""
        return MIN_CHUNK <= self.chunk <= MAX_CHUNK and self.count <= MAX_CHUNKS


def layout_for(size: int, goodput: float | None) -> Layout:
    """Choose the chunk size for a blob of `size` bytes over a path that carries `goodput` bytes a second (if known).

    Small chunks on slow paths keep heartbeats from waiting behind them; a huge blob takes larger ones, so that its
    bitmap still fits into an `Accept`.
    """
    chunk = SLOW_CHUNK if goodput is not None and goodput < 2e6 else CHUNK
    while not Layout(size, chunk).transferable and chunk < MAX_CHUNK:
        chunk *= 2
    return Layout(size, chunk)
