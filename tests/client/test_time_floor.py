"""Clocks of boards: at 1970, ten years off, right; and the floor that tells them apart."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from argosy_client import time_floor
from argosy_client.time_floor import FILE, PROGRAM, ClockState, TimeFloor, is_synchronised, judge
from argosy_common import x509

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
YEARS = timedelta(days=3653)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class SetClock:
    """A clock that a test sets; `pass_` lets time go by on both of its hands."""

    def __init__(self, wall: datetime) -> None:
        self.at = wall
        self.ticks = 1000.0

    def monotonic(self) -> float:
        return self.ticks

    def wall(self) -> datetime:
        return self.at

    def pass_(self, time: timedelta) -> None:
        self.at += time
        self.ticks += time.total_seconds()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's certificate, issued by a coordinator at `NOW`, for a week."""
    key = x509.generate_key()
    ca = x509.self_signed_ca(key, "root", NOW)
    path = tmp_path_factory.mktemp("certificate") / "device.crt"
    issued = x509.issue_client(ca, key, x509.generate_key().public_key(), "ab" * 8, NOW, life=7 * DAY)
    path.write_bytes(x509.certificate_pem(issued))
    return path


class Board:
    """A state directory and a clock; each `start` is another start of the daemon."""

    def __init__(self, state: Path, certificate: Path, wall: datetime) -> None:
        self._state, self._certificate = state, certificate
        self.clock = SetClock(wall)
        self.synchronised: bool | None = None

    def start(self) -> TimeFloor:
        return TimeFloor(self._state, self._certificate, clock=self.clock, synchronised=lambda: self.synchronised)

    def run(self, floor: TimeFloor, time: timedelta) -> None:
        """Let `time` pass, with a look at the clock a minute."""
        for _ in range(int(time / timedelta(minutes=1))):
            self.clock.pass_(timedelta(minutes=1))
            floor.tick()


@pytest.fixture
def board(tmp_path: Path, certificate: Path) -> Board:
    return Board(tmp_path, certificate, NOW)


def kept(folder: Path) -> datetime:
    return datetime.fromisoformat((folder / FILE).read_text().strip())


@pytest.mark.parametrize(
    ("wall", "synchronised", "state"),
    [
        (NOW, True, ClockState.SYNCHRONISED),
        (NOW, False, ClockState.UNSYNCHRONISED),
        (NOW, None, ClockState.PLAUSIBLE),
        (NOW - timedelta(minutes=1), True, ClockState.SYNCHRONISED),
        (NOW - HOUR, True, ClockState.BEHIND),
        (NOW - YEARS, True, ClockState.BEHIND),
        (x509.EPOCH, None, ClockState.BEHIND),
        (NOW + YEARS, False, ClockState.UNSYNCHRONISED),
    ],
)
def test_what_a_clock_is_worth(wall: datetime, synchronised: bool | None, state: ClockState) -> None:
    assert judge(wall, NOW, synchronised=synchronised) is state
    assert state.trusted is (state in {ClockState.SYNCHRONISED, ClockState.PLAUSIBLE})


def test_at_the_first_start_the_certificate_says_how_late_it_is_at_least(board: Board) -> None:
    board.clock.at = x509.EPOCH
    floor = board.start()
    assert floor.floor == NOW - x509.BACKDATED
    assert floor.state is ClockState.BEHIND


def test_the_next_certificate_says_how_late_it_is_by_now_and_how_late_it_may_get(board: Board, tmp_path: Path) -> None:
    board.clock.at = x509.EPOCH
    floor = board.start()
    key, later = x509.generate_key(), NOW + 30 * DAY
    ca = x509.self_signed_ca(key, "root", later)
    issued = x509.issue_client(ca, key, x509.generate_key().public_key(), "ab" * 8, later, life=7 * DAY)
    (tmp_path / "next.crt").write_bytes(x509.certificate_pem(issued))
    floor.renewed(tmp_path / "next.crt")
    assert floor.floor == later - x509.BACKDATED
    board.clock.at, board.synchronised = later + 3 * DAY, True
    board.run(floor, timedelta(minutes=1))
    assert floor.floor >= later + 3 * DAY, "the first certificate's end is no bound any more"


def test_without_a_certificate_it_is_as_late_as_the_program(tmp_path: Path) -> None:
    for path in (None, tmp_path / "device.crt"):
        assert TimeFloor(tmp_path, path, clock=SetClock(x509.EPOCH)).floor == PROGRAM


def test_the_floor_goes_on_with_the_monotonic_clock_and_a_wrong_wall_clock_leaves_it_alone(board: Board) -> None:
    board.clock.at = x509.EPOCH
    floor = board.start()
    board.run(floor, 3 * HOUR)
    assert floor.floor == NOW - x509.BACKDATED + 3 * HOUR


