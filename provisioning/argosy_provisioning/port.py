"""The station's end of a serial cable: pyserial, with its failures given our names."""

from __future__ import annotations

import errno
import termios
from pathlib import Path
from typing import Self

import serial

from argosy_common.errors import (
    ArgosyError,
    SerialPortBusy,
    SerialPortDenied,
    SerialPortMissing,
    SerialPortUnusable,
    SerialUnplugged,
)

WRITE_TIMEOUT_S = 5.0
_BENCH = ("ttyUSB*", "ttyACM*")
_AWAY = (OSError, TypeError, termios.error)
"""As pyserial meets a port that goes away under it: by the call at which it does."""


class StationPort:
    """A `BytePort`, ours alone until it is closed. Both calls raise `SerialUnplugged` when the port goes away."""

    def __init__(self, name: str, baud: int) -> None:
        """Open the port `name`, and forget what came before.

        Raises:
            SerialPortMissing, SerialPortDenied, SerialPortBusy, SerialPortUnusable: why it cannot be opened.
        """
        self._name = name
        try:
            self._port = serial.Serial(name, baud, exclusive=True, write_timeout=WRITE_TIMEOUT_S)
            self._port.reset_input_buffer()
        except (OSError, ValueError, termios.error) as error:
            raise _why_not_open(name, error) from None

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, waiting for the first byte at most `timeout_s`; empty if none came."""
        try:
            self._port.timeout = timeout_s
            first = self._port.read(1)
            return bytes(first + self._port.read(self._port.in_waiting)) if first else b""
        except _AWAY as error:
            raise self._gone(error) from None

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._port.write(data)
            self._port.flush()
        except _AWAY as error:
            raise self._gone(error) from None

    def _gone(self, error: Exception) -> SerialUnplugged:
        why = "it takes no more bytes" if isinstance(error, serial.SerialTimeoutException) else "the cable was pulled"
        return SerialUnplugged(port=self._name, why=why)

    def close(self) -> None:
        """Let go of the port."""
        self._port.close()

    def __enter__(self) -> Self:
        """Return the port, which is closed at the block's end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def bench_ports(dev: Path = Path("/dev")) -> list[str]:
    """Return every USB serial port of this machine, in order."""
    return sorted((str(path) for kind in _BENCH for path in dev.glob(kind)), key=lambda name: (len(name), name))


def _why_not_open(name: str, error: Exception) -> ArgosyError:
    number = error.args[0] if isinstance(error, termios.error) else getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return SerialPortMissing(port=name)
    if number in (errno.EACCES, errno.EPERM):
        return SerialPortDenied(port=name)
    if number in (errno.EBUSY, errno.EAGAIN):
        return SerialPortBusy(port=name)
    why = {errno.ENOTTY: "it is no serial port"}.get(number or 0, str(error) or type(error).__name__)
    return SerialPortUnusable(port=name, why=why)
