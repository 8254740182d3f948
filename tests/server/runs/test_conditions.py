"""What a run's process hears from the daemon of its devices' condition: taken with care, and in bounded time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import ProgrammingError
from argosy_common.ipc import Channel
from argosy_common.straggler.conditions import UNKNOWN, Condition
from argosy_server.runs import port as ports
from argosy_server.runs.conditions import read_condition, read_conditions
from argosy_server.runs.port import DaemonPort, RunStopped
from tests.waiting import until

FULL = {
    "battery": 0.5,
    "on_mains": True,
    "temperature": -3.5,
    "throttled": False,
    "metered": True,
    "load": 2.0,
    "site": "hall",
    "shard": "3",
}


def test_every_field_is_read_and_an_unknown_one_passed_over() -> None:
    assert read_condition({**FULL, "mood": "good"}) == Condition(**FULL)  # type: ignore[arg-type]  # one type a field
    assert read_condition({}) == UNKNOWN


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("battery", 1.5),
        ("battery", -0.1),
        ("battery", True),
        ("battery", "0.5"),
        ("battery", float("nan")),
        ("on_mains", 1),
        ("on_mains", "yes"),
        ("temperature", -300.0),
        ("temperature", float("inf")),
        ("throttled", 0),
        ("metered", None),
        ("load", -1.0),
        ("load", float("inf")),
        ("load", [1.0]),
        ("site", 7),
        ("site", b"hall"),
        ("site", "x" * 322),
        ("shard", "x" * 257),
        ("shard", None),
    ],
)
def test_a_value_that_cannot_be_is_not_known_and_the_others_are(field: str, value: object) -> None:
    without = {name: kept for name, kept in FULL.items() if name != field}
    assert read_condition({**FULL, field: value}) == read_condition(without)


def test_whole_numbers_are_numbers() -> None:
    found = read_condition({"battery": 1, "temperature": 51})
    assert (found.battery, found.temperature) == (1.0, 51.0)
    assert isinstance(found.battery, float)


def test_conditions_stand_by_node_id() -> None:
    told = {f"{2**64 - 1:016x}": {"load": 1.0}, "00000000000000aa": {}}
    assert read_conditions(told) == {2**64 - 1: Condition(load=1.0), 0xAA: UNKNOWN}


@contextmanager
def asked(*answers: dict[str, Any]) -> Iterator[tuple[DaemonPort, list[dict[str, Any]]]]:
    """A port whose daemon gives these answers, one a question, and then none."""
    daemon, theirs = Channel.pair()
    told: list[dict[str, Any]] = []
    port = DaemonPort(Channel(theirs), clock=SystemClock(), gone=lambda: None)
    port.start()

    def serve() -> None:
        left = list(answers)
        while (message := daemon.receive()) is not None:
            told.append(message)
            if left:
                daemon.send(left.pop(0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield port, told
    port._channel.close()
    thread.join(5)
    daemon.close()


def test_the_port_asks_and_returns_what_it_hears() -> None:
    with asked({"op": "conditions", "of": {"00000000000000aa": {"metered": True}}}) as (port, told):
        assert port.conditions() == {0xAA: Condition(metered=True)}
        assert told == [{"op": "conditions"}]


def test_a_daemon_that_does_not_answer_is_told_of_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_ANSWER_TIME_S", 0.05)
    with asked() as (port, _), pytest.raises(ProgrammingError, match="how its devices are"):
        port.conditions()


def test_a_run_that_was_stopped_asks_no_more() -> None:
    with asked({"op": "stop"}) as (port, told):
        port.event("any")
        assert until(lambda: port._stopped)
        with pytest.raises(RunStopped):
            port.conditions()
        assert len(told) == 1
