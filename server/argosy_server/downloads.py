"""Blobs over HTTPS, for devices that reach the coordinator's own port: the same blobs and the same rights as over MQTT.

    GET /v1/blobs/{digest}   Range: bytes=FIRST-LAST   → 206, or 200 without a range, or a named error

Who asks is known by the client certificate. What may be had is asked at the start and again every few seconds. A reader
that takes less than `PIECE` bytes in `CONNECTION_LIFE_S` is cut off; it goes on where it was, with the next range.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from argosy_common.blobs import BlobStore
from argosy_common.blobs.ranges import BLOBS_PATH, DIGEST, content_range, parse_range
from argosy_common.blobs.store import storage_errors
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, BlobUnknown, DownloadRefused
from argosy_common.logs import get_logger
from argosy_server.bounded_connection import STATE, BoundedConnection

log = get_logger(__name__)

PIECE = 128 * 1024
"""Bytes that are read and sent at once."""
MAX_DOWNLOADS = 100
"""Downloads at once: half of the port's connections, so that boards can always join."""
MAX_PER_DEVICE = 2
"""Downloads of one device; one more cuts the oldest, which is mostly one that the device has lost and we have not."""
ASK_AGAIN_S = 5.0
"""How often a download that goes on is asked whether it still may."""
_READERS = 8
MayDownload = Callable[[str, str, bytes], bool]
"""Of a device, its certificate's serial number (hexadecimal), and a digest."""
_TYPE = "application/octet-stream"


