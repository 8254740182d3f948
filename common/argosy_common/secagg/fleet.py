"""The fleet list: which devices the operator vouches for (specs/secure-aggregation.md, 2).

The coordinator's authority is online and could mint devices, so it cannot say who a device's peers are. The operator
does, with a key that lives elsewhere: each list names every device by its full identity fingerprint, has the next
version, and holds the digest of the list before it.

A list is a JSON file for people and for `jq`:

    {
    "fleet": {"version": …, "previous": …, "created": …, "members": […]},
    "operator": "<the operator's public key, base64 of its DER>",
    "signature": "<ECDSA P-256 with SHA-256 over LABEL and the payload, base64 of its DER>"
    }

The payload is what stands after `"fleet": `, byte for byte, so that nothing depends on how anybody writes JSON; its
SHA-256 names the list. A draft is a payload alone. `operator` is a convenience for whoever has pinned no key yet, and
worth nothing without a pin.

A device goes `verify`, `follow`, `FleetList.lists`, in this order.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from argosy_common.errors import FleetListInvalid, FleetListOutdated

LABEL = b"argosy/fleet/v1"
MAX_BYTES = 1024 * 1024
"""Of a file or a draft; more is refused unread."""
MAX_MEMBERS = 10_000
MAX_NAME = 128
MAX_VERSION = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exact."""

_FILE = re.compile(
    rb'\{\n"fleet": (\{.*\}),\n"operator": "([A-Za-z0-9+/=]{1,256})",\n"signature": "([A-Za-z0-9+/=]{1,128})"\n\}\n',
    re.DOTALL,
)
_FIELDS = ("version", "previous", "created", "members")
_MEMBER_FIELDS = ("fingerprint", "name")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)

Floor = tuple[int, bytes]
"""The version and the digest of the newest list that a device has followed; it never goes back."""


@dataclass(frozen=True)
class Member:
    """A device on the list."""

    fingerprint: bytes
    """SHA-256 of its identity key's DER SubjectPublicKeyInfo; its first 8 bytes are the device id."""
    name: str
    """What people call it. Says nothing about who it is."""

    @property
    def device(self) -> str:
        """The device id."""
        return self.fingerprint[:8].hex()


@dataclass(frozen=True)
class FleetList:
    """A list, or a draft of one; only `verify` tells that it is the operator's."""

    version: int
    previous: bytes | None
    """The digest of the list before it; None for version 1, and only then."""
    created: str
    """When it was signed, by the operator's clock. For people."""
    members: tuple[Member, ...]
    digest: bytes
    """SHA-256 of the payload, which names the list."""

    @cached_property
    def fingerprints(self) -> frozenset[bytes]:
        """The members' fingerprints."""
        return frozenset(member.fingerprint for member in self.members)

    def lists(self, fingerprint: bytes) -> bool:
        """Tell whether the device with this full identity fingerprint (32 bytes) is on the list."""
        return fingerprint in self.fingerprints


# --- the operator's side ---------------------------------------------------------------------------------------------


def compose(version: int, previous: bytes | None, created: str, members: Iterable[Member]) -> bytes:
    """Return the payload of a list, one line a member: what a draft file holds, and what `sign` takes."""
    head = {"version": version, "previous": None if previous is None else previous.hex(), "created": created}
    fields = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    lines = [
        json.dumps({"fingerprint": each.fingerprint.hex(), "name": each.name}, ensure_ascii=False) for each in members
    ]
    listed = "[\n    {}\n  ]".format(",\n    ".join(lines)) if lines else "[]"
    return ("{\n" + ",\n".join([*fields, f'  "members": {listed}']) + "\n}").encode()


def successor(current: FleetList | None, created: str, members: Iterable[Member]) -> bytes:
    """Return the payload of the list that follows `current`, or of the first one."""
    if current is None:
        return compose(1, None, created, members)
    return compose(current.version + 1, current.digest, created, members)


def sign(payload: bytes, key: ec.EllipticCurvePrivateKey, *, where: str = "to be signed") -> bytes:
    """Return the file of a list with this payload, signed by the operator's key.

    Raises:
        FleetListInvalid: the payload is none, or the file would be too large; nobody would take it.
    """
    payload = payload.strip()
    parse(payload, where=where)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(LABEL + payload, ec.ECDSA(hashes.SHA256()))
    data = b'{\n"fleet": %b,\n"operator": "%b",\n"signature": "%b"\n}\n' % (
        payload,
        base64.b64encode(public),
        base64.b64encode(signature),
    )
    _open(data, where)
    return data


# --- everybody's side ------------------------------------------------------------------------------------------------


