"""One worker process as the supervisor sees it: started, listened to, measured, ended, mourned."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from argosy_client.worker.output import WorkerOutput
from argosy_common.errors import WorkerDied
from argosy_common.ipc import Channel, child_environment
from argosy_common.logs import get_logger

log = get_logger(__name__)

GRACE_S = 2.0
"""How long an idle worker may take to leave by itself."""
_READ = 65536
_CHILDREN_EVERY = 5
"""Listing a process's children reads all of /proc."""


class WorkerChild:
    """A running worker in a process group of its own. Its end shows as None in the inbox, or in `dead`.

    The thread that starts it also drains its output and outlives it: the worker dies with the thread that started it
    (PR_SET_PDEATHSIG goes by thread), so that must not be one of the daemon's short-lived ones.

    Raises:
        WorkerDied: it cannot be started at all.
    """

    def __init__(self, python: str, folder: Path, output: WorkerOutput) -> None:
        self._output = output
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._channel, theirs = Channel.pair()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._looks = 0
        started = threading.Event()

        def live() -> None:
            try:
                self._process = _start(python, folder, theirs.fileno(), child_environment(theirs))
            except OSError as error:
                self._failure = error
            finally:
                theirs.close()
                started.set()
            if self._process is not None:
                self._drain(self._process)

        output.new_worker()
        self._life = threading.Thread(target=live, name="worker-life", daemon=True)
        self._life.start()
        started.wait()
        if self._process is None:
            self._channel.close()
            raise WorkerDied(why=f"it could not be started: {self._failure}") from self._failure
        self._reader = threading.Thread(target=self._read, name="worker-reader", daemon=True)
        self._reader.start()
        log.info("worker.started", pid=self.pid)

    @property
    def pid(self) -> int:
        """The process id, which is also the process group's."""
        assert self._process is not None  # noqa: S101  (the constructor raises otherwise)
        return self._process.pid

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; a worker that is gone is noticed by `receive` or `dead`."""
        with suppress(ConnectionError):
            self._channel.send(request)

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next message, or None when the worker closed its end.

        Raises:
            TimeoutError: nothing came in time.
        """
        try:
            return self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None

    def dead(self) -> bool:
        """Tell whether the process has ended; its children may hold the channel and the pipe open nevertheless."""
        if self._process is None or self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def rss(self) -> int:
        """Return the resident bytes of the worker and its children; pages that they share count for each of them."""
        return sum(self._of_all("rss"))

    def exceeds(self, limit: int) -> int | None:
        """Return the bytes in use if they are more than `limit`. Cheap to call often: children are seldom looked at.

        Children share pages with the worker that forked them, so what looks too much is counted again by share (PSS).
        """
        self._looks += 1
        with suppress(psutil.NoSuchProcess):
            own: int = psutil.Process(self.pid).memory_info().rss
            if own > limit:
                return own
        if self._looks % _CHILDREN_EVERY or self.rss() <= limit:
            return None
        used = sum(self._of_all("pss"))
        return used if used > limit else None

    def leave(self) -> None:
        """Let an idle worker end by itself, then make sure of it."""
        self._channel.close()
        assert self._process is not None  # noqa: S101  (the constructor raises otherwise)
        self._life.join(GRACE_S)
        self.kill()

    def kill(self) -> None:
        """End the worker and all it started, at once. Harmless when called again."""
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
        self._process.wait()
        self._channel.close()
        self._life.join(GRACE_S)

    def cause_of_death(self) -> str:
        """Say how the worker ended, with its last words. Call after `kill`."""
        code = self._process.returncode if self._process else None
        if code is None:
            how = "it closed its channel"
        elif code < 0:
            how = f"killed by {_signal_name(-code)}"
        else:
            how = f"it exited with code {code}"
        words = self._output.last_words() if code else ""  # who left in good order has nothing to explain
        return f"{how}; its last words: {words}" if words else how

    def _read(self) -> None:
        message: dict[str, Any] | None = {}
        while message is not None:
            try:
                message = self._channel.receive()
            except (OSError, ValueError) as error:  # closed on our side, or not what a worker of ours sends
                log.debug("worker.channel_ended", why=str(error))
                message = None
            self._inbox.put(message)

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101  (it is a pipe)
        with process.stdout as pipe:
            while data := pipe.read1(_READ):  # type: ignore[attr-defined]  # it is a BufferedReader
                self._output.add(data)
        with suppress(ChildProcessError):  # `kill` was first to reap it
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    def _of_all(self, measure: str) -> list[int]:
        found: list[int] = []
        with suppress(psutil.NoSuchProcess):
            worker = psutil.Process(self.pid)
            for process in (worker, *worker.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    info = process.memory_info() if measure == "rss" else process.memory_full_info()
                    found.append(getattr(info, measure))
        return found


def _start(python: str, folder: Path, channel: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return subprocess.Popen(
        [python, "-P", "-X", "faulthandler", "-m", "argosy_client.worker.process"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**inherited, **quiet, **environment},
        pass_fds=[channel],
        start_new_session=True,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
