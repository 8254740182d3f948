"""Wall clocks that jump by ten years under coordinator and broker, or under a device, and are set right again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from argosy_common import x509
from argosy_server.local_fleet import LocalFleet, wait_until
from tests.shifted_clock import ShiftedClock

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

DECADE = timedelta(days=3652)
RIGHT = timedelta(0)


class Fleet:
    """One device; coordinator or device have a clock that can be shifted."""

    def __init__(self, made: LocalFleet, clock: ShiftedClock, lab: Path) -> None:
        self.made = made
        self.clock = clock
        self._lab = lab
        self._right = dict(made._environment)

    def shifted(self, start: Callable[[], None]) -> None:
        """Start something under the shifted clock."""
        self.made._environment = {**self._right, **self.clock.environment}
        try:
            start()
        finally:
            self.made._environment = self._right

    def start_coordinator(self) -> None:
        self.shifted(self.made.start_coordinator)

    def stop_coordinator(self) -> None:
        self.made.kill("coordinator", signal.SIGTERM)

    def works(self) -> None:
        """Do a round."""
        run = self.made.run(self._lab, rounds=1, config={"min-nodes": "1"})
        row = self.made.wait_run(run, 90)
        assert row["status"] == "finished", row["error"]

    def connected(self) -> bool:
        """Whether the coordinator is connected to its broker."""
        with self.made.client() as api:
            return bool(api.get("health")["broker"]["connected"])

    def doctor(self) -> set[str]:
        """Return which checks fail."""
        with self.made.client() as api:
            return {check["name"] for check in api.get("doctor")["checks"] if not check["ok"]}


@pytest.fixture
def fleet(make_fleet: Callable[..., LocalFleet], lab: Path, tmp_path: Path) -> Fleet:
    return Fleet(make_fleet(1, start=False), ShiftedClock.or_skip(tmp_path / "clock"), lab)


@pytest.mark.parametrize("jump", [DECADE, -DECADE], ids=["ahead", "back"])
def test_a_coordinators_clock_that_jumps_breaks_no_session_and_all_is_well_once_it_is_right(
    fleet: Fleet, jump: timedelta
) -> None:
    made, clock = fleet.made, fleet.clock
    fleet.start_coordinator()
    made.join("d1")
    made.start_device("d1")
    made.wait_online(1)
    clock.shift(jump)
    fleet.works()
    assert fleet.doctor() & {"clock", "certificate authority", "own certificates", "device certificates"}
    # while it is wrong nobody connects anew: the broker judges certificates by the same clock
    made.kill("d1")
    made.start_device("d1")
    wait_until(lambda: "certificate" in made.log_tail("d1", 1500), 60, "d1 to be refused")
    clock.shift(RIGHT)
    made.wait_online(1, 90)
    fleet.works()


@pytest.mark.parametrize("jump", [DECADE, -DECADE], ids=["ahead", "back"])
def test_a_coordinator_that_is_started_with_a_wrong_clock_serves_everybody_once_it_is_right(
    fleet: Fleet, jump: timedelta
) -> None:
    made, clock = fleet.made, fleet.clock
    fleet.start_coordinator()
    made.join("d1")
    made.start_device("d1")
    made.wait_online(1)
    fleet.stop_coordinator()
    clock.shift(jump)
    fleet.start_coordinator()
    assert fleet.doctor() >= {"devices"}
    # a time server sets it right while it runs
    clock.shift(RIGHT)
    made.wait_online(1, 150)
    fleet.works()
    # and its own certificate, which was made at the wrong time, is replaced before it is needed again
    own = made.folder / "coordinator" / "ca" / "coordinator.crt"
    wait_until(lambda: _is_good(own), 90, "the coordinator's own certificate to be made anew")
    coordinator = psutil.Process(made.processes["coordinator"].pid)
    broker = next(child for child in coordinator.children() if "mosquitto" in child.name())
    broker.kill()
    wait_until(lambda: not broker.is_running(), 10, "the broker to die")
    wait_until(fleet.connected, 90, "the coordinator to be back at its broker")
    made.wait_online(1, 90)
    fleet.works()
    fleet.stop_coordinator()
    fleet.start_coordinator()
    made.wait_online(1, 90)


def test_a_device_works_whatever_its_clock_shows(fleet: Fleet) -> None:
    made, clock = fleet.made, fleet.clock
    made.start_coordinator()
    clock.shift(-DECADE)
    fleet.shifted(lambda: made.join("d1"))
    fleet.shifted(lambda: made.start_device("d1"))
    made.wait_online(1)
    fleet.works()
    for jump in (DECADE, -DECADE):
        clock.shift(jump)
        fleet.works()
        made.kill("d1")
        fleet.shifted(lambda: made.start_device("d1"))
        made.wait_online(1)
        wait_until(lambda: _online(made), 60, "d1 to be back")
        fleet.works()


def _is_good(path: Path) -> bool:
    certificate, now = x509.load_chain(path)[0], datetime.now(UTC)
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _online(made: LocalFleet) -> bool:
    with made.client() as api:
        return bool(api.get("devices/d1")["presence"]["online"])
