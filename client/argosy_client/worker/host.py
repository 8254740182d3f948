"""The supervisor's side of the worker: starts it, feeds it one instruction at a time, and ends it when it misbehaves.

Nothing here imports Flower: the daemon must stay small (DESIGN.md, "Who may import whom").
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from argosy_common.clock import Clock

if TYPE_CHECKING:
    from argosy_common.blobs import BlobRef, BlobStore

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


class WorkerHost:
    """Keeps at most one worker. `run` is called from one thread at a time, the rest from any."""

    def __init__(
        self,
        store: BlobStore,
        folder: Path,
        *,
        clock: Clock,
        limits: WorkerLimits,
        python: str = sys.executable,
    ) -> None: ...

    def run(self, job: WorkerJob, cancelled: threading.Event) -> WorkerResult:
        """Run one instruction and return its reply.

        Raises:
            AppImportFailed, AppRaised, ReplyInvalid: the app is at fault.
            WorkerDied, WorkerOutOfMemory, WorkerTimedOut: the worker is gone; the next call starts a new one.
            InstructionCancelled: `cancelled` was set; the worker was stopped.
            EnvelopeMalformed, BlobUnknown, DiskFull, StorageFailed: the message or the store is.
        """
        raise NotImplementedError

    def rss(self) -> int:
        """Return the resident bytes of the worker and its children; 0 when there is none."""
        raise NotImplementedError

    def drop_run(self, run: int) -> None:
        """End the worker if it is that run's and idle; its memory is not needed any more."""
        raise NotImplementedError

    def close(self) -> None:
        """End the worker."""
        raise NotImplementedError
