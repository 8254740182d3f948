"""The real daemons before a real service manager's socket: ready when they serve, watched while they are well."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argosy_server.local_fleet import LocalFleet
from tests.service_manager import ServiceManager
from tests.waiting import until

WATCHDOG_S = 0.8


@pytest.fixture
def managers() -> Iterator[dict[str, ServiceManager]]:
    """One service manager for each daemon."""
    with ServiceManager() as coordinator, ServiceManager() as device:
        yield {"coordinator": coordinator, "d1": device}


@pytest.fixture
def watched(make_fleet: Callable[..., LocalFleet], managers: dict[str, ServiceManager], tmp_path: Path) -> LocalFleet:
    """A coordinator and a device, each of which has its own to tell; their settings are in files."""
    fleet = make_fleet(1, start=False, **{"runs.resend_s": 2.0})
    for daemon, variable in (("coordinator", "ARGOSY_COORDINATOR_CONFIG"), ("d1", "ARGOSY_DEVICE_CONFIG")):
        (tmp_path / f"{daemon}.toml").touch()
        fleet._environment[variable] = str(tmp_path / f"{daemon}.toml")
    fleet._environment |= managers["coordinator"].environment(watchdog_s=WATCHDOG_S)
    fleet.start_coordinator()
    fleet._environment |= managers["d1"].environment(watchdog_s=WATCHDOG_S)
    fleet.join("d1")
    fleet.start_device("d1")
    return fleet


def test_each_says_when_it_serves_and_what_it_is_at(watched: LocalFleet, managers: dict[str, ServiceManager]) -> None:
    for manager in managers.values():
        assert manager.hears("READY=1")
        assert manager.hears("WATCHDOG=1", times=2)
    with watched.client() as client:
        assert client.get("health")["status"] == "ok"
    assert until(lambda: any("1 devices online, 0 runs" in line for line in managers["coordinator"].lines))
    assert until(lambda: any("connected to the broker" in line for line in managers["d1"].lines))


@pytest.mark.parametrize(
    ("daemon", "database", "table"),
    [("coordinator", "coordinator/coordinator.db", "alembic_version"), ("d1", "devices/d1/journal.db", "owner")],
)
def test_a_daemon_without_its_memory_is_not_well(
    watched: LocalFleet, managers: dict[str, ServiceManager], daemon: str, database: str, table: str
) -> None:
    manager = managers[daemon]
    assert manager.hears("WATCHDOG=1")
    with sqlite3.connect(watched.folder / database) as db:
        db.execute(f"ALTER TABLE {table} RENAME TO hidden")
    assert until(lambda: any(table in line for line in manager.lines))
    manager.forget()
    assert until(lambda: sum(table in line for line in manager.lines) >= 3)
    assert "WATCHDOG=1" not in manager.lines
    with sqlite3.connect(watched.folder / database) as db:
        db.execute(f"ALTER TABLE hidden RENAME TO {table}")
    assert manager.hears("WATCHDOG=1")


def test_a_device_without_a_coordinator_is_well(watched: LocalFleet, managers: dict[str, ServiceManager]) -> None:
    manager = managers["d1"]
    assert until(lambda: any("connected to" in line for line in manager.lines))
    watched.kill("coordinator")
    assert until(lambda: any("cannot reach the broker" in line for line in manager.lines))
    manager.forget()
    assert manager.hears("WATCHDOG=1", times=3)


def test_both_read_their_settings_again_and_survive_bad_ones(
    watched: LocalFleet, managers: dict[str, ServiceManager], tmp_path: Path
) -> None:
    for daemon, good, waits in (
        ("coordinator", 'log_level = "debug"\n[broker]\nkind = "mosquitto"\n', "broker.kind"),
        ("d1", 'log_level = "debug"\ncache_mb = 99\n', "cache_mb"),
    ):
        manager, process, file = managers[daemon], watched.processes[daemon], tmp_path / f"{daemon}.toml"
        assert manager.hears("READY=1")
        for number, (text, told) in enumerate(
            [("nonsense = 1\n", "service.not_reloaded"), (good, f"service.restart_needed settings={waits}")]
        ):
            file.write_text(text)
            process.send_signal(signal.SIGHUP)
            assert manager.hears("READY=1", times=number + 2)
            assert until(lambda daemon=daemon, told=told: told in watched.log_path(daemon).read_text())  # type: ignore[misc]
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert manager.hears("STOPPING=1")
