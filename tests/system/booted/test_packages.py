"""The Debian packages on a system with its own systemd, from their installation without a network to their purge.

One machine, one story, told in order: run it by `make test-system`.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.booted.machine import Machine, why_not
from tests.system.debs import ROOT, build_code, built, deb
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COORDINATOR, DEVICE, SECOND = "argosy-coordinator", "argosy-device", "argosy-device-2"
CODE = ("argosy-common", "argosy-flower", COORDINATOR, DEVICE)
ENROLMENT = ("url", "token", "pin", "shard")
LATER = "0.1.0+later"
NO_MACHINE = why_not()


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The packages, and a later version of those with code."""
    arch = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    return built(arch), build_code(tmp_path_factory.mktemp("later"), version=LATER)


@pytest.fixture(scope="module")
def machine(debs: tuple[Path, Path]) -> Iterator[Machine]:
    """A machine with the packages in /srv, and an app to run."""
    with Machine() as machine:
        for folder, place in zip(debs, ("now", "later"), strict=True):
            shutil.copytree(folder, machine.root / "srv" / place)
        shutil.copytree(ROOT / "examples/digits_numpy", machine.root / "srv/app")
        yield machine


@pytest.mark.skipif(bool(NO_MACHINE), reason=NO_MACHINE)
def test_the_life_of_an_installation(machine: Machine) -> None:
    _install(machine)
    _enrol_two(machine)
    _run_a_round(machine, 1)
    _read_settings_again(machine)
    _restart(machine)
    _run_a_round(machine, 2)
    _hang(machine)
    _upgrade(machine)
    _run_a_round(machine, 3)
    _remove(machine)
    _purge(machine)


def _install(machine: Machine) -> None:
    began = time.monotonic()
    machine.run("dpkg", "--install", *_debs(machine, "now", "argosy-runtime", "argosy-inference", *CODE))
    print(f"installed in {time.monotonic() - began:.1f} s")
    assert machine.active(COORDINATOR)
    assert machine.unit(COORDINATOR, "Type") == "notify"
    assert "0 devices online" in machine.unit(COORDINATOR, "StatusText")
    assert machine.unit(COORDINATOR, "User") == "argosy"
    assert machine.json("argosy", "doctor")
    backends = machine.json("argosy-device", "backends")["backends"]
    assert "onnxruntime" in [each["backend"] for each in backends if each["unavailable"] is None]
    assert not machine.active(DEVICE), "a board that has not joined has nothing to do"
    assert machine.unit(DEVICE, "UnitFileState") == "enabled"
    assert machine.unit(DEVICE, "ConditionResult") == "no"
    started = [entry for entry in machine.journal(COORDINATOR) if entry.get("ARGOSY_EVENT") == "coordinator.ready"]
    assert started, "the journal has fields"
    assert started[0]["ARGOSY_SOCKET"] == "/run/argosy/admin.sock"
    for path, owner in (("/var/lib/argosy", "argosy argosy 700"), ("/run/argosy/admin.sock", "argosy argosy 660")):
        assert machine.run("stat", "--format=%U %G %a", path).stdout.strip() == owner


def _enrol_two(machine: Machine) -> None:
    """Enrol the board, and another one on the same machine: the same unit with a state directory of its own."""
    token = machine.json("argosy", "token", "create", "--uses", "2")
    unit = machine.run("cat", f"/usr/lib/systemd/system/{DEVICE}.service").stdout
    unit = unit.replace(f"/var/lib/{DEVICE}", f"/var/lib/{SECOND}").replace(
        f"Directory={DEVICE}", f"Directory={SECOND}"
    )
    own = f"ARGOSY_DEVICE_NAME=second ARGOSY_DEVICE_INFERENCE__SOCKET=/run/{SECOND}/inference.sock"
    unit = unit.replace("[Service]", f"[Service]\nEnvironment={own}")
    (machine.root / f"etc/systemd/system/{SECOND}.service").write_text(unit)
    machine.run("install", "-d", "-m", "700", "-o", DEVICE, "-g", DEVICE, f"/var/lib/{SECOND}")
    machine.run("systemctl", "daemon-reload")
    _first_boot(machine, token)
    words = ["join", token["url"], "--token", token["token"], "--pin", token["pin"]]
    machine.run("argosy-device", *words, "--state-dir", f"/var/lib/{SECOND}")
    machine.run("systemctl", "start", SECOND, check=False)
    for service in (DEVICE, SECOND):
        assert machine.active(service), _told(machine, service)
        owners = machine.run("find", f"/var/lib/{service}", "-not", "-user", DEVICE).stdout
        assert owners == "", "what root joined with belongs to the daemon"
    assert until(lambda: _online(machine) == 2)


def _first_boot(machine: Machine, token: dict[str, str]) -> None:
    """Let the board join by the file that a card would bring; its daemon starts as soon as it has."""
    card = machine.root / "var/lib/cloud"
    card.mkdir()
    lines = [f'{name} = "{value}"\n' for name, value in {**token, "shard": "north"}.items() if name in ENROLMENT]
    (card / "argosy-enrol.toml").write_text("".join(lines))
    machine.run("systemctl", "start", "argosy-first-boot", check=False)
    assert until(lambda: machine.active(DEVICE)), _told(machine, "argosy-first-boot")
    assert not list(card.iterdir())
    assert (machine.root / "etc/argosy/device.toml").read_text().startswith('shard = "north"\n')


