"""The coordinator's HTTPS port, in a thread of its own: boards join, renew, download blobs, have models run.

TLS 1.3 under a certificate of our own CA. A client may show a certificate of that CA and need not: a board that joins
has none yet, and one that was away for long has none that is good. A blob is given to none but the device that the
certificate names.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import cast

import uvicorn
from fastapi import FastAPI

from argosy_common import x509
from argosy_common.blobs import BlobRef
from argosy_common.blobs.ranges import LARGE, blob_path
from argosy_common.clock import Clock
from argosy_common.errors import PortInUse, ProgrammingError, SettingsInvalid
from argosy_common.logs import get_logger
from argosy_server.bounded_connection import BoundedConnection
from argosy_server.ca import CertificateAuthority
from argosy_server.downloads import Downloads
from argosy_server.enrolment.app import create_app
from argosy_server.enrolment.rate import Doorkeeper
from argosy_server.enrolment.renewal import RenewalService
from argosy_server.enrolment.service import Brokers, EnrolmentService
from argosy_server.offload import Offload
from argosy_server.store import Store
from argosy_server.store.enrolments import APPROVAL_S
from argosy_server.store.renewals import GRACE_S

log = get_logger(__name__)

START_TIMEOUT_S = 20.0
MAX_CONNECTIONS = 200
MAX_URLS = 4
MAX_URL = 512
_POLL_S = 0.02
_DRAIN_S = 2


class EnrolmentServer:
    """Lets devices join, and download blobs, between `start` and `stop`."""

    def __init__(
        self,
        store: Store,
        ca: CertificateAuthority,
        *,
        clock: Clock,
        host: str,
        port: int,
        hosts: Sequence[str],
        brokers: Brokers,
        advertise: str | None = None,
        downloads: Downloads | None = None,
        offload: Offload | None = None,
        approval_s: float = APPROVAL_S,
        grace_s: float = GRACE_S,
        life: timedelta = x509.DEVICE_LIFE,
    ) -> None:
        """Listen on `host`:`port` (0: a free one). Devices are told to come to `advertise`, by default the first of
        `hosts`, this machine's names and addresses; `brokers` gives the addresses of the broker at each enrolment.
        Without `downloads` no blob is served, without `offload` no model is run. Requests wait `approval_s` seconds for
        an operator. Devices get certificates of `life`, and may renew one until `grace_s` seconds after its end.
        """
        self._ca = ca
        self._clock = clock
        self._wanted = (host, port)
        self._hosts = list(hosts)
        self._advertise = advertise
        self._downloads = downloads
        self._offload = offload
        doorkeeper = Doorkeeper(clock)
        self._service = EnrolmentService(
            store, ca, doorkeeper=doorkeeper, brokers=brokers, approval_s=approval_s, life=life
        )
        self._renewals = RenewalService(store, ca, doorkeeper=doorkeeper, brokers=brokers, grace_s=grace_s, life=life)
        self._listener: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._port = port

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the real one once started."""
        return self._wanted[0], self._port

    @property
    def url(self) -> str:
        """Where devices are told to come."""
        if self._advertise is not None:
            return self._advertise
        return self._origin(self._hosts[0] if self._hosts else self._wanted[0])

    @property
    def serves_blobs(self) -> bool:
        """Whether large blobs can be downloaded here."""
        return self._downloads is not None and self.alive()

    def blob_urls(self, ref: BlobRef) -> list[str]:
        """Return where a device may download a blob; empty for one that goes by MQTT."""
        if ref.size < LARGE or not self.serves_blobs:
            return []
        origins = [self.url.rstrip("/"), *(self._origin(host) for host in self._hosts if not _is_loopback(host))]
        urls = [f"{origin}{blob_path(ref.digest)}" for origin in dict.fromkeys(origins)]
        return [url for url in urls if len(url) <= MAX_URL][:MAX_URLS]

    def alive(self) -> bool:
        """Whether devices can join."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Listen, and return once requests are served.

        Raises:
            PortInUse: another program listens there.
            SettingsInvalid: this machine has no such address, or may not use the port.
            StorageFailed: the server certificate cannot be written.
            ProgrammingError: the server did not come up in `START_TIMEOUT_S`.
        """
        files = self._ca.issue_server(self._hosts, "enrolment")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(files.cert, files.key)
        context.load_verify_locations(cadata=self._ca.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._listener = _listen(*self._wanted)
        self._port = cast("int", self._listener.getsockname()[1])
        self._server = uvicorn.Server(_config(self._app(), context))
        self._thread = threading.Thread(target=self._serve, name="enrolment", daemon=True)
        self._thread.start()
        if self._offload is not None:
            self._offload.start()
        ends = self._clock.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            self._thread.join(_POLL_S)
            if not self._thread.is_alive() or self._clock.monotonic() > ends:
                self.stop()
                raise ProgrammingError(what=f"the enrolment service did not start on port {self._port}")
        log.info("enrolment.listening", host=self._wanted[0], port=self._port, url=self.url)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Cut downloads, let boards that join finish for a moment, stop listening. May be called twice or unstarted."""
        if self._downloads is not None:
            self._downloads.end()  # they go on by MQTT, or with the next coordinator
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("enrolment.slow_stop", seconds=timeout_s)
            self._thread = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._downloads is not None:
            self._downloads.close()
        if self._offload is not None:
            self._offload.stop()

    def _app(self) -> FastAPI:
        return create_app(self._service, self._renewals, self._downloads, self._offload)

    def _origin(self, host: str) -> str:
        return f"https://{f'[{host}]' if ':' in host else host}:{self._port}"

    def _serve(self) -> None:
        if self._server is None or self._listener is None:
            return
        try:
            self._server.run(sockets=[self._listener])
        except Exception as error:  # noqa: BLE001  (a thread's last frame: told, and seen by `start`)
            log.error("enrolment.died", exc=error)


def _config(app: FastAPI, context: ssl.SSLContext) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=BoundedConnection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # the source address of the rate limit is the real one
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=_DRAIN_S,
        timeout_keep_alive=5,
    )
    config.load()
    config.ssl = context  # uvicorn's own options cannot ask for TLS 1.3
    return config


def _is_loopback(host: str) -> bool:
    """Tell whether other machines cannot mean us by it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=128)
        # handed on to connections: asyncio does it only for sockets that say their protocol, and without it the body of
        # an answer waits 40 ms for the client to acknowledge the head
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(port=port, host=host, purpose="enrolment", setting="enrolment.port") from None
        name = "enrolment.port" if error.errno == errno.EACCES else "enrolment.host"
        raise SettingsInvalid(name=name, why=error.strerror or error, source="the coordinator's settings") from None
