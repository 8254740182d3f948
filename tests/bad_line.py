"""A slow and lossy line: few bytes a second, long stalls where packets were lost, and a break now and then.

Below TCP a lost packet is nothing but a wait, so this is what a program sees of it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from dataclasses import dataclass

STEP = 2048


@dataclass(frozen=True)
class Quality:
    """How bad it is, each way."""

    rate: float
    """Bytes a second."""
    delay_s: float = 0.3
    """Of every piece that is sent after a pause."""
    stalls: float = 0.02
    """The share of pieces of STEP bytes that come late by up to `stall_s`."""
    stall_s: float = 1.5
    breaks: float = 0.003
    """The share of pieces at which the connection breaks."""


class BadLine:
    """Forwards a free port of loopback to `target`."""

    def __init__(self, target: tuple[str, int], quality: Quality, rng: random.Random) -> None:
        self._target = target
        self._quality = quality
        self._rng = rng
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.stalls = self.breaks = 0
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Break everything and stop listening."""
        self._closed.set()
        _end(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for each in (near, far):  # short queues, or the proxy would take all at once
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * STEP)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        quiet_since = 0.0
        with contextlib.suppress(OSError):  # broken
            while (data := source.recv(STEP)) and not self._closed.is_set():
                if time.monotonic() - quiet_since > self._quality.delay_s:
                    self._closed.wait(self._quality.delay_s)
                chance = self._rng.random()
                if chance < self._quality.breaks:
                    self.breaks += 1
                    break
                if chance < self._quality.breaks + self._quality.stalls:
                    self.stalls += 1
                    self._closed.wait(self._rng.uniform(0.2, 1.0) * self._quality.stall_s)
                self._closed.wait(len(data) / self._quality.rate)
                sink.sendall(data)
                quiet_since = time.monotonic()
        for each in (source, sink):
            _end(each)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended by itself
        each.shutdown(socket.SHUT_RDWR)
