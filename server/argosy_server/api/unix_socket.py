"""The admin socket itself: made with its mode, a dead one replaced, a living one left alone."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import stat
import struct
from pathlib import Path

from argosy_common.errors import AlreadyRunning, StorageFailed
from argosy_common.files import private_folder

SOCKET_MODE = 0o660
"""The owner and the group `argosy`: whoever may write to the socket administers the coordinator."""
_PROBE_TIMEOUT_S = 2.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def bind_admin_socket(path: Path) -> socket.socket:
    """Return a bound socket at `path`, not yet listening. A stale socket there is replaced.

    Raises:
        AlreadyRunning: a coordinator listens on it.
        StorageFailed: something else is in the way, or the folder cannot be written to.
    """
    try:
        if not path.parent.exists():
            private_folder(path.parent)
        _clear(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), SOCKET_MODE)  # Linux gives the file this mode (less the umask) at birth
            listener.bind(os.fspath(path))
            path.chmod(SOCKET_MODE)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise StorageFailed(path=path, why=error.strerror or error) from None


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """Return the process id and user id at the other end, as the kernel vouches for them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def user_name(uid: int) -> str:
    """Return the name of a user id, or the number where the system knows no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on; refuse to touch anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StorageFailed(path=path, why="the admin socket belongs there, and something else is in its place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno not in {errno.ECONNREFUSED, errno.ENOENT}:
                raise
        else:
            pid, _ = peer_credentials(probe)
            raise AlreadyRunning(daemon="coordinator", state_dir=path, pid=pid)
    path.unlink(missing_ok=True)
