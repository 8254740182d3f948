"""Topics: names are exact, and none reaches into another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_common.wire import topics
from argosy_common.wire.topics import Address, DeviceTopics

MINE = DeviceTopics("lab", "0a1b")


def test_topics_are_those_of_the_spec() -> None:
    assert MINE.events == "argosy/v1/lab/d/0a1b/up/evt"
    assert MINE.heartbeat == "argosy/v1/lab/d/0a1b/up/hb"
    assert MINE.control_up == "argosy/v1/lab/d/0a1b/up/rpc"
    assert MINE.chunks_up("c0") == "argosy/v1/lab/d/0a1b/up/x/c0"
    assert MINE.jobs == "argosy/v1/lab/d/0a1b/dn/job"
    assert MINE.control_down == "argosy/v1/lab/d/0a1b/dn/rpc"
    assert MINE.chunks_down == "argosy/v1/lab/d/0a1b/dn/x"
    assert MINE.birth == "argosy/v1/lab/s/0a1b"
    assert topics.coordinator_state("lab") == "argosy/v1/lab/b/coord"


def test_none_has_more_than_seven_slashes() -> None:
    assert MINE.chunks_up("c0").count("/") == 7


def test_upward_topics_are_taken_apart_again() -> None:
    assert topics.parse(MINE.events) == Address("lab", "0a1b", "evt")
    assert topics.parse(MINE.chunks_up("c0")) == Address("lab", "0a1b", "x")
    assert topics.parse(MINE.birth) == Address("lab", "0a1b", "s")
    assert topics.parse(MINE.jobs) is None


@pytest.mark.parametrize("name", ["", "A", "a/b", "+", "#", "a b", "-a", "a-", "é", "a" * 65, "a\n"])
def test_names_that_could_reach_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a topic name"):
        DeviceTopics("lab", name)
    with pytest.raises(ValueError, match="not a topic name"):
        DeviceTopics(name, "dev")
    with pytest.raises(ValueError, match="not a topic name"):
        MINE.chunks_up(name)


@given(st.text(max_size=80))
def test_any_text_is_parsed_without_a_fault(text: str) -> None:
    assert topics.parse(text) is None or text.startswith("argosy/v1/")
