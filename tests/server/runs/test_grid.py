"""The grid against a daemon that a test plays at the other end of the channel."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from argosy_common.blobs import BlobStore
from argosy_common.errors import TooFewDevices
from argosy_common.flower import compat
from argosy_common.ipc import Channel
from argosy_server.runs.grid import EdgeGrid, GridSettings
from argosy_server.runs.port import DaemonPort
from tests.waiting import until


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


class Bench:
    """A grid, and the daemon's end of its channel, which lists one device and notes what it is told."""

    def __init__(self, folder: Path) -> None:
        compat.become_task(run_id=1, node_id=1)
        self.clock = HandClock()
        self.daemon, theirs = Channel.pair()
        self.told: list[dict[str, Any]] = []
        self._theirs = theirs
        self.port = DaemonPort(Channel(theirs), clock=self.clock, gone=lambda: None)
        self.port.start()
        self.grid = EdgeGrid(
            port=self.port,
            store=BlobStore(folder),
            run_id=1,
            settings=GridSettings(device_wait_s=60.0),
            clock=self.clock,
            wanted=lambda: 2,
        )
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (message := self.daemon.receive()) is not None:
            self.told.append(message)
            if message["op"] == "nodes":
                self.daemon.send({"op": "nodes", "ids": [7]})

    def end(self) -> None:
        """Shut down what the run process sends, so that no thread reads from a socket that is closed under it."""
        self._theirs.shutdown(socket.SHUT_WR)
        self.thread.join(5)
        self.daemon.close()

    def answer(self, message_id: str) -> None:
        error = {"code": "device-lost", "message": "gone", "remedy": "", "facts": {}}
        self.daemon.send(
            {"op": "answer", "id": message_id, "device": f"{7:016x}", "flower": b"", "error": error, "facts": {}}
        )

    def push(self) -> str:
        message = Message(RecordDict({"config": ConfigRecord({"lr": 0.1})}), 7, "query")
        return next(iter(self.grid.push_messages([message])))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.end()


def ask_for_nodes(bench: Bench, seconds: int) -> None:
    for _ in range(seconds):
        bench.clock.now += 1
        assert bench.grid.get_node_ids() == [7]


def test_asking_for_devices_again_and_again_while_nothing_is_under_way_ends_the_run(bench: Bench) -> None:
    with pytest.raises(TooFewDevices):
        ask_for_nodes(bench, 70)


def test_an_app_that_waits_for_answers_may_ask_for_devices_as_often_as_it_likes(bench: Bench) -> None:
    message = bench.push()
    ask_for_nodes(bench, 200)
    bench.answer(message)
    assert until(lambda: list(bench.grid.pull_messages([message])))
    with pytest.raises(TooFewDevices):
        ask_for_nodes(bench, 70)


def test_answers_to_what_was_given_up_are_not_kept(bench: Bench) -> None:
    bench.answer("early")
    assert until(lambda: bench.port._answers)
    bench.port.give_up({"early", "late"}, 1.0)
    bench.answer("late")
    bench.answer("another")
    assert until(lambda: "another" in bench.port._answers)
    assert set(bench.port._answers) == {"another"}
    assert not bench.port._given_up
