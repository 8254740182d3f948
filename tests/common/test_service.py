"""The main thread of a daemon, in a process of its own: signals, the watchdog, the reload."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_common.service import Progress
from argosy_common.settings import Settings, changed
from tests.service_manager import ServiceManager
from tests.waiting import until

DAEMON = """
import sys
from pathlib import Path
from argosy_common import logs
from argosy_common.clock import SystemClock
from argosy_common.errors import StorageFailed
from argosy_common.notify import Notifier
from argosy_common.service import Condition, Signals, serve

illness = Path(sys.argv[1])

def examine():
    if illness.exists() and illness.read_text() == "raise":
        raise ValueError("boom")
    return Condition(illness.read_text() if illness.exists() else "", "at work")

def reload():
    raise StorageFailed(path="settings", why="it burns")

logs.configure()
with Signals() as signals:
    serve(signals, Notifier.of_this_process(clock=SystemClock()), examine=examine, reload=reload)
print("ended in good order", flush=True)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as manager:
        yield manager


@pytest.fixture
def start(tmp_path: Path, manager: ServiceManager) -> Iterator[Start]:
    """Start the daemon; its illness is what the file `ill` says."""
    started: list[subprocess.Popen[str]] = []

    def begin(watchdog_s: float | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(tmp_path / "ill")],
            env={**os.environ, **manager.environment(watchdog_s=watchdog_s)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        assert manager.hears("READY=1")
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(start: Start, manager: ServiceManager, number: signal.Signals) -> None:
    process = start()
    process.send_signal(number)
    told, _ = process.communicate(timeout=20)
    assert (process.returncode, told) == (0, "ended in good order\n")
    assert manager.hears("STOPPING=1")


def test_the_watchdog_hears_of_it_while_it_is_well_and_only_then(
    start: Start, manager: ServiceManager, tmp_path: Path
) -> None:
    start(watchdog_s=0.2)
    assert manager.hears("WATCHDOG=1", times=3)
    for illness, told in (("the pulse hangs", "the pulse hangs"), ("raise", "the examination failed: boom")):
        (tmp_path / "ill").write_text(illness)
        assert manager.hears(f"STATUS={told}")
        manager.forget()
        assert manager.hears(f"STATUS={told}", times=3)
        assert "WATCHDOG=1" not in manager.lines
    (tmp_path / "ill").unlink()
    assert manager.hears("WATCHDOG=1")
    assert manager.hears("STATUS=at work")


def test_nobody_who_does_not_watch_is_told_of_life(start: Start, manager: ServiceManager) -> None:
    process = start()
    process.send_signal(signal.SIGTERM)
    assert manager.hears("STOPPING=1")
    assert "WATCHDOG=1" not in manager.lines


def test_a_reload_that_fails_is_told_and_survived(start: Start, manager: ServiceManager) -> None:
    process = start()
    manager.forget()
    process.send_signal(signal.SIGHUP)
    assert manager.hears("READY=1")
    assert manager.lines[0] == "RELOADING=1"
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=20)
    assert "service.not_reloaded" in told
    assert "it burns" in told
    assert process.returncode == 0


def test_many_signals_at_once_are_survived(start: Start, manager: ServiceManager) -> None:
    process = start(watchdog_s=0.01)
    for _ in range(200):
        process.send_signal(signal.SIGHUP)
    assert manager.hears("RELOADING=1")
    process.send_signal(signal.SIGTERM)
    assert until(lambda: manager.lines and process.poll() is not None)  # heard, or its socket would be full
    assert process.returncode == 0


class _Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_thread_that_does_not_come_round_hangs() -> None:
    clock = _Clock()
    progress = Progress("the ticker", clock=clock)  # type: ignore[arg-type]  # it asks for no wall clock
    clock.now = 59.0
    assert progress.trouble(60) == ""
    clock.now = 61.0
    assert progress.trouble(60) == "the ticker has been hanging for 61 s"
    progress.beat()
    assert progress.trouble(60) == ""


def test_changed_settings_are_named_as_in_the_file() -> None:
    from argosy_server.settings import BrokerTable, CoordinatorSettings  # noqa: PLC0415

    old: Settings = CoordinatorSettings(log_level="INFO")
    new = CoordinatorSettings(log_level="DEBUG", broker=BrokerTable(port=1))
    assert changed(old, new) == ["broker.port", "log_level"]
    assert changed(old, old) == []
