"""What reaches the service manager, over real sockets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from argosy_common.clock import SystemClock
from argosy_common.notify import Notifier
from tests.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[ServiceManager]:
    with (
        tempfile.TemporaryDirectory(prefix="argosy-", dir="/tmp") as folder,
        ServiceManager(Path(folder) if request.param == "path" else None) as manager,
    ):
        yield manager


def test_all_words_arrive(manager: ServiceManager) -> None:
    notifier = Notifier(manager.address, clock=SystemClock())
    notifier.ready()
    notifier.status("two\nlines")
    notifier.alive()
    notifier.reloading()
    notifier.stopping()
    *first, moment, last = manager.lines
    assert first == ["READY=1", "STATUS=two lines", "WATCHDOG=1", "RELOADING=1"]
    assert last == "STOPPING=1"
    assert int(moment.removeprefix("MONOTONIC_USEC=")) > 0


def test_the_environment_says_whom_to_tell_and_children_do_not_inherit_it(manager: ServiceManager) -> None:
    environment = {**manager.environment(watchdog_s=1.5), "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notifier = Notifier.of_this_process(environment, clock=SystemClock())
    assert notifier.watchdog_s == 1.5
    assert environment == {"HOME": "/"}
    notifier.ready()
    assert manager.lines == ["READY=1"]


def test_another_process_is_watched_and_not_this_one(manager: ServiceManager) -> None:
    environment = {**manager.environment(watchdog_s=1.5), "WATCHDOG_PID": str(os.getpid() + 1)}
    assert Notifier.of_this_process(environment, clock=SystemClock()).watchdog_s is None


def test_without_a_service_manager_nothing_happens() -> None:
    notifier = Notifier.of_this_process({"WATCHDOG_USEC": "1000000"}, clock=SystemClock())
    notifier.ready()
    notifier.alive()
    assert notifier.watchdog_s is None


def test_a_service_manager_that_is_gone_is_no_misfortune(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone"), clock=SystemClock()).ready()
