"""Ends and returns in the middle of a run: the coordinator's, the watching operator's, the devices'."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import RunInterrupted
from argosy_common.files import private_folder
from argosy_server.broker import open_broker
from argosy_server.ca import CertificateAuthority
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from argosy_server.settings import BrokerTable
from tests.fleets import data_of

pytestmark = pytest.mark.timeout(180)


class Watching:
    """An `argosy run watch` in a process of its own, as in a pipe."""

    def __init__(self, fleet: LocalFleet, run: int, folder: Path) -> None:
        start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
        self._paths = folder / "watch.out", folder / "watch.err"
        with self._paths[0].open("wb") as out, self._paths[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", start, "run", "watch", str(run), "--socket", str(fleet.socket)],
                env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        """What it showed."""
        return self._paths[0].read_text()

    @property
    def err(self) -> str:
        """What it said beside."""
        return self._paths[1].read_text()

    def ends(self) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(60)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """One fleet for all tests of this module; each must leave it working."""
    folder = tmp_path_factory.mktemp("restarts")
    devices = [
        LocalDevice(
            name,
            {"name": name, "notes": str(folder / f"notes-{name}")},
            {"heartbeat_s": 2.0, "death_delay_s": 1, "resend_s": 2.0},
        )
        for name in ("d1", "d2")
    ]
    with LocalFleet(folder / "fleet", devices, settings={"runs.grace_s": 1.0, "runs.resend_s": 2.0}) as fleet:
        fleet.start()
        yield fleet


@contextmanager
def watching(fleet: LocalFleet, run: int, folder: Path) -> Iterator[Watching]:
    """Watch a run, and make sure that the process ends."""
    watch = Watching(fleet, run, folder)
    yield watch
    watch.process.kill()
    watch.process.wait(10)


def trainings(fleet: LocalFleet, name: str) -> int:
    """Return how often the lab app began to train on a device."""
    path = fleet.folder.parent / f"notes-{name}"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_training(fleet: LocalFleet, name: str, before: int) -> None:
    """Wait until a device trains once more than `before` times."""
    wait_until(lambda: trainings(fleet, name) > before, 60, f"{name} to train")


def works(fleet: LocalFleet, lab: Path) -> None:
    """Both devices take part in a new run, soon."""
    fleet.wait_online(2)
    run = fleet.run(lab, rounds=1, config={"floats": "50000"})
    assert fleet.wait_run(run, 30)["status"] == "finished"
    assert all(data["replied"] == 2 for data in data_of(fleet, run, "phase-finished"))


def run_processes(fleet: LocalFleet) -> list[int]:
    """Return the processes that run server apps of this fleet."""
    state = str(fleet.folder / "coordinator" / "runs")
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(state):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_goes_on_when_its_coordinator_is_back_and_no_device_trains_twice(
    fleet: LocalFleet, lab: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = trainings(fleet, "d1")
    run = fleet.run(lab, rounds=3, config={"train-seconds": "3", "timeout": "600", "floats": "60000"})
    with watching(fleet, run, tmp_path) as watch:
        wait_training(fleet, "d1", before + 1)
        wait_until(lambda: "round 1" in watch.out, 60, "the watch to show the round")
        fleet.kill("coordinator", number)
        wait_until(lambda: "Trying again until it is back." in watch.err, 30, "the watch to say that it is away")
        fleet.start_coordinator()
        assert watch.ends() == 0
        assert "the coordinator is back: the run goes on after round 1" in watch.out
    assert fleet.wait_run(run, 1)["status"] == "finished"
    assert [data["metrics"]["mean"] for data in data_of(fleet, run, "central")][-1] == 4.5
    assert trainings(fleet, "d1") == before + 3
    works(fleet, lab)
    assert blobs(fleet) == kept(fleet)


def blobs(fleet: LocalFleet) -> set[str]:
    """Return what lies in the coordinator's blob store."""
    return {path.name for path in (fleet.folder / "coordinator" / "blobs" / "sha256").iterdir()}


