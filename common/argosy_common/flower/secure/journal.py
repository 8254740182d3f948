"""What a device must never forget of secure rounds: one SQLite database, synced at each step, mode 0600.

Prekeys and votes are in the same database, so that losing one loses the other: a holder without its prekey cannot be
made to vote twice. It never holds an update, a seed or an ephemeral key. A database that is damaged is not replaced by
an empty one: the device stays out of secure rounds until somebody looks.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import RecordDict

from argosy_common.errors import SecureStateLost
from argosy_common.files import private_folder
from argosy_common.flower.state import read_state, write_state
from argosy_common.secagg.binding import Cast, Sent
from argosy_common.secagg.client import Entropy
from argosy_common.secagg.messages import Announcement, PrekeyBatch, Vote
from argosy_common.secagg.sealing import SigningKey, public_der, raw_public

SCHEMA = 1
MOST_PREKEYS = 512
"""Unused ones that are kept; the oldest go first."""
KEPT_ANNOUNCEMENTS = 64
"""Of how many rounds message 1 is kept, which proof of how they ended is checked against."""

_TABLES = """
CREATE TABLE prekeys (seq INTEGER PRIMARY KEY AUTOINCREMENT, public BLOB UNIQUE NOT NULL, private BLOB NOT NULL);
CREATE TABLE sent (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, sid BLOB UNIQUE NOT NULL, run BLOB NOT NULL, round INTEGER NOT NULL,
    attempt INTEGER NOT NULL, instruction BLOB NOT NULL, announcement BLOB
);
CREATE INDEX sent_run ON sent (run, round);
CREATE INDEX sent_instruction ON sent (instruction);
CREATE TABLE cast (
    sid BLOB PRIMARY KEY, root BLOB NOT NULL, vote BLOB NOT NULL, released BLOB, answer BLOB, total BLOB
);
CREATE TABLE fleet (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, digest BLOB NOT NULL, list BLOB);
"""


@dataclass(frozen=True)
class Release:
    """A sum of shares that was answered.

    Attributes:
        members: whose shares.
        answer: message 6, packed.
        total: its elements, little-endian.
    """

    members: tuple[int, ...]
    answer: bytes
    total: bytes


class SecureJournal:
    """The database, and beside it the last message 2.

    Raises:
        SecureStateLost: it cannot be opened, read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "secure.db"
        self._updates = folder / "updates"
        with self._errors():
            private_folder(folder)
            private_folder(self._updates)
            self._path.touch(mode=0o600)
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=20.0)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                if any(self._updates.iterdir()):
                    raise SecureStateLost(path=self._path, why="it is empty, and this device has sent updates")
                self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
            elif version != SCHEMA:
                raise SecureStateLost(path=self._path, why=f"it has version {version}, not {SCHEMA}")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # --- message 0

    def new_prekeys(self, count: int, key: SigningKey, entropy: Entropy) -> PrekeyBatch:
        """Make `count` prekeys, and keep their private halves."""
        made = [X25519PrivateKey.from_private_bytes(entropy(32)) for _ in range(count)]
        with self._transaction():
            rows = [(raw_public(each), each.private_bytes_raw()) for each in made]
            self._db.executemany("INSERT INTO prekeys (public, private) VALUES (?, ?)", rows)
            self._db.execute(
                "DELETE FROM prekeys WHERE seq <= (SELECT max(seq) FROM prekeys) - ?", (max(MOST_PREKEYS, count),)
            )
        return PrekeyBatch.made(key, public_der(key.public_key()), [raw_public(each) for each in made])

    def prekey(self, public: bytes) -> X25519PrivateKey | None:
        """Return the private half of a prekey; None if it was used, or is not this device's."""
        with self._errors():
            row = self._db.execute("SELECT private FROM prekeys WHERE public = ?", (public,)).fetchone()
        return X25519PrivateKey.from_private_bytes(row[0]) if row else None

    # --- message 2

    def sent(self, run: bytes, instruction: bytes) -> list[Sent]:
        """Return what was sent in a run or for an instruction, in order."""
        with self._errors():
            rows = self._db.execute(
                "SELECT sid, run, round, attempt, instruction FROM sent WHERE run = ? OR instruction = ? ORDER BY seq",
                (run, instruction),
            ).fetchall()
        return [Sent(*row) for row in rows]

    def announcement(self, sid: bytes) -> Announcement | None:
        """Return the message 1 of a round that this device sent an update in, if it is still kept."""
        with self._errors():
            row = self._db.execute("SELECT announcement FROM sent WHERE sid = ?", (sid,)).fetchone()
        return Announcement.parse(row[0], peer="this device's journal") if row and row[0] else None

    def write_update(self, announcement: Announcement, content: RecordDict) -> None:
        """Write message 2 down, before it is sent: first its bytes, then that it exists."""
        path = self._update_path(announcement.sid)
        write_state(content, path)
        sent = (
            announcement.sid,
            announcement.run,
            announcement.round,
            announcement.attempt,
            announcement.instruction,
            announcement.packed,
        )
        with self._transaction():
            self._db.execute(
                "INSERT INTO sent (sid, run, round, attempt, instruction, announcement) VALUES (?, ?, ?, ?, ?, ?)", sent
            )
            self._db.execute(
                "UPDATE sent SET announcement = NULL WHERE announcement IS NOT NULL"
                " AND seq <= (SELECT max(seq) FROM sent) - ?",
                (KEPT_ANNOUNCEMENTS,),
            )
        for other in self._updates.iterdir():
            if other != path:
                other.unlink(missing_ok=True)  # of earlier rounds, and what a power cut left half written

    def update(self, sid: bytes) -> RecordDict | None:
        """Return message 2 as it was sent under `sid`; None if this device sent none, or its bytes are gone."""
        with self._errors():
            row = self._db.execute("SELECT 1 FROM sent WHERE sid = ?", (sid,)).fetchone()
        path = self._update_path(sid)
        return read_state(path) if row and path.is_file() else None

    def _update_path(self, sid: bytes) -> Path:
        return self._updates / sid.hex()

    # --- messages 4 and 6

    def cast(self, sid: bytes) -> Cast | None:
        """Return what this holder said of a sid."""
        with self._errors():
            row = self._db.execute("SELECT root, released FROM cast WHERE sid = ?", (sid,)).fetchone()
        return Cast(row[0], tuple(row[1] or b"")) if row else None

    def vote(self, sid: bytes) -> Vote | None:
        """Return the vote that was written down."""
        with self._errors():
            row = self._db.execute("SELECT vote FROM cast WHERE sid = ?", (sid,)).fetchone()
        return Vote.parse(row[0], peer="this device's journal") if row else None

    def write_vote(self, vote: Vote) -> None:
        """Write a vote down, before it is sent. There must be none for its sid."""
        with self._transaction():
            self._db.execute("INSERT INTO cast (sid, root, vote) VALUES (?, ?, ?)", (vote.sid, vote.root, vote.packed))

    def release(self, sid: bytes) -> Release | None:
        """Return the sum of shares that was answered for a sid."""
        with self._errors():
            row = self._db.execute("SELECT released, answer, total FROM cast WHERE sid = ?", (sid,)).fetchone()
        return Release(tuple(row[0]), row[1], row[2]) if row and row[0] and row[1] else None

    def write_release(self, sid: bytes, release: Release, prekey: bytes) -> None:
        """Write a sum of shares down, before it is sent, and erase the prekey that it took."""
        with self._transaction():
            self._db.execute(
                "UPDATE cast SET released = ?, answer = ?, total = ? WHERE sid = ?",
                (bytes(release.members), release.answer, release.total, sid),
            )
            self._erase(prekey)
            self._db.execute(  # what is large is of use for one round only
                "UPDATE cast SET answer = NULL, total = NULL WHERE total IS NOT NULL AND rowid NOT IN"
                " (SELECT rowid FROM cast WHERE total IS NOT NULL ORDER BY rowid DESC LIMIT 8)"
            )

    def erase_prekey(self, prekey: bytes) -> None:
        """Erase the prekey of a round that was given up."""
        with self._transaction():
            self._erase(prekey)

    def _erase(self, prekey: bytes) -> None:
        self._db.execute("DELETE FROM prekeys WHERE public = ?", (prekey,))

    # --- the fleet list

    def fleet(self) -> tuple[int, bytes, bytes] | None:
        """Return version, digest and bytes of the newest fleet list seen."""
        with self._errors():
            row = self._db.execute("SELECT version, digest, list FROM fleet").fetchone()
        return tuple(row) if row else None

    def write_fleet(self, version: int, digest: bytes, data: bytes) -> None:
        """Remember a newer fleet list; none that is older is taken from now on."""
        with self._transaction():
            self._db.execute("DELETE FROM fleet")
            self._db.execute("INSERT INTO fleet VALUES (1, ?, ?, ?)", (version, digest, data))

    # --- inside

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SecureStateLost(path=self._path, why=error) from error
