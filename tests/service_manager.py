"""A service manager for tests: the socket that a daemon tells how it is, real, in a folder or abstract."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Self

from tests.waiting import until


class ServiceManager:
    """Hears what a daemon says to `$NOTIFY_SOCKET`. A context manager."""

    def __init__(self, folder: Path | None = None) -> None:
        """Listen in `folder`, whose path must be short; without one, on an abstract socket."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"argosy-test-{secrets.token_hex(8)}"
        self.address = str(folder / "notify") if folder else f"@{name}"
        self._socket.bind(self.address if folder else f"\0{name}")
        self._socket.settimeout(0)
        self._lines: list[str] = []

    def environment(self, *, watchdog_s: float | None = None) -> dict[str, str]:
        """Return what systemd puts into the daemon's environment."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self.address, **watchdog}

    @property
    def lines(self) -> list[str]:
        """All that was said so far, a variable a line."""
        try:
            while True:
                self._lines += self._socket.recv(65536).decode().splitlines()
        except BlockingIOError:
            return self._lines

    def hears(self, line: str, *, times: int = 1) -> bool:
        """Wait until `line` was said so often."""
        return until(lambda: self.lines.count(line) >= times)

    def forget(self) -> None:
        """Begin anew."""
        self.lines.clear()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self._socket.close()
