"""The database underneath: opening, migrating, transactions, and the names of its failures."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from argosy_common.errors import DatabaseNewer, DiskFull, SettingsInvalid, StorageFailed
from argosy_common.files import PRIVATE_FILE, private_folder

BUSY_TIMEOUT_S = 10
WRITE_TURN_S = 60
_MIGRATIONS = Path(__file__).with_name("migrations")
_PG_DISK_FULL = "53100"


class Database:
    """An engine and its two kinds of transaction. Safe to use from any thread."""

    def __init__(self, url: str) -> None:
        """Open and migrate the database at an SQLAlchemy URL.

        Raises:
            SettingsInvalid: the URL is none, or its driver is not installed.
            StorageFailed: the database cannot be opened.
            DatabaseNewer: a newer version of Argosy has changed its tables.
            DiskFull: as it says.
        """
        parsed = parse_url(url)
        sqlite, self.where = is_sqlite(parsed), place(parsed)
        with failures_named(self.where):
            self._engine = _sqlite_engine(parsed) if sqlite else server_engine(parsed)
            self._writer = self._engine.execution_options(writes=True)
            self._writing = threading.Lock()
            try:
                self._migrate()
            except BaseException:
                self._engine.dispose()
                raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def probe(self) -> None:
        """Prove that the database answers.

        Raises:
            StorageFailed: it does not.
        """
        with self.read() as session:
            session.execute(text("SELECT count(*) FROM alembic_version")).scalar_one()

    def fault(self) -> str:
        """Return what the database finds wrong with itself; see `fault_of`."""
        with self.read() as session:
            return fault_of(session.connection())

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads.

        Raises:
            StorageFailed: the database failed.
        """
        with failures_named(self.where), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: all of it is on disk when the block ends, or nothing is.

        Raises:
            StorageFailed: the database failed.
            DiskFull: there was no room.
            IntegrityError: a constraint was broken; the caller knows what that means.
        """
        with failures_named(self.where), self._turn(), Session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Queue up behind the other writers of this process, so that what one has read holds while it writes.

        On SQLite also since its own waiting is by polling, and unfair.
        """
        if not self._writing.acquire(timeout=WRITE_TURN_S):
            raise StorageFailed(path=self.where, why=f"another thread has been writing for {WRITE_TURN_S} s")
        try:
            yield
        finally:
            self._writing.release()

    def _migrate(self) -> None:
        config = _alembic()
        scripts = ScriptDirectory.from_config(config)
        with self._writer.begin() as connection:
            found = schema_of(connection)
            if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
                raise DatabaseNewer(path=self.where, found=found, known=scripts.get_current_head())
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def newest_schema() -> str | None:
    """Return the schema that this version makes."""
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def schema_of(connection: Connection) -> str | None:
    """Return the schema that a database has; None where it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def fault_of(connection: Connection) -> str:
    """Let SQLite look through the whole of its file; return what it finds wrong. A server looks after itself."""
    if connection.dialect.name != "sqlite":
        return ""
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(3)")]
    return "" if found == ["ok"] else "; ".join(found)


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@contextmanager
def failures_named(where: str) -> Iterator[None]:
    """Give the failures of the database at `where` our names; a broken constraint keeps its own.

    Raises:
        StorageFailed, DiskFull: as `Database` says.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        if _is_disk_full(error.orig):
            raise DiskFull(path=where, needed="a few thousand") from error
        raise StorageFailed(path=where, why=error.orig) from error
    except (PoolTimeout, OSError) as error:
        raise StorageFailed(path=where, why=error) from error


def parse_url(url: str) -> URL:
    """Read an SQLAlchemy URL.

    Raises:
        SettingsInvalid: it is none.
    """
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise SettingsInvalid(name="database", why=error, source="the coordinator's settings") from None
    return parsed


def is_sqlite(url: URL) -> bool:
    """Whether it is a file of SQLite."""
    return url.get_backend_name() == "sqlite"


def place(url: URL) -> str:
    """Return how messages call the database: the file, or the URL without its password."""
    return (url.database if is_sqlite(url) else None) or url.render_as_string(hide_password=True)


def _is_disk_full(original: BaseException | None) -> bool:
    if isinstance(original, sqlite3.Error):
        return getattr(original, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(original, "sqlstate", None) == _PG_DISK_FULL


def server_engine(url: URL) -> Engine:
    """Return an engine for a database that is a server.

    Raises:
        SettingsInvalid: its driver is not installed.
    """
    try:
        return create_engine(url, pool_pre_ping=True, pool_timeout=BUSY_TIMEOUT_S)
    except ImportError as error:
        why = f"its driver is not installed ({error})"
        raise SettingsInvalid(name="database", why=why, source="the coordinator's settings") from None


def _sqlite_engine(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        path = Path(url.database)
        private_folder(path.parent)
        # SQLite gives its -wal and -shm files the mode of the database file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE))
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_timeout=BUSY_TIMEOUT_S)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Make a new connection durable and strict, and stop the driver from starting transactions in its own way."""
    assert isinstance(connection, sqlite3.Connection)  # noqa: S101  (tells mypy which driver this engine has)
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_S * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once when writing: a read lock that is upgraded later may fail with no wait."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
