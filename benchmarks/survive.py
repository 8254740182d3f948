"""What a crash costs: the coordinator killed at every point of a run, the broker under a fleet; memory, packages.

Crash points: the app `tests/system/apps/steady` on three real devices; its result depends on every device, every draw
and every state of the strategy, and on nothing else. At each place of `argosy_server/crash_points.py` the coordinator
kills itself with SIGKILL and is started again; the run must end with the model of an undisturbed one, to the bit.
`resume_s` is the longest time from the start of the new coordinator's process until the run's first answer arrives.

Broker: SIGKILL to Mosquitto under device processes that are idle; the time until the coordinator, which starts it
again, has all of them online.

Memory: resident megabytes of the device daemon that has joined, is idle and has no worker.

Packages: sizes of what `make deb` has left in dist/, where it has.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from argosy_server.crash_points import POINTS
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from benchmarks.report import Benchmark, main

ROOT = Path(__file__).parents[1]
STEADY = ROOT / "tests" / "system" / "apps" / "steady"
DIST = ROOT / "dist"
WALKED = tuple(point for point in POINTS if point != "model.added")
"""The app exports no model."""
QUICK = ("reply.recorded:7", "checkpoint.recorded:4")
FLEET = 100
SETTLE_S = 5.0
CODE = ("argosy-common", "argosy-coordinator", "argosy-device")


def measure(bench: Benchmark) -> None:
    """Measure everything."""
    with _fleet((1, 2, 4)) as fleet:
        _walk(bench, fleet)
        if bench.quick:
            time.sleep(SETTLE_S)
            _memory(bench, fleet)
            bench.left_out(f"{FLEET} device processes: {len(fleet.processes) - 1} here")
            _broker(bench, fleet, len(fleet.processes) - 1)
    if not bench.quick:
        _large_fleet(bench)
    _packages(bench)


@contextmanager
def _fleet(numbers: tuple[int, ...]) -> Iterator[LocalFleet]:
    boards = [LocalDevice(f"d{number}", {"number": number}, {"heartbeat_s": 1.0}) for number in numbers]
    with tempfile.TemporaryDirectory() as folder, LocalFleet(Path(folder), boards) as made:
        made.start()
        yield made


# --- crash points


def _walk(bench: Benchmark, fleet: LocalFleet) -> None:
    points = QUICK if bench.quick else WALKED
    reference = fleet.wait_run(fleet.run(STEADY), 60)
    lost, slowest = 0, 0.0
    with bench.progress("killed at", len(points)) as step:
        for point in points:
            step(point)
            row, resumed_s = _killed_at(fleet, point)
            same = (row["status"], row["final_model"]) == (reference["status"], reference["final_model"])
            lost += not same
            slowest = max(slowest, resumed_s or 0.0)
            bench.row(crash_point=point, same_model=same, resumed_s=resumed_s)
    if bench.quick:
        bench.left_out(f"{len(WALKED) - len(points)} of {len(WALKED)} crash points")
    bench.bar("crash_points_lost", lost, "== 0", against=f"an undisturbed run of the same seeds, {len(points)} points")
    bench.bar("resume_s", slowest, "<= 5", against="the start of the new coordinator's process")


def _killed_at(fleet: LocalFleet, point: str) -> tuple[dict[str, Any], float | None]:
    """Have the coordinator killed there; return what the run came to, and when it went on after the new start."""
    fleet.kill("coordinator")
    fleet.start_coordinator(crash_at=point)
    fleet.wait_online(3, 60)
    process = fleet.processes["coordinator"]
    try:
        fleet.run(STEADY)
    except Exception as error:
        if process.wait(60) != -signal.SIGKILL:
            raise RuntimeError("the run could not be started") from error
    wait_until(lambda: process.poll() is not None, 60, f"the coordinator to be killed at {point}")
    began = time.time()
    fleet.start_coordinator()
    with fleet.client() as api:
        run = max(int(row["run"]) for row in api.get("runs")["runs"])
    row = fleet.wait_run(run, 60)
    later = [
        datetime.fromisoformat(event["at"]).timestamp() - began
        for event in fleet.events(run)
        if event["name"] in ("device-reply", "phase-finished")
    ]
    after = [seconds for seconds in later if seconds > 0]
    return row, min(after, default=None)


# --- the broker


def _large_fleet(bench: Benchmark) -> None:
    boards = [LocalDevice(f"d{number}", {"number": number}, {"heartbeat_s": 2.0}) for number in range(1, FLEET + 1)]
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalFleet(Path(folder), boards) as fleet,
        bench.progress("devices", 3) as step,
    ):
        step(f"{FLEET} join and start")
        fleet.start_coordinator()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda board: fleet.join(board.name), boards))
        for board in boards:
            fleet.start_device(board.name)
        fleet.wait_online(FLEET, 300)
        step("idle")
        time.sleep(SETTLE_S)
        _memory(bench, fleet)
        step("the broker is killed")
        _broker(bench, fleet, FLEET)


def _broker(bench: Benchmark, fleet: LocalFleet, count: int) -> None:
    recovered_s = _without_broker(fleet, count)
    bench.row(devices=count, broker_recovery_s=recovered_s)
    bench.bar("broker_recovery_s", recovered_s, "<= 10", against=f"the kill of the broker of {count} device processes")


def _without_broker(fleet: LocalFleet, count: int) -> float:
    """Kill the broker; return the seconds until every device is online again by a connection of its own."""
    log = fleet.folder / "coordinator" / "broker" / "mosquitto.log"
    seen = len(log.read_text())
    coordinator = psutil.Process(fleet.processes["coordinator"].pid)
    (broker,) = [each for each in coordinator.children(recursive=True) if each.name() == "mosquitto"]
    began = time.monotonic()
    broker.send_signal(signal.SIGKILL)

    def back() -> bool:
        text = log.read_text()
        fresh = text[seen:] if len(text) >= seen else text  # the new one may begin it anew
        connected = set(re.findall(r"New client connected from \S+ as ([0-9a-f]{16}) ", fresh))
        if len(connected) < count:
            return False
        with fleet.client() as api:
            return bool(api.get("health")["devices_online"] == count)

    wait_until(back, 120, "all devices to be back")
    return time.monotonic() - began


def _memory(bench: Benchmark, fleet: LocalFleet) -> None:
    used = [
        psutil.Process(process.pid).memory_info().rss / 1e6
        for name, process in fleet.processes.items()
        if name != "coordinator"
    ]
    bench.row(idle_device_daemons=len(used), rss_mb=sum(used) / len(used), largest_rss_mb=max(used))
    bench.bar(
        "supervisor_rss_mb",
        sum(used) / len(used),
        "<= 35",
        against=f"{len(used)} idle daemons without a worker",
    )


# --- packages


def _packages(bench: Benchmark) -> None:
    found = {path.name.partition("_")[0]: path.stat().st_size for path in sorted(DIST.glob("argosy-*.deb"))}
    code = {name: size for name, size in found.items() if name in CODE}
    runtime = [path.stat().st_size for path in DIST.glob("argosy-runtime_*.deb")]
    if not code or not runtime:
        bench.could_not_run("packages", "there are none in dist/: `make deb` builds them")
        return
    for path in sorted(DIST.glob("argosy-*.deb")):
        bench.row(package=path.name, kb=path.stat().st_size / 1e3)
    bench.bar("code_package_kb", max(code.values()) / 1e3, "< 200", against="the largest package of code")
    bench.bar("runtime_package_mb", max(runtime) / 1e6, "< 40", against="the largest of its libraries, without torch")


if __name__ == "__main__":
    raise SystemExit(main("survive", __doc__, measure))
