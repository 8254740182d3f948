"""`argosy-device check` against a real coordinator and its real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from argosy_client.check.checks import examine
from argosy_client.check.finding import Severity
from argosy_client.check.readings import Readings, read
from argosy_client.identity import Enrolment
from argosy_server.local_fleet import LocalDevice, LocalFleet

BOARD = {"memory-cgroup-off", "clock-unsynchronised", "certificate-unjudged", "torch-without-gpu", "accelerator-closed"}
"""What depends on the machine that the tests run on."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """A coordinator with its broker, and an enrolled device whose daemon does not run."""
    with LocalFleet(tmp_path_factory.mktemp("fleet"), [LocalDevice("board")]) as running:
        running.start_coordinator()
        running.join("board")
        yield running


def checked(*words: str) -> tuple[int, dict[str, str], str]:
    """Run the command; return its exit code, what it found by code, and what it said on stderr."""
    command = [sys.executable, "-m", "argosy_client.cli", "check", "--json", *words]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    told: dict[str, Any] = json.loads(done.stdout)
    found = {row["code"]: row["severity"] for row in told["findings"] if row["code"] and row["code"] not in BOARD}
    return done.returncode, found, done.stderr


class AtClock:
    """A clock that stands at one time."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def monotonic(self) -> float:
        return 1.0

    def wall(self) -> datetime:
        return self._at


def at(fleet: LocalFleet, when: datetime, *, synchronised: bool = True) -> Readings:
    return read(fleet.device_folder("board"), clock=AtClock(when), synchronised=lambda: synchronised)


def codes(readings: Readings) -> set[str]:
    return {found.code for _, found in examine(readings) if found.code} - BOARD


def test_an_enrolled_board_whose_coordinator_runs_has_no_problem(fleet: LocalFleet) -> None:
    code, found, stderr = checked("--state-dir", str(fleet.device_folder("board")))
    assert found == {}, stderr
    assert code in {0, 110}, "110: the machine that the tests run on has an accelerator that is closed"
    readings = at(fleet, datetime.now(UTC))
    assert [found.severity for name, found in examine(readings) if name == "access"] == [Severity.OK]


def test_before_it_joins_a_board_can_check_the_way(fleet: LocalFleet, tmp_path: Path) -> None:
    enrolment = Enrolment.load(fleet.device_folder("board"))
    words = ("--state-dir", str(tmp_path), "--url", enrolment.url, "--pin")
    assert checked(*words, enrolment.pin)[1] == {"not-enrolled-yet": "hint"}
    code, found, stderr = checked(*words, "sha256:" + "0" * 64)
    assert (code, found["pin-differs"]) == (111, "error")
    assert "pin-differs" in stderr
    assert not list(tmp_path.iterdir()), "a check leaves nothing behind"


def test_a_certificate_that_ended_is_found_by_a_clock_that_can_be_believed(fleet: LocalFleet) -> None:
    much_later = datetime.now(UTC) + timedelta(days=3653)
    assert codes(at(fleet, much_later)) == {"certificate-expired"}
    assert codes(at(fleet, much_later, synchronised=False)) == set()
    assert codes(at(fleet, datetime(1970, 1, 1, tzinfo=UTC))) == {"clock-behind"}


def test_while_the_daemon_runs_its_connection_is_left_alone(fleet: LocalFleet) -> None:
    fleet.start_device("board")
    fleet.wait_online(1)
    assert checked("--state-dir", str(fleet.device_folder("board")))[1] == {"access-untried": "hint"}
    fleet.wait_online(1)
    fleet.kill("board", signal.SIGTERM)
    assert (fleet.device_folder("board") / "time-floor").exists(), "a clean stop keeps the time"


def test_keys_that_others_may_read_are_named(fleet: LocalFleet) -> None:
    key = fleet.device_folder("board") / "tls.key"
    key.chmod(0o644)
    code, found, _ = checked("--state-dir", str(key.parent))
    key.chmod(0o600)
    assert (code, found) == (111, {"keys-open": "error"})


def test_a_state_directory_that_cannot_be_written_is_named(fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # a mode would not do: tests may run as root
    assert codes(at(fleet, datetime.now(UTC))) == {"state-read-only"}


def test_a_port_where_nobody_speaks_tls_is_no_coordinator(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        readings = read(tmp_path, clock=AtClock(datetime.now(UTC)), patience_s=0.3)
        assert codes(readings) == {"not-enrolled"}
        code, found, _ = checked("--state-dir", str(tmp_path), "--url", url)
    assert (code, found) == (111, {"not-enrolled-yet": "hint", "join-unreachable": "error"})


def test_a_coordinator_that_is_down_is_told_in_bounded_time(fleet: LocalFleet) -> None:
    """The last test: the fleet is gone after it."""
    fleet.kill("coordinator", signal.SIGTERM)
    code, found, _ = checked("--state-dir", str(fleet.device_folder("board")))
    assert (code, found) == (111, {"service-unreachable": "warning", "broker-unreachable": "error"})
