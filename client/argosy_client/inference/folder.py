"""The folder of one version of a model on the board, and which version of a name is in force.

    models/NAME/current.json          {"version": 7, "previous": 6}, written whole or not at all
    models/NAME/samples.npy           inputs that this board has seen, preprocessed; they never leave it
    models/NAME/7/manifest.json       canonical, as it was signed
    models/NAME/7/signature.json
    models/NAME/7/model.onnx
    models/NAME/7/golden.bin
    models/NAME/7/work/               what backends made of it, and which was chosen

Signatures are checked when a version arrives (`argosy_client.models`); here digests are, so that a card that went bad
is noticed before what it holds is run.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from argosy_client.inference.backend import Array
from argosy_common.artefact import Manifest
from argosy_common.artefact.golden import unpack_golden
from argosy_common.artefact.manifest import FORM_SUFFIX, Blob
from argosy_common.errors import ArtefactInvalid, ModelMissing
from argosy_common.files import private_folder, write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

CURRENT = "current.json"
MANIFEST, ONNX, GOLDEN = "manifest.json", "model.onnx", "golden.bin"
SAMPLES = "samples.npy"


@dataclass(frozen=True)
class Version:
    """A version that is here, whole."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Version:
        """Read a version's folder, and check that its files are those that the manifest names.

        Raises:
            ModelMissing: there is no such folder.
            ArtefactInvalid: a file is missing or broken.
        """
        try:
            manifest = Manifest.parse((path / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise ModelMissing(model=f"{path.parent.name}:{path.name}", path=path) from None
        except OSError as error:
            raise ArtefactInvalid(what=f"file {path / MANIFEST}", why=error.strerror or error) from None
        if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
            raise ArtefactInvalid(what=f"file {path / MANIFEST}", why=f"it is of {manifest.reference}")
        for file, blob in manifest.blobs.items():
            _check(path / file, blob)
        return cls(path, manifest)

    @property
    def onnx(self) -> Path:
        """The model's file."""
        return self.path / ONNX

    def form(self, backend: str) -> Path | None:
        """Return the model's file in the form of a backend; None where it comes as ONNX alone."""
        return self.path / f"{backend}{FORM_SUFFIX}" if backend in self.manifest.forms else None

    @property
    def work(self) -> Path:
        """Where backends keep what they made of it."""
        return private_folder(self.path / "work")

    @cached_property
    def golden(self) -> tuple[Array, Array]:
        """Golden inputs and outputs."""
        return unpack_golden((self.path / GOLDEN).read_bytes(), self.manifest)

    @property
    def samples(self) -> Array:
        """Inputs that the board has seen; an array of none where none fit this version."""
        shape, dtype = tuple(self.manifest.input.shape), np.dtype(self.manifest.input.dtype)
        try:
            found: Array = np.load(self.path.parent / SAMPLES, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            found = np.empty((0,))
        return found if found.shape[1:] == shape and found.dtype == dtype else np.empty((0, *shape), dtype)


def in_force(models: Path, name: str) -> Version:
    """Return the version of a name that is in force, or the one before it where that cannot be used.

    Raises:
        ModelMissing, ArtefactInvalid: there is none that can be used.
    """
    told = read_current(models / name)
    if told is None:
        raise ModelMissing(model=name, path=models / name / CURRENT)
    version, previous = told
    try:
        return Version.open(models / name / str(version))
    except (ModelMissing, ArtefactInvalid) as error:
        if previous is None:
            raise
        log.error("model.broken", model=f"{name}:{version}", why=error.message, instead=previous)
        return Version.open(models / name / str(previous))


def before(models: Path, name: str) -> Version:
    """Return the version that was in force before the one that is.

    Raises:
        ModelMissing, ArtefactInvalid: there is none that can be used.
    """
    told = read_current(models / name)
    if told is None or told[1] is None:
        raise ModelMissing(model=f"before the one in force of {name}", path=models / name)
    return Version.open(models / name / str(told[1]))


def read_current(folder: Path) -> tuple[int, int | None] | None:
    """Return the version in force and the one before it; None where nothing is, or nothing that can be read."""
    try:
        told = json.loads((folder / CURRENT).read_bytes())
        version, previous = told["version"], told["previous"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    good = isinstance(version, int) and (previous is None or isinstance(previous, int))
    return (version, previous) if good else None


def names(models: Path) -> list[str]:
    """Return the models of which a version is in force."""
    return sorted(path.parent.name for path in models.glob(f"*/{CURRENT}"))


def keep_samples(folder: Path, samples: Array) -> None:
    """Keep inputs that the board has seen.

    Raises:
        OSError: as the file system reports it.
    """
    stream = io.BytesIO()
    np.save(stream, samples, allow_pickle=False)
    write_atomic(folder / SAMPLES, stream.getvalue())


def _check(path: Path, blob: Blob) -> None:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise ArtefactInvalid(what=f"file {path}", why=error.strerror or error) from None
    if (digest, size) != (blob.digest, blob.size):
        raise ArtefactInvalid(what=f"file {path}", why="it is not what the manifest says: it was changed, or went bad")
