"""One HTTPS exchange with a coordinator, bounded in time and size. Standard library only: a join runs once in a life.

There is no redirect, no proxy and no public trust store here: a board speaks to the address it was told, and to
whoever can prove to be the coordinator there.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from argosy_common import x509
from argosy_common.enrolment import DEFAULT_PORT, MAX_BODY
from argosy_common.errors import EnrolmentUnreachable, SettingsInvalid

CONNECT_TIMEOUT_S = 10.0
EXCHANGE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Address:
    """Where a coordinator listens."""

    host: str
    port: int
    url: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take `https://host[:port]` or `host[:port]` apart.

        Raises:
            SettingsInvalid: it is neither.
        """
        text = url.strip()
        try:
            parts = urlsplit(text if "://" in text else f"https://{text}")
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise SettingsInvalid(name="URL", why=error, source="the command") from None
        more = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme != "https" or not host or parts.port == 0 or more:
            raise SettingsInvalid(name="URL", why="it must read https://host:port", source="the command")
        return cls.at(host, port)

    @classmethod
    def at(cls, host: str, port: int) -> Address:
        """Return the address of a port of a host (a name or an IP address)."""
        return cls(host, port, f"https://{f'[{host}]' if ':' in host else host}:{port}")


def https_url(text: str) -> str:
    """Return an address in full, for a field of settings or a file.

    Raises:
        ValueError: it is none; the message does not repeat it.
    """
    try:
        return Address.parse(text).url
    except SettingsInvalid as error:
        raise ValueError(error.facts["why"]) from None


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


def exchange(address: Address, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None) -> Answer:
    """Do one request on a connection of its own; nothing of it is sent before the TLS handshake succeeded.

    Raises:
        EnrolmentUnreachable: no answer in `EXCHANGE_TIMEOUT_S`, or one that is too long or is not HTTP.
        ssl.SSLCertVerificationError: the server is not who `context` wants.
    """
    try:
        plain = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT_S)
        with context.wrap_socket(plain, server_hostname=x509.COORDINATOR, do_handshake_on_connect=False) as secured:
            # A server that drips one byte a second keeps every single read short; this ends them all.
            end = threading.Timer(EXCHANGE_TIMEOUT_S, _shut, [secured])
            end.daemon = True
            end.start()
            try:
                secured.do_handshake()
                return _request(address, secured, method, path, body)
            finally:
                end.cancel()
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EnrolmentUnreachable(url=address.url, why=_plain(error)) from None


def _plain(error: Exception) -> str:
    """Return an error's text without numbers and source files."""
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.replace("_", " ").lower()
        return f"what answers there does not speak HTTPS as a coordinator does ({reason})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


def _request(address: Address, secured: ssl.SSLSocket, method: str, path: str, body: bytes | None) -> Answer:
    connection = http.client.HTTPConnection(address.host, address.port)
    connection.sock = secured
    connection.request(method, path, body, {"Content-Type": "application/json", "Connection": "close"})
    response = connection.getresponse()
    received = response.read(MAX_BODY + 1)
    if len(received) > MAX_BODY:
        raise http.client.HTTPException(f"the answer is longer than {MAX_BODY} bytes")
    return Answer(response.status, received)


def _shut(secured: ssl.SSLSocket) -> None:
    """End the connection under another thread's read; that read fails at once."""
    try:
        socket.socket.shutdown(secured, socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already, which is what we want


def blind_context() -> ssl.SSLContext:
    """Return a context that trusts anybody: only to fetch the authority, which is believed by its pin alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
