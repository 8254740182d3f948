"""A Flower message as a few bytes and some blobs.

The bytes are a msgpack map `{"v", "head", "content", "arrays"}`: Flower's protobuf of the metadata or the error, that
of the records with all array records emptied, and for each array record its bytes or its blob's `[digest, size]`.
`content` too becomes `[digest, size]` when it is long; it is absent in an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
from flwr.app import ArrayRecord, Message, RecordDict

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.errors import EnvelopeMalformed, MessageUnsendable, StorageFailed
from argosy_common.flower.arrays import decode_arrays, encode_arrays, encoded_size, read_arrays, write_arrays
from argosy_common.flower.compat import content_from_bytes, content_to_bytes, head_to_bytes, message_from_parts

VERSION = 1
INLINE_LIMIT = 16 * 1024
"""Parts up to this many bytes, all together, stay in the message."""
MAX_FLOWER = 40 * 1024
"""An instruction's body may have 48 kB of Flower bytes, a reply's 60 kB (wire/bodies.py)."""
MAX_BLOBS = 120
"""A body names at most 128 blobs."""
MAX_CONTENT = 64 * 1024 * 1024
"""Bytes of records other than arrays, which are held in memory."""

_Part = bytes | BlobRef


@dataclass(frozen=True)
class DumpedMessage:
    """A message ready to travel: `flower` (at most 40 kB), and the blobs of the store that it refers to."""

    flower: bytes
    blobs: tuple[BlobRef, ...]


@dataclass(frozen=True)
class _Content:
    part: _Part
    arrays: dict[str, _Part]

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        parts = (self.part, *self.arrays.values())
        return tuple(dict.fromkeys(part for part in parts if isinstance(part, BlobRef)))


@dataclass
class _Budget:
    """How many bytes may still stay in the message."""

    left: int

    def takes(self, size: int) -> bool:
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


@dataclass
class MessageDumper:
    """Writes messages that may share content: a `RecordDict` or `ArrayRecord` that comes again is not written again.

    Use one for the messages of one phase; what it was given must not change while it is used. With `release`, array
    records give up their memory once they are in the store and read from it from then on, so their blobs must stay.
    """

    store: BlobStore
    inline_limit: int = INLINE_LIMIT
    release: bool = False
    _contents: dict[int, tuple[RecordDict, _Content]] = field(default_factory=dict, init=False, repr=False)
    _records: dict[int, tuple[ArrayRecord, BlobRef]] = field(default_factory=dict, init=False, repr=False)
    # both keep what they name by id() alive, so that no id is used twice

    def dump(self, message: Message) -> DumpedMessage:
        """Return `message` as bytes and blobs.

        Raises:
            MessageUnsendable: a value that does not fit Flower's protobuf, or too many array records.
            DiskFull, StorageFailed: from the store.
        """
        try:
            fields: dict[str, object] = {"v": VERSION, "head": head_to_bytes(message)}
            blobs: tuple[BlobRef, ...] = ()
            if message.has_content():
                content = self._content(message.content)
                fields["content"] = _packed(content.part)
                fields["arrays"] = {name: _packed(part) for name, part in content.arrays.items()}
                blobs = content.blobs
            flower: bytes = msgpack.packb(fields, use_bin_type=True)
        except (ValueError, TypeError, OverflowError) as error:
            raise MessageUnsendable(why=str(error)) from error
        if len(flower) > MAX_FLOWER:
            raise MessageUnsendable(why=f"its names and metadata take {len(flower)} bytes; at most {MAX_FLOWER}")
        if len(blobs) > MAX_BLOBS:
            raise MessageUnsendable(why=f"it has {len(blobs)} large array records; at most {MAX_BLOBS}")
        return DumpedMessage(flower, blobs)

    def said(self, message: Message) -> bytes:
        """Return what tells messages of another content apart: all but metadata, large parts by their digests.

        Raises:
            As `dump`.
        """
        try:
            content = self._content(message.content)
        except (ValueError, TypeError, OverflowError) as error:
            raise MessageUnsendable(why=str(error)) from error
        arrays = [[name, _packed(part)] for name, part in content.arrays.items()]
        said: bytes = msgpack.packb([_packed(content.part), arrays], use_bin_type=True)
        return said

    def _content(self, records: RecordDict) -> _Content:
        known = self._contents.get(id(records))
        if known is None:
            known = (records, self._write(records))
            self._contents[id(records)] = known
        return known[1]

    def _write(self, records: RecordDict) -> _Content:
        budget = _Budget(self.inline_limit)
        hollow = content_to_bytes(records)
        if len(hollow) > MAX_CONTENT:
            raise ValueError(f"its records without arrays have {len(hollow)} bytes; at most {MAX_CONTENT}")
        part = hollow if budget.takes(len(hollow)) else self.store.put_bytes(hollow)
        arrays = {name: self._array_part(it, budget) for name, it in records.items() if isinstance(it, ArrayRecord)}
        return _Content(part, arrays)

    def _array_part(self, record: ArrayRecord, budget: _Budget) -> _Part:
        if budget.takes(encoded_size(record)):
            return encode_arrays(record)
        known = self._records.get(id(record))
        if known is None:
            known = (record, write_arrays(record, self.store, release=self.release))
            self._records[id(record)] = known
        return known[1]


def dump_message(
    message: Message, store: BlobStore, *, inline_limit: int = INLINE_LIMIT, release: bool = False
) -> DumpedMessage:
    """Return one message as bytes and blobs; see `MessageDumper`."""
    return MessageDumper(store, inline_limit=inline_limit, release=release).dump(message)


def load_message(flower: bytes, store: BlobStore, *, peer: str = "the other end") -> Message:
    """Return the message; its arrays stay on disk until they are used, so its blobs must stay pinned in the store.

    Raises:
        EnvelopeMalformed: bytes or blobs that are not what they claim to be.
        BlobUnknown: a blob that the store does not hold.
        StorageFailed: a blob that cannot be read.
    """
    try:
        fields = _unpack(flower)
        content = _load_content(fields, store, peer) if "content" in fields else None
        return message_from_parts(fields["head"], content)
    except ValueError as error:
        raise EnvelopeMalformed(peer=peer, why=f"Flower message: {error}") from error


def round_of(content: RecordDict, group_id: str) -> int | None:
    """Return the round of a message, as Flower's strategies write it into its config; None outside one."""
    for record in content.config_records.values():
        number = record.get("server-round")
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    return int(group_id) if group_id.isdigit() else None


