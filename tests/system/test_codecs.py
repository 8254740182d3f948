"""Compressed updates in a fleet of real processes, over real MQTT, on real recordings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from argosy_common.errors import CodecUnknown, RunConfigInvalid
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from tests.fleets import data_of

HAR = Path(__file__).parents[2] / "examples" / "har"
WHOLE = 151_000
"""Bytes of the model at full precision, about."""

FleetMaker = Callable[..., LocalFleet]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def people(tmp_path: Path, har_data: Path) -> Iterator[LocalFleet]:
    """A fleet of three devices with one person's recordings each."""
    devices = [
        LocalDevice(f"person-{one}", {"subject": one, "data": str(har_data)}, {"heartbeat_s": 2.0, "death_delay_s": 1})
        for one in (1, 2, 3)
    ]
    with LocalFleet(tmp_path / "fleet", devices, settings={"runs.resend_s": 2.0}) as fleet:
        fleet.start()
        yield fleet


def start(fleet: LocalFleet, data: Path, rounds: int, **config: object) -> int:
    told = {"min-devices": 3, "lr-decay": 1.0, "test-data": data, **config}
    codec = {"up": "eden:2", "down": "int8"}
    return fleet.run(HAR, rounds=rounds, config={name: str(value) for name, value in told.items()}, codec=codec)


def replies(fleet: LocalFleet, run: int, round_: int, phase: str) -> dict[str, dict[str, Any]]:
    return {it["device"]: it for it in data_of(fleet, run, "device-reply", round=round_, phase=phase)}


@pytest.mark.slow
def test_people_learn_together_with_eden_up_and_int8_down(people: LocalFleet, har_data: Path) -> None:
    _refuse_what_there_is_not(people, har_data)
    run = start(people, har_data, 6)
    row = people.wait_run(run, 120)
    assert row["status"] == "finished", row["error"]
    assert row["options"]["codec"] == {"up": "eden:2", "down": "int8", "arrays": []}
    (codec,) = data_of(people, run, "codec")
    assert codec == {"up": "eden:2", "down": "int8", "arrays": [], "folded": True}
    accuracy = [data["metrics"]["accuracy"] for data in data_of(people, run, "central")]
    assert accuracy[-1] > 0.6 > accuracy[0]
    for number in (2, 6):
        trained = replies(people, run, number, "train").values()
        evaluated = replies(people, run, number, "evaluate").values()
        assert len(trained) == len(evaluated) == 3
        assert all(WHOLE / 16 < reply["bytes_up"] < WHOLE / 8 for reply in trained)
        assert all(reply["bytes_down"] < WHOLE / 50 for reply in trained), "the model was there from evaluation"
        assert all(WHOLE / 4.5 < reply["bytes_down"] < WHOLE / 3.4 for reply in evaluated)
        (told,) = data_of(people, run, "phase-compressed", round=number, phase="train")
        assert abs(told["fp32_up"] - 3 * WHOLE) < 3 * 2000
        assert told["fp32_down"] == 0


def _refuse_what_there_is_not(people: LocalFleet, data: Path) -> None:
    """A codec that does not exist ends the run by its name before a round is lost."""
    run = people.run(HAR, rounds=1, config={"test-data": str(data)}, codec={"up": "eden:9"})
    row = people.wait_run(run, 60)
    assert row["status"] == "failed"
    assert row["error"]["code"] == CodecUnknown.code
    assert "eden:9" in row["error"]["message"]
    assert not data_of(people, run, "phase-started")
    with pytest.raises(RunConfigInvalid):
        people.run(HAR, config={"no-such-key": "1"})


@pytest.mark.slow
def test_a_killed_device_still_has_its_model_and_one_that_lost_it_gets_it_whole(
    make_fleet: FleetMaker, lab: Path
) -> None:
    fleet = make_fleet(3)
    whole = 4 * 100_000
    config = {"floats": "100000", "train-seconds": "0.1"}
    run = fleet.run(lab, rounds=200, config=config, codec={"up": "eden:2", "down": "int8"})

    def rounds_over() -> int:
        return len(data_of(fleet, run, "phase-finished", phase="evaluate"))

    wait_until(lambda: rounds_over() >= 2, 30, "two rounds")
    fleet.kill("d1")
    fleet.kill("d2")
    shutil.rmtree(fleet.device_folder("d2") / "contexts")
    fleet.start_device("d1")
    fleet.start_device("d2")
    fleet.wait_online(3)
    with fleet.client() as api:
        names = {device["name"]: device["device"] for device in api.get("devices")["devices"]}
    back = rounds_over()
    wait_until(lambda: rounds_over() >= back + 3, 30, "three rounds more")
    with fleet.client() as api:
        api.post(f"runs/{run}/stop")
    fleet.wait_run(run, 30)
    later = [it for it in data_of(fleet, run, "device-reply") if it["round"] > 2]
    kept = [it["bytes_down"] for it in later if it["device"] == names["d1"] and not it["error"]]
    lost = [it["bytes_down"] for it in later if it["device"] == names["d2"] and not it["error"]]
    assert max(kept) < whole, "no more than a few changes: what it held survived the kill"
    assert sum(size > whole for size in lost) == 1, "once whole, then changes again"
    assert {it["device"] for it in later[-6:] if not it["error"]} == set(names.values())
