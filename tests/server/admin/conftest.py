"""The admin API on a real socket, and the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_server.api.server import AdminServer
from argosy_server.cli.client import AdminClient
from tests.server.admin.coordinator_on_rows import NAMES, RowsCoordinator

Argosy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="argosy-") as made:
        yield Path(made)


@pytest.fixture
def coordinator(folder: Path) -> Iterator[RowsCoordinator]:
    """A coordinator with four devices, of which the last is offline."""
    made = RowsCoordinator(folder)
    beat = {"load": 0.42, "memory_used": 1_900_000_000, "memory_total": 4_000_000_000, "temperature": 51.3}
    for number, name in enumerate(NAMES, start=0x1A00):
        device = made.add_device(name, number)
        if name != NAMES[-1]:
            since = "2026-01-01T10:00:00+00:00"
            made.present[device] = {"online": True, "doing": "training", "heartbeat": beat, "since": since}
    yield made
    made.store.close()


@pytest.fixture
def server(coordinator: RowsCoordinator, folder: Path) -> Iterator[AdminServer]:
    """The running API."""
    made = AdminServer(coordinator, folder / "admin.sock", clock=SystemClock())
    made.start()
    yield made
    made.stop()


@pytest.fixture
def api(server: AdminServer) -> Iterator[AdminClient]:
    """A client of the running API."""
    with AdminClient(server.path) as made:
        yield made


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """The environment of a command that finds the socket."""
    return {
        **os.environ,
        "ARGOSY_SOCKET": str(folder / "admin.sock"),
        "PYTHONUNBUFFERED": "1",
        "TERM": "xterm-256color",
    }


@pytest.fixture
def argosy(environment: dict[str, str]) -> Argosy:
    """Run `argosy` to its end."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), env={**environment, **variables}, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def command(*words: str) -> list[str]:
    """Return the argument list of an `argosy` command."""
    start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
    return [sys.executable, "-c", start, *words]
