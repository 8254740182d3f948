"""What runs models, as far as a deployment is concerned: load the version in force, and say how it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Loaded:
    """A version that answers requests from now on."""

    backend: str
    ran_on: str = ""
    """The device that the backend really ran on."""
    p50_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True)
class Served:
    """How it does, since it was loaded."""

    requests: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    drift: float | None = None
    version: int | None = None
    """Which version it is; absent: the one in force."""


class Inference(Protocol):
    """Runs models out of the folder that `store.py` describes. Called from one thread, and may take its time."""

    def load(self, name: str) -> Loaded:
        """Load the version that `current.json` names, and have it answer in the place of the one before.

        Raises:
            ModelError: this version cannot be used here; the one before still answers.
        """
        ...

    def unload(self, name: str) -> None:
        """Answer no more requests for this model."""
        ...

    def served(self, name: str) -> Served | None:
        """Return how the loaded version does; None where that is not known."""
        ...


class NoInference:
    """No inference extra is installed: models are kept and verified, and nothing runs them."""

    def load(self, name: str) -> Loaded:  # noqa: ARG002  (the protocol's)
        """See `Inference.load`."""
        return Loaded(backend="none")

    def unload(self, name: str) -> None:
        """See `Inference.unload`."""

    def served(self, name: str) -> Served | None:  # noqa: ARG002  (the protocol's)
        """See `Inference.served`."""
        return None
