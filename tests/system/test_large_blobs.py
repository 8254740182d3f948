"""Large blobs in a fleet of real processes: by HTTPS where the port is reached, by MQTT where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from argosy_server.local_fleet import LocalFleet
from tests.fleets import data_of

FleetMaker = Callable[..., LocalFleet]

FLOATS = 2_300_000
MODEL = 4 * FLOATS

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("serve", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_large_model_comes_by_https_and_by_mqtt_where_that_is_not_served(
    make_fleet: FleetMaker, lab: Path, *, serve: bool
) -> None:
    fleet = make_fleet(2, **{"enrolment.serve_blobs": serve})
    run = fleet.run(lab, rounds=1, config={"floats": str(FLOATS)})
    row = fleet.wait_run(run, 90)
    assert row["status"] == "finished", row["error"]
    replies = data_of(fleet, run, "device-reply")
    assert len(replies) == 4
    assert {reply["via"] for reply in replies} == {"https" if serve else "mqtt"}
    assert all(MODEL < reply["bytes_down"] < 1.02 * MODEL for reply in replies)
    told = fleet.log_tail("d1", 100_000)
    assert ("download" in told) is False, "nothing went wrong on the way"
