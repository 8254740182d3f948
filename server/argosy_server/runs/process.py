"""A run's own process: `python -m argosy_server.runs.process`, started by the supervisor with a channel.

It unpacks the app, imports its server app and calls it with an `EdgeGrid`, once. Flower's `TaskIdentity` is global to
a process, which is why a run has one to itself. Its output goes to the run's log.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from argosy_common import bundle, ipc, logs
from argosy_common.artefact.sketch import Sketch
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.bundle import AppManifest
from argosy_common.clock import Clock, SystemClock
from argosy_common.errors import AppImportFailed, ArgosyError, ProgrammingError, ServerAppFailed
from argosy_common.flower import compat
from argosy_common.flower.arrays import write_arrays
from argosy_common.flower.fedbuff import FedBuff
from argosy_common.flower.quorum import QuorumGrid
from argosy_common.flower.selection import SelectionGrid
from argosy_common.logs import get_logger
from argosy_common.run_settings import CodecSettings, SecureSettings, StragglerSettings
from argosy_common.straggler.selectors import get_selector
from argosy_server.models.exporter import export_model
from argosy_server.models.settings import ModelSettings
from argosy_server.runs.grid import EdgeGrid, GridSettings
from argosy_server.runs.port import DaemonPort, RunStopped

if TYPE_CHECKING:
    from argosy_common.flower.codec.grid import CodecGrid
    from argosy_common.flower.secure.grid import SecureGrid

log = get_logger(__name__)

SERVER_NODE_ID = 1
"""Flower's node id of the server's side; no device has it (DESIGN.md, "Names")."""

_ORPHAN_S = 5.0
"""What a server app may still do, perhaps save something, when its coordinator has died."""


@dataclass(frozen=True)
class Assignment:
    """What the daemon tells this process to run."""

    run: int
    store: str
    bundle: bytes
    folder: str
    server_app: str
    client_app: str
    run_config: dict[str, bool | int | float | str]
    rounds: int | None
    grid: dict[str, Any]
    codec: dict[str, Any]
    secure: dict[str, Any]
    """A `SecureSettings`."""
    straggler: dict[str, Any]
    """A `StragglerSettings`."""
    fleet: tuple[int, bytes] | None
    """Version and bytes of the operator's fleet list."""


class RunObserver:
    """Learns from Flower's strategy, without the app's help, what the operator wants to see.

    Implements `argosy_common.flower.compat.StrategyObserver`.
    """

    def __init__(self, port: DaemonPort, store: BlobStore, rounds: int | None) -> None:
        self._port = port
        self._store = store
        self._rounds = rounds
        self.wanted: int | None = None
        self.final_model: BlobRef | None = None
        self.layer: CodecGrid | SecureGrid | None = None
        """The grid that is to learn which strategy uses it."""
        self.layer_event = ""
        """Under which name it is told."""
        self.asynchronous: StragglerSettings | None = None
        """How updates are taken in without rounds, if they are."""

    def starting(self, start: compat.StrategyStart) -> int | None:
        """Tell the daemon what begins; return the operator's number of rounds, if there is one."""
        rounds = self._rounds or start.rounds
        self.wanted = start.min_nodes
        self._port.update(strategy=start.name, rounds=rounds)
        self._port.event("strategy-started", strategy=start.name, rounds=rounds)
        if self.layer is not None:
            self.layer.serve(start.traits)
            self._port.event(self.layer_event, **self.layer.described())
        return self._rounds

    def instead(self, strategy: Strategy) -> Strategy:
        """Return the app's strategy; in an asynchronous run, FedBuff around it."""
        settings = self.asynchronous
        if settings is None or isinstance(strategy, FedBuff):
            return strategy
        return FedBuff(
            strategy,
            buffer=settings.buffer,
            concurrency=settings.concurrency,
            staleness=settings.staleness,
            report=lambda name, data: self._port.event(name, **data),
        )

    def waiting(self, online: int, wanted: int) -> None:  # noqa: ARG002  (the daemon knows who is online)
        """Keep the minimum that the strategy waits for."""
        self.wanted = wanted

    def central(self, round_: int, metrics: compat.Metrics) -> None:
        """Tell the daemon what the server app measured itself."""
        told = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        self._port.event("central", round=round_, metrics=told)

    def finished(self, arrays: ArrayRecord) -> None:
        """Keep the final model as a blob."""
        if len(arrays):
            self.final_model = write_arrays(arrays, self._store)


