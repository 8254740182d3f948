"""The life of a deployment on the device, as data: states, what moves them, and what a restart does with each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from argosy_common.wire.bodies import ErrorPart


class State(StrEnum):
    """Where the deployment of a version stands."""

    FETCHING = "fetching"
    """It is being fetched and checked; the version before answers."""
    TRYING = "trying"
    """It is on disk, checked, and about to be loaded."""
    ACTIVE = "active"
    REFUSED = "refused"
    """It never answered a request here."""
    ROLLED_BACK = "rolled-back"
    """It was to answer, or did, and the version before took its place again."""


TRANSITIONS: dict[tuple[State, str], State] = {
    (State.FETCHING, "checked"): State.TRYING,
    (State.FETCHING, "refuse"): State.REFUSED,
    (State.TRYING, "loaded"): State.ACTIVE,
    (State.TRYING, "fail"): State.ROLLED_BACK,
    (State.ACTIVE, "fail"): State.ROLLED_BACK,
    (State.ACTIVE, "withdraw"): State.ROLLED_BACK,
}
"""A new deploy of the same model begins at `fetching`, whatever became of the one before."""

RESUME: dict[State, str] = {
    State.FETCHING: "waits: the coordinator sends it again",
    State.TRYING: "loads it, at most three times; then goes back",
    State.ACTIVE: "loads it; goes back if it cannot be used",
    State.REFUSED: "loads the version in force",
    State.ROLLED_BACK: "goes back, if a power cut came between; loads the version before",
}
"""What the daemon's next start does with what it finds."""


class Deployment(BaseModel):
    """What a device remembers of the last deployment of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rollout: Annotated[int, Field(ge=1)]
    version: Annotated[int, Field(ge=1)]
    state: Annotated[State, Field(strict=False)]
    error: ErrorPart | None = None
    attempts: Annotated[int, Field(ge=0)] = 0
    """How often a load of it was begun: a version that takes the board down each time is given up."""
    downward: bool = False
    """It came with a signed rollback: once it is loaded, the device forgets what it was told to leave."""
    floor: Annotated[int, Field(ge=0)] = 0
    """The highest version that was put out of force with none before it: a lower one needs a signed rollback still."""
    probation_s: Annotated[float, Field(ge=0)] = 0.0
    report_s: Annotated[float, Field(gt=0)] = 30.0
    max_errors: Annotated[float, Field(ge=0, le=1)] = 1.0

    def followed(self, event: str, error: ErrorPart | None = None) -> Deployment:
        """Follow one transition of the table; raises `KeyError` where there is none."""
        return self.model_copy(update={"state": TRANSITIONS[self.state, event], "error": error})
