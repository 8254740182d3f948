"""The processes of `benchmarks.transfer`: for each way of carrying a file, one that sends and one that receives.

Each runs alone in a fresh process and is told by `Duties` what to do. A sender prepares, says "ready" with where it can
be found and serves until it is told to stop; a receiver fetches as often as it is told to. Both tell the processor
time that each fetch cost them, all threads together.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import multiprocessing
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.exchange import BlobExchange, TransferOutcome
from argosy_common.clock import SystemClock
from argosy_common.link import Delivery, Link, LinkSettings, TlsFiles
from argosy_common.wire import topics
from argosy_common.wire.bodies import Body, ChunkAck, open_body
from argosy_common.wire.envelope import Envelope, decode, encode
from argosy_common.x509 import COORDINATOR

SINK = "w1"
STEP = 1024 * 1024
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Duties:
    """What a process is told: where the broker or the peer is, its certificate, its folder, the file and its name."""

    port: int
    tls: TlsFiles
    folder: Path
    file: Path
    digest: bytes
    size: int
    device: str


@dataclass(frozen=True)
class Report:
    """One fetch as its receiver saw it: seconds, and the growth of its peak memory in bytes."""

    seconds: float
    memory: int


class End:
    """A process that runs one of the functions below, and the pipe to it."""

    def __init__(self, role: Callable[[Connection, Duties], None], duties: Duties) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=role, args=(theirs, duties), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, command: str = "") -> Any:  # noqa: ANN401  (what a role answers is its own affair)
        """Send a command, unless it is empty, and return the answer; raises TimeoutError when none comes."""
        if command:
            self._pipe.send(command)
        if not self._pipe.poll(PATIENCE_S):
            raise TimeoutError(f"{self._process.name} did not answer")
        return self._pipe.recv()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join(10)


def obey(pipe: Connection, fetch: Callable[[], float]) -> None:
    """Do as the pipe says, for ever: `cpu` tells this process's processor seconds, `fetch` fetches once."""
    while True:
        if pipe.recv() == "cpu":
            pipe.send(time.process_time())
        else:
            before = _peak_memory()
            seconds = fetch()
            pipe.send(Report(seconds, _peak_memory() - before))


def _peak_memory() -> int:
    """Peak resident bytes since this program began; ru_maxrss would count the process that it was forked from."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def nothing() -> float:
    """A sender fetches nothing."""
    return 0.0


# --- ours: the link, the broker, the exchange ------------------------------------------------------------------------


class _Ours:
    """One end with its link and its exchange, wired as the daemons wire them."""

    def __init__(self, duties: Duties, *, is_device: bool) -> None:
        names = topics.DeviceTopics("default", duties.device)
        clock = SystemClock()
        self.store = BlobStore(duties.folder / ("device" if is_device else "coordinator"))
        self.peer = COORDINATOR if is_device else duties.device
        name = duties.device if is_device else COORDINATOR
        self.link = Link(
            LinkSettings("127.0.0.1", duties.port, name, duties.tls), clock=clock, rng=random.Random(name), will=None
        )
        out = names.control_up if is_device else names.control_down
        self.exchange = BlobExchange(
            self.store,
            clock=clock,
            sink="" if is_device else SINK,
            post=lambda _, body: self._post(out, body),
            post_chunk=lambda _, sink, frame: self.link.publish(
                names.chunks_up(sink) if is_device else names.chunks_down, frame, qos=0, expires_s=120
            ),
        )
        self.link.subscribe(names.control_down if is_device else names.control_up, self._control)
        chunks = names.chunks_down if is_device else topics.chunk_filter(SINK)
        self.link.subscribe(chunks, lambda each: self.exchange.handle_chunk(self.peer, each.payload), qos=0)
        self.link.start()
        if not self.link.wait_connected(30):
            raise TimeoutError(f"no connection: {self.link.last_error}")
        threading.Thread(target=self._tick, daemon=True).start()

    def _post(self, topic: str, body: Body) -> bool:
        envelope = Envelope(kind=body.kind, body=body.pack())
        return self.link.publish(topic, encode(envelope), qos=0 if isinstance(body, ChunkAck) else 1)

    def _control(self, delivery: Delivery) -> None:
        self.exchange.handle(self.peer, open_body(decode(delivery.payload, peer=self.peer), peer=self.peer))

    def _tick(self) -> None:
        while True:
            time.sleep(1.0)
            self.exchange.tick()

    def fetch(self, ref: BlobRef) -> float:
        """Fetch the blob from the peer, anew; return the seconds until it was whole, checked and synced."""
        self.store.delete(ref.digest)
        ended = threading.Event()
        outcomes: list[TransferOutcome] = []

        def done(outcome: TransferOutcome) -> None:
            outcomes.append(outcome)
            ended.set()

        self.exchange.fetch(self.peer, ref, done)
        if not ended.wait(PATIENCE_S):
            raise TimeoutError("the blob did not arrive")
        if outcomes[0].error is not None:
            raise outcomes[0].error
        return outcomes[0].seconds


def _ours(pipe: Connection, duties: Duties, *, is_device: bool, sends: bool) -> None:
    end = _Ours(duties, is_device=is_device)
    if sends:
        end.store.put_file(duties.file)
    pipe.send(None)
    obey(pipe, lambda: end.fetch(BlobRef(duties.digest, duties.size)))


def coordinator_sends(pipe: Connection, duties: Duties) -> None:
    """The coordinator's end of a download."""
    _ours(pipe, duties, is_device=False, sends=True)


