"""What a backend is: something that can run an ONNX model on this board, or says why not.

A plug-in is a class without arguments under the entry point `argosy.backends` (CONTRIBUTING.md, "a backend"). It is
probed before anything else of it is used, and imports its runtime only once it is opened. Whatever it opens is tried in
a child process first (`trial.py`): it may be wrong, slow or crash, and must only not lie about what runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from argosy_common.artefact import Manifest
from argosy_common.logs import get_logger

log = get_logger(__name__)

GROUP = "argosy.backends"

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Material:
    """What a backend may use to open a model."""

    model: Path
    """The ONNX file."""
    manifest: Manifest
    samples: Array
    """Inputs that this board has seen, prepared, shape (n, *input.shape); n may be 0. They never leave the board."""
    work: Path
    """A folder for what it makes of the model; kept with the model's version."""
    threads: int = 1
    form: Path | None = None
    """The same model as a file of this backend's own form, where the version has one."""


class Session(Protocol):
    """A model that is open."""

    @property
    def ran_on(self) -> str:
        """What really runs it, by the runtime's own word: `CPU`, `CUDA, then CPU`."""
        ...

    def run(self, batch: Array) -> Array:
        """Return the outputs for a batch of preprocessed inputs."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@runtime_checkable
class Placed(Session, Protocol):
    """A session that may run in parts, or partly elsewhere (`placement/`): it minds the time and tells where it ran."""

    away_s: float
    """Seconds that it has waited for others so far."""

    def run_by(self, batch: Array, deadline: float) -> Array:
        """Return the outputs, if possible before `deadline` (monotonic seconds)."""
        ...

    def counts(self) -> dict[str, Any]:
        """Return what became of its inputs, as plain data."""
        ...


def counts_of(session: Session) -> dict[str, Any]:
    """Return what a session counts; nothing where it counts nothing."""
    return session.counts() if isinstance(session, Placed) else {}


class Backend(Protocol):
    """A way to run models."""

    name: str
    exact: bool
    """Whether its outputs are the golden ones up to rounding; else (int8) it must agree with them on samples."""
    tested: bool
    """Whether it was ever run on the hardware that it is for."""

    def unavailable(self, root: Path) -> str | None:
        """Say in plain words why it cannot be used on this board, or return None; quick, and harmless."""
        ...

    def open(self, material: Material) -> Session:
        """Open a model. Whatever it raises counts as its answer that it cannot."""
        ...


def installed() -> dict[str, Backend]:
    """Return the plug-ins by name; one that cannot be loaded is told of and left out."""
    found: dict[str, Backend] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            found[entry.name] = entry.load()()
        except Exception as error:  # noqa: BLE001  (a plug-in of anybody's: the others must go on)
            log.warning("backend.broken", backend=entry.name, exc=error)
    return found
