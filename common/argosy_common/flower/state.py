"""The state of a Flower `Context` as one file, array records lazy as in messages: a device keeps it between rounds.

Layout: magic and version (8 bytes), length of the header (u32, big-endian), the header (msgpack `[content, [[name,
length], …]]`), then the array records, encoded as in `arrays`.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import msgpack
from flwr.app import ArrayRecord, RecordDict

from argosy_common.blobs.store import storage_errors
from argosy_common.errors import MessageUnsendable, StorageFailed
from argosy_common.files import PRIVATE_FILE, sync_folder
from argosy_common.flower.arrays import StoredArray, Stretch, encoded_pieces, stored_record
from argosy_common.flower.compat import content_from_bytes, content_to_bytes

_MAGIC = b"ARGCTX\x00\x01"
_PREFIX = struct.Struct(">8sI")


def write_state(state: RecordDict, path: Path, *, before: Path | None = None) -> None:
    """Write `state` to `path`, whole or not at all, safe against a power cut.

    Where it is still what the file `before` holds, from which it was read, `path` becomes another name of that file: a
    board's card is not worn by writing a model again that did not change.

    Raises:
        MessageUnsendable: a value that does not fit Flower's protobuf.
        DiskFull, StorageFailed: the old file is untouched.
    """
    try:
        records = {name: encoded_pieces(it) for name, it in state.items() if isinstance(it, ArrayRecord)}
        lengths = [[name, length] for name, (length, _) in records.items()]
        header: bytes = msgpack.packb([content_to_bytes(state), lengths], use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise MessageUnsendable(why=f"the context's state: {error}") from error
    partial = path.with_name(f".{path.name}.partial")
    if before is not None and _holds(before, header, state) and _linked(before, partial, path):
        return
    with storage_errors(path, len(header) + sum(length for length, _ in records.values())):
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE), "wb") as stream:
                stream.write(_PREFIX.pack(_MAGIC, len(header)) + header)
                for _, pieces in records.values():
                    for piece in pieces:
                        stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def _holds(path: Path, header: bytes, state: RecordDict) -> bool:
    """Tell whether the file holds exactly this state: the same header, and arrays that are read from where it is."""
    offset = _PREFIX.size + len(header)
    for record in state.array_records.values():
        _, pieces = encoded_pieces(record)
        head = bytes(next(pieces))
        places = [array.place if isinstance(array, StoredArray) else None for array in record.values()]
        at = offset + len(head)
        for place in places:
            if place is None or (place.path, place.offset) != (path, at):
                return False
            at += place.length
        if Stretch(path, offset, len(head)).read() != head:
            return False
        offset = at
    whole = _PREFIX.pack(_MAGIC, len(header)) + header
    return path.stat().st_size == offset and Stretch(path, 0, len(whole)).read() == whole


def _linked(path: Path, partial: Path, target: Path) -> bool:
    """Give a file another name; False where its file system knows no such thing."""
    try:
        partial.unlink(missing_ok=True)
        partial.hardlink_to(path)
        partial.replace(target)
        sync_folder(target.parent)
    except OSError:
        return False
    return True


def read_state(path: Path) -> RecordDict:
    """Return the state in the file, whose arrays are read from it when they are used.

    Raises:
        StorageFailed: it cannot be read or is not such a file.
    """
    with storage_errors(path):
        size = path.stat().st_size
    try:
        return _parse(Stretch(path, 0, size))
    except (ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
        raise StorageFailed(path=path, why=str(error)) from error


def _parse(whole: Stretch) -> RecordDict:
    magic, length = _PREFIX.unpack(whole.read(0, min(whole.length, _PREFIX.size)))
    if magic != _MAGIC or length > whole.length - _PREFIX.size:
        raise ValueError("not a context's state")
    content, lengths = msgpack.unpackb(whole.read(_PREFIX.size, length), raw=False)
    state = content_from_bytes(content)
    offset = _PREFIX.size + length
    for name, count in lengths:
        if offset + count > whole.length:
            raise ValueError("cut short")
        state[name] = stored_record(Stretch(whole.path, offset, count))
        offset += count
    return state