def kept(fleet: LocalFleet) -> set[str]:
    """Return what is to stay there: the apps and final models of all runs."""
    with sqlite3.connect(fleet.folder / "coordinator" / "coordinator.db") as database:
        rows = database.execute("select app_digest, final_model from runs").fetchall()
    return {digest for row in rows for digest in row if digest}


def of_its_own(lab: Path, folder: Path) -> Path:
    """Return the app with a strategy that has a loop of its own, as far as anybody can tell."""
    app = folder / "app"
    shutil.copytree(lab, app)
    module = app / "lab" / "server_app.py"
    own = "class Own(FedAvg):\n    def start(self, *args, **kwargs):\n        return super().start(*args, **kwargs)\n"
    text = module.read_text().replace("strategy = FedAvg(", "strategy = Own(")
    module.write_text(text.replace("app = ServerApp()", f"app = ServerApp()\n\n\n{own}"))
    return app


def test_a_run_with_a_loop_of_its_own_is_called_interrupted_once_the_coordinator_is_back(
    fleet: LocalFleet, lab: Path, tmp_path: Path
) -> None:
    before = trainings(fleet, "d1")
    config = {"train-seconds": "300", "timeout": "600", "floats": "60000"}
    run = fleet.run(of_its_own(lab, tmp_path), config=config)
    with watching(fleet, run, tmp_path) as watch:
        wait_training(fleet, "d1", before)
        wait_until(lambda: "train sent to 2 devices" in watch.out, 20, "the watch to show the round")
        fleet.kill("coordinator")
        wait_until(lambda: "Trying again until it is back." in watch.err, 30, "the watch to say that it is away")
        fleet.start_coordinator()
        assert watch.ends() == RunInterrupted.exit_code
        assert "The coordinator is back." in watch.err
        assert f"The coordinator stopped while run {run} was under way." in watch.err
        assert "run failed" in watch.out
    row = fleet.wait_run(run, 1)
    assert (row["status"], row["error"]["code"]) == ("failed", "run-interrupted")
    wait_until(lambda: not run_processes(fleet), 20, "the run's process to end")
    # the devices come back by themselves and drop what they were at, or they would be busy for minutes
    works(fleet, lab)
    # and nothing of the dead run stays but its app
    assert blobs(fleet) == kept(fleet)
    for name in ("d1", "d2"):
        assert len(list((fleet.device_folder(name) / "contexts").iterdir())) <= 1


@pytest.fixture
def external(tmp_path: Path) -> Iterator[LocalFleet]:
    """A fleet whose broker is none of the coordinator's, and outlives it."""
    clock, rng = SystemClock(), random.Random(1)
    ca = CertificateAuthority.open(private_folder(tmp_path / "fleet" / "coordinator" / "ca"), clock)
    table = BrokerTable(kind="mosquitto", host="127.0.0.1", port=0)
    broker = open_broker(table, ca.issue_server(["127.0.0.1"], "external"), tmp_path / "broker", clock=clock, rng=rng)
    broker.start()
    host, port = broker.address
    settings = {"broker.kind": "external", "broker.url": f"mqtts://{host}:{port}"}
    device = LocalDevice("d1", {"name": "d1", "notes": str(tmp_path / "notes-d1")})
    fleet = LocalFleet(tmp_path / "fleet", [device], settings=settings)
    with fleet:
        fleet.start()
        yield fleet
    broker.stop()


def test_devices_drop_a_dead_run_although_their_broker_outlived_the_coordinator(
    external: LocalFleet, lab: Path, tmp_path: Path
) -> None:
    config = {"min-nodes": "1", "timeout": "600"}
    run = external.run(of_its_own(lab, tmp_path), config={**config, "train-seconds": "300"})
    wait_training(external, "d1", 0)
    external.kill("coordinator")
    external.start_coordinator()
    external.wait_online(1)
    assert external.wait_run(run, 1)["error"]["code"] == "run-interrupted"
    run = external.run(lab, rounds=1, config=config)
    assert external.wait_run(run, 30)["status"] == "finished"


