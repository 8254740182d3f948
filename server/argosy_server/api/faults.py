"""How a named error becomes an HTTP answer: `{"code", "message", "remedy", "facts"}` and a fitting status."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from argosy_common.errors import (
    AdminRequestInvalid,
    AppBundleInvalid,
    AppDirectoryInvalid,
    AppImportFailed,
    ArgosyError,
    BlobUnknown,
    DeviceNotFound,
    DiskFull,
    Fault,
    FleetListInvalid,
    FleetListOutdated,
    NameUnusable,
    ProgrammingError,
    RunConfigInvalid,
    RunNotFound,
    StorageFailed,
    TokenUnknown,
)
from argosy_common.logs import get_logger

log = get_logger(__name__)

STATUS_OF: dict[type[ArgosyError], int] = {
    RunNotFound: 404,
    DeviceNotFound: 404,
    BlobUnknown: 404,
    NameUnusable: 422,
    TokenUnknown: 404,
    AdminRequestInvalid: 422,
    AppBundleInvalid: 422,
    AppDirectoryInvalid: 422,
    AppImportFailed: 422,
    RunConfigInvalid: 422,
    FleetListInvalid: 422,
    FleetListOutdated: 409,
    DiskFull: 507,
    StorageFailed: 500,
}
STATUS_OF_FAULT = {Fault.OPERATOR: 409, Fault.PEER: 502, Fault.NETWORK: 503, Fault.BUG: 500}


def status_of(error: ArgosyError) -> int:
    """Return the HTTP status that tells a machine what `code` tells a person."""
    return STATUS_OF.get(type(error), STATUS_OF_FAULT[error.fault])


def answer_errors(app: FastAPI) -> None:
    """Make `app` answer every failure in the one form, also those of FastAPI itself and our own bugs."""

    def named(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ArgosyError)  # noqa: S101  (Starlette calls this for ArgosyError only)
        log.info("api.refused", path=request.url.path, code=error.code)
        return _answer(error)

    def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101  (as above)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path"})
        return _answer(AdminRequestInvalid(why=f"{where}: {first['msg']}" if where else str(first["msg"])))

    def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101  (as above)
        why = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(AdminRequestInvalid(why=why).to_wire(), status_code=error.status_code)

    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("api.bug", exc=error, path=request.url.path)
        answer = _answer(ProgrammingError(what=f"{type(error).__name__}: {error}"))
        answer.headers["connection"] = "close"  # uvicorn closes it after a bug in any case; so the caller knows
        return answer

    app.add_exception_handler(ArgosyError, named)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def _answer(error: ArgosyError) -> JSONResponse:
    return JSONResponse(error.to_wire(), status_code=status_of(error))
