"""Instructions that arrive more than once are run once, and answered each time by the one reply."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from argosy_common.wire.bodies import Accepted, Reply
from argosy_server.local_fleet import LocalFleet, wait_until
from tests.fleets import Impostor, data_of

pytestmark = pytest.mark.timeout(120)


def instruction(fleet: LocalFleet, message: str) -> bytes:
    """Return an instruction as the coordinator has sent it."""
    with closing(sqlite3.connect(fleet.folder / "coordinator" / "coordinator.db")) as database:
        row = database.execute("SELECT envelope FROM instructions WHERE id = ?", (message,)).fetchone()
    return bytes(row[0])


@pytest.mark.slow
def test_an_instruction_delivered_again_runs_once_and_gets_the_stored_reply(
    make_fleet: Callable[..., LocalFleet], lab: Path, notes: Callable[[str], list[tuple[str, int]]]
) -> None:
    fleet = make_fleet(1)
    config = {"min-nodes": "1", "train-seconds": "1"}
    run = fleet.run(lab, rounds=3, config=config)
    wait_until(lambda: len(notes("d1")) == 1, 60, "the first training")
    first = notes("d1")[0][0]
    envelope = instruction(fleet, first)
    with Impostor(fleet, "d1") as impostor:
        for _ in range(3):  # while it runs: it is only said to be known
            impostor.deliver(envelope)
        wait_until(lambda: len(impostor.answers(Accepted, first)) >= 3, 20, "three times 'accepted'")
        wait_until(lambda: len(impostor.answers(Reply, first)) >= 1, 30, "the reply")
        told = len(impostor.answers(Reply, first))
        impostor.deliver(envelope)  # without a receipt yet
        wait_until(lambda: len(impostor.answers(Reply, first)) > told, 20, "the reply again")
        replies = set(impostor.answers(Reply, first))
    assert len(replies) == 1
    wait_until(lambda: len(notes("d1")) == 2, 60, "the second training")
    with Impostor(fleet, "d1") as impostor:
        impostor.deliver(envelope)  # long since delivered, and another one is running
        wait_until(lambda: bool(impostor.answers(Reply, first)), 20, "the stored reply")
        assert set(impostor.answers(Reply, first)) == replies
    row = fleet.wait_run(run, 60)
    assert row["status"] == "finished", row
    assert [data["metrics"]["mean"] for data in data_of(fleet, run, "central")] == [0.0, 1.0, 2.0, 3.0]
    assert all((data["sent"], data["replied"]) == (1, 1) for data in data_of(fleet, run, "phase-finished"))
    with Impostor(fleet, "d1") as impostor:
        impostor.deliver(envelope)  # of a run that is over: passed over in silence
    assert fleet.wait_run(fleet.run(lab, rounds=1, config=config), 60)["status"] == "finished"
    assert [number for _, number in notes("d1")] == [1, 2, 3, 1]
    assert [message for message, _ in notes("d1")].count(first) == 1
