"""Messages between a daemon and a process it started: length-prefixed msgpack maps over a socket pair.

Both ends are ours and of one version, so this is not a protocol: no negotiation, no versions. Bulk data does not travel
here but goes by digest through the blob store; except for a tensor of a single request, which nobody keeps.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from typing import Any

import msgpack

MAX_FRAME = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
FD_VARIABLE = "ARGOSY_CHANNEL_FD"


class Channel:
    """One end of the pair. `send` may be called from any thread, `receive` from one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Return this end, and the socket to hand to the child with `pass_fds` and `child_environment`."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs

    @classmethod
    def inherited(cls) -> Channel:
        """Return the end that the parent handed to this process; it is not handed on to this process's own children."""
        sock = socket.socket(fileno=int(os.environ.pop(FD_VARIABLE)))
        sock.set_inheritable(False)
        return cls(sock)

    def send(self, message: dict[str, Any]) -> None:
        """Send one map.

        Raises:
            ConnectionError: the other end is gone.
            ValueError: the map is larger than `MAX_FRAME`.
        """
        frame = msgpack.packb(message, use_bin_type=True)
        if len(frame) > MAX_FRAME:
            raise ValueError(f"a frame of {len(frame)} bytes; bulk data goes through the blob store")
        with self._sending:
            self._socket.sendall(_LENGTH.pack(len(frame)) + frame)

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Return the next map, or None when the other end has closed.

        Raises:
            TimeoutError: nothing began to arrive within `timeout` seconds.
        """
        self._socket.settimeout(timeout)
        try:
            head = self._exactly(_LENGTH.size)
            if head is None:
                return None
            body = self._exactly(_LENGTH.unpack(head)[0])
        except ConnectionError:
            return None
        if body is None:
            return None
        message: dict[str, Any] = msgpack.unpackb(body, raw=False)
        return message

    def ready(self, timeout: float) -> bool:
        """Wait until there is something to receive, or the other end has closed; False after `timeout` seconds."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def close(self) -> None:
        """Close this end; a `receive` that waits on either end returns None."""
        with contextlib.suppress(OSError):  # the other end was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(min(count - len(parts), 1 << 20))
            if not part:
                return None
            self._socket.settimeout(None)  # a frame that has begun is read to its end
            parts += part
        return bytes(parts)


def child_environment(theirs: socket.socket) -> dict[str, str]:
    """Return the environment variable that tells a child which descriptor is its end."""
    return {FD_VARIABLE: str(theirs.fileno())}
