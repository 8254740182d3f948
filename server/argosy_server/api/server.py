"""The admin API on its Unix socket, in a thread of the coordinator."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from argosy_common.clock import Clock
from argosy_common.errors import ProgrammingError
from argosy_common.logs import get_logger
from argosy_server.api.app import create_app
from argosy_server.api.port import CoordinatorPort
from argosy_server.api.unix_socket import bind_admin_socket, peer_credentials, user_name
from argosy_server.api.waiting import Waiting

log = get_logger(__name__)

START_TIMEOUT_S = 20.0
_POLL_S = 0.02
_DRAIN_S = 3


class PeerProtocol(H11Protocol):
    """HTTP whose client is the user at the other end of the Unix socket, so that the audit log can name them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Ask the kernel who connected."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            pid, uid = peer_credentials(connection)
            self.client = (user_name(uid), pid)


class AdminServer:
    """Serves `port` on the Unix socket `path` between `start` and `stop`."""

    def __init__(self, port: CoordinatorPort, path: Path, *, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._waiting = Waiting(clock)
        config = uvicorn.Config(
            create_app(port, clock=clock, waiting=self._waiting),
            http=PeerProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_DRAIN_S,
            timeout_keep_alive=60,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None
        self._inode: int | None = None

    def start(self) -> None:
        """Listen, and return once requests are served.

        Raises:
            AlreadyRunning: a coordinator listens there.
            StorageFailed: the socket cannot be made.
            ProgrammingError: the server did not come up in `START_TIMEOUT_S`.
        """
        listener = bind_admin_socket(self.path)
        self._inode = self.path.stat().st_ino
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="admin-api", daemon=True)
        self._thread.start()
        ends = self._clock.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            self._thread.join(_POLL_S)
            if not self._thread.is_alive() or self._clock.monotonic() > ends:
                self.stop()
                raise ProgrammingError(what=f"the admin API did not start on {self.path}")
        log.info("api.listening", socket=self.path)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End long polls, let requests finish for a few seconds, and remove the socket. Safe to call twice."""
        self._waiting.close()
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("api.slow-stop", seconds=timeout_s)
            self._thread = None
        self._remove_socket()

    def _serve(self, listener: socket.socket) -> None:
        try:
            self._server.run(sockets=[listener])
        except Exception as error:  # noqa: BLE001  (a thread's last frame: told, and seen by `start`)
            log.error("api.died", exc=error)
        finally:
            listener.close()

    def _remove_socket(self) -> None:
        """Remove our socket, unless a successor has put its own in the place."""
        try:
            if self._inode is not None and self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            log.debug("api.socket-gone", socket=self.path)
        self._inode = None
