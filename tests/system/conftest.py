"""Fleets of real processes for the system tests: started on free ports, stopped whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_server.local_fleet import LocalDevice, LocalFleet

APPS = Path(__file__).parent / "apps"

FleetMaker = Callable[..., LocalFleet]


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[FleetMaker]:
    """Return a function that starts a fleet of `count` devices named d1, d2, …; `notes` is where the lab app notes."""
    fleets: list[LocalFleet] = []

    def make(count: int = 2, *, start: bool = True, **settings: object) -> LocalFleet:
        folder = tmp_path / f"fleet{len(fleets)}"
        devices = [
            LocalDevice(
                f"d{number}",
                {"name": f"d{number}", "notes": str(tmp_path / f"notes-d{number}")},
                {"heartbeat_s": 2.0, "death_delay_s": 1, "resend_s": 2.0},
            )
            for number in range(1, count + 1)
        ]
        fleet = LocalFleet(folder, devices, settings={"runs.resend_s": 2.0, **settings})
        fleets.append(fleet)
        if start:
            fleet.start()
        return fleet

    yield make
    for fleet in fleets:
        fleet.stop()


@pytest.fixture
def lab() -> Path:
    """The app that adds to its arrays."""
    return APPS / "lab"


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[str], list[tuple[str, int]]]:
    """Return a function that reads what the lab app noted on a device: (message id, round) a training."""

    def read(name: str) -> list[tuple[str, int]]:
        path = tmp_path / f"notes-{name}"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(message, int(number)) for message, number in rows]

    return read
