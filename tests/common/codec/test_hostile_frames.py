"""Frames made to mislead: true checksums over false claims, other types of bytes, every codec against every other."""

from __future__ import annotations

import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.codec.frame import decode_frame, decode_vector, encode_frame
from argosy_common.codec.registry import get_codec
from argosy_common.codec.topk import NEAR
from argosy_common.errors import CodeMalformed
from tests.common.codec.codes import NAMES, normal, read, rng
from tests.common.codec.vectors import TOPK, same_each_time

SIZE = 70
ENORMOUS = (2**31, 2**32, 2**60, 2**63, 2**64 - 1)


def forged(name: bytes, values: int, length: int, payload: bytes) -> bytes:
    """Return a frame that claims what it is told to, with the checksum that goes with it."""
    body = b"AGC\1" + bytes([len(name)]) + name + values.to_bytes(8, "little") + length.to_bytes(8, "little") + payload
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("claim", ENORMOUS)
def test_enormous_claims_are_refused_and_take_no_memory(name: str, claim: int) -> None:
    codec = get_codec(name)
    payload = codec.encode(normal(SIZE), rng())
    frames = [
        forged(name.encode(), claim, len(payload), payload),
        forged(name.encode(), SIZE, claim, payload),
        forged(name.encode(), claim, claim, payload),
    ]
    tracemalloc.start()
    for frame in frames:
        with pytest.raises(CodeMalformed):
            decode_vector(frame, codec, SIZE, peer="a device")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 17


@pytest.mark.parametrize("name", ["topk:0.01", "topk:0.001"])
def test_counts_of_places_that_claim_too_much_take_no_memory(name: str) -> None:
    codec, size = get_codec(name), 5000
    payload = bytearray(codec.encode(normal(size), rng()))
    places = 4 + 2 * int(np.ceil(float(name[5:]) * size))
    counts = NEAR.counts_size(size) if name == "topk:0.01" else 4
    payload[places : places + counts] = b"\xff" * counts
    tracemalloc.start()
    with pytest.raises(CodeMalformed, match="exactly"):
        decode_vector(forged(name.encode(), size, len(payload), bytes(payload)), codec, size, peer="a device")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 17


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_of_every_other_codec_is_refused(name: str) -> None:
    frame = encode_frame(get_codec(name), normal(SIZE), rng())
    for other in (*NAMES, "ring:251"):
        if other != name:
            with pytest.raises(CodeMalformed, match=f"a code of '{name}'"):
                decode_frame(frame, get_codec(other), SIZE, peer="a device")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 69, 71, 4096, 10**6])
def test_a_frame_of_another_size_is_refused(name: str, size: int) -> None:
    codec = get_codec(name)
    with pytest.raises(CodeMalformed, match=f"holds 70 values, not {size}"):
        decode_frame(encode_frame(codec, normal(SIZE), rng()), codec, size, peer="a device")


def test_the_ring_codec_has_no_frames() -> None:
    codec = get_codec("ring:251")
    with pytest.raises(ValueError, match="share"):
        encode_frame(codec, normal(SIZE), rng())
    with pytest.raises(CodeMalformed, match="sum"):
        decode_frame(forged(b"ring:251", SIZE, 0, b""), codec, SIZE, peer="a device")


@pytest.mark.parametrize(
    "head",
    [b"AGD\1\4none", b"agc\1\4none", b"AGC\0\4none", b"AGC\2\4none", b"AGC\1\0", b"AGC\1\xffnone", b"AGC\1\4NONE",
     b"AGC\1\4non\xff", b"AGC\1\5none\0"],
)  # fmt: skip
def test_each_field_of_the_head_is_checked_even_under_a_true_checksum(head: bytes) -> None:
    body = head + (1).to_bytes(8, "little") + (4).to_bytes(8, "little") + bytes(4)
    with pytest.raises(CodeMalformed):
        decode_frame(body + zlib.crc32(body).to_bytes(4, "little"), get_codec("none"), 1, peer="a device")


def test_the_error_says_who_sent_it_and_for_which_codec() -> None:
    with pytest.raises(CodeMalformed) as caught:
        decode_frame(b"", get_codec("eden:2"), SIZE, peer="board-7")
    assert caught.value.facts["peer"] == "board-7"
    assert caught.value.facts["codec"] == "eden:2"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_frame_is_read_from_any_bytes_and_left_alone(kind: type[bytes | bytearray | memoryview]) -> None:
    codec = get_codec("eden:2")
    whole = encode_frame(codec, normal(SIZE), rng())
    frame = kind(whole)
    expected = read(codec, codec.encode(normal(SIZE), rng()), SIZE)
    assert np.array_equal(decode_vector(frame, codec, SIZE, peer="us"), expected)  # type: ignore[arg-type]
    assert bytes(frame) == whole


@pytest.mark.parametrize("name", NAMES)
def test_a_decoded_vector_is_the_readers_own(name: str) -> None:
    codec = get_codec(name)
    frame = encode_frame(codec, normal(SIZE), rng())
    first, second = (decode_vector(frame, codec, SIZE, peer="us") for _ in range(2))
    first[:] = 9
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["none", "int8", "eden:2", *TOPK])
@same_each_time
@given(st.binary(max_size=120), st.integers(0, 2**64 - 1))
def test_any_payload_under_any_claim_is_refused_or_finite(name: str, payload: bytes, claim: int) -> None:
    codec = get_codec(name)
    for values in (claim, 9):
        with suppress(CodeMalformed):
            found = decode_vector(forged(name.encode(), values, len(payload), payload), codec, 9, peer="a device")
            assert found.shape == (9,)
            assert np.isfinite(found).all()
