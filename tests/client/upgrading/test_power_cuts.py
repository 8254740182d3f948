"""Power cuts at every step of an upgrade: the next boot goes on, or back. What apt does is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from argosy_client.upgrading.packages import Change, Packages, PackagesFailed
from argosy_client.upgrading.program import Program, Service
from argosy_client.upgrading.steps import HEALTHY, INBOX, RECORD, REQUEST, Record, Request, Step, is_version


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches the real one."""


class Board(Packages, Service):
    """A board that loses its power at the n-th point; before and after each thing that it does is one."""

    def __init__(self, folder: Path) -> None:
        self.version, self.half = "1.0", False
        self.cut_at: int | None = None
        self.points = 0
        self.now = 0.0
        self.boots = 0
        self.state, self.folder = folder / "state", folder / "root"
        for each in (self.state / INBOX, self.folder):
            each.mkdir(parents=True)
        self.settings = folder / "device.toml"
        self.settings.write_text("[upgrade]\nallowed = true\n")
        self.boot()

    def boot(self) -> None:
        """Start the daemon of the version that is there, as a new boot would too."""
        self.boots += 1
        if "bad" not in self.version and not self.half:
            (self.state / INBOX / HEALTHY).write_text(json.dumps({"invocation": str(self.boots)}))

    def run(self) -> int:
        """Run what root runs, with a cut where it is due."""
        made = Program(
            state=self.state,
            folder=self.folder,
            settings=self.settings,
            packages=self,
            service=self,
            sleep=self._sleep,
            monotonic=lambda: self.now,
        )
        made._keep = self._around(made._keep)  # type: ignore[method-assign]
        made._inbox.remove = self._around(made._inbox.remove)  # type: ignore[method-assign]
        return made.run()

    def record(self) -> Record | None:
        path = self.folder / RECORD
        return Record.parse(path.read_bytes()) if path.exists() else None

    # --- as `Packages`

    def installed(self) -> dict[str, str]:
        return dict.fromkeys(("argosy-device", "argosy-common", "argosy-flower"), self.version)

    def is_lower(self, one: str, other: str) -> bool:
        return one < other

    def refresh(self) -> None:
        self._point()

    def plan(self, version: str) -> list[Change]:
        return [Change("argosy-device", self.version, version)]

    def fetch_before(self, changes: Sequence[Change], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._point()
        (folder / "1.deb").write_text(changes[0].old)
        self._point()

    def install(self, version: str) -> None:
        self._change(version)

    def install_before(self, folder: Path) -> None:
        self._change((folder / "1.deb").read_text())

    def _change(self, version: str) -> None:
        self._point()
        self.version, self.half = version, True
        self._point()
        self.half = False
        self._point()

    # --- as `Service`

    def is_active(self) -> bool:
        return True

    def invocation(self) -> str:
        return str(self.boots)

    def restart(self) -> None:
        self._point()
        self.boot()

    # --- inside

    def _point(self) -> None:
        self.points += 1
        if self.points == self.cut_at:
            raise PowerCut

    def _around(self, call: Callable[..., None]) -> Callable[..., None]:
        def called(*words: Any) -> None:  # noqa: ANN401  (whatever it takes)
            self._point()
            call(*words)
            self._point()

        return called

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


def carried_out(board: Board, request: Request) -> None:
    """Run until nothing is asked for, with a new boot after each cut."""
    (board.state / INBOX / REQUEST).write_bytes(request.pack())
    for _ in range(10):
        if not (board.state / INBOX / REQUEST).exists():
            return
        try:
            assert board.run() == 0
        except PowerCut:
            board.boot()
    raise AssertionError(board.record())


@pytest.mark.parametrize(
    ("version", "back", "end"),
    [
        ("1.1", False, (Step.UPGRADED, "1.1")),
        ("1.2bad", False, (Step.ROLLED_BACK, "1.0")),
        ("1.1", True, (Step.ROLLED_BACK, "1.0")),
    ],
    ids=["well", "not well", "called back"],
)
def test_a_power_cut_anywhere_changes_nothing_of_the_end(
    version: str, back: bool, end: tuple[Step, str], tmp_path: Path
) -> None:
    cut_at, points = 0, 1
    while cut_at < points:
        board = Board(tmp_path / str(cut_at))
        if back:
            carried_out(board, Request(5, version))
            board.points = 0
        board.cut_at = cut_at + 1
        carried_out(board, Request(5, version, back))
        record = board.record()
        assert record is not None
        assert (record.step, record.running, board.version, board.half) == (*end, end[1], False), cut_at
        points = max(points, board.points) if cut_at else board.points
        cut_at += 1
    assert cut_at > 10


def test_a_version_that_takes_the_board_down_each_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(tmp_path)
    (board.state / INBOX / REQUEST).write_bytes(Request(5, "1.2bad").pack())
    cuts = 0
    while (board.state / INBOX / REQUEST).exists():
        board.cut_at = None

        def crash(_seconds: float) -> None:
            raise PowerCut

        monkeypatch.setattr(board, "_sleep", crash)
        try:
            board.run()
        except PowerCut:
            cuts += 1
            board.boot()
    record = board.record()
    assert record is not None
    assert (cuts, record.step, board.version) == (3, Step.ROLLED_BACK, "1.0")
    assert "went down 3 times" in record.why


def test_a_way_back_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(tmp_path)
    (board.state / INBOX / REQUEST).write_bytes(Request(5, "1.2bad").pack())
    way_back = board.install_before

    def fails(_folder: Path) -> None:
        raise PackagesFailed("dpkg: no space left on device")

    monkeypatch.setattr(board, "install_before", fails)
    assert board.run() == 1
    record = board.record()
    assert record is not None
    assert record.step is Step.RETURNING
    monkeypatch.setattr(board, "install_before", way_back)
    assert board.run() == 0
    assert board.version == "1.0"


@pytest.mark.parametrize(
    "version",
    [
        "--option",
        "-o",
        "1;rm -rf /",
        "1 2",
        "../1",
        "1/2",
        "/etc/passwd",
        "argosy-device",
        "1\n",
        "1=2",
        "",
        "1:2.0",
        "9" * 65,
    ],
)
def test_a_version_is_nothing_but_a_version(version: str) -> None:
    assert not is_version(version)
    assert Request.parse(json.dumps({"rollout": 1, "version": version, "back": False}).encode()) is None


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0~rc1", "1.0+later", "2026.05.01.1200", "1.0-1"])
def test_versions_as_debian_has_them_are_taken(version: str) -> None:
    assert Request.parse(Request(1, version).pack()) == Request(1, version)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 4000,
        b'{"rollout": 1, "version": "1.0"}',
        b'{"rollout": true, "version": "1.0", "back": false}',
        b'{"rollout": 1, "version": "1.0", "back": "no"}',
        b'{"rollout": -1, "version": "1.0", "back": false}',
        b'{"rollout": 1, "version": "1.0", "back": false, "package": "nano"}',
    ],
)
def test_a_request_is_exactly_that(data: bytes) -> None:
    assert Request.parse(data) is None
