"""The peer: the same app on Flower's own transport, a real SuperLink and real SuperNodes on loopback.

As an operator would start them: `flower-superlink`, one `flower-supernode` a device, `flwr run`. Plain HTTP
(`--insecure`), no telemetry, no update check, no network. The nodes reach the SuperLink through a counting proxy.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.memory import MemorySampler
from benchmarks.processes import Processes, ProcessFailed, free_port
from benchmarks.proxy import CountingProxy
from benchmarks.rounds import APP, Job, Observed, has_ended, read_rounds

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
        with Processes(home, _environment(home)) as processes:
            return _run(job, home, processes, say)


def _run(job: Job, home: Path, processes: Processes, say: Callable[[str], None]) -> Observed:
    port = free_port()
    marks = home / "marks.jsonl"
    _write_connection(home, port)
    say("starting the SuperLink")
    link = ["--insecure", "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port)]
    roots = {"server": processes.start("superlink", [str(_BIN / "flower-superlink"), *link])}
    processes.wait("the SuperLink answers", lambda: _healthy(port), _START_S)
    with CountingProxy(("127.0.0.1", port)) as proxy:
        say("starting the SuperNodes")
        for number in range(job.devices):
            node = ["--insecure", "--superlink", f"127.0.0.1:{proxy.port}", "--port", str(free_port())]
            roots[f"device-{number}"] = processes.start(f"node-{number}", [str(_BIN / "flower-supernode"), *node])
        logs = [processes.log(f"node-{number}") for number in range(job.devices)]
        processes.wait(
            "the SuperNodes are connected", lambda: all("SuperNode ID" in log.read_text() for log in logs), _START_S
        )
        with MemorySampler(roots, _classify) as memory:
            say("submitting the app")
            # JSON's numbers and strings are TOML's too, which is what `flwr run` reads
            config = " ".join(f"{name}={json.dumps(value)}" for name, value in job.config(marks).items())
            processes.call([str(_BIN / "flwr"), "run", str(APP), "bench", "--run-config", config], _START_S)
            say(f"running {job.rounds} round(s)")
            try:
                processes.wait("the run ends", lambda: has_ended(marks), job.timeout_s)
            except ProcessFailed as cut:
                if not read_rounds(marks):
                    raise ProcessFailed(f"{cut}; {processes.log('superlink').read_text()[-800:]}") from cut
                say(f"cut off: {cut}")
        return Observed(job, read_rounds(marks), proxy.up, proxy.down, dict(memory.groups))


def _environment(home: Path) -> dict[str, str]:
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
