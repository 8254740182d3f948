"""Models on the device's disk.

    models/<name>/<version>/    manifest.json (the signed bytes), signature.json, model.onnx, golden.bin
    models/<name>/current.json  {"version": N, "previous": M or null}: which of them is in force
    models/<name>/deployment.json  what the device remembers of the last deployment

A version's folder is whole or absent: it is written under another name and renamed. `current.json` is replaced at once,
and names a folder that is whole. Folders are renamed before they are emptied. So a power cut leaves the old or the new
state, and at most a leftover whose name begins with a dot, which `tidy` removes. Cut anywhere, a version that was
in force is in force, or its successor is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from argosy_client.models.deployment import Deployment
from argosy_common.artefact.manifest import MAX_BYTES, Blob, Manifest
from argosy_common.artefact.signature import Purpose, Signature, verify
from argosy_common.blobs.store import COPY_STEP, storage_errors
from argosy_common.errors import ArtefactInvalid, SignatureInvalid
from argosy_common.files import PRIVATE_FILE, private_folder, sync_folder, write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
MODEL = "model.onnx"
GOLDEN = "golden.bin"
CURRENT = "current.json"
DEPLOYMENT = "deployment.json"


class Current(BaseModel):
    """Which version of a model is in force, and which was before."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: int
    previous: int | None = None


class ModelStore:
    """The folder `models`. Used from one thread.

    Every call may raise `StorageFailed` or `DiskFull`; what was in force is in force then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the models of which something is here."""
        with storage_errors(self.folder):
            return sorted(each.name for each in self.folder.iterdir()) if self.folder.is_dir() else []

    def version_folder(self, name: str, version: int) -> Path:
        """Return where a version lies, or would lie."""
        return self.folder / name / str(version)

    def current(self, name: str) -> Current | None:
        """Return what is in force; None where nothing is, or where the card lost what it was."""
        path = self.folder / name / CURRENT
        with storage_errors(path):
            data = path.read_bytes() if path.is_file() else None
        if data is None:
            return None
        try:
            return Current.model_validate_json(data)
        except ValidationError as error:
            log.error("model.current_damaged", path=path, why=str(error.error_count()))
            return None

    def deployment(self, name: str) -> Deployment | None:
        """Return what is remembered of the last deployment."""
        path = self.folder / name / DEPLOYMENT
        with storage_errors(path):
            data = path.read_bytes() if path.is_file() else None
        try:
            return None if data is None else Deployment.model_validate_json(data)
        except ValidationError as error:
            log.error("model.deployment_damaged", path=path, why=str(error.error_count()))
            return None

    def remember(self, name: str, deployment: Deployment) -> None:
        """Write down where a deployment stands."""
        self._write(name, DEPLOYMENT, deployment.model_dump_json().encode())

    def has(self, name: str, version: int) -> bool:
        """Tell whether a version is here, whole."""
        return self.version_folder(name, version).is_dir()

    def install(self, manifest: Manifest, signature: Signature, sources: Mapping[str, Path]) -> None:
        """Put a version on disk, out of files that are checked while they are copied. It is not in force yet.

        `sources` has the files of `Manifest.blobs`, by their names there.

        Raises:
            ArtefactInvalid: a file is not what the manifest says; nothing was kept.
        """
        name, target = manifest.name, self.version_folder(manifest.name, manifest.version)
        self.tidy(name)
        incoming = target.with_name(f".incoming-{manifest.version}")
        needed = sum(blob.size for blob in manifest.blobs.values())
        try:
            with storage_errors(target, needed):
                private_folder(incoming)
                for file, blob in manifest.blobs.items():
                    _copy(sources[file], incoming / file, blob, _what(file))
                write_atomic(incoming / SIGNATURE, signature.model_dump_json().encode())
                write_atomic(incoming / MANIFEST, manifest.canonical())
                if target.is_dir():  # the card had damaged it
                    _remove(target)
                incoming.replace(target)
                sync_folder(target.parent)
        except Exception:
            self._tidy_quietly(name)  # a full disk must not stay full of what will not be used
            raise

    def checked(self, name: str, version: int, root_pem: str) -> Manifest:
        """Read a version that is here, all of it, and check it as if it came from outside.

        Raises:
            ArtefactInvalid, SignatureInvalid: the card changed it.
        """
        folder = self.version_folder(name, version)
        with storage_errors(folder):
            try:
                data = (folder / MANIFEST).read_bytes()[: MAX_BYTES + 1]
                signature = Signature.model_validate_json((folder / SIGNATURE).read_bytes())
                verify(signature, Purpose.MANIFEST, data, root_pem)
                manifest = Manifest.parse(data)
                for file, blob in manifest.blobs.items():
                    _check(folder / file, blob, _what(file))
            except FileNotFoundError as error:
                raise ArtefactInvalid(what="folder", why=f"{Path(error.filename).name} is missing") from None
            except ValidationError:
                raise SignatureInvalid(why="its file is damaged") from None
        if (manifest.name, manifest.version) != (name, version):
            raise ArtefactInvalid(what="folder", why=f"it holds {manifest.reference}")
        return manifest

    def activate(self, name: str, version: int) -> None:
        """Put a version that is here in force; what was in force is what a device goes back to."""
        before = self.current(name)
        if before is not None and before.version == version:
            return
        self._put(name, Current(version=version, previous=before.version if before else None))

    def forget_previous(self, name: str) -> None:
        """Leave no way back from what is in force."""
        now = self.current(name)
        if now is not None and now.previous is not None:
            self._put(name, Current(version=now.version))
            self.tidy(name)

    def go_back(self, name: str, version: int) -> None:
        """Put `version` out of force: what was before it takes its place, or nothing does. Once is enough."""
        now = self.current(name)
        if now is None or now.version != version:
            return
        if now.previous is not None and self.has(name, now.previous):
            self._put(name, Current(version=now.previous))
        else:
            path = self.folder / name / CURRENT
            with storage_errors(path):
                path.unlink()
                sync_folder(path.parent)

    def tidy(self, name: str) -> None:
        """Remove the versions that are neither in force nor before what is, and leftovers."""
        home, now = self.folder / name, self.current(name)
        kept = {str(each) for each in (now.version, now.previous) if each is not None} if now else set()
        with storage_errors(home):
            for each in sorted(home.iterdir()) if home.is_dir() else []:
                if each.is_dir() and each.name not in kept:
                    _remove(each)
                elif each.name.endswith(".partial"):
                    each.unlink()

    def _tidy_quietly(self, name: str) -> None:
        try:
            self.tidy(name)
        except Exception as error:  # noqa: BLE001  (whoever calls has a reason of its own to tell)
            log.warning("model.not_tidied", model=name, exc=error)

    def _put(self, name: str, current: Current) -> None:
        self._write(name, CURRENT, current.model_dump_json().encode())

    def _write(self, name: str, file: str, data: bytes) -> None:
        path = self.folder / name / file
        with storage_errors(path, len(data)):
            write_atomic(private_folder(path.parent) / file, data)


