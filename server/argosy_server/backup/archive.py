"""The file of a backup: written in one go, read in one go, every file with its digest."""

from __future__ import annotations

import gzip
import hashlib
import io
import secrets
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from pydantic import ValidationError

from argosy_common.blobs.store import storage_errors
from argosy_common.errors import BackupDamaged, BackupSealed
from argosy_server.backup.manifest import DATABASE, MANIFEST, MAX_MANIFEST, SETTINGS, TREES, Entry, Manifest
from argosy_server.backup.sealing import MAGIC, SALT, Opener, SealBroken, Sealer

STEP = 1024 * 1024
_LEVEL = 1
"""Of gzip: models hardly get smaller, and a board must not work on it for long."""


class ArchiveWriter:
    """Packs files into a stream. A context manager; the archive is whole when it was left without an error."""

    def __init__(self, stream: IO[bytes], passphrase: bytes | None) -> None:
        self.files: dict[str, Entry] = {}
        self._stack = ExitStack()
        if passphrase is not None:
            sealer = Sealer(stream, passphrase, secrets.token_bytes(SALT))
            stream = cast("IO[bytes]", self._stack.enter_context(sealer))
        packed = self._stack.enter_context(gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=_LEVEL))
        tar = tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115  (the stack closes it)
        self._tar = self._stack.enter_context(tar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._stack.close()
            return
        with suppress(OSError):  # it follows from the error that is told
            self._stack.close()

    def add(self, name: str, source: IO[bytes], size: int) -> Entry:
        """Add `size` bytes of `source` as the file `name`.

        Raises:
            OSError: it has fewer; the archive is of no use then.
        """
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        hashed = _Hashed(name, source)
        self._tar.addfile(info, cast("IO[bytes]", hashed))  # it needs no more than `read`
        entry = self.files[name] = Entry(size=size, sha256=hashed.hash.hexdigest())
        return entry

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add a small file."""
        self.add(name, io.BytesIO(data), len(data))

    def seal(self, manifest: Manifest) -> None:
        """Add the manifest, as the last file."""
        self.add_bytes(MANIFEST, manifest.model_dump_json(indent=1).encode())


class _Hashed:
    """Reads through, and digests what comes by."""

    def __init__(self, name: str, source: IO[bytes]) -> None:
        self.hash = hashlib.sha256()
        self._name = name
        self._source = source

    def read(self, size: int) -> bytes:
        with storage_errors(Path(self._name)):
            data = self._source.read(size)
        self.hash.update(data)
        return data


@contextmanager
def open_archive(path: Path, passphrase: bytes | None) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Give the files of a backup one after the other, each by its name and to be read before the next is asked for.

    Raises:
        BackupSealed: it has a passphrase, and this is not it, or it has none.
        BackupDamaged: it is no backup, or not whole, or has in it what no backup has.
        StorageFailed: it cannot be read.
    """
    with storage_errors(path), path.open("rb") as stream, _damage_named(path):
        if stream.read(len(MAGIC)) != MAGIC:
            if passphrase is not None:
                raise BackupSealed(path=path, why="it was made without a passphrase")
            stream.seek(0)
            yield _files(path, stream)
        elif passphrase is None:
            raise BackupSealed(path=path, why="it needs the passphrase that it was made with")
        else:
            yield _files(path, io.BufferedReader(Opener(stream, passphrase), STEP))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except SealBroken:
        raise BackupSealed(path=path, why="the passphrase is another one, or the file is damaged") from None
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise BackupDamaged(path=path, why=f"it is not whole ({error})") from error


def _files(path: Path, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    seen: set[str] = set()
    with gzip.GzipFile(fileobj=stream, mode="rb") as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
        for member in tar:
            name = member.name
            if not member.isreg() or not _belongs(name) or name in seen:
                raise BackupDamaged(path=path, why=f"{name!r} is nothing that belongs into a backup")
            seen.add(name)
            content = tar.extractfile(member)
            assert content is not None  # noqa: S101  (it is a regular file)
            yield name, content
        while unpacked.read(STEP):
            pass  # to the end, where what guards the whole of it is


def _belongs(name: str) -> bool:
    """Tell whether a name is one of ours. Stricter than tarfile's own filter, which Python 3.11 got in 3.11.4 only."""
    path = PurePosixPath(name)
    where = path.parts[0] in TREES if len(path.parts) > 1 else name in (DATABASE, SETTINGS, MANIFEST)
    return where and ".." not in path.parts and "\0" not in name and str(path) == name


def verify(path: Path, passphrase: bytes | None) -> Manifest:
    """Read a backup to its end, compare every file with the manifest, and return that. Nothing is written.

    Raises:
        BackupSealed, BackupDamaged, StorageFailed: see `open_archive`.
    """
    found: dict[str, Entry] = {}
    manifest: bytes | None = None
    with open_archive(path, passphrase) as files:
        for name, content in files:
            if name == MANIFEST:
                manifest = content.read(MAX_MANIFEST)
                continue
            digest, size = hashlib.sha256(), 0
            while data := content.read(STEP):
                digest.update(data)
                size += len(data)
            found[name] = Entry(size=size, sha256=digest.hexdigest())
    if manifest is None:
        raise BackupDamaged(path=path, why="its manifest is missing: it was cut short, or is something else")
    try:
        said = Manifest.model_validate_json(manifest)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise BackupDamaged(path=path, why=f"its manifest cannot be read ({first['msg']})") from None
    for name in sorted({*said.files, *found}):
        if said.files.get(name) != found.get(name):
            raise BackupDamaged(path=path, why=f"{name} is not what its manifest says")
    return said
