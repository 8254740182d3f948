"""A code on the wire or on disk: which codec, how many values, the payload, and a checksum over all of it.

    3 bytes   "AGC"
    1 byte    version, 1
    1 byte    length of the codec's name
              the name, ASCII
    8 bytes   number of values
    8 bytes   length of the payload
              the payload
    4 bytes   CRC-32 (zlib) of everything before it

Whole numbers are little-endian. A reader knows beforehand which codec and how many values it expects; nothing that the
bytes claim makes it take memory. The checksum finds accidents, not forgery: the link authenticates peers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from argosy_common.codec.base import Codec, Vector
from argosy_common.errors import CodeMalformed

MAGIC, VERSION = b"AGC", 1
LONGEST_NAME = 255

_SIZES = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")


def encode_frame(codec: Codec, values: Vector, rng: np.random.Generator) -> bytes:
    """Return `values` as a frame.

    Args:
        codec: how.
        values: shape (d,), float32, C-contiguous, any d ≥ 0.
        rng: the sender's private randomness.

    Raises:
        ValueError: NaN or infinity among the values, or values too large for the codec.
    """
    payload = codec.encode(values, rng)
    head = _head(codec, len(values), len(payload))
    return b"".join([head, payload, _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head)))])


def decode_frame(frame: bytes | memoryview, codec: Codec, size: int, *, peer: str) -> Iterator[Vector]:
    """Return the values of a frame as consecutive chunks, `size` values in all; the whole frame is checked at the call.

    A chunk may be a buffer that the next step overwrites.

    Args:
        frame: the bytes, as received.
        codec: the one that was agreed on.
        size: how many values the receiver expects.
        peer: who sent it, for the error.

    Raises:
        CodeMalformed: it is not a frame of `size` values by `codec`, or not whole, or damaged.
    """
    try:
        payload = _payload(memoryview(frame), codec, size)
        decoded = codec.decode(payload, size)
        first = next(decoded, None)  # some decoders check at their first step only
    except ValueError as error:
        raise CodeMalformed(peer=peer, codec=codec.name, why=str(error)) from None
    return _checked(first, decoded, codec, size, peer)


def decode_vector(frame: bytes | memoryview, codec: Codec, size: int, *, peer: str) -> Vector:
    """Return the values of a frame in a new array of shape (size,); see `decode_frame`.

    Raises:
        CodeMalformed: see `decode_frame`.
    """
    decoded = decode_frame(frame, codec, size, peer=peer)
    values, done = np.empty(size, np.float32), 0
    for chunk in decoded:
        values[done : done + len(chunk)] = chunk
        done += len(chunk)
    return values


def _head(codec: Codec, size: int, length: int) -> bytes:
    name = codec.name.encode("ascii")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a codec's name has at most {LONGEST_NAME} characters")
    return MAGIC + bytes([VERSION, len(name)]) + name + _SIZES.pack(size, length)


def _payload(frame: memoryview, codec: Codec, size: int) -> memoryview:
    """Return the payload once everything around it is as expected. Raises ValueError, whose text says what is not."""
    frame = frame.cast("B")
    if frame[:3] != MAGIC:
        raise ValueError("it is not a code of ours")
    if len(frame) < 5 or frame[3] != VERSION:
        raise ValueError(f"its format is not version {VERSION}")
    start = 5 + frame[4] + _SIZES.size
    if len(frame) < start + _CHECKSUM.size:
        raise ValueError("it is cut short")
    body = frame[: -_CHECKSUM.size]
    if frame[5 : 5 + frame[4]] != codec.name.encode("ascii"):
        name = bytes(frame[5 : 5 + frame[4]]).decode("ascii", "backslashreplace")
        raise ValueError(f"it is a code of '{name}'")
    values, length = _SIZES.unpack(frame[start - _SIZES.size : start])
    if values != size:
        raise ValueError(f"it holds {values} values, not {size}")
    if length != len(body) - start:
        raise ValueError(f"its payload is {len(body) - start} bytes, not {length}")
    if _CHECKSUM.unpack(frame[-_CHECKSUM.size :])[0] != zlib.crc32(body):
        raise ValueError("its checksum is wrong")
    return body[start:].toreadonly()


def _checked(first: Vector | None, rest: Iterator[Vector], codec: Codec, size: int, peer: str) -> Iterator[Vector]:
    done, chunk = 0, first
    try:
        while chunk is not None:
            done += len(chunk)
            if done > size:
                break
            yield chunk
            chunk = next(rest, None)
    except ValueError as error:
        raise CodeMalformed(peer=peer, codec=codec.name, why=str(error)) from None
    if done != size:
        raise CodeMalformed(peer=peer, codec=codec.name, why=f"it makes other than {size} values")
