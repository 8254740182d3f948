"""How the broker's process starts, dies, and is started again."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_common.errors import BrokerFailedToStart, CertificateInvalid, PortInUse
from argosy_common.link import Link, TlsFiles
from argosy_server.broker import Broker, MosquittoBroker, find_mosquitto, open_broker
from argosy_server.broker.child import Child
from argosy_server.settings import BrokerTable
from tests.pki import Pki
from tests.waiting import kill, until, up

MakeLink = Callable[..., Link]


def make(tls: TlsFiles, folder: Path, **settings: object) -> Broker:
    table = BrokerTable.model_validate({"host": "127.0.0.1", "port": 0, **settings})
    return open_broker(table, tls, folder, clock=SystemClock(), rng=random.Random(4))


def exists(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_auto_takes_mosquitto_where_it_is_installed(pki: Pki, tmp_path: Path) -> None:
    assert find_mosquitto() is not None
    assert make(pki.server(), tmp_path, kind="auto").kind == "mosquitto"


def test_auto_takes_the_embedded_broker_where_mosquitto_is_missing(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("argosy_server.broker.mosquitto._SYSTEM_FOLDERS", ())
    assert find_mosquitto() is None
    assert make(pki.server(), tmp_path, kind="auto").kind == "iotcore"
    with pytest.raises(BrokerFailedToStart, match="not installed"):
        make(pki.server(), tmp_path, kind="mosquitto")


def test_mosquitto_is_found_where_daemons_are_though_path_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert find_mosquitto() is not None


def test_an_external_broker_is_only_an_address(pki: Pki, tmp_path: Path, mosquitto: Broker) -> None:
    host, port = mosquitto.address
    broker = make(pki.server(), tmp_path, kind="external", url=f"mqtts://{host}:{port}")
    assert (broker.kind, broker.address, broker.pid) == ("external", mosquitto.address, None)
    broker.start()
    assert broker.alive()
    broker.stop()
    assert mosquitto.alive()


def test_an_external_broker_that_is_away_is_not_alive(pki: Pki, tmp_path: Path) -> None:
    broker = make(pki.server(), tmp_path, kind="external", url="mqtts://127.0.0.1:1")
    broker.start()
    assert not broker.alive()


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_it_lives_from_start_to_stop(pki: Pki, tmp_path: Path, kind: str) -> None:
    broker = make(pki.server(), tmp_path, kind=kind)
    assert not broker.alive()
    broker.stop()  # before the start: harmless
    broker = make(pki.server(), tmp_path, kind=kind)
    broker.start()
    pid = broker.pid
    assert broker.alive()
    assert pid is not None
    broker.stop()
    broker.stop()
    assert not broker.alive()
    assert broker.pid is None
    assert not exists(pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(broker.address)


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_a_port_in_use_is_named(pki: Pki, tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        broker = make(pki.server(), tmp_path, kind=kind, port=port)
        with pytest.raises(PortInUse, match=str(port)):
            broker.start()
    assert not broker.alive()
    broker.stop()


def test_a_port_taken_between_check_and_start_is_named_too(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("argosy_server.broker.child.require_free", lambda _host, _port: None)
    monkeypatch.setattr("argosy_server.broker.child._answers", lambda _host, _port: False)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        broker = make(pki.server(), tmp_path, kind="mosquitto", port=holder.getsockname()[1])
        with pytest.raises(PortInUse):
            broker.start()


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_certificate_files_that_cannot_be_used_are_named(pki: Pki, tmp_path: Path, kind: str) -> None:
    good, other = pki.server(), pki.client("other")
    for broken in (TlsFiles(good.ca, good.cert, tmp_path / "no-such.key"), TlsFiles(good.ca, good.cert, other.key)):
        with pytest.raises(CertificateInvalid, match=str(broken.key)):
            make(broken, tmp_path, kind=kind)
    with pytest.raises(CertificateInvalid, match=r"ca\.txt"):
        make(TlsFiles(tmp_path / "ca.txt", good.cert, good.key), tmp_path, kind=kind)


def test_a_broker_that_cannot_start_says_why_in_its_own_words(pki: Pki, tmp_path: Path) -> None:
    good = pki.server()
    broken = TlsFiles(good.ca, good.cert, tmp_path / "no-such.key")
    broker = MosquittoBroker("127.0.0.1", 0, broken, tmp_path, clock=SystemClock(), rng=random.Random())
    with pytest.raises(BrokerFailedToStart, match=r"mosquitto.*no-such\.key") as failure:
        broker.start()
    assert str(tmp_path / "mosquitto.log") in failure.value.remedy_text
    assert broker.pid is None


def test_an_address_of_another_machine_is_refused(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(BrokerFailedToStart, match=r"192\.0\.2\.1"):
        make(pki.server(), tmp_path, kind="mosquitto", host="192.0.2.1", port=18883).start()


def test_the_embedded_broker_never_leaves_loopback(pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broker = make(pki.server(), tmp_path, kind="iotcore", host="0.0.0.0")  # noqa: S104  (that is the point)
    broker.start()
    try:
        assert broker.address[0] == "127.0.0.1"
        assert "broker.no_access_control" in caplog.messages
        listening = Path("/proc/net/tcp").read_text()
        assert f"0100007F:{broker.address[1]:04X} 00000000:0000 0A" in listening
        assert f"00000000:{broker.address[1]:04X} 00000000:0000 0A" not in listening
    finally:
        broker.stop()


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_a_killed_broker_is_started_again_on_the_same_port(
    pki: Pki, tmp_path: Path, kind: str, make_link: MakeLink
) -> None:
    broker = make(pki.server(), tmp_path, kind=kind)
    broker.start()
    try:
        address = broker.address
        for _ in range(2):
            kill(broker)
            assert broker.address == address
        up(make_link(broker, "coordinator"))
    finally:
        broker.stop()


_PARENT = """
import random, sys, time
from pathlib import Path
from argosy_common.clock import SystemClock
from argosy_common.link import TlsFiles
from argosy_server.broker import open_broker
from argosy_server.settings import BrokerTable
kind, folder, *files = sys.argv[1:]
table = BrokerTable(kind=kind, host="127.0.0.1", port=0)
broker = open_broker(table, TlsFiles(*map(Path, files)), Path(folder), clock=SystemClock(), rng=random.Random())
broker.start()
print(broker.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
def test_the_broker_dies_with_its_parent(pki: Pki, tmp_path: Path, kind: str) -> None:
    tls = pki.server()
    arguments = [kind, str(tmp_path), str(tls.ca), str(tls.cert), str(tls.key)]
    with subprocess.Popen([sys.executable, "-c", _PARENT, *arguments], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            pid = int(parent.stdout.readline())
            assert exists(pid)
        finally:
            os.kill(parent.pid, signal.SIGKILL)
        parent.wait(10)
    assert until(lambda: not exists(pid))


def test_a_large_log_is_put_aside_at_the_next_start(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("argosy_server.broker.child._LOG_LIMIT", 10)
    (tmp_path / "mosquitto.log").write_text("words of the last run\n")
    broker = make(pki.server(), tmp_path, kind="mosquitto")
    broker.start()
    broker.stop()
    assert (tmp_path / "mosquitto.log.1").read_text() == "words of the last run\n"
    assert "last run" not in (tmp_path / "mosquitto.log").read_text()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = Child(
        "absent", [str(tmp_path / "absent")], "127.0.0.1", 1, tmp_path / "log", clock=SystemClock(), rng=random.Random()
    )
    with pytest.raises(BrokerFailedToStart, match="absent"):
        child.start()


def test_a_broker_that_never_listens_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("argosy_server.broker.child.START_S", 0.5)
    command = ["/bin/sleep", "60"]
    child = Child("sleeper", command, "127.0.0.1", 1, tmp_path / "log", clock=SystemClock(), rng=random.Random())
    with pytest.raises(BrokerFailedToStart, match="did not listen"):
        child.start()
    assert child.pid is None
