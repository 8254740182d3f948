"""A Flower message as a few bytes and some blobs.

The bytes are a msgpack map `{"v", "head", "content", "arrays"}`: Flower's protobuf of the metadata or the error, that
of the records with all array records emptied, and for each array record its bytes or its blob's `[digest, size]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import Message

if TYPE_CHECKING:
    from argosy_common.blobs import BlobRef, BlobStore

INLINE_LIMIT = 16 * 1024
"""Parts up to this many bytes, all together, stay in the message."""


@dataclass(frozen=True)
class DumpedMessage:
    """A message ready to travel: `flower` (at most 40 kB), and the blobs of the store that it refers to."""

    flower: bytes
    blobs: tuple[BlobRef, ...]


class MessageDumper:
    """Writes messages that may share content: a `RecordDict` or `ArrayRecord` that comes again is not written again.

    Use one for the messages of one phase; what it was given must not change while it is used. With `release`, array
    records give up their memory once they are in the store and read from it from then on, so their blobs must stay.
    """

    def __init__(self, store: BlobStore, *, inline_limit: int = INLINE_LIMIT, release: bool = False) -> None: ...

    def dump(self, message: Message) -> DumpedMessage:
        """Return `message` as bytes and blobs.

        Raises:
            MessageUnsendable: a value that does not fit Flower's protobuf, or too many array records.
            DiskFull, StorageFailed: from the store.
        """
        raise NotImplementedError


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
    """
    raise NotImplementedError
