"""Reading a growing log file in pieces that never split a character."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from argosy_common.errors import StorageFailed

LARGEST_PIECE = 256 * 1024


@dataclass(frozen=True)
class LogPiece:
    """Text of a log, the offset in bytes where the next piece starts, and whether nothing follows at the moment."""

    text: str
    offset: int
    at_end: bool


def read_log(path: Path, offset: int) -> LogPiece:
    """Return what the log holds from byte `offset` on, at most `LARGEST_PIECE` bytes. A missing file is an empty log.

    Bytes that are not UTF-8 read as U+FFFD; an unfinished character at the end is left for the next piece.

    Raises:
        StorageFailed: the file is there and cannot be read.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(LARGEST_PIECE + 1)
    except FileNotFoundError:
        return LogPiece("", offset, at_end=True)
    except OSError as error:
        raise StorageFailed(path=path, why=error.strerror or error) from None
    at_end = len(data) <= LARGEST_PIECE
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data[:LARGEST_PIECE])
    unfinished = len(decoder.getstate()[0])
    return LogPiece(text, offset + min(len(data), LARGEST_PIECE) - unfinished, at_end)
