"""What the coordinator writes down of secure rounds: which set was handed over, and how each attempt ended.

A set is on disk before any holder is told of it. What an attempt ended with is kept for the rule of attempts: devices
answer the same instruction again only with proof of that (specs/secure-aggregation.md, 3). One file an instruction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from argosy_common.files import private_folder, write_atomic
from argosy_common.secagg.messages import Digest, Message


class Attempt(Message):
    """One group's last attempt at an instruction."""

    sid: Digest
    attempt: int
    members: Annotated[tuple[Digest, ...], Field(max_length=256)]
    """Fingerprints of the group."""
    root: bytes = b""
    """Of the set that was handed over; empty before."""
    certificate: bytes = b""
    released: Annotated[tuple[Digest, ...], Field(max_length=256)] = ()
    """Fingerprints of the certified set; empty where it was given up, or is undecided."""


class _Page(Message):
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=4096)]


class Ledger:
    """Attempts by instruction; in files of a folder, or in memory where there is none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = None if folder is None else private_folder(folder)
        self._pages: dict[bytes, _Page] = {}

    def attempts(self, instruction: bytes) -> tuple[Attempt, ...]:
        """Return the last attempt of each group that was given this instruction.

        Raises:
            SecureMessageMalformed: the file is damaged.
            OSError: it cannot be read.
        """
        page = self._pages.get(instruction)
        path = self._path(instruction)
        if page is None and path is not None and path.exists():
            page = _Page.parse(path.read_bytes(), peer="the coordinator's ledger")
        return page.attempts if page is not None else ()

    def write(self, instruction: bytes, attempt: Attempt) -> None:
        """Write an attempt down, in place of the one with its sid, or of those by the same members.

        Raises:
            OSError: it is not on disk; whatever was to follow must not.
        """
        kept = [it for it in self.attempts(instruction) if it.sid != attempt.sid and it.members != attempt.members]
        page = _Page(attempts=(*kept, attempt))
        path = self._path(instruction)
        if path is not None:
            write_atomic(path, page.packed)
        else:
            self._pages[instruction] = page

    def _path(self, instruction: bytes) -> Path | None:
        return None if self._folder is None else self._folder / instruction.hex()
