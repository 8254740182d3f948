"""Stuffing: no zero left in it, one way to write each thing, and nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.serial import cobs

LONG = st.lists(st.sampled_from([b"\0", b"\1", b"\xff", b"a" * 253, b"b" * 254, b"c" * 255]), max_size=8).map(b"".join)


@pytest.mark.parametrize(
    ("plain", "stuffed"),
    [
        (b"", b"\x01"),
        (b"\0", b"\x01\x01"),
        (b"\x11\x22\0\x33", b"\x03\x11\x22\x02\x33"),
        (b"\x11\0\0\0", b"\x02\x11\x01\x01\x01"),
        (b"a" * 254, b"\xff" + b"a" * 254 + b"\x01"),
        (b"a" * 255, b"\xff" + b"a" * 254 + b"\x02a"),
    ],
)
def test_golden_bytes(plain: bytes, stuffed: bytes) -> None:
    assert cobs.encode(plain) == stuffed
    assert cobs.decode(stuffed) == plain


@given(st.binary(max_size=600) | LONG)
def test_it_comes_back_without_a_zero_on_the_way_and_at_a_known_price(plain: bytes) -> None:
    stuffed = cobs.encode(plain)
    assert 0 not in stuffed
    assert len(stuffed) <= len(plain) + 1 + len(plain) // 254
    assert cobs.decode(stuffed) == plain


@given(st.binary(max_size=600) | LONG)
def test_whatever_decodes_was_encoded(stuffed: bytes) -> None:
    plain = cobs.decode(stuffed)
    assert plain is None or cobs.encode(plain) == stuffed
