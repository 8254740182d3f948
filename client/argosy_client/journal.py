"""The device's memory of instructions, replies and runs: SQLite, one transaction a step.

Rules: an instruction is committed and synced before its delivery is acknowledged (DESIGN.md, decision 7); a reply and
the context it leaves behind are committed in one transaction, before anything of the reply is sent; the id of what is
over stays for a while, so that a repeated delivery is recognised. No time is stored: a board's clock is not trusted.

Steps whose loss in a power cut only repeats harmless work (taking an instruction up, a receipt) are committed without a
sync; SIGKILL loses none of them. The states and their transitions are those of `instruction.py`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from argosy_client.instruction import RESUME, Event, Resume, State, after
from argosy_common.errors import ArgosyError, DiskFull, ProgrammingError, StorageFailed
from argosy_common.logs import get_logger

log = get_logger(__name__)

SCHEMA = 1
KEEP_IDS = 4096
"""Instructions that are over and still recognised when they are delivered again."""
KEEP_REPLIES = 64
"""Of those, the newest whose reply is kept, to be sent verbatim."""
TRIM_EVERY = 32
"""Receipts between two looks at these bounds, so that most receipts cost nothing."""
KEEP_RUNS = 32
"""Runs whose app and context are kept although nothing was heard of their end."""

_TABLES = f"""
CREATE TABLE instructions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    run INTEGER NOT NULL,
    round INTEGER,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    expires_in REAL,
    body BLOB,
    reply BLOB
);
CREATE INDEX instructions_by_state ON instructions (state, seq);
CREATE TABLE runs (run INTEGER PRIMARY KEY, app BLOB NOT NULL, context TEXT, used INTEGER NOT NULL);
CREATE TABLE owner (name TEXT NOT NULL);
PRAGMA user_version = {SCHEMA};
"""
_COLUMNS = "seq, id, run, round, state, attempts, expires_in, body, reply"
_UNUSABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


@dataclass(frozen=True)
class Entry:
    """One instruction.

    Attributes:
        seq: its place in the order of arrival.
        id: the message id.
        run: its run.
        round: its round, if it has one.
        state: where it stands.
        attempts: how often the job thread took it up.
        expires_in: seconds of life it had left when it arrived; None: unlimited.
        body: the packed `Instruction`; empty once it is answered.
        reply: the packed `Reply`; None before it is answered, and when it has been forgotten.
    """

    seq: int
    id: str
    run: int
    round: int | None
    state: State
    attempts: int
    expires_in: float | None
    body: bytes
    reply: bytes | None


@dataclass(frozen=True)
class RunState:
    """What a run keeps on this device: its app (SHA-256 of the bundle) and the file of its Flower context."""

    run: int
    app: bytes
    context: str | None


class Journal:
    """The journal in the file `path`. Safe to use from any thread; every call is one transaction.

    Raises:
        DiskFull, StorageFailed: from every call that writes; nothing has changed then.
    """

    def __init__(self, path: Path, *, owner: str) -> None:
        """Open or make it. `owner` names the coordinator: the journal of another one is emptied, not continued."""
        self._path = path
        self._lock = threading.Lock()
        with self._errors():
            self._db = self._open()
            self._settle_owner(owner)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def probe(self) -> None:
        """Prove that the file can be read; a disk that is only full is no hindrance.

        Raises:
            StorageFailed: it cannot.
        """
        with self._lock, self._errors():
            self._db.execute("SELECT count(*) FROM owner").fetchone()

    # --- the life of an instruction ------------------------------------------------------------------------------

    def receive(
        self,
        *,
        message: str,
        run: int,
        round_: int | None,
        expires_in: float | None,
        app: bytes,
        body: bytes,
    ) -> tuple[Entry, bool]:
        """Write a new instruction down, synced; return it and True, or the known one of that id and False."""
        with self._transaction(synced=True):
            known = self._find(message)
            if known is not None:
                return known, False
            seq = self._db.execute(
                "INSERT INTO instructions (id, run, round, state, expires_in, body) VALUES (?, ?, ?, ?, ?, ?)",
                (message, run, round_, State.RECEIVED, expires_in, body),
            ).lastrowid
            # another app under the same number is another run: its context must not be taken over
            self._db.execute(
                "INSERT INTO runs (run, app, used) VALUES (?1, ?2, ?3) ON CONFLICT (run) DO UPDATE SET "
                "used = ?3, context = CASE WHEN app = ?2 THEN context ELSE NULL END, app = ?2",
                (run, app, seq),
            )
            return self._get(message), True

    def start(self, message: str, *, resumed: bool = False) -> Entry:
        """Take an instruction up and count the attempt.

        One that was `resumed` after a restart may be what took the board down: that attempt is synced before it begins,
        or a board that goes down at once each time would never count to the end.
        """
        with self._transaction(synced=resumed):
            self._move(message, Event.START)
            self._db.execute("UPDATE instructions SET attempts = attempts + 1 WHERE id = ?", (message,))
            return self._get(message)

    def interrupt(self, message: str) -> None:
        """Put an instruction back, as if it had not been taken up."""
        with self._transaction(synced=False):
            if self._move(message, Event.INTERRUPT) is State.RECEIVED:
                self._db.execute("UPDATE instructions SET attempts = attempts - 1 WHERE id = ?", (message,))

    def answer(self, message: str, reply: bytes, *, context: str | None = None) -> State:
        """Write the reply down, and with it the file of the run's new context, synced; return the new state.

        A cancelled instruction stays cancelled, and nothing is written.
        """
        with self._transaction(synced=True):
            state = self._move(message, Event.ANSWER)
            if state is State.ANSWERED:
                self._db.execute("UPDATE instructions SET reply = ?, body = NULL WHERE id = ?", (reply, message))
                if context is not None:
                    entry = self._get(message)
                    self._db.execute("UPDATE runs SET context = ? WHERE run = ?", (context, entry.run))
            return state

    def delivered(self, message: str, reply: bytes | None) -> None:
        """Note the receipt and the reply as it was sent; now and then, forget what is older than the bounds above."""
        with self._transaction(synced=False):
            if self._move(message, Event.RECEIPT) is State.DELIVERED:
                self._db.execute("UPDATE instructions SET reply = ?, body = NULL WHERE id = ?", (reply, message))
            if self._get(message).seq % TRIM_EVERY:
                return
            over = (State.DELIVERED, State.CANCELLED)
            newest = "(SELECT seq FROM instructions WHERE state IN (?, ?) ORDER BY seq DESC LIMIT 1 OFFSET ?)"
            self._db.execute(
                f"UPDATE instructions SET reply = NULL WHERE state IN (?, ?) AND reply NOT NULL AND seq <= {newest}",  # noqa: S608  (a constant)
                (*over, *over, KEEP_REPLIES),
            )
            self._db.execute(
                f"DELETE FROM instructions WHERE state IN (?, ?) AND seq <= {newest}",  # noqa: S608  (a constant)
                (*over, *over, KEEP_IDS),
            )

    def cancel(self, run: int) -> list[str]:
        """Drop what a run has here; return the ids of its instructions that were not over."""
        with self._transaction(synced=True):
            rows = self._db.execute("SELECT id, state FROM instructions WHERE run = ?", (run,)).fetchall()
            dropped = [each for each, state in rows if RESUME[State(state)] is not Resume.NOTHING]
            for each, _ in rows:
                self._move(each, Event.CANCEL)
            self._db.execute("UPDATE instructions SET body = NULL, reply = NULL WHERE run = ?", (run,))
            self._db.execute("DELETE FROM runs WHERE run = ?", (run,))
            return dropped

    # --- what is known -------------------------------------------------------------------------------------------

    def get(self, message: str) -> Entry | None:
        """Return the instruction of that id."""
        with self._transaction(synced=False):
            return self._find(message)

    def open(self) -> list[Entry]:
        """Return what is not over, in the order of arrival."""
        wanted = [state for state, resume in RESUME.items() if resume is not Resume.NOTHING]
        with self._transaction(synced=False):
            marks = ", ".join("?" * len(wanted))
            query = f"SELECT {_COLUMNS} FROM instructions WHERE state IN ({marks}) ORDER BY seq"  # noqa: S608  (constants)
            return [_entry(row) for row in self._db.execute(query, wanted)]

    def run(self, run: int) -> RunState | None:
        """Return what a run keeps here."""
        with self._transaction(synced=False):
            row = self._db.execute("SELECT run, app, context FROM runs WHERE run = ?", (run,)).fetchone()
        return RunState(*row) if row else None

    def trim_runs(self) -> list[RunState]:
        """Forget the longest unused runs beyond `KEEP_RUNS`; return the others."""
        with self._transaction(synced=False):
            self._db.execute(
                "DELETE FROM runs WHERE run NOT IN (SELECT run FROM runs ORDER BY used DESC LIMIT ?) "
                "AND run NOT IN (SELECT run FROM instructions WHERE state IN (?, ?))",
                (KEEP_RUNS, State.RECEIVED, State.RUNNING),
            )
            rows = self._db.execute("SELECT run, app, context FROM runs ORDER BY run").fetchall()
        return [RunState(*row) for row in rows]

    # --- inside --------------------------------------------------------------------------------------------------

    def _move(self, message: str, event: Event) -> State:
        state = after(self._get(message).state, event)
        self._db.execute("UPDATE instructions SET state = ? WHERE id = ?", (state, message))
        return state

    def _find(self, message: str) -> Entry | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM instructions WHERE id = ?", (message,)).fetchone()  # noqa: S608  (a constant)
        return _entry(row) if row else None

    def _get(self, message: str) -> Entry:
        entry = self._find(message)
        if entry is None:
            raise ProgrammingError(what=f"the journal was asked for the instruction {message}, which it does not hold")
        return entry

    @contextlib.contextmanager
    def _transaction(self, *, synced: bool) -> Iterator[None]:
        with self._lock, self._errors():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
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
        except ArgosyError:
            raise
        except OSError as error:
            raise StorageFailed(path=self._path, why=error.strerror or error) from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise DiskFull(path=self._path, needed="a few thousand") from error
            raise StorageFailed(path=self._path, why=error) from error

    def _open(self) -> sqlite3.Connection:
        """Open the file; one that is damaged or of another version is set aside, since an empty journal can go on."""
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) not in _UNUSABLE:
                raise
            why = str(error)
        except _Damaged as found:
            why = str(found)
        except _OtherVersion as found:
            why = f"it has version {found}, not {SCHEMA}"
        log.error("journal.set_aside", path=self._path, why=why)
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.replace(file.with_name(f"{self._path.name}.damaged{suffix}"))
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        self._path.touch(mode=0o600)
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10.0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(f"BEGIN; {_TABLES} COMMIT;")
            elif version != SCHEMA:
                raise _OtherVersion(version)  # noqa: TRY301  (the connection is closed below, for every reason)
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _Damaged(found)  # noqa: TRY301  (likewise)
        except BaseException:
            db.close()
            raise
        return db

    def _settle_owner(self, owner: str) -> None:
        with self._transaction(synced=True):
            row = self._db.execute("SELECT name FROM owner").fetchone()
            if row is not None and row[0] == owner:
                return
            if row is not None:
                log.warning("journal.other_coordinator", was=row[0], now=owner)
                for table in ("instructions", "runs", "owner"):
                    self._db.execute(f"DELETE FROM {table}")  # noqa: S608  (constants)
            self._db.execute("INSERT INTO owner (name) VALUES (?)", (owner,))


class _Damaged(Exception):
    """A page of the file is not what it should be."""


class _OtherVersion(Exception):
    """The file has another schema."""


def _entry(row: tuple[int, str, int, int | None, str, int, float | None, bytes | None, bytes | None]) -> Entry:
    seq, id_, run, round_, state, attempts, expires_in, body, reply = row
    return Entry(seq, id_, run, round_, State(state), attempts, expires_in, body or b"", reply)
