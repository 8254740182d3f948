"""The bytes of messages 0 to 6: golden ones, one canonical form, limits, and whatever else may come."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_common.errors import ArgosyError, SecureMessageMalformed
from argosy_common.secagg.admission import Policy, admit, opened
from argosy_common.secagg.canonical import Message
from argosy_common.secagg.messages import (
    Announcement,
    Answer,
    Certificate,
    Handover,
    Header,
    Prekey,
    PrekeyBatch,
    Prior,
    Signed,
    SignedHeader,
    Vote,
    run_id,
)
from argosy_common.secagg.sealing import fingerprint, public_der, sign

KEYS = [ec.derive_private_key(number, ec.SECP256R1()) for number in range(2, 7)]
DERS = [public_der(key.public_key()) for key in KEYS]
SIGNATURE = bytes(range(70))
PREKEYS = tuple(
    Prekey(identity=der, key=bytes([number]) * 32, index=number, path=(bytes(32),), signature=SIGNATURE)
    for number, der in enumerate(DERS[:4])
)
ANNOUNCED = Announcement(
    coordinator=DERS[4], run=run_id(DERS[4]), round=3, attempt=1, group=2, suite="aes256-ctr", p=65521, A=4, U=3, T=1,
    n_min=3, size=5000, weighting="powers", w_cap=1024, digits=2, slots=8, seed=b"s" * 32, scales=b"\0\0\x80\x3f" * 2,
    fleet_version=7, deadline_s=60.0, instruction=b"i" * 32, fixed=(b"f" * 32,),
    prior=Prior(sid=b"p" * 32, certificate=b"c"), roster=PREKEYS,
)  # fmt: skip
HEADER = Header(
    sid=b"s" * 32, client=1, ephemeral=b"e" * 32, y=b"y" * 32, boxes=(b"a" * 32, b"b" * 32), arrays="arrays",
    metrics="metrics", slots=(("loss", -1), ("classes", 6)),
)  # fmt: skip
SIGNED = SignedHeader(header=HEADER.packed, signature=SIGNATURE)
VOTE = Vote(sid=b"s" * 32, holder=1, root=b"r" * 32, members=(0, 1, 3), complaints=(3,), signature=SIGNATURE)
MESSAGES: list[Message] = [
    PREKEYS[1],
    PrekeyBatch(identity=DERS[0], keys=(b"k" * 32, b"l" * 32), signature=SIGNATURE),
    ANNOUNCED,
    Signed(announcement=ANNOUNCED.packed, signature=SIGNATURE),
    HEADER,
    SIGNED,
    Handover(sid=b"s" * 32, headers=(SIGNED,)),
    VOTE,
    Certificate(votes=(VOTE, VOTE)),
    Answer(sid=b"s" * 32, holder=1, members=(0, 1, 3), total=b"t" * 32, signature=SIGNATURE),
]
GOLDEN = {
    "Prekey": "e17e9c8d1a284c228dffafe10b275068",
    "PrekeyBatch": "ea6c7beccdf49ecd1725a074d6281b2a",
    "Announcement": "5ebf948e139d49d00207770f68c20672",
    "Signed": "15ad22d691a1b7a102eb3d1e6bbfb92a",
    "Header": "d3b9697d23e0e17fb6d4149f4b093577",
    "SignedHeader": "0a7f1377083be1121c249d079733c8c4",
    "Handover": "bfafbf0b5bf769833745456467042f66",
    "Vote": "b05f56a0368b0dc73e9e938d96ec82a8",
    "Certificate": "b8a5f90783eaac33031183c55c777399",
    "Answer": "14b533684aa4add8991460b880fc4848",
}
"""The first half of the SHA-256 of each message's bytes: another means another protocol."""


def name_of(message: Message) -> str:
    """Its class."""
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_the_bytes_are_as_they_were(message: Message) -> None:
    """Boards and coordinators of different versions meet."""
    assert hashlib.sha256(message.packed).hexdigest()[:32] == GOLDEN[name_of(message)]
    assert type(message).parse(message.packed, peer="it") == message