def main() -> None:
    """Take the assignment from the channel, run it, and say how it ended."""
    channel = ipc.Channel.inherited()
    first = channel.receive(timeout=30.0)
    if first is None:
        sys.exit(1)
    logs.configure(first.pop("log_level"))
    logging.getLogger("flwr").propagate = False  # it writes to this log itself
    assignment = Assignment(**first)
    clock = SystemClock()
    port = DaemonPort(channel, clock=clock, gone=_end_orphan)
    port.start()
    store = BlobStore(Path(assignment.store))
    observer = RunObserver(port, store, assignment.rounds)
    error, stopped, seen = None, False, None
    try:
        edge = EdgeGrid(
            port=port,
            store=store,
            run_id=assignment.run,
            settings=GridSettings(**assignment.grid),
            clock=clock,
            wanted=lambda: observer.wanted,
        )
        _run(assignment, _layered(edge, assignment, port, observer), observer, store)
        seen = edge.seen.sketch()
    except RunStopped:
        stopped = True
    except ArgosyError as caught:
        traceback.print_exc()
        error = caught
    except (Exception, SystemExit) as caught:  # noqa: BLE001  (the app's own failure, told to the daemon)
        traceback.print_exc()
        error = ServerAppFailed(run=assignment.run, why=f"{type(caught).__name__}: {caught}")
    final = observer.final_model
    with contextlib.suppress(ConnectionError):  # the daemon is gone; it will call the run interrupted
        if final is not None and error is None and not stopped:
            _export(assignment, final, store, port, clock, seen=seen)
        port.finished(error, stopped=stopped, final_model=final.digest if final else None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if error is None else 1)  # an app may have left threads that would keep the process


def _export(
    assignment: Assignment, final: BlobRef, store: BlobStore, port: DaemonPort, clock: Clock, *, seen: Sketch | None
) -> None:
    """Have the app export its final arrays as a model, if it says how; a failure is told, and is not the run's.

    Args:
        seen: what the devices trained on, where they said so; it stands in the manifest.
    """
    folder = Path(assignment.folder)
    try:
        settings = ModelSettings.of_app(AppManifest.read(folder / "app"))
        if settings is None:
            return
        draft = export_model(
            settings,
            final,
            store,
            app=folder / "app",
            run_config=assignment.run_config,
            folder=folder / "export",
            clock=clock,
            stopped=lambda: port.stopped,
        )
    except ArgosyError as error:
        traceback.print_exc()
        port.event("model-not-exported", error=error.to_wire())
    else:
        port.model(settings.name, draft.with_seen(seen).to_wire())


def _end_orphan() -> None:
    """End this process, and what its app has started, once the coordinator is gone and the app takes no notice.

    An app that uses the grid ends at its next request; one that is deep in its own work has nobody to work for.
    """
    time.sleep(_ORPHAN_S)
    log.warning("run.orphaned")
    os.killpg(0, signal.SIGKILL)  # the supervisor made this process the leader of its group


