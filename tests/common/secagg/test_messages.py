"""The bytes of messages 0 to 6: golden ones, one canonical form, limits, and whatever else may come."""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from annotated_types import MaxLen
from cryptography.hazmat.primitives.asymmetric import ec
from flwr import app
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_common.errors import (
    REGISTRY,
    ArgosyError,
    RosterInvalid,
    SecureMessageMalformed,
    SecureParametersRefused,
    SecureSetRefused,
    SecureSignatureInvalid,
)
from argosy_common.flower.compat import become_task
from argosy_common.flower.secure import SECAGG, parcels
from argosy_common.prg import Suite
from argosy_common.secagg.admission import Policy, admit, opened
from argosy_common.secagg.canonical import Message
from argosy_common.secagg.holder import read_set
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
from argosy_common.secagg.parameters import Parameters
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
    Prior(sid=b"p" * 32, override=SIGNATURE),
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
    "Prior": "76d875bde1fcc3d1bcd3f060e1ceede2",
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


def reencoded(value: object, odd: int = -1, claim: int | None = None) -> bytes:
    """Return msgpack in which the part number `odd` has its longest form, and says that it has `claim` of what it has.

    Parts are counted from the outside in. Without either it is the usual form.
    """
    numbers = itertools.count()
    packer = msgpack.Packer(use_bin_type=True)

    def encode(part: object) -> bytes:
        if next(numbers) != odd:
            head = tail = b""
            if isinstance(part, dict):
                head = packer.pack_map_header(len(part))
            elif isinstance(part, list | tuple):
                head = packer.pack_array_header(len(part))
            else:
                tail = packer.pack(part)
            return head + tail + inside(part)
        count = len(part) if claim is None and isinstance(part, dict | list | tuple | str | bytes) else claim or 0
        length = count.to_bytes(4, "big")
        match part:
            case dict():
                return b"\xdf" + length + inside(part)
            case list() | tuple():
                return b"\xdd" + length + inside(part)
            case bytes():
                return b"\xc6" + length + part
            case str():
                return (
                    b"\xdb" + (length if claim is not None else len(part.encode()).to_bytes(4, "big")) + part.encode()
                )
            case bool() | None:
                return bytes(packer.pack(part))
            case int():
                return b"\xd3" + part.to_bytes(8, "big", signed=True)
            case float():
                return b"\xca" + struct.pack(">f", part)
        raise AssertionError(part)

    def inside(part: object) -> bytes:
        if isinstance(part, dict):
            return b"".join(encode(key) + encode(value) for key, value in part.items())
        return b"".join(map(encode, part)) if isinstance(part, list | tuple) else b""

    return encode(value)


def parts(value: object) -> int:
    """Return how many parts `reencoded` counts."""
    if isinstance(value, dict):
        return 1 + sum(1 + parts(each) for each in value.values())
    return 1 + (sum(map(parts, value)) if isinstance(value, list | tuple) else 0)


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_a_longer_form_of_any_number_text_or_list_is_refused(message: Message) -> None:
    """msgpack has several ways to write each of them; one is ours."""
    fields = msgpack.unpackb(message.packed, raw=False)
    assert reencoded(fields) == message.packed
    for odd in range(parts(fields)):
        data = reencoded(fields, odd)
        if data != message.packed:  # but for what has one form only: nothing, yes and no
            assert msgpack.unpackb(data, raw=False) == fields
            with pytest.raises(SecureMessageMalformed):
                type(message).parse(data, peer="it")


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_no_memory_is_taken_for_lengths_that_are_only_claimed(message: Message) -> None:
    """Each list, map, text and string of bytes in turn says that it is long."""
    fields = msgpack.unpackb(message.packed, raw=False)
    claims = [reencoded(fields, *each) for each in itertools.product(range(parts(fields)), (2**20, 2**31, 2**32 - 1))]
    tracemalloc.start()
    try:
        for data in claims:
            if data != message.packed:  # but for what has no length: nothing, yes and no
                with pytest.raises(SecureMessageMalformed):
                    type(message).parse(data, peer="it")
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


BOUNDED = [
    (message, name, bound.max_length)
    for message in MESSAGES
    for name, field in type(message).model_fields.items()
    for bound in field.metadata
    if isinstance(bound, MaxLen)
]


