"""One connection to the coordinator's HTTPS port: bounded in time, and by whom it was made."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTION_LIFE_S = 30
"""After so long a connection is cut, whatever the other end does or leaves undone, unless a download made progress."""
WRITE_BUFFER = 256 * 1024
"""Bytes that may wait for a slow reader."""
STATE = "connection"
"""Under this name a request's state holds its connection."""


class BoundedConnection(H11Protocol):
    """HTTP on connections that end after `CONNECTION_LIFE_S`.

    Attributes:
        device: the common name of the client's certificate, which TLS has verified; empty where none was shown.
        serial: that certificate's serial number, hexadecimal; empty where none was shown.
        ends: when it ends; None where none was shown.
        gone: whether the connection has ended.
    """

    device = ""
    serial = ""
    ends: datetime | None = None
    gone = False
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the countdown, and note who is there."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate: dict[str, Any] = (tls.getpeercert() or {}) if tls is not None else {}
        self.device = _common_name(certificate)
        self.serial = certificate.get("serialNumber", "").lower().lstrip("0")
        if ends := certificate.get("notAfter"):
            self.ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
        self.app_state = {**self.app_state, STATE: self}
        self.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the countdown."""
        self.gone = True
        if self._end is not None:
            self._end.cancel()
        self.app_state = {}
        super().connection_lost(exc)

    def go_on(self) -> None:
        """Begin the countdown anew: something was achieved."""
        if self._end is not None:
            self._end.cancel()
        if not self.gone:
            self._end = self.loop.call_later(CONNECTION_LIFE_S, self.cut)

    def cut(self) -> None:
        """End the connection at once."""
        self.transport.abort()


def _common_name(certificate: dict[str, Any]) -> str:
    """Return the common name in a verified client certificate."""
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""