def verify(data: bytes, operator: ec.EllipticCurvePublicKey, *, where: str) -> FleetList:
    """Check a list against the operator's pinned key, and return it. `where` says in errors which list was meant.

    Raises:
        FleetListInvalid: it is too large, not of the one form, signed by another key or not as it was signed, or its
            payload breaks a rule. Whoever sees this keeps what it had before.
    """
    # 1. Its size, before anything is made of it; then its form, which tells where the signed bytes begin and end.
    payload, told, signature = _open(data, where)
    # 2. The signature under the pinned key, before any JSON is read. The key that the file names is only told.
    try:
        operator.verify(signature, LABEL + payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        other = told != operator.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        why = "another operator's key signed it" if other else "it was changed after the operator signed it"
        raise FleetListInvalid(where=where, why=why) from None
    # 3. The payload's own rules. That it follows what was known before is for `follow`.
    return parse(payload, where=where)


def follow(known: Floor | None, new: FleetList) -> Floor:
    """Return the floor after a verified list was taken. What to keep: (version, digest).

    A version may be skipped, since a device may sleep through one: then the operator's signature alone is the link.

    Raises:
        FleetListOutdated: it is older than what is known, another list of the same version, or the next version with
            another list before it. The floor stays.
    """
    if known is not None:
        version, digest = known
        if new.version < version:
            raise FleetListOutdated(found=new.version, why=f"version {version} is known already")
        if new.version == version and new.digest != digest:
            raise FleetListOutdated(found=new.version, why="another list of that version is known already")
        if new.version == version + 1 and new.previous != digest:
            raise FleetListOutdated(found=new.version, why="it does not follow the list before it that is known")
    return new.version, new.digest


def named_operator(data: bytes, *, where: str) -> ec.EllipticCurvePublicKey:
    """Return the key that a list says it is signed with: for trust on first use, where no device's secret hangs on it.

    Raises:
        FleetListInvalid: it is not of the one form, or names no P-256 key.
    """
    _, told, _ = _open(data, where)
    try:
        key = serialization.load_der_public_key(told)
    except (ValueError, UnsupportedAlgorithm):
        raise FleetListInvalid(where=where, why="the operator's key in it cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FleetListInvalid(where=where, why="the operator's key in it is not a P-256 key")
    return key


def read(data: bytes, *, where: str) -> FleetList:
    """Return a signed list, checked against the key that it names itself: for a coordinator, which decides nothing.

    Raises:
        FleetListInvalid: as of `named_operator` and `verify`.
    """
    return verify(data, named_operator(data, where=where), where=where)


def parse(payload: bytes, *, where: str) -> FleetList:
    """Read a payload or a draft. Says nothing about who made it.

    Raises:
        FleetListInvalid: it is too large, no JSON, or breaks a rule; `why` names the field.
    """
    try:
        return _read(payload)
    except (ValueError, RecursionError) as error:
        raise FleetListInvalid(where=where, why=error) from None


def _open(data: bytes, where: str) -> tuple[bytes, bytes, bytes]:
    """Return the payload, the operator's key as told, and the signature."""
    if len(data) > MAX_BYTES:
        raise FleetListInvalid(where=where, why=f"it has {len(data)} bytes, and {MAX_BYTES} are the most")
    match = _FILE.fullmatch(data)
    if match is None:
        raise FleetListInvalid(where=where, why="it is not of the form that `argosy fleet sign` writes")
    try:
        return match[1], base64.b64decode(match[2], validate=True), base64.b64decode(match[3], validate=True)
    except ValueError:
        raise FleetListInvalid(where=where, why="its signature cannot be read") from None


def _read(payload: bytes) -> FleetList:
    if len(payload) > MAX_BYTES:
        raise ValueError(f"it has {len(payload)} bytes, and {MAX_BYTES} are the most")
    fields = _object(json.loads(payload.decode(), object_pairs_hook=_once), _FIELDS, "the list")
    version, previous, created, members = (fields[name] for name in _FIELDS)
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ValueError("version is not a whole number from 1 on")
    if (previous is None) != (version == 1):
        raise ValueError("previous is null in version 1 and in no other")
    if not isinstance(created, str) or not _TIME.fullmatch(created):
        raise ValueError("created is not a time like 2026-05-01T12:00:00Z")
    if not isinstance(members, list) or len(members) > MAX_MEMBERS:
        raise ValueError(f"members is not a list of at most {MAX_MEMBERS}")
    found = FleetList(
        version=version,
        previous=None if previous is None else _digest(previous, "previous"),
        created=created,
        members=tuple(_member(each, number) for number, each in enumerate(members, start=1)),
        digest=hashlib.sha256(payload).digest(),
    )
    if len(found.fingerprints) != len(found.members):
        raise ValueError("a fingerprint is there twice")
    return found


def _member(value: object, number: int) -> Member:
    fields = _object(value, _MEMBER_FIELDS, f"member {number}")
    name = fields["name"]
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"member {number}: name is not a text of 1 to {MAX_NAME} printable characters")
    return Member(_digest(fields["fingerprint"], f"member {number}: fingerprint"), name)


def _object(value: object, names: tuple[str, ...], what: str) -> Mapping[str, object]:
    """Return the fields of a JSON object that has these and no others."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")  # noqa: TRY004  (`parse` names what a file holds, not types)
    if set(value) != set(names):
        raise ValueError(f"{what} does not have exactly the fields {', '.join(names)}")
    return value


def _digest(value: object, what: str) -> bytes:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{what} is not 64 hexadecimal digits")
    return bytes.fromhex(value)


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Refuse a field that is there twice: readers differ in which of them they believe."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields
