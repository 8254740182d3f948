"""Blob transfer: ours through the managed Mosquitto over TLS 1.3, a raw TLS socket, and HTTPS, on loopback.

Sender, receiver and broker are processes of their own. The three ways take turns in each repetition, so that what
else this machine does falls on all alike; the best repetition of each counts. Ours and HTTPS end with a file that is
hashed, compared and synced; the raw socket throws its bytes away, for it is the limit and not a peer. Processor seconds
are those of all processes together, for 10^9 bytes. One MB is 10^6 bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from argosy_common import x509
from argosy_common.clock import SystemClock
from argosy_common.errors import ArgosyError
from argosy_common.files import write_atomic
from argosy_common.link import TlsFiles
from argosy_server.broker import Broker, open_broker
from argosy_server.ca import CertificateAuthority
from argosy_server.settings import BrokerTable
from benchmarks import transfer_ends as ends
from benchmarks.report import Benchmark, main

DEVICE = "0123456789abcdef"
MB = 10**6

Role = Callable[[Connection, ends.Duties], None]


@dataclass(frozen=True)
class Measured:
    """One fetch: seconds, processor seconds of all parties, growth of the receiver's peak memory in bytes."""

    seconds: float
    cpu: float
    memory: int


class Way:
    """A sender, a receiver and, where there is one, the broker between them."""

    def __init__(self, name: str, sends: ends.End, receives: ends.End, broker: Broker | None) -> None:
        self.name = name
        self.results: list[Measured] = []
        self._ends = (sends, receives)
        self._broker = psutil.Process(broker.pid) if broker is not None and broker.pid else None

    def _cpu(self) -> float:
        spent = sum(float(end.ask("cpu")) for end in self._ends)
        if self._broker is not None:
            times = self._broker.cpu_times()
            spent += times.user + times.system
        return spent

    def fetch(self) -> None:
        """Fetch once and remember what it took."""
        before = self._cpu()
        report: ends.Report = self._ends[1].ask("fetch")
        self.results.append(Measured(report.seconds, self._cpu() - before, report.memory))

    def best(self) -> Measured:
        """Return the fetch that was least disturbed by what else the machine did."""
        return min(self.results, key=lambda each: each.seconds)


@dataclass(frozen=True)
class Bed:
    """What all ways share: certificates, the broker, the file."""

    duties: ends.Duties
    server: TlsFiles
    coordinator: TlsFiles
    device: TlsFiles
    broker: Broker


@contextmanager
def bed(size: int) -> Iterator[Bed]:
    """Make certificates and a file of `size` random bytes, and start a broker."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="transfer-") as name:
        folder = Path(name)
        authority = CertificateAuthority.open(folder / "ca", clock)
        server = authority.issue_server(["127.0.0.1"])
        coordinator = authority.coordinator_tls()
        device = _device_files(authority, folder)
        file, data = folder / "file", os.urandom(size)
        file.write_bytes(data)
        settings = BrokerTable.model_validate({"kind": "mosquitto", "host": "127.0.0.1", "port": 0})
        broker = open_broker(settings, server, folder / "broker", clock=clock, rng=random.Random(1))
        broker.start()
        try:
            digest = hashlib.sha256(data).digest()
            del data
            duties = ends.Duties(broker.address[1], coordinator, folder, file, digest, size, DEVICE)
            yield Bed(duties, server, coordinator, device, broker)
        finally:
            broker.stop()


def _device_files(authority: CertificateAuthority, folder: Path) -> TlsFiles:
    key = x509.generate_key()
    files = TlsFiles(authority.ca_path, folder / "device.crt", folder / "device.key", x509.COORDINATOR)
    x509.save_key(files.key, key)
    write_atomic(files.cert, x509.chain_pem(*authority.issue_device(DEVICE, key.public_key())))
    return files


@contextmanager
def running(role: Role, duties: ends.Duties) -> Iterator[tuple[ends.End, int]]:
    """Start a process and wait until it is ready; yield it and the port it listens on, if any."""
    end = ends.End(role, duties)
    try:
        yield end, end.ask() or duties.port
    finally:
        end.stop()


@contextmanager
def ours(bed: Bed, name: str, sends: Role, receives: Role, *, down: bool) -> Iterator[Way]:
    """Our transfer, down (the coordinator sends) or up; only one at a time, for both ends have but one connection."""
    coordinator, device = bed.duties, dataclasses.replace(bed.duties, tls=bed.device)
    sender, receiver = (coordinator, device) if down else (device, coordinator)
    with running(sends, sender) as (first, _), running(receives, receiver) as (second, _):
        yield Way(name, first, second, bed.broker)


@contextmanager
def direct(bed: Bed, name: str, sends: Role, receives: Role) -> Iterator[Way]:
    """A transfer from process to process."""
    server = dataclasses.replace(bed.duties, tls=bed.server)
    with ExitStack() as stack:
        first, port = stack.enter_context(running(sends, server))
        second, _ = stack.enter_context(running(receives, dataclasses.replace(server, port=port)))
        yield Way(name, first, second, None)


def measure(bench: Benchmark) -> None:
    """Let the ways take turns, then compare them."""
    size, turns = (128 * MB, 3) if bench.quick else (512 * MB, 5)
    with bed(size) as shared, ExitStack() as stack:
        down = stack.enter_context(ours(shared, "argosy down", ends.coordinator_sends, ends.device_receives, down=True))
        raw = stack.enter_context(direct(shared, "raw TLS", ends.raw_sends, ends.raw_receives))
        https = _https(bench, shared, stack)
        ways = [way for way in (down, raw, https) if way is not None]
        with bench.progress("transfer", total=turns * len(ways)) as step:
            for turn in range(turns):
                for way in ways:
                    step(f"{way.name}, {turn + 1} of {turns}")
                    way.fetch()
        if bench.quick:
            bench.left_out("512 MB files, two of five repetitions, and the way up")
    for way in ways:
        _row(bench, way, size)
    if not bench.quick:
        _row(bench, _measured_up(size, turns), size)
    _bars(bench, size, down.best(), raw.best(), https.best() if https is not None else None)


def _https(bench: Benchmark, shared: Bed, stack: ExitStack) -> Way | None:
    try:
        return stack.enter_context(direct(shared, "HTTPS", ends.https_sends, ends.https_receives))
    except (TimeoutError, EOFError, OSError) as error:
        bench.could_not_run("HTTPS", str(error) or type(error).__name__)
        return None


def _measured_up(size: int, turns: int) -> Way:
    with ExitStack() as stack:
        shared = stack.enter_context(bed(size))
        up = stack.enter_context(ours(shared, "argosy up", ends.device_sends, ends.coordinator_receives, down=False))
        for _ in range(turns):
            up.fetch()
        return up


def _row(bench: Benchmark, way: Way, size: int) -> None:
    best = way.best()
    bench.row(
        way=way.name,
        size_mb=size / MB,
        seconds=best.seconds,
        mb_s=size / MB / best.seconds,
        mb_s_worst=size / MB / max(each.seconds for each in way.results),
        cpu_s_per_gb=best.cpu * 1000 * MB / size,
        receiver_memory_mb=max(each.memory for each in way.results) / MB,
    )


def _bars(bench: Benchmark, size: int, down: Measured, raw: Measured, https: Measured | None) -> None:
    rate = size / MB / down.seconds
    bench.bar("mb_s", rate, ">= 100", "the goal of the issue; through the broker, TLS 1.3, loopback")
    bench.bar("cpu_s_per_gb", down.cpu * 1000 * MB / size, "<= 15", "sender, receiver and broker together")
    bench.bar("ratio_raw_tls", raw.seconds / down.seconds, ">= 0.1", "a raw TLS socket, in turn with ours")
    if https is not None:
        bench.bar("ratio_https", https.seconds / down.seconds, ">= 0.2", "HTTPS from uvicorn, in turn with ours")


if __name__ == "__main__":
    try:
        raise SystemExit(main("transfer", __doc__, measure, packages=("uvicorn",)))
    except ArgosyError as error:
        raise SystemExit(f"{error.message} {error.remedy_text}") from None
