"""Starts, watches and ends runs: one process each (DESIGN.md, "The way of one round").

Run states, and what moves them:

    pending ─started→ running ─ended→ finished | failed | stopped

A run that was not over when the coordinator stopped is gone on with at the next start (`resume.py`); one that cannot be
is `failed` with `run-interrupted`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.store import storage_errors
from argosy_common.bundle import AppManifest, Scalar, fuse_config, unpack
from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    BlobUnknown,
    DiskFull,
    ProgrammingError,
    RunInterrupted,
    ServerAppFailed,
    StorageFailed,
    error_from_wire,
)
from argosy_common.files import private_folder
from argosy_common.ipc import Channel, child_environment
from argosy_common.logs import get_logger
from argosy_server.crash_points import reach
from argosy_server.dispatcher import Dispatcher
from argosy_server.fleet_lists import FleetLists
from argosy_server.group_commit import GroupCommit
from argosy_server.instruction import Answer, Outgoing, RunApp
from argosy_server.models.draft import Draft, Origin
from argosy_server.models.registry import ModelRegistry
from argosy_server.models.settings import ModelSettings
from argosy_server.registry import Registry
from argosy_server.runs.layers import fuse_layers
from argosy_server.runs.live import LiveRun
from argosy_server.runs.record import End, RunRecord
from argosy_server.runs.resume import PHASES, Resumption, pinned, resumption
from argosy_server.settings import RunsTable
from argosy_server.store import DeviceState, EventRow, ModelRow, RunRow, Store

log = get_logger(__name__)

ROUND_KEYS = ("num-server-rounds", "num-rounds", "num_rounds", "num_server_rounds", "rounds")
"""Names under which apps keep their number of rounds; `--rounds` sets the one the app has."""

STOP_GRACE_S = 10.0
LIFE_CHECK_S = 0.5
"""How often a silent run process is looked at: it may be dead while a child of its own holds the channel open."""
_PAGE = 1000
ACTIVE = ("pending", "running")
_Settled = tuple[dict[str, Scalar], dict[str, Any]]
"""A run's configuration and its options, as they are kept."""


@dataclass
class _Active:
    """A run under way."""

    run: int
    process: subprocess.Popen[bytes]
    channel: Channel
    app: RunApp
    started_at: float
    answers: GroupCommit[dict[str, Any]]
    """Sends it answers on a thread of its own: a process that does not read must not hold up other runs."""
    stopping: bool = False
    phase: tuple[int | None, str] = (None, "")
    """The last one that was asked for."""
    ended: dict[str, Any] | None = None
    held: set[bytes] = field(default_factory=set)
    """Digests that the run's process may still read."""
    round: int | None = None
    """The last one that was measured, and what was measured then."""
    metrics: dict[str, float] = field(default_factory=dict)
    live: LiveRun = field(default_factory=LiveRun)
    watcher: threading.Thread = field(default_factory=threading.Thread)
    """Serves its channel, and settles the run at the end."""
    resumed: bool = False
    """Whether it is gone on with after the coordinator was killed."""
    resumable: bool = False
    """Whether it can be."""
    pinned: set[bytes] = field(default_factory=set)
    """Blobs of its last checkpoint."""
    records: set[bytes] = field(default_factory=set)
    """Of these, the strategy's record."""
    freed: set[bytes] = field(default_factory=set)
    """Blobs that its process needs no more, and would need again if it were gone on with from the last checkpoint."""

    def measured(self, name: str, data: Mapping[str, Any]) -> None:
        """Remember the newest metrics: the server app's own, and those of the devices where it has none."""
        if name not in ("central", "phase-finished", "async-step", "async-evaluation"):
            return
        found = data.get("metrics") or {}
        numbers = {str(key): float(value) for key, value in found.items() if isinstance(value, int | float)}
        if data.get("round") != self.round:
            self.round, self.metrics = data.get("round"), {}
        self.metrics = {**numbers, **self.metrics} if name == "phase-finished" else {**self.metrics, **numbers}