def device_receives(pipe: Connection, duties: Duties) -> None:
    """The device's end of a download."""
    _ours(pipe, duties, is_device=True, sends=False)


def device_sends(pipe: Connection, duties: Duties) -> None:
    """The device's end of an upload."""
    _ours(pipe, duties, is_device=True, sends=True)


def coordinator_receives(pipe: Connection, duties: Duties) -> None:
    """The coordinator's end of an upload."""
    _ours(pipe, duties, is_device=False, sends=False)


# --- what both peers share -------------------------------------------------------------------------------------------


def _server_context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls.cert, tls.key)
    return context


def _client_context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@contextmanager
def _checked_file(duties: Duties, name: str) -> Iterator[Callable[[memoryview], None]]:
    """Take a download as ours is taken: written, hashed on the way, synced, compared with the digest."""
    path = duties.folder / name
    whole = hashlib.sha256()
    with path.open("wb", buffering=0) as stream:

        def take(data: memoryview) -> None:
            whole.update(data)
            stream.write(data)

        yield take
        os.fsync(stream.fileno())
    if whole.digest() != duties.digest:
        raise ValueError(f"{name}: the digest is wrong")


# --- a raw TLS socket: the limit -------------------------------------------------------------------------------------


def raw_sends(pipe: Connection, duties: Duties) -> None:
    """Send the file over each connection that is made."""
    context = _server_context(duties.tls)
    listener = socket.create_server(("127.0.0.1", 0))
    data = duties.file.read_bytes()

    def serve() -> None:
        while True:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as secure:
                for start in range(0, len(data), STEP):
                    secure.sendall(memoryview(data)[start : start + STEP])

    threading.Thread(target=serve, daemon=True).start()
    pipe.send(listener.getsockname()[1])
    obey(pipe, nothing)


def raw_receives(pipe: Connection, duties: Duties) -> None:
    """Receive it into memory and forget it: no file, no hash. Nothing over TLS in Python is faster."""
    context = _client_context(duties.tls)
    buffer = bytearray(STEP)

    def fetch() -> float:
        began = time.monotonic()
        with (
            socket.create_connection(("127.0.0.1", duties.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            left = duties.size
            while left:
                left -= secure.recv_into(buffer)
        return time.monotonic() - began

    pipe.send(None)
    obey(pipe, fetch)


# --- HTTPS: uvicorn, and Python's own client -------------------------------------------------------------------------

Event = MutableMapping[str, Any]


def https_sends(pipe: Connection, duties: Duties) -> None:
    """Serve the file over HTTPS, a megabyte at a time."""
    headers = [(b"content-length", str(duties.size).encode()), (b"content-type", b"application/octet-stream")]

    async def app(scope: Event, _: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with duties.file.open("rb", buffering=0) as stream:
            while data := stream.read(STEP):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, log_level="warning", ssl_certfile=duties.tls.cert, ssl_keyfile=duties.tls.key)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serve = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    serve.start()
    deadline = time.monotonic() + 30
    while not server.started:
        if not serve.is_alive() or time.monotonic() > deadline:
            raise TimeoutError("uvicorn did not start")
        time.sleep(0.01)
    pipe.send(listener.getsockname()[1])
    obey(pipe, nothing)


def https_receives(pipe: Connection, duties: Duties) -> None:
    """Download it to a file, checked and synced as ours is."""
    context = _client_context(duties.tls)
    buffer = bytearray(STEP)
    view = memoryview(buffer)

    def fetch() -> float:
        began = time.monotonic()
        connection = http.client.HTTPSConnection("127.0.0.1", duties.port, context=context, timeout=60)
        connection.request("GET", "/blob")
        with connection.getresponse() as answer, _checked_file(duties, "https") as take:
            while count := answer.readinto(buffer):
                take(view[:count])
        connection.close()
        return time.monotonic() - began

    pipe.send(None)
    obey(pipe, fetch)
