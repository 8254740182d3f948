"""The daemon's side of the process that runs parts of models for devices: it is started, and again when it dies.

Nothing here imports numpy.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import Future
from importlib.util import find_spec
from typing import Any

from argosy_common.backoff import Backoff
from argosy_common.clock import Clock
from argosy_common.errors import OffloadUnavailable, error_from_wire
from argosy_common.ipc import Channel, child_environment
from argosy_common.logs import get_logger

log = get_logger(__name__)

HANG_S = 60.0
"""A request that runs for so long has hung its process, which is ended then."""
STOP_S = 5.0
_WATCH_S = 1.0
_STEADY_S = 60.0
"""A process that lived so long was a good one: the next one is started at once."""


class RemoteHost:
    """One such process, kept alive between `start` and `stop`. `submit` is for any thread."""

    def __init__(self, *, threads: int, log_level: str, clock: Clock, rng: random.Random) -> None:
        self._command = [sys.executable, "-P", "-m", "argosy_server.models.remote_process", str(threads), log_level]
        self._clock = clock
        self._backoff = Backoff(rng, base=0.5, cap=60.0)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[float, str, Future[dict[str, Any]]]] = {}
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="remote-host", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="remote-watch", daemon=True)
        self.restarts = 0
        """How often a process has ended by itself."""

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @staticmethod
    def missing() -> str:
        """Return why no such process could do its work on this machine; empty where it can."""
        absent = [name for name in ("onnxruntime", "onnx") if find_spec(name) is None]
        return f"{' and '.join(absent)} not installed there" if absent else ""

    def trouble(self) -> str:
        """Return why nothing can be run at this moment; empty where it can."""
        return self.missing() or ("" if self._channel is not None else "what runs models is being started")

    def start(self) -> None:
        """Begin; returns at once."""
        self._keeper.start()
        self._watcher.start()

    def stop(self) -> None:
        """End the process, and keep it ended; bounded."""
        self._stopping.set()
        self._end()
        for thread in (self._keeper, self._watcher):
            if thread.is_alive():
                thread.join(STOP_S)

    def submit(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        """Have a request run; the future fails with a named error.

        Raises:
            OffloadUnavailable: no process is there to take it, at this moment or at all.
        """
        model = str(request["model"])
        if why := self.missing():
            raise OffloadUnavailable(model=model, why=why)
        future: Future[dict[str, Any]] = Future()
        future.set_running_or_notify_cancel()  # who waits may turn away; the answer comes all the same
        with self._lock:
            channel = self._channel
            if channel is None:
                raise OffloadUnavailable(model=model, why="what runs it is being started")
            number = next(self._numbers)
            self._pending[number] = (self._clock.monotonic(), model, future)
        try:
            channel.send({"id": number, **request})
        except OSError:
            self._fail_all()
        return future

    # --- on our threads

    def _keep(self) -> None:
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            self._one_process()
            if self._stopping.is_set():
                return
            self.restarts += 1
            if self._clock.monotonic() - began >= _STEADY_S:
                self._backoff.reset()
            pause = self._backoff.next()
            log.error("remote.ended", again_in_s=round(pause, 1), restarts=self.restarts)
            self._stopping.wait(pause)

    def _one_process(self) -> None:
        """Run a process until it ends."""
        ours, theirs = Channel.pair()
        with theirs:
            environment = {**os.environ, **child_environment(theirs), "PYTHONUNBUFFERED": "1"}
            try:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()]
                )
            except OSError as error:
                log.error("remote.not_started", why=error.strerror)
                ours.close()
                return
        try:
            while not self._stopping.is_set() and (told := ours.receive()) is not None:
                if told.get("ready") is True:
                    log.info("remote.ready", pid=self._process.pid)
                    with self._lock:
                        self._channel = ours
                else:
                    self._settle(told)
        finally:
            with self._lock:
                self._channel = None
            ours.close()
            self._end()
            self._fail_all()

    def _settle(self, told: dict[str, Any]) -> None:
        with self._lock:
            entry = self._pending.pop(told["id"], None)
        if entry is None:
            return
        if "error" in told:
            entry[2].set_exception(error_from_wire(told["error"]))
        else:
            entry[2].set_result(told)

    def _fail_all(self) -> None:
        with self._lock:
            mine, self._pending = self._pending, {}
        for _, model, future in mine.values():
            future.set_exception(OffloadUnavailable(model=model, why="what ran it ended over it"))

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_S):
            with self._lock:
                began = min((since for since, _, _ in self._pending.values()), default=None)
            if began is not None and self._clock.monotonic() - began > HANG_S:
                log.error("remote.hung", seconds=HANG_S)
                self._end()

    def _end(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.kill()  # it keeps nothing that could be lost
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            log.error("remote.not_ended", pid=process.pid)
