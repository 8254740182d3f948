"""Models, or parts of them, run for devices over HTTPS, beside the blobs: `argosy-device plan` decides who asks.

    POST /v1/infer/{name}/{version}?from={tensor}   → 200 and the answer's bytes, or a named error
    POST /v1/infer                                  → 200; what came is counted and forgotten

Who asks is known by the client certificate. Admission comes before the body is read: so many at once, and of one device
so few. The form is in `argosy_common/offload.py`; what runs is a process apart (`models/remote_process.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from argosy_common.artefact import Manifest
from argosy_common.errors import (
    ArgosyError,
    CutToolsMissing,
    DeadlinePassed,
    InputInvalid,
    ModelBusy,
    ModelNotFound,
    OffloadRefused,
    OffloadUnavailable,
)
from argosy_common.logs import get_logger
from argosy_common.offload import DEADLINE, MAX_BODY, MAX_TENSOR, PATH, RUN, TensorForm, parse_deadline
from argosy_server.bounded_connection import STATE, BoundedConnection
from argosy_server.models.remote_host import RemoteHost

log = get_logger(__name__)

MAX_PER_DEVICE = 4
"""Requests of one device at once."""
STATUS: dict[type[ArgosyError], int] = {
    InputInvalid: 400,
    OffloadRefused: 403,
    ModelNotFound: 404,
    ModelBusy: 503,
    OffloadUnavailable: 503,
    CutToolsMissing: 503,
    DeadlinePassed: 504,
}
_OCTETS = "application/octet-stream"
_ALL = "every model"


class Versions(Protocol):
    """The registry, as far as this is concerned."""

    def signed(self, reference: str) -> tuple[Manifest, Path]:
        """Return the manifest of `name:version`, and the file of its model.

        Raises:
            ModelNotFound: there is none.
            SignatureInvalid: boards would not take it.
            ArgosyError: its file is not here.
        """
        ...


class Offload:
    """Runs models for devices. Everything but `start` and `stop` is for the event loop of the HTTPS server.

    Args:
        host: what runs them; None: it is switched off, and devices are told so.
        may_ask: of a device and its certificate's serial number, whether it is enrolled and not revoked. Called on a
            thread, and may block for a moment.
        queue: requests at once.
    """

    def __init__(
        self, host: RemoteHost | None, versions: Versions, may_ask: Callable[[str, str], bool], *, queue: int = 16
    ) -> None:
        self._host = host
        self._versions = versions
        self._may_ask = may_ask
        self._queue = queue
        self._inside: Counter[str] = Counter()

    def start(self) -> None:
        """Start what runs models."""
        if self._host is not None:
            self._host.start()

    def stop(self) -> None:
        """End it."""
        if self._host is not None:
            self._host.stop()

    def add_to(self, app: FastAPI) -> None:
        """Answer requests."""

        @app.post(PATH)
        async def measure(request: Request) -> Response:
            async def count(_device: str) -> Response:
                return JSONResponse({"bytes": await _counted(request)})

            return await self._answered(request, _ALL, count)

        @app.post(f"{PATH}/{{name}}/{{version}}")
        async def infer(name: str, version: str, request: Request) -> Response:
            reference = f"{name[:64]}:{version[:16]}"

            async def run(_device: str) -> Response:
                return await self._run(request, reference)

            return await self._answered(request, reference, run)

    async def _answered(self, request: Request, model: str, work: Callable[[str], Awaitable[Response]]) -> Response:
        """Judge who asks, admit, work; refusals by name, and the connection goes on only after an answer."""
        connection = cast("BoundedConnection", request.scope["state"][STATE])
        try:
            await self._require_allowed(connection)
            with self._admitted(connection.device, model):
                answer = await work(connection.device)
        except ClientDisconnect:
            return Response(status_code=400)
        except ArgosyError as error:
            log.info("offload.refused", device=connection.device, model=model, code=error.code, why=error.message)
            # what was not read of its body would be taken for the next request
            headers = {"Connection": "close", **({"Retry-After": "1"} if isinstance(error, ModelBusy) else {})}
            return JSONResponse(error.to_wire(), status_code=STATUS.get(type(error), 503), headers=headers)
        connection.go_on()
        return answer

    async def _require_allowed(self, connection: BoundedConnection) -> None:
        if self._host is None:
            raise OffloadRefused(why="it is switched off there")
        if not connection.device:
            raise OffloadRefused(why="no client certificate was shown")
        if not await run_in_threadpool(self._may_ask, connection.device, connection.serial):
            raise OffloadRefused(why="it is not enrolled, or was revoked")

    @contextmanager
    def _admitted(self, device: str, model: str) -> Iterator[None]:
        inside = self._inside.total()
        if inside >= self._queue or self._inside[device] >= MAX_PER_DEVICE:
            raise ModelBusy(model=model, waiting=inside)
        self._inside[device] += 1
        try:
            yield
        finally:
            self._inside[device] -= 1
            if not self._inside[device]:
                del self._inside[device]

    async def _run(self, request: Request, model: str) -> Response:
        tensor = request.query_params.get("from", "")
        if not 0 < len(tensor) <= MAX_TENSOR:
            raise InputInvalid(model=model, why="it does not say which tensor comes")
        limit_s = parse_deadline(request.headers.get(DEADLINE), model=model)
        deadline = time.monotonic() + limit_s  # of this machine: the process that runs it has the same clock
        try:
            async with asyncio.timeout(limit_s):
                manifest, path = await run_in_threadpool(self._versions.signed, model)
                form = TensorForm.parse(request.headers, model=model)
                body = await _read(request, model, form)
                told = await self._submitted(
                    {
                        "model": model,
                        "path": str(path),
                        "digest": manifest.onnx.digest,
                        "output": manifest.output.name,
                        "from": tensor,
                        "dtype": form.dtype,
                        "shape": list(form.shape),
                        "tensor": body,
                        "deadline": deadline,
                        "deadline_ms": limit_s * 1000.0,
                    }
                )
        except TimeoutError:
            raise DeadlinePassed(model=model, deadline_ms=round(limit_s * 1000.0)) from None
        headers = {**TensorForm(told["dtype"], tuple(told["shape"])).headers(), RUN: f"{told['run_ms']:.3f}"}
        return Response(told["tensor"], media_type=_OCTETS, headers=headers)

    async def _submitted(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self._host is None:
            raise OffloadRefused(why="it is switched off there")
        future = await run_in_threadpool(self._host.submit, asked)
        return await asyncio.wrap_future(future)


async def _counted(request: Request) -> int:
    """Return how long a body is, and keep nothing of it.

    Raises:
        InputInvalid: it is longer than `MAX_BODY`.
    """
    count = 0
    async for piece in request.stream():
        count += len(piece)
        if count > MAX_BODY:
            raise InputInvalid(model=_ALL, why=f"it is longer than {MAX_BODY} bytes")
    return count


async def _read(request: Request, model: str, form: TensorForm) -> bytes:
    """Return the body, which must be of this form.

    Raises:
        InputInvalid: it is not, or would be longer than `MAX_BODY`; then nothing is read.
    """
    if form.size > MAX_BODY:
        raise InputInvalid(model=model, why=f"it is longer than {MAX_BODY} bytes")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > form.size:
            break
    if len(body) != form.size:
        raise InputInvalid(model=model, why=f"its body has another length than {form.size} bytes")
    return bytes(body)
