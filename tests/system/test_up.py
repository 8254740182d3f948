"""`argosy up` as a process of its own: however it ends, it leaves no process behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from argosy_server.local_fleet import wait_until

pytestmark = pytest.mark.timeout(120)

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_numpy"
MARK = "ARGOSY_TEST_MARK"


class Up:
    """An `argosy up` in a session of its own, as in a terminal. All its processes are known by a mark they inherit."""

    def __init__(self, folder: Path, *words: str) -> None:
        start = "import sys; sys.argv[0] = 'argosy'; from argosy_server.cli.main import main; main()"
        self._mark = secrets.token_hex(8)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self._told = folder / "told"
        with self._told.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", start, "up", "--app", str(EXAMPLE), *words],
                env={**os.environ, MARK: self._mark, "TMPDIR": str(self.scratch), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def told(self) -> str:
        """What it said so far."""
        return self._told.read_text()

    def wait_told(self, text: str) -> None:
        """Wait until it says something."""
        wait_until(lambda: text in self.told or self.process.poll() is not None, 60, f"'{text}' in: {self.told}")
        assert text in self.told

    def processes(self) -> dict[int, str]:
        """Return the processes that have its mark and are not over, itself among them."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline())
        return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Return a function that starts `argosy up` with these further words."""
    started: list[Up] = []

    def start(*words: str) -> Up:
        started.append(Up(tmp_path, *words))
        return started[-1]

    yield start
    for each in started:
        for pid in each.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        each.process.wait(10)


def test_it_trains_ends_by_itself_and_leaves_nothing(up: Callable[..., Up]) -> None:
    fleet = up("--devices", "3", "--rounds", "2")
    fleet.wait_told("round 1 train sent to 3 devices")
    words = " ".join(fleet.processes().values())
    for part in ("argosy_server.daemon", "argosy_client", "worker.process", "runs.process", "mosquitto"):
        assert part in words  # so what is looked for below is really found
    assert fleet.process.wait(60) == 0, fleet.told
    assert "run finished" in fleet.told
    assert fleet.processes() == {}
    assert list(fleet.scratch.iterdir()) == []


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("enrolling", marks=pytest.mark.slow),
        pytest.param("starting 3 devices", marks=pytest.mark.slow),
        "round 1 train sent",
    ],
)
def test_ctrl_c_leaves_no_process_behind(up: Callable[..., Up], moment: str) -> None:
    fleet = up("--devices", "3", "--rounds", "500")
    fleet.wait_told(moment)
    os.killpg(fleet.process.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to the whole group
    assert fleet.process.wait(40) == 0
    assert "Stopped." in fleet.told
    assert "Traceback" not in fleet.told
    assert fleet.processes() == {}
    assert list(fleet.scratch.iterdir()) == []


def test_sigterm_leaves_no_process_behind(up: Callable[..., Up], tmp_path: Path) -> None:
    fleet = up("--devices", "2", "--rounds", "500", "--state-dir", str(tmp_path / "kept"))
    fleet.wait_told("round 1 train sent")
    fleet.process.terminate()
    fleet.process.wait(40)
    assert fleet.processes() == {}
    assert (tmp_path / "kept" / "logs" / "coordinator.log").stat().st_size


def test_an_impatient_second_ctrl_c_leaves_no_process_behind(up: Callable[..., Up]) -> None:
    fleet = up("--devices", "2", "--rounds", "500")
    fleet.wait_told("round 1 train finished")  # the workers are there: no process is being forked just now
    devices = [pid for pid, words in fleet.processes().items() if "argosy_client.cli" in words]
    assert len(devices) == 2
    for pid in devices:
        os.kill(pid, signal.SIGSTOP)  # so that stopping them takes its time
    wait_until(lambda: all(map(stands_still, devices)), 20, "the devices to stand still")
    fleet.process.send_signal(signal.SIGINT)
    wait_until(lambda: all(map(is_asked_to_end, devices)), 20, "the devices to be asked to end")
    fleet.process.send_signal(signal.SIGINT)
    assert fleet.process.wait(20) == 0
    # killed daemons take their own children with them, each in its time
    wait_until(lambda: fleet.processes() == {}, 20, "all processes to end")


def stands_still(pid: int) -> bool:
    """Tell whether a SIGSTOP has taken effect."""
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def is_asked_to_end(pid: int) -> bool:
    """Tell whether a SIGTERM waits for a stopped process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = next(line.split()[1] for line in lines if line.startswith("ShdPnd"))
    return bool(int(pending, 16) & 1 << (signal.SIGTERM - 1))
