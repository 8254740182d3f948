"""The manifest of a model's version: what a board must know to run it, and to refuse it.

Its canonical form (`Manifest.canonical`) is what is signed: JSON with sorted keys and no white space, so that the same
manifest has the same bytes wherever it is written.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from argosy_common.artefact.sketch import Sketch
from argosy_common.errors import ArtefactInvalid

FORM = 1
"""The form of manifests that this version writes and reads."""
MAX_BYTES = 256 * 1024
"""Of a manifest's canonical form; more is refused unread."""

_LATER = ("exit_confidence", "forms")
"""Fields that were added since: left out of the canonical form where they say nothing, so that what was signed before
has the bytes that it had."""

FORM_SUFFIX = ".form"

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, hexadecimal."""
Text = Annotated[str, Field(max_length=256)]
Dimension = Annotated[int, Field(ge=1, le=2**20)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Dtype = Literal["float32", "float16", "uint8", "int8", "int32", "int64"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Blob(_Part):
    """Bytes that are fetched apart, by their digest."""

    digest: Digest
    size: Annotated[int, Field(ge=1, le=2**34)]


class Tensor(_Part):
    """An input or an output of the model. The first dimension, the batch, is not in `shape`: it may be any."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    shape: Annotated[list[Dimension], Field(max_length=8)]
    dtype: Dtype = "float32"


Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Standardise(_Part):
    """x ← (x − mean) / deviation, channel by channel: the first dimension of the input's shape."""

    kind: Literal["standardise"] = "standardise"
    mean: Annotated[list[Finite], Field(min_length=1, max_length=4096)]
    deviation: Annotated[list[Deviation], Field(min_length=1, max_length=4096)]


class Image(_Part):
    """A picture, as JPEG, PNG or bytes of H × W × 3: scaled to the input's size, /255, then standardised by colour.

    The input's shape is 3 × H × W.
    """

    kind: Literal["image"] = "image"
    mean: Annotated[list[Finite], Field(min_length=3, max_length=3)] = [0.0, 0.0, 0.0]
    deviation: Annotated[list[Deviation], Field(min_length=3, max_length=3)] = [1.0, 1.0, 1.0]


class Golden(_Part):
    """Inputs, and the outputs that any backend must give for them; `argosy_common.artefact.golden` has the form."""

    blob: Blob
    count: Annotated[int, Field(ge=1, le=64)]
    tolerance: Annotated[float, Field(gt=0, le=1.0)] = 1e-3
    """Largest |difference| of an output that still passes, relative to the largest |output| of the golden ones."""


class Manifest(_Part):
    """One version of a model."""

    form: Literal[1] = 1
    name: Name
    version: Annotated[int, Field(ge=1, lt=2**53)]
    """Grows with each version of a name; a board refuses a lower one unless the coordinator signed a rollback to it."""
    parent: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    """The version that it was trained from, or replaces."""
    run: Annotated[int, Field(ge=1)] | None = None
    round: Annotated[int, Field(ge=0)] | None = None
    secure: bool = False
    codec: Text = ""
    metrics: Annotated[dict[Text, Finite], Field(max_length=64)] = {}
    created_at: Text
    """ISO 8601, UTC, by the coordinator's clock."""
    onnx: Blob
    input: Tensor
    output: Tensor
    exits: Annotated[list[Tensor], Field(max_length=8)] = []
    """Outputs of early exits, the earliest first; each has the shape of `output`."""
    exit_confidence: Annotated[float, Field(gt=0, le=1.0)] | None = None
    """How sure an exit must be for a board to take its answer and stop there; None: boards answer from the end only."""
    preprocessing: Annotated[Standardise | Image, Field(discriminator="kind")] | None = None
    labels: Annotated[list[Text], Field(max_length=65536)] = []
    """Names of the classes, where the output is one number a class."""
    golden: Golden
    seen: Sketch | None = None
    """What it saw where it was trained, to tell drift from."""
    backends: Annotated[list[Name], Field(max_length=32)] = []
    """Only these may run it; empty: any."""
    forms: Annotated[dict[Name, Blob], Field(max_length=8)] = {}
    """The same model as files of other runtimes, by the backend that takes them; they must answer as the ONNX file."""

    @model_validator(mode="after")
    def _holds_together(self) -> Manifest:
        if self.parent is not None and self.parent >= self.version:
            raise ValueError("parent: it must be a lower version")
        channels = self.input.shape[0] if self.input.shape else 0
        if self.preprocessing is not None and {len(self.preprocessing.mean), len(self.preprocessing.deviation)} != {
            channels
        }:
            raise ValueError(f"preprocessing: the input has {channels} channels, so mean and deviation need as many")
        if isinstance(self.preprocessing, Image) and (len(self.input.shape) != 3 or channels != 3):
            raise ValueError("preprocessing: a picture's input is 3 × height × width")
        if self.labels and (len(self.output.shape) != 1 or self.output.shape[0] != len(self.labels)):
            raise ValueError("labels: the output must be one number for each")
        if self.exit_confidence is not None and not self.exits:
            raise ValueError("exit_confidence: the model has no exits")
        return self

    @property
    def reference(self) -> str:
        """Return `name:version`, for people."""
        return f"{self.name}:{self.version}"

    @property
    def blobs(self) -> dict[str, Blob]:
        """Return the files that are fetched apart, by their names in a version's folder."""
        forms = {f"{name}{FORM_SUFFIX}": blob for name, blob in self.forms.items()}
        return {"model.onnx": self.onnx, "golden.bin": self.golden.blob, **forms}

    def canonical(self) -> bytes:
        """Return the bytes that are signed."""
        told = self.model_dump(mode="json")
        for name in _LATER:
            if told[name] in (None, {}):
                del told[name]
        return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest that came from outside.

        Raises:
            ArtefactInvalid: it is none, or not in canonical form.
        """
        if len(data) > MAX_BYTES:
            raise ArtefactInvalid(what="manifest", why=f"it is longer than {MAX_BYTES} bytes")
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:100]
            raise ArtefactInvalid(what="manifest", why=f"{where or 'the text'}: {first['msg'][:200]}") from None
        if manifest.canonical() != data:
            raise ArtefactInvalid(what="manifest", why="it is not in canonical form")
        return manifest
