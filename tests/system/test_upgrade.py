"""New versions of the devices' own packages, by ring: real daemons over a real broker, and root's real program.

Apt alone is in memory, and the service manager is the fleet. Real apt: tests/client/upgrading; all of it:
tests/system/booted.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from argosy_client.upgrading.packages import Change, Packages
from argosy_client.upgrading.program import Program, Service
from argosy_client.upgrading.steps import INBOX, REQUEST
from argosy_common.errors import AdminRequestInvalid, UpgradeStateForbids, UpgradeUnderWay
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until

pytestmark = pytest.mark.timeout(180)

NAMES = ("d1", "d2", "d3")
BY_HAND = "d4"
"""Installed in another way than by packages."""


class Root(Packages, Service):
    """What root is on one board: it looks for requests, and runs the program."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.version = "1.0"
        self.had = [self.version]
        self._fleet, self._name = fleet, name
        self._starts = 0
        self._ending = threading.Event()
        self.folder = fleet.folder / "root" / name
        self.folder.mkdir(parents=True)
        (self.folder / "device.toml").write_text("[upgrade]\nallowed = true\nhealth_s = 30\n")
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(30)

    def _look(self) -> None:
        state = self._fleet.device_folder(self._name)
        while not self._ending.wait(0.1):
            if (state / INBOX / REQUEST).exists():
                settings = self.folder / "device.toml"
                Program(state=state, folder=self.folder, settings=settings, packages=self, service=self).run()

    # --- as `Packages`

    def installed(self) -> dict[str, str]:
        return dict.fromkeys(("argosy-device", "argosy-common", "argosy-flower"), self.version)

    def is_lower(self, one: str, other: str) -> bool:
        return one < other

    def refresh(self) -> None:
        pass

    def plan(self, version: str) -> list[Change]:
        return [Change("argosy-device", self.version, version)]

    def fetch_before(self, changes: Sequence[Change], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "1.deb").write_text(changes[0].old)

    def install(self, version: str) -> None:
        self.version = version
        self.had.append(version)

    def install_before(self, folder: Path) -> None:
        self.install((folder / "1.deb").read_text())

    # --- as `Service`

    def is_active(self) -> bool:
        process = self._fleet.processes.get(self._name)
        return process is not None and process.poll() is None

    def invocation(self) -> str:
        return str(self._starts)

    def restart(self) -> None:
        """Start the daemon anew; one of a bad version cannot reach its coordinator."""
        self._starts += 1
        if self.is_active():
            self._fleet.kill(self._name)
        if "bad" not in self.version:
            self._fleet.start_device(self._name)


