"""Rollouts of models. `{key}` is a rollout's number, or a model's name for its latest rollout."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from argosy_server.api.context import Caller, Context
from argosy_server.api.views import View
from argosy_server.models.rollout import Ring

router = APIRouter()

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Reference = Annotated[str, Field(min_length=1, max_length=128)]


class NewRing(BaseModel):
    """A ring; see `argosy_server.models.rollout.Ring`."""

    model_config = ConfigDict(extra="forbid")

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    tag: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    hold_s: Annotated[float, Field(ge=0, le=365 * 86400, allow_inf_nan=False)] = 600.0
    least_active: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.9
    max_errors: Share | None = 0.02
    max_p95_ms: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.share is None) == (self.tag is None):
            raise ValueError("a ring has either a share or a tag")
        return self


class NewRollout(BaseModel):
    """What `POST /v1/rollouts` takes."""

    model_config = ConfigDict(extra="forbid")

    model: Reference
    """`name:version`, or `name` for its newest version."""
    rings: Annotated[list[NewRing], Field(min_length=1, max_length=32)]


class Rollback(BaseModel):
    """What `POST /v1/rollouts/rollback` takes."""

    model_config = ConfigDict(extra="forbid")

    model: Reference
    """`name` for the version before, or `name:version`."""


@router.get("/rollouts")
def list_rollouts(context: Context) -> View:
    """Return all rollouts, the oldest first."""
    return {"rollouts": context.port.rollouts.rows()}


@router.post("/rollouts", status_code=201)
def start_rollout(wanted: NewRollout, context: Context, caller: Caller) -> View:
    """Begin to roll a version out."""
    rings = [Ring(**ring.model_dump()) for ring in wanted.rings]
    number = context.port.rollouts.start(wanted.model, rings, caller)
    return context.port.rollouts.show(str(number))


@router.post("/rollouts/rollback", status_code=201)
def roll_back(wanted: Rollback, context: Context, caller: Caller) -> View:
    """Have the boards go back; return the rollout that does it."""
    return context.port.rollouts.show(str(context.port.rollouts.roll_back(wanted.model, caller)))


@router.get("/rollouts/{key}")
def show_rollout(key: str, context: Context) -> View:
    """Return a rollout with its devices."""
    return context.port.rollouts.show(key)


@router.post("/rollouts/{key}/{verb}")
def follow_rollout(key: str, verb: Literal["pause", "resume", "stop"], context: Context, caller: Caller) -> View:
    """Pause, resume, or stop: the last takes the version back everywhere."""
    return context.port.rollouts.show(str(context.port.rollouts.follow(key, verb, caller)))