def _layered(grid: Grid, assignment: Assignment, port: DaemonPort, observer: RunObserver) -> Grid:
    """Put the layers around the grid that the run asks for: who is waited for, what travels, who is asked.

    Raises:
        CodecUnknown, CodecUnsuitable, SecureUnsuitable, SelectorUnknown, AsyncUnsuitable: it asks for what there is
            not, or does not go together.
    """
    secure, codec = SecureSettings.from_wire(assignment.secure), CodecSettings.from_wire(assignment.codec)
    straggler = StragglerSettings.from_wire(assignment.straggler)
    straggler.require_goes_with(secure)
    secure.require_alone(codec)
    if straggler.asynchronous:
        observer.asynchronous = straggler
        return _coded(grid, codec, assignment, port, observer) if codec.active else grid

    def report(name: str, data: Mapping[str, object]) -> None:
        port.event(name, **data)

    quorum = QuorumGrid(grid, settings=straggler, least=_fewest_secure if secure.enabled else None, report=report)
    layered: Grid = quorum
    if secure.enabled:
        layered = _secured(quorum, secure, assignment, port, observer)
    elif codec.active:
        layered = _coded(quorum, codec, assignment, port, observer)
    if not straggler.enabled:
        return layered
    selector = get_selector(straggler.selector, hear_every=straggler.hear_every)
    rng = random.Random(assignment.run)  # noqa: S311  (nothing secret: a run's choices can be repeated)
    return SelectionGrid(layered, quorum, settings=straggler, selector=selector, rng=rng, report=report)


def _fewest_secure(asked: int) -> int:
    """Return with how many updates the sum of a group of so many devices may be opened."""
    from argosy_common.secagg.parameters import FEWEST_CLIENTS, Parameters  # noqa: PLC0415  (numpy, for secure runs)

    return Parameters.of(asked, 65521).n_min if asked >= FEWEST_CLIENTS else asked


def _secured(
    grid: Grid, settings: SecureSettings, assignment: Assignment, port: DaemonPort, observer: RunObserver
) -> Grid:
    from argosy_common.flower.secure.digest import app_digest  # noqa: PLC0415  (ten megabytes that other runs can spare)
    from argosy_common.flower.secure.grid import SecureGrid  # noqa: PLC0415
    from argosy_common.secure_ledger import Ledger  # noqa: PLC0415

    observer.layer_event = "secure"
    observer.layer = SecureGrid(
        grid,
        settings=settings,
        app=app_digest(assignment.bundle, assignment.client_app),
        run_config=assignment.run_config,
        fleet=None if assignment.fleet is None else (assignment.fleet[0], assignment.fleet[1]),
        ledger=Ledger(Path(assignment.folder).parent / "secure"),
        node_ids_are_identities=True,
        report=lambda name, data: port.event(name, **data),
    )
    return observer.layer


def _coded(grid: Grid, codec: CodecSettings, assignment: Assignment, port: DaemonPort, observer: RunObserver) -> Grid:
    from argosy_common.flower.codec.grid import CodecGrid  # noqa: PLC0415  (10 MB that other runs can spare)

    observer.layer_event = "codec"
    observer.layer = CodecGrid(
        grid,
        up=codec.up,
        down=codec.down,
        arrays=codec.arrays,
        report=lambda traffic: port.event("phase-compressed", **vars(traffic)),
        spill_to=Path(assignment.folder),
    )
    return observer.layer


def _run(assignment: Assignment, grid: Grid, observer: RunObserver, store: BlobStore) -> None:
    folder = Path(assignment.folder)
    app_folder = folder / "app"
    if not app_folder.exists():
        bundle.unpack(store.path(assignment.bundle), app_folder)
    compat.become_task(run_id=assignment.run, node_id=SERVER_NODE_ID)
    server_app = _load(app_folder, assignment.server_app)
    context = Context(
        run_id=assignment.run,
        node_id=SERVER_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=assignment.run_config,
    )
    compat.observe_strategies(observer, (Strategy, FedBuff))
    server_app(grid, context)


def _load(folder: Path, component: str) -> Any:  # noqa: ANN401  (the user's ServerApp)
    """Import `module:attribute` from the app's folder."""
    sys.path.insert(0, str(folder))
    module, _, attribute = component.partition(":")
    try:
        found = importlib.import_module(module)
        app = getattr(found, attribute)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the app's own failure, named for the operator)
        traceback.print_exc()
        raise AppImportFailed(component=component, why=f"{type(error).__name__}: {error}") from None
    if not callable(app):
        raise AppImportFailed(component=component, why="it is not a ServerApp")
    return app


if __name__ == "__main__":
    try:
        main()
    except Exception as failure:  # noqa: BLE001  (the last stop: into the run's log)
        log.error("run.process_failed", exc=failure)
        raise SystemExit(ProgrammingError.exit_code) from None
