"""TLS 1.3 for the link, with a socket that moves many records a call.

Why a socket class of our own: one `SSL_read` or `SSL_write` moves one TLS record, 16 kB at most. paho answers a short
`send` by copying the whole rest of the packet, and a short `recv` by growing a buffer, so 256 kB cost it 16 copies of
128 kB on average each way. A socket that goes on until it would block makes that one copy.
`SSLContext.sslsocket_class` is the standard library's documented place for it, so paho needs no patch.
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

_ONE_RECORD = 16 * 1024
_MOST_AT_ONCE = 1024 * 1024


class BulkSocket(ssl.SSLSocket):
    """A TLS socket whose non-blocking `send` and `recv` move as much as they can, and which remembers its failure."""

    fault: OSError | None = None
    """What ended the connection; OpenSSL's words say why a certificate was refused, and paho does not hand them on."""

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Send from `data` until the peer's window is full; return how many bytes went out (at least one).

        Raises:
            ssl.SSLWantWriteError: not even one byte could be sent now.
            OSError: the connection is lost.
        """
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view):
                sent += super().send(view[sent:], flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not sent:
                raise
        except OSError as error:
            self.fault = error
            raise
        return sent

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Return up to `buflen` bytes of what has arrived; b"" when the peer has closed.

        Raises:
            ssl.SSLWantReadError: nothing is there yet.
            OSError: the connection is lost.
        """
        try:
            if buflen <= _ONE_RECORD:
                return super().recv(buflen, flags)
            return self._recv_many(min(buflen, _MOST_AT_ONCE))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.fault = error
            raise

    def _recv_many(self, most: int) -> bytes:
        parts: list[bytes] = []
        left = most
        try:
            while left:
                part = super().recv(min(left, _ONE_RECORD))
                if not part:
                    break  # the peer closed: hand over what came before, the next call says b"" again
                parts.append(part)
                left -= len(part)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not parts:
                raise
        return b"".join(parts)


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
    context.sslsocket_class = BulkSocket
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
