"""A TLS server that shows the certificate and gives the answers a test wants, and records every byte it was told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

from argosy_common.link import TlsFiles

Answer = Callable[[bytes], Iterator[bytes]]
"""Given the request so far (head and body), yields pieces of the raw HTTP answer."""


def http(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class RogueCoordinator:
    """Serves one connection at a time until closed."""

    def __init__(self, files: TlsFiles, answer: Answer) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.cert, files.key)
        self._answer = answer
        self.heard: list[bytes] = []
        """The decrypted bytes of each connection whose handshake succeeded."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> RogueCoordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                plain, _ = self._listener.accept()
            except TimeoutError:
                continue
            plain.settimeout(10)
            # A device that does not trust us hangs up in the handshake; one that has heard enough, later.
            with plain, contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secured:
                self._converse(secured)

    def _converse(self, secured: ssl.SSLSocket) -> None:
        self.heard.append(b"")
        while not _complete(self.heard[-1]):
            piece = secured.recv(65536)
            if not piece:
                return
            self.heard[-1] += piece
        for piece in self._answer(self.heard[-1]):
            if self._stopping.is_set():
                return
            secured.sendall(piece)


def _complete(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    if not found:
        return False
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    return len(body) >= (int(lengths[0]) if lengths else 0)


def dripping(data: bytes, pause_s: float) -> Iterator[bytes]:
    """Yield one byte at a time."""
    for number in range(len(data)):
        yield data[number : number + 1]
        time.sleep(pause_s)