def _what(file: str) -> str:
    """Return what a file is, in words."""
    return {MODEL: "model", GOLDEN: "golden vectors"}.get(file, f"file {file}")


def _copy(source: Path, target: Path, blob: Blob, what: str) -> None:
    """Copy a file, synced; it must be the blob."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with source.open("rb") as stream, os.fdopen(handle, "wb") as out:
        while piece := stream.read(COPY_STEP):
            digest.update(piece)
            size += len(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    _compare(digest.hexdigest(), size, blob, what)


def _check(path: Path, blob: Blob, what: str) -> None:
    with path.open("rb") as stream:
        _compare(hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size, blob, what)


def _compare(digest: str, size: int, blob: Blob, what: str) -> None:
    if size != blob.size:
        raise ArtefactInvalid(what=what, why=f"it has {size} bytes, and the manifest says {blob.size}")
    if digest != blob.digest:
        raise ArtefactInvalid(what=what, why="its SHA-256 is not that of the manifest")


def _remove(folder: Path) -> None:
    """Remove a folder of files; under its own name it is there whole or not at all."""
    gone = folder
    if not folder.name.startswith("."):
        gone = folder.with_name(f".gone-{folder.name}")
        if gone.is_dir():
            _remove(gone)
        folder.replace(gone)
    for each in sorted(gone.iterdir()):
        each.unlink()
    gone.rmdir()
