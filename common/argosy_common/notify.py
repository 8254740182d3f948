"""What a daemon tells the service manager that started it (systemd's sd_notify), in datagrams of plain text.

Without a service manager, as in a terminal, all of it does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Self

from argosy_common.clock import Clock
from argosy_common.logs import get_logger

log = get_logger(__name__)

_SEND_S = 5.0
"""A service manager that takes no datagram for so long is itself in trouble; the daemon goes on."""


class Notifier:
    """Tells the service manager at `address`; nobody, where that is empty. From any thread.

    Attributes:
        watchdog_s: within so many seconds it must hear `alive` again, or it kills the daemon; None: it does not watch.
    """

    def __init__(self, address: str, *, clock: Clock, watchdog_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # an abstract socket
        self._clock = clock
        self.watchdog_s = watchdog_s if address else None

    @classmethod
    def of_this_process(cls, environment: MutableMapping[str, str] = os.environ, *, clock: Clock) -> Self:
        """Return the one that the environment names, and take it out of there: our children must not speak for us."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        watched = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        watchdog_s = int(microseconds) / 1e6 if watched and microseconds.isdecimal() else None
        return cls(address, clock=clock, watchdog_s=watchdog_s)

    def ready(self) -> None:
        """The start, or a reload, is over: the daemon serves."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The settings are being read again; `ready` tells the end of it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """The daemon has just proved that it works."""
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Say in one line how things are, for `systemctl status`."""
        self._tell("STATUS=" + " ".join(text.split()))

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_S)
                sender.connect(self._address)
                sender.sendall("\n".join(lines).encode())
        except OSError as error:
            log.warning("service.not_told", what=lines[0], why=error.strerror or error)
