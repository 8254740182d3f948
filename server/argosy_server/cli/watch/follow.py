"""Fetching a run's events as they happen, through restarts of the coordinator, until the run is over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from argosy_common.backoff import Backoff
from argosy_common.clock import Clock
from argosy_common.errors import CoordinatorUnreachable, RunNotFound
from argosy_server.cli.client import AdminClient, Data

PAGE = 500
SHORTEST_TURN_S = 0.2
"""A coordinator with too many watchers answers without waiting; we do the waiting then."""


@dataclass(frozen=True)
class News:
    """Events, in order, and what the devices do now (empty unless asked for)."""

    events: list[Data]
    live: list[Data]


@dataclass(frozen=True)
class Lost:
    """The coordinator does not answer; the next attempt is `retry_s` seconds away."""

    error: CoordinatorUnreachable
    retry_s: float


@dataclass(frozen=True)
class Settled:
    """The run is over; this is its row."""

    run: Data


class Follower:
    """Follows one run. The first request must succeed; after it, an absent coordinator is waited for."""

    def __init__(
        self,
        api: AdminClient,
        run: int,
        *,
        clock: Clock,
        rng: random.Random,
        pause: Callable[[float], None],
        wait_s: float,
        live: bool,
    ) -> None:
        self._api = api
        self._run = run
        self._clock = clock
        self._pause = pause
        self._wait_s = wait_s
        self._live = live
        self._backoff = Backoff(rng, base=0.5, cap=5.0)
        self._after = 0
        self._answered = False

    def news(self) -> Iterator[News | Lost | Settled]:
        """Yield what happens until the run is over; the last is `Settled`.

        Raises:
            CoordinatorUnreachable: it did not answer even once.
            RunNotFound: there is no such run.
        """
        while True:
            began = self._clock.monotonic()
            try:
                news, over = self._fetch()
                settled = Settled(self._api.get(f"/runs/{self._run}")) if over else None
            except CoordinatorUnreachable as error:
                if not self._answered:
                    raise
                retry_s = self._backoff.next()
                yield Lost(error, retry_s)
                self._pause(retry_s)
                continue
            self._answered = True
            self._backoff.reset()
            yield news
            if settled is not None:
                yield settled
                return
            if not news.events:
                self._pause(max(0.0, SHORTEST_TURN_S - (self._clock.monotonic() - began)))

    def _fetch(self) -> tuple[News, bool]:
        wait = self._wait_s if self._answered else 0.0
        data = self._api.get(f"/runs/{self._run}/events", wait=wait, after=self._after, limit=PAGE)
        live = self._api.get(f"/runs/{self._run}/live")["devices"] if self._live else []
        events: list[Data] = data["events"]
        if events:
            self._after = int(events[-1]["seq"])
        return News(events, live), bool(data["over"])


def all_events(api: AdminClient, run: int) -> list[Data]:
    """Return all events of a run so far."""
    events: list[Data] = []
    while True:
        after = int(events[-1]["seq"]) if events else 0
        page: list[Data] = api.get(f"/runs/{run}/events", after=after, limit=PAGE)["events"]
        events += page
        if len(page) < PAGE:
            return events


def latest(api: AdminClient) -> int:
    """Return the number of the latest run.

    Raises:
        RunNotFound: there is none yet.
    """
    runs = api.get("/runs")["runs"]
    if not runs:
        raise RunNotFound(run="at all yet")
    return int(runs[-1]["run"])
