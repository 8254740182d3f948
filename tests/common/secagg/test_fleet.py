"""The fleet list: what the operator signed is taken, anything else is refused, and nothing goes back."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.errors import FleetListInvalid, FleetListOutdated
from argosy_common.secagg import fleet
from argosy_common.secagg.fleet import (
    FleetList,
    Member,
    compose,
    follow,
    named_operator,
    parse,
    sign,
    successor,
    verify,
)

OPERATOR = ec.derive_private_key(7, ec.SECP256R1())
PINNED = OPERATOR.public_key()
STRANGER = ec.derive_private_key(8, ec.SECP256R1())
CREATED = "2026-05-01T12:00:00Z"
KITCHEN, ATTIC = (
    Member(hashlib.sha256(b"kitchen").digest(), "kitchen"),
    Member(hashlib.sha256(b"attic").digest(), "Küche"),
)
FIRST = compose(1, None, CREATED, [KITCHEN, ATTIC])
SIGNED = sign(FIRST, OPERATOR)

members = st.builds(
    Member,
    st.binary(min_size=32, max_size=32),
    st.text(min_size=1, max_size=fleet.MAX_NAME).filter(str.isprintable),
)


def check(data: bytes) -> FleetList:
    return verify(data, PINNED, where="of this test")


def named(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return how a list names the key that signed it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(serialization.Encoding.DER, form))


def signed_as(payload: bytes, label: bytes = fleet.LABEL) -> bytes:
    """Return a file whose signature holds, whatever its payload is: what a careless signer would make."""
    signature = base64.b64encode(OPERATOR.sign(label + payload, ec.ECDSA(hashes.SHA256())))
    return b'{\n"fleet": %b,\n"operator": "%b",\n"signature": "%b"\n}\n' % (payload, named(OPERATOR), signature)


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_a_signed_list_says_what_was_signed() -> None:
    found = check(SIGNED)
    assert found == parse(FIRST, where="")
    assert (found.version, found.previous, found.members) == (1, None, (KITCHEN, ATTIC))
    assert found.digest == hashlib.sha256(FIRST).digest()
    assert found.lists(KITCHEN.fingerprint)
    assert not found.lists(hashlib.sha256(b"cellar").digest())
    assert not found.lists(KITCHEN.fingerprint[:8]), "a device id is no identity"
    assert KITCHEN.device == KITCHEN.fingerprint.hex()[:16]


def test_a_list_is_json_that_a_person_can_read() -> None:
    told = json.loads(SIGNED)
    assert [member["name"] for member in told["fleet"]["members"]] == ["kitchen", "Küche"]
    assert "Küche" in SIGNED.decode()
    assert SIGNED.decode().count("\n    {") == 2, "one line a member"


def test_the_golden_bytes_of_a_payload() -> None:
    """Lists that were signed once stay valid: the form never changes under `argosy/fleet/v1`."""
    member = Member(bytes(range(32)), "pi")
    assert compose(2, bytes(32), CREATED, [member]).decode() == (
        '{\n  "version": 2,\n'
        f'  "previous": "{"00" * 32}",\n'
        '  "created": "2026-05-01T12:00:00Z",\n'
        '  "members": [\n'
        '    {"fingerprint": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "name": "pi"}\n'
        "  ]\n}"
    )
    golden = (
        b'{\n"fleet": {"version":1,"previous":null,"created":"2026-05-01T12:00:00Z","members":[]},\n'
        b'"operator": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEjlM7b6C/e0YluzBmfAH7YH75'
        b'+LioD+9bMAYocDGHsqNz6x294DMYNm0Gn4Om9ZAAU8c2M8sEGyHFXhqGwfQAtA==",\n'
        b'"signature": "MEYCIQC6ztTJSQcjRQLzRWesPnWo0TvyXsDHOyCFzxRvLmyOjgIhAMqPyruf'
        b'0kx6RL4Dr10qKeDryO0L7C8c9qbr9+JIQOda"\n}\n'
    )
    assert check(golden).members == ()


@given(st.lists(members, max_size=6, unique_by=lambda member: member.fingerprint), st.integers(2, fleet.MAX_VERSION))
def test_any_list_survives_its_file(listed: list[Member], version: int) -> None:
    found = check(sign(compose(version, bytes(32), CREATED, listed), OPERATOR))
    assert (found.version, found.members) == (version, tuple(listed))


def test_a_draft_may_be_written_by_hand_and_is_carried_as_it_was_written() -> None:
    draft = json.dumps(json.loads(FIRST), indent=7).encode() + b"\n\n"
    found = check(sign(draft, OPERATOR))
    assert found.members == (KITCHEN, ATTIC)
    assert found.digest == hashlib.sha256(draft.strip()).digest()


def test_the_key_that_a_list_names_is_told_to_whoever_has_pinned_none() -> None:
    assert named_operator(SIGNED, where="") == PINNED


# --- what is refused -------------------------------------------------------------------------------------------------


def test_another_operators_list_is_refused_by_that_name() -> None:
    with pytest.raises(FleetListInvalid, match="another operator's key"):
        check(sign(FIRST, STRANGER))


def test_a_stranger_who_names_the_pinned_key_is_refused() -> None:
    forged = sign(FIRST, STRANGER)
    with pytest.raises(FleetListInvalid, match="changed after"):
        check(forged.replace(named(STRANGER), named(OPERATOR)))


def test_a_signature_of_the_operator_for_another_purpose_is_refused() -> None:
    with pytest.raises(FleetListInvalid, match="changed after"):
        check(signed_as(FIRST, label=b"argosy/enrol/v1"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version": 1', b'"version": 2'),
        (b'"name": "kitchen"', b'"name": "Kitchen"'),
        (KITCHEN.fingerprint.hex().encode(), hashlib.sha256(b"mine").hexdigest().encode()),
        (b'"created": "2026', b'"created": "2027'),
        (b'"version": 1', b'"version":  1'),
        (b'"version": 1,', b'"version": 1,"version": 1,'),
    ],
    ids=["version", "name", "fingerprint", "time", "a space", "a field twice"],
)
def test_a_list_that_was_changed_is_refused(old: bytes, new: bytes) -> None:
    assert old in SIGNED
    with pytest.raises(FleetListInvalid, match="changed after the operator signed"):
        check(SIGNED.replace(old, new, 1))


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_changes_nothing(place: int, difference: int) -> None:
    """Only the key that the list names, and the unused bits of base64, may change without harm."""
    changed = bytearray(SIGNED)
    changed[place] ^= difference
    try:
        assert check(bytes(changed)) == check(SIGNED)
        assert place > SIGNED.index(b'"operator"')
    except FleetListInvalid:
        pass


@given(st.binary(max_size=200))
def test_rubbish_is_refused_by_name(data: bytes) -> None:
    for step in (check, lambda found: parse(found, where=""), lambda found: named_operator(found, where="")):
        with pytest.raises(FleetListInvalid):
            step(data)


@pytest.mark.parametrize("form", [FIRST, SIGNED[:-1], SIGNED + b"\n", b" " + SIGNED, SIGNED.replace(b"\n", b"\r\n")])
def test_another_form_is_refused(form: bytes) -> None:
    with pytest.raises(FleetListInvalid, match="not of the form"):
        check(form)


def test_a_file_that_jq_has_written_anew_is_refused() -> None:
    with pytest.raises(FleetListInvalid, match="not of the form"):
        check(json.dumps(json.loads(SIGNED), indent=2).encode())


def test_what_is_too_large_is_refused_unread() -> None:
    for step in (check, lambda data: parse(data, where="")):
        with pytest.raises(FleetListInvalid, match="are the most"):
            step(b" " * (fleet.MAX_BYTES + 1))


def _changed(**fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda told: told.update(fields)


def _member(**fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda told: told["members"][0].update(fields)


DEFECTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a field more": (_changed(extra=1), "exactly the fields"),
    "a field less": (lambda told: told.pop("created"), "exactly the fields"),
    "version 0": (_changed(version=0), "version"),
    "a version that is true": (_changed(version=True), "version"),
    "a version with a point": (_changed(version=1.0), "version"),
    "a version as text": (_changed(version="1"), "version"),
    "an enormous version": (_changed(version=2**53), "version"),
    "version 1 with a list before it": (_changed(previous="0" * 64), "previous"),
    "version 2 without a list before it": (_changed(version=2), "previous"),
    "a list before it that is no digest": (_changed(version=2, previous="0" * 63), "previous"),
    "capital digits": (_changed(version=2, previous="A" * 64), "previous"),
    "no time": (_changed(created="yesterday"), "created"),
    "a number for a time": (_changed(created=0), "created"),
    "members as text": (_changed(members="kitchen"), "members"),
    "a member as text": (_changed(members=["kitchen"]), "member 1 is not"),
    "too many members": (_changed(members=[0] * (fleet.MAX_MEMBERS + 1)), "at most 10000"),
    "a member with more": (_member(site="x"), "member 1 does not"),
    "a short fingerprint": (_member(fingerprint="ab" * 8), "member 1: fingerprint"),
    "a fingerprint and a line break": (_member(fingerprint="0" * 64 + "\n"), "member 1: fingerprint"),
    "no name": (_member(name=""), "member 1: name"),
    "a long name": (_member(name="x" * 129), "member 1: name"),
    "a name that orders the terminal": (_member(name="\x1b[2J"), "member 1: name"),
    "half a character": (_member(name="\ud800"), "member 1: name"),
    "a member twice": (lambda told: told["members"].append(told["members"][0] | {"name": "again"}), "twice"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_payload_that_breaks_a_rule_is_refused_though_its_signature_holds(defect: str) -> None:
    change, named = DEFECTS[defect]
    told = json.loads(FIRST)
    change(told)
    payload = json.dumps(told).encode()
    with pytest.raises(FleetListInvalid, match=named):
        check(signed_as(payload))
    with pytest.raises(FleetListInvalid, match=named):
        sign(payload, OPERATOR)


@pytest.mark.parametrize(
    "payload",
    [
        FIRST.replace(b'"version": 1', b'"version": 1, "version": 1'),
        FIRST.replace(b'"name": "kitchen"', b'"name": "kitchen", "name": "attic"'),
        FIRST.replace(b'"version": 1', b'"version": ' + b"9" * 5000),
        FIRST.replace(b'"kitchen"', b'"\xff"'),
        b'{"version": ' + b"[" * 100_000 + b"}",
        FIRST + b', {"x": 1}',
        b"{}",
    ],
    ids=[
        "a field twice",
        "a member's field twice",
        "a number without end",
        "no UTF-8",
        "depth",
        "two objects",
        "empty",
    ],
)
def test_json_made_to_mislead_is_refused(payload: bytes) -> None:
    with pytest.raises(FleetListInvalid):
        check(signed_as(payload))


def test_a_list_that_names_a_key_of_another_curve_is_refused() -> None:
    with pytest.raises(FleetListInvalid, match="P-256"):
        named_operator(SIGNED.replace(named(OPERATOR), named(ec.generate_private_key(ec.SECP384R1()))), where="")
    with pytest.raises(FleetListInvalid, match="cannot be read"):
        named_operator(SIGNED.replace(b'"operator": "M', b'"operator": "A'), where="")


def test_as_many_devices_as_a_file_holds_are_signed_and_more_are_refused() -> None:
    many = [Member(hashlib.sha256(b"%d" % number).digest(), f"pi-{number}") for number in range(fleet.MAX_MEMBERS)]
    assert len(check(sign(compose(1, None, CREATED, many[:9000]), OPERATOR)).members) == 9000
    with pytest.raises(FleetListInvalid, match="are the most"):
        sign(compose(1, None, CREATED, many), OPERATOR)


# --- one after the other ---------------------------------------------------------------------------------------------


def test_lists_are_followed_one_after_the_other_and_again() -> None:
    first = check(SIGNED)
    second = check(sign(successor(first, CREATED, [KITCHEN]), OPERATOR))
    floor = follow(None, first)
    assert floor == (1, first.digest)
    assert follow(floor, first) == floor
    assert follow(floor, second) == (2, second.digest)
    assert follow(None, second) == (2, second.digest)


def test_a_device_that_slept_through_a_version_takes_the_newest() -> None:
    first = check(SIGNED)
    second = check(sign(successor(first, CREATED, [KITCHEN]), OPERATOR))
    third = check(sign(successor(second, CREATED, [KITCHEN, ATTIC]), OPERATOR))
    assert follow((1, first.digest), third) == (3, third.digest)


def test_an_older_list_is_refused() -> None:
    first = check(SIGNED)
    second = check(sign(successor(first, CREATED, []), OPERATOR))
    with pytest.raises(FleetListOutdated, match="version 1 is refused: version 2 is known already"):
        follow((2, second.digest), first)


def test_another_list_of_the_same_version_is_refused() -> None:
    other = check(sign(compose(1, None, CREATED, [ATTIC]), OPERATOR))
    with pytest.raises(FleetListOutdated, match="another list of that version"):
        follow((1, check(SIGNED).digest), other)


def test_the_next_list_of_another_branch_is_refused() -> None:
    other = check(sign(compose(1, None, CREATED, [ATTIC]), OPERATOR))
    with pytest.raises(FleetListOutdated, match="does not follow"):
        follow((1, check(SIGNED).digest), check(sign(successor(other, CREATED, [KITCHEN]), OPERATOR)))
