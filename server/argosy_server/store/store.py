"""The store as a whole: one database, one attribute a table."""

from __future__ import annotations

from typing import Self

from argosy_common.clock import Clock
from argosy_server.store.audit import Audit
from argosy_server.store.database import Database
from argosy_server.store.devices import Devices
from argosy_server.store.enrolments import Enrolments
from argosy_server.store.instructions import Instructions
from argosy_server.store.models import Models
from argosy_server.store.progress import RunProgress
from argosy_server.store.renewals import Renewals
from argosy_server.store.rollouts import Rollouts
from argosy_server.store.runs import Events, Runs
from argosy_server.store.tokens import Tokens


class Store:
    """See the package's docstring for the rules. Also a context manager that closes it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self.tokens = Tokens(database, clock)
        self.devices = Devices(database, clock)
        self.enrolments = Enrolments(database, clock)
        self.renewals = Renewals(database, clock)
        self.runs = Runs(database, clock)
        self.progress = RunProgress(database, clock)
        self.events = Events(database, clock)
        self.instructions = Instructions(database, clock)
        self.models = Models(database, clock)
        self.rollouts = Rollouts(database, clock)
        self.audit = Audit(database, clock)

    @classmethod
    def open(cls, url: str, clock: Clock) -> Self:
        """Open the database at `url` (`sqlite:////var/lib/argosy/argosy.db`, `postgresql+psycopg://…`), migrated.

        Raises:
            SettingsInvalid: the URL is none, or its driver is not installed.
            StorageFailed: the database cannot be opened.
            DatabaseNewer: a newer version of Argosy has changed its tables.
            DiskFull: as it says.
        """
        return cls(Database(url), clock)

    def probe(self) -> None:
        """Prove that the database answers; raises `StorageFailed` if it does not."""
        self._database.probe()

    def fault(self) -> tuple[str, str]:
        """Return how messages call the database, and what it finds wrong with itself: empty where nothing is."""
        return self._database.where, self._database.fault()

    def close(self) -> None:
        """Close all connections; calls under way in other threads finish."""
        self._database.close()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
