"""Large blobs by HTTPS from the coordinator's own port: the second way beside the chunks (spec: "Blobs").

The urls of an offer come through the broker and are not to be trusted: only their host and port are used, and what
answers there must show the coordinator's certificate of our own authority. No redirects, no proxies.

Ranges are asked for what is missing, chunk by chunk into the transfer's own file. A cut is followed by another attempt
after a growing random pause. After `ATTEMPTS` in a row that brought nothing, or where nobody can be reached to begin
with, the rest is left to MQTT, and for `CLOSED_S` nothing is tried here.
"""

from __future__ import annotations

import http.client
import queue
import random
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from argosy_common import x509
from argosy_common.backoff import Backoff
from argosy_common.blobs.downloads import Download
from argosy_common.blobs.ranges import LARGE, blob_path, parse_content_range, range_header
from argosy_common.clock import Clock
from argosy_common.enrolment import DEFAULT_PORT
from argosy_common.errors import ArgosyError
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Offer

log = get_logger(__name__)

CONNECT_S = 4.0
"""The longest that one address may take to answer."""
SILENCE_S = 15.0
"""The longest that nothing may come."""
CHUNK_S = 60.0
"""The longest that one chunk may take: a line slower than that is better served by MQTT, which knows its pace."""
ATTEMPTS = 3
CLOSED_S = 600.0
WORKERS = 2
"""Downloads at once; the coordinator serves a device no more."""
_PIECE = 64 * 1024
_HEADERS = 512
"""Bytes that a request and the head of its answer take, about."""


class _Refused(Exception):
    """The coordinator says no: another attempt would end the same way."""


class _Unreachable(ConnectionError):
    """No address answers as the coordinator."""


class _Stopped(Exception):
    """Nobody wants the blob any more."""


@dataclass(eq=False)
class _Job:
    """A download, and what ends it."""

    download: Download
    stopped: threading.Event = field(default_factory=threading.Event)
    socket: ssl.SSLSocket | None = None

    def stop(self) -> None:
        """End it, also in the middle of a read."""
        self.stopped.set()
        _shut(self.socket)  # its thread closes it


