"""Chunk frames and layouts: golden bytes, round trips, and refusal of everything else."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.blobs.bitmap import Bitmap, indices, regrid
from argosy_common.blobs.frames import (
    CHUNK,
    HEADER,
    MAX_CHUNK,
    SLOW_CHUNK,
    Layout,
    layout_for,
    pack_frame,
    parse_frame,
)
from argosy_common.errors import ChunkMalformed

DIGEST = bytes(range(32))


def test_golden_bytes() -> None:
    frame = pack_frame(DIGEST, 0x0102030405060708, b"payload", ack_now=True)
    assert (
        frame
        == (b"AC\x01\x01" + DIGEST + bytes.fromhex("0102030405060708") + zlib.crc32(b"payload").to_bytes(4, "big"))
        + b"payload"
    )
    assert HEADER.size == 48


@given(
    st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1), st.binary(min_size=1, max_size=5000), st.booleans()
)
def test_a_frame_comes_back_as_it_was(digest: bytes, offset: int, payload: bytes, ack_now: bool) -> None:
    frame = parse_frame(pack_frame(digest, offset, payload, ack_now=ack_now), peer="p")
    assert (frame.digest, frame.offset, bytes(frame.payload), frame.ack_now) == (digest, offset, payload, ack_now)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ChunkMalformed):
        parse_frame(data, peer="p")


GOOD = pack_frame(DIGEST, 0, b"x" * 100, ack_now=False)


@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(ChunkMalformed):
        parse_frame(GOOD[:length], peer="p")


@given(st.integers(44, len(GOOD) - 1), st.integers(1, 255))
def test_every_damage_to_checksum_or_payload_is_refused(place: int, change: int) -> None:
    damaged = bytearray(GOOD)
    damaged[place] ^= change
    with pytest.raises(ChunkMalformed):
        parse_frame(bytes(damaged), peer="p")


@pytest.mark.parametrize(
    "data",
    [
        b"XX" + GOOD[2:],
        GOOD[:2] + b"\x02" + GOOD[3:],
        GOOD[:3] + b"\x02" + GOOD[4:],
        pack_frame(DIGEST, 0, b"", ack_now=False),
        pack_frame(DIGEST, 0, bytes(MAX_CHUNK + 1), ack_now=False),
    ],
    ids=["magic", "version", "flags", "empty", "too long"],
)
def test_each_field_is_checked(data: bytes) -> None:
    with pytest.raises(ChunkMalformed):
        parse_frame(data, peer="p")


@given(st.integers(0, 10**7), st.integers(1024, 10**6))
def test_a_layout_covers_every_byte_once(size: int, chunk: int) -> None:
    layout = Layout(size, chunk)
    assert sum(layout.length(index) for index in range(layout.count)) == size
    for index in {0, layout.count // 2, layout.count - 1} & set(range(layout.count)):
        assert layout.index_of(index * chunk, layout.length(index), peer="p") == index


@given(st.integers(0, 10**5), st.integers(0, 2**64 - 1), st.integers(0, 10**5))
def test_only_whole_chunks_have_an_index(size: int, offset: int, length: int) -> None:
    layout = Layout(size, 1024)
    try:
        index = layout.index_of(offset, length, peer="p")
    except ChunkMalformed:
        return
    assert 0 <= index < layout.count
    assert (index * 1024, layout.length(index)) == (offset, length)


def test_the_chunk_size_follows_the_path_and_the_size() -> None:
    assert layout_for(10**8, None).chunk == CHUNK
    assert layout_for(10**8, 1.9e6).chunk == SLOW_CHUNK
    assert layout_for(10**8, 5e7).chunk == CHUNK
    assert layout_for(2**38, 1e5).transferable
    assert not layout_for(2**40, None).transferable
    assert not Layout(2**40, 1024).transferable


@given(st.integers(0, 300), st.data())
def test_a_bitmap_is_a_set(size: int, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, max(0, size - 1)), max_size=400)) if size else []
    bitmap, expected = Bitmap(size), set[int]()
    for index in chosen:
        assert bitmap.add(index) is (index not in expected)
        expected.add(index)
        assert bitmap.count == len(expected)
        assert bitmap.upto == min(set(range(size + 1)) - expected)
        above = indices(bitmap.pack_above(4096), bitmap.upto)
        assert set(above) | set(range(bitmap.upto)) == expected
    loaded = Bitmap.load(size, bitmap.pack())
    assert (loaded.count, loaded.upto, loaded.full) == (bitmap.count, bitmap.upto, len(expected) == size)
    assert {index for index in range(size) if index in loaded} == expected


@given(st.integers(0, 100), st.binary(max_size=20))
def test_a_bitmap_names_no_chunk_that_does_not_exist(size: int, data: bytes) -> None:
    named = set(indices(data, 0))
    try:
        bitmap = Bitmap.load(size, data)
    except ValueError:
        return
    assert named <= set(range(size))
    assert {index for index in range(size) if index in bitmap} == named


def test_an_acknowledgement_has_a_bounded_bitmap() -> None:
    bitmap = Bitmap(100_000)
    for index in range(1, 100_000):
        bitmap.add(index)
    assert len(bitmap.pack_above(4096)) <= 4096
    assert indices(bitmap.pack_above(4096), 0)[:3] == [1, 2, 3]


@given(st.integers(1, 200_000), st.sampled_from([1024, 4096, 5000]), st.sampled_from([1024, 4096, 7000]), st.data())
def test_translating_a_bitmap_never_claims_a_missing_byte(size: int, old: int, new: int, data: st.DataObject) -> None:
    before, after = Layout(size, old), Layout(size, new)
    have = Bitmap(before.count)
    for index in data.draw(st.sets(st.integers(0, before.count - 1))):
        have.add(index)
    translated = regrid(have, before, after)
    for index in range(after.count):
        span = range(index * new, index * new + after.length(index), 1000)
        if index in translated:
            assert all(byte // old in have for byte in span)
    if have.full:
        assert translated.full
