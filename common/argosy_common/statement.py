"""What is signed, or keys are derived for: a purpose and its parts as one string of bytes. Light: daemons check too."""

from __future__ import annotations


def encoded(purpose: str, *parts: bytes | int) -> bytes:
    """Return a purpose and its parts as one string of bytes that no other purpose and parts give.

    Each is preceded by its length (u32, big-endian); an integer is eight bytes, big-endian.
    """
    pieces: list[bytes] = []
    for each in (purpose.encode(), *parts):
        piece = each.to_bytes(8, "big") if isinstance(each, int) else each
        pieces += (len(piece).to_bytes(4, "big"), piece)
    return b"".join(pieces)
