"""Real processes of a benchmark: started with a log file each, found again as whole trees, ended in bounded time."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

_GRACE_S = 4.0  # from SIGTERM to SIGKILL


class ProcessFailed(Exception):
    """A process of a benchmark did not do its part; the message carries the end of its log."""


class Processes:
    """The long-running processes of one fleet. Leaving the context ends them and every descendant."""

    def __init__(self, logs: Path, env: Mapping[str, str]) -> None:
        self._logs = logs
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ARGOSY_", "FLWR_"))}
        self._env = {**inherited, **env}  # the user's own settings must not change what is measured
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        """Return itself."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """End everything; see `end`."""
        self.end()

    def start(self, name: str, command: Sequence[str]) -> int:
        """Start a process whose output goes to the log called `name`; return its process id."""
        with self.log(name).open("ab") as log:
            self._started[name] = subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self._started[name].pid

    def call(self, command: Sequence[str], timeout_s: float) -> str:
        """Run a command to its end and return its stdout.

        Raises:
            ProcessFailed: it exited with another status than 0, or not in time.
        """
        try:
            done = subprocess.run(
                command, env=self._env, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise ProcessFailed(f"{' '.join(command[:3])} took longer than {timeout_s:.0f} s") from late
        if done.returncode != 0:
            raise ProcessFailed(f"{' '.join(command[:3])} exited with {done.returncode}: {done.stderr[-800:]}")
        return done.stdout

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self._logs / f"{name}.log"

    def require_alive(self) -> None:
        """Check that all that was started still runs.

        Raises:
            ProcessFailed: one of them ended.
        """
        for name, process in self._started.items():
            if process.poll() is not None:
                tail = self.log(name).read_text(errors="replace")[-800:]
                raise ProcessFailed(f"{name} exited with {process.returncode}: {tail}")

    def wait(self, what: str, ready: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> None:
        """Wait until `ready()`.

        Raises:
            ProcessFailed: a process ended first, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.require_alive()
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{what}: not within {timeout_s:.0f} s")
            time.sleep(every_s)

    def end(self) -> None:
        """Send SIGTERM to the roots, and SIGKILL to whatever of their trees is left after the grace."""
        trees = [member for process in self._started.values() for member in _tree(process.pid)]
        for process in self._started.values():
            process.terminate()
        _, left = psutil.wait_procs(trees, timeout=_GRACE_S)
        for member in left:
            if member.is_running():
                member.kill()
        psutil.wait_procs(left, timeout=_GRACE_S)
        for process in self._started.values():
            process.wait(timeout=_GRACE_S)
        self._started.clear()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago.

    It is below those that the kernel gives to outgoing connections (from 32768 on), so that none of many processes
    that start meanwhile takes it.
    """
    while True:
        port = random.randint(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