def test_a_synchronised_clock_raises_the_floor_for_the_next_boot_at_1970(board: Board, tmp_path: Path) -> None:
    board.synchronised = True
    floor = board.start()
    board.run(floor, timedelta(minutes=30))
    floor.stop()
    board.clock.at, board.synchronised = x509.EPOCH, False
    again = board.start()
    assert again.floor == NOW + timedelta(minutes=30) == kept(tmp_path)
    assert again.state is ClockState.BEHIND


@pytest.mark.parametrize("synchronised", [False, None])
def test_a_clock_that_nobody_vouches_for_never_raises_the_floor(board: Board, synchronised: bool | None) -> None:
    board.synchronised = synchronised
    board.clock.at = NOW + YEARS
    floor = board.start()
    board.run(floor, HOUR)
    floor.stop()
    assert board.start().floor == NOW - x509.BACKDATED + HOUR


def test_a_time_server_that_lies_by_ten_years_does_not_make_the_right_time_wrong_for_longer_than_a_certificate(
    board: Board,
) -> None:
    board.synchronised = True
    board.clock.at = NOW + YEARS
    floor = board.start()
    floor.stop()
    assert board.start().floor == NOW + 7 * DAY
    board.clock.at = NOW + 8 * DAY
    assert board.start().state is ClockState.SYNCHRONISED


def test_a_jump_back_by_ten_years_is_noticed_while_it_runs(board: Board) -> None:
    board.synchronised = True
    floor = board.start()
    board.run(floor, HOUR)
    before = floor.state
    board.clock.at -= YEARS
    assert (before, floor.state) == (ClockState.SYNCHRONISED, ClockState.BEHIND)
    assert floor.floor == NOW + HOUR


def test_the_file_is_written_once_an_hour_at_most(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(time_floor, "write_atomic", lambda _path, data: written.append(data))
    board.synchronised = True
    floor = board.start()
    board.run(floor, 10 * HOUR)
    assert 9 <= len(written) <= 11


def test_a_disk_that_cannot_be_written_is_told_once_an_hour_at_most(
    board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(time_floor, "write_atomic", full)
    floor = board.start()
    board.run(floor, 5 * HOUR)
    assert 1 <= sum(record.getMessage() == "clock.floor_not_kept" for record in caplog.records) <= 6


@pytest.mark.parametrize("text", ["", "soon", "2026-11-21", "9999-12-31T23:59:59+00:00", "\x00" * 9])
def test_garbage_in_the_file_never_puts_the_floor_behind_the_certificates_end(
    board: Board, tmp_path: Path, text: str
) -> None:
    (tmp_path / FILE).write_text(text)
    assert NOW - x509.BACKDATED <= board.start().floor <= NOW + 7 * DAY


def test_a_clock_that_cannot_be_trusted_is_told_once_and_only_after_time_servers_had_a_minute(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    board.clock.at = x509.EPOCH
    floor = board.start()
    for _ in range(5):
        board.clock.pass_(timedelta(seconds=10))
        floor.tick()
    assert not caplog.records
    board.run(floor, HOUR)
    assert [record.getMessage() for record in caplog.records] == ["clock.untrusted"]
    board.clock.at, board.synchronised = NOW + HOUR, True
    board.run(floor, HOUR)
    assert [record.getMessage() for record in caplog.records] == ["clock.untrusted", "clock.trusted"]


@pytest.mark.parametrize(
    ("files", "kernel", "told"),
    [
        ((), None, None),
        (("run/systemd/timesync/",), None, False),
        (("run/systemd/timesync/", "run/systemd/timesync/synchronized"), False, True),
        (("seccomp 0",), True, True),
        (("seccomp 0",), False, False),
        (("seccomp 0", "run/systemd/timesync/"), True, True),
        (("seccomp 2",), True, None),
        (("seccomp 2", "run/systemd/timesync/"), True, False),
    ],
)
def test_who_is_asked_whether_the_clock_is_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], kernel: bool | None, told: bool | None
) -> None:
    for name in files:
        if name.startswith("seccomp"):
            (tmp_path / "proc/self").mkdir(parents=True)
            (tmp_path / "proc/self/status").write_text(f"Name:\tpython3\nSeccomp:\t{name[-1]}\n")
        elif name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            (tmp_path / name).touch()
    monkeypatch.setattr(time_floor, "_kernel_says", lambda: kernel)
    assert is_synchronised(tmp_path) is told


def test_this_machines_kernel_can_be_asked() -> None:
    assert is_synchronised() in {True, False, None}
