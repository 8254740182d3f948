"""Wakes a thread that waits in a selector."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """A socket pair, one byte at most on its way. A closed one is harmless, unlike a bare descriptor used again."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)
        self._set = False

    def fileno(self) -> int:
        """The descriptor to wait on for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the waiter; any thread."""
        if not self._set:
            self._set = True
            with contextlib.suppress(OSError):  # closed: nobody waits any more
                self._writer.send(b"!")

    def clear(self) -> None:
        """Note that the waiter is awake. It must look at what it is told about after this, not before.

        The byte goes first, the mark second. The other way round, a `wake` in between would set the mark and lose its
        byte here, and no later one would send another.
        """
        with contextlib.suppress(OSError):
            self._reader.recv(64)
        self._set = False

    def close(self) -> None:
        """Release both ends."""
        self._reader.close()
        self._writer.close()