class HttpsWay:
    """Implements `argosy_common.blobs.downloads.Way`. Threads of its own do all that may take time.

    Args:
        tls: makes the context that shows this device's certificate; called anew for each connection, since certificates
            are renewed.
        joined_at: host and port at which this device joined, which it evidently reaches; tried first.
    """

    name = "https"

    def __init__(
        self,
        tls: Callable[[], ssl.SSLContext],
        *,
        clock: Clock,
        rng: random.Random,
        joined_at: tuple[str, int] | None = None,
    ) -> None:
        self._tls = tls
        self._clock = clock
        self._rng = rng
        self._joined_at = joined_at
        self._reached: tuple[str, int] | None = None
        self._closed_until = float("-inf")
        self._jobs: dict[int, _Job] = {}
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"https-{number}", daemon=True) for number in range(WORKERS)
        ]
        for thread in self._threads:
            thread.start()

    # --- what the exchange asks: quick

    def takes(self, offer: Offer) -> bool:
        """See `Way.takes`."""
        return bool(offer.urls) and offer.size >= LARGE and self._clock.monotonic() >= self._closed_until

    def start(self, download: Download) -> None:
        """See `Way.start`."""
        job = _Job(download)
        with self._lock:
            self._jobs[id(download)] = job
        self._queue.put(job)

    def stop(self, download: Download) -> None:
        """See `Way.stop`."""
        with self._lock:
            job = self._jobs.get(id(download))
        if job is not None:
            job.stop()

    def close(self, timeout_s: float = 5.0) -> None:
        """End all downloads and the threads; bounded."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout_s / len(self._threads))

    # --- on the threads

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                self._bring(job)
            except _Stopped:
                log.debug("download.stopped", digest=job.download.ref.hex)
            except Exception as error:  # noqa: BLE001  (our own bug: told, and the blob comes by MQTT)
                log.error("download.bug", exc=error, digest=job.download.ref.hex)
                job.download.turn_back()
            finally:
                with self._lock:
                    self._jobs.pop(id(job.download), None)

    def _bring(self, job: _Job) -> None:
        """Bring a blob, or leave the rest to MQTT.

        Raises:
            _Stopped: it is not wanted any more.
        """
        download = job.download
        backoff = Backoff(self._rng, base=0.5, cap=8.0)
        begun = _missing(download)
        why = ""
        while backoff.failures < ATTEMPTS:
            left = _missing(download)
            if not left:
                return
            try:
                self._attempt(job)
            except _Refused as refusal:
                log.warning("download.refused", digest=download.ref.hex, why=str(refusal))
                download.turn_back()
                return
            except (OSError, http.client.HTTPException, ValueError, ArgosyError) as error:
                _require_wanted(job)
                why = str(error) or type(error).__name__
                if isinstance(error, _Unreachable) and left == begun:
                    break
            else:
                return
            finally:
                secured, job.socket = job.socket, None
                if secured is not None:
                    secured.close()
            if _missing(download) < left:
                backoff.reset()
            log.info("download.cut", digest=download.ref.hex, why=why)
            if job.stopped.wait(backoff.next()):
                raise _Stopped
        self._closed_until = self._clock.monotonic() + CLOSED_S
        log.warning("download.left_to_mqtt", digest=download.ref.hex, why=why, closed_s=CLOSED_S)
        download.turn_back()

    def _attempt(self, job: _Job) -> None:
        """Connect once and ask for all gaps. Raises what ends the connection, or `_Refused`, or `_Stopped`."""
        address, job.socket = self._connect(job)
        self._reached = address
        connection = http.client.HTTPConnection(*address)
        connection.sock = job.socket
        connection.auto_open = 0  # else it would come back by itself, without TLS, after an answer that ends it
        _require_wanted(job)
        while gaps := job.download.gaps():
            if not self._ask(job, connection, *gaps[0]):
                return

    def _connect(self, job: _Job) -> tuple[tuple[str, int], ssl.SSLSocket]:
        """Return a connection to the first address at which the coordinator answers."""
        failures: list[str] = []
        for address in self._addresses(job.download):
            _require_wanted(job)
            try:
                plain = socket.create_connection(address, CONNECT_S)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                secured = self._tls().wrap_socket(plain, server_hostname=x509.COORDINATOR)
            except (OSError, ArgosyError) as error:
                failures.append(f"{address[0]}:{address[1]}: {error}")
            else:
                secured.settimeout(SILENCE_S)
                return address, secured
        raise _Unreachable("; ".join(failures) or "its offer has no address")

    def _addresses(self, download: Download) -> list[tuple[str, int]]:
        """Return where to try: where it went well last time, where this device joined, and what the offer says."""
        told = [address for url in download.urls if (address := _address(url, download.ref.digest)) is not None]
        known = [self._reached, self._joined_at]
        return list(dict.fromkeys([*(each for each in known if each is not None), *told]))

    def _ask(self, job: _Job, connection: http.client.HTTPConnection, first: int, end: int) -> bool:
        """Ask for the chunks `first` … `end`−1; return whether more is wanted."""
        download, layout = job.download, job.download.layout
        start, stop = first * layout.chunk, min(end * layout.chunk, layout.size)
        connection.request("GET", blob_path(download.ref.digest), headers={"Range": range_header(start, stop)})
        answer = connection.getresponse()
        download.spent(_HEADERS)
        if answer.status != http.client.PARTIAL_CONTENT:
            told = f"{answer.status} {answer.reason}"
            if answer.status == http.client.SERVICE_UNAVAILABLE:
                raise ConnectionError(told)
            raise _Refused(told)
        if parse_content_range(answer.headers.get("Content-Range", "")) != (start, stop, layout.size):
            raise _Refused("it answers with another range than was asked for")
        buffer = bytearray(layout.chunk)
        for index in range(first, end):
            payload = memoryview(buffer)[: layout.length(index)]
            self._fill(job, answer, payload)
            if not download.take(index, payload):
                return False
        answer.read(1)  # its end, so that the connection can be used again
        return True

    def _fill(self, job: _Job, answer: http.client.HTTPResponse, payload: memoryview) -> None:
        """Read one chunk. Raises `OSError`, `_Stopped`."""
        ends = self._clock.monotonic() + CHUNK_S
        done = 0
        while done < len(payload):
            piece = answer.read1(min(_PIECE, len(payload) - done))
            _require_wanted(job)
            if not piece:
                raise ConnectionError("the connection ended in the middle of a chunk")
            payload[done : done + len(piece)] = piece
            done += len(piece)
            if self._clock.monotonic() > ends:
                raise TimeoutError(f"a chunk took longer than {CHUNK_S:.0f} s")


def _address(url: str, digest: bytes) -> tuple[str, int] | None:
    """Return host and port of a url that is what a coordinator's would be; None for any other."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    fits = parts.scheme == "https" and parts.path == blob_path(digest) and not (parts.query or parts.username)
    return (host, port or DEFAULT_PORT) if fits and host else None


def _missing(download: Download) -> int:
    """Return how many chunks are missing."""
    return sum(end - first for first, end in download.gaps())


def _require_wanted(job: _Job) -> None:
    if job.stopped.is_set():
        raise _Stopped


def _shut(secured: ssl.SSLSocket | None) -> None:
    """End a connection under whatever reads from it."""
    if secured is not None:
        with suppress(OSError):  # it is closed already
            socket.socket.shutdown(secured, socket.SHUT_RDWR)
