"""What is in a backup, and the names that its files may have."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"
DATABASE = "coordinator.db"
SETTINGS = "coordinator.toml"
TREES = ("ca", "fleet", "runs", "blobs")
"""Folders of the state directory."""
MAX_MANIFEST = 256 * 1024**2
"""Bytes; some million files."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Part):
    """A file as it was written."""

    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Digest


class Manifest(_Part):
    """All of a backup, by name."""

    format: Literal[1] = 1
    made_at: datetime
    version: str
    """Of the Argosy that made it."""
    site: str
    files: dict[str, Entry]
    missing: list[Digest] = []
    """Blobs that the database refers to, and that were not there, or damaged."""
    skipped: list[str] = []
    """What is in `runs/` and is neither a file nor a folder."""

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())
