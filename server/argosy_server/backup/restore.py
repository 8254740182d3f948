"""Making a state directory of a backup. What is checked first, and in this order:

1. the folder is empty;
2. every file of the backup is what its manifest says, and there is room for them;
3. this version knows the database's schema.

Only then is anything put where it belongs: by renames, the database last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from argosy_common.blobs.store import storage_errors
from argosy_common.clock import Clock
from argosy_common.errors import DiskFull, RestoreRefused
from argosy_common.files import PRIVATE_FILE, private_folder, sync_folder
from argosy_server.backup.archive import open_archive, verify
from argosy_server.backup.manifest import DATABASE, MANIFEST, SETTINGS, Manifest
from argosy_server.store import Store
from argosy_server.store.snapshot import fill, leave_gap

GAP = 1000
"""Numbers of runs and rollouts that are not given away again: devices may know those from after the backup."""
_UNDER_WAY = ".restoring"


def restore_backup(
    archive: Path, into: Path, clock: Clock, passphrase: bytes | None = None, database: str | None = None
) -> Manifest:
    """Make `into`, an empty or absent folder, the state directory that was backed up.

    Args:
        database: the URL of an empty database that gets the rows; a SQLite file in `into` unless given.

    Raises:
        RestoreRefused: the folder, or the database, is not empty.
        BackupDamaged, BackupSealed: see `verify`.
        DatabaseNewer: a newer version of Argosy made the backup.
        DiskFull, StorageFailed: as ever. In every case nothing is left of it.
    """
    with storage_errors(into):
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise RestoreRefused(path=into, why="it is not an empty folder")
    manifest = verify(archive, passphrase)
    with storage_errors(into), _staging(into) as staging:
        if manifest.size > shutil.disk_usage(staging).free:
            raise DiskFull(path=into, needed=manifest.size)
        _extract(archive, passphrase, staging, manifest)
        file = staging / DATABASE
        leave_gap(file, GAP)
        with Store.open(f"sqlite:///{file}", clock) as store:
            made = manifest.made_at.isoformat(timespec="seconds")
            store.audit.write("restore", "coordinator.restored", archive.name, made_at=made, version=manifest.version)
        if database is not None:
            fill(database, file)
            file.unlink()
            _name_database(staging / SETTINGS, database)
        _put_in_place(staging, into)
    return manifest


@contextmanager
def _staging(into: Path) -> Iterator[Path]:
    """Give a folder inside `into`, which belongs to whoever owns that in the end. After an error nothing is left."""
    made = not into.exists()
    staging = private_folder(private_folder(into) / _UNDER_WAY)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            into.rmdir()
        raise
    staging.rmdir()
    sync_folder(into)


def _extract(archive: Path, passphrase: bytes | None, staging: Path, manifest: Manifest) -> None:
    damaged = {f"blobs/sha256/{digest}" for digest in manifest.missing}
    with open_archive(archive, passphrase) as files:
        for name, content in files:
            if name == MANIFEST or name in damaged:
                continue
            path = staging / name
            with storage_errors(path, manifest.files[name].size):
                for folder in reversed(PurePosixPath(name).parents):
                    private_folder(staging / folder)
                with open(path, "xb", opener=_private) as stream:
                    shutil.copyfileobj(content, stream)
                    stream.flush()
                    os.fsync(stream.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


def _name_database(settings: Path, url: str) -> None:
    """Write the database's URL into the restored settings, before their tables."""
    settings.write_text(f"database = {json.dumps(url)}\n{settings.read_text()}")


def _put_in_place(staging: Path, into: Path) -> None:
    owner = into.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in staging.rglob("*"):
            os.chown(path, owner.st_uid, owner.st_gid)
    for folder in {path.parent for path in staging.rglob("*")}:
        sync_folder(folder)
    for path in sorted(staging.iterdir(), key=lambda path: path.name == DATABASE):
        path.rename(into / path.name)
