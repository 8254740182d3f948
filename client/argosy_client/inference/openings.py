"""Backends that took the inference process with them while they opened a version: told by what the next start finds.

`work/openings.json` of a version counts, by backend, the openings that were begun and not ended. A backend that has
passed its trial may still crash the process that is to use it, and would be chosen again at each restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argosy_common.files import write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

FILE = "openings.json"
PATIENCE = 2
"""Openings that may end with the process: a power cut at that moment is no fault of the backend."""


def fatal(work: Path) -> dict[str, str]:
    """Return the backends that are not to be opened for this version any more, and why."""
    counts = _read(work)
    return {
        name: f"it took the inference process with it {count} times while it was opened"
        for name, count in counts.items()
        if count >= PATIENCE
    }


@contextmanager
def begun(work: Path, backend: str) -> Iterator[None]:
    """Note on the disk that a backend is being opened, as long as the block lasts."""
    before = _read(work)
    _write(work, {**before, backend: before.get(backend, 0) + 1})
    try:
        yield
    finally:
        before.pop(backend, None)  # whatever came of it, the process is still here
        _write(work, before)


def _read(work: Path) -> dict[str, int]:
    try:
        told = json.loads((work / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    counts = told.items() if isinstance(told, dict) else ()
    return {str(name): count for name, count in counts if isinstance(count, int)}


def _write(work: Path, counts: dict[str, int]) -> None:
    try:
        if counts:
            write_atomic(work / FILE, json.dumps(counts).encode())
        else:
            (work / FILE).unlink(missing_ok=True)
    except OSError as error:  # a full disk must not keep a model from being served
        log.warning("opening.not_noted", path=work / FILE, why=error.strerror)
