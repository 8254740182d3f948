"""Join tokens and devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from argosy_server.api.context import Caller, Context
from argosy_server.api.views import View, device_view, token_view
from argosy_server.settings import SiteName
from argosy_server.store import DeviceRow, DeviceState

router = APIRouter()

Short = Annotated[str, Field(min_length=1, max_length=128)]


class NewToken(BaseModel):
    """What `POST /v1/tokens` takes."""

    model_config = ConfigDict(extra="forbid")

    site: SiteName | None = None
    """The coordinator's own where it is absent."""
    uses: Annotated[int, Field(ge=1, le=100_000)] = 1
    ttl_s: Annotated[int, Field(ge=1, le=365 * 86400)] = 3600
    tags: Annotated[list[Short], Field(max_length=32)] = []
    approve: bool = True
    """Let its devices in without asking an operator about each."""


class NewName(BaseModel):
    """What `POST /v1/devices/{key}/rename` takes."""

    model_config = ConfigDict(extra="forbid")

    name: Short


class TagChanges(BaseModel):
    """What `POST /v1/devices/{key}/tag` takes."""

    model_config = ConfigDict(extra="forbid")

    add: Annotated[list[Short], Field(max_length=32)] = []
    remove: Annotated[list[Short], Field(max_length=32)] = []


@router.post("/tokens", status_code=201)
def create_token(wanted: NewToken, context: Context, caller: Caller) -> View:
    """Make a join token. The answer is the only place where its secret ever appears."""
    store = context.port.store
    site = wanted.site or str(context.port.health()["site"])
    row, text = store.tokens.create(site, wanted.uses, wanted.ttl_s, wanted.tags, approve=wanted.approve)
    details = {"site": site, "uses": wanted.uses, "ttl_s": wanted.ttl_s, "approve": wanted.approve}
    store.audit.write(caller, "token.create", row.id, **details)
    url, pin = context.port.enrolment_endpoint()
    return {**token_view(row), "token": text, "url": url, "pin": pin}


@router.get("/tokens")
def list_tokens(context: Context) -> View:
    """Return all join tokens, without their secrets."""
    return {"tokens": [token_view(row) for row in context.port.store.tokens.list()]}


@router.post("/tokens/{token}/revoke")
def revoke_token(token: str, context: Context, caller: Caller) -> View:
    """End a token's time now; devices that joined with it stay."""
    store = context.port.store
    row = store.tokens.revoke(token)
    store.audit.write(caller, "token.revoke", row.id)
    return token_view(row)


def _device(row: DeviceRow, context: Context) -> View:
    return device_view(row, context.port.presence(row.device), _drift(context).get(row.device, {}))


def _drift(context: Context) -> dict[str, dict[str, float]]:
    """Return how far what each device's models see is from what they were trained on: by device, by model."""
    found: dict[str, dict[str, float]] = {}
    for drift in context.port.rollouts.drifts():
        for device, distance in drift.by_device.items():
            found.setdefault(device, {})[drift.model] = distance
    return found


@router.get("/devices")
def list_devices(context: Context) -> View:
    """Return all devices with their presence."""
    drift = _drift(context)
    rows = context.port.store.devices.list()
    return {"devices": [device_view(row, context.port.presence(row.device), drift.get(row.device, {})) for row in rows]}


@router.get("/devices/{key:path}")
def show_device(key: str, context: Context) -> View:
    """Return the device of that id, name or unambiguous beginning of an id."""
    row = context.port.store.devices.get(key)
    return _device(row, context)


@router.post("/devices/{key:path}/approve")
def approve_device(key: str, context: Context, caller: Caller) -> View:
    """Let a device in that waits, or one that was rejected or revoked."""
    row = context.port.store.devices.decide(key, "approve", caller)
    context.port.readmit(row.device)
    return _device(row, context)


@router.post("/devices/{key:path}/reject")
def reject_device(key: str, context: Context, caller: Caller) -> View:
    """Turn a device away that waits; nothing was issued to it."""
    row = context.port.store.devices.decide(key, "reject", caller)
    return _device(row, context)


@router.post("/devices/{key:path}/revoke")
def revoke_device(key: str, context: Context, caller: Caller) -> View:
    """Shut a device out, at once and for good. Once more for one that is out already: its session is ended again."""
    store = context.port.store
    row = store.devices.get(key)
    if row.state is not DeviceState.REVOKED:
        row = store.devices.decide(row.device, "revoke", caller)
    done = context.port.shut_out(row.device)
    return {**_device(row, context), **done}


@router.post("/devices/{key:path}/rename")
def rename_device(key: str, wanted: NewName, context: Context, caller: Caller) -> View:
    """Give a device a name that stays."""
    row = context.port.store.devices.rename(key, wanted.name, caller)
    return _device(row, context)


@router.post("/devices/{key:path}/tag")
def tag_device(key: str, wanted: TagChanges, context: Context, caller: Caller) -> View:
    """Add and remove tags."""
    row = context.port.store.devices.tag(key, caller, add=wanted.add, remove=wanted.remove)
    return _device(row, context)
