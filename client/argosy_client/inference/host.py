"""The daemon's side of the inference process: it is started, told what to load, asked how it does, and started again.

The process is apart from training and from the daemon: a model that crashes its runtime takes neither with it. Nothing
here imports numpy.
"""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argosy_common.backoff import Backoff
from argosy_common.errors import ArgosyError, InferenceUnreachable, error_from_wire
from argosy_common.logs import get_logger

log = get_logger(__name__)

LOAD_S = 600.0
"""Trying all backends on a large model takes a slow board minutes."""
STATS_S = 10.0
START_S = 120.0
"""A process is ready once it serves what is in force, or has found out that it cannot."""
STOP_S = 5.0
_STEADY_S = 60.0
"""A process that lived so long was a good one: the next one is started at once."""


@dataclass(frozen=True)
class Served:
    """Where models are served, and how."""

    models: Path
    socket: Path
    http: int | None = None
    threads: int = 1
    queue: int = 16
    budget_mb: float | None = None
    log_level: str = "INFO"
    state_dir: Path | None = None
    """Where the board's enrolment is; None: a plan that sends work to the coordinator is not followed."""


class InferenceHost:
    """One inference process, kept alive between `start` and `stop`. `load` and `stats` are for any thread."""

    def __init__(self, served: Served, *, rng: random.Random, ready: Callable[[], None] = lambda: None) -> None:
        """Prepare; `ready` is called, on a thread of ours, whenever a process serves what is in force."""
        self._served = served
        self._ready = ready
        self._backoff = Backoff(rng, base=0.5, cap=60.0)
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._asking = threading.Lock()
        self._up = threading.Event()
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="inference-host", daemon=True)
        self.restarts = 0
        """How often a process has ended by itself."""

    def start(self) -> None:
        """Begin; returns at once."""
        self._keeper.start()

    def stop(self) -> None:
        """End the process, and keep it ended; bounded."""
        self._stopping.set()
        process = self._process
        if process is not None:
            _end(process)
        if self._keeper.is_alive():
            self._keeper.join(STOP_S)

    @property
    def pid(self) -> int | None:
        """The process that serves; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a process serves what is in force; return whether one does."""
        return self._up.wait(timeout_s)

    def load(self, name: str) -> dict[str, Any]:
        """Have the version in force of a model served; return what `Loaded.stats` tells of it.

        Raises:
            NoBackend, ArtefactInvalid, ModelMissing: as they say; what was served before still is.
            InferenceUnreachable: the process ended over it, or does not answer.
        """
        return self._ask({"do": "load", "name": name}, LOAD_S)

    def drop(self, name: str) -> None:
        """Have a model served no more."""
        self._ask({"do": "drop", "name": name}, STATS_S)

    def stats(self) -> list[dict[str, Any]]:
        """Return how each model does.

        Raises:
            InferenceUnreachable: no process answers.
        """
        return list(self._ask({"do": "stats"}, STATS_S)["models"])

    def pace(self) -> list[dict[str, Any]] | None:
        """Return how requests fared in the last seconds, by model; None while the process is busy with a load.

        Raises:
            InferenceUnreachable: no process answers.
        """
        if self._asking.locked():
            return None
        return list(self._ask({"do": "pace"}, STATS_S)["models"])

    def _ask(self, word: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        with self._asking:
            running = self._keeper.is_alive() and not self._stopping.is_set() and self._up.wait(min(timeout_s, START_S))
            process = self._process
            if not running or process is None or process.stdin is None:
                raise self._unreachable("no process runs")
            try:
                process.stdin.write(json.dumps(word) + "\n")
                process.stdin.flush()
                answer = self._answers.get(timeout=timeout_s)
            except queue.Empty:
                process.kill()  # an answer that came later would be taken for the next question's
                raise self._unreachable(f"it had no answer within {timeout_s:g} s") from None
            except OSError:
                answer = None
            if answer is None:
                raise self._unreachable("the process ended over it")
        if "error" in answer:
            raise _error(answer["error"])
        return answer

    def _unreachable(self, why: str) -> InferenceUnreachable:
        return InferenceUnreachable(path=self._served.socket, why=why)

    # --- the keeper

    def _keep(self) -> None:
        while not self._stopping.is_set():
            lived = self._one_process()
            if self._stopping.is_set():
                return
            self.restarts += 1
            if lived:
                self._backoff.reset()
            pause = self._backoff.next()
            log.error("inference.ended", again_in_s=round(pause, 1), restarts=self.restarts)
            self._stopping.wait(pause)

    def _one_process(self) -> bool:
        """Run a process until it ends; return whether it served for a while."""
        try:
            process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        except OSError as error:
            log.error("inference.not_started", why=error.strerror)
            return False
        self._answers = queue.Queue()
        self._process = process
        if self._stopping.is_set():
            _end(process)
        steady = threading.Event()
        timer = threading.Timer(_STEADY_S, steady.set)
        timer.daemon = True
        timer.start()
        try:
            self._listen(process)
        finally:
            timer.cancel()
            self._up.clear()
            self._answers.put(None)
            _end(process)
        return steady.is_set()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            try:
                told = json.loads(line)
            except ValueError:
                log.warning("inference.said", line=line[:200])  # a library's own word on the standard output
                continue
            if told.get("ready") is True:
                log.info("inference.ready", pid=process.pid, http=told.get("http"))
                self._up.set()
                self._ready()
            else:
                self._answers.put(told)

    def _command(self) -> list[str]:
        served = self._served
        options: list[object] = ["--models", served.models, "--socket", served.socket, "--threads", served.threads]
        options += ["--queue", served.queue, "--log-level", served.log_level]
        if served.http is not None:
            options += ["--http", served.http]
        if served.budget_mb is not None:
            options += ["--budget-mb", served.budget_mb]
        if served.state_dir is not None:
            options += ["--state-dir", served.state_dir]
        return [sys.executable, "-m", "argosy_client.inference.process", *map(str, options)]


def _end(process: subprocess.Popen[str]) -> None:
    """End a process by the end of its input, or by force."""
    if process.stdin is not None:
        try:
            process.stdin.close()
        except OSError as error:
            log.debug("inference.input_closed", why=error.strerror)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)


def _error(told: Any) -> ArgosyError:  # noqa: ANN401  (whatever the process said)
    return error_from_wire(told if isinstance(told, dict) else {})
