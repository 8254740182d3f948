from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy_common.codec.base import CHUNK, Vector
from argosy_common.codec.fp16 import Fp16
from argosy_common.codec.frame import decode_frame, decode_vector, encode_frame
from argosy_common.codec.none import Fp32
from argosy_common.codec.registry import get_codec
from argosy_common.errors import CodeMalformed
from tests.common.codec.codes import NAMES, normal, rng, there_and_back


def test_the_format_is_as_it_was() -> None:
    frame = encode_frame(Fp16(), np.array([1, -2], np.float32), rng())
    assert frame[:-4].hex() == "41474301 0466703136 0200000000000000 0400000000000000 003c00c0".replace(" ", "")
    assert frame[-4:] == zlib.crc32(frame[:-4]).to_bytes(4, "little")


@pytest.mark.parametrize("size", [0, 1, 4097, CHUNK + 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_frame_decodes_to_what_its_payload_does(name: str, size: int) -> None:
    codec, values = get_codec(name), normal(size)
    found = decode_vector(encode_frame(codec, values, rng(1)), codec, size, peer="us")
    assert np.array_equal(found, there_and_back(codec, values, 1))


@pytest.mark.parametrize("name", NAMES)
def test_each_bit_matters(name: str) -> None:
    codec = get_codec(name)
    frame = encode_frame(codec, normal(70), rng())
    for bit in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodeMalformed):
            decode_frame(bytes(damaged), codec, 70, peer="a device")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_cut_short_or_extended_is_refused(name: str) -> None:
    codec = get_codec(name)
    frame = encode_frame(codec, normal(70), rng())
    for wrong in (*(frame[:length] for length in range(len(frame))), frame + b"\0", frame + frame):
        with pytest.raises(CodeMalformed):
            decode_frame(wrong, codec, 70, peer="a device")


def test_another_codec_or_size_is_refused_and_named() -> None:
    frame = encode_frame(Fp16(), normal(70), rng())
    with pytest.raises(CodeMalformed, match=r"'eden:2'.*a code of 'fp16'"):
        decode_frame(frame, get_codec("eden:2"), 70, peer="a device")
    with pytest.raises(CodeMalformed, match=r"from a device .*holds 70 values, not 71"):
        decode_frame(frame, Fp16(), 71, peer="a device")


def test_a_payload_that_the_codec_refuses_is_the_peers_fault_before_any_chunk() -> None:
    class Careless(Fp32):
        def encode(self, values: Vector, rng: np.random.Generator) -> bytes:  # noqa: ARG002  (as `Codec`)
            return values.tobytes()

    values = normal(3 * CHUNK)
    values[-1] = np.nan
    with pytest.raises(CodeMalformed, match="not finite"):
        decode_frame(encode_frame(Careless(), values, rng()), Fp32(), 3 * CHUNK, peer="a device")


@pytest.mark.parametrize("made", [5, 7])
def test_a_codec_that_makes_another_number_of_values_is_found_out(made: int) -> None:
    class Miscounts(Fp32):
        def decode(self, payload: memoryview, size: int) -> Iterator[Vector]:  # noqa: ARG002  (as `Codec`)
            yield np.zeros(made, np.float32)

    with pytest.raises(CodeMalformed, match="other than 6 values"):
        decode_vector(encode_frame(Miscounts(), normal(6), rng()), Miscounts(), 6, peer="a device")


@settings(max_examples=200, deadline=None)
@given(frame=st.binary(max_size=200), name=st.sampled_from(NAMES))
def test_arbitrary_bytes_are_refused(frame: bytes, name: str) -> None:
    with pytest.raises(CodeMalformed):
        decode_frame(frame, get_codec(name), 70, peer="a device")


@settings(max_examples=200, deadline=None)
@given(rest=st.binary(max_size=200), name=st.sampled_from(NAMES))
def test_arbitrary_payloads_with_a_right_checksum_are_refused_or_finite(rest: bytes, name: str) -> None:
    codec = get_codec(name)
    head = b"AGC\1" + bytes([len(name)]) + name.encode() + (9).to_bytes(8, "little") + len(rest).to_bytes(8, "little")
    frame = head + rest
    frame += zlib.crc32(frame).to_bytes(4, "little")
    with suppress(CodeMalformed):
        assert np.isfinite(decode_vector(frame, codec, 9, peer="a device")).all()


def test_no_memory_is_taken_by_what_the_bytes_claim() -> None:
    claim = (1 << 40).to_bytes(8, "little")
    tracemalloc.start()
    for name in NAMES:
        frame = b"AGC\1" + bytes([len(name)]) + name.encode() + claim + claim + b"payload"
        frame += zlib.crc32(frame).to_bytes(4, "little")
        for size in (70, 1 << 40):
            with pytest.raises(CodeMalformed):
                decode_vector(frame, get_codec(name), size, peer="a device")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