def _run_a_round(machine: Machine, number: int) -> None:
    began = time.monotonic()
    machine.run("argosy", "run", "start", "/srv/app", "--rounds", "1")
    assert until(lambda: _status(machine, number) not in ("pending", "running"), patience_s=120)
    assert _status(machine, number) == "finished", machine.run("argosy", "run", "log", str(number), check=False).stdout
    print(f"run {number} in {time.monotonic() - began:.1f} s")


def _read_settings_again(machine: Machine) -> None:
    for service, file in ((COORDINATOR, "coordinator.toml"), (DEVICE, "device.toml")):
        before = machine.unit(service, "MainPID")
        path = machine.root / "etc/argosy" / file
        path.write_text('log_level = "debug"\n' + path.read_text())
        machine.run("systemctl", "reload", service)
        assert until(lambda service=service: _logged(machine, service, "service.reloaded"))  # type: ignore[misc]
        path.write_text("nonsense = 1\n" + path.read_text())
        machine.run("systemctl", "reload", service)
        assert until(lambda service=service: _logged(machine, service, "service.not_reloaded"))  # type: ignore[misc]
        path.write_text(path.read_text().removeprefix("nonsense = 1\n"))
        assert machine.unit(service, "MainPID") == before


def _restart(machine: Machine) -> None:
    for service in (COORDINATOR, DEVICE):
        status = (machine.root / f"proc/{machine.unit(service, 'MainPID')}/status").read_text()
        rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        print(f"{service} takes {int(rss) / 1000:.0f} MB without its children")
    for service in (COORDINATOR, DEVICE, SECOND):
        began = time.monotonic()
        machine.run("systemctl", "stop", service)
        print(f"{service} stopped in {time.monotonic() - began:.1f} s")
        assert machine.unit(service, "Result") == "success", "it ended by itself, in its time"
        machine.run("systemctl", "start", service)
    assert until(lambda: _online(machine) == 2)


def _hang(machine: Machine) -> None:
    """Freeze a device's daemon: its watchdog notices, and it is started again."""
    override = machine.root / f"etc/systemd/system/{SECOND}.service.d/quick.conf"
    override.parent.mkdir()
    override.write_text("[Service]\nWatchdogSec=3\nRestartSec=0\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", SECOND)
    frozen = machine.unit(SECOND, "MainPID")
    machine.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", SECOND)
    assert until(lambda: machine.unit(SECOND, "MainPID") not in (frozen, "0"), patience_s=60)
    assert machine.unit(SECOND, "NRestarts") == "1"
    assert until(lambda: _online(machine) == 2)


def _upgrade(machine: Machine) -> None:
    before = {service: machine.unit(service, "MainPID") for service in (COORDINATOR, DEVICE)}
    devices = {device["device"] for device in machine.json("argosy", "device", "list")}
    machine.run("dpkg", "--install", *_debs(machine, "later", *CODE))
    for service, pid in before.items():
        assert machine.active(service)
        assert machine.unit(service, "MainPID") != pid, "the new version is at work"
    assert machine.run("dpkg-query", "-W", "-f=${Version}", DEVICE).stdout == LATER
    machine.run("systemctl", "restart", SECOND)  # no package knows of it
    assert until(lambda: _online(machine) == 2)
    assert {device["device"] for device in machine.json("argosy", "device", "list")} == devices


def _remove(machine: Machine) -> None:
    machine.run("systemctl", "stop", SECOND)
    machine.run("dpkg", "--remove", COORDINATOR, DEVICE)
    for service in (COORDINATOR, DEVICE):
        assert not machine.active(service)
    for kept in ("var/lib/argosy/coordinator.db", f"var/lib/{DEVICE}/enrolment.json", "etc/argosy/device.toml"):
        assert (machine.root / kept).exists()
    assert not list((machine.root / "usr/lib/argosy").rglob("argosy_server"))
    machine.run("dpkg", "--install", *_debs(machine, "later", *CODE))
    assert machine.active(DEVICE), "whoever comes back finds all as it was"
    assert until(lambda: _online(machine) == 1)


def _purge(machine: Machine) -> None:
    machine.run("dpkg", "--purge", *CODE, "argosy-inference", "argosy-runtime")
    left = ("var/lib/argosy", f"var/lib/{DEVICE}", "etc/argosy", "run/argosy", "usr/lib/argosy", "usr/share/argosy")
    assert [each for each in left if (machine.root / each).exists()] == []
    links = machine.root / "etc/systemd/system/multi-user.target.wants"
    assert [each.name for each in links.iterdir() if each.name.startswith("argosy")] == []


# --- what the steps ask ------------------------------------------------------------------------------------------


def _online(machine: Machine) -> int:
    done = machine.run("argosy", "device", "list", "--json", check=False)
    return done.stdout.count('"online": true')


def _status(machine: Machine, run: int) -> str:
    return str(machine.json("argosy", "run", "show", str(run))["run"]["status"])


def _logged(machine: Machine, service: str, event: str) -> bool:
    return any(entry.get("ARGOSY_EVENT") == event for entry in machine.journal(service))


def _told(machine: Machine, service: str) -> str:
    return "\n".join(str(entry["MESSAGE"]) for entry in machine.journal(service)[-30:])


def _debs(machine: Machine, folder: str, *packages: str) -> list[str]:
    return [f"/srv/{folder}/{deb(machine.root / 'srv' / folder, package).name}" for package in packages]
