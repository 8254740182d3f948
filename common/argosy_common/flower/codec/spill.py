"""Decoded replies on disk, for strategies that look at every single one: memory stays at about one model.

Each reply is a file without a name, which the system removes when its last array is garbage, or the process dies.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

from flwr.app import ArrayRecord

from argosy_common.blobs.store import storage_errors
from argosy_common.flower.arrays import Stretch, encoded_pieces, stored_record


class _OpenFile:
    """Keeps a file open as long as an array refers to it."""

    def __init__(self, folder: Path) -> None:
        self.stream = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed with its last array)
        weakref.finalize(self, self.stream.close).atexit = False

    @property
    def path(self) -> Path:
        return Path(f"/dev/fd/{self.stream.fileno()}")


def spilled(record: ArrayRecord, folder: Path) -> ArrayRecord:
    """Return `record` with its arrays in a file under `folder`, from where they are read when they are used.

    Raises:
        DiskFull, StorageFailed: it could not be written.
    """
    size, pieces = encoded_pieces(record)
    with storage_errors(folder, size):
        file = _OpenFile(folder)
        for piece in pieces:
            file.stream.write(piece)
    stored = stored_record(Stretch(file.path, 0, size))
    for array in stored.values():
        array.__dict__["_file"] = file
    return stored
