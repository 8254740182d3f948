from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from argosy_common.link.delivery import Delivery
from argosy_common.link.routes import Routes, Subscription

LEVEL = st.sampled_from(["a", "b", "dev1", "", "a.b", "x\ny"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.tuples(st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4), st.booleans()).map(
    lambda made: "/".join([*made[0], *(["#"] if made[1] else [])])
)


def ignore(_delivery: Delivery) -> None:
    """Take a message and do nothing."""


def routes(*filters: str) -> Routes:
    made = Routes()
    for topic_filter in filters:
        made.add(Subscription(topic_filter, ignore, 1, manual_ack=False))
    return made


def matching(made: Routes, topic: str) -> list[str]:
    return [subscription.topic_filter for subscription in made.match(topic)]


@given(FILTER.filter(bool), TOPIC)
def test_a_filter_matches_what_paho_says_it_matches(topic_filter: str, topic: str) -> None:
    assert bool(matching(routes(topic_filter), topic)) == topic_matches_sub(topic_filter, topic)


def test_all_matching_subscriptions_are_found_in_their_order() -> None:
    made = routes("a/#", "b/+", "a/+/c", "#")
    assert matching(made, "a/b/c") == ["a/#", "a/+/c", "#"]


def test_a_filter_with_dots_and_brackets_is_taken_literally() -> None:
    assert matching(routes("a.b/[x]"), "aXb/x") == []
    assert matching(routes("a.b/[x]"), "a.b/[x]") == ["a.b/[x]"]


def test_a_shared_subscription_matches_the_plain_topic() -> None:
    assert matching(routes("$share/workers/a/+"), "a/b") == ["$share/workers/a/+"]


def test_a_second_subscription_with_the_same_filter_takes_the_first_ones_place() -> None:
    made = routes("a")
    made.match("a")
    made.add(Subscription("a", ignore, 0, manual_ack=True))
    assert [subscription.qos for subscription in made.match("a")] == [0]


def test_a_flood_of_topics_does_not_fill_the_memory() -> None:
    made = routes("a/+")
    for number in range(10_000):
        assert matching(made, f"a/{number}") == ["a/+"]
    assert len(made._cache) <= 4096
