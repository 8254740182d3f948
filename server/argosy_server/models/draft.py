"""A model that was exported and checked, and has neither a number nor a signature yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_common.artefact.manifest import Blob, Golden, Image, Manifest, Standardise, Tensor
from argosy_common.artefact.sketch import MAX_CHANNELS, Sketch
from argosy_common.errors import ArtefactInvalid
from argosy_server.models.settings import first_fault

_MOST_METRICS = 64


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as the coordinator knows it itself."""

    run: int | None = None
    round: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    codec: str = ""
    secure: bool = False
    parent: int | None = None
    """The version that it comes from; None: the one before."""


class Draft(BaseModel):
    """What whoever exported a model says of it. The daemon does not take it at its word: `manifest` checks it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    onnx: Blob
    golden: Golden
    input: Tensor
    output: Tensor
    exits: list[Tensor] = []
    exit_confidence: float | None = None
    preprocessing: Annotated[Standardise | Image, Field(discriminator="kind")] | None = None
    labels: list[str] = []
    backends: list[str] = []
    forms: dict[str, Blob] = {}
    seen: Sketch | None = None

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """Return the draft that `to_wire` wrote, perhaps in another process.

        Raises:
            ArtefactInvalid: it is none.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ArtefactInvalid(what="draft", why=first_fault(error)) from None

    def to_wire(self) -> dict[str, Any]:
        """Return the draft as plain data."""
        return self.model_dump(mode="json")

    @property
    def blobs(self) -> list[Blob]:
        """Return all its files."""
        return [self.onnx, self.golden.blob, *self.forms.values()]

    def with_seen(self, seen: Sketch | None) -> Draft:
        """Return the draft with what devices trained on, where they said so and it is of inputs such as these."""
        rows = max(1, min(self.input.shape[0] if self.input.shape else 1, MAX_CHANNELS))
        if seen is None or len(seen.channels) != rows:
            return self
        return self.model_copy(update={"seen": seen})

    def manifest(
        self, name: str, version: int, *, at: datetime, parent: int | None = None, origin: Origin | None = None
    ) -> Manifest:
        """Return the manifest of this model as a version of `name`.

        Raises:
            ArtefactInvalid: what the draft says does not hold together.
        """
        origin = origin or Origin()
        metrics = dict(list(origin.metrics.items())[:_MOST_METRICS])
        try:
            return Manifest(
                name=name,
                version=version,
                parent=parent,
                run=origin.run,
                round=origin.round,
                secure=origin.secure,
                codec=origin.codec,
                metrics=metrics,
                created_at=at.isoformat(timespec="seconds"),
                **{part: getattr(self, part) for part in type(self).model_fields},
            )
        except ValidationError as error:
            raise ArtefactInvalid(what="manifest", why=first_fault(error)) from None
