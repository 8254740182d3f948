"""What a model has seen, as counts: the form in messages and files. `argosy_common.drift` draws and compares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

BINS = 24
DRIFTING = 0.25
"""From this distance of two sketches on, the model should be looked at."""
MAX_CHANNELS = 16
"""Channels that are told apart; of more, each sixteenth part is one."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
Row = Annotated[list[Count], Field(min_length=BINS, max_length=BINS)]


class Sketch(BaseModel):
    """Counts by bin."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    inputs: Count
    """How many inputs it has seen."""
    channels: Annotated[list[Row], Field(min_length=1, max_length=MAX_CHANNELS)]
    confidence: Row
