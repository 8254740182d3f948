"""The peer: the same app on Flower's own transport, a real SuperLink and real SuperNodes on loopback.

As an operator would start them: `flower-superlink`, one `flower-supernode` a device, `flwr run`. Plain HTTP
(`--insecure`), no telemetry, no update check, no network. The nodes reach the SuperLink through a counting proxy.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.memory import MemorySampler
from benchmarks.processes import Processes, ProcessFailed, free_port
from benchmarks.proxy import CountingProxy
from benchmarks.rounds import APP, Job, Observed, has_ended, read_rounds

Value = bool | int | float | str

_BIN = Path(sys.executable).parent
_START_S = 40.0
_LABELS = ("flower-superlink", "flower-supernode", "flower-superexec", "flwr-serverapp", "flwr-clientapp")


def run_native(job: Job, say: Callable[[str], None]) -> Observed:
    """Start a federation, run the app once, end everything. Bounded by `job.timeout_s` and about a minute to start.

    A run that is cut off by the bound counts with the rounds that it completed.

    Raises:
        ProcessFailed: something did not start, or not one round was complete in time.
    """
    with tempfile.TemporaryDirectory(prefix="bench-native-") as folder:
        home = Path(folder)
        with Processes(home, native_environment(home)) as processes:
            return _run(job, home, processes, say)


def _run(job: Job, home: Path, processes: Processes, say: Callable[[str], None]) -> Observed:
    marks = home / "marks.jsonl"
    federation = NativeFederation(home, processes)
    say("starting the SuperLink")
    roots = {"server": federation.start_link()}
    with CountingProxy(("127.0.0.1", federation.port)) as proxy:
        say("starting the SuperNodes")
        roots |= federation.start_nodes([{}] * job.devices, proxy.port)
        with MemorySampler(roots, _classify) as memory:
            say("submitting the app")
            federation.submit(APP, job.config(marks))
            say(f"running {job.rounds} round(s)")
            try:
                processes.wait("the run ends", lambda: has_ended(marks), job.timeout_s)
            except ProcessFailed as cut:
                if not read_rounds(marks):
                    raise ProcessFailed(f"{cut}; {processes.log('superlink').read_text()[-800:]}") from cut
                say(f"cut off: {cut}")
        return Observed(job, read_rounds(marks), proxy.up, proxy.down, dict(memory.groups))


class NativeFederation:
    """A SuperLink and SuperNodes on loopback, their files and logs under `home`."""

    def __init__(self, home: Path, processes: Processes) -> None:
        """Start nothing yet; `processes` is to have the environment `native_environment(home)`."""
        self.port = free_port()
        self._home = home
        self._processes = processes

    def start_link(self) -> int:
        """Start the SuperLink and wait until it answers; return its process id.

        Raises:
            ProcessFailed: it did not start.
        """
        _write_connection(self._home, self.port)
        link = ["--insecure", "--disable-runtime-dependency-installation", "--host", "127.0.0.1"]
        pid = self._processes.start("superlink", [str(_BIN / "flower-superlink"), *link, "--port", str(self.port)])
        self._processes.wait("the SuperLink answers", lambda: _healthy(self.port), _START_S)
        return pid

    def start_nodes(self, configs: Sequence[Mapping[str, Value]], port: int | None = None) -> dict[str, int]:
        """Start a SuperNode for each node configuration and wait until all are connected; return their process ids.

        They reach the SuperLink at `port`, its own by default.

        Raises:
            ProcessFailed: one did not start.
        """
        roots = {}
        for number, config in enumerate(configs):
            node = ["--insecure", "--superlink", f"127.0.0.1:{port or self.port}", "--port", str(free_port())]
            node += ["--node-config", _toml(config)] if config else []
            roots[f"device-{number}"] = self._processes.start(f"node-{number}", [str(_BIN / "flower-supernode"), *node])
        logs = [self._processes.log(f"node-{number}") for number in range(len(configs))]
        self._processes.wait(
            "the SuperNodes are connected", lambda: all("SuperNode ID" in log.read_text() for log in logs), _START_S
        )
        return roots

    def submit(self, app: Path, config: Mapping[str, Value]) -> None:
        """Start a run of the app in a directory.

        Raises:
            ProcessFailed: Flower's command did not take it.
        """
        command = [str(_BIN / "flwr"), "run", str(app), "bench", "--run-config", _toml(config)]
        self._processes.call(command, _START_S)


def _toml(config: Mapping[str, Value]) -> str:
    """Return a configuration as Flower's commands read it: JSON's numbers and strings are TOML's too."""
    return " ".join(f"{name}={json.dumps(value)}" for name, value in config.items())


def native_environment(home: Path) -> dict[str, str]:
    """Return what keeps Flower from the network and from the user's own configuration."""
    return {
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{_BIN}:/usr/bin:/bin",  # the SuperExec and the app processes are found by name
        "PYTHONUNBUFFERED": "1",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),  # as in our local fleet
    }


def _write_connection(home: Path, port: int) -> None:
    folder = home / "flwr"
    folder.mkdir()
    text = f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (folder / "config.toml").write_text(text)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _classify(group: str, command: str) -> tuple[str, str]:
    return group, next((label for label in _LABELS if label in command), "other")
