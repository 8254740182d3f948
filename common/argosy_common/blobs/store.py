"""Content-addressed files: a blob is named by its SHA-256 and never changes.

Layout under the root: `sha256/<hex>` holds whole, checked blobs; `partial/` holds what is being written or fetched
(see `partial.py`). A blob appears by a rename after an fsync, so a reader, another process or a power cut sees the
whole of it or nothing. Several processes may share one root; pins and eviction belong to the process that made the
`BlobStore` with `max_bytes`, and only one process should evict.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from argosy_common.errors import BlobCorrupt, BlobUnknown, DiskFull, StorageFailed
from argosy_common.files import PRIVATE_FILE, private_folder, sync_folder
from argosy_common.logs import get_logger

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

log = get_logger(__name__)

_BLOCK = 512
"""The unit of `st_blocks`; a file that was fetched in part is sparse."""
COPY_STEP = 1024 * 1024
"""Bytes held in memory while a file is copied or hashed."""


@dataclass(frozen=True)
class BlobRef:
    """A blob by name: SHA-256 digest (32 bytes) and size in bytes."""

    digest: bytes
    size: int

    @property
    def hex(self) -> str:
        """The digest as 64 hex digits: the form for file names, databases and JSON."""
        return self.digest.hex()


@contextmanager
def storage_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn an `OSError` on `path` into `DiskFull` (no room, quota, file too large) or `StorageFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(path=path, needed=needed) from error
        raise StorageFailed(path=path, why=error.strerror or str(error)) from error


class BlobStore:
    """The blobs under one folder. Thread-safe.

    Args:
        root: the folder; made, private, when missing.
        max_bytes: over this total, blobs that nobody pinned and fetches that nobody goes on with are removed, least
            recently used first; None: no bound.
    """

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._blobs = root / "sha256"
        self.partials = root / "partial"
        self._pins: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        with storage_errors(root):
            for folder in (root, self._blobs, self.partials):
                private_folder(folder)

    def has(self, digest: bytes) -> bool:
        """Tell whether the whole blob is here."""
        return self._file(digest).is_file()

    def path(self, digest: bytes) -> Path:
        """Return the blob's file, to be opened for reading only, and count this as a use of it.

        Raises:
            BlobUnknown: it is not here.
        """
        path = self._file(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            raise BlobUnknown(peer="this store", digest=digest.hex()) from None
        except OSError as error:  # a disk that can only be read: the blob is there all the same
            log.debug("blobs.use_not_noted", path=path, why=error.strerror)
        return path

    def checked(self, digest: bytes) -> Path:
        """Return the blob's file as `path` does, after reading it all: for what must not have changed on disk.

        Raises:
            BlobUnknown: it is not here.
            BlobCorrupt: it had changed; it is removed, so that it can be had afresh.
            StorageFailed: it cannot be read or removed.
        """
        path = self.path(digest)
        with storage_errors(path), path.open("rb") as stream:
            matches = hashlib.file_digest(stream, "sha256").digest() == digest
        if not matches:
            log.error("blobs.changed_on_disk", path=path)
            self.delete(digest)
            raise BlobCorrupt(digest=digest.hex(), peer="this store")
        return path

    def size(self, digest: bytes) -> int:
        """Return the blob's size in bytes; raises `BlobUnknown`."""
        try:
            return self._file(digest).stat().st_size
        except OSError:
            raise BlobUnknown(peer="this store", digest=digest.hex()) from None

    def ref(self, digest: bytes) -> BlobRef:
        """Return the full name of a blob that is here; raises `BlobUnknown`."""
        return BlobRef(digest, self.size(digest))

    def put_bytes(self, data: Buffer) -> BlobRef:
        """Store `data`; free when it is here already.

        Raises:
            DiskFull, StorageFailed: nothing was stored.
        """
        view = memoryview(data).cast("B")
        ref = BlobRef(hashlib.sha256(view).digest(), view.nbytes)
        if self.has(ref.digest):
            self.path(ref.digest)
            return ref
        with self.writer() as writer:
            writer.write(view)
            return writer.commit()

    def put_file(self, path: Path) -> BlobRef:
        """Store a copy of the file at `path`, in bounded memory.

        A copy and not a hard link: a link would let the file's owner change a blob under its name.

        Raises:
            DiskFull, StorageFailed: nothing was stored.
        """
        with self.writer() as writer:
            with storage_errors(path), path.open("rb", buffering=0) as stream:
                buffer = bytearray(COPY_STEP)
                view = memoryview(buffer)
                while count := stream.readinto(buffer):
                    writer.write(view[:count])
            return writer.commit()

    def writer(self) -> BlobWriter:
        """Return a writer that streams a blob of unknown digest into the store."""
        return BlobWriter(self)

    def delete(self, digest: bytes) -> bool:
        """Remove a blob; open readers keep what they have. Returns whether it was here. Raises `StorageFailed`."""
        path = self._file(digest)
        with storage_errors(path):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def pin(self, digest: bytes) -> None:
        """Keep the blob, now or once it arrives, from eviction, until `unpin` was called as often as `pin`."""
        with self._lock:
            self._pins[digest] += 1

    def unpin(self, digest: bytes) -> None:
        """Undo one `pin`."""
        with self._lock:
            self._pins[digest] -= 1
            if self._pins[digest] <= 0:
                del self._pins[digest]

    def adopt(self, file: Path, ref: BlobRef) -> None:
        """Move a whole, checked and synced file of the same file system in under its name, for good.

        Raises:
            DiskFull, StorageFailed: `file` is left where it was.
        """
        target = self._file(ref.digest)
        with storage_errors(target, ref.size):
            file.replace(target)
            target.touch()
            sync_folder(self._blobs)
        self.trim(keep=ref.digest)

    def trim(self, keep: bytes | None = None) -> None:
        """Remove what is over `max_bytes`, but not the blob `keep`: after other processes have put blobs here, say.

        Raises:
            StorageFailed: the folder cannot be read or changed.
        """
        if self.max_bytes is not None:
            with storage_errors(self.root):
                self._trim(self.max_bytes, keep)

    def total_bytes(self) -> int:
        """Return the size of all whole blobs together."""
        return sum(size for _, size, _ in self._listing())

    def digests(self) -> list[bytes]:
        """Return the digests of all whole blobs, least recently used first."""
        found = []
        for _, _, name in self._listing():
            with suppress(ValueError):  # not a file of ours
                found.append(bytes.fromhex(name))
        return found

    def sweep(self) -> int:
        """Remove the leftovers of writers that died and of fetches that nobody goes on with; return the bytes freed.

        A leftover is a file of `partial/` that no process holds locked. Call it when nothing need be resumed.
        """
        return sum(_remove_unlocked(file) for file in sorted(self.partials.iterdir()))

    def _file(self, digest: bytes) -> Path:
        if len(digest) != 32:
            raise ValueError(f"a digest of {len(digest)} bytes; SHA-256 has 32")
        return self._blobs / digest.hex()

    def _listing(self) -> list[tuple[int, int, str]]:
        """Return (last use in ns, size, hex) of every blob, least recently used first."""
        entries = []
        with os.scandir(self._blobs) as found:
            for entry in found:
                with suppress(FileNotFoundError):  # another process may delete while we look
                    status = entry.stat()
                    entries.append((status.st_mtime_ns, status.st_size, entry.name))
        return sorted(entries)

    def _trim(self, limit: int, keep: bytes | None) -> None:
        whole, left = self._listing(), self._leftovers()
        excess = sum(size for _, size, _ in whole) + sum(size for _, size, _ in left) - limit
        with self._lock:
            kept = {digest.hex() for digest in self._pins} | ({keep.hex()} if keep is not None else set())
        files = [(used, size, self._blobs / name) for used, size, name in whole if name not in kept]
        for _, size, path in sorted([*files, *left]):
            if excess <= 0:
                return
            if path.parent == self._blobs:
                path.unlink(missing_ok=True)
                excess -= size
            elif _remove_unlocked(path):
                excess -= size
            log.debug("blobs.evicted", file=path.name, bytes=size)
        if excess > 0:
            log.warning("blobs.over_limit", limit=limit, excess=excess)

    def _leftovers(self) -> list[tuple[int, int, Path]]:
        """Return (last write in ns, bytes on disk, path) of every file that is not whole; some are being written."""
        found = []
        for path in self.partials.iterdir():
            with suppress(FileNotFoundError):  # as above
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_blocks * _BLOCK, path))
        return found


