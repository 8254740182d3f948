"""TLS 1.3 for the link: whom we trust, what we show, and why it ended.

Measured and left out: a socket that moves many records a call. It saves paho's copies of the rest of a packet, but at
256 kB its own loop costs as much (4.1 against 3.9 CPU-s/GB for both ends).
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from argosy_common import x509
from argosy_common.errors import CertificateInvalid
from argosy_common.link.settings import TlsFiles

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_RECORD = 16 * 1024
"""No call of OpenSSL's gives more at once. Asked for 256 kB, Python would set that much aside for each record."""


class TellingSocket(ssl.SSLSocket):
    """A TLS socket that remembers its failure: OpenSSL says why a certificate was refused, paho does not pass it on."""

    fault: OSError | None = None

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """See `socket.socket.send`."""
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.fault = error
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See `socket.socket.recv`."""
        try:
            return super().recv(min(buflen, _RECORD), flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.fault = error
            raise


class NamedContext(ssl.SSLContext):
    """A client context that expects one name, whatever the address; paho would always ask for the host's."""

    expected_name: str | None = None

    def wrap_socket(  # noqa: PLR0917  (the signature is the standard library's)
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`."""
        return super().wrap_socket(
            sock,
            server_side,
            do_handshake_on_connect,
            suppress_ragged_eofs,
            self.expected_name or server_hostname,
            session,
        )


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a TLS 1.3 context that trusts `files.ca` alone and shows `files.cert`.

    Raises:
        CertificateInvalid: one of the files is missing, unreadable or not what it should be.
    """
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = TellingSocket
    try:
        authority = files.ca.read_text(encoding="ascii")
        context.load_verify_locations(cadata=authority)
        if files.server_name is not None:
            context.expected_name = files.server_name
            context.verify_flags = x509.coordinator_trust(authority).verify_flags
    except (OSError, ValueError) as error:
        raise CertificateInvalid(path=files.ca, why=error) from error
    try:
        context.load_cert_chain(files.cert, files.key)
    except (OSError, ValueError) as error:
        raise CertificateInvalid(path=f"{files.cert} or {files.key}", why=error) from error
    return context
