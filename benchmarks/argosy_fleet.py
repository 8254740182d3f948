"""Our side: a real coordinator and real device daemons on loopback, driven through their command lines.

Everything is as in the field: certificates from a real enrolment, TLS 1.3, the managed Mosquitto. Only the addresses
are special: the broker listens on 127.0.0.2 and is advertised at 127.0.0.1, where a counting proxy on the same port
forwards the devices' connections to it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.memory import MemorySampler
from benchmarks.processes import Processes, ProcessFailed, free_port
from benchmarks.proxy import CountingProxy
from benchmarks.rounds import APP, Job, Observed, has_ended, read_rounds

_BIN = Path(sys.executable).parent
_START_S = 40.0
_CALL_S = 30.0
_OVER = ("finished", "failed", "stopped")
_LABELS = (  # what a command line contains, the most telling first
    ("mosquitto", "broker"),
    ("argosy_client.worker", "worker"),
    ("argosy_server.runs", "run"),
    ("argosy-device", "supervisor"),
    ("argosy-coordinator", "daemon"),
)


class ArgosyFleet:
    """A coordinator and its devices, up and connected. Made by `argosy_fleet`."""

    def __init__(self, folder: Path, processes: Processes, proxy: CountingProxy, roots: dict[str, int]) -> None:
        self._folder = folder
        self._processes = processes
        self._proxy = proxy
        self._roots = roots
        self._runs = 0

    def run(self, job: Job) -> Observed:
        """Run the app once and return what was seen.

        Raises:
            ProcessFailed: a daemon died, or the run failed or was not over in time.
        """
        self._runs += 1
        marks = self._folder / f"marks-{self._runs}.jsonl"
        config = [part for name, value in job.config(marks).items() for part in ("--config", f"{name}={value}")]
        with MemorySampler(self._roots, _classify) as memory:
            number = _argosy(self._processes, "run", "start", str(APP), *config)["run"]
            self._wait(number, marks, job.timeout_s)
        rounds = read_rounds(marks)
        if not self._proxy.down.between(rounds[0].begin, rounds[-1].end):
            raise ProcessFailed("the devices went round the proxy: no bytes were counted")
        return Observed(job, rounds, self._proxy.up, self._proxy.down, dict(memory.groups))

    def _wait(self, number: int, marks: Path, timeout_s: float) -> None:
        """Wait for the app's last mark; a run that fails never makes it, so look at its status now and then too."""
        look_again = time.monotonic() + 3

        def over() -> bool:
            nonlocal look_again
            if has_ended(marks):
                return True
            if time.monotonic() < look_again:
                return False
            look_again = time.monotonic() + 3
            return self._status(number) in _OVER

        self._processes.wait(f"run {number} ends", over, timeout_s)
        self._processes.wait(f"run {number} is over", lambda: self._status(number) in _OVER, _CALL_S)
        if self._status(number) != "finished":
            shown = _argosy(self._processes, "run", "show", str(number))
            raise ProcessFailed(f"run {number} {shown['status']}: {shown.get('error')}")

    def _status(self, number: int) -> str:
        return str(_argosy(self._processes, "run", "show", str(number))["status"])


@contextmanager
def argosy_fleet(devices: int, say: Callable[[str], None]) -> Iterator[ArgosyFleet]:
    """Start a coordinator, let `devices` devices join it and wait until all are online; end everything afterwards.

    Raises:
        ProcessFailed: something did not start in time; the message carries its log.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        socket = folder / "admin.sock"
        environment = {"ARGOSY_SOCKET": str(socket), "HOME": name, "XDG_STATE_HOME": name, "PYTHONUNBUFFERED": "1"}
        with Processes(folder, environment) as processes:
            port = free_port()
            say("starting the coordinator")
            config = _write_coordinator_config(folder, socket, port)
            command = [str(_BIN / "argosy-coordinator"), "run", "--config", str(config)]
            roots = {"server": processes.start("coordinator", command)}
            processes.wait("the admin socket is there", socket.exists, _START_S)
            with CountingProxy(("127.0.0.2", port), port) as proxy:
                say("devices join")
                roots |= _join(folder, processes, devices)
                processes.wait("the devices are online", lambda: _online(processes) == devices, _START_S, every_s=0.3)
                yield ArgosyFleet(folder, processes, proxy, roots)


def _write_coordinator_config(folder: Path, socket: Path, port: int) -> Path:
    path = folder / "coordinator.toml"
    path.write_text(
        f'state_dir = "{folder / "coordinator"}"\nsocket = "{socket}"\n'
        f'[broker]\nkind = "mosquitto"\nhost = "127.0.0.2"\nport = {port}\nadvertise = ["127.0.0.1", "127.0.0.2"]\n'
        f'[enrolment]\nhost = "127.0.0.1"\nport = {free_port()}\n'
    )
    return path


def _join(folder: Path, processes: Processes, devices: int) -> dict[str, int]:
    """Enrol and start the devices; return their process ids by group."""
    token = _argosy(processes, "token", "create", "--uses", str(devices))
    program = str(_BIN / "argosy-device")
    roots: dict[str, int] = {}
    for number in range(devices):
        group = f"device-{number}"
        state = ["--state-dir", str(folder / group)]
        trust = ["--token", token["text"], "--pin", token["pin"]]
        processes.call([program, "join", token["url"], *trust, "--name", group, *state], _CALL_S)
        roots[group] = processes.start(group, [program, "run", *state])
    return roots


def _online(processes: Processes) -> int:
    listed = _argosy(processes, "device", "list")
    return sum(bool(device["presence"].get("online")) for device in listed)


def _argosy(processes: Processes, *words: str) -> Any:  # noqa: ANN401  (whatever JSON the command prints)
    return json.loads(processes.call([str(_BIN / "argosy"), *words, "--json"], _CALL_S))


def _classify(group: str, command: str) -> tuple[str, str]:
    """The broker is a child of the coordinator's daemon and is counted by itself."""
    label = next((label for word, label in _LABELS if word in command), "other")
    return ("broker" if label == "broker" else group), label