class RunSupervisor:
    """All runs of this coordinator. Safe to use from any thread."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        dispatcher: Dispatcher,
        registry: Registry,
        clock: Clock,
        folder: Path,
        settings: RunsTable,
        log_level: str,
        fleet_lists: FleetLists,
        models: ModelRegistry,
    ) -> None:
        self._store = store
        self._models = models
        self._blobs = blobs
        self._dispatcher = dispatcher
        self._registry = registry
        self._clock = clock
        self._folder = folder
        self._settings = settings
        self._log_level = log_level
        self._fleet_lists = fleet_lists
        self._active: dict[int, _Active] = {}
        self._kept: set[bytes] = set()
        """Apps and final models. A run may come upon the same content and be done with it: it stays all the same."""
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._record = RunRecord(store, clock=clock)
        dispatcher.on_unclaimed(self._drop)

    # --- for the admin API

    def start(self, bundle: BlobRef, rounds: int | None, config: dict[str, str], layers: Mapping[str, Any]) -> int:
        """Record and start a run of the app in `bundle`; return its number.

        `layers` overrides what the app says: its `codec` may have `up`, `down` and `arrays`, its `secure` be a boolean,
        its `straggler` have the fields of a `StragglerSettings`.

        Raises:
            BlobUnknown: the bundle was not uploaded.
            BlobCorrupt: the bundle changed on disk since it was uploaded; upload it again.
            AppBundleInvalid, AppDirectoryInvalid: it is not an app.
            RunConfigInvalid: a key or value that the app or [tool.argosy] does not know.
            SecureUnsuitable, SecureTooFewDevices: it cannot be secure, with these codecs or this fleet.
            AsyncUnsuitable: it cannot be both secure and asynchronous.
            ModelSettingsInvalid: [tool.argosy.model] has a key or value that is not known.
        """

        def settled(manifest: AppManifest) -> _Settled:
            fused = fuse_config(manifest.config, _with_rounds(manifest.config, rounds, config))
            return fused, {"rounds": rounds, **fuse_layers(manifest, layers, self._fleet)}

        return self._launch(bundle, settled)

    def repeat(self, run: int) -> int:
        """Start a run again as it was, with the fleet list of today; return the new run's number.

        Raises:
            RunNotFound: there is no such run.
            BlobUnknown, BlobCorrupt, AppBundleInvalid: its app is not here any more.
        """
        row = self._store.runs.get(run)

        def settled(_manifest: AppManifest) -> _Settled:
            options = dict(row.options)
            if "secure" in options:
                options["secure"] = {**options["secure"], "fleet": self._fleet()[1]}
            return dict(row.run_config), options

        return self._launch(BlobRef(bytes.fromhex(row.app_digest), row.app_size), settled)

    def _launch(self, bundle: BlobRef, settled: Callable[[AppManifest], _Settled]) -> int:
        """Record and start a run; `settled` returns its configuration and its options."""
        if not self._blobs.has(bundle.digest):
            raise BlobUnknown(peer="the coordinator", digest=bundle.hex)
        with self._lock:
            self._kept.add(bundle.digest)
        staging = self._folder / f"staging-{bundle.hex[:16]}-{threading.get_ident()}"
        try:
            unpack(self._blobs.checked(bundle.digest), staging)
            manifest = AppManifest.read(staging)
            ModelSettings.of_app(manifest)
            fused, options = settled(manifest)
            run = self._store.runs.create(
                app_name=manifest.name,
                app_digest=bundle.hex,
                app_size=bundle.size,
                server_app=manifest.server_app,
                client_app=manifest.client_app,
                run_config=fused,
                options=options,
            )
            reach("run.recorded")
            try:
                with storage_errors(self.folder(run)):
                    staging.replace(private_folder(self.folder(run)) / "app")
                self._spawn(self._store.runs.get(run), options["rounds"])
            except ArgosyError as error:
                self._never_began(run, error)
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return run

    def _fleet(self) -> tuple[int, int | None]:
        """Return how many devices are enrolled, and the version of the fleet list, if there is one."""
        enrolled = sum(row.state is DeviceState.ENROLLED for row in self._store.devices.list())
        installed = self._fleet_lists.installed()
        return enrolled, None if installed is None else installed.fleet.version

    def _never_began(self, run: int, error: ArgosyError) -> None:
        """Call a run failed that could not be started; on a thread, since whoever wanted it is told at once."""
        end = End("failed", error, None, None)
        threading.Thread(target=self._record.end, args=[run, end], name=f"run-{run}", daemon=True).start()

    def stop(self, run: int) -> None:
        """Ask a run to stop, and kill it if it does not within the grace; nothing if it is over.

        Raises:
            RunNotFound: there is no such run.
        """
        self._store.runs.get(run)
        with self._lock:
            active = self._active.get(run)
        if active is None:
            return
        active.stopping = True
        timer = threading.Timer(STOP_GRACE_S, self._kill, [active])
        timer.daemon = True
        timer.start()  # first, since a process that hangs does not read, and the next line then waits for its end
        with contextlib.suppress(OSError):
            active.channel.send({"op": "stop"})

    def folder(self, run: int) -> Path:
        """Return the run's folder: its app, its log, and what its server app wrote."""
        return self._folder / str(run)

    def log_path(self, run: int) -> Path:
        """Return the file of the run's output."""
        return self.folder(run) / "run.log"

    def active(self) -> list[int]:
        """Return the numbers of the runs under way."""
        with self._lock:
            return sorted(self._active)

    def live(self, run: int) -> LiveRun:
        """Return the live view of a run, from memory while it is under way and else from its events."""
        with self._lock:
            active = self._active.get(run)
        if active is not None:
            return active.live
        view = LiveRun()
        for event in self._events(run):
            view.apply(event.name, event.data)
        return view

    def wait_event(self, run: int, after: int, timeout_s: float) -> bool:
        """Wait until `run` has an event later than `after`; False when the time is over."""
        return self._record.wait(run, after, timeout_s)

    # --- life

    def recover(self) -> None:
        """At start: go on with what was under way when the coordinator last stopped, and remove what it left.

        What cannot be gone on with is called interrupted. Before anybody hears of us, since a reply that comes is lost
        if nobody knows of its instruction.
        """
        resumptions: list[Resumption] = []
        for row in self._store.runs.list():
            if row.status not in ACTIVE or self._is_over(row):
                continue
            found = resumption(row, self._store, self._blobs)
            if found is not None:
                resumptions.append(found)
            else:
                self._interrupt(row)
        self._sweep(self._store.runs.list(), resumptions)
        for each in reversed(resumptions):
            try:
                self._resume(each)
            except ArgosyError as error:
                log.error("run.not_resumed", run=each.row.id, code=error.code, why=error.message)
                self._never_began(each.row.id, error)

    def _is_over(self, row: RunRow) -> bool:
        """Finish the record of a run that had ended."""
        progress = self._store.progress.get(row.id)
        if progress is None or progress.outcome is None:
            return False
        self._let_drop(row.id)
        if all(event.name != "run-finished" for event in self._store.events.last(row.id, 1)):
            self._record.event(row.id, "run-finished", progress.outcome)
        self._record.verdict(row.id, progress.outcome)
        return True

    def _interrupt(self, row: RunRow) -> None:
        self._let_drop(row.id)
        self._record.end(row.id, End("failed", RunInterrupted(run=row.id), None, None))
        log.warning("run.interrupted", run=row.id)

    def _let_drop(self, run: int) -> None:
        """Nobody waits for the instructions of a run any more; devices are told as they come."""
        self._store.instructions.cancel_run(run)
        self._store.instructions.drop_payloads(run)
        self._dispatcher.bury(run)

    def _resume(self, found: Resumption) -> None:
        """Go on with a run: first what devices owe it, then its process."""
        row = found.row
        if found.progress is None:
            self._spawn(row, row.options["rounds"])
            return
        self._store.progress.resumed(row.id)
        self._dispatcher.restore(row.id, found.open)
        self._spawn(row, row.options["rounds"], found)
        log.info("run.resumed", run=row.id, round=found.progress.done_round, phase=found.progress.done_phase)

    def _sweep(self, rows: Collection[RunRow], resumptions: Collection[Resumption]) -> None:
        """Remove the blobs that no run needs any more: all but apps, final models, versions, and what goes on."""
        self._kept = {bytes.fromhex(hexed) for row in rows for hexed in (row.app_digest, row.final_model) if hexed}
        self._kept.update(bytes.fromhex(hexed) for hexed in self._store.models.digests())
        needed = self._kept.union(*(each.digests for each in resumptions))
        litter = [digest for digest in self._blobs.digests() if digest not in needed]
        for digest in litter:
            self._blobs.delete(digest)
        freed = self._blobs.sweep()
        if litter or freed:
            log.info("runs.swept", blobs=len(litter), unfinished_bytes=freed)

    def close(self) -> None:
        """End all processes; bounded. Runs that can be gone on with are, at the next start; others are stopped."""
        self._closing.set()
        self._record.closing()
        with self._lock:
            active = list(self._active.values())
        for each in active:
            if each.resumable:
                self._kill(each)
            else:
                self.stop(each.run)
        for each in active:
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.process.wait(STOP_GRACE_S)
            self._kill(each)
        for each in active:
            each.watcher.join(STOP_GRACE_S)
        self._record.close()

    def _spawn(self, row: RunRow, rounds: int | None, found: Resumption | None = None) -> None:
        """Start a run's process; with `found`, to go on with it."""
        folder = private_folder(self.folder(row.id))
        progress = found.progress if found is not None else None
        if progress is None:
            progress = self._store.progress.get(row.id) or self._store.progress.create(row.id, secrets.token_hex(16))
            self._store.runs.update(row.id, status="running", started_at=self._clock.wall())
            self._record.event(row.id, "run-started", {"app": row.app_name, "rounds": rounds, "strategy": None})
        else:
            self._record.event(row.id, "run-resumed", {"round": progress.done_round, "phase": progress.done_phase})
        with storage_errors(folder):
            output = self.log_path(row.id).open("ab")
        ours, theirs = Channel.pair()
        bundle = BlobRef(bytes.fromhex(row.app_digest), row.app_size)
        environment = {
            **os.environ,
            **child_environment(theirs),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
            # large arrays go back to the system as soon as they are freed
            "MALLOC_MMAP_THRESHOLD_": "1048576",
            "MALLOC_TRIM_THRESHOLD_": "1048576",
        }
        with theirs, output:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "argosy_server.runs.process"],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:  # no memory, no descriptors, no processes left
                ours.close()
                raise ServerAppFailed(run=row.id, why=f"its process could not be started: {error}") from error
        app = RunApp(row.id, bundle, row.client_app, row.run_config)
        answers: GroupCommit[dict[str, Any]] = GroupCommit(
            f"answers-{row.id}", lambda many: _send_all(ours, many, row.id)
        )
        active = _Active(row.id, process, ours, app, self._clock.monotonic(), answers)
        if found is not None:
            self._take_up(active, found)
        with self._lock:
            self._active[row.id] = active
        self._dispatcher.listen(row.id, lambda answer: self._forward(active, answer))
        active.watcher = threading.Thread(target=self._watch, args=[active], name=f"run-{row.id}", daemon=True)
        active.watcher.start()
        with contextlib.suppress(OSError):  # it died at once, which its watcher sees
            ours.send(
                {
                    "log_level": self._log_level,
                    "run": row.id,
                    "store": str(self._blobs.root),
                    "bundle": bundle.digest,
                    "folder": str(folder),
                    "server_app": row.server_app,
                    "client_app": row.client_app,
                    "run_config": row.run_config,
                    "rounds": rounds,
                    "grid": {
                        "device_wait_s": self._settings.device_wait_s,
                        "reply_timeout_s": self._settings.reply_timeout_s,
                        "check_arrays": self._settings.check_arrays,
                    },
                    "codec": row.options["codec"],
                    "straggler": row.options.get("straggler", {}),
                    "salt": progress.salt,
                    "before": None if found is None else found.before(),
                    **self._secure(row),
                }
            )
        log.info("run.started", run=row.id, app=row.app_name, pid=process.pid)
        reach("run.spawned")

    def _take_up(self, active: _Active, found: Resumption) -> None:
        """Have a run be what it was: its live view and metrics from its events, and what it holds."""
        active.resumed = True
        active.resumable = found.progress is not None and found.progress.resumable
        active.pinned = pinned(found.progress)
        if found.progress is not None and found.progress.record_digest:
            active.records = {bytes.fromhex(found.progress.record_digest)}
        active.held.update(found.digests)
        for event in self._events(active.run):
            active.live.apply(event.name, event.data)
            active.measured(event.name, event.data)

    def _events(self, run: int) -> Iterator[EventRow]:
        """Yield what happened in a run so far, read by the page."""
        after = 0
        while page := self._store.events.after(run, after, _PAGE):
            yield from page
            after = page[-1].seq

    def _secure(self, row: RunRow) -> dict[str, Any]:
        """Return what a run's process needs to know of secure aggregation."""
        settings = {name: value for name, value in row.options.get("secure", {}).items() if name != "fleet"}
        installed = self._fleet_lists.installed() if settings else None
        data = self._fleet_lists.current() if installed else None
        return {"secure": settings, "fleet": [installed.fleet.version, data] if installed else None}

    # --- the run process's requests

    def _watch(self, active: _Active) -> None:
        """Serve one run's channel to its end, then settle the run."""
        try:
            while active.ended is None and (message := self._next(active)) is not None:
                self._serve(active, message)
        except Exception as error:  # noqa: BLE001  (our own failure: the run ends with it, the daemon goes on)
            log.error("run.channel_failed", exc=error, run=active.run)
            failure = error if isinstance(error, ArgosyError) else ProgrammingError(what=f"{error}")
            active.ended = {"error": failure.to_wire(), "stopped": False, "final_model": None}
            self._kill(active)
        self._settle(active)

    def _next(self, active: _Active) -> dict[str, Any] | None:
        """Return the next message of a run's process; None once it has closed its channel or is dead."""
        while True:
            dead = active.process.poll() is not None  # asked first: what it said before its end is still read
            if active.channel.ready(LIFE_CHECK_S):
                return active.channel.receive()
            if dead:
                return None

    def _serve(self, active: _Active, message: dict[str, Any]) -> None:
        serve = self._requests.get(message["op"])
        if serve is None:
            raise ProgrammingError(what=f"a run process asked for '{message['op']}'")
        serve(active, message)

    @cached_property
    def _requests(self) -> dict[str, Callable[[_Active, dict[str, Any]], object]]:
        """What a run's process may ask for; see `argosy_server.runs.port`."""
        return {
            "nodes": lambda active, _: active.channel.send(
                {"op": "nodes", "ids": [int(device, 16) for device in self._registry.online()]}
            ),
            "conditions": lambda active, _: active.channel.send(
                {"op": "conditions", "of": self._registry.conditions()}
            ),
            "push": lambda active, it: self._push(active, it["messages"], it["nodes"]),
            "give-up": lambda _, it: self._dispatcher.give_up(it["ids"], it["seconds"]),
            "release": lambda active, it: self._release(active, it["digests"]),
            "event": lambda active, it: self._note(active, it["name"], it["data"]),
            "update": lambda active, it: self._store.runs.update(active.run, **it["fields"]),
            "model": lambda active, it: self._add_model(active, it["name"], it["draft"]),
            "resumable": lambda active, it: self._can_resume(active, can=it["can"]),
            "resumed": lambda active, it: self._asked_again(active, set(it["ids"])),
            "checkpoint": self._checkpoint,
            "finished": self._ended,
        }

    @staticmethod
    def _ended(active: _Active, message: dict[str, Any]) -> None:
        active.ended = message

    def _can_resume(self, active: _Active, *, can: bool) -> None:
        active.resumable = can
        self._store.progress.resumable(active.run, can=can)

    def _asked_again(self, active: _Active, ids: set[str]) -> None:
        self._dispatcher.settle_for(active.run, ids)
        active.resumed = False  # from here on it asks for nothing that it has asked for before

    def _checkpoint(self, active: _Active, message: dict[str, Any]) -> None:
        """Note what a run has reached; what only its last step needed may go then.

        The events that led to it are written first: a run that goes on from here does not tell them again.
        A disk that is full costs the checkpoint and not the run: it would be gone on with from the one before.
        """
        reach("checkpoint.arrived")
        record, arrays = tuple(message["record"]), message["arrays"]
        fresh = {record[0], *([arrays[0]] if arrays else [])}
        with self._lock:
            active.held.update(fresh)
        if not self._record.written():
            log.error("run.checkpoint_not_kept", run=active.run, why="the events before it are not written yet")
            return
        try:
            phase = tuple(message["phase"])
            reached = self._store.progress.done(active.run, phase, record, tuple(arrays) if arrays else None)
        except (DiskFull, StorageFailed) as error:
            log.error("run.checkpoint_not_kept", run=active.run, code=error.code, why=error.message)
            return
        reach("checkpoint.recorded")
        with self._lock:
            active.pinned = pinned(reached)
            # the process tells when it needs arrays no more; records are read by nobody but the next one
            free = (active.freed | active.records) - active.pinned
            active.freed, active.records = active.freed & active.pinned, {record[0]}
        self._release_now(active, free)
        reach("checkpoint.freed")

    def _push(self, active: _Active, messages: list[dict[str, Any]], nodes: list[int]) -> None:
        self._begin_phase(active, messages[0], nodes)
        outgoing = [
            Outgoing(
                id=each["id"],
                device=f"{each['node_id']:016x}",
                node_id=each["node_id"],
                round=each["round"],
                message_type=each["message_type"],
                flower=each["flower"],
                blobs=tuple(BlobRef(digest, size) for digest, size in each["blobs"]),
                deadline_s=each["deadline_s"],
            )
            for each in messages
        ]
        with self._lock:
            active.held.update(ref.digest for out in outgoing for ref in out.blobs)
        if active.resumed:
            self._dispatcher.resubmit(active.app, outgoing)
        else:
            self._dispatcher.submit(active.app, outgoing)

    def _begin_phase(self, active: _Active, first: dict[str, Any], nodes: list[int]) -> None:
        """Note a phase before anybody is asked, once."""
        phase = (first["round"], first["message_type"].split(".", maxsplit=1)[0])
        if not active.resumable or phase[0] is None or phase[1] not in PHASES or phase == active.phase:
            return
        active.phase = phase
        self._store.progress.begun(active.run, phase, nodes)
        reach("phase.begun")

    def _forward(self, active: _Active, answer: Answer) -> None:
        """Hand an answer to the run's process."""
        reply = answer.reply
        if reply is not None and not answer.late:
            with self._lock:
                active.held.update(part.digest for part in reply.blobs)
        facts = (
            {
                "fetch_s": reply.fetch_s,
                "run_s": reply.run_s,
                "upload_s": answer.upload_s,
                "peak_rss": reply.worker_peak_rss,
                "bytes_down": reply.bytes_down,
                "bytes_up": answer.bytes_up,
                "via": reply.via,
            }
            if reply is not None
            else {}
        )
        active.answers.put(
            {
                "op": "late" if answer.late else "answer",
                "id": answer.id,
                "device": answer.device,
                "flower": reply.flower if reply is not None and not answer.late else b"",
                "error": answer.error.to_wire() if answer.error else None,
                "facts": facts,
            }
        )

    def _release(self, active: _Active, digests: Collection[bytes]) -> None:
        """Delete blobs that the run's process needs no more, after the next checkpoint where there are any."""
        if active.resumable:
            with self._lock:
                active.freed.update(digests)
        else:
            self._release_now(active, digests)

    def _release_now(self, active: _Active, digests: Collection[bytes]) -> None:
        """Delete blobs that nobody needs any more; one that a slow device may still fetch goes when the run ends."""
        free = [digest for digest in digests if not self._dispatcher.needs(digest)]
        with self._lock:
            active.held.difference_update(free)
        self._drop(free)

    def _drop(self, digests: Collection[bytes]) -> None:
        """Delete those of `digests` that no run refers to."""
        free = [digest for digest in digests if not self._dispatcher.needs(digest)]
        with self._lock:
            held = self._kept.union(*(each.held for each in self._active.values()))
        for digest in free:
            if digest not in held:
                self._blobs.delete(digest)

    def _add_model(self, active: _Active, name: str, draft: dict[str, Any]) -> None:
        """Keep a model that the run's app exported, as the next version of its name."""
        row = self._store.runs.get(active.run)
        origin = Origin(
            run=active.run,
            round=active.round,
            metrics=active.metrics,
            codec=str(row.options.get("codec", {}).get("up", "")),
            secure=bool(row.options.get("secure", {}).get("enabled", False)),
        )
        try:
            parts = Draft.from_wire(draft)
            with self._lock:
                self._kept.update(bytes.fromhex(blob.digest) for blob in parts.blobs)
            made = self._exported_before(active.run, name, parts) or self._models.add(
                name, parts, origin, actor=f"run:{active.run}"
            )
            reach("model.added")
        except ArgosyError as error:
            log.error("run.model_not_added", run=active.run, code=error.code, why=error.message)
            self._note(active, "model-not-exported", {"error": error.to_wire()})
        else:
            self._note(active, "model-exported", {"model": made.reference, "metrics": dict(active.metrics)})

    def _exported_before(self, run: int, name: str, draft: Draft) -> ModelRow | None:
        """Return the version that this run's app exported before the coordinator was killed, if it did."""
        rows = self._store.models.of_run(run)
        return next((row for row in rows if row.name == name and row.onnx_digest == draft.onnx.digest), None)

    def _note(self, active: _Active, name: str, data: dict[str, Any]) -> None:
        with self._lock:
            active.live.apply(name, data)
            active.measured(name, data)
        self._record.event(active.run, name, data)

    # --- the end of a run

    def _kill(self, active: _Active) -> None:
        if active.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(active.process.pid, signal.SIGKILL)

    def _settle(self, active: _Active) -> None:
        """The process is over, or its channel is: write down how, and let go of everything."""
        try:
            code = active.process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill(active)
            code = active.process.wait(STOP_GRACE_S)
        with contextlib.suppress(ProcessLookupError):  # what its app has started and left behind
            os.killpg(active.process.pid, signal.SIGKILL)
        if self._closing.is_set() and active.resumable and active.ended is None and not active.stopping:
            self._let_go(active)
            log.info("run.to_be_resumed", run=active.run)
            return
        reach("run.over")
        status, error, final = self._outcome(active, code)
        end = End(status, error, final, self._clock.monotonic() - active.started_at)
        self._record.flush()  # whoever reads of its end at the next start must have all that led to it
        self._record.insist(lambda: self._store.progress.ended(active.run, end.event), f"the end of run {active.run}")
        reach("run.decided")
        self._record.insist(lambda: self._dispatcher.close_run(active.run), f"the end of run {active.run}")
        with self._lock:
            held = set(active.held)
            if final:
                self._kept.add(bytes.fromhex(final))
        self._release_now(active, held)
        reach("run.closed")
        self._record.end(active.run, end)
        self._let_go(active)
        log.info("run.finished", run=active.run, status=status, seconds=end.seconds, code=error.code if error else "")

    def _let_go(self, active: _Active) -> None:
        with self._lock:
            self._active.pop(active.run, None)
        active.answers.close()
        active.channel.close()

    def _outcome(self, active: _Active, code: int) -> tuple[str, ArgosyError | None, str | None]:
        ended = active.ended
        if ended is None and active.stopping:
            return "stopped", None, None
        if ended is None:
            why = f"its process ended with {_exit_words(code)}"
            return "failed", ServerAppFailed(run=active.run, why=why), None
        final = ended["final_model"].hex() if ended["final_model"] else None
        if ended["stopped"] or (active.stopping and ended["error"]):
            return "stopped", None, final
        if ended["error"]:
            return "failed", error_from_wire(ended["error"]), final
        return "finished", None, final


def _with_rounds(known: dict[str, Any], rounds: int | None, config: dict[str, str]) -> dict[str, str]:
    """Add `--rounds` to the configuration under the name the app has for it."""
    if rounds is None:
        return config
    names = [key for key in ROUND_KEYS if key in known and key not in config]
    return {**config, **{key: str(rounds) for key in names}}


def _send_all(channel: Channel, messages: Collection[dict[str, Any]], run: int) -> None:
    try:
        for each in messages:
            channel.send(each)
    except OSError as error:
        log.info("run.gone", run=run, why=str(error))


def _exit_words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