class Downloads:
    """Serves the blobs of a store. Everything but `end` and `close` runs on the event loop of the HTTPS server.

    Args:
        blobs: the store.
        may_download: whether a device may have a blob now. Called on a thread, and may block for a moment.
            TLS looks at no revocation list here, so the certificate's serial number is asked about too.
        clock: tells when to ask again.
    """

    def __init__(self, blobs: BlobStore, may_download: MayDownload, *, clock: Clock) -> None:
        self.blobs = blobs
        self.clock = clock
        self._may_download = may_download
        self._workers = ThreadPoolExecutor(_READERS, thread_name_prefix="downloads")
        self._under_way: dict[str, list[BoundedConnection]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = False

    def add_to(self, app: FastAPI) -> None:
        """Answer requests for blobs."""

        @app.api_route(f"{BLOBS_PATH}/{{name}}", methods=["GET", "HEAD"])
        async def blob(name: str, request: Request) -> Response:
            connection = cast("BoundedConnection", request.scope["state"][STATE])
            try:
                return await self._answer(connection, name, request.headers.get("range"), request.method)
            except _Refusal as refusal:
                return self.refuse(connection.device, name, refusal)
            except ArgosyError as error:
                return self.refuse(connection.device, name, _Refusal(503, error))

    def end(self) -> None:
        """Cut what is under way, and whatever begins after this."""
        self._ending = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and every connection with it
                self._loop.call_soon_threadsafe(self._cut_all)

    def _cut_all(self) -> None:
        for mine in self._under_way.values():
            for connection in mine:
                connection.cut()

    def close(self) -> None:
        """End the threads that read."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def allows(self, shown: BoundedConnection, digest: bytes) -> bool:
        """Tell whether who is at the other end may have the blob."""
        return await asyncio.wrap_future(self._workers.submit(self._may_download, shown.device, shown.serial, digest))

    def read(self, handle: int, length: int, offset: int) -> Future[bytes]:
        """Read from an open blob, on a thread."""
        return self._workers.submit(os.pread, handle, length, offset)

    def begun(self, connection: BoundedConnection) -> None:
        """Count a download."""
        mine = self._under_way.setdefault(connection.device, [])
        mine.append(connection)
        self._loop = connection.loop
        if self._ending:
            connection.cut()
        elif len(mine) > MAX_PER_DEVICE:
            log.info("downloads.oldest_cut", device=connection.device)
            mine[0].cut()

    def ended(self, connection: BoundedConnection) -> None:
        """Count it no longer."""
        mine = self._under_way[connection.device]
        mine.remove(connection)
        if not mine:
            del self._under_way[connection.device]

    def refuse(self, device: str, name: str, refusal: _Refusal) -> Response:
        """Tell the device by name why it gets nothing."""
        error = refusal.error
        log.warning("downloads.refused", device=device, digest=name[:64], code=error.code, why=error.message)
        headers = {"Connection": "close", **refusal.headers}
        return JSONResponse(error.to_wire(), status_code=refusal.status, headers=headers)

    async def _answer(self, connection: BoundedConnection, name: str, wanted: str | None, method: str) -> Response:
        """Judge a request, in the order of docs/protocol.md, "By HTTPS"."""
        if not connection.device:
            raise _refusal(403, name, "no client certificate was shown")
        if DIGEST.match(name) is None:
            raise _refusal(400, name, "a blob is named by 64 lower-case hexadecimal digits")
        digest = bytes.fromhex(name)
        if not await self.allows(connection, digest):
            raise _refusal(403, name, "no instruction of this device refers to it")
        try:
            size = self.blobs.size(digest)
        except BlobUnknown as error:
            raise _Refusal(404, error) from None
        partly = wanted is not None and wanted.strip().startswith("bytes")  # other units are to be ignored: RFC 9110
        try:
            start, end = parse_range(wanted or "", size) if partly else (0, size)
        except ValueError as error:
            why = f"its Range header is no use: {error}"
            raise _refusal(416, name, why, {"Content-Range": f"bytes */{size}"}) from None
        if sum(map(len, self._under_way.values())) >= MAX_DOWNLOADS and connection.device not in self._under_way:
            raise _refusal(503, name, "too many downloads at once", {"Retry-After": "2"})
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
        if partly:
            headers["Content-Range"] = content_range(start, end, size)
        status = 206 if partly else 200
        if method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=_TYPE)
        return BlobResponse(self, connection, digest=digest, span=(start, end), status=status, headers=headers)


class _Refusal(Exception):
    """Why a request gets no blob, and how that is said in HTTP."""

    def __init__(self, status: int, error: ArgosyError, headers: dict[str, str] | None = None) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.headers = headers or {}


def _refusal(status: int, name: str, why: str, headers: dict[str, str] | None = None) -> _Refusal:
    return _Refusal(status, DownloadRefused(digest=name[:64], why=why), headers)


class BlobResponse(Response):
    """Bytes `span` of a blob, in pieces, as fast as the device takes them."""

    def __init__(
        self,
        downloads: Downloads,
        connection: BoundedConnection,
        *,
        digest: bytes,
        span: tuple[int, int],
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(status_code=status, headers=headers, media_type=_TYPE)
        self._downloads = downloads
        self._connection = connection
        self._digest = digest
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        downloads, connection = self._downloads, self._connection
        try:
            path = downloads.blobs.path(self._digest)
            with storage_errors(path):
                handle = os.open(path, os.O_RDONLY)
        except ArgosyError as error:
            refused = downloads.refuse(connection.device, self._digest.hex(), _Refusal(503, error))
            await refused(scope, receive, send)
            return
        downloads.begun(connection)
        reading: Future[bytes] | None = None
        began = downloads.clock.monotonic()
        asked_at, (at, end) = began, self._span
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while at < end and not connection.gone:
                if downloads.clock.monotonic() - asked_at >= ASK_AGAIN_S:
                    if not await downloads.allows(connection, self._digest):
                        break
                    asked_at = downloads.clock.monotonic()
                reading = downloads.read(handle, min(PIECE, end - at), at)
                piece = await asyncio.wrap_future(reading)
                if not piece:
                    log.error("downloads.file_cut_short", path=path)
                    break
                await send({"type": "http.response.body", "body": piece, "more_body": at + len(piece) < end})
                at += len(piece)
                connection.go_on()
            if at < end:
                connection.cut()
                while (await receive())["type"] != "http.disconnect":
                    pass  # so that the server knows that nothing more will come
        finally:
            # the handle's number may be given to another file as soon as it is closed: not under a reader's hands
            if reading is None:
                os.close(handle)
            else:
                reading.add_done_callback(lambda _done: os.close(handle))
            downloads.ended(connection)
            seconds = round(downloads.clock.monotonic() - began, 3)
            log.debug(
                "downloads.served",
                device=connection.device,
                digest=self._digest.hex(),
                start=self._span[0],
                bytes=at - self._span[0],
                seconds=seconds,
                whole=at == end,
            )
