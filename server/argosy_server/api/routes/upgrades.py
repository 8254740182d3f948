"""Upgrades of the devices' own packages. `{key}` is an upgrade's number, or `argosy-device` for the latest."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from argosy_common.wire.bodies import PackageVersion
from argosy_server.api.context import Caller, Context
from argosy_server.api.routes.rollouts import NewRing
from argosy_server.api.views import View
from argosy_server.models.rollout import Ring

router = APIRouter()


class NewUpgrade(BaseModel):
    """What `POST /v1/upgrades` takes."""

    model_config = ConfigDict(extra="forbid")

    version: PackageVersion
    rings: Annotated[list[NewRing], Field(min_length=1, max_length=32)]


@router.get("/upgrades")
def list_upgrades(context: Context) -> View:
    """Return all upgrades, the oldest first."""
    return {"upgrades": context.port.upgrades.rows()}


@router.post("/upgrades", status_code=201)
def start_upgrade(wanted: NewUpgrade, context: Context, caller: Caller) -> View:
    """Begin to upgrade the devices."""
    rings = [Ring(**ring.model_dump()) for ring in wanted.rings]
    number = context.port.upgrades.start(wanted.version, rings, caller)
    return context.port.upgrades.show(str(number))


@router.get("/upgrades/{key}")
def show_upgrade(key: str, context: Context) -> View:
    """Return an upgrade with its devices."""
    return context.port.upgrades.show(key)


@router.post("/upgrades/{key}/{verb}")
def follow_upgrade(key: str, verb: Literal["pause", "resume", "stop"], context: Context, caller: Caller) -> View:
    """Pause, resume, or stop: the last has every device go back to what it had."""
    return context.port.upgrades.show(str(context.port.upgrades.follow(key, verb, caller)))
