"""`argosy device upgrade` on a system with its own systemd and apt: to a version that is well, and one that is not.

The coordinator lies apart, without a package: it must not be of the same installation.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.upgrading.board import index
from tests.system.booted.machine import Machine, why_not
from tests.system.debs import build_code, built, deb
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEVICE = "argosy-device"
CODE = ("argosy-common", "argosy-flower", DEVICE)
LATER, WORSE = "0.1.0+later", "0.1.0+worse"
APART = "/opt/apart/usr/lib/argosy/bin/python3"
COORDINATOR = {
    "STATE_DIR": "/srv/coordinator",
    "SOCKET": "/srv/coordinator/admin.sock",
    "ENROLMENT__ADVERTISE": "https://127.0.0.1:8444",
}
NO_MACHINE = why_not()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the packages of now, later ones, and ones whose daemon does not start."""
    folder = tmp_path_factory.mktemp("repository")
    arch = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    for source in (built(arch), *(build_code(tmp_path_factory.mktemp("code"), version=it) for it in (LATER, WORSE))):
        for each in source.glob("*.deb"):
            shutil.copyfile(each, folder / each.name)
    worse = folder / f"{DEVICE}_{WORSE}_all.deb"
    root = tmp_path_factory.mktemp("worse") / "root"
    subprocess.run(["dpkg-deb", "--raw-extract", str(worse), str(root)], check=True)
    (root / f"usr/bin/{DEVICE}").write_text("#!/bin/sh\nexit 1\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(root), str(worse)], check=True)
    index(folder)
    return folder


@pytest.fixture(scope="module")
def machine(repository: Path) -> Iterator[Machine]:
    """A board of today's version whose administrator allows upgrades, and a coordinator that it has joined."""
    with Machine() as machine:
        shutil.copytree(repository, machine.root / "srv/repository")
        (machine.root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/repository ./\n")
        machine.run("apt-get", "update")
        machine.run("apt-get", "install", "--yes", *(f"{name}=0.1.0" for name in CODE))
        settings = machine.root / "etc/argosy/device.toml"
        text = settings.read_text().replace("#allowed = false", "allowed = true")
        settings.write_text(text.replace("#health_s = 300", "health_s = 30"))
        _start_coordinator(machine, repository)
        token = _argosy(machine, "token", "create", "--json")
        words = ["join", token["url"], "--token", token["token"], "--pin", token["pin"]]
        machine.run(DEVICE, *words)
        machine.run("systemctl", "start", DEVICE)
        assert until(lambda: _online(machine))
        yield machine


def _start_coordinator(machine: Machine, repository: Path) -> None:
    for name in ("argosy-runtime", "argosy-common", "argosy-flower", "argosy-coordinator"):
        file = next(repository.glob(f"{name}_0.1.0_*.deb"), None) or deb(repository, name)
        machine.run("dpkg-deb", "--extract", f"/srv/repository/{file.name}", "/opt/apart")
    machine.run("install", "-d", "-m", "700", "-o", "daemon", "-g", "daemon", "/srv/coordinator")
    variables = [f"--setenv=ARGOSY_COORDINATOR_{name}={value}" for name, value in COORDINATOR.items()]
    run = ["systemd-run", "--unit=coordinator", "--uid=daemon", "--gid=daemon", *variables, APART, "-P"]
    machine.run(*run, "-m", "argosy_server.cli.coordinator", "run")
    assert until((machine.root / "srv/coordinator/admin.sock").exists, patience_s=60), [
        entry["MESSAGE"] for entry in machine.journal("coordinator")
    ]


def _command(*words: str) -> tuple[str, ...]:
    start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
    return (APART, "-P", "-c", start, *words, "--socket", COORDINATOR["SOCKET"])


def _argosy(machine: Machine, *words: str) -> dict[str, str]:

    found: dict[str, str] = json.loads(machine.run(*_command(*words)).stdout)
    return found


def _online(machine: Machine) -> bool:
    return machine.run(*_command("device", "list", "--json"), check=False).stdout.count('"online": true') == 1


def _installed(machine: Machine) -> set[str]:
    shown = machine.run("dpkg-query", "--show", "--showformat=${Status} ${Version}\n", *CODE).stdout
    return set(shown.splitlines())


def _upgrade(machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    done = machine.run(*_command("device", *words, "--watch"), check=False, timeout_s=300)
    print(f"{' '.join(words)}: {time.monotonic() - began:.0f} s\n{done.stdout}{done.stderr}")
    return done


@pytest.mark.skipif(bool(NO_MACHINE), reason=NO_MACHINE)
def test_a_board_is_upgraded_and_goes_back(machine: Machine) -> None:
    now = ("--rings", "100%", "--hold", "0s")
    before = machine.unit(DEVICE, "MainPID")
    assert _upgrade(machine, "upgrade", LATER, *now).returncode == 0, _told(machine)
    assert _installed(machine) == {f"install ok installed {LATER}"}
    assert machine.active(DEVICE)
    assert machine.unit(DEVICE, "MainPID") != before
    assert until(lambda: _online(machine))
    done = _upgrade(machine, "upgrade", WORSE, *now)
    assert done.returncode == 125, _told(machine)
    assert "did not run within 30 s" in machine.run(*_command("device", "upgrade-status", "--json")).stdout
    assert _installed(machine) == {f"install ok installed {LATER}"}
    assert until(lambda: machine.active(DEVICE) and _online(machine)), _told(machine)
    assert machine.active("argosy-device-upgrade.path")
    assert _upgrade(machine, "upgrade", LATER, *now).returncode == 0, "it is there, and nothing is to do"
    machine.run("dpkg", "--purge", DEVICE)
    left = ("var/lib/argosy-device", "var/lib/argosy-device-upgrade", "etc/argosy")
    assert [each for each in left if (machine.root / each).exists()] == []


def _told(machine: Machine) -> str:
    units = ("argosy-device-upgrade.path", "argosy-device-upgrade.service", f"{DEVICE}.service")
    return "\n".join(str(entry["MESSAGE"]) for unit in units for entry in machine.journal(unit)[-30:])
