"""How a board joins by itself at its first boot, from a file on its card (docs/operating.md, "From a flashed card").

    find the file → join → settings and name → hand over to the daemon's user → erase

Each step may be repeated: a power cut between any two leaves a board that goes on at the next boot. The file is erased
last, by overwriting it; one with a NUL in it is therefore one whose erasure was cut short. It is erased without success
only where the coordinator calls its token unknown, expired or used; the note beside it says what went wrong.
"""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from argosy_client.identity import Enrolment
from argosy_client.inventory import serial_number
from argosy_client.join import join
from argosy_client.settings import DEFAULT_FILE, load_settings, remember_name, shown_name
from argosy_common.backoff import Backoff
from argosy_common.blobs.store import storage_errors
from argosy_common.clock import Clock
from argosy_common.enrolment_file import FILE, NOTE, PLACES, EnrolmentFile
from argosy_common.errors import (
    AlreadyEnrolled,
    ArgosyError,
    EnrolmentFileInvalid,
    EnrolmentFileKept,
    EnrolmentUnreachable,
    NotEnrolled,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
    TooManyAttempts,
)
from argosy_common.files import give_to_owner, sync_folder, write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

_DEAD = (TokenExhausted, TokenExpired, TokenUnknown)
"""Nobody can join with such a token any more."""
_PASSING = (EnrolmentUnreachable, TooManyAttempts)
"""What a network that is not up yet looks like, and a coordinator that is busy."""
LONGEST_SERIAL = 40
"""Characters of a serial number in a board's name."""


@dataclass(frozen=True)
class Patience:
    """How long to try again while nobody answers: about `limit_s` seconds, and the last attempt's two minutes."""

    limit_s: float
    clock: Clock
    backoff: Backoff
    sleep: Callable[[float], None] = time.sleep

    def until_answered(self, attempt: Callable[[], Enrolment]) -> Enrolment:
        """Return what `attempt` returns; raise its last error when the time is over."""
        end = self.clock.monotonic() + self.limit_s
        while True:
            try:
                return attempt()
            except _PASSING as error:
                pause = self.backoff.next()
                if self.clock.monotonic() + pause > end:
                    raise
                log.info("first_boot.waiting", why=error.message, seconds=pause)
                self.sleep(pause)


def find(root: Path = Path("/")) -> Path | None:
    """Return the enrolment file of the board whose file system begins at `root`."""
    return next((file for place in PLACES if (file := root / place / FILE).exists()), None)


def first_boot(
    file: Path, *, patience: Patience, root: Path = Path("/"), config: Path | None = None, state_dir: Path | None = None
) -> Enrolment:
    """Join as `file` says, and erase it. On a board that is enrolled already, only erase it.

    Raises:
        EnrolmentFileInvalid, TokenMalformed: it is damaged.
        EnrolmentFileKept: the board is enrolled; the file could not be erased.
        ArgosyError: what `join` raises. In all these cases a note lies beside the file.
    """
    try:
        enrolment = _enrol(file, patience, root, config, state_dir)
    except ArgosyError as error:
        cut_short = _erasure_began(file)
        if not (cut_short and _note(file).exists()):  # the note tells why it was to be erased
            _leave_note(file, error)
        if cut_short or isinstance(error, _DEAD):
            try:
                erase(file)
            except EnrolmentFileKept as kept:
                log.error("first_boot.file_kept", why=kept.message)
        raise
    with suppress(OSError):  # a read-only card is told of by the next line
        _note(file).unlink(missing_ok=True)
    erase(file)
    return enrolment


def _enrol(file: Path, patience: Patience, root: Path, config: Path | None, state_dir: Path | None) -> Enrolment:
    settings_file = config or root / DEFAULT_FILE.relative_to("/")
    there = settings_file if settings_file.is_file() else None
    enrolled = _enrolled(load_settings(there, state_dir=state_dir).state_dir)
    try:
        wanted = EnrolmentFile.read(file)
    except (EnrolmentFileInvalid, TokenMalformed):
        if enrolled is not None:
            return enrolled
        raise
    settings = load_settings(there, state_dir=state_dir, name=wanted.board_name(serial_number(root)[:LONGEST_SERIAL]))
    folder = settings.state_dir

    def attempt() -> Enrolment:
        name, clock = shown_name(settings), patience.clock
        return join(wanted.url, wanted.token, wanted.pin, folder, name, clock=clock, operator=wanted.operator)

    try:
        enrolment = patience.until_answered(attempt)
    except AlreadyEnrolled:
        log.info("first_boot.enrolled_already", unused=wanted.url)
        return Enrolment.load(folder)
    with storage_errors(settings_file):
        _write_settings(settings_file, wanted)
    with storage_errors(folder):
        remember_name(settings)
        give_to_owner(folder)
    return enrolment


def _enrolled(state_dir: Path) -> Enrolment | None:
    try:
        return Enrolment.load(state_dir)
    except NotEnrolled:
        return None


def _write_settings(file: Path, wanted: EnrolmentFile) -> None:
    """Write where the board stands, for the daemon, which another user may run. Both values are plain by their type.

    A file that says something of that already is left alone; in any other, the lines go before all tables.
    """
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    places = {"site": wanted.site, "shard": wanted.shard}
    lines = [f'{key} = "{value}"\n' for key, value in places.items() if value is not None]
    if lines and places.keys().isdisjoint(tomllib.loads(before)):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, "".join([*lines, before]).encode(), mode=0o644)


# --- the file and its note -----------------------------------------------------------------------------------------


def erase(file: Path) -> None:
    """Overwrite the file and remove it. A card's controller may keep the old bytes: that is why tokens are short-lived.

    Raises:
        EnrolmentFileKept: it could not be done.
    """
    try:
        with file.open("r+b") as stream:
            stream.write(bytes(os.fstat(stream.fileno()).st_size))
            stream.flush()
            os.fsync(stream.fileno())
        file.unlink()
        sync_folder(file.parent)
    except OSError as error:
        raise EnrolmentFileKept(path=file, why=error.strerror or error) from error
    log.info("first_boot.erased", file=file)


def _erasure_began(file: Path) -> bool:
    """Tell whether the file is one that the power cut left half erased, or a card that was pulled left empty."""
    try:
        return b"\0" in file.read_bytes()
    except OSError:
        return False


def _note(file: Path) -> Path:
    return file.with_name(NOTE)


def _leave_note(file: Path, error: ArgosyError) -> None:
    """Say beside the file what went wrong: whoever has only the card to look at finds it there."""
    text = f"This board could not join.\n\n{error.message}\n{error.remedy_text}\n"
    if isinstance(error, _DEAD):
        text += "\nThe enrolment file is of no use any more. Write a new one with `argosy-provision image`.\n"
    elif isinstance(error, _PASSING):
        text += "\nThe board tries again by itself.\n"
    note = _note(file)
    try:
        if not note.exists() or note.read_bytes() != text.encode():  # spares the card
            write_atomic(note, text.encode(), mode=0o644)
    except OSError as failed:
        log.warning("first_boot.no_note", path=note, why=failed.strerror)
