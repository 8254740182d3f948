"""Small real Flower apps, and a host that runs them in real worker processes."""

from __future__ import annotations

import itertools
import textwrap
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from argosy_client.worker.host import WorkerHost, WorkerJob, WorkerLimits, WorkerResult
from argosy_common.blobs import BlobStore
from argosy_common.clock import SystemClock
from argosy_common.flower.compat import become_task, set_message_id
from argosy_common.flower.messages import dump_message, load_message
from argosy_common.secure_home import SecureHome

NODE_ID = 2**63 + 17
HEADER = """
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
"""


class JumpingClock(SystemClock):
    """The real clock, and what a test adds to it."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def jump(self, seconds: float) -> None:
        self.ahead += seconds


@dataclass
class Bench:
    """One device's worker host, and the coordinator's side of a message, in one place."""

    root: Path
    limits: WorkerLimits = field(default_factory=lambda: WorkerLimits(time_s=60.0))
    run: int = 7
    secure: SecureHome | None = None

    def __post_init__(self) -> None:
        self.store = BlobStore(self.root / "blobs")
        self.clock = JumpingClock()
        self.cancelled = threading.Event()
        self._count = itertools.count(1)
        self._context: Path | None = None
        self.host = self.new_host()

    def new_host(self) -> WorkerHost:
        folder = self.root / "worker"
        return WorkerHost(self.store, folder, clock=self.clock, limits=self.limits, secure=self.secure)

    def limit(self, limits: WorkerLimits) -> None:
        self.host.close()
        self.limits = limits
        self.host = self.new_host()

    def app(self, source: str, *, header: str = HEADER) -> None:
        """Make `source` the app, under a new digest."""
        self.app_dir = self.root / f"app{next(self._count)}"
        self.app_dir.mkdir()
        text = header + textwrap.dedent(source)
        (self.app_dir / "client_app.py").write_text(text, encoding="utf-8")

    def instruction(self, content: RecordDict | None = None, kind: str = "train") -> Message:
        become_task(run_id=self.run, node_id=1)
        if content is None:
            arrays = ArrayRecord([np.arange(6000, dtype=np.float32), np.ones((2, 3))])
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"lr": 0.5})})
        message = Message(content, NODE_ID, kind, ttl=100.0)
        set_message_id(message, f"{next(self._count):032x}")
        return message

    def job(self, message: Message) -> WorkerJob:
        number = next(self._count)
        return WorkerJob(
            run=self.run,
            app_digest=self.app_dir.name,
            app_dir=self.app_dir,
            client_app="client_app:app",
            node_id=NODE_ID,
            message_id=message.metadata.message_id,
            flower=dump_message(message, self.store).flower,
            context_out=self.root / f"context{number}",
            context_in=self._context,
            run_config={"local-epochs": 2},
            node_config={"partition-id": 3},
        )

    def result(self, message: Message | None = None, **changes: object) -> WorkerResult:
        job = replace(self.job(message or self.instruction()), **changes)  # type: ignore[arg-type]  # a test's choice
        result = self.host.run(job, self.cancelled)
        self._context = job.context_out
        return result

    def ask(self, message: Message | None = None) -> Message:
        """Run one instruction and return the reply as the coordinator would read it."""
        return load_message(self.result(message).flower, self.store)

    def told(self, message: Message | None = None) -> Any:  # noqa: ANN401  (Flower's record values are a wide union)
        """Run one instruction and return the content of its reply."""
        return self.ask(message).content

    @property
    def worker(self) -> int:
        """The process id of the worker."""
        assert self.host._child is not None
        return self.host._child.pid
