"""The inference socket: a thread a connection, frames in, frames out. Nothing that comes over it ends the process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np

from argosy_client.inference import protocol
from argosy_client.inference.serving import Serving, told
from argosy_common.errors import InputInvalid, SettingsInvalid
from argosy_common.logs import get_logger

log = get_logger(__name__)

MAX_CONNECTIONS = 64
IDLE_S = 3600.0
"""A connection on which nothing comes for so long is hung up."""
_MODE = 0o660
"""Who is in the daemon's group may ask, and nobody else."""


class SocketServer:
    """Answers on a Unix socket between `start` and `stop`."""

    def __init__(self, path: Path, serving: Serving) -> None:
        self._path = path
        self._serving = serving
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="inference-accept", daemon=True)

    def start(self) -> None:
        """Listen.

        Raises:
            SettingsInvalid: the socket cannot be made there.
        """
        listener = socket.socket(socket.AF_UNIX)
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            self._path.chmod(_MODE)
            listener.listen(64)
        except OSError as error:
            listener.close()
            raise SettingsInvalid(name="inference.socket", why=error.strerror or error, source="the settings") from None
        self._listener = listener
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self._path.unlink(missing_ok=True)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while (listener := self._listener) is not None:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._listener is not None:
                    log.error("inference.accept_failed", exc=error)
                return
            with self._lock:
                full = len(self._open) >= MAX_CONNECTIONS
                if not full:
                    self._open.add(connection)
            if full:
                log.warning("inference.too_many", connections=MAX_CONNECTIONS)
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="inference", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(IDLE_S)
            with connection, connection.makefile("rb") as stream:
                while (frame := protocol.receive(stream)) is not None:
                    fields, outputs = self._answer(*frame)
                    protocol.send(connection, fields, outputs)
        except protocol.BrokenFrame as error:
            log.warning("inference.broken_frame", why=str(error), pid=os.getpid())
        except OSError as error:
            log.debug("inference.hung_up", why=error.strerror)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _answer(self, fields: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], np.ndarray[Any, Any] | None]:
        try:
            if fields.get("do") == "models":
                return {"models": [loaded.stats() for loaded in self._serving.all()]}, None
            name, deadline_s = _asked(fields)
            classify = fields.get("classify") is True
            raw = bytes(body) if fields.get("picture") is True else protocol.tensor_of(fields, body)
            answer = self._serving.infer(name, raw, deadline_s=deadline_s, classify=classify)
        except Exception as error:  # noqa: BLE001  (a caller's request must never end the process)
            return {"error": told(error)}, None
        named = {"label": answer.label, "confidence": answer.confidence} if classify else {}
        fields = {"version": answer.manifest.version, **protocol.described(answer.outputs), **named}
        return fields, answer.outputs


def _asked(fields: dict[str, Any]) -> tuple[str, float | None]:
    """Return the model that is asked, and the seconds that it has.

    Raises:
        InputInvalid: the map says neither.
    """
    name, deadline = fields.get("model"), fields.get("deadline_ms")
    if fields.get("do") != "infer" or not isinstance(name, str):
        raise InputInvalid(model=str(name)[:80], why="it is asked for nothing that is known")
    if deadline is None:
        return name, None
    if not isinstance(deadline, int | float) or not 0 < deadline < 1e7:
        raise InputInvalid(model=name[:80], why="its deadline is no number of milliseconds")
    return name, deadline / 1000.0
