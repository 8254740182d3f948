"""The enrolment service over HTTP. Requests come from strangers: bounded in size and time before anything else.

Beside it, on the same port, devices download blobs (`argosy_server/downloads.py`) and have models run
(`argosy_server/offload.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from argosy_common.enrolment import CA_PATH, ENROL_PATH, MAX_BODY
from argosy_common.errors import (
    ApprovalPending,
    ArgosyError,
    BoardEnrolled,
    DeviceRefused,
    ProgrammingError,
    RenewalRefused,
    RequestExpired,
    RequestInvalid,
    TokenExhausted,
    TokenExpired,
    TokenMalformed,
    TokenUnknown,
    TooManyAttempts,
)
from argosy_common.logs import get_logger
from argosy_common.renewal import RENEW_PATH
from argosy_server.bounded_connection import STATE, BoundedConnection
from argosy_server.downloads import Downloads
from argosy_server.enrolment.renewal import RenewalService, Shown
from argosy_server.enrolment.service import EnrolmentService
from argosy_server.offload import Offload

log = get_logger(__name__)

BODY_TIMEOUT_S = 15.0

STATUS: dict[type[ArgosyError], int] = {
    TokenMalformed: 400,
    RequestInvalid: 400,
    TokenUnknown: 403,
    TokenExpired: 403,
    TokenExhausted: 403,
    DeviceRefused: 403,
    BoardEnrolled: 403,
    RequestExpired: 403,
    RenewalRefused: 403,
    ApprovalPending: 202,
    TooManyAttempts: 429,
}


def create_app(
    service: EnrolmentService,
    renewals: RenewalService,
    downloads: Downloads | None = None,
    offload: Offload | None = None,
) -> FastAPI:
    """Return the ASGI application; without `downloads` it serves no blobs, without `offload` it runs no models."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get(CA_PATH)
    def authority() -> PlainTextResponse:
        return PlainTextResponse(service.ca_pem, media_type="application/x-pem-file")

    @app.post(ENROL_PATH)
    async def enrol(request: Request) -> Response:
        return await _answer(request, lambda body: service.enrol(body, _source(request)))

    @app.get(f"{RENEW_PATH}/{{serial}}")
    async def standing(serial: str, request: Request) -> Response:
        return await _answer(request, lambda _: renewals.standing(serial, _source(request)))

    @app.post(RENEW_PATH)
    async def renew(request: Request) -> Response:
        shown = cast("BoundedConnection", request.scope["state"][STATE])
        seen = Shown(shown.device, shown.serial, shown.ends) if shown.ends is not None else None
        return await _answer(request, lambda body: renewals.renew(body, _source(request), seen))

    if downloads is not None:
        downloads.add_to(app)
    if offload is not None:
        offload.add_to(app)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        log.error("enrolment.bug", exc=error, path=request.url.path)
        return _refusal(ProgrammingError(what="the enrolment service failed"))

    return app


def _source(request: Request) -> str:
    return request.client.host if request.client else "unknown"


async def _answer(request: Request, decide: Callable[[bytes], BaseModel]) -> Response:
    """Have `decide`, on a thread, answer a request's body."""
    try:
        answer = await run_in_threadpool(decide, await _read(request))
    except ClientDisconnect:
        return Response(status_code=400)
    except ArgosyError as error:
        return _refusal(error)
    return JSONResponse(answer.model_dump())


async def _read(request: Request) -> bytes:
    """Return the body, or its beginning where it is too long or too slow: the service refuses that by its form."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY:
                    break
    except TimeoutError:
        log.debug("enrolment.slow_body", seconds=BODY_TIMEOUT_S, received=len(body))
    return bytes(body)


def _refusal(error: ArgosyError) -> Response:
    """Tell the device what it can mend; of our own troubles a stranger learns the name only."""
    status = STATUS.get(type(error))
    if status is None:
        log.error("enrolment.failed", exc=error)
        told: dict[str, object] = {"code": error.code, "message": "", "remedy": "", "facts": {}}
        return JSONResponse(told, status_code=503, headers={"Connection": "close"})
    return JSONResponse(error.to_wire(), status_code=status, headers={"Connection": "close"})
