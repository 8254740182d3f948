"""Whether a run goes on after its coordinator was killed, from where, and what must not be deleted for that.

A run goes on if it is Flower's own loop over one strategy (`argosy_common.flower.checkpoint`), or has asked no device
for anything yet. Other apps may have done anything between two messages; such a run is called interrupted, by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from argosy_common.blobs import BlobStore
from argosy_server.instruction import digests_of
from argosy_server.store import InstructionRow, ProgressRow, RunRow, Store
from argosy_server.store.rows import OPEN_STATES

PHASES = ("train", "evaluate")
"""In the order in which a round goes through them."""
MOST_RESUMES = 5
"""A run that takes the coordinator down with it each time is given up after so many without a step forward."""


@dataclass(frozen=True)
class Resumption:
    """A run that goes on."""

    row: RunRow
    progress: ProgressRow | None
    """None: it had not begun."""
    instructions: list[InstructionRow]
    """Of the phase that was interrupted: what was asked for, and answered."""

    @property
    def open(self) -> list[InstructionRow]:
        """What devices still owe."""
        return [each for each in self.instructions if each.state in OPEN_STATES]

    @property
    def digests(self) -> set[bytes]:
        """The blobs without which it cannot go on."""
        found = {digest for each in self.instructions for digest in digests_of(each)}
        return found | pinned(self.progress)

    def before(self) -> dict[str, Any] | None:
        """Return what the run's process needs to know; see `argosy_server.runs.process.Assignment`."""
        progress = self.progress
        if progress is None:
            return None
        return {
            "nodes": [int(node, 16) for node in progress.nodes],
            "interrupted": progress.interrupted,
            "record": _blob(progress.record_digest, progress.record_size),
            "arrays": _blob(progress.arrays_digest, progress.arrays_size),
        }


def resumption(row: RunRow, store: Store, blobs: BlobStore) -> Resumption | None:
    """Return how a run goes on; None where it does not."""
    progress = store.progress.get(row.id)
    if progress is None:
        return Resumption(row, None, []) if not store.instructions.devices_of(row.id) else None
    if progress.resumes >= MOST_RESUMES:
        return None
    asked = store.instructions.of_run(row.id, progress.begun_round) if progress.begun_round else []
    if not progress.resumable and (asked or store.instructions.devices_of(row.id)):
        return None
    if not all(blobs.has(digest) for digest in pinned(progress)):
        return None
    of_phase = [each for each in asked if progress.interrupted and not _is_done(each, progress)]
    return Resumption(row, progress, of_phase)


def pinned(progress: ProgressRow | None) -> set[bytes]:
    """Return the blobs that hold what was reached."""
    hexed = () if progress is None else (progress.record_digest, progress.arrays_digest)
    return {bytes.fromhex(each) for each in hexed if each}


def _is_done(instruction: InstructionRow, progress: ProgressRow) -> bool:
    """Tell whether an instruction is of a phase of the last round that is done: training, while it evaluates."""
    return instruction.round == progress.done_round and instruction.message_type.startswith("train")


def _blob(hexed: str | None, size: int) -> tuple[bytes, int] | None:
    return None if hexed is None else (bytes.fromhex(hexed), size)
