"""Making a backup of a state directory, whose coordinator may be running."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from argosy_common import __version__
from argosy_common.blobs.store import storage_errors
from argosy_common.clock import Clock
from argosy_common.errors import NoAuthority, StorageFailed
from argosy_common.files import PRIVATE_FILE, sync_folder
from argosy_server.backup.archive import ArchiveWriter
from argosy_server.backup.manifest import DATABASE, SETTINGS, TREES, Manifest
from argosy_server.settings import CoordinatorSettings
from argosy_server.store import Store
from argosy_server.store.database import parse_url, place
from argosy_server.store.snapshot import snapshot

LEFT_OUT = {
    "admin.sock": "made at each start",
    "broker": "made at each start, from the database and `ca/`",
    "coordinator.lock": "says who runs here now",
    "coordinator.db-shm": "SQLite's own; the snapshot has what is in it",
    "coordinator.db-wal": "likewise",
}
"""What is in a state directory and not in a backup, and why. Of `blobs/` nothing that is not whole is in it."""
_PASSING = ("staging-", ".take-over-")
"""Folders of a moment: apps in `runs/` that are being unpacked, and in `ca/` what ends a session."""
_IN_MEMORY = 4 * 1024**2
_HERE_ONLY = {"state_dir", "socket", "database", "blobs"}
"""Settings that name places on this machine."""


def make_backup(settings: CoordinatorSettings, target: Path, clock: Clock, passphrase: bytes | None = None) -> Manifest:
    """Write a backup into the file `target`, which is whole or absent afterwards; only its owner may read it.

    Raises:
        NoAuthority: no coordinator has ever run on the state directory.
        StorageFailed: `target` is there already, or something cannot be read or written; the database is damaged.
        DiskFull: there is no room for the backup, or for the copy of the database beside it.
    """
    state = settings.state_dir
    if not (state / "ca" / "ca.crt").exists():
        raise NoAuthority(folder=state / "ca")
    if target.exists():
        raise StorageFailed(path=target, why="it is there already, and backups are not replaced")
    with storage_errors(target), tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as folder:
        whole = Path(folder) / "backup"
        with open(whole, "xb", opener=_private) as stream:
            with ArchiveWriter(stream, passphrase) as archive:
                manifest = _fill(archive, settings, Path(folder) / DATABASE, clock)
            stream.flush()
            os.fsync(stream.fileno())
        whole.rename(target)
        sync_folder(target.parent)
    return manifest


def backup_name(now: datetime, *, sealed: bool) -> str:
    """Return the name of a backup's file where only a folder was given."""
    return f"argosy-{now:%Y%m%dT%H%M%SZ}.{'sealed' if sealed else 'tar.gz'}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


def _fill(archive: ArchiveWriter, settings: CoordinatorSettings, copy: Path, clock: Clock) -> Manifest:
    """Put everything into the archive, the database first."""
    needed = _copy_database(settings.database_url, copy, clock)
    with copy.open("rb") as stream:
        archive.add(DATABASE, stream, copy.stat().st_size)
    copy.unlink()
    archive.add_bytes(SETTINGS, _toml(settings).encode())
    skipped: list[str] = []
    for tree in TREES[:-1]:
        for name in _files(settings.state_dir, tree, skipped):
            _add(archive, settings.state_dir / name, name, copy.parent)
    sound = _add_blobs(archive, settings.blobs_dir / "sha256")
    manifest = Manifest(
        made_at=clock.wall(),
        version=__version__,
        site=settings.site,
        files=archive.files,
        missing=sorted(needed - sound),
        skipped=skipped,
    )
    archive.seal(manifest)
    return manifest


def _copy_database(url: str, copy: Path, clock: Clock) -> set[str]:
    """Take the snapshot; return the digests of the blobs that it refers to for good."""
    snapshot(url, copy)
    with Store.open(f"sqlite:///{copy}", clock) as store:  # brings its tables to this version's
        _, fault = store.fault()
        if fault:
            raise StorageFailed(path=place(parse_url(url)), why=f"the database is damaged: {fault}")
        runs = store.runs.list()
        kept = {run.app_digest for run in runs} | {run.final_model for run in runs if run.final_model}
        return kept | store.models.digests()


def _files(state: Path, name: str, skipped: list[str]) -> Iterator[str]:
    """Return the names of the files below a folder that is there or not; of links and the like note that they are."""
    folder = state / name
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        below = f"{name}/{path.name}"
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            skipped.append(below)
        elif path.is_file():
            yield below
        elif not path.name.startswith(_PASSING):
            yield from _files(state, below, skipped)


def _add(archive: ArchiveWriter, path: Path, name: str, beside: Path) -> None:
    """Add a file as it is at this moment: a log may grow meanwhile, a program of the user's rewrite its results."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(beside)) as still:
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            return  # it was there to be replaced
        with stream:
            shutil.copyfileobj(stream, still)
        size = still.tell()
        still.seek(0)
        archive.add(name, still, size)


def _add_blobs(archive: ArchiveWriter, folder: Path) -> set[str]:
    """Add every whole blob; return the digests of those that are what their names say."""
    sound: set[str] = set()
    for path in sorted(folder.iterdir()):
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            continue  # no run needs it any more
        with stream:
            entry = archive.add(f"blobs/sha256/{path.name}", stream, path.stat().st_size)
        if entry.sha256 == path.name:
            sound.add(path.name)
    return sound


def _toml(settings: CoordinatorSettings) -> str:
    """Return the settings that are not the defaults, but for those that name places here; JSON's values are TOML's."""
    told = settings.model_dump(mode="json", exclude_defaults=True, exclude=_HERE_ONLY)
    lines = [f"{name} = {json.dumps(value)}" for name, value in told.items() if not isinstance(value, dict)]
    for table, values in told.items():
        if isinstance(values, dict):
            lines += [f"\n[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    return "".join(f"{line}\n" for line in lines)
