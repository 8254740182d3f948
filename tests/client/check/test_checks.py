"""Every problem is found by changing one thing on a board that has none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from argosy_client.check.access import Access
from argosy_client.check.checks import CHECKS, examine
from argosy_client.check.finding import Severity
from argosy_client.check.network import Route, Service, Step
from argosy_client.check.readings import Certificate, Readings, Storage, Wanted, memory_cgroup
from argosy_client.check.report import as_json, verdict
from argosy_client.identity import Enrolment
from argosy_client.inventory import Accelerator, Inventory
from argosy_client.time_floor import ClockState
from argosy_common.coordinator_https import Address
from tests.client.boards import JETSON, PI_4, PI_5, put_board

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PIN, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
STATE = Path("/var/lib/argosy-device")
GOOD_ROUTE = Route("10.0.0.5", 8883, Step.DONE, "")
INVENTORY = Inventory("aarch64", "3.11.2", "0.1.0", cpu="Cortex-A76", torch="2.9.1+cpu")
GOOD = Readings(
    wall=NOW,
    floor=NOW - DAY,
    clock=ClockState.SYNCHRONISED,
    storage=Storage(STATE, exists=True, free=10**10),
    inventory=INVENTORY,
    bits=64,
    memory_cgroup=True,
    enrolment=Enrolment(STATE, "ab" * 8, 7, "lab", (("10.0.0.5", 8883),), "https://10.0.0.5:8444", PIN, "0" * 8),
    certificate=Certificate(NOW - DAY, NOW + 6 * DAY),
    service=Service("https://10.0.0.5:8444", Route("10.0.0.5", 8444, Step.DONE, ""), PIN),
    broker=(GOOD_ROUTE,),
    access=Access(own=True),
)
NOT_JOINED = replace(GOOD, enrolment=None, certificate=None, broker=(), access=None)
URL = Wanted(Address.parse("https://10.0.0.5:8444"), PIN)
BEHIND, FREE = ClockState.BEHIND, ClockState.UNSYNCHRONISED


def service(step: Step, pin: str = PIN) -> Service:
    return Service("https://10.0.0.5:8444", Route("10.0.0.5", 8444, step), pin)


def routes(*steps: Step) -> tuple[Route, ...]:
    return tuple(Route(f"10.0.0.{number}", 8883, step) for number, step in enumerate(steps, 5))


PROBLEMS: list[tuple[str, Readings]] = [
    ("not-enrolled", replace(NOT_JOINED, service=None)),
    ("not-enrolled-yet", replace(NOT_JOINED, wanted=URL)),
    ("enrolment-broken", replace(GOOD, broken="The certificate is not one.", enrolment=None, certificate=None)),
    ("clock-behind clock-is-no-judge", replace(GOOD, wall=datetime(1970, 1, 1, tzinfo=UTC), clock=BEHIND)),
    ("clock-behind clock-is-no-judge", replace(GOOD, wall=NOW - 3653 * DAY, clock=BEHIND)),
    ("clock-unsynchronised clock-is-no-judge", replace(GOOD, wall=NOW + 3653 * DAY, clock=FREE)),
    ("certificate-expired", replace(GOOD, wall=NOW + 3653 * DAY)),
    ("certificate-expired", replace(GOOD, wall=NOW + 6 * DAY)),
    ("clock-behind certificate-expired", replace(GOOD, floor=NOW + 7 * DAY, clock=BEHIND)),
    ("certificate-ending", replace(GOOD, wall=NOW + 5 * DAY)),
    ("name-unresolved", replace(GOOD, service=service(Step.NAME), broker=routes(Step.NAME, Step.NAME), access=None)),
    ("service-unreachable", replace(GOOD, service=service(Step.PORT, ""))),
    ("not-enrolled-yet join-unreachable", replace(NOT_JOINED, wanted=URL, service=service(Step.TLS, ""))),
    ("service-untrusted", replace(GOOD, service=service(Step.TRUST))),
    ("pin-differs", replace(GOOD, service=service(Step.TRUST, OTHER))),
    ("pin-differs", replace(GOOD, wanted=Wanted(None, OTHER))),
    ("broker-unreachable", replace(GOOD, broker=routes(Step.NAME, Step.PORT), access=None)),
    ("broker-untrusted", replace(GOOD, broker=routes(Step.TLS, Step.TRUST, Step.PORT), access=None)),
    ("broker-refuses", replace(GOOD, access=Access(refused="sslv3 alert certificate expired"))),
    ("access-denied", replace(GOOD, access=Access())),
    ("access-open", replace(GOOD, access=Access(own=True, others=True))),
    ("access-open", replace(GOOD, access=Access(own=True, overheard={"argosy/v1/lab/s/another"}))),
    ("access-untried", replace(GOOD, access=None, pid=4711)),
    ("state-open", replace(GOOD, storage=replace(GOOD.storage, mode=0o755))),
    ("keys-open", replace(GOOD, storage=replace(GOOD.storage, open_keys=("tls.key",)))),
    ("state-read-only", replace(GOOD, storage=replace(GOOD.storage, writable=False))),
    ("disk-almost-full", replace(GOOD, storage=replace(GOOD.storage, free=10**6))),
    ("disk-low", replace(GOOD, storage=replace(GOOD.storage, free=10**8))),
    ("memory-cgroup-off", replace(GOOD, memory_cgroup=False)),
    ("accelerator-closed", replace(GOOD, unusable=("/dev/hailo0",))),
    (
        "torch-without-gpu",
        replace(GOOD, inventory=replace(INVENTORY, accelerators=(Accelerator("nvidia", "/dev/nvidia0"),))),
    ),
    ("machine-unsupported", replace(GOOD, inventory=replace(INVENTORY, machine="armv7l"))),
    ("machine-unsupported", replace(GOOD, bits=32)),
    ("torch-illegal-instruction", replace(GOOD, inventory=replace(INVENTORY, cpu="Cortex-A72", torch="2.10.0"))),
]


def codes(readings: Readings) -> list[str]:
    return [found.code for _, found in examine(readings) if found.code]


def test_a_board_without_problems() -> None:
    assert codes(GOOD) == []
    assert verdict(examine(GOOD)) is None
    assert '"severity": "ok"' in as_json(examine(GOOD))


@pytest.mark.parametrize(("wanted", "readings"), PROBLEMS, ids=[wanted for wanted, _ in PROBLEMS])
def test_one_thing_that_is_wrong_is_the_one_that_is_found(wanted: str, readings: Readings) -> None:
    assert codes(readings) == wanted.replace("clock-is-no-judge", "certificate-unjudged").split()
    assert all("{" not in found.text + found.remedy for _, found in examine(readings))


def test_every_problem_is_met_above_and_no_code_is_used_twice() -> None:
    declared = [problem.code for check in CHECKS for problem in check.problems]
    assert len(declared) == len(set(declared))
    met = {code for _, readings in PROBLEMS for code in codes(readings)}
    assert met == set(declared)


@pytest.mark.parametrize("steps", [(Step.NAME, Step.PORT, Step.DONE), (Step.DONE, Step.TRUST)])
def test_one_address_of_the_broker_that_works_is_enough(steps: tuple[Step, ...]) -> None:
    assert codes(replace(GOOD, broker=routes(*steps))) == []


@pytest.mark.parametrize(
    ("cpu", "torch", "found"),
    [
        ("Cortex-A72", "2.9.1", False),
        ("Cortex-A72", "2.11.0+cpu", True),
        ("Cortex-A72", "", False),
        ("Cortex-A76", "2.10.0", False),
        ("Cortex-A72", "new", False),
    ],
)
def test_which_torch_dies_on_a_raspberry_pi_4(cpu: str, torch: str, found: bool) -> None:
    assert (codes(replace(GOOD, inventory=replace(INVENTORY, cpu=cpu, torch=torch))) != []) is found


@pytest.mark.parametrize(
    ("torch", "found"), [("2.9.1", True), ("2.4.0a0+f70bd71a48.nv24.6", False), ("2.9.1+cu126", False), ("", False)]
)
def test_which_torch_drives_a_jetson(torch: str, found: bool) -> None:
    jetson = replace(INVENTORY, torch=torch, l4t="36.3.0", accelerators=(Accelerator("jetson", "/dev/nvhost-gpu"),))
    assert (codes(replace(GOOD, inventory=jetson)) == ["torch-without-gpu"]) is found


def test_the_verdict_is_the_worst_and_hints_are_none() -> None:
    by_severity = {
        Severity.HINT: replace(GOOD, memory_cgroup=False),
        Severity.WARNING: replace(GOOD, memory_cgroup=False, storage=replace(GOOD.storage, free=10**8)),
        Severity.ERROR: replace(GOOD, bits=32, storage=replace(GOOD.storage, free=10**8)),
    }
    verdicts = [verdict(examine(readings)) for readings in by_severity.values()]
    assert [each.exit_code if each else 0 for each in verdicts] == [0, 110, 111]
    assert "disk-low" in str(verdicts[2])


def test_whether_the_kernel_limits_memory_is_read_from_both_versions_of_cgroups(tmp_path: Path) -> None:
    assert memory_cgroup(tmp_path) is None
    assert memory_cgroup(put_board(tmp_path / "pi4", PI_4)) is False
    assert memory_cgroup(put_board(tmp_path / "pi5", PI_5)) is True
    second = {"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}
    assert memory_cgroup(put_board(tmp_path / "jetson", JETSON, second)) is False