def _remove_unlocked(file: Path) -> int:
    try:
        handle = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(handle).st_size
        file.unlink(missing_ok=True)
    except BlockingIOError:
        return 0
    finally:
        os.close(handle)
    return size


class BlobWriter:
    """Streams one blob into a store, hashing while it writes. A context manager; leaving it without `commit` drops all.

    Raises:
        DiskFull, StorageFailed: from every call; nothing is stored then.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._path = store.partials / f"{secrets.token_hex(8)}.writing"
        self._hash = hashlib.sha256()
        self._size = 0
        with storage_errors(self._path):
            self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
            fcntl.flock(self._handle, fcntl.LOCK_EX)  # tells `sweep` that the writer lives
        self._open = True

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.abandon()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def write(self, buffer: Buffer) -> None:
        """Append `buffer` (anything contiguous); it is neither kept nor copied."""
        view = memoryview(buffer).cast("B")
        self._hash.update(view)
        with storage_errors(self._path, self._size + view.nbytes):
            while view.nbytes:
                written = os.write(self._handle, view)
                self._size += written
                view = view[written:]

    def commit(self) -> BlobRef:
        """Make the blob part of the store, safe against a power cut; return its name. Idempotent by content."""
        ref = BlobRef(self._hash.digest(), self._size)
        if self._store.has(ref.digest):
            self._store.path(ref.digest)
        else:
            with storage_errors(self._path, self._size):
                os.fsync(self._handle)
            self._store.adopt(self._path, ref)
        self.abandon()
        return ref

    def abandon(self) -> None:
        """Drop what was written and not committed. Harmless when called again."""
        if self._open:
            self._open = False
            os.close(self._handle)
            self._path.unlink(missing_ok=True)
