"""Frames come back whole or not at all, from the midst of anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.serial.frames import (
    MAX_COUNT,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    Frame,
    FrameDecoder,
    FrameType,
    encode,
    fragments,
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    count = draw(st.integers(1, MAX_COUNT))
    index = draw(st.integers(0, count - 1))
    payload = draw(st.binary(max_size=MAX_PAYLOAD))
    return Frame(draw(st.sampled_from(FrameType)), draw(st.integers(0, 2**32 - 1)), index, count, payload)


def test_golden_bytes() -> None:
    frame = Frame(FrameType.ASK, 0x01020304, 0, 2, b"hi")
    assert encode(frame).hex(" ") == "00 06 01 01 02 03 04 09 02 02 68 69 c3 a8 6c 4b 00"


@given(st.lists(frames(), max_size=4), st.data())
def test_frames_come_back_however_the_bytes_are_cut(sent: list[Frame], data: st.DataObject) -> None:
    line = b"".join(encode(frame) for frame in sent)
    decoder, found, at = FrameDecoder(), list[Frame](), 0
    while at < len(line):
        step = data.draw(st.integers(1, 200))
        found += decoder.feed(line[at : at + step])
        at += step
    assert found == sent
    assert (decoder.bytes_seen, decoder.frames_seen, decoder.bad_seen) == (len(line), len(sent), 0)


@given(st.lists(st.binary(max_size=300), max_size=8), frames())
def test_garbage_never_raises_and_the_next_frame_is_found(garbage: list[bytes], frame: Frame) -> None:
    decoder = FrameDecoder()
    for piece in garbage:
        decoder.feed(piece)
    assert decoder.feed(encode(frame))[-1] == frame


@given(frames())
def test_every_flipped_bit_is_noticed(frame: Frame) -> None:
    line = encode(frame)
    for bit in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        assert FrameDecoder().feed(bytes(flipped) + b"\0") in ([], [frame])


@given(frames(), st.data())
def test_every_lost_byte_is_noticed(frame: Frame, data: st.DataObject) -> None:
    line = encode(frame)
    at = data.draw(st.integers(0, len(line) - 1))
    assert FrameDecoder().feed(line[:at] + line[at + 1 :] + b"\0") in ([], [frame])


def test_a_stretch_without_end_takes_no_memory() -> None:
    decoder = FrameDecoder()
    for _ in range(1000):
        assert decoder.feed(b"x" * 1000) == []
    assert len(decoder._open) < 200
    assert decoder.feed(b"\0") == []
    assert decoder.bad_seen == 1
    assert decoder.bytes_seen == 1_000_001


@given(st.binary(max_size=2000))
def test_a_message_is_the_sum_of_its_fragments(message: bytes) -> None:
    cut = fragments(FrameType.ASK, 7, message)
    assert b"".join(frame.payload for frame in cut) == message
    assert [frame.index for frame in cut] == list(range(len(cut)))
    assert {(frame.seq, frame.count) for frame in cut} == {(7, len(cut))}


def test_a_message_has_a_bound() -> None:
    assert len(fragments(FrameType.ASK, 1, b"x" * MAX_MESSAGE)) == MAX_COUNT
    with pytest.raises(ValueError, match="the most"):
        fragments(FrameType.ASK, 1, b"x" * (MAX_MESSAGE + 1))
