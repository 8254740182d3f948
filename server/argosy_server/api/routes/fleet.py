"""Join tokens and devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from argosy_server.api.context import Caller, Context
from argosy_server.api.views import View, device_view, token_view
from argosy_server.settings import SiteName

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


@router.post("/tokens", status_code=201)
def create_token(wanted: NewToken, context: Context, caller: Caller) -> View:
    """Make a join token. The answer is the only place where its secret ever appears."""
    store = context.port.store
    site = wanted.site or str(context.port.health()["site"])
    row, text = store.tokens.create(site, wanted.uses, wanted.ttl_s, wanted.tags)
    store.audit.write(caller, "token.create", row.id, site=site, uses=wanted.uses, ttl_s=wanted.ttl_s)
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


@router.get("/devices")
def list_devices(context: Context) -> View:
    """Return all devices with their presence."""
    port = context.port
    return {"devices": [device_view(row, port.presence(row.device)) for row in port.store.devices.list()]}


@router.get("/devices/{key:path}")
def show_device(key: str, context: Context) -> View:
    """Return the device of that id, name or unambiguous beginning of an id."""
    row = context.port.store.devices.get(key)
    return device_view(row, context.port.presence(row.device))