@pytest.mark.parametrize(("message", "name", "most"), BOUNDED, ids=lambda it: it if isinstance(it, str) else "")
def test_lists_and_strings_have_a_most(message: Message, name: str, most: int) -> None:
    """One more than that is refused, and says so."""
    fields = msgpack.unpackb(message.packed, raw=False)
    value = fields[name]
    samples: dict[str, Any] = {"path": bytes(32), "fixed": bytes(32), "complaints": 0, "members": 0}
    some = b"x" if isinstance(value, bytes) else "x" if isinstance(value, str) else [samples.get(name) or value[0]]
    fields[name] = some * (most + 1)
    with pytest.raises(SecureMessageMalformed, match=r"at most|too many"):
        type(message).parse(msgpack.packb(fields, use_bin_type=True), peer="it")


def test_every_list_and_string_has_a_most() -> None:
    """But for single values of a fixed choice, and what is a message of its own."""
    bounded = {(name_of(message), name) for message, name, _ in BOUNDED}
    unbounded = {
        (name_of(message), name)
        for message in MESSAGES
        for name in type(message).model_fields
        if isinstance(getattr(message, name), bytes | str | tuple) and (name_of(message), name) not in bounded
    }
    assert unbounded == {("Announcement", "suite"), ("Announcement", "weighting")}


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


# --- what is made of them ---------------------------------------------------------------------------------------------

HONEST = ANNOUNCED.changed(
    prior=None,
    roster=tuple(
        PrekeyBatch.made(key, der, [bytes([number + 1]) * 32]).prekeys()[0]
        for number, (key, der) in enumerate(zip(KEYS[:4], DERS, strict=False))
    ),
)
"""A message 1 that all four of its members admit."""
MEMBERS = [fingerprint(der) for der in DERS[:4]]
ODD = st.one_of(
    st.integers(-2, 8),
    st.integers(0, 2**40),
    st.binary(max_size=40),
    st.just(()),
    st.sampled_from([*Suite, "equal", "x", 251, 65521, b"\0\0\xc0\x7f" * 2, b"s" * 32, b"s" * 16]),
    st.floats(),
    st.lists(st.sampled_from([*HONEST.roster, *PREKEYS]), max_size=6).map(tuple),
    st.lists(st.sampled_from(MEMBERS), max_size=4).map(tuple),
)


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(st.sampled_from(sorted(Announcement.model_fields)), ODD, max_size=3), st.integers(0, 4))
def test_a_message_1_changed_anywhere_is_admitted_as_it_is_or_refused_by_name(
    changes: dict[str, object], own: int
) -> None:
    """Signed by its run's key, so that only what it says can be wrong; whatever is admitted keeps every rule."""
    try:
        changed = HONEST.changed(**changes)
    except ValueError:
        return
    blob = Signed(
        announcement=changed.packed, signature=sign(KEYS[4], "argosy/secagg/announcement", changed.packed)
    ).packed
    assert (changed.sid == HONEST.sid) is (changed == HONEST)
    try:
        found = admit(opened(blob), fingerprint(DERS[own]), Policy())
    except (SecureMessageMalformed, SecureSignatureInvalid):
        assert {"coordinator", "run"} & set(changes)
        return
    except (SecureParametersRefused, RosterInvalid):
        assert own == 4 or {"A", "U", "T", "n_min", "p", "size", "scales", "roster"} & set(changes)
        return
    it, n = found.announcement, len(found.announcement.roster)
    assert it == changed
    assert found.parameters == Parameters.of(n, it.p)
    assert it.n_min >= found.parameters.n_min
    assert found.fingerprints[found.index] == MEMBERS[own]
    assert len(set(found.fingerprints)) == n
    assert all(each.holds() for each in it.roster)
    assert np.isfinite(it.block_scales).all()


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_blob_changed_anywhere_opens_to_what_was_signed_or_not_at_all(data: st.DataObject) -> None:
    """Its bytes, or those of the message 1 in it."""
    signature = sign(KEYS[4], "argosy/secagg/announcement", HONEST.packed)
    inner, outer = bytearray(HONEST.packed), None
    at, change = data.draw(st.integers(0, 2**20)), data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        inner[at % len(inner)] ^= change
    else:
        outer = bytearray(Signed(announcement=HONEST.packed, signature=signature).packed)
        outer[at % len(outer)] ^= change
    with pytest.raises((SecureMessageMalformed, SecureSignatureInvalid)):
        opened(bytes(outer) if outer else Signed(announcement=bytes(inner), signature=signature).packed)