@pytest.mark.slow
def test_a_server_app_deep_in_its_own_work_does_not_outlive_its_coordinator(
    fleet: LocalFleet, lab: Path, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    shutil.copytree(lab, app)
    module = app / "lab" / "server_app.py"
    module.write_text(
        module.read_text().replace("    def central(", "    import time; time.sleep(600)\n    def central(")
    )
    run = fleet.run(app)
    wait_until(lambda: bool(run_processes(fleet)), 20, "the run's process")
    (old,) = run_processes(fleet)
    fleet.kill("coordinator")
    fleet.start_coordinator()
    wait_until(lambda: run_processes(fleet) not in ([], [old]), 20, "another process in its place")
    with fleet.client() as api:
        api.post(f"runs/{run}/stop")
    wait_until(lambda: not run_processes(fleet), 30, "the run's process to end")
    works(fleet, lab)


def test_ctrl_c_ends_the_watching_and_not_the_run(fleet: LocalFleet, lab: Path, tmp_path: Path) -> None:
    run = fleet.run(lab, rounds=1, config={"train-seconds": "2"})
    with watching(fleet, run, tmp_path) as watch:
        wait_until(lambda: "train sent to 2 devices" in watch.out, 30, "the watch to show the round")
        watch.process.send_signal(signal.SIGINT)
        assert watch.ends() == 0
        assert f"Run {run} goes on." in watch.err
    assert fleet.wait_run(run, 30)["status"] == "finished"


def test_a_device_that_froze_for_a_while_still_answers(fleet: LocalFleet, lab: Path) -> None:
    before = trainings(fleet, "d1")
    run = fleet.run(lab, rounds=1, config={"train-seconds": "1"})
    wait_training(fleet, "d1", before)
    fleet.processes["d1"].send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: bool(data_of(fleet, run, "device-reply", phase="train")), 30, "the other device's reply")
    finally:
        fleet.processes["d1"].send_signal(signal.SIGCONT)
    assert fleet.wait_run(run, 60)["status"] == "finished"
    assert all(data["replied"] == 2 for data in data_of(fleet, run, "phase-finished"))


def test_a_device_stopped_in_the_middle_of_a_round_is_lost_by_name_and_the_run_goes_on(
    fleet: LocalFleet, lab: Path
) -> None:
    before = trainings(fleet, "d1")
    config = {"train-seconds": "2", "min-nodes": "1", "timeout": "600"}
    run = fleet.run(lab, rounds=2, config=config)
    wait_training(fleet, "d1", before)
    fleet.kill("d1", signal.SIGTERM)
    try:
        assert fleet.wait_run(run, 60)["status"] == "finished"
    finally:
        fleet.start_device("d1")
    trained = data_of(fleet, run, "device-reply", phase="train")
    errors = [(data["round"], data["error"]["code"]) for data in trained if data["error"]]
    assert errors == [(1, "device-lost")]
    assert [data["metrics"]["mean"] for data in data_of(fleet, run, "central")] == [0.0, 2.0, 4.0]
    works(fleet, lab)  # the instruction that it still has is of a run that is over, and is dropped


@pytest.mark.slow
def test_a_device_frozen_until_the_broker_gave_it_up_still_answers_within_its_grace(
    make_fleet: Callable[..., LocalFleet], lab: Path, notes: Callable[[str], list[tuple[str, int]]]
) -> None:
    fleet = make_fleet(2, **{"runs.grace_s": 60.0})
    run = fleet.run(lab, rounds=1, config={"train-seconds": "1", "timeout": "170"})
    wait_until(lambda: bool(notes("d1")), 60, "d1 to train")
    fleet.processes["d1"].send_signal(signal.SIGSTOP)
    try:
        with fleet.client() as client:
            wait_until(lambda: client.get("health")["devices_online"] == 1, 60, "d1 to be given up")
    finally:
        fleet.processes["d1"].send_signal(signal.SIGCONT)
    assert fleet.wait_run(run, 60)["status"] == "finished"
    assert all(data["replied"] == 2 for data in data_of(fleet, run, "phase-finished"))
    assert len(notes("d1")) == 1
