"""What an app says of its model: `[tool.argosy.model]` in its pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_common.artefact.manifest import Dimension, Dtype, Image, Name, Standardise, Text
from argosy_common.bundle import AppManifest
from argosy_common.errors import ModelSettingsInvalid

TIME_LIMIT_S = 300.0
"""How long an app's hook may take, unless the app asks for more."""

Component = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", max_length=256)]
"""`module:attribute` in the app."""


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=lambda name: name.replace("_", "-")
    )


class TensorSettings(_Table):
    """What an input or output is to be; what is left out is read from the ONNX graph."""

    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    shape: Annotated[list[Dimension], Field(max_length=8)] | None = None
    """Without the batch."""
    dtype: Dtype | None = None


class Description(_Table):
    """What an ONNX file does not say of itself, and what it is expected to say."""

    labels: Annotated[list[Text], Field(max_length=65536)] = []
    input: TensorSettings = TensorSettings()
    output: TensorSettings = TensorSettings()
    exits: Annotated[list[str], Field(max_length=8)] = []
    """Names of the outputs of early exits, the earliest first."""
    exit_confidence: Annotated[float, Field(gt=0, le=1.0)] | None = None
    """How sure an exit must be for a board to stop there; None: boards do not use the exits."""
    preprocessing: Annotated[Standardise | Image, Field(discriminator="kind")] | None = None
    backends: Annotated[list[Name], Field(max_length=32)] = []
    """Only these may run it; empty: any."""
    tolerance: Annotated[float, Field(gt=0, le=1.0)] = 1e-3
    """How far a backend's outputs may be from the golden ones, relative to the largest of these."""


class ModelSettings(Description):
    """How an app's final arrays become a model."""

    name: Name
    """By default the app's."""
    export: Component
    """`(arrays: ArrayRecord) -> bytes`, or with the run's configuration as a second parameter: the ONNX file."""
    samples: Component | None = None
    """`() -> arrays`, or with the run's configuration: some inputs for the golden vectors; None: none to be had."""
    forms: Annotated[dict[Name, Component], Field(max_length=8)] = {}
    """By backend, `(arrays) -> bytes`, or with the run's configuration: the same model as a file of that runtime."""
    time_limit_s: Annotated[float, Field(gt=0, le=86400)] = TIME_LIMIT_S

    @classmethod
    def of_app(cls, app: AppManifest) -> Self | None:
        """Return what an app's pyproject.toml says; None where it says nothing of a model.

        Raises:
            ModelSettingsInvalid: a key that is not known, or a value of another form.
        """
        table = app.argosy.get("model")
        if table is None:
            return None
        if not isinstance(table, Mapping):
            raise ModelSettingsInvalid(why="it is not a table")
        return cls.from_wire({"name": app.name, **table})

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """Return the settings that `to_wire` wrote, perhaps in another process.

        Raises:
            ModelSettingsInvalid: they are not.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ModelSettingsInvalid(why=first_fault(error)) from None

    def to_wire(self) -> dict[str, Any]:
        """Return the settings as plain data, in the form of the table."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def first_fault(error: ValidationError) -> str:
    """Return in words what pydantic found first."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    return f"{where}: {first['msg'][:200]}" if where else str(first["msg"][:200])
