"""A blob that arrives: one file with the blob's bytes and, behind them, the bitmap of the chunks that are safely there.

The bitmap on disk never claims what a power cut could still take: the data is synced before the bitmap is written,
and bits are only ever set, so that a torn bitmap claims less and never more. The file lives in the store's `partial/`,
is named for the blob and the peer, and is locked while it is open: two processes never write to one. When another
chunk size is agreed on after a restart the bitmap is translated.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct

from argosy_common.blobs.bitmap import Bitmap, regrid
from argosy_common.blobs.frames import MAX_CHUNKS, Layout
from argosy_common.blobs.store import COPY_STEP, BlobRef, BlobStore, storage_errors
from argosy_common.errors import DiskFull, StorageFailed
from argosy_common.files import PRIVATE_FILE

_TRAILER = struct.Struct("!4sQI")
_MAGIC = b"ACM1"

CHECKPOINT_BYTES = 16 * 1024 * 1024
"""What a power cut may cost: so many bytes arrive between two checkpoints at most."""


class Partial:
    """The file of one blob that arrives from one peer. `write` may run beside `checkpoint`; nothing else may.

    Raises:
        DiskFull: there is no room for the rest of it.
        StorageFailed: the file cannot be used, or another process is at it.
    """

    def __init__(self, store: BlobStore, peer: str, ref: BlobRef, layout: Layout) -> None:
        self.path = store.partials / f"{ref.hex}.{hashlib.sha256(peer.encode()).hexdigest()[:8]}"
        self.ref = ref
        self.layout = layout
        self._store = store
        self._hash = hashlib.sha256()
        self._hashed = 0
        self.unsaved = 0
        """Bytes that arrived since the last checkpoint."""
        with storage_errors(self.path, ref.size):
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
            try:
                self._lock()
                self.saved = self._load_bitmap()
                self._require_room()
            except BaseException:
                os.close(self._handle)
                raise

    def _lock(self) -> None:
        """Keep other processes off, and make sure that none has just finished this very file."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageFailed(path=self.path, why="another process receives this blob") from None
        if not os.path.samestat(os.fstat(self._handle), self.path.stat()):
            raise StorageFailed(path=self.path, why="another process has just received this blob")

    def _require_room(self) -> None:
        status = os.statvfs(self.path)
        missing = self.ref.size - self.saved.count * self.layout.chunk
        if missing > status.f_bavail * status.f_frsize:
            raise DiskFull(path=self.path, needed=missing)

    def _load_bitmap(self) -> Bitmap:
        """Return what an earlier attempt left; nothing when its trailer is absent or of something else."""
        try:
            data = os.pread(self._handle, _TRAILER.size + MAX_CHUNKS // 8, self.ref.size)
            magic, size, chunk = _TRAILER.unpack_from(data)
            old = Layout(size, chunk)
            if magic != _MAGIC or size != self.ref.size or not old.transferable:
                return Bitmap(self.layout.count)
            return regrid(Bitmap.load(old.count, data[_TRAILER.size :]), old, self.layout)
        except (struct.error, ValueError):
            return Bitmap(self.layout.count)

    def write(self, index: int, payload: memoryview) -> None:
        """Put chunk `index` in its place; hashes it on the way as long as chunks come in order."""
        offset = index * self.layout.chunk
        length = payload.nbytes
        if offset == self._hashed:
            self._hash.update(payload)
            self._hashed += length
        with storage_errors(self.path, self.ref.size):
            while payload.nbytes:
                written = os.pwrite(self._handle, payload, offset)
                offset += written
                payload = payload[written:]
        self.unsaved += length

    def checkpoint(self, have: bytes) -> None:
        """Make the chunks of the packed bitmap `have`, all of them written before this call, survive a power cut."""
        with storage_errors(self.path, self.ref.size):
            os.fdatasync(self._handle)
            trailer = _TRAILER.pack(_MAGIC, self.ref.size, self.layout.chunk) + have
            os.pwrite(self._handle, trailer, self.ref.size)
            os.ftruncate(self._handle, self.ref.size + len(trailer))

    def matches(self) -> bool:
        """Tell whether the whole file has the digest; reads only what `write` could not hash on the way."""
        with storage_errors(self.path):
            while self._hashed < self.ref.size:
                data = os.pread(self._handle, min(COPY_STEP, self.ref.size - self._hashed), self._hashed)
                if not data:
                    return False
                self._hash.update(data)
                self._hashed += len(data)
        return self._hash.digest() == self.ref.digest

    def commit(self) -> None:
        """Sync the file and move it into the store under its name. Only after `matches`."""
        with storage_errors(self.path, self.ref.size):
            os.ftruncate(self._handle, self.ref.size)
            os.fsync(self._handle)
            self._store.adopt(self.path, self.ref)
        self.close()

    def reset(self) -> None:
        """Forget all that arrived, and begin again."""
        with storage_errors(self.path):
            os.ftruncate(self._handle, 0)
        self._hash = hashlib.sha256()
        self._hashed = 0
        self.unsaved = 0

    def discard(self) -> None:
        """Remove the file."""
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file; a later attempt resumes from the last checkpoint. Harmless when called again."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
