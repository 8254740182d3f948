"""The coordinator daemon: one process on one state directory, from the lock to the clean stop."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argosy_common import logs
from argosy_common.clock import SystemClock
from argosy_common.errors import AlreadyRunning, ArgosyError
from argosy_common.files import private_folder
from argosy_common.logs import get_logger
from argosy_server.api.server import AdminServer
from argosy_server.coordinator import Coordinator
from argosy_server.settings import SETTINGS_VARIABLE, CoordinatorSettings

log = get_logger(__name__)


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for this process.

    Raises:
        AlreadyRunning: another daemon holds it.
    """
    lock = private_folder(state_dir) / "coordinator.lock"
    with lock.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            pid = stream.read().strip() or "?"
            raise AlreadyRunning(daemon="coordinator", state_dir=state_dir, pid=pid) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def main(settings: CoordinatorSettings) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    logs.configure(settings.log_level)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        with only_one(settings.state_dir):
            _serve(settings, stopping)
    except ArgosyError as error:
        log.error("coordinator.failed", code=error.code, why=error.message, remedy=error.remedy_text)
        return error.exit_code
    return 0


def _serve(settings: CoordinatorSettings, stopping: threading.Event) -> None:
    clock = SystemClock()
    coordinator = Coordinator(settings, clock=clock, rng=random.SystemRandom())
    admin: AdminServer | None = None
    try:
        coordinator.start()
        admin = AdminServer(coordinator, settings.socket_path, clock=clock)
        admin.start()
        log.info("coordinator.ready", socket=settings.socket_path, pid=os.getpid())
        stopping.wait()
    finally:
        if admin is not None:
            admin.stop()
        coordinator.stop()


def _settings_of_the_command() -> CoordinatorSettings:
    """Return what `argosy-coordinator run` checked before this process took its place."""
    handed_over = os.environ.pop(SETTINGS_VARIABLE, None)
    return CoordinatorSettings(**json.loads(handed_over)) if handed_over else CoordinatorSettings.load()


if __name__ == "__main__":
    sys.exit(main(_settings_of_the_command()))
