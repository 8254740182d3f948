"""How far runs are: what it takes to go on with one after its coordinator was killed."""

from __future__ import annotations

from collections.abc import Sequence

from argosy_common.clock import Clock
from argosy_server.store.database import Database
from argosy_server.store.rows import Json, ProgressRow
from argosy_server.store.tables import Progress


class RunProgress:
    """The table of run progress: a row a run, from its start on."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(self, run: int, salt: str) -> ProgressRow:
        """Add a run that has reached nothing yet, and return that."""
        made = Progress(
            run=run,
            salt=salt,
            resumable=False,
            resumes=0,
            done_round=0,
            done_phase="",
            record_size=0,
            arrays_size=0,
            begun_round=0,
            begun_phase="",
            nodes=[],
        )
        with self._database.write() as session:
            session.add(made)
            session.flush()
            return made.to_row(ProgressRow)

    def get(self, run: int) -> ProgressRow | None:
        """Return how far a run is; None where it never began."""
        with self._database.read() as session:
            found = session.get(Progress, run)
            return None if found is None else found.to_row(ProgressRow)

    def resumable(self, run: int, *, can: bool) -> None:
        """Note whether a run can be gone on with from its checkpoints."""
        self._change(run, resumable=can)

    def begun(self, run: int, phase: tuple[int, str], nodes: Sequence[int]) -> None:
        """Note a phase that is about to be asked for, and who was online then."""
        self._change(run, begun_round=phase[0], begun_phase=phase[1], nodes=[f"{node:016x}" for node in nodes])

    def done(
        self, run: int, phase: tuple[int, str], record: tuple[bytes, int], arrays: tuple[bytes, int] | None
    ) -> ProgressRow:
        """Note that a phase is done, and the blobs (digest, size) that hold what was reached; no arrays: as before."""
        changes: dict[str, object] = {"record_digest": record[0].hex(), "record_size": record[1]}
        if arrays is not None:
            changes |= {"arrays_digest": arrays[0].hex(), "arrays_size": arrays[1]}
        return self._change(run, done_round=phase[0], done_phase=phase[1], resumes=0, **changes)

    def ended(self, run: int, outcome: Json) -> None:
        """Note how a run ended, before anything that it would need to go on is given up."""
        self._change(run, outcome=outcome)

    def resumed(self, run: int) -> None:
        """Count that a run is gone on with, since its last checkpoint."""
        with self._database.write() as session:
            session.get_one(Progress, run).resumes += 1

    def _change(self, run: int, **changes: object) -> ProgressRow:
        with self._database.write() as session:
            found = session.get_one(Progress, run)
            for name, value in changes.items():
                setattr(found, name, value)
            return found.to_row(ProgressRow)