def test_the_sid_is_the_hash_of_the_label_and_message_1() -> None:
    """Section 3."""
    assert ANNOUNCED.sid == hashlib.sha256(b"argosy/secagg/v1" + ANNOUNCED.packed).digest()
    assert ANNOUNCED.changed(scales=b"\0\0\x80\x40" * 2).sid != ANNOUNCED.sid


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_other_bytes_for_the_same_message_are_refused(message: Message) -> None:
    """Fields in another order, or longer forms of numbers and strings: two sids for one message would be two votes."""
    fields = msgpack.unpackb(message.packed, raw=False)
    backwards = msgpack.packb(dict(reversed(fields.items())), use_bin_type=True)
    others = [message.packed + b"\0", message.packed[:-1], *([backwards] if len(fields) > 1 else [])]
    for data in others:
        with pytest.raises(SecureMessageMalformed):
            type(message).parse(data, peer="it")


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_unknown_fields_other_types_and_missing_ones_are_refused(message: Message) -> None:
    """Each field in turn."""
    fields = msgpack.unpackb(message.packed, raw=False)

    def refused(changed: dict[str, Any]) -> None:
        with pytest.raises(SecureMessageMalformed):
            type(message).parse(msgpack.packb(changed, use_bin_type=True), peer="it")

    refused({**fields, "more": 1})
    for name in fields:
        refused({other: value for other, value in fields.items() if other != name})
        odds: list[Any] = [None, 1.5, -1, "x", [[]], {"a": 1}, b"", True]
        for odd in odds:
            of_its_type = isinstance(odd, str | bytes | float) and type(odd) is type(fields[name])
            fits = of_its_type or (name == "prior" and odd is None)
            if not fits:
                refused({**fields, name: odd})


def test_what_is_too_long_is_refused_before_it_is_looked_at() -> None:
    """Nothing is allocated for it."""
    for data in (bytes(5 * 1024 * 1024), "text", None, 7, [b"x"]):
        with pytest.raises(SecureMessageMalformed, match="not bytes, or too many"):
            Vote.parse(data, peer="it")
    endless = VOTE.packed.replace(b"members\x93", b"members\xdd\xff\xff\xff\xff")
    with pytest.raises(SecureMessageMalformed):
        Vote.parse(endless, peer="it")
    with pytest.raises(SecureMessageMalformed):
        Vote.parse(b"\x91" * 100_000, peer="it")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_whatever_comes_is_an_equal_message_or_a_named_error(data: st.DataObject) -> None:
    """Bytes changed, cut, doubled, or spliced from two messages."""
    message = data.draw(st.sampled_from(MESSAGES))
    raw = bytearray(message.packed)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(raw) - 1)) if raw else 0
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "splice"]))
        if what == "flip" and raw:
            raw[at] ^= data.draw(st.integers(1, 255))
        elif what == "cut":
            del raw[at : at + data.draw(st.integers(1, 40))]
        elif what == "insert":
            raw[at:at] = data.draw(st.binary(max_size=40))
        else:
            raw[at:] = data.draw(st.sampled_from(MESSAGES)).packed[at:]
    for kind in {type(message), data.draw(st.sampled_from([type(it) for it in MESSAGES]))}:
        try:
            found = kind.parse(bytes(raw), peer="it")
        except SecureMessageMalformed:
            continue
        assert found.packed == bytes(raw)


ODD = st.one_of(
    st.integers(-2, 2**40),
    st.binary(max_size=40),
    st.just(()),
    st.sampled_from(["chacha20", "equal", "x"]),
    st.floats(),
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(Announcement.model_fields)), ODD, st.integers(0, 4))
def test_a_message_1_changed_anywhere_is_refused_by_name_or_another_round(name: str, value: object, own: int) -> None:
    """Signed by its run's key, so that only what it says can be wrong. Nothing but named errors comes of it."""
    try:
        changed = ANNOUNCED.changed(**{name: value})
    except ValueError:
        return
    signature = sign(KEYS[4], "argosy/secagg/announcement", changed.packed)
    try:
        found = opened(Signed(announcement=changed.packed, signature=signature).packed)
        admit(found, fingerprint(DERS[own]), Policy())
    except ArgosyError:
        pass
    else:
        pytest.fail("no prekey of it is signed by anybody")
    assert (changed.sid == ANNOUNCED.sid) is (changed == ANNOUNCED)
