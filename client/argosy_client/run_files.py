"""The files that runs keep on a device: unpacked apps, by digest, and Flower contexts, one file a step.

A context file is never overwritten: each instruction writes a new one, the journal points to the one that counts, and
what it does not point to is litter that `sweep` removes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from argosy_client.journal import RunState
from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.bundle import unpack
from argosy_common.files import private_folder
from argosy_common.logs import get_logger

log = get_logger(__name__)


class RunFiles:
    """The folders `apps/` and `contexts/` under `folder`."""

    def __init__(self, folder: Path, store: BlobStore) -> None:
        self._apps = private_folder(folder / "apps")
        self._contexts = private_folder(folder / "contexts")
        self._store = store

    def app(self, bundle: BlobRef) -> Path:
        """Return the folder of the app, unpacked from its bundle in the store the first time.

        Raises:
            AppBundleInvalid, BlobCorrupt, BlobUnknown, DiskFull, StorageFailed: there is no such folder then.
        """
        target = self._apps / bundle.hex
        if not target.is_dir():
            unpack(self._store.checked(bundle.digest), target)
            log.info("app.unpacked", digest=bundle.hex)
        return target

    def has_app(self, digest: bytes) -> bool:
        """Tell whether the app is unpacked here, so that its bundle is not needed."""
        return (self._apps / digest.hex()).is_dir()

    def new_context(self, run: int, message: str) -> Path:
        """Return the path for the context that the instruction `message` leaves behind; nothing is there."""
        path = self._contexts / f"{run}-{message}"
        path.unlink(missing_ok=True)  # of an attempt that was cut short
        return path

    def context(self, name: str) -> Path:
        """Return the path of a context by its name in the journal."""
        return self._contexts / name

    def drop_context(self, name: str | None) -> None:
        """Remove a context that the journal does not point to any more."""
        if name is not None:
            (self._contexts / name).unlink(missing_ok=True)

    def sweep(self, kept: Iterable[RunState]) -> None:
        """Remove every app and context that none of the runs `kept` needs."""
        runs = list(kept)
        wanted = {run.app.hex() for run in runs} | {run.context for run in runs}
        for entry in (*self._apps.iterdir(), *self._contexts.iterdir()):
            if entry.name in wanted:
                continue
            log.debug("run_files.removed", path=entry)
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)  # what stays is tried again at the next sweep
            else:
                entry.unlink(missing_ok=True)
