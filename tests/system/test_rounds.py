"""Rounds with real processes, broker and TLS: the undisturbed way, and kills at the worst moments."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from argosy_server.local_fleet import LocalFleet, wait_until

Notes = Callable[[str], list[tuple[str, int]]]
FleetMaker = Callable[..., LocalFleet]

pytestmark = pytest.mark.timeout(180)


def of(events: list[dict[str, Any]], name: str, **wanted: object) -> list[dict[str, Any]]:
    """Return the data of the events of one name with these fields."""
    return [
        event["data"]
        for event in events
        if event["name"] == name and all(event["data"].get(key) == value for key, value in wanted.items())
    ]


def means(fleet: LocalFleet, run: int) -> dict[int, float]:
    """Return the central evaluation of each round: in the lab app, the mean of its arrays."""
    return {data["round"]: data["metrics"]["mean"] for data in of(fleet.events(run), "central")}


def test_rounds_run_and_the_model_goes_out_once_a_round(make_fleet: FleetMaker, lab: Path, notes: Notes) -> None:
    fleet = make_fleet(2)
    run = fleet.run(lab, rounds=3, config={"floats": "50000"})
    row = fleet.wait_run(run, 60)
    assert row["error"] is None
    assert row["status"] == "finished"
    assert means(fleet, run) == {0: 0.0, 1: 1.5, 2: 3.0, 3: 4.5}
    events = fleet.events(run)
    assert [(d["round"], d["phase"]) for d in of(events, "phase-finished")] == [
        (number, phase) for number in (1, 2, 3) for phase in ("train", "evaluate")
    ]
    # the client's Flower context was kept: each device counted its own rounds
    assert [d["metrics"]["seen"] for d in of(events, "phase-finished", phase="train")] == [1.0, 2.0, 3.0]
    # evaluate(r) fetched the new model; train(r+1) found it in the cache
    model = 50_000 * 4
    for number in (2, 3):
        assert all(d["bytes_down"] < model / 4 for d in of(events, "device-reply", phase="train", round=number))
        for reply in of(events, "device-reply", phase="evaluate", round=number):
            assert model < reply["bytes_down"] < 1.1 * model
    assert [number for _, number in notes("d1")] == [1, 2, 3]
    # what the rounds left behind is gone; the bundle, the final model and at most the last phase's blobs remain
    blobs = list((fleet.folder / "coordinator" / "blobs" / "sha256").iterdir())
    assert len(blobs) <= 2
    assert row["final_model"] in {blob.name for blob in blobs}


@pytest.mark.slow
def test_a_device_killed_in_the_middle_of_training_still_answers_in_that_round(
    make_fleet: FleetMaker, lab: Path, notes: Notes
) -> None:
    fleet = make_fleet(2)
    run = fleet.run(lab, rounds=2, config={"train-seconds": "2"})
    wait_until(lambda: len(notes("d1")) == 1, 60, "d1 to train")
    fleet.kill("d1")
    fleet.start_device("d1")
    assert fleet.wait_run(run, 90)["status"] == "finished"
    assert means(fleet, run) == {0: 0.0, 1: 1.5, 2: 3.0}
    assert [data["replied"] for data in of(fleet.events(run), "phase-finished", phase="train")] == [2, 2]
    # it trained twice on the one instruction, since the first time was lost with its process, and answered once
    first_round = [message for message, number in notes("d1") if number == 1]
    assert len(first_round) == 2
    assert len(set(first_round)) == 1


@pytest.mark.slow
def test_the_broker_killed_with_nothing_kept_loses_no_round(make_fleet: FleetMaker, lab: Path) -> None:
    fleet = make_fleet(3)
    run = fleet.run(lab, rounds=4, config={"train-seconds": "1", "min-nodes": "3"})
    for number in (1, 2, 3):
        wait_until(partial(begun, fleet, run, number), 90, f"round {number}")
        broker_pid(fleet).send_signal(signal.SIGKILL)
    row = fleet.wait_run(run, 120)
    assert row["status"] == "finished", row
    assert means(fleet, run) == {number: 2.0 * number for number in range(5)}
    assert all(data["replied"] == 3 for data in of(fleet.events(run), "phase-finished"))


def begun(fleet: LocalFleet, run: int, number: int) -> bool:
    """Tell whether a round has begun."""
    return bool(of(fleet.events(run), "phase-started", round=number, phase="train"))


def broker_pid(fleet: LocalFleet) -> Any:  # noqa: ANN401  (psutil's Process)
    """Return the broker's process, once there is one."""
    import psutil  # noqa: PLC0415

    coordinator = psutil.Process(fleet.processes["coordinator"].pid)
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [child for child in coordinator.children() if "mosquitto" in child.name()]
        return bool(found)

    wait_until(there, 30, "a broker")
    return found[0]
