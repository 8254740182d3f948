"""The way to the coordinator, one step after the other: its name, its port, its TLS, its certificate.

A probe notes how far it came while it goes, since asking for a name cannot be interrupted: when its time is over, it is
left where it is.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from argosy_common import x509
from argosy_common.coordinator_https import Address, blind_context, exchange
from argosy_common.enrolment import CA_PATH
from argosy_common.errors import ArgosyError
from argosy_common.link import TlsFiles
from argosy_common.link.tls import client_context

PATIENCE_S = 4.0
"""Seconds for each step."""


class Step(IntEnum):
    """What a probe is at."""

    NAME = 0
    PORT = 1
    TLS = 2
    TRUST = 3
    """TLS works, and what is shown is not to be trusted."""
    DONE = 4


@dataclass
class Route:
    """One address: how far we came, and why not farther."""

    host: str
    port: int
    step: Step = Step.NAME
    why: str = "no answer in time"

    @property
    def good(self) -> bool:
        """Whether somebody answers there whom our authority vouches for."""
        return self.step is Step.DONE

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class Service:
    """The enrolment service."""

    url: str
    route: Route
    pin: str = ""
    """Of the authority that it shows; empty: it showed none."""


def at_once(jobs: Sequence[Callable[[], None]], within_s: float) -> None:
    """Run jobs side by side, and return when all are done or the time is over; what hangs is left to hang."""
    threads = [threading.Thread(target=job, name="probe", daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def try_broker(route: Route, files: TlsFiles, patience_s: float) -> None:
    """Go as far as a TLS connection to the broker with the device's certificate."""
    try:
        plain = _reach(route, patience_s)
        with client_context(files).wrap_socket(plain, do_handshake_on_connect=False) as secured:
            _shake_hands(route, secured)
    except (OSError, ValueError, ArgosyError) as error:
        _failed(route, error)


def try_service(service: Service, ca_pem: str | None, patience_s: float) -> None:
    """Ask who the authority is, then see whether it vouches for the server. `ca_pem` is ours, if we have one."""
    route = service.route
    try:
        _reach(route, patience_s).close()
        shown = exchange(Address(route.host, route.port, service.url), blind_context(), "GET", CA_PATH)
        authority = x509.parse_certificate(shown.body)
        service.pin = x509.spki_pin(authority)
        trust = x509.coordinator_trust(ca_pem or x509.certificate_pem(authority).decode())
        plain = socket.create_connection((route.host, route.port), patience_s)
        with trust.wrap_socket(plain, server_hostname=x509.COORDINATOR, do_handshake_on_connect=False) as secured:
            _shake_hands(route, secured)
    except (OSError, ValueError, ArgosyError) as error:
        _failed(route, error)


def _reach(route: Route, patience_s: float) -> socket.socket:
    socket.getaddrinfo(route.host, route.port, type=socket.SOCK_STREAM)
    route.step = Step.PORT
    plain = socket.create_connection((route.host, route.port), patience_s)
    route.step = Step.TLS
    return plain


def _shake_hands(route: Route, secured: ssl.SSLSocket) -> None:
    secured.do_handshake()
    route.step, route.why = Step.DONE, ""


def _failed(route: Route, error: Exception) -> None:
    if isinstance(error, ssl.SSLCertVerificationError):
        route.step, route.why = Step.TRUST, error.verify_message
    elif isinstance(error, TimeoutError):
        route.why = "no answer in time"
    elif isinstance(error, ssl.SSLError):
        route.why = (error.reason or "TLS failed").replace("_", " ").lower()
    elif isinstance(error, OSError):
        route.why = (error.strerror or str(error)).lower()
    else:
        route.why = error.facts.get("why", error.message) if isinstance(error, ArgosyError) else str(error)
