"""Numbers, times and foreign text as the command line shows them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_server.cli import words

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (152_000, "152 kB"), (1_523_456, "1.52 MB"), (None, "–")],
)
def test_sizes_have_three_digits(count: int | None, shown: str) -> None:
    assert words.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0.00 s"), (9.994, "9.99 s"), (9.996, "10.0 s"), (59.96, "1:00"), (151, "2:31"), (3723, "1:02:03")],
)
def test_durations_read_like_a_clock(seconds: float, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (1, "now"),
        (12, "12 s ago"),
        (300, "5 min ago"),
        (3 * 3600, "3 h ago"),
        (4 * 86400, "4 d ago"),
        (-7200, "in 2 h"),
    ],
)
def test_ages_are_round(ago: int, shown: str) -> None:
    assert words.age((NOW - timedelta(seconds=ago)).isoformat(), NOW) == shown


def test_a_time_that_is_none_has_no_age() -> None:
    assert words.age(None, NOW) == words.NONE


@given(st.text())
def test_cleaned_text_is_one_line_without_control_characters(text: str) -> None:
    assert words.clean(text).isprintable()


@given(st.text(), st.booleans())
def test_a_cleaned_log_keeps_at_most_colours(text: str, colour: bool) -> None:
    cleaned = words.clean_log(f"{text}\x1b[31m{text}\x1b[2J", colour=colour)
    assert "\x1b[2J" not in cleaned
    assert ("\x1b[31m" in cleaned) == colour


@given(st.lists(st.floats() | st.just(math.nan), max_size=200), st.integers(1, 60))
def test_a_sparkline_fits_its_width_for_any_values(values: list[float], width: int) -> None:
    assert len(words.sparkline(values, width)) <= width


def test_a_sparkline_rises_with_its_values() -> None:
    assert words.sparkline([0, 1, 2, 3], 10) == "▁▃▆█"


def test_ranges_join_neighbours() -> None:
    assert words.ranges([5, 1, 2, 3, 3]) == "1–3, 5"
