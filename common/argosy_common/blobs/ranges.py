"""Blobs over HTTPS: the path, the size from which they go that way, and byte ranges as RFC 9110 writes them. Pure.

A download asks for one range at a time, so several ranges in one header are refused, not served as a multipart.
"""

from __future__ import annotations

import re

LARGE = 8_000_000
"""Bytes from which a blob is offered for download by HTTPS (specs/transport.md, "Blobs")."""
BLOBS_PATH = "/v1/blobs"
DIGEST = re.compile(r"[0-9a-f]{64}\Z")

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})\Z", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})\Z", re.ASCII)


def blob_path(digest: bytes) -> str:
    """Return the path under which a blob is served."""
    return f"{BLOBS_PATH}/{digest.hex()}"


def parse_range(header: str, size: int) -> tuple[int, int]:
    """Return the first byte and the byte behind the last one that a `Range` header asks of `size` bytes (section 14.2).

    Raises:
        ValueError: it is no single range of bytes, or lies outside.
    """
    match = _RANGE.match(header.strip())
    if match is None:
        raise ValueError("it does not read bytes=FIRST-LAST")
    first, last = match.groups()
    if not first:
        count = int(last or 0)
        start, end = max(0, size - count), size
    else:
        start = int(first)
        end = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            raise ValueError("its last byte is before its first")
    if start >= end:
        raise ValueError(f"it lies outside the {size} bytes there are")
    return start, end


def range_header(start: int, end: int) -> str:
    """Return the `Range` header that asks for the bytes `start` … `end`−1."""
    return f"bytes={start}-{end - 1}"


def content_range(start: int, end: int, size: int) -> str:
    """Return the `Content-Range` of an answer with these bytes (section 14.4)."""
    return f"bytes {start}-{end - 1}/{size}"


def parse_content_range(header: str) -> tuple[int, int, int]:
    """Return first byte, byte behind the last one, and size of the whole.

    Raises:
        ValueError: it is none.
    """
    match = _CONTENT_RANGE.match(header.strip())
    if match is None:
        raise ValueError("the answer has no usable Content-Range")
    first, last, size = map(int, match.groups())
    return first, last + 1, size
