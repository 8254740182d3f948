"""A network cable between a device and its broker: pulled, every connection breaks and none can be made."""

from __future__ import annotations

import contextlib
import socket
import threading


class Cable:
    """Forwards a free port of loopback to `target` while it is plugged in."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._plugged = True
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        """Break every connection, and refuse new ones."""
        with self._lock:
            self._plugged = False
            for each in self._open:
                _end(each)
            self._open.clear()

    def plug(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._plugged = True

    def close(self) -> None:
        """Pull it, and stop listening."""
        self.pull()
        _end(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    if not self._plugged:
                        near.close()
                        continue
                    far = socket.create_connection(self._target)
                    self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # pulled
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _end(sink)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended by itself
        each.shutdown(socket.SHUT_RDWR)
