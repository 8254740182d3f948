"""The line to the coordinator's HTTPS port: one connection, one request at a time, no longer wait than was asked for.

All that may block (names, handshakes, a network that swallows packets) is done on a thread of the line's own, so that
who asks can turn away at any moment. The certificate is read anew for each connection, since it is renewed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from argosy_client.identity import Enrolment
from argosy_client.inference.backend import Array
from argosy_common import x509
from argosy_common.coordinator_https import Address
from argosy_common.errors import ArgosyError, OffloadRefused, OffloadUnavailable, error_from_wire
from argosy_common.link.tls import client_context
from argosy_common.offload import DEADLINE, MAX_BODY, PATH, RUN, TensorForm

CONNECT_S = 4.0
IDLE_S = 4.0
"""A connection that rested longer is made anew: the coordinator hangs up after five seconds."""

Dial = Callable[[float], ssl.SSLSocket]
"""Connect within so many seconds."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    body: bytes
    headers: dict[str, str]
    """By names in small letters."""
    run_ms: float
    """What the coordinator took to run it; the rest is the way there and back."""
    elapsed_ms: float

    def array(self) -> Array:
        """Return the tensor in it.

        Raises:
            InputInvalid: it is none.
        """
        form = TensorForm.parse(self.headers, model="asked for")
        if form.size != len(self.body):
            raise OffloadUnavailable(model="asked for", why="its answer was cut")
        return np.frombuffer(self.body, dtype=form.dtype).reshape(form.shape)


@dataclass(eq=False)
class _Request:
    path: str
    headers: dict[str, str]
    body: memoryview | bytes
    timeout_s: float
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    error: Exception | None = None
    given_up: bool = False


def to_coordinator(state_dir: Path) -> Dial:
    """Return what connects this board to the coordinator that it joined, showing its certificate.

    It raises `NotEnrolled`, `CertificateInvalid` and `OSError`.
    """

    def dial(timeout_s: float) -> ssl.SSLSocket:
        enrolment = Enrolment.load(state_dir)
        address = Address.parse(enrolment.url)
        context = client_context(enrolment.tls_files())
        plain = socket.create_connection((address.host, address.port), timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=x509.COORDINATOR)

    return dial


class Line:
    """A line that connects by itself. `ask` is for one thread at a time."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._queue: queue.Queue[_Request | None] = queue.Queue()
        self._lock = threading.Lock()
        self._current: _Request | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        self._thread: threading.Thread | None = None

    def run(self, path: str, tensor: Array, *, timeout_s: float) -> Reply:
        """Have the coordinator go on from a tensor; otherwise as `ask`."""
        form = TensorForm(str(tensor.dtype), tensor.shape)
        body = np.ascontiguousarray(tensor).data.cast("B")
        return self.ask(path, body, {**form.headers(), DEADLINE: f"{timeout_s * 1000.0:.3f}"}, timeout_s=timeout_s)

    def ask(
        self, path: str, body: memoryview | bytes, headers: dict[str, str] | None = None, *, timeout_s: float
    ) -> Reply:
        """Return the coordinator's answer.

        Raises:
            OffloadUnavailable: there is none in time, or nobody can be reached.
            OffloadRefused, ModelBusy, ModelNotFound, InputInvalid, DeadlinePassed: it says no, by name.
            NotEnrolled, CertificateInvalid: this board has nothing to show.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="line", daemon=True)
            self._thread.start()
        request = _Request(path, headers or {}, body, timeout_s)
        self._queue.put(request)
        if not request.done.wait(timeout_s):
            self._turn_away(request)
            raise OffloadUnavailable(model=_named(path), why=f"it had no answer within {timeout_s * 1000.0:.0f} ms")
        if request.error is not None:
            raise _plain(request.error, path)
        if request.reply is None:
            raise OffloadUnavailable(model=_named(path), why="the line was closed")
        return request.reply

    def close(self) -> None:
        """Hang up; the thread ends by itself."""
        self._queue.put(None)
        with self._lock:
            if self._current is not None:
                self._current.given_up = True
            self._shut()

    # --- on our thread

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            with self._lock:
                if request.given_up:
                    continue
                self._current = request
            try:
                request.reply = self._exchanged(request)
            except Exception as error:  # noqa: BLE001  (told to who asks, by name)
                request.error = error
                self._hang_up()
            finally:
                with self._lock:
                    self._current = None
                request.done.set()
        self._hang_up()

    def _exchanged(self, request: _Request) -> Reply:
        if self._connection is not None and time.monotonic() - self._used_at < IDLE_S:
            try:
                return self._exchange(request, self._connection)
            except (OSError, http.client.HTTPException):
                # it may have been cut while nobody looked, which only a request finds out
                if request.given_up:
                    raise
        self._hang_up()
        return self._exchange(request, self._connect(request))

    def _connect(self, request: _Request) -> http.client.HTTPConnection:
        secured = self._dial(min(CONNECT_S, request.timeout_s))
        connection = http.client.HTTPConnection("coordinator")
        connection.sock = secured
        connection.auto_open = 0  # else it would come back by itself, without TLS
        with self._lock:
            self._connection = connection
            if request.given_up:
                self._shut()
        return connection

    def _exchange(self, request: _Request, connection: http.client.HTTPConnection) -> Reply:
        connection.sock.settimeout(request.timeout_s)
        began = time.perf_counter()
        connection.request("POST", request.path, request.body, request.headers)
        answer = connection.getresponse()
        body = answer.read(MAX_BODY + 1)
        elapsed_ms = (time.perf_counter() - began) * 1000.0
        self._used_at = time.monotonic()
        if len(body) > MAX_BODY:
            raise http.client.HTTPException("its answer is too long")
        if answer.will_close or answer.status != http.client.OK:
            self._hang_up()
        if answer.status != http.client.OK:
            raise _refusal(answer.status, body)
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(body, headers, _number(headers.get(RUN.lower(), "0")), elapsed_ms)

    def _turn_away(self, request: _Request) -> None:
        with self._lock:
            request.given_up = True
            if self._current is request:
                self._shut()

    def _shut(self) -> None:
        """End the connection under whatever reads from it; its thread closes it."""
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _refusal(status: int, body: bytes) -> ArgosyError:
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if isinstance(told, dict) and "code" in told:
        return error_from_wire(told)
    return OffloadRefused(why=f"it knows no such request (HTTP {status})")


def _plain(error: Exception, path: str) -> ArgosyError:
    """Return what went wrong by name."""
    if isinstance(error, ArgosyError):
        return error
    if isinstance(error, ssl.SSLError) and error.reason:
        why = error.reason.replace("_", " ").lower()
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror[:1].lower() + error.strerror[1:]
    else:
        why = str(error) or type(error).__name__
    return OffloadUnavailable(model=_named(path), why=why)


def _named(path: str) -> str:
    """Return `name:version` of a path."""
    return path.removeprefix(PATH).strip("/").partition("?")[0].replace("/", ":") or "any model"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
