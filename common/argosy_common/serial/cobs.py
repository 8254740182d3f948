"""Consistent Overhead Byte Stuffing: any bytes as bytes without a zero, at a cost of one in 254.

Source: Cheshire and Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on Networking 7(2), 1999.
Each block is a code byte n and the n-1 non-zero bytes after it; a zero follows, unless n is 255 or it is the last.
"""

from __future__ import annotations

FULL = 255
"""The code of a block of 254 bytes that no zero follows."""


def encode(data: bytes) -> bytes:
    """Return `data` without zeros: at most 1 + len/254 bytes longer."""
    out = bytearray()
    for run in data.split(b"\0"):
        while len(run) >= FULL - 1:
            out.append(FULL)
            out += run[: FULL - 1]
            run = run[FULL - 1 :]  # noqa: PLW2901  (the rest of the same run)
        out.append(len(run) + 1)
        out += run
    return bytes(out)


def decode(stuffed: bytes) -> bytes | None:
    """Return what `encode` was given, or None where `stuffed` is not what `encode` makes of anything."""
    out = bytearray()
    at = 0
    while at < len(stuffed):
        code = stuffed[at]
        if code == 0:
            return None
        out += stuffed[at + 1 : at + code]
        at += code
        if code != FULL and at < len(stuffed):
            out.append(0)
    plain = bytes(out)
    return plain if encode(plain) == stuffed else None
