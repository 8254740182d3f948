"""Models in the inference process, as a deployment sees them (`inference.Inference`)."""

from __future__ import annotations

import threading
from typing import Any

from argosy_client.inference.host import InferenceHost
from argosy_client.models.inference import Loaded, Served
from argosy_client.yielding import Pace
from argosy_common.errors import ModelError


class HostedInference:
    """Starts the inference process with the first model: a board without any spares its memory."""

    def __init__(self, host: InferenceHost, *, target_ms: float | None = None) -> None:
        """Prepare; `target_ms` is how long requests are to take, None: as their trials tell."""
        self._host = host
        self._target_ms = target_ms
        self._starting = threading.Lock()
        self._started = False

    def load(self, name: str) -> Loaded:
        """See `Inference.load`."""
        with self._starting:
            if not self._started:
                self._started = True
                self._host.start()
        told = self._host.load(name)
        return Loaded(str(told["backend"]), str(told["ran_on"]), _number(told["p50_ms"]), _number(told["p95_ms"]))

    def unload(self, name: str) -> None:
        """See `Inference.unload`."""
        if self._started:
            self._host.drop(name)

    def served(self, name: str) -> Served | None:
        """See `Inference.served`."""
        if not self._started or self._host.pid is None:
            return None
        try:
            rows = self._host.stats()
        except ModelError:
            return None  # it is being started again, which its host tells of
        for row in rows:
            if row["model"] == name:
                figures = {key: _number(row[key]) for key in ("p50_ms", "p95_ms", "drift")}
                return Served(int(row["requests"]), int(row["errors"]), version=int(row["version"]), **figures)
        return None

    def paces(self) -> list[Pace] | None:
        """Return how requests fared in the last seconds; None where that cannot be told now."""
        if not self._started or self._host.pid is None:
            return None
        try:
            rows = self._host.pace()
        except ModelError:
            return None  # as above
        if rows is None:
            return None
        return [Pace(**{**row, "target_ms": self._target_ms or row["target_ms"]}) for row in rows]

    def stop(self) -> None:
        """End the process."""
        if self._started:
            self._host.stop()


def _number(value: Any) -> float | None:  # noqa: ANN401  (of JSON)
    return float(value) if isinstance(value, int | float) else None
