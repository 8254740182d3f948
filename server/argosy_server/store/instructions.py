"""Instructions to devices and their answers. A message that comes twice changes nothing the second time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import CursorResult, Table, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from argosy_common.clock import Clock
from argosy_common.errors import RunNotFound
from argosy_server.store.database import Database
from argosy_server.store.rows import (
    INSTRUCTION_TRANSITIONS,
    OPEN_STATES,
    InstructionAnswer,
    InstructionRow,
    InstructionState,
    Json,
    NewInstruction,
)
from argosy_server.store.tables import Instruction

_OPEN = tuple(sorted(OPEN_STATES))
_ORIGINS = {
    to: tuple(state.value for state, following in INSTRUCTION_TRANSITIONS.items() if to in following)
    for to in InstructionState
}
_TABLE = cast("Table", Instruction.__table__)
_MAX_INT = 2**31 - 1
_PART = 500
"""Ids in one statement."""


class Instructions:
    """The table of instructions."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add_many(self, new: Sequence[NewInstruction]) -> None:
        """Store instructions in one transaction, before they are published. One that is there already is left alone.

        Raises:
            RunNotFound: the run of one of them does not exist.
        """
        now = self._clock.wall()
        try:
            with self._database.write() as session:
                query = select(Instruction.id).where(Instruction.id.in_([instruction.id for instruction in new]))
                there = set(session.scalars(query))
                session.add_all(_fresh(instruction, now) for instruction in new if instruction.id not in there)
        except IntegrityError as error:
            raise RunNotFound(run=", ".join(sorted({str(instruction.run) for instruction in new}))) from error

    def get(self, instruction: str) -> InstructionRow | None:
        """Return an instruction, or None."""
        with self._database.read() as session:
            found = session.get(Instruction, instruction)
            return None if found is None else found.to_row(InstructionRow)

    def known(self, instructions: Collection[str]) -> dict[str, InstructionRow]:
        """Return those of `instructions` that are stored, by id."""
        found: dict[str, InstructionRow] = {}
        wanted = list(instructions)
        with self._database.read() as session:
            for at in range(0, len(wanted), _PART):
                rows = session.scalars(select(Instruction).where(Instruction.id.in_(wanted[at : at + _PART])))
                found.update((row.id, row.to_row(InstructionRow)) for row in rows)
        return found

    def accepted(self, instruction: str) -> bool:
        """Note that the device has it in its journal. False if that is not news, or it is unknown."""
        return self._move(instruction, InstructionState.ACCEPTED, accepted_at=self._clock.wall())

    def answered(
        self, instruction: str, reply: bytes | None, error: Json | None, state: InstructionState | str
    ) -> bool:
        """Store the answer: a reply's bytes, or an error. False if it has an answer already, or is unknown."""
        return self._move(
            instruction, InstructionState(state), reply=reply, error=error, answered_at=self._clock.wall()
        )

    def answered_many(self, answers: Sequence[InstructionAnswer]) -> set[str]:
        """Store answers in one transaction; return the ids of those that are news, as `answered` would say of each."""
        now = self._clock.wall()
        with self._database.write() as session:
            return {
                answer.id
                for answer in answers
                if _moved(session, answer.id, answer.state, reply=answer.reply, error=answer.error, answered_at=now)
            }

    def open_for(self, device: str) -> list[InstructionRow]:
        """Return what the device still owes, the oldest first: to be sent again when it comes back."""
        query = select(Instruction).where(Instruction.device == device, Instruction.state_text.in_(_OPEN))
        with self._database.read() as session:
            found = session.scalars(query.order_by(Instruction.created_at, Instruction.id))
            return [instruction.to_row(InstructionRow) for instruction in found]

    def of_run(self, run: int, round: int | None = None) -> list[InstructionRow]:  # noqa: A002  (the field's own name)
        """Return the instructions of a run, or of one of its rounds, the oldest first."""
        if not _storable(run) or not _storable(round or 0):
            return []
        query = select(Instruction).where(Instruction.run == run)
        if round is not None:
            query = query.where(Instruction.round == round)
        with self._database.read() as session:
            found = session.scalars(query.order_by(Instruction.created_at, Instruction.id))
            return [instruction.to_row(InstructionRow) for instruction in found]

    def devices_of(self, run: int) -> list[str]:
        """Return the ids of the devices that had an instruction of a run, and nothing of the instructions' bulk."""
        if not _storable(run):
            return []
        with self._database.read() as session:
            return sorted(session.scalars(select(Instruction.device).where(Instruction.run == run).distinct()))

    def runs_of(self, device: str, instructions: Collection[str]) -> set[int]:
        """Return the runs of those of `instructions` that are known and that device's."""
        mine = (Instruction.id.in_(list(instructions)), Instruction.device == device)
        with self._database.read() as session:
            return set(session.scalars(select(Instruction.run).where(*mine).distinct())) if instructions else set()

    def cancel_run(self, run: int) -> list[str]:
        """Cancel what is still open in a run; return the ids of the devices that owed something."""
        if not _storable(run):
            return []
        open_ones = (Instruction.run == run, Instruction.state_text.in_(_OPEN))
        with self._database.write() as session:
            devices = list(session.scalars(select(Instruction.device).where(*open_ones).distinct()))
            session.execute(
                update(Instruction)
                .where(*open_ones)
                .values(state_text=InstructionState.CANCELLED.value, answered_at=self._clock.wall())
            )
            return sorted(devices)

    def drop_payloads(self, run: int) -> None:
        """Blank the envelopes and replies of a run that is over; what became of each instruction stays."""
        if not _storable(run):
            return
        closed = (Instruction.run == run, Instruction.state_text.not_in(_OPEN))
        with self._database.write() as session:
            session.execute(update(Instruction).where(*closed).values(envelope=b"", reply=None))

    def _move(self, instruction: str, to: InstructionState, **values: object) -> bool:
        with self._database.write() as session:
            return _moved(session, instruction, to, **values)


def _moved(session: Session, instruction: str, to: InstructionState, **values: object) -> bool:
    """Follow one transition of the table; the check and the change are one statement."""
    moved = session.execute(
        update(_TABLE)
        .where(_TABLE.c.id == instruction, _TABLE.c.state.in_(_ORIGINS[to]))
        .values(state=to.value, **values)
    )
    return cast("CursorResult[object]", moved).rowcount == 1


def _storable(number: int) -> bool:
    return 0 <= number <= _MAX_INT


def _fresh(new: NewInstruction, now: datetime) -> Instruction:
    return Instruction(
        id=new.id,
        run=new.run,
        round=new.round,
        device=new.device,
        message_type=new.message_type,
        envelope=new.envelope,
        deadline_s=new.deadline_s,
        state_text=InstructionState.QUEUED.value,
        created_at=now,
    )
