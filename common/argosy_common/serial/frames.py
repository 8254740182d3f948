"""Frames: one fragment each, between zero bytes, found again among boot messages, login prompts and noise.

    offset  bytes  field
         0      1  type       `FrameType`
         1      4  seq        the exchange it belongs to, big-endian
         5      1  index      of the fragment, from 0
         6      1  count      of fragments, 1 to 255; greater than index
         7      1  length     of the payload, 0 to 128
         8      n  payload
       8+n      4  crc        CRC-32 (zlib) of all before it, big-endian

CRC-32 finds every error of up to three bits, and every burst of up to 32, in a frame of this size (Koopman, 2002).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from argosy_common.serial import cobs

MAX_PAYLOAD = 128
MAX_COUNT = 255
MAX_MESSAGE = MAX_COUNT * MAX_PAYLOAD

_HEAD = struct.Struct(">BIBBB")
_CRC = struct.Struct(">I")
_MAX_STUFFED = _HEAD.size + MAX_PAYLOAD + _CRC.size + 1


class FrameType(IntEnum):
    """Who says what. Each frame of the station gets one of the board; the board never speaks first."""

    ASK = 1
    """Station: a fragment of request `seq`."""
    HAVE = 2
    """Board: that fragment has come."""
    FETCH = 3
    """Station: give me fragment `index` of the answer to `seq`."""
    ANSWER = 4
    """Board: a fragment of the answer to `seq`."""
    LOST = 5
    """Board: there is no such answer here, since I have started anew. Begin again."""


@dataclass(frozen=True)
class Frame:
    """One frame."""

    type: FrameType
    seq: int
    index: int = 0
    count: int = 1
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """Return the frame as it goes over the cable, with the zero bytes around it."""
    body = _HEAD.pack(frame.type, frame.seq, frame.index, frame.count, len(frame.payload)) + frame.payload
    return b"\0" + cobs.encode(body + _CRC.pack(zlib.crc32(body))) + b"\0"


def fragments(kind: FrameType, seq: int, message: bytes) -> list[Frame]:
    """Cut a message of at most `MAX_MESSAGE` bytes into frames.

    Raises:
        ValueError: it is longer.
    """
    if len(message) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(message)} bytes; {MAX_MESSAGE} is the most")
    pieces = [message[at : at + MAX_PAYLOAD] for at in range(0, len(message), MAX_PAYLOAD)] or [b""]
    return [Frame(kind, seq, index, len(pieces), piece) for index, piece in enumerate(pieces)]


class FrameDecoder:
    """Takes bytes as they come, in pieces of any size, and finds the frames in them. Never raises."""

    def __init__(self) -> None:
        self.bytes_seen = 0
        self.frames_seen = 0
        self.bad_seen = 0
        """Stretches between two zeros that were thrown away: text, noise, frames with a wrong checksum."""
        self._open = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes."""
        self.bytes_seen += len(data)
        *ended, rest = data.split(b"\0")
        found: list[Frame] = []
        for stretch in ended:
            self._take(stretch)
            if self._open:
                frame = _parse(bytes(self._open))
                self._open.clear()
                if frame is None:
                    self.bad_seen += 1
                else:
                    found.append(frame)
        self._take(rest)
        self.frames_seen += len(found)
        return found

    def _take(self, stretch: bytes) -> None:
        """Keep what may still be a frame, and of what is too long just enough to know that it is."""
        self._open += stretch[: _MAX_STUFFED + 1 - len(self._open)]


def _parse(stuffed: bytes) -> Frame | None:
    plain = cobs.decode(stuffed) if len(stuffed) <= _MAX_STUFFED else None
    if plain is None or len(plain) < _HEAD.size + _CRC.size:
        return None
    body, crc = plain[: -_CRC.size], plain[-_CRC.size :]
    kind, seq, index, count, length = _HEAD.unpack_from(body)
    payload = body[_HEAD.size :]
    if crc != _CRC.pack(zlib.crc32(body)) or length != len(payload) or length > MAX_PAYLOAD or index >= count:
        return None
    try:
        return Frame(FrameType(kind), seq, index, count, payload)
    except ValueError:
        return None  # a type of a later version: whoever sent it waits in vain, and says so
