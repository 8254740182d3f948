"""Secure runs of a real fleet that an operator vouches for: who is not listed is left out, and refusals have names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from argosy_common import x509
from argosy_common.secagg.fleet import FleetList, Member, sign, successor
from argosy_common.secagg.fleet import read as read_list
from argosy_server.local_fleet import LocalDevice, LocalFleet
from tests.fleets import data_of
from tests.system.test_fleet_list import START
from tests.system.test_secure import People

pytestmark = pytest.mark.timeout(300)


def argosy(fleet: LocalFleet, *words: str | Path) -> str:
    """Run an `argosy` command that must succeed; return all it said."""
    said = [*map(str, words), "--socket", str(fleet.socket)]
    done = subprocess.run([sys.executable, "-c", START, *said], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


class Listed:
    """Five people's devices that have pinned the operator's key, and the operator."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.key = x509.generate_key()
        public = folder / "operator.pub"
        public.write_bytes(x509.public_pem(self.key.public_key()))
        self.people = People(folder, data, 5, operator_key=public)
        self.fleet = self.people.fleet
        self._signed: FleetList | None = None
        self._runs = 0

    def install(self, *, without: str = "") -> None:
        """Sign the next list, of all devices but one, and install it."""
        with self.fleet.client() as client:
            rows = client.get("/fleet-list")["devices"]
            members = [Member(bytes.fromhex(it["fingerprint"]), it["name"]) for it in rows if it["name"] != without]
            data = sign(successor(self._signed, "2026-05-01T12:00:00Z", members), self.key)
            client.put("/fleet-list", data)
        self._signed = read_list(data, where="")

    def train(self) -> tuple[str, dict[str, Any]]:
        """Run one round, of an instruction of its own; return what the start said, and what `run show` tells."""
        self._runs += 1
        config = {"evaluate": "false", "min-nodes": "5", "fail-on": f"nobody-{self._runs}"}
        options = [word for name, value in config.items() for word in ("-c", f"{name}={value}")]
        said = argosy(self.fleet, "run", "start", self.people.app(), "--rounds", "1", *options)
        self.fleet.wait_run(self._runs, 60)
        return said, json.loads(argosy(self.fleet, "run", "show", str(self._runs), "--json"))


@pytest.fixture
def listed(tmp_path: Path, har_data: Path) -> Iterator[Listed]:
    made = Listed(tmp_path, har_data)
    with made.fleet:
        made.fleet.start()
        yield made


def refusals(shown: dict[str, Any]) -> set[tuple[str, str]]:
    """Return which device said what, of what `run show` tells."""
    return {(each["name"], each["code"]) for each in shown["errors"] if each["name"]}


@pytest.mark.slow
def test_a_fleet_that_goes_by_the_operators_list(listed: Listed) -> None:
    """No list; one of all; one without a board; and a coordinator that has lost the newest."""
    fleet, everybody = listed.fleet, set(listed.people.notes)
    said, shown = listed.train()
    assert "no operator's key" in said
    assert refusals(shown) == {(name, "fleet-list-invalid") for name in everybody}
    undecided = argosy(fleet, "fleet", "undecided")
    assert "5 devices: broken off before a set was handed over" in undecided, "they refused to vote as well"
    assert "no operator's key, so none can be overridden" in undecided

    listed.install()
    said, shown = listed.train()
    assert "fleet list version 1" in said
    assert (shown["run"]["status"], shown["run"]["options"]["secure"]["fleet"], shown["errors"]) == ("finished", 1, [])
    assert "fleet list version 1" in " ".join(argosy(fleet, "run", "show").split())
    (group,) = data_of(fleet, 2, "secure-group")
    assert len(group["summed"]) == 5

    listed.install(without="p4")
    said, shown = listed.train()
    assert "fleet list version 2" in said
    assert shown["run"]["status"] == "finished"
    assert refusals(shown) == {("p4", "peer-unlisted")}
    assert shown["errors"][0]["device"] in shown["errors"][0]["message"]
    (group,) = data_of(fleet, 3, "secure-group")
    assert len(group["summed"]) == 4

    (fleet.folder / "coordinator" / "fleet" / "2.json").unlink()
    said, shown = listed.train()
    assert "fleet list version 1" in said
    assert refusals(shown) == {(name, "fleet-list-outdated") for name in everybody - {"p4"}}


def test_a_device_that_takes_part_in_secure_runs_only_says_so_in_a_plain_one(tmp_path: Path, lab: Path) -> None:
    """By name, in `run show`."""
    device = LocalDevice("d1", {"name": "d1", "notes": str(tmp_path / "notes")}, {"secure": "required"})
    with LocalFleet(tmp_path / "state", [device]) as fleet:
        fleet.start()
        run = fleet.run(lab, rounds=1, config={"min-nodes": "1"})
        assert fleet.wait_run(run, 60)["status"] == "failed"
        (error,) = json.loads(argosy(fleet, "run", "show", str(run), "--json"))["errors"]
    assert (error["name"], error["code"]) == ("d1", "secure-required")
    assert not (tmp_path / "notes").exists()
