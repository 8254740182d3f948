"""The audit log: who did what to whom. Rows are only ever added."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from argosy_common.clock import Clock
from argosy_server.store.database import Database
from argosy_server.store.rows import AuditRow
from argosy_server.store.tables import Audit as AuditTable

MAX_TEXT = 1000
MAX_DETAILS = 32
MAX_TAIL = 10_000


class Audit:
    """The table of the audit log."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def write(self, actor: str, action: str, subject: str, **detail: object) -> None:
        """Add a row; `detail` never holds a secret. Long texts are cut, so that no stranger can fill the disk."""
        with self._database.write() as session:
            put_audit(session, self._clock.wall(), actor, action, subject=subject, detail=detail)

    def tail(self, limit: int = 100) -> list[AuditRow]:
        """Return the last `limit` rows, the oldest of them first."""
        query = select(AuditTable).order_by(AuditTable.id.desc()).limit(max(0, min(limit, MAX_TAIL)))
        with self._database.read() as session:
            return [row.to_row(AuditRow) for row in session.scalars(query)][::-1]


def put_audit(
    session: Session, now: datetime, actor: str, action: str, *, subject: str, detail: dict[str, object]
) -> None:
    """Add a row inside a transaction of the caller's."""
    details = {name[:MAX_TEXT]: _cut(value) for name, value in list(detail.items())[:MAX_DETAILS]}
    row = AuditTable(
        at=now, actor=actor[:MAX_TEXT], action=action[:MAX_TEXT], subject=subject[:MAX_TEXT], detail=details
    )
    session.add(row)


def _cut(value: object) -> object:
    return value if value is None or isinstance(value, bool | float) else str(value)[:MAX_TEXT]
