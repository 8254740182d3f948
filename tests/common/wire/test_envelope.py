"""Envelopes: what is sent is what is read, and nothing else is read at all (specs/transport.md, "Envelope")."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.errors import EnvelopeMalformed, VersionUnknown
from argosy_common.wire.envelope import MAX_BODY, MAX_ENVELOPE, Envelope, decode, encode, new_id

IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)
ENVELOPES = st.builds(
    Envelope,
    kind=st.from_regex(r"[a-z][a-z-]{0,31}", fullmatch=True),
    body=st.binary(max_size=2000),
    id=IDS,
    run=st.none() | st.integers(0, 2**63 - 1),
    round=st.none() | st.integers(0, 10**6),
    reply_to=st.none() | IDS,
    expires_in=st.none() | st.floats(0, 1e9),
    blobs=st.lists(st.binary(min_size=32, max_size=32), max_size=5).map(tuple),
)
GOLDEN = Envelope(kind="accepted", id="ab" * 16, reply_to="cd" * 16, run=7, expires_in=1.5, blobs=(b"\x01" * 32,))


def fields(**changes: object) -> bytes:
    """Return a valid envelope's bytes with some fields changed; None removes one."""
    whole: dict[str, object] = msgpack.unpackb(encode(GOLDEN))
    whole.update(changes)
    packed: bytes = msgpack.packb({name: value for name, value in whole.items() if value is not None})
    return packed


@given(ENVELOPES)
def test_what_is_encoded_is_decoded(envelope: Envelope) -> None:
    assert decode(encode(envelope), peer="p") == envelope


def test_the_bytes_on_the_wire_are_these() -> None:
    assert encode(Envelope(kind="done", id="00" * 16, body=b"\x80")) == (
        b"\x84\xa1v\x01\xa2id\xc4\x10" + bytes(16) + b"\xa4kind\xa4done\xa4body\xc4\x01\x80"
    )


@given(st.binary(max_size=400))
def test_rubbish_is_refused_by_name(data: bytes) -> None:
    with pytest.raises((EnvelopeMalformed, VersionUnknown)):
        decode(data, peer="p")


def test_every_truncation_is_refused() -> None:
    whole = encode(GOLDEN)
    for length in range(len(whole)):
        with pytest.raises(EnvelopeMalformed):
            decode(whole[:length], peer="p")


@given(st.data())
def test_a_flipped_byte_never_raises_anything_else(data: st.DataObject) -> None:
    whole = bytearray(encode(GOLDEN))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(EnvelopeMalformed, VersionUnknown):
        decode(bytes(whole), peer="p")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"id": b"short"}, "'id'"),
        ({"id": "ab" * 16}, "'id'"),
        ({"id": None}, "'id'"),
        ({"id": 5}, "'id'"),
        ({"kind": "Bad Kind"}, "'kind'"),
        ({"kind": None}, "'kind'"),
        ({"run": -1}, "'run'"),
        ({"run": True}, "'run'"),
        ({"run": 2**64 - 1}, "'run'"),
        ({"round": "one"}, "'round'"),
        ({"re": b"z" * 17}, "'re'"),
        ({"ttl": -0.1}, "'ttl'"),
        ({"ttl": float("nan")}, "'ttl'"),
        ({"ttl": float("inf")}, "'ttl'"),
        ({"ttl": "soon"}, "'ttl'"),
        ({"blobs": [b"short"]}, "'blobs'"),
        ({"blobs": "no list"}, "'blobs'"),
        ({"body": "text"}, "'body'"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, object], word: str) -> None:
    with pytest.raises(EnvelopeMalformed) as caught:
        decode(fields(**changes), peer="board")
    assert word in caught.value.message
    assert "board" in caught.value.message


def test_another_version_is_told_apart_from_rubbish() -> None:
    with pytest.raises(VersionUnknown) as caught:
        decode(fields(v=2), peer="p")
    assert caught.value.facts["version"] == "2"


def test_an_oversize_envelope_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(EnvelopeMalformed, match="over the limit"):
        decode(b"\xc1" * (MAX_ENVELOPE + 1), peer="p")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(EnvelopeMalformed):
        decode(b"\x81\xa1v" + b"\x91" * 5000 + b"\x01", peer="p")


def test_a_body_over_the_limit_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="travels as a blob"):
        encode(Envelope(kind="reply", body=b"\0" * (MAX_BODY + 1)))


def test_ids_are_fresh() -> None:
    assert len({new_id() for _ in range(100)}) == 100
