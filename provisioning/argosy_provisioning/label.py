"""A label for the board: text for people, and a QR code for a scanner. Nothing secret is on it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import segno

from argosy_common import x509
from argosy_common.errors import StorageFailed
from argosy_common.files import write_atomic
from argosy_provisioning.station import Enrolled

_FOR_ALL = 0o644
"""Labels are printed, by whoever does that."""
_DOTS = 8
"""Pixels, or units, for each module of the code."""


@dataclass(frozen=True)
class LabelFolder:
    """Where labels go."""

    path: Path

    def prepare(self) -> LabelFolder:
        """Make the folder, before anything happens to a board.

        Raises:
            StorageFailed: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(path=self.path, why=error.strerror or error) from None
        return self

    def write(self, board: Enrolled) -> list[Path]:
        """Write a board's text, SVG and PNG; return their paths.

        Raises:
            StorageFailed: the folder cannot be written.
        """
        files = {"txt": text(board).encode(), "svg": _code(board, "svg"), "png": _code(board, "png")}
        written = [self.path / f"{board.device}.{kind}" for kind in files]
        try:
            for path, data in zip(written, files.values(), strict=True):
                write_atomic(path, data, mode=_FOR_ALL)
        except OSError as error:
            raise StorageFailed(path=error.filename or self.path, why=error.strerror or error) from None
        return written


def text(board: Enrolled) -> str:
    """Return the label's text."""
    rows = {
        "name": board.name,
        "device": x509.in_groups(board.device),
        "site": board.site,
        "board": board.model,
        "coordinator": board.url,
    }
    return "".join(f"{title:<12}{_line(value)}\n" for title, value in rows.items())


def content(board: Enrolled) -> str:
    """Return what the QR code says; `argosy device show` takes the part after the last colon."""
    return f"argosy:device:{board.device}"


def _code(board: Enrolled, kind: str) -> bytes:
    out = io.BytesIO()
    segno.make(content(board), error="q", micro=False).save(out, kind=kind, scale=_DOTS)
    return out.getvalue()


def _line(value: str) -> str:
    """Return what a board told on one line, without control characters."""
    return "".join(char if char.isprintable() else " " for char in value)
