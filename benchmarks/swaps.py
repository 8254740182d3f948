"""Callers of the inference socket that never pause, on threads of their own."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from argosy_client.inference import Client


@dataclass
class Caller:
    """One caller, and how its requests went."""

    times: list[float] = field(default_factory=list)
    """Milliseconds of each."""
    failed: int = 0
    thread: threading.Thread = field(default_factory=threading.Thread)

    @property
    def requests(self) -> int:
        """How many there were."""
        return len(self.times) + self.failed


def swapped(socket: Path, model: str, one: NDArray[np.float32], done: threading.Event) -> Caller:
    """Start a caller that asks until `done`."""
    caller = Caller()

    def ask() -> None:
        with Client(socket) as client:
            while not done.is_set():
                began = time.perf_counter()
                try:
                    client.infer(model, one)
                except Exception:  # noqa: BLE001  (every failure counts, whatever it is)
                    caller.failed += 1
                    time.sleep(0.01)
                else:
                    caller.times.append(1000 * (time.perf_counter() - began))

    caller.thread = threading.Thread(target=ask, daemon=True)
    caller.thread.start()
    return caller


def blob(data: bytes) -> dict[str, object]:
    """Return how a manifest names bytes."""
    return {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
