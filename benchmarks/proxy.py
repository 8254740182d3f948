"""A TCP proxy that counts: what really went over the wire, in either direction, at any time.

It moves bytes with splice(2), in the kernel, so that it costs neither side of a benchmark noticeable CPU time. TLS
passes through unread. Linux only.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import os
import socket
import threading
import time
from types import TracebackType

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


class Meter:
    """Bytes of one direction over time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[float] = []
        self._totals: list[int] = []

    def add(self, size: int) -> None:
        """Count `size` bytes now."""
        with self._lock:
            self._times.append(time.monotonic())
            self._totals.append(size + (self._totals[-1] if self._totals else 0))

    def until(self, at: float) -> int:
        """Return the bytes counted up to the monotonic time `at`."""
        with self._lock:
            index = bisect.bisect_right(self._times, at)
            return self._totals[index - 1] if index else 0

    def between(self, begin: float, end: float) -> int:
        """Return the bytes counted in (begin, end]."""
        return self.until(end) - self.until(begin)


class CountingProxy:
    """Forwards connections to `target`. `up` is from whoever connects to the target, `down` is back.

    It listens on `port` of 127.0.0.1; 0 chooses a free one. A target on another loopback address may have the same
    port.
    """

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.up = Meter()
        self.down = Meter()

    def __enter__(self) -> CountingProxy:
        """Begin to accept connections."""
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close everything; the threads end with their sockets."""
        for sock in (self._listener, *self._open):
            _shut(sock, socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed: the benchmark is over
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()  # the peer sees what it would see without a proxy: nobody answers
                continue
            far.settimeout(None)
            self._open = [sock for sock in self._open if sock.fileno() >= 0] + [near, far]
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(near, far), name="proxy-pair", daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=_pump, args=(far, near, self.down), name="proxy-down", daemon=True)
        back.start()
        _pump(near, far, self.up)
        back.join()
        near.close()
        far.close()


def _pump(source: socket.socket, sink: socket.socket, meter: Meter) -> None:
    """Forward until either end closes, then pass the end on."""
    reader, writer = os.pipe()
    try:
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_BYTES)  # a smaller pipe only costs more turns
        while moved := os.splice(source.fileno(), writer, _PIPE_BYTES):
            meter.add(moved)
            while moved:
                moved -= os.splice(reader, sink.fileno(), moved)
    except (OSError, ValueError):
        pass  # reset by one end, or closed by us: both mean that this connection is over
    finally:
        os.close(reader)
        os.close(writer)
        _shut(sink, socket.SHUT_WR)
        _shut(source, socket.SHUT_RD)


def _shut(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # already shut by the other end
        sock.shutdown(how)