ADMITTED = admit(HONEST, MEMBERS[0], Policy())
HEADERS = [
    HEADER.changed(sid=HONEST.sid, client=i, boxes=tuple(bytes([i, j]) * 16 for j in range(4))) for i in range(4)
]
HEADER_FIELDS = {
    "sid": st.sampled_from([b"s" * 32, HONEST.sid]),
    "client": st.integers(0, 255),
    "ephemeral": st.binary(min_size=32, max_size=32),
    "boxes": st.lists(st.just(b"b" * 32), max_size=6).map(tuple),
    "arrays": st.text(max_size=9),
    "slots": st.lists(st.tuples(st.text(max_size=3), st.integers(-1, 64)), max_size=3).map(tuple),
}


@st.composite
def signed_headers(draw: st.DrawFn) -> SignedHeader:
    """A client's header: as it should be, changed, signed by another, or bytes that are none."""
    i = draw(st.integers(0, 3))
    header = HEADERS[i]
    for name in draw(st.lists(st.sampled_from(sorted(HEADER_FIELDS)), max_size=2)):
        header = header.changed(**{name: draw(HEADER_FIELDS[name])})
    made = SignedHeader.made(KEYS[draw(st.sampled_from([i, i, i, (i + 1) % 5]))], header)
    if draw(st.integers(0, 4)) == 0:
        raw = bytearray(made.header)
        raw[draw(st.integers(0, 2**20)) % len(raw)] ^= draw(st.integers(1, 255))
        made = made.changed(header=bytes(raw))
    return made


@settings(deadline=None, max_examples=300)
@given(st.lists(signed_headers(), max_size=5), st.sampled_from([HONEST.sid, HONEST.sid, HONEST.sid, b"s" * 32]))
def test_a_set_is_one_of_signed_headers_of_different_clients_or_refused_by_name(
    headers: list[SignedHeader], sid: bytes
) -> None:
    """Whatever a coordinator puts together."""
    try:
        found = read_set(ADMITTED, Handover(sid=sid, headers=tuple(headers)))
    except (SecureMessageMalformed, SecureSetRefused, SecureSignatureInvalid):
        return
    assert sid == HONEST.sid
    assert len(found.members) == len(headers)
    assert list(found.members) == sorted(set(found.members))
    for client, header in found.headers.items():
        assert (header.sid, header.client, len(header.boxes)) == (HONEST.sid, client, 4)
        (signed,) = [each for each in headers if each.header == header.packed]
        assert signed.holds(ADMITTED.identities[client], HONEST.sid)


# --- the records that they travel in ----------------------------------------------------------------------------------


def npy(shape: tuple[int, ...], dtype: str) -> bytes:
    """A file of numpy's."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, dtype))
    return stream.getvalue()


def npz() -> bytes:
    """An archive of numpy's, which numpy reads wherever it reads a file."""
    stream = io.BytesIO()
    np.savez(stream, y=np.zeros(3, np.uint8))
    return stream.getvalue()


