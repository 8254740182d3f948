"""The supervisor's side of the worker: starts it, feeds it one instruction at a time, and ends it when it misbehaves.

Nothing here imports Flower: the daemon must stay small (DESIGN.md, "Who may import whom").
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from argosy_client.worker.child import WorkerChild
from argosy_client.worker.output import WorkerOutput
from argosy_client.worker.priority import Priority, set_priority
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.clock import Clock
from argosy_common.errors import (
    InstructionCancelled,
    WorkerDied,
    WorkerOutOfMemory,
    WorkerTimedOut,
    error_from_wire,
)
from argosy_common.files import private_folder
from argosy_common.logs import get_logger
from argosy_common.secure_home import SecureHome

log = get_logger(__name__)

_POLL_S = 0.2
_MB = 10**6
_NOTHING: dict[str, Any] = {}

Scalar = bool | int | float | str


@dataclass(frozen=True)
class WorkerLimits:
    """What one instruction may use: megabytes (10^6 bytes) of resident memory, children included, and seconds."""

    memory_mb: int | None = None
    time_s: float = 3600.0


@dataclass(frozen=True)
class WorkerJob:
    """One instruction, and the app it is for. The worker stays while the app and the run stay the same.

    Attributes:
        run: the run, also Flower's run id.
        app_digest: SHA-256 of the bundle, hex.
        app_dir: where the bundle is unpacked.
        client_app: `module:attribute` in it.
        node_id: Flower's number of this device.
        message_id: the instruction's id; errors name it.
        flower: the message, as `argosy_common.flower.messages` writes it; its blobs are in the store, pinned.
        context_out: where the Flower context's state is written, whole or not at all.
        context_in: where the state of the run's last instruction is, or None at its first.
        run_config: the app's defaults fused with the run's overrides.
        node_config: what this device tells the app about itself.
    """

    run: int
    app_digest: str
    app_dir: Path
    client_app: str
    node_id: int
    message_id: str
    flower: bytes
    context_out: Path
    context_in: Path | None = None
    run_config: dict[str, Scalar] = field(default_factory=dict)
    node_config: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerResult:
    """The reply message, the blobs it refers to (in the store), the app's seconds and its peak memory in bytes."""

    flower: bytes
    blobs: tuple[BlobRef, ...]
    seconds: float
    peak_rss: int


@dataclass(frozen=True)
class _Hosted:
    """What a worker was loaded with; it serves every job that would load the same."""

    run: int
    app_digest: str
    client_app: str
    node_id: int
    configs: str

    @classmethod
    def by(cls, job: WorkerJob) -> _Hosted:
        configs = repr((sorted(job.run_config.items()), sorted(job.node_config.items())))
        return cls(job.run, job.app_digest, job.client_app, job.node_id, configs)

    def request(self, job: WorkerJob) -> dict[str, Any]:
        return {
            "app_dir": str(job.app_dir),
            "app_digest": self.app_digest,
            "client_app": self.client_app,
            "run_id": self.run,
            "node_id": self.node_id,
            "run_config": job.run_config,
            "node_config": job.node_config,
        }


