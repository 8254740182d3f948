"""A device behind a slow and lossy line takes part in every round, and holds up no other device's transfers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_client.identity import RECORD
from argosy_server.local_fleet import LocalFleet
from tests.bad_line import BadLine, Quality
from tests.fleets import data_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture
def fleet(make_fleet: Callable[..., LocalFleet]) -> Iterator[tuple[LocalFleet, BadLine]]:
    """Two devices, of which d1 reaches the broker over the bad line only, at some 64 kB a second."""
    made = make_fleet(2, start=False, **{"enrolment.serve_blobs": False})
    made.start_coordinator()
    for name in made.devices:
        made.join(name)
    path = made.device_folder("d1") / RECORD
    record = json.loads(path.read_text())
    broker = record["brokers"][0]
    line = BadLine((broker["host"], broker["port"]), Quality(rate=64_000), random.Random(3))
    record["brokers"] = [{"host": "127.0.0.1", "port": line.port}]
    path.write_text(json.dumps(record))
    for name in made.devices:
        made.start_device(name)
    made.wait_online(2)
    yield made, line
    line.close()


def test_a_device_behind_a_slow_and_lossy_line_answers_in_every_round(
    fleet: tuple[LocalFleet, BadLine], lab: Path
) -> None:
    made, line = fleet
    run = made.run(lab, rounds=2, config={"floats": "40000", "timeout": "120"})  # 160 kB each way
    row = made.wait_run(run, 200)
    assert row["status"] == "finished", row["error"]
    assert line.stalls > 5
    assert line.breaks > 0
    assert [data["replied"] for data in data_of(made, run, "phase-finished", phase="train")] == [2, 2]
    assert [data["metrics"]["mean"] for data in data_of(made, run, "central")] == [0.0, 1.5, 3.0]
    assert "Traceback" not in made.log_path("d1").read_text() + made.log_path("coordinator").read_text()
