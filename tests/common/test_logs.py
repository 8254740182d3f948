"""Logs: an event and its fields in one readable line; no secrets."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from argosy_common import logs


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """A stream that all logs go to."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("INFO", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_an_event_is_one_line_with_its_fields(out: io.StringIO) -> None:
    logs.get_logger("x").info("link.connected", broker="b:1", seconds=0.123456, why="two words")
    line = out.getvalue().rstrip("\n")
    assert line.endswith("INFO    link.connected broker=b:1 seconds=0.1235 why='two words'")
    assert "\x1b" not in line


def test_secrets_are_blanked(out: io.StringIO) -> None:
    logs.get_logger("x").info("token.created", token="abc", secret_hash="def", site="lab")
    assert "abc" not in out.getvalue()
    assert "def" not in out.getvalue()
    assert "site=lab" in out.getvalue()


def test_a_caught_exception_brings_its_traceback(out: io.StringIO) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        logs.get_logger("x").error("it.failed", exc=error)
    assert "RuntimeError: boom" in out.getvalue()


def test_debug_is_left_out_at_info(out: io.StringIO) -> None:
    logs.get_logger("x").debug("it.whispers")
    assert out.getvalue() == ""


def test_a_field_may_not_break_the_line(out: io.StringIO) -> None:
    logs.get_logger("x").info("it.came", why="first\nsecond")
    assert out.getvalue().count("\n") == 1