class WorkerHost:
    """Keeps at most one worker. `run` is called from one thread at a time, the rest from any."""

    def __init__(
        self,
        store: BlobStore,
        folder: Path,
        *,
        clock: Clock,
        limits: WorkerLimits,
        secure: SecureHome | None = None,
        python: str = sys.executable,
    ) -> None:
        self._store = store
        self._folder = private_folder(folder)
        self._clock = clock
        self._limits = limits
        self._secure = secure
        self._python = python
        self._output = WorkerOutput(folder / "worker.log")
        self._child: WorkerChild | None = None
        self._hosted: _Hosted | None = None
        self._priority = Priority.FULL
        self._pacing = threading.Lock()
        self._busy = threading.Lock()
        self._closed = threading.Event()

    def run(self, job: WorkerJob, cancelled: threading.Event) -> WorkerResult:
        """Run one instruction and return its reply.

        Raises:
            AppImportFailed, AppRaised, ReplyInvalid: the app is at fault.
            WorkerDied, WorkerOutOfMemory, WorkerTimedOut: the worker is gone; the next call starts a new one.
            InstructionCancelled: `cancelled` was set; the worker was stopped.
            EnvelopeMalformed, BlobUnknown, DiskFull, StorageFailed: the message or the store is.
        """
        with self._busy:
            self._output.new_chapter()
            child = self._child_for(job, cancelled)
            child.send(
                {
                    "op": "run",
                    "message_id": job.message_id,
                    "flower": job.flower,
                    "context_in": None if job.context_in is None else str(job.context_in),
                    "context_out": str(job.context_out),
                }
            )
            answer = self._answer(child, job, cancelled)
        if answer["op"] == "failed":
            raise error_from_wire(answer["error"])
        return WorkerResult(
            flower=answer["flower"],
            blobs=tuple(BlobRef(digest, size) for digest, size in answer["blobs"]),
            seconds=answer["seconds"],
            peak_rss=answer["peak_rss"],
        )

    def give(self, priority: Priority) -> None:
        """Give the worker a priority, and those that come after it. The time of a pause is not counted."""
        with self._pacing:
            self._priority = priority
            child = self._child
            if child is not None and not child.dead():
                set_priority(child.pid, priority)

    def rss(self) -> int:
        """Return the resident bytes of the worker and its children; 0 when there is none."""
        child = self._child
        return 0 if child is None or child.dead() else child.rss()

    def drop_run(self, run: int) -> None:
        """End the worker if it is that run's and idle; its memory is not needed any more."""
        if self._busy.acquire(blocking=False):
            try:
                if self._hosted is not None and self._hosted.run == run:
                    self._end(gently=True)
            finally:
                self._busy.release()

    def close(self) -> None:
        """End the worker; an instruction that it is running ends with `InstructionCancelled`."""
        self._closed.set()
        with self._busy:
            self._end(gently=True)

    def _child_for(self, job: WorkerJob, cancelled: threading.Event) -> WorkerChild:
        """Return the worker that hosts the job's app for its run, started and loaded if need be."""
        wanted = _Hosted.by(job)
        if self._child is not None and (self._hosted != wanted or self._child.dead()):
            self._end(gently=True)
        if self._child is None:
            self._child = WorkerChild(self._python, self._folder, self._output)
            self.give(self._priority)
            secure = self._secure.to_wire() if self._secure else None
            self._child.send({"op": "load", "store": str(self._store.root), "secure": secure, **wanted.request(job)})
            answer = self._answer(self._child, job, cancelled)
            if answer["op"] == "failed":
                self._end(gently=False)  # what it imported so far would be there at the next attempt
                raise error_from_wire(answer["error"])
            self._hosted = wanted
        return self._child

    def _answer(self, child: WorkerChild, job: WorkerJob, cancelled: threading.Event) -> dict[str, Any]:
        """Wait for the worker's next message, and meanwhile hold it to its limits."""
        limits = self._limits
        looked = self._clock.monotonic()
        left = limits.time_s
        while True:
            try:
                answer = child.receive(_POLL_S)
            except TimeoutError:
                answer = _NOTHING
            if answer is None or (answer is _NOTHING and child.dead()):
                self._end(gently=False)
                raise WorkerDied(why=child.cause_of_death())
            if answer is not _NOTHING:
                return answer
            if cancelled.is_set() or self._closed.is_set():
                self._end(gently=False)
                raise InstructionCancelled(message=job.message_id)
            before, looked = looked, self._clock.monotonic()
            if self._priority is not Priority.PAUSED:
                left -= looked - before
            if left < 0:
                self._end(gently=False)
                raise WorkerTimedOut(limit_s=f"{limits.time_s:g}")
            if limits.memory_mb is not None and (used := child.exceeds(limits.memory_mb * _MB)) is not None:
                self._end(gently=False)
                raise WorkerOutOfMemory(used_mb=used // _MB, limit_mb=limits.memory_mb)

    def _end(self, *, gently: bool) -> None:
        child, self._child, self._hosted = self._child, None, None
        if child is None:
            return
        if gently:
            set_priority(child.pid, Priority.FULL)  # who is paused cannot leave
            child.leave()
        else:
            child.kill()
        log.info("worker.ended", pid=child.pid, how=child.cause_of_death())
