"""Which subscriptions a topic belongs to (MQTT 5, section 4.7). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from argosy_common.link.delivery import Handler

_CACHED_TOPICS = 4096


@dataclass(frozen=True)
class Subscription:
    """One filter and whom its messages are for."""

    topic_filter: str
    handler: Handler
    qos: int
    manual_ack: bool


class Routes:
    """All subscriptions of a link."""

    def __init__(self) -> None:
        self._routes: tuple[tuple[re.Pattern[str], Subscription], ...] = ()
        self._cache: dict[str, tuple[Subscription, ...]] = {}

    def add(self, subscription: Subscription) -> None:
        """Add a subscription; it takes the place of an earlier one with the same filter."""
        kept = [pair for pair in self._routes if pair[1].topic_filter != subscription.topic_filter]
        self._routes = (*kept, (_pattern(subscription.topic_filter), subscription))
        self._cache = {}

    def match(self, topic: str) -> tuple[Subscription, ...]:
        """Return the subscriptions that `topic` belongs to, in the order in which they were made."""
        cache = self._cache
        found = cache.get(topic)
        if found is None:
            found = tuple(subscription for pattern, subscription in self._routes if pattern.match(topic))
            if len(cache) >= _CACHED_TOPICS:  # topics come from peers: never let them fill the memory
                cache.clear()
            cache[topic] = found
        return found

    def all(self) -> tuple[Subscription, ...]:
        """Return every subscription."""
        return tuple(subscription for _, subscription in self._routes)


def _pattern(topic_filter: str) -> re.Pattern[str]:
    """Translate a topic filter, which the broker has judged already, into a regular expression."""
    if topic_filter.startswith("$share/"):  # a shared subscription's messages come under their plain topics
        topic_filter = topic_filter.split("/", 2)[2]
    levels = topic_filter.split("/")
    ending = r"\Z"
    if levels[-1] == "#":  # "a/#" is also "a" itself (section 4.7.1.2)
        levels.pop()
        ending = r"(?:/.*)?\Z" if levels else r".*\Z"
    body = "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels)
    return re.compile(body + ending, re.DOTALL)
