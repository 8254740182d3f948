"""What a `Link` is told: where the broker is, who we are to it, and what it says of us when we vanish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one end. They are read again at each connection, so replacing them rotates the certificate."""

    ca: Path
    cert: Path
    key: Path
    server_name: str | None = None
    """The name to expect in the broker's certificate. None: the host we connect to, and its dates are checked.

    `x509.COORDINATOR` for a broker that the coordinator runs: devices reach it under any address and with any clock,
    so then the name is what counts and the dates are left out (`x509.coordinator_trust`).
    """


@dataclass(frozen=True)
class Will:
    """What the broker publishes for us `delay_s` seconds after it lost us."""

    topic: str
    payload: bytes
    delay_s: int = 30
    retain: bool = True
    qos: int = 1


@dataclass(frozen=True)
class LinkSettings:
    """One connection to one broker (specs/transport.md, "Link"). Sizes are in bytes, times in seconds."""

    host: str
    port: int
    client_id: str
    tls: TlsFiles | None
    """None means plain TCP: for tests and for brokers on the other side of a tunnel."""
    keepalive_s: int = 20
    session_expiry_s: int = 86_400
    receive_maximum: int = 16
    """How many unacknowledged QoS-1 messages the broker may have under way to us."""
    max_packet: int = 1_100_000
    watchdog_s: float = 10.0
    """How often the loop is proved alive by a round trip, and how long its answer may take."""
    connect_timeout_s: float = 10.0
    """For each of: TCP and TLS together, and the broker's answers to CONNECT and SUBSCRIBE."""
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 8.0
    """The longest pause before the next attempt; what a fleet of a few thousand may knock with when its broker is back.
    A larger one wants more: a connection costs the broker about 2 ms."""
    elsewhere: tuple[tuple[str, int], ...] = ()
    """Further addresses of the same broker: after a connection that did not come about, the next one is tried."""
    max_backlog: int = 64 * 1024 * 1024
    """Bytes that may wait to be sent; `publish` answers False beyond."""

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        return f"{self.host}:{self.port}"
