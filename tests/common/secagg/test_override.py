"""The operator's override of an attempt: for that sid, by that key, and nothing else."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.errors import OverrideInvalid
from argosy_common.secagg import fleet, override, sealing

OPERATOR = ec.derive_private_key(7, ec.SECP256R1())
STRANGER = ec.derive_private_key(8, ec.SECP256R1())
SID = bytes(range(32))
SIGNED = override.sign(SID, OPERATOR)


def check(data: bytes) -> override.Override:
    return override.verify(data, OPERATOR.public_key(), where="of this test")


def test_what_was_signed_holds_for_its_attempt_only() -> None:
    found = check(SIGNED)
    assert found.sid == SID
    assert override.holds(OPERATOR.public_key(), SID, found.signature)
    assert not override.holds(OPERATOR.public_key(), bytes(32), found.signature)
    assert not override.holds(STRANGER.public_key(), SID, found.signature)
    assert not override.holds(OPERATOR.public_key(), SID, b"")


def test_it_is_the_signature_of_the_specification() -> None:
    """Under the purpose, over the sid."""
    assert sealing.signed(OPERATOR.public_key(), check(SIGNED).signature, "argosy/secagg/override", SID)
    signature = sealing.sign(OPERATOR, "argosy/secagg/override", SID)
    assert override.holds(OPERATOR.public_key(), SID, signature)
    assert not override.holds(OPERATOR.public_key(), SID, sealing.sign(OPERATOR, "argosy/secagg/vote", SID))


def test_it_is_told_from_a_fleet_list_by_its_content() -> None:
    listed = fleet.sign(fleet.compose(1, None, "2026-05-01T12:00:00Z", []), OPERATOR)
    assert override.claims_to_be_one(SIGNED)
    assert not override.claims_to_be_one(listed)
    assert json.loads(SIGNED)["override"] == SID.hex()


def test_what_was_changed_or_signed_by_somebody_else_is_refused() -> None:
    other = SIGNED.replace(SID.hex().encode(), bytes(32).hex().encode())
    for data in (other, override.sign(SID, STRANGER)):
        with pytest.raises(OverrideInvalid, match="another key"):
            check(data)


@given(
    st.binary(max_size=100)
    | st.sampled_from([b"{}", b"[]", b'{"override": 1, "signature": ""}', SIGNED[:-3], b"x" * 5000])
    | st.builds(
        lambda sid: json.dumps({"override": sid.hex(), "signature": base64.b64encode(b"s").decode()}).encode(),
        st.binary(max_size=31),
    )
)
def test_rubbish_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(OverrideInvalid):
        check(data)
