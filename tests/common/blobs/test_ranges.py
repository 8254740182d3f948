"""Byte ranges: what is asked is what is served, and nonsense is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.blobs import ranges


@given(st.integers(1, 2**40), st.data())
def test_both_ends_read_a_range_alike(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    assert ranges.parse_range(ranges.range_header(start, end), size) == (start, end)
    assert ranges.parse_content_range(ranges.content_range(start, end, size)) == (start, end, size)


@pytest.mark.parametrize(
    ("header", "found"),
    [("bytes=0-", (0, 100)), ("bytes=99-", (99, 100)), ("bytes=90-1000", (90, 100)), ("bytes=-7", (93, 100))],
)
def test_open_ranges_end_with_the_blob(header: str, found: tuple[int, int]) -> None:
    assert ranges.parse_range(header, 100) == found


@pytest.mark.parametrize(
    "header",
    "|bytes|bytes=|bytes=-|bytes=-0|bytes=100-|bytes=5-4|bytes=0-1,3-4|lines=1-2|bytes=a-b|bytes=٣-|bytes=1-2\n\n3|"
    f"bytes={'9' * 30}-|bytes=--5|bytes= 1-2".split("|"),
)
def test_nonsense_and_what_lies_outside_are_refused(header: str) -> None:
    with pytest.raises(ValueError, match="it"):
        ranges.parse_range(header, 100)


@given(st.text(max_size=40), st.integers(0, 2**40))
def test_a_range_never_leaves_the_blob(text: str, size: int) -> None:
    for header in (text, f"bytes={text}"):
        with contextlib.suppress(ValueError):
            start, end = ranges.parse_range(header, size)
            assert 0 <= start < end <= size
        with contextlib.suppress(ValueError):
            ranges.parse_content_range(header)
