"""Runs and what happened in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack, cast

from sqlalchemy import Table, func, insert, select
from sqlalchemy.orm import Session

from argosy_common.clock import Clock
from argosy_common.errors import RunNotFound
from argosy_server.store.database import Database
from argosy_server.store.rows import RUN_TRANSITIONS, EventRow, Json, RunChanges, RunRow, RunStatus
from argosy_server.store.tables import Event, Run

_MAX_ID = 2**31 - 1
MAX_EVENTS = 10_000


class Runs:
    """The table of runs."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        *,
        app_name: str,
        app_digest: str,
        app_size: int,
        server_app: str,
        client_app: str,
        run_config: Json,
        options: Json,
    ) -> int:
        """Add a pending run; return its number, which no other run ever had or gets."""
        run = Run(
            app_name=app_name,
            app_digest=app_digest,
            app_size=app_size,
            server_app=server_app,
            client_app=client_app,
            run_config=run_config,
            options=options,
            status_text=RunStatus.PENDING.value,
            created_at=self._clock.wall(),
        )
        with self._database.write() as session:
            session.add(run)
            session.flush()
            return run.id

    def get(self, run: int) -> RunRow:
        """Return a run.

        Raises:
            RunNotFound: there is none of that number.
        """
        with self._database.read() as session:
            return _find(session, run).to_row(RunRow)

    def list(self, status: RunStatus | None = None) -> list[RunRow]:
        """Return all runs, the newest first, or those with one status."""
        query = select(Run).order_by(Run.id.desc())
        if status is not None:
            query = query.where(Run.status_text == status.value)
        with self._database.read() as session:
            return [run.to_row(RunRow) for run in session.scalars(query)]

    def update(self, run: int, **fields: Unpack[RunChanges]) -> bool:
        """Change a run; `started_at` and `finished_at` follow from the status where they are not given.

        Returns:
            False, and nothing changed, where `RUN_TRANSITIONS` does not lead from the run's status to the one given:
            of two verdicts on a run the first one stands.

        Raises:
            RunNotFound: there is none of that number.
        """
        with self._database.write() as session:
            found = _find(session, run, lock=True)
            wanted = RunStatus(fields.get("status", found.status))
            if wanted is not found.status:
                if wanted not in RUN_TRANSITIONS[found.status]:
                    return False
                found.status_text = wanted.value
                if wanted is RunStatus.RUNNING:
                    found.started_at = self._clock.wall()
                else:
                    found.finished_at = self._clock.wall()
            for name, value in fields.items():
                if name != "status":
                    setattr(found, name, value)
            return True


class Events:
    """The table of events."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def append(self, run: int, name: str, data: Json) -> int:
        """Add an event to a run; return its number in the run.

        Raises:
            RunNotFound: there is no such run.
        """
        return self.append_many([(run, name, data)])[0]

    def append_many(self, events: Sequence[tuple[int, str, Json]]) -> list[int]:
        """Add events, each a run, a name and data, in one transaction; return their numbers in their runs.

        Raises:
            RunNotFound: one of the runs does not exist; nothing was added.
        """
        now = self._clock.wall()
        numbers: list[int] = []
        with self._database.write() as session:
            last: dict[int, int] = {}
            for run in sorted({run for run, _, _ in events}):
                _find(session, run, lock=True)
                last[run] = session.scalar(select(func.max(Event.seq)).where(Event.run == run)) or 0
            rows = []
            for run, name, data in events:
                last[run] += 1
                numbers.append(last[run])
                rows.append({"run": run, "seq": last[run], "at": now, "name": name, "data": data})
            # plain rows into the table: a run writes many, and nobody needs them as objects
            session.execute(insert(cast("Table", Event.__table__)), rows)
        return numbers

    def last(self, run: int, count: int) -> list[EventRow]:
        """Return the latest events of a run, the newest first."""
        query = select(Event).where(Event.run == run).order_by(Event.seq.desc()).limit(count)
        with self._database.read() as session:
            return [event.to_row(EventRow) for event in session.scalars(query)]

    def after(self, run: int, seq: int = 0, limit: int = 1000) -> list[EventRow]:
        """Return at most `limit` events of a run that come after number `seq`, in order.

        Raises:
            RunNotFound: there is no such run.
        """
        seq, limit = max(0, min(seq, _MAX_ID)), max(0, min(limit, MAX_EVENTS))
        query = select(Event).where(Event.run == run, Event.seq > seq).order_by(Event.seq).limit(limit)
        with self._database.read() as session:
            _find(session, run)
            return [event.to_row(EventRow) for event in session.scalars(query)]


def _find(session: Session, run: int, *, lock: bool = False) -> Run:
    found = session.get(Run, run, with_for_update=lock) if 1 <= run <= _MAX_ID else None
    if found is None:
        raise RunNotFound(run=run)
    return found