class Fleet(LocalFleet):
    """Boards with packages, and one without."""

    roots: dict[str, Root]

    def _device_environment(self, name: str) -> dict[str, str]:
        environment = super()._device_environment(name)
        if name in getattr(self, "roots", {}):
            environment["INVOCATION_ID"] = self.roots[name].invocation()
        return environment

    def versions(self) -> list[str]:
        return [self.roots[name].version for name in NAMES]

    def upgrade(self, version: str, *shares: float, tag: str | None = None, **ring: float) -> int:
        rings: list[dict[str, Any]] = [{"share": share, "hold_s": 0.0, **ring} for share in shares]
        with self.client() as api:
            row = api.post("upgrades", {"version": version, "rings": rings or [{"tag": tag, "hold_s": 0.0, **ring}]})
        return int(row["rollout"])

    def show(self, number: int) -> dict[str, Any]:
        with self.client() as api:
            return api.get(f"upgrades/{number}")

    def ends(self, number: int) -> dict[str, Any]:
        def over() -> bool:
            return self.show(number)["state"] in ("finished", "rolled-back")

        wait_until(over, 60, f"upgrade {number} to end: {self.show(number)}")
        return self.show(number)

    def argosy(self, *words: str) -> subprocess.CompletedProcess[str]:
        start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
        command = [sys.executable, "-c", start, *words, "--socket", str(self.socket)]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three boards at version 1.0, and one that has no packages."""
    folder = tmp_path_factory.mktemp("upgrade") / "fleet"
    common = {"heartbeat_s": 2.0, "death_delay_s": 1, "resend_s": 2.0, "upgrade.allowed": True}
    boards = [LocalDevice(name, {}, {**common, "upgrade.folder": str(folder / "root" / name)}) for name in NAMES]
    boards.append(LocalDevice(BY_HAND, {}, {**common, "upgrade.folder": str(folder / "nowhere")}))
    with Fleet(folder, boards, settings={"runs.grace_s": 1.0, "runs.resend_s": 1.0}) as made:
        made.roots = {name: Root(made, name) for name in NAMES}
        made.start()
        with made.client() as api:
            for name in NAMES:
                api.post(f"devices/{name}/tag", {"add": ["packaged"]})
            api.post("devices/d1/tag", {"add": ["canary"]})
        yield made
        for root in made.roots.values():
            root.end()


def why(row: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["error"]["code"] for each in row["devices"] if each["error"]}


@pytest.mark.slow
def test_a_version_goes_ring_by_ring_to_the_boards_and_stopped_all_go_back_over_a_kill_of_the_coordinator(
    fleet: Fleet,
) -> None:
    with fleet.client() as api:
        rings = [{"tag": tag, "hold_s": 0.0} for tag in ("canary", "packaged")]
        number = int(api.post("upgrades", {"version": "1.1", "rings": rings})["rollout"])
        with pytest.raises(UpgradeUnderWay):
            fleet.upgrade("1.2", 1.0)
    row = fleet.ends(number)
    assert (row["state"], row["counts"], fleet.versions()) == ("finished", {"active": 3}, ["1.1"] * 3)
    assert [each["running"] for each in row["devices"]] == ["1.1"] * 3
    with fleet.client() as api:
        with pytest.raises(UpgradeStateForbids):
            api.post(f"upgrades/{number}/pause")
        api.post("upgrades/argosy-device/stop")
    fleet.kill("coordinator")
    fleet.start_coordinator()
    assert fleet.ends(number)["state"] == "rolled-back", "those that can be reached are back"
    wait_until(lambda: fleet.show(number)["counts"] == {"rolled-back": 3}, 30, "the others to come, and go back")
    assert fleet.versions() == ["1.0"] * 3
    fleet.wait_online(4)


def test_a_canary_whose_daemon_does_not_come_back_goes_back_by_itself_and_no_other_board_ever_gets_it(
    fleet: Fleet,
) -> None:
    (fleet.roots["d1"].folder / "device.toml").write_text("[upgrade]\nallowed = true\nhealth_s = 2\n")
    done = fleet.argosy("device", "upgrade", "1.2bad", "--tags", "canary,packaged", "--hold", "0s", "--watch")
    assert done.returncode == 125, done.stderr
    assert "[upgrade-rolled-back]" in done.stderr
    with fleet.client() as api:
        row = api.get("upgrades/argosy-device")
        audited = [it["action"] for it in api.get("audit")["entries"] if it["subject"] == "argosy-device=1.2bad"]
    assert (row["state"], why(row)) == ("rolled-back", {"d1": "upgrade-failed"})
    assert "did not run within 2 s" in row["devices"][0]["error"]["message"]
    assert [root.had.count("1.2bad") for root in fleet.roots.values()] == [1, 0, 0]
    assert fleet.versions() == ["1.0"] * 3
    assert audited == ["upgrade.rollout", "upgrade.fail", "upgrade.rolled-back"]
    fleet.wait_online(4)


@pytest.mark.slow
def test_a_board_without_packages_or_leave_refuses_by_name_and_one_that_is_there_already_says_so(fleet: Fleet) -> None:
    (fleet.roots["d3"].folder / "device.toml").write_text("")
    number = fleet.upgrade("1.0", 1.0, max_errors=1.0, least_active=0.5)
    wait_until(lambda: fleet.show(number)["counts"] == {"active": 2, "refused": 2}, 30, "all to answer")
    row = fleet.ends(number)
    assert (row["state"], why(row)) == ("finished", {BY_HAND: "upgrade-unavailable", "d3": "upgrade-refused"})
    (fleet.roots["d1"].folder / "device.toml").write_text("")
    done = fleet.argosy("device", "upgrade-stop", "--yes")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: why(fleet.show(number)).get("d1") == "upgrade-not-allowed", 30, "d1 to say that it may not")
    assert fleet.show(number)["state"] == "rolling-back"
    (fleet.roots["d1"].folder / "device.toml").write_text("[upgrade]\nallowed = true\n")
    assert fleet.ends(number)["state"] == "rolled-back"
    assert fleet.versions() == ["1.0"] * 3


def test_what_is_no_version_is_refused_at_once(fleet: Fleet) -> None:
    for version in ("--option", "1;rm -rf /", "../1", "argosy-device", "1=2"):
        with pytest.raises(AdminRequestInvalid, match="version"):
            fleet.upgrade(version, 1.0)
