"""The coordinator daemon: one process on one state directory, from the lock to the clean stop."""

from __future__ import annotations

import fcntl
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from argosy_common import logs
from argosy_common.clock import SystemClock
from argosy_common.errors import AlreadyRunning, ArgosyError
from argosy_common.files import private_folder
from argosy_common.logs import get_logger
from argosy_common.notify import Notifier
from argosy_common.service import Signals, reread, serve
from argosy_server.api.server import AdminServer
from argosy_server.coordinator import Coordinator
from argosy_server.settings import FLAGS_VARIABLE, CoordinatorSettings, load_settings

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


def main(read: Callable[[], CoordinatorSettings]) -> int:
    """Run until SIGTERM or SIGINT; return the exit code. `read` reads the settings, also at each SIGHUP."""
    logs.configure()
    try:
        settings = read()
        logs.configure(settings.log_level)
        with Signals() as signals, only_one(settings.state_dir):
            _serve(settings, signals, reload=lambda: reread(settings, read))
    except ArgosyError as error:
        log.error("coordinator.failed", code=error.code, why=error.message, remedy=error.remedy_text)
        return error.exit_code
    return 0


def _serve(settings: CoordinatorSettings, signals: Signals, reload: Callable[[], None]) -> None:
    clock = SystemClock()
    notifier = Notifier.of_this_process(clock=clock)  # before any process of ours inherits its variables
    coordinator = Coordinator(settings, clock=clock, rng=random.SystemRandom())
    admin: AdminServer | None = None
    try:
        coordinator.start()
        admin = AdminServer(coordinator, settings.socket_path, clock=clock)
        admin.start()
        log.info("coordinator.ready", socket=settings.socket_path, pid=os.getpid())
        serve(signals, notifier, examine=coordinator.condition, reload=reload)
    finally:
        if admin is not None:
            admin.stop()
        coordinator.stop()


def _flags() -> dict[str, str]:
    """Return what was given to `argosy-coordinator run`, before this process took its place."""
    flags: dict[str, str] = json.loads(os.environ.pop(FLAGS_VARIABLE, "{}"))
    return flags


def _read(flags: dict[str, str]) -> CoordinatorSettings:
    paths = {name: Path(flags[name]) for name in ("config", "state_dir") if name in flags}
    return load_settings(**paths, log_level=flags.get("log_level"))


if __name__ == "__main__":
    sys.exit(main(partial(_read, _flags())))
