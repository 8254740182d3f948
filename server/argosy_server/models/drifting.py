"""When so many boards see other data than their model was trained on that its run is started again.

Boards tell how far what they see is from the sketch in their model's manifest (`argosy_common.drift`); nothing of what
they see leaves them. Only an operator rolls out what the new run makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from argosy_common.artefact import Manifest
from argosy_common.artefact.sketch import DRIFTING
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError
from argosy_common.logs import get_logger
from argosy_server.settings import DriftTable
from argosy_server.store import Store

log = get_logger(__name__)

ACTOR = "coordinator"
EVERY_S = 60.0


@dataclass(frozen=True)
class Drift:
    """How the boards that serve a version see it drift: those that have told, by device."""

    model: str
    """`name:version`."""
    by_device: Mapping[str, float]

    @property
    def drifting(self) -> list[str]:
        """The boards whose model should be looked at."""
        return sorted(device for device, distance in self.by_device.items() if distance >= DRIFTING)

    @property
    def share(self) -> float:
        """Their share of those that have told."""
        return len(self.drifting) / len(self.by_device) if self.by_device else 0.0


class Watch:
    """Looks after all models, once a minute; `tick` may be called more often.

    Args:
        drifts: returns what boards told of the versions that are out.
        repeat: starts a run again, and returns the new one's number.
    """

    def __init__(
        self,
        store: Store,
        settings: DriftTable,
        *,
        drifts: Callable[[], list[Drift]],
        repeat: Callable[[int], int],
        clock: Clock,
    ) -> None:
        self._store = store
        self._settings = settings
        self._drifts = drifts
        self._repeat = repeat
        self._clock = clock
        self._next = float("-inf")

    def tick(self) -> None:
        """Start again what is to be."""
        wanted, now = self._settings.repeat_share, self._clock.monotonic()
        if wanted is None or now < self._next:
            return
        self._next = now + EVERY_S
        for drift in self._drifts():
            if len(drift.by_device) >= self._settings.least and drift.share >= wanted:
                self._start(drift)

    def _start(self, drift: Drift) -> None:
        run = Manifest.parse(self._store.models.get(drift.model).manifest).run
        if run is None or self._ran_lately(run):
            return
        drifting, told = len(drift.drifting), len(drift.by_device)
        try:
            again = self._repeat(run)
        except ArgosyError as error:
            log.error("drift.run_not_started", model=drift.model, run=run, code=error.code, why=error.message)
            return
        log.warning("drift.run_started", model=drift.model, run=again, repeats=run, drifting=drifting, told=told)
        self._store.audit.write(
            ACTOR, "drift.run", f"run {again}", model=drift.model, repeats=run, drifting=drifting, told=told
        )

    def _ran_lately(self, run: int) -> bool:
        """Tell whether the app of that run is at work, or was started within the time of rest."""
        digest = self._store.runs.get(run).app_digest
        since = self._clock.wall() - timedelta(seconds=self._settings.rest_s)
        return any(
            row.app_digest == digest and (not row.over or row.created_at >= since) for row in self._store.runs.list()
        )
