"""What the coordinator writes down of secure rounds: who was asked, which set was handed over, how it ended. Light.

An attempt is on disk before any device is told of it, and so is its set before any holder is. What an attempt ended
with is kept for the rule of attempts: devices answer the same instruction again only with proof of that
(specs/secure-aggregation.md, 3). One file an instruction, written by runs; one an override, put there by the daemon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from argosy_common.blobs.store import storage_errors
from argosy_common.files import private_folder, write_atomic
from argosy_common.secagg.canonical import Digest, Message

PEER = "the coordinator's ledger"
OPEN = "open"
"""The folder of the messages 1 of attempts of which nothing shows how they ended, by sid."""
OVERRIDES = "overrides"
"""The folder of the operator's signatures, by the sid of the attempt."""
_PAGE = re.compile(r"[0-9a-f]{64}")


class Attempt(Message):
    """A group's attempt at an instruction."""

    sid: Digest
    attempt: int
    at: Annotated[int, Field(ge=0)] = 0
    """When this was written, in seconds since 1970. For people."""
    members: Annotated[tuple[Digest, ...], Field(max_length=256)]
    """Fingerprints of the group."""
    updates: int = 0
    """How many of them are known to have answered."""
    root: bytes = b""
    """Of the set that was handed over; empty before."""
    certificate: bytes = b""
    """How it ended; empty: undecided."""
    released: Annotated[tuple[Digest, ...], Field(max_length=256)] = ()
    """Fingerprints of the only set that may be summed from now on: the certified one, or the one that this attempt was
    bound to itself; empty: any."""


@dataclass(frozen=True)
class Undecided:
    """An attempt of which nothing shows how it ended."""

    attempt: Attempt
    overridden: bool
    """Whether the operator has signed that it may count as given up."""


class _Page(Message):
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=4096)]


class Ledger:
    """Attempts by instruction; in files of a folder, or in memory where there is none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = None if folder is None else private_folder(folder)
        self._pages: dict[bytes, _Page] = {}
        self._overrides: dict[bytes, bytes] = {}
        self._open: dict[bytes, bytes] = {}

    def attempts(self, instruction: bytes) -> tuple[Attempt, ...]:
        """Return the attempts at this instruction that devices may be bound by, the best to go on from first.

        Devices go on from the attempt that they answered last, and only if it is shown how that ended: first comes the
        operator's word, then the last certificate.

        Raises:
            SecureMessageMalformed: the file is damaged.
            StorageFailed: it cannot be read.
        """
        found = self._page(instruction)
        overridden = [it for it in reversed(found) if not it.certificate and self.override(it.sid)]
        certified = [it for it in reversed(found) if it.certificate]
        return (*overridden, *certified, *(it for it in found if not it.certificate and it not in overridden))

    def write(self, instruction: bytes, attempt: Attempt) -> None:
        """Write an attempt down, in place of what is there of its sid, and of what no longer matters.

        A set that is handed over is of at least half of a group, so that most of it is bound by this attempt now. One
        that was given up before binds few or none, and undecided ones before it stay for the operator to override.

        Raises:
            SecureMessageMalformed: the file is damaged.
            StorageFailed, DiskFull: it is not on disk; whatever was to follow must not.
        """
        others = [it for it in self._page(instruction) if it.sid != attempt.sid]
        earlier = [it for it in others if not set(attempt.members).isdisjoint(it.members)]
        if attempt.root:
            others = [it for it in others if it not in earlier]
        elif attempt.certificate and attempt.updates:
            others = [it for it in others if it not in earlier or not it.certificate]
        binds = bool(attempt.updates) or not attempt.certificate or not earlier
        page = _Page(attempts=(*others, attempt) if binds else tuple(others))
        if self._folder is None:
            self._pages[instruction] = page
        else:
            self._write(self._folder / instruction.hex(), page.packed)
        if attempt.certificate:
            self._forget_open(attempt.sid)

    # --- messages 1, for whoever has to end what another process began

    def keep_open(self, sid: bytes, message_1: bytes) -> None:
        """Keep what an attempt was announced with, until it is written how it ended.

        Raises:
            StorageFailed, DiskFull: it is not on disk.
        """
        if self._folder is None:
            self._open[sid] = message_1
            return
        self._write_in(self._folder / OPEN, sid, message_1)

    def message_1(self, sid: bytes) -> bytes:
        """Return what an attempt was announced with; empty where that is not known any more.

        Raises:
            StorageFailed: it cannot be read.
        """
        if self._folder is None:
            return self._open.get(sid, b"")
        return _read_if_any(self._folder / OPEN / sid.hex())

    def _forget_open(self, sid: bytes) -> None:
        self._open.pop(sid, None)
        if self._folder is not None:
            path = self._folder / OPEN / sid.hex()
            with storage_errors(path):
                path.unlink(missing_ok=True)

    # --- what is open

    def undecided(self) -> list[Undecided]:
        """Return the attempts of which nothing shows how they ended, the latest last.

        Raises:
            SecureMessageMalformed: a file is damaged.
            StorageFailed: one cannot be read.
        """
        found = [it for instruction in self._instructions() for it in self._page(instruction) if not it.certificate]
        return [Undecided(it, bool(self.override(it.sid))) for it in sorted(found, key=lambda it: it.at)]

    # --- the operator's overrides

    def override(self, sid: bytes) -> bytes:
        """Return the operator's signature on an attempt; empty: none.

        Raises:
            StorageFailed: it cannot be read.
        """
        if self._folder is None:
            return self._overrides.get(sid, b"")
        return _read_if_any(self._folder / OVERRIDES / sid.hex())

    def write_override(self, sid: bytes, signature: bytes) -> None:
        """Keep the operator's signature on an attempt, checked by whoever brings it.

        Raises:
            StorageFailed, DiskFull: it cannot be kept.
        """
        if self._folder is None:
            self._overrides[sid] = signature
            return
        self._write_in(self._folder / OVERRIDES, sid, signature)

    # --- inside

    def _instructions(self) -> list[bytes]:
        if self._folder is None:
            return list(self._pages)
        with storage_errors(self._folder):
            return [bytes.fromhex(it.name) for it in self._folder.iterdir() if _PAGE.fullmatch(it.name)]

    def _page(self, instruction: bytes) -> tuple[Attempt, ...]:
        if self._folder is None:
            page = self._pages.get(instruction)
            return page.attempts if page else ()
        path = self._folder / instruction.hex()
        with storage_errors(path):
            return _Page.parse(path.read_bytes(), peer=PEER).attempts if path.exists() else ()

    def _write(self, path: Path, data: bytes) -> None:
        with storage_errors(path, len(data)):
            write_atomic(path, data)

    def _write_in(self, folder: Path, sid: bytes, data: bytes) -> None:
        with storage_errors(folder):
            private_folder(folder)
        self._write(folder / sid.hex(), data)


def _read_if_any(path: Path) -> bytes:
    with storage_errors(path):
        return path.read_bytes() if path.exists() else b""
