"""A look at a database without changing it, whether its coordinator runs, does not start, or is of another version."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, func, inspect, select, table

from argosy_server.store.database import (
    failures_named,
    fault_of,
    is_sqlite,
    newest_schema,
    parse_url,
    place,
    schema_of,
    server_engine,
)


def look_at(url: str) -> dict[str, object]:
    """Return which schema the database has, how many rows each of its tables, and what it finds wrong with itself.

    Raises:
        StorageFailed: it cannot be read.
    """
    parsed = parse_url(url)
    engine = _reader(parsed)
    try:
        with failures_named(place(parsed)), engine.connect() as connection:
            names = sorted(inspect(connection).get_table_names())
            return {
                "database": place(parsed),
                "kind": f"{engine.name} {'.'.join(map(str, connection.dialect.server_version_info or ()))}",
                "schema": schema_of(connection),
                "newest_schema": newest_schema(),
                "fault": fault_of(connection),
                "rows": {name: connection.scalar(select(func.count()).select_from(table(name))) for name in names},
            }
    finally:
        engine.dispose()


def _reader(url: URL) -> Engine:
    if not is_sqlite(url):
        return server_engine(url)
    file = f"{Path(place(url)).absolute().as_uri()}?mode=ro"
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(file, uri=True))
