"""A board's deployments, step by step in the test's own thread, and a judge in the place of a runtime."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from argosy_client.models.arrival import Arrival, Order, Task
from argosy_client.models.deployments import Deployments
from argosy_client.models.inference import Loaded, Served
from argosy_client.models.store import CURRENT, MODEL, ModelStore
from argosy_common.blobs import BlobStore
from argosy_common.blobs.exchange import BlobExchange
from argosy_common.errors import InferenceUnreachable, ModelMisfit
from argosy_common.wire.bodies import Body, ModelState
from tests.artefacts import BAD, Artefact, Authority


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC)


class Judge:
    """Loads what a model's folder holds, and refuses files that begin with `BAD`, as a golden check would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, int] = {}
        self.served_now: Served | None = None
        self.crash: Exception | None = None
        """Raised by the next load."""
        self.gone = False

    def load(self, name: str) -> Loaded:
        if self.crash is not None:
            crash, self.crash = self.crash, None
            raise crash
        if self.gone:
            raise InferenceUnreachable(path="s", why="no process runs")
        version = json.loads((self.folder / name / CURRENT).read_text())["version"]
        if (self.folder / name / str(version) / MODEL).read_bytes().startswith(BAD):
            raise ModelMisfit(model=f"{name}:{version}", why="its golden outputs differ")
        self.runs[name] = version
        return Loaded(backend="judge", ran_on="CPU", p95_ms=1.5)

    def unload(self, name: str) -> None:
        if self.gone:
            raise InferenceUnreachable(path="s", why="no process runs")
        self.runs.pop(name, None)

    def served(self, name: str) -> Served | None:  # noqa: ARG002  (the protocol's)
        return self.served_now


class Board:
    """One board; `boot` is another start of its daemon. Blobs are there before they are asked for."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = authority
        self.root = folder / "ca.crt"
        self.root.write_bytes(authority.pem)
        self.blobs = BlobStore(folder / "blobs")
        self.store = ModelStore(folder / "models")
        self.clock = HandClock()
        self.asked: list[Body] = []
        self.exchange = BlobExchange(self.blobs, clock=self.clock, sink="", post=self._post, post_chunk=lambda *_: True)
        self.boot()

    def boot(self) -> None:
        """Start anew, with nothing but what is on disk."""
        self.said: list[ModelState] = []
        self.judge = Judge(self.store.folder)
        self.deployments = Deployments(
            store=self.store,
            arrival=Arrival(store=self.store, blobs=self.blobs, exchange=self.exchange, root=self.root),
            tell=self.said.append,
            clock=self.clock,
            inference=self.judge,
        )
        self.deployments._resume_all()

    def carry_out(self, order: Order) -> ModelState:
        """Do what an order says, and return the last word on it."""
        self.deployments._carry_out(Task(order))
        return self.said[-1]

    def deploy(self, made: Artefact, *, rollout: int = 1, rollback: bool = False, **fields: float) -> ModelState:
        """Have the blobs brought, and the version deployed."""
        for blob in made.blobs:
            self.blobs.put_bytes(blob)
        return self.carry_out(self.authority.deploy(made, rollout=rollout, rollback=rollback, **fields))

    def in_force(self, name: str = "har") -> int | None:
        now = self.store.current(name)
        return None if now is None else now.version

    def versions(self, name: str = "har") -> list[str]:
        """What lies in a model's folder, leftovers included."""
        return sorted(each.name for each in (self.store.folder / name).iterdir() if each.is_dir())

    def _post(self, _peer: str, body: Body) -> bool:
        self.asked.append(body)
        return True


def code(said: ModelState) -> str | None:
    """The code of the error in a report."""
    return said.error.code if said.error else None
