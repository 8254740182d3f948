"""The board's end of a serial cable: a terminal device in raw mode, or standard input and output."""

from __future__ import annotations

import errno
import os
import select
import termios
import time
from contextlib import suppress
from typing import Self

from argosy_common.errors import SerialPortDenied, SerialPortMissing, SerialPortUnusable

STDIO = "-"
WRITE_TIMEOUT_S = 5.0
_ABSENT = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO)
_CHUNK = 4096


class SerialPort:
    """A `BytePort`. Both calls raise OSError when the other end has gone."""

    def __init__(self, name: str, baud: int) -> None:
        """Open the device `name`, or use standard input and output if it is `-`.

        Raises:
            SerialPortMissing: there is no such device just now.
            SerialPortDenied: it belongs to others.
            SerialPortUnusable: it is no terminal, or does not know this baud rate.
        """
        self._ours = name != STDIO
        try:
            flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
            self._in = self._out = os.open(name, flags) if self._ours else 0
        except PermissionError:
            raise SerialPortDenied(port=name) from None
        except OSError as error:
            if error.errno in _ABSENT:
                raise SerialPortMissing(port=name) from None
            raise SerialPortUnusable(port=name, why=error.strerror) from None
        try:
            if not self._ours:
                self._out = 1
            for end in {self._in, self._out}:
                if self._ours or os.isatty(end):
                    _make_raw(end, baud)
        except (termios.error, AttributeError) as error:
            self.close()
            why = f"there is no baud rate {baud}" if isinstance(error, AttributeError) else "it is no terminal"
            raise SerialPortUnusable(port=name, why=why) from None

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, waiting for the first byte at most `timeout_s`; empty if none came."""
        if not select.select([self._in], [], [], timeout_s)[0]:
            return b""
        try:
            data = os.read(self._in, _CHUNK)
        except BlockingIOError:
            return b""  # somebody else was faster
        if not data:
            raise OSError(errno.EIO, "the other end has hung up")
        return data

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        give_up = time.monotonic() + WRITE_TIMEOUT_S
        while data:
            left = give_up - time.monotonic()
            if left <= 0 or not select.select([], [self._out], [], left)[1]:
                raise TimeoutError(errno.ETIMEDOUT, "nobody takes what is sent")
            with suppress(BlockingIOError):
                data = data[os.write(self._out, data) :]

    def close(self) -> None:
        """Let go of the device."""
        if self._ours:
            os.close(self._in)

    def __enter__(self) -> Self:
        """Return the port, which is closed at the block's end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _make_raw(handle: int, baud: int) -> None:
    """Let all bytes through unchanged: 8 bits, no parity, no echo, no flow control, no modem lines."""
    speed = getattr(termios, f"B{baud}")
    control = termios.tcgetattr(handle)[6]
    control[termios.VMIN], control[termios.VTIME] = 1, 0
    flags = termios.CS8 | termios.CREAD | termios.CLOCAL
    termios.tcsetattr(handle, termios.TCSANOW, [0, 0, flags, 0, speed, speed, control])
