"""A TCP proxy that can cut its connections or fall silent, as bad networks do."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Forwards a free port of loopback to `target`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flowing = threading.Event()
        self._flowing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Where to connect to."""
        host, port = self._listener.getsockname()
        return host, port

    def cut(self) -> None:
        """Break every connection there is; new ones are let through."""
        for pair in self._pairs:
            for sock in pair:
                with contextlib.suppress(OSError):  # it ended by itself
                    sock.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def hush(self) -> None:
        """Stop forwarding on the connections there are, without ending them."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forward again, on new connections; those of the silent time are broken."""
        self.cut()
        self._flowing.set()

    def close(self) -> None:
        """Break everything and stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flowing.set()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
