"""The operator's override: an attempt whose end nobody can show may count as given up (specs/secure-aggregation.md, 3).

It is a signature of the key that signs the fleet lists, on the attempt's sid. In a JSON file, for people and for `jq`:

    {
    "override": "<sid, hexadecimal>",
    "signature": "<ECDSA P-256 with SHA-256, base64 of its DER>"
    }

What it risks: the attempt's sum may be known after all. The next one may be of other devices, and the difference of two
sums is the sum of those that are in one of them only.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from argosy_common.errors import OverrideInvalid
from argosy_common.statement import encoded

PURPOSE = "argosy/secagg/override"
MOST_BYTES = 4096
SID_BYTES = 32
_BEGIN = b'{\n"override": '


@dataclass(frozen=True)
class Override:
    """What the operator signed."""

    sid: bytes
    """Of the attempt."""
    signature: bytes


def sign(sid: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the file of the override of an attempt, signed by the operator's key."""
    signature = key.sign(encoded(PURPOSE, sid), ec.ECDSA(hashes.SHA256()))
    return b'%b"%b",\n"signature": "%b"\n}\n' % (_BEGIN, sid.hex().encode(), base64.b64encode(signature))


def claims_to_be_one(data: bytes) -> bool:
    """Tell whether a file is meant as an override, and not as a fleet list."""
    return data.startswith(_BEGIN)


def verify(data: bytes, operator: ec.EllipticCurvePublicKey, *, where: str) -> Override:
    """Return what a file holds, checked against the operator's key. `where` says in errors which was meant.

    Raises:
        OverrideInvalid: it is none, or another key's.
    """
    if len(data) > MOST_BYTES:
        raise OverrideInvalid(where=where, why=f"it has {len(data)} bytes, and {MOST_BYTES} are the most")
    try:
        fields = json.loads(data)
        found = Override(parse_sid(fields["override"]), base64.b64decode(fields["signature"], validate=True))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise OverrideInvalid(where=where, why="it is not what `argosy fleet override` writes") from None
    if not holds(operator, found.sid, found.signature):
        raise OverrideInvalid(where=where, why="another key than the fleet's operator's signed it, or it was changed")
    return found


def parse_sid(text: str) -> bytes:
    """Read a sid as people write it.

    Raises:
        ValueError: it is none.
    """
    sid = bytes.fromhex(text)
    if len(sid) != SID_BYTES:
        raise ValueError(f"it is not {2 * SID_BYTES} hexadecimal digits")
    return sid


def holds(operator: ec.EllipticCurvePublicKey, sid: bytes, signature: bytes) -> bool:
    """Tell whether a signature is the operator's override of this attempt: what a device decides by."""
    try:
        operator.verify(signature, encoded(PURPOSE, sid), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
