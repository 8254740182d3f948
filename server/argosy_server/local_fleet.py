"""A whole fleet on this machine: a coordinator and device daemons as real processes, over TLS, with certificates.

For `argosy up`, the demo, benchmarks and system tests. Everything goes the way an operator goes: the coordinator's
command, its admin socket, a join token, the device's commands.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from argosy_common.errors import CoordinatorUnreachable, DaemonFailed
from argosy_common.files import private_folder
from argosy_server import crash_points
from argosy_server.cli.client import AdminClient

READY_S = 60.0
STOP_S = 15.0
POLL_S = 0.05


@dataclass(frozen=True)
class LocalDevice:
    """A device of the fleet: its name, and what its owner would write into its settings."""

    name: str
    node_config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    """Further settings by name, `worker.time_s` for those in a table."""


class LocalFleet:
    """Processes of a fleet under one folder. A context manager: leaving it stops them all, also after Ctrl-C.

    Args:
        folder: state of all daemons and their logs; kept afterwards.
        devices: who takes part.
        settings: the coordinator's settings by name, `runs.device_wait_s` for those in a table.
        environment: further variables for every process.
        operator_key: the file of the operator's public key, which devices pin when they join.
    """

    def __init__(
        self,
        folder: Path,
        devices: Sequence[LocalDevice] = (),
        *,
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        operator_key: Path | None = None,
    ) -> None:
        self.folder = private_folder(folder)
        self.devices = {device.name: device for device in devices}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._spawning = threading.Lock()
        self._stopped = False
        self._operator_key = operator_key
        ports = free_ports(2)
        self._settings: dict[str, object] = {
            "state_dir": str(self.folder / "coordinator"),
            "socket": str(_short_socket(self.folder)),
            "broker.host": "127.0.0.1",
            "broker.port": ports[0],
            "broker.advertise": ["127.0.0.1"],
            "enrolment.host": "127.0.0.1",
            "enrolment.port": ports[1],
            "enrolment.advertise": f"https://127.0.0.1:{ports[1]}",
            **(settings or {}),
        }
        self._environment = {
            **os.environ,
            # many workers share this machine's cores: one thread each
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self.stop()

    @property
    def socket(self) -> Path:
        """The admin socket."""
        return Path(str(self._settings["socket"]))

    def client(self) -> AdminClient:
        """Return a client of the admin API."""
        return AdminClient(self.socket)

    def start(self, progress: Callable[[str], None] = lambda _text: None) -> None:
        """Start the coordinator, enrol the devices that are not enrolled yet, start them, wait until all are online.

        Raises:
            ArgosyError: as named by the daemon that failed.
        """
        progress("starting the coordinator")
        self.start_coordinator()
        progress(f"enrolling devices: {len(self.devices)}")
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(self.join, self.devices))
        progress(f"starting {len(self.devices)} devices")
        for name in self.devices:
            self.start_device(name)
        self.wait_online(len(self.devices))

    def start_coordinator(self, *, crash_at: str = "") -> None:
        """Start the coordinator and wait until it answers; it may be told where to crash (`crash_points`)."""
        private_folder(self.socket.parent)
        environment = {**self._environment, **_variables("ARGOSY_COORDINATOR_", self._settings)}
        if crash_at:
            environment[crash_points.VARIABLE] = crash_at
        command = [sys.executable, "-m", "argosy_server.cli.coordinator", "run"]
        process = self._spawn("coordinator", command, environment)

        def answers() -> bool:
            if process.poll() is not None:
                raise DaemonFailed(
                    daemon="coordinator", why=self.log_tail("coordinator").strip(), log=self.log_path("coordinator")
                )
            try:
                with self.client() as client:
                    client.get("health")
            except CoordinatorUnreachable:
                return False
            return True

        wait_until(answers, READY_S, "the coordinator to answer")

    def join(self, name: str, *, token: str | None = None, pin: str | None = None) -> None:
        """Enrol a device, with a token made for it and the right pin unless given; nothing if it is enrolled.

        Raises:
            ArgosyError: what `argosy-device join` named.
        """
        if (self.device_folder(name) / "device.crt").exists():
            return
        with self.client() as client:
            made = client.post("tokens", {"uses": 1, "ttl_s": 600})
        command = ["join", made["url"], "--token", token or made["token"], "--pin", pin or made["pin"], "--name", name]
        if self._operator_key is not None:
            command += ["--operator-key", str(self._operator_key)]
        done = subprocess.run(
            [sys.executable, "-m", "argosy_client.cli", *command],
            env=self._device_environment(name),
            capture_output=True,
            text=True,
            timeout=READY_S,
            check=False,
        )
        if done.returncode:
            raise DaemonFailed(daemon=f"join of {name}", why=done.stderr.strip()[-2000:], log="the coordinator's log")

    def start_device(self, name: str) -> None:
        """Start an enrolled device's daemon."""
        self._spawn(name, [sys.executable, "-m", "argosy_client.cli", "run"], self._device_environment(name))

    def wait_online(self, count: int, timeout_s: float = READY_S) -> None:
        """Wait until at least `count` devices are online."""

        def there() -> bool:
            with self.client() as client:
                return int(client.get("health")["devices_online"]) >= count

        wait_until(there, timeout_s, f"{count} devices to be online")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one daemon and wait for its end."""
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(STOP_S)

    def device_folder(self, name: str) -> Path:
        """Return a device's state directory."""
        return self.folder / "devices" / name

    def log_path(self, name: str) -> Path:
        """Return the file that a daemon's log goes to."""
        return self.folder / "logs" / f"{name}.log"

    def log_tail(self, name: str, characters: int = 2000) -> str:
        """Return the end of a daemon's log."""
        return self.log_path(name).read_text(errors="replace")[-characters:]

    def run(
        self,
        app: Path,
        *,
        rounds: int | None = None,
        config: Mapping[str, str] | None = None,
        codec: Mapping[str, object] | None = None,
        secure: bool | None = None,
        straggler: Mapping[str, object] | None = None,
    ) -> int:
        """Start a run of the app in a directory; return its number.

        `codec` may have `up`, `down` and `arrays`; `secure` is whether to aggregate securely; `straggler` may have the
        fields of a `StragglerSettings`. Where they are not given, the app decides.
        """
        from argosy_common.bundle import pack  # noqa: PLC0415  (only who runs an app needs it)

        with self.client() as client:
            stored = client.put("bundles", pack(app))
            wanted = {"bundle": stored["digest"], "size": stored["size"], "config": dict(config or {})}
            if codec is not None:
                wanted["codec"] = dict(codec)
            if secure is not None:
                wanted["secure"] = secure
            if straggler is not None:
                wanted["straggler"] = dict(straggler)
            return int(client.post("runs", {**wanted, "rounds": rounds})["run"])

    def wait_run(self, run: int, timeout_s: float) -> dict[str, Any]:
        """Wait until a run is over and return its row."""

        def over() -> bool:
            with self.client() as client:
                return client.get(f"runs/{run}")["status"] not in ("pending", "running")

        wait_until(over, timeout_s, f"run {run} to end")
        with self.client() as client:
            return client.get(f"runs/{run}")

    def events(self, run: int) -> list[dict[str, Any]]:
        """Return all events of a run so far."""
        with self.client() as client:
            found: list[dict[str, Any]] = []
            while page := client.get(f"runs/{run}/events", after=found[-1]["seq"] if found else 0)["events"]:
                found.extend(page)
            return found

    def stop(self) -> None:
        """Stop devices, then the coordinator: first by asking, after a while by force; at once at a second Ctrl-C."""
        with self._spawning:
            self._stopped = True
            mine, self.processes = self.processes, {}
        devices = [process for name, process in mine.items() if name != "coordinator"]
        try:
            for processes in (devices, [process for process in mine.values() if process not in devices]):
                _terminate(processes)
        finally:
            for process in mine.values():
                process.kill()
            for process in mine.values():
                process.wait(STOP_S)
            if self.socket.parent != self.folder.absolute():
                shutil.rmtree(self.socket.parent, ignore_errors=True)  # a short one of our own

    def _device_environment(self, name: str) -> dict[str, str]:
        device = self.devices[name]
        settings = {
            "state_dir": str(self.device_folder(name)),
            "name": name,
            "node_config": dict(device.node_config),
            **device.settings,
        }
        return {**self._environment, **_variables("ARGOSY_DEVICE_", settings)}

    def _spawn(self, name: str, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        # on another thread, where no Ctrl-C comes between a process's start and its entry among ours
        self._stopped = False
        with ThreadPoolExecutor(1) as spawner:
            return spawner.submit(self._start_process, name, command, environment).result()

    def _start_process(self, name: str, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        private_folder(self.log_path(name).parent)
        with self._spawning, self.log_path(name).open("ab") as output:
            if self._stopped:  # Ctrl-C came while this thread began, and nobody waits for it any more
                raise DaemonFailed(daemon=name, why="the fleet was stopped", log=self.log_path(name))
            process = self.processes[name] = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for us alone: we stop them in order
                start_new_session=True,
            )
        return process


@contextmanager
def ends_cleanly() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does, so that what it started is stopped."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback that nobody uses at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll `condition`; raises `TimeoutError` naming `what` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(POLL_S)


def _terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and wait for them, not longer than `STOP_S` seconds."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))


def _variables(prefix: str, settings: Mapping[str, object]) -> dict[str, str]:
    """Return settings as the environment variables that a daemon reads; tables and lists as JSON."""
    return {
        f"{prefix}{name.upper().replace('.', '__')}": value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
    }


def _short_socket(folder: Path) -> Path:
    """Return a path for the admin socket that fits into a socket address, which a deep folder's would not."""
    wanted = folder / "admin.sock"
    if len(os.fsencode(wanted.absolute())) < 100:
        return wanted.absolute()
    # the temporary folder may be deep itself
    root = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"  # noqa: S108  (a private folder in it)
    return Path(tempfile.mkdtemp(prefix="argosy-", dir=root)) / "admin.sock"
