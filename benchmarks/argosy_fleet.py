"""Our side: a real coordinator and real device daemons on loopback.

Everything is as in the field: certificates from a real enrolment, TLS 1.3, the managed Mosquitto. Only the addresses
are special: the broker listens on 127.0.0.2 and is advertised at 127.0.0.1, where a counting proxy on the same port
forwards the devices' connections to it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from benchmarks.memory import MemorySampler
from benchmarks.processes import ProcessFailed, free_port
from benchmarks.proxy import CountingProxy
from benchmarks.rounds import APP, Job, Observed, has_ended, read_rounds

_BROKER_HOST = "127.0.0.2"
_END_S = 30.0
_GLANCE_S = 2.0  # between looks at the run's status: each one costs the coordinator a little time
_LABELS = (  # what a command line contains, the most telling first
    ("mosquitto", "broker"),
    ("argosy_client.worker", "worker"),
    ("argosy_server.runs", "run"),
    ("argosy_client", "supervisor"),
    ("argosy_server", "daemon"),
)


class ArgosyFleet:
    """A coordinator and its devices, up and connected. Made by `argosy_fleet`."""

    def __init__(self, fleet: LocalFleet, proxy: CountingProxy) -> None:
        self._fleet = fleet
        self._proxy = proxy

    def run(self, job: Job) -> Observed:
        """Run the app once and return what was seen.

        Raises:
            ProcessFailed: the run failed, or its bytes were not counted.
            TimeoutError: it was not over in time.
        """
        marks = Path(tempfile.mkdtemp(dir=self._fleet.folder)) / "marks.jsonl"
        roots = {("server" if name == "coordinator" else name): p.pid for name, p in self._fleet.processes.items()}
        with MemorySampler(roots, classify) as memory:
            number = self._fleet.run(APP, config={name: str(value) for name, value in job.config(marks).items()})
            self._wait(number, marks, job.timeout_s)
        rounds = read_rounds(marks)
        if not self._proxy.down.between(rounds[0].begin, rounds[-1].end):
            raise ProcessFailed("the devices went round the proxy: no bytes were counted")
        return Observed(job, rounds, self._proxy.up, self._proxy.down, dict(memory.groups))

    def _wait(self, number: int, marks: Path, timeout_s: float) -> None:
        """Wait for the app's last mark; a run that fails never makes it, so look at its status now and then too."""
        glance_at = time.monotonic() + _GLANCE_S

        def over() -> bool:
            nonlocal glance_at
            if has_ended(marks):
                return True
            if time.monotonic() < glance_at:
                return False
            glance_at = time.monotonic() + _GLANCE_S
            with self._fleet.client() as client:
                return client.get(f"runs/{number}")["status"] not in ("pending", "running")

        wait_until(over, timeout_s, f"run {number} to end")
        row = self._fleet.wait_run(number, _END_S)
        if row["status"] != "finished":
            raise ProcessFailed(f"run {number} {row['status']}: {row['error']}")


@contextmanager
def argosy_fleet(devices: int, say: Callable[[str], None]) -> Iterator[ArgosyFleet]:
    """Start a coordinator, let `devices` devices join it and wait until all are online; end everything afterwards.

    Raises:
        ArgosyError, TimeoutError: something did not start.
    """
    port = free_port()
    settings: dict[str, object] = {
        "broker.kind": "mosquitto",
        "broker.host": _BROKER_HOST,
        "broker.port": port,
        # devices take the first; the second is for the certificate, since the coordinator goes there directly
        "broker.advertise": ["127.0.0.1", _BROKER_HOST],
    }
    members = [LocalDevice(f"device-{number}") for number in range(devices)]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        CountingProxy((_BROKER_HOST, port), port) as proxy,
        LocalFleet(Path(folder), members, settings=settings) as fleet,
    ):
        fleet.start(say)
        yield ArgosyFleet(fleet, proxy)


def classify(group: str, command: str) -> tuple[str, str]:
    """The broker is a child of the coordinator's daemon and is counted by itself."""
    label = next((label for word, label in _LABELS if word in command), "other")
    return ("broker" if label == "broker" else group), label
