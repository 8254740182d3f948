"""The operator's signed fleet list, and the operator's word on attempts at secure rounds that nobody can decide."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from argosy_common.errors import AdminRequestInvalid
from argosy_common.secagg.fleet import MAX_BYTES
from argosy_common.secagg.override import MOST_BYTES
from argosy_server.api.context import ApiContext, Caller, Context
from argosy_server.api.views import View, fleet_list_view, undecided_view
from argosy_server.store import RunStatus

router = APIRouter()


@router.get("/fleet-list")
def show_fleet_list(context: Context) -> View:
    """Return the list in force, if there is one, and all devices with their identities."""
    return _view(context)


@router.put("/fleet-list", status_code=201)
async def install_fleet_list(request: Request, context: Context, caller: Caller) -> View:
    """Install the next list, as `argosy fleet sign` wrote it; return what `show_fleet_list` does."""
    return await run_in_threadpool(_install, await _body(request, MAX_BYTES, "a fleet list"), context, caller)


@router.get("/fleet-list/undecided")
def show_undecided(context: Context) -> View:
    """Return the attempts at secure rounds of which nothing shows how they ended, and the operator's key, if any."""
    runs = [row for row in context.port.store.runs.list() if row.status is RunStatus.RUNNING]
    begun = [row.started_at for row in runs if row.options.get("secure") and row.started_at is not None]
    return undecided_view(context.port.fleet_lists.undecided(), context.port.fleet_lists.installed(), begun)


@router.put("/fleet-list/override", status_code=201)
async def install_override(request: Request, context: Context, caller: Caller) -> View:
    """Install an override, as `argosy fleet override` wrote it; return the attempt that it is of."""
    return await run_in_threadpool(_override, await _body(request, MOST_BYTES, "an override"), context, caller)


async def _body(request: Request, most: int, what: str) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise AdminRequestInvalid(why=f"{what} may have at most {most} bytes")
    return bytes(body)


def _override(data: bytes, context: ApiContext, caller: str) -> View:
    attempt = context.port.fleet_lists.override(data).attempt
    sid, devices = attempt.sid.hex(), len(attempt.members)
    context.port.store.audit.write(caller, "fleet.override", f"attempt {sid[:16]}", devices=devices, sid=sid)
    return {"sid": sid, "devices": devices}


def _install(data: bytes, context: ApiContext, caller: str) -> View:
    fleet = context.port.fleet_lists.install(data).fleet
    detail = {"devices": len(fleet.members), "digest": fleet.digest.hex()}
    context.port.store.audit.write(caller, "fleet.install", f"version {fleet.version}", **detail)
    return _view(context)


def _view(context: ApiContext) -> View:
    return fleet_list_view(context.port.fleet_lists.installed(), context.port.store.devices.list())