def claiming(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """A file whose header claims more than there is."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + b"abc"


def mostly(usual: Any, *odd: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401  (whatever is drawn)
    """Draw the usual value three times of four."""
    return st.sampled_from([usual] * 3 * len(odd) + list(odd))


OTHERS = ["uint16", "<u2", ">u2", "int8", "float32", "bool", "S3", "datetime64[s]"]
FILES = st.one_of(
    st.builds(npy, mostly((3,), (), (0,), (4,), (1, 3), (9,)), mostly("uint8", *OTHERS)),
    st.builds(
        claiming,
        st.sampled_from([(3,), (2**31,), (2**40,), (2**62, 2**62), (-3,)]),
        st.sampled_from(["|u1", "<u2", "|O", "|V0", "|u1, |u1"]),
    ),
    st.builds(npz),
    st.binary(max_size=20),
    st.sampled_from([b"\x80\x04N.", b"PK\5\6" + bytes(18), b"\x93NUMPY\1\0\xff\xff{", b"\x93NUMPY\x09\0"]),
)
ARRAYS = st.builds(
    lambda dtype, shape, stype, data: app.Array(dtype=dtype, shape=shape, stype=stype, data=data),
    mostly("uint8", *OTHERS),
    mostly((3,), (), (0,), (4,), (1, 3), (3, 1), (2**40,), (-3,), (9,)),
    mostly("numpy.ndarray", "raw", "pickle", ""),
    FILES,
)


@settings(deadline=None, max_examples=500)
@given(ARRAYS, mostly(3, 0, 2, 8), mostly("y", "z"), mostly(parcels.UPDATE, parcels.TOTAL))
def test_an_array_is_a_short_vector_of_bytes_or_elements_or_refused_by_name(
    array: app.Array, most: int, name: str, record: str
) -> None:
    """As it comes over Flower's own transport, where nobody has looked at it before."""
    content = app.RecordDict({parcels.UPDATE: app.ArrayRecord({"y": array})})
    for read in (parcels.array, parcels.data):
        try:
            found = read(content, record, name, peer="it", most=most)
        except SecureMessageMalformed:
            continue
        assert (record, name) == (parcels.UPDATE, "y")
        assert len(found) <= most
        if isinstance(found, np.ndarray):
            assert found.shape == array.shape
            assert found.dtype.name in {"uint8", "uint16"}


def reply(content: app.RecordDict) -> app.Message:
    """A device's reply."""
    become_task(run_id=1, node_id=1)
    return app.Message(content, reply_to=app.Message(app.RecordDict(), 7, "query"))


def failed(code: int, reason: str | None = None) -> app.Message:
    """An error in place of a reply."""
    become_task(run_id=1, node_id=1)
    return app.Message(app.Error(code, reason), reply_to=app.Message(app.RecordDict(), 7, "query"))


def is_refused(read: Callable[[app.Message], object], message: app.Message) -> bool:
    """Tell whether reading a reply raises a named error; any other kind is not expected."""
    try:
        read(message)
    except ArgosyError as error:
        return bool(error.code and str(error))
    return False


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=9), st.binary(max_size=9),
    st.sampled_from(["device-lost", "peer-unlisted"]),
)  # fmt: skip
NAMES = st.sampled_from(["code", "message", "facts", "peer", "x"]) | st.text(max_size=4)
TOLD = st.recursive(LEAVES, lambda its: st.lists(its, max_size=4) | st.dictionaries(NAMES, its, max_size=4))


@settings(deadline=None, max_examples=400)
@given(st.one_of(TOLD.map(lambda told: msgpack.packb(told, use_bin_type=True)), st.binary(max_size=30), st.just("x")))
def test_whatever_refusal_a_reply_carries_is_a_named_error(packed: bytes | str) -> None:
    """A device may say what it likes."""
    said = app.RecordDict({SECAGG: app.ConfigRecord({"error": packed})})
    assert is_refused(parcels.accept, reply(said))


def test_a_refusal_with_a_fact_of_the_name_self_is_a_named_error() -> None:
    """One device could end the coordinator's run with it."""
    told = {"code": "device-lost", "message": "", "facts": {"self": "x"}}
    said = app.RecordDict({SECAGG: app.ConfigRecord({"error": msgpack.packb(told)})})
    assert is_refused(parcels.accept, reply(said))


def test_a_reply_without_a_refusal_is_taken_as_it_is() -> None:
    """Also one of which nothing belongs to this layer; what is asked of that is then refused by name."""
    for content in (app.RecordDict(), app.RecordDict({SECAGG: app.ConfigRecord({"stage": "vote"})})):
        whole = reply(content)
        assert parcels.accept(whole) is whole
        assert parcels.content_of(whole) is content
    assert parcels.config(content, peer="it")["stage"] == "vote"
    for other in (app.RecordDict(), app.RecordDict({SECAGG: app.MetricRecord({"stage": 1})})):
        with pytest.raises(SecureMessageMalformed, match="nothing of secure aggregation"):
            parcels.config(other, peer="it")


CODES = st.sampled_from(sorted(REGISTRY))


@settings(deadline=None, max_examples=200)
@given(
    st.one_of(st.text(max_size=600), CODES, st.builds("{}: {}".format, CODES, st.text(max_size=40))),
    st.integers(0, 999),
)
def test_an_error_reply_is_a_named_error_whatever_its_reason(reason: str, code: int) -> None:
    """By the code that it begins with, or quoted."""
    found = parcels.error_of(failed(code, reason))
    first, _, told = reason.partition(": ")
    assert found.code == (first if first in REGISTRY else "app-raised")
    assert found.message == told or found.code == "app-raised"
    assert is_refused(parcels.content_of, failed(code, reason))
    assert parcels.error_of(failed(code)).code == "app-raised"
