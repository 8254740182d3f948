"""One daemon a state directory: a lock on a file, which the kernel lets go of however the process ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from argosy_common.errors import AlreadyRunning, StorageFailed
from argosy_common.files import private_folder

LOCK = "daemon.lock"


class InstanceLock:
    """Holds the state directory for this process until `release`."""

    def __init__(self, state_dir: Path) -> None:
        """Take the lock.

        Raises:
            AlreadyRunning: another daemon holds it.
            StorageFailed: the directory cannot be used.
        """
        path = state_dir / LOCK
        try:
            private_folder(state_dir)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(path=path, why=error.strerror or error) from error
        if not _locked(self._handle):
            pid = os.read(self._handle, 32).decode(errors="replace").strip() or "?"
            os.close(self._handle)
            raise AlreadyRunning(daemon="argosy-device", state_dir=state_dir, pid=pid)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let another daemon start here."""
        os.close(self._handle)


def _locked(handle: int) -> bool:
    """Take the lock; a few attempts, since `running_pid` of another process holds it for an instant."""
    for pause in (0.05, 0.1, 0.2, 0.0):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False


def running_pid(state_dir: Path) -> int | None:
    """Return the process id of the daemon on `state_dir`; None when there is none."""
    try:
        with (state_dir / LOCK).open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(stream.read(32) or b"0") or None
    except (OSError, ValueError):
        return None
    return None
