"""A broker that somebody else runs. We only know its address; its access list is its operator's duty."""

from __future__ import annotations

import socket
from collections.abc import Collection

_PROBE_S = 2.0


class ExternalBroker:
    """See `broker.Broker`."""

    kind = "external"
    pid: int | None = None

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)

    def start(self) -> None:
        """Nothing is ours to start; whether it answers is the link's to find out."""

    def stop(self) -> None:
        """Nothing is ours to stop."""

    def alive(self) -> bool:
        """Whether something accepts connections there, asked anew, within two seconds."""
        try:
            with socket.create_connection(self.address, timeout=_PROBE_S):
                return True
        except OSError:
            return False

    def kept(self) -> bool:
        """True: its life is its operator's duty."""
        return True

    def shut_out(self, devices: Collection[str]) -> None:
        """Its access list and its copy of the revocation list are its operator's duty: docs/operating.md."""
