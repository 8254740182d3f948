"""The envelope: one versioned msgpack map around everything but chunks (specs/transport.md, "Envelope").

Parsing is strict and bounded: the total length is checked before anything is unpacked, every field against its own
limit, and an unknown key refuses the whole. Nothing here trusts the sender.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

import msgpack

from argosy_common.errors import EnvelopeMalformed, VersionUnknown

VERSION = 1
MAX_BODY = 64 * 1024
MAX_ENVELOPE = MAX_BODY + 16 * 1024
MAX_BLOBS = 128
MAX_NUMBER = 2**63 - 1

_ID_BYTES = 16
_KIND = re.compile(r"[a-z][a-z-]{0,31}\Z")


def new_id() -> str:
    """Return a fresh message id: 128 random bits, as 32 hex digits."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class Envelope:
    """One message.

    Attributes:
        kind: what it is; see `argosy_common.wire.bodies`.
        body: at most 64 kB; larger things travel as blobs.
        id: 32 hex digits (16 bytes on the wire); duplicates are recognised by it.
        run: the run it belongs to.
        round: the round it belongs to.
        reply_to: the id of the message it answers.
        expires_in: seconds from its sending until it is worthless; relative, because a device's clock is not trusted.
        blobs: SHA-256 digests (32 bytes each) of the blobs it refers to.
    """

    kind: str
    body: bytes = b""
    id: str = field(default_factory=new_id)
    run: int | None = None
    round: int | None = None
    reply_to: str | None = None
    expires_in: float | None = None
    blobs: tuple[bytes, ...] = ()


def encode(envelope: Envelope) -> bytes:
    """Return the wire form. Absent fields are left out.

    Raises:
        ValueError: the body is over `MAX_BODY`; our own mistake, since it should have been a blob.
    """
    if len(envelope.body) > MAX_BODY:
        raise ValueError(f"a body of {len(envelope.body)} bytes; over {MAX_BODY} it travels as a blob")
    fields: dict[str, object] = {"v": VERSION, "id": bytes.fromhex(envelope.id), "kind": envelope.kind}
    optional: dict[str, object | None] = {
        "run": envelope.run,
        "round": envelope.round,
        "re": bytes.fromhex(envelope.reply_to) if envelope.reply_to else None,
        "ttl": envelope.expires_in,
        "blobs": list(envelope.blobs) or None,
        "body": envelope.body or None,
    }
    fields.update({name: value for name, value in optional.items() if value is not None})
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


def decode(data: bytes, *, peer: str) -> Envelope:
    """Return the envelope in `data`, which came from `peer` (named in errors only).

    Raises:
        EnvelopeMalformed: it is too long, truncated, not msgpack, or a field is missing, unknown or out of bounds.
        VersionUnknown: it is an envelope of another version.
    """
    if len(data) > MAX_ENVELOPE:
        raise EnvelopeMalformed(peer=peer, why=f"{len(data)} bytes, over the limit of {MAX_ENVELOPE}")
    fields = _unpack(data, peer)
    version = fields.pop("v", None)
    if type(version) is not int:
        raise EnvelopeMalformed(peer=peer, why="it has no version")
    if version != VERSION:
        raise VersionUnknown(peer=peer, version=version, supported=VERSION)
    reader = _Fields(fields, peer)
    envelope = Envelope(
        id=reader.identifier("id"),
        kind=reader.text("kind", _KIND),
        run=reader.number("run"),
        round=reader.number("round"),
        reply_to=reader.optional_identifier("re"),
        expires_in=reader.seconds("ttl"),
        blobs=reader.digests("blobs"),
        body=reader.body("body"),
    )
    reader.nothing_left()
    return envelope


def _unpack(data: bytes, peer: str) -> dict[str, object]:
    try:
        fields = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_map_len=16,
            max_array_len=MAX_BLOBS,
            max_str_len=64,
            max_bin_len=MAX_BODY,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise EnvelopeMalformed(peer=peer, why=str(error) or type(error).__name__) from None
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise EnvelopeMalformed(peer=peer, why="it is not a map with text keys")
    return fields


class _Fields:
    """Takes fields out of the map one by one, each against its limit."""

    def __init__(self, fields: dict[str, object], peer: str) -> None:
        self._fields = fields
        self._peer = peer

    def _refuse(self, why: str) -> EnvelopeMalformed:
        return EnvelopeMalformed(peer=self._peer, why=why)

    def optional_identifier(self, name: str) -> str | None:
        value = self._fields.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, bytes) or len(value) != _ID_BYTES:
            raise self._refuse(f"the field '{name}' is malformed")
        return value.hex()

    def identifier(self, name: str) -> str:
        value = self.optional_identifier(name)
        if value is None:
            raise self._refuse(f"the field '{name}' is missing")
        return value

    def text(self, name: str, form: re.Pattern[str]) -> str:
        value = self._fields.pop(name, None)
        if value is None:
            raise self._refuse(f"the field '{name}' is missing")
        if not isinstance(value, str) or not form.match(value):
            raise self._refuse(f"the field '{name}' is malformed")
        return value

    def number(self, name: str) -> int | None:
        value = self._fields.pop(name, None)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= MAX_NUMBER:
            raise self._refuse(f"the field '{name}' is malformed")
        return value

    def seconds(self, name: str) -> float | None:
        value = self._fields.pop(name, None)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0.0 <= float(str(value)) <= 1e9:
            raise self._refuse(f"the field '{name}' is malformed")
        return float(str(value))

    def digests(self, name: str) -> tuple[bytes, ...]:
        value = self._fields.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(d, bytes) and len(d) == 32 for d in value):
            raise self._refuse(f"the field '{name}' is malformed")
        return tuple(value)

    def body(self, name: str) -> bytes:
        value = self._fields.pop(name, b"")
        if not isinstance(value, bytes):
            raise self._refuse(f"the field '{name}' is malformed")
        return value

    def nothing_left(self) -> None:
        if self._fields:
            raise self._refuse(f"unknown fields: {', '.join(sorted(self._fields))[:80]}")