def _packed(part: _Part) -> object:
    return [part.digest, part.size] if isinstance(part, BlobRef) else part


def _part(value: object) -> _Part:
    if isinstance(value, bytes):
        return value
    match value:
        case [bytes(digest), int(size)] if len(digest) == 32 and type(size) is int and 0 <= size <= 2**40:
            return BlobRef(digest, size)
    raise ValueError("neither bytes nor a digest and a size")


def _unpack(flower: bytes) -> dict[str, Any]:
    if len(flower) > 2 * MAX_FLOWER:
        raise ValueError(f"{len(flower)} bytes")
    try:
        fields = msgpack.unpackb(flower, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ValueError(f"not msgpack: {error}") from error
    if not isinstance(fields, dict) or type(fields.get("v")) is not int or fields["v"] != VERSION:
        raise ValueError("not of a known version")
    if set(fields) not in ({"v", "head"}, {"v", "head", "content", "arrays"}):
        raise ValueError("unknown or missing fields")
    if not isinstance(fields["head"], bytes):
        raise ValueError("a head that is not bytes")  # noqa: TRY004  (the sender's fault, not the caller's)
    return fields


def _load_content(fields: dict[str, Any], store: BlobStore, peer: str) -> RecordDict:
    records = content_from_bytes(_bytes_of(_part(fields["content"]), store))
    arrays = fields["arrays"]
    hollow = {name for name, record in records.items() if isinstance(record, ArrayRecord)}
    if not isinstance(arrays, dict) or set(arrays) != hollow:
        raise ValueError("the array records are not those of the content")
    if sum(not isinstance(part, bytes) for part in arrays.values()) > MAX_BLOBS:
        raise ValueError(f"more than {MAX_BLOBS} blobs")
    for name in hollow:
        if len(records[name]):
            raise ValueError("arrays in the content")
        part = _part(arrays[name])
        records[name] = decode_arrays(part) if isinstance(part, bytes) else read_arrays(part, store, peer=peer)
    return records


def _bytes_of(part: _Part, store: BlobStore) -> bytes:
    if isinstance(part, bytes):
        return part
    path = store.path(part.digest)
    if part.size > MAX_CONTENT or store.size(part.digest) != part.size:
        raise ValueError(f"a content of {part.size} bytes")
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageFailed(path=path, why=error.strerror or str(error)) from error
