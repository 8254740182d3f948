"""What the admin API asks of the coordinator, and nothing more.

The API knows HTTP and the store; the coordinator knows devices, runs and the broker. Whatever the API cannot read from
the store it asks through this port. Methods are called from the API's worker threads and may block for a moment;
`wait_event` alone may block longer, for at most its timeout. Every method may raise an `ArgosyError`, which reaches the
caller with its code and remedy. The API writes the audit log for what an operator did; implementations need not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from argosy_common.blobs import BlobRef, BlobStore
from argosy_server.fleet_lists import FleetLists
from argosy_server.models.registry import ModelRegistry
from argosy_server.models.rollouts import Rollouts
from argosy_server.models.upgrades import Upgrades
from argosy_server.store import Store

Facts = Mapping[str, object]
"""Plain data that goes to the caller as JSON."""


class CoordinatorPort(Protocol):
    """The coordinator as its admin API sees it."""

    @property
    def store(self) -> Store:
        """The database."""
        ...

    @property
    def blobs(self) -> BlobStore:
        """Where uploaded app bundles go."""
        ...

    @property
    def fleet_lists(self) -> FleetLists:
        """The operator's signed lists of devices."""
        ...

    @property
    def models(self) -> ModelRegistry:
        """All versions of all models."""
        ...

    @property
    def rollouts(self) -> Rollouts:
        """The rollouts of models."""
        ...

    @property
    def upgrades(self) -> Upgrades:
        """The rollouts of the devices' own packages."""
        ...

    def health(self) -> Facts:
        """Return what `/v1/health` shows: version, pid, site, broker, devices online, runs under way."""
        ...

    def presence(self, device: str) -> Facts:
        """Return `{"online": bool, "doing": str, "heartbeat": {…}, "since": ISO time | None}` of a device id.

        Its `condition`, if there is one, has what is known of the fields of a `Condition`.
        """
        ...

    def enrolment_endpoint(self) -> tuple[str, str]:
        """Return the URL that devices join at and the pin of the certificate authority."""
        ...

    def shut_out(self, device: str) -> Facts:
        """Take the device, which the database has as revoked, off at once.

        Return `{"session_ended": bool, "broker": kind}`: whether the broker let us end its session.
        """
        ...

    def readmit(self, device: str) -> None:
        """Take hold of an operator's approval of a device, which may have been shut out before."""
        ...

    def start_run(self, bundle: BlobRef, rounds: int | None, config: dict[str, str], layers: dict[str, Any]) -> int:
        """Check the app bundle and its configuration, start a run and return its number.

        `codec` may have `up`, `down` and `arrays`, which override what the app says of codecs.
        """
        ...

    def repeat_run(self, run: int) -> int:
        """Start a run again as it was, and return the new one's number."""
        ...

    def stop_run(self, run: int) -> None:
        """Ask a run to stop. A run that is over already is left as it is."""
        ...

    def run_log_path(self, run: int) -> Path:
        """Return the file that the run's process writes its log to; it may not exist yet."""
        ...

    def live(self, run: int) -> Sequence[Facts]:
        """Return a row for each device of a run that is under way.

        Keys: device, name, doing, round, bytes_up, bytes_down, seconds, last_seconds, via, error.
        """
        ...

    def doctor(self) -> Sequence[Facts]:
        """Check the installation; each check has name, ok, detail and remedy."""
        ...

    def wait_event(self, run: int, after: int, timeout_s: float) -> bool:
        """Wait until the run has an event after number `after`; return whether it has. Bounded by `timeout_s`."""
        ...
