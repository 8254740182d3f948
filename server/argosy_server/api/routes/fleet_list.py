"""The operator's signed fleet list."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from argosy_common.errors import AdminRequestInvalid
from argosy_common.secagg.fleet import MAX_BYTES
from argosy_server.api.context import ApiContext, Caller, Context
from argosy_server.api.views import View, fleet_list_view

router = APIRouter()


@router.get("/fleet-list")
def show_fleet_list(context: Context) -> View:
    """Return the list in force, if there is one, and all devices with their identities."""
    return _view(context)


@router.put("/fleet-list", status_code=201)
async def install_fleet_list(request: Request, context: Context, caller: Caller) -> View:
    """Install the next list, as `argosy fleet sign` wrote it; return what `show_fleet_list` does."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            raise AdminRequestInvalid(why=f"a fleet list may have at most {MAX_BYTES} bytes")
    return await run_in_threadpool(_install, bytes(body), context, caller)


def _install(data: bytes, context: ApiContext, caller: str) -> View:
    fleet = context.port.fleet_lists.install(data).fleet
    detail = {"devices": len(fleet.members), "digest": fleet.digest.hex()}
    context.port.store.audit.write(caller, "fleet.install", f"version {fleet.version}", **detail)
    return _view(context)


def _view(context: ApiContext) -> View:
    return fleet_list_view(context.port.fleet_lists.installed(), context.port.store.devices.list())
