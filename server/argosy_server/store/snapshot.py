"""A database as one file, and back: a copy of what is in it at one moment, as a database of SQLite.

From SQLite by its own online backup, which sees one moment of a database that is being written to. From PostgreSQL row
by row, in one transaction that sees one moment: so a backup needs no `pg_dump`, and moves to either kind of database.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, create_engine, func, insert, select, text

from argosy_common.blobs.store import storage_errors
from argosy_common.errors import DiskFull, RestoreRefused, StorageFailed
from argosy_server.store.database import (
    Database,
    failures_named,
    is_sqlite,
    newest_schema,
    parse_url,
    place,
    schema_of,
    server_engine,
)
from argosy_server.store.tables import Base

_BATCH = 1000
"""Rows held in memory."""
NUMBERED = [table for table in Base.metadata.sorted_tables if table.kwargs.get("sqlite_autoincrement")]
"""Tables whose numbers are never used twice."""


def snapshot(url: str, target: Path) -> None:
    """Copy the database at `url`, which may be in use, into the new file `target`.

    Raises:
        StorageFailed: it cannot be read; of PostgreSQL also: an older Argosy made its tables.
        DiskFull: there is no room for the copy.
    """
    parsed = parse_url(url)
    if not is_sqlite(parsed):
        _from_server(url, target)
        return
    source = Path(place(parsed))
    with storage_errors(source):
        source.stat()  # SQLite would make it
    try:
        _from_file(source, target)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise DiskFull(path=target, needed=source.stat().st_size) from error
        raise StorageFailed(path=source, why=error) from error


def fill(url: str, source: Path) -> None:
    """Copy the file `source`, a snapshot of this version's schema, into the empty database at `url`.

    Raises:
        RestoreRefused: it is not empty.
        StorageFailed, DiskFull: as ever; nothing was copied.
    """
    database = Database(url)
    engine = create_engine(f"sqlite:///{source}")
    try:
        with database.write() as session, engine.connect() as found:
            connection = session.connection()
            for table in Base.metadata.sorted_tables:
                if connection.scalar(select(func.count()).select_from(table)):
                    raise RestoreRefused(path=database.where, why=f"it holds {table.name} already")
            _copy(found, connection)
            if connection.dialect.name == "postgresql":
                _number_on(found, connection)
    finally:
        engine.dispose()
        database.close()


def leave_gap(file: Path, width: int) -> None:
    """Let the next numbers in a snapshot come after a gap: those after the snapshot were given away already.

    Raises:
        StorageFailed: the file cannot be changed.
    """
    try:
        with sqlite3.connect(file) as connection:
            for table in NUMBERED:
                done = connection.execute(
                    "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (width, table.name)
                )
                if not done.rowcount:
                    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table.name, width))
        connection.close()
    except sqlite3.Error as error:
        raise StorageFailed(path=file, why=error) from error


def _from_file(source: Path, target: Path) -> None:
    there = sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)
    here = sqlite3.connect(target)
    try:
        there.backup(here)  # all at once, so that it sees one moment; in WAL mode nobody waits for it
    finally:
        there.close()
        here.close()


def _from_server(url: str, target: Path) -> None:
    parsed = parse_url(url)
    engine, copy = server_engine(parsed), Database(f"sqlite:///{target}")
    try:
        one_moment = engine.execution_options(isolation_level="REPEATABLE READ")
        with failures_named(place(parsed)), one_moment.connect() as found, copy.write() as session:
            if (schema := schema_of(found)) != newest_schema():
                why = f"its tables are of schema {schema}; start this version's coordinator on it once"
                raise StorageFailed(path=place(parsed), why=why)
            _copy(found, session.connection())
    finally:
        engine.dispose()
        copy.close()


def _copy(source: Connection, target: Connection) -> None:
    for table in Base.metadata.sorted_tables:
        rows = source.execution_options(yield_per=_BATCH).execute(select(table))
        for part in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in part])


def _number_on(source: Connection, target: Connection) -> None:
    """Let a PostgreSQL, whose rows brought their own numbers, go on where the snapshot leaves off."""
    for table in NUMBERED:
        last = source.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name}) or 0
        target.execute(
            text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :next, false)"),
            {"name": table.name, "next": last + 1},
        )
