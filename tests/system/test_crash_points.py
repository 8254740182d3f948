"""The coordinator is killed at every point of a run; it goes on, repeats nothing, and comes to the same end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from argosy_server.crash_points import POINTS
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until

pytestmark = pytest.mark.timeout(900)

STEADY = Path(__file__).parent / "apps" / "steady"
WITHOUT_MODEL = tuple(point for point in POINTS if point != "model.added")
"""This app exports none."""
LATER = {"phase.begun": 5, "reply.arrived": 7, "answer.forwarded": 8, "checkpoint.recorded": 4}
"""Points that are come to often, and are tried once more in the midst of a run."""


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    boards = [
        LocalDevice(f"d{number}", {"number": number}, {"heartbeat_s": 1.0, "resend_s": 1.0}) for number in (1, 2, 4)
    ]
    with LocalFleet(tmp_path_factory.mktemp("c"), boards, settings={"runs.resend_s": 1.0}) as made:
        made.start()
        yield made


def walk(fleet: LocalFleet, point: str, **config: str) -> dict[str, Any]:
    """Have the coordinator killed at a point of a run, and started again; return what the run came to."""
    fleet.kill("coordinator")
    fleet.start_coordinator(crash_at=point)
    fleet.wait_online(3, 60)
    process = fleet.processes["coordinator"]
    try:
        fleet.run(STEADY, config=config)
    except Exception:  # noqa: BLE001  (it may be killed before it has answered)
        assert point == "run.recorded" or process.wait(60)
    wait_until(lambda: process.poll() is not None, 60, f"the coordinator to be killed at {point}")
    fleet.start_coordinator()
    with fleet.client() as api:
        run = max(row["run"] for row in api.get("runs")["runs"])
    return fleet.wait_run(run, 60)


def what_it_came_to(fleet: LocalFleet, row: dict[str, Any]) -> tuple[object, ...]:
    """The final model, and all that the server app saw on the way."""
    central = [event["data"]["metrics"] for event in fleet.events(row["run"]) if event["name"] == "central"]
    # a result that was not written down when the coordinator was killed is found, and told, again
    told = list(dict.fromkeys(json.dumps(each, sort_keys=True) for each in central))
    return row["status"], row["final_model"], *told


def told_of(fleet: LocalFleet, row: dict[str, Any]) -> list[tuple[object, ...]]:
    """What happened in a run, shortly."""
    return [
        (event["name"], *(event["data"].get(key) for key in ("round", "phase", "device", "devices", "metrics")), code)
        for event in fleet.events(row["run"])
        for code in [(event["data"].get("error") or {}).get("code")]
    ]


def undisturbed(fleet: LocalFleet) -> tuple[object, ...]:
    reference = what_it_came_to(fleet, fleet.wait_run(fleet.run(STEADY), 60))
    assert reference[0] == "finished"
    assert len(reference) == 7
    return reference


@pytest.mark.slow
def test_killed_at_every_point_a_run_ends_as_if_it_had_not_been(fleet: LocalFleet) -> None:
    reference = undisturbed(fleet)
    for point in (*WITHOUT_MODEL, *(f"{point}:{times}" for point, times in LATER.items())):
        row = walk(fleet, point)
        assert what_it_came_to(fleet, row) == reference, (point, told_of(fleet, row))
