"""The grid against a daemon that a test plays at the other end of the channel."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from argosy_common.blobs import BlobStore
from argosy_common.errors import CodeMalformed, NoValidReply, TooFewDevices
from argosy_common.flower import compat
from argosy_common.flower.courier import PatientGrid
from argosy_common.flower.messages import dump_message
from argosy_common.flower.secure import HOLDER
from argosy_common.flower.streaming import as_it_is
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

    def reply(self, pushed: dict[str, Any], loss: float, node: int = 7) -> None:
        """Answer one of the messages that were pushed."""
        head = Message(RecordDict(), node, "train")
        compat.set_message_id(head, pushed["id"])
        content = RecordDict({"metrics": MetricRecord({"loss": loss})})
        flower = dump_message(Message(content, reply_to=head), self.grid._store).flower
        facts = {"bytes_up": 10, "bytes_down": 20, "via": "https"}
        about = {"id": pushed["id"], "device": f"{node:016x}", "flower": flower, "error": None, "facts": facts}
        self.daemon.send({"op": "answer", **about})

    def late(self, pushed: dict[str, Any], node: int) -> None:
        """Tell of an answer that came too late."""
        about = {"id": pushed["id"], "device": f"{node:016x}", "flower": b"", "error": None, "facts": {"run_s": 7.5}}
        self.daemon.send({"op": "late", **about})

    def pushed(self) -> list[dict[str, Any]]:
        return [each for message in self.told if message["op"] == "push" for each in message["messages"]]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.told if message["op"] == "event" and message["name"] == name]

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


def train_messages(*nodes: int) -> list[Message]:
    return [Message(RecordDict({"config": ConfigRecord({"server-round": 3})}), node, "train") for node in nodes]


def test_replies_are_streamed_as_they_arrive_and_seen_before_they_count(bench: Bench) -> None:
    seen: list[float] = []

    def accept(reply: Message) -> Message:
        seen.append(float(str(reply.content["metrics"]["loss"])))
        reply.content = RecordDict({"metrics": MetricRecord({"loss": -1.0})})
        return reply

    replies = bench.grid.stream(train_messages(7, 8), timeout=60, accept=accept)

    def answer() -> None:
        until(bench.pushed)
        bench.reply(bench.pushed()[1], 0.5, 8)

    threading.Thread(target=answer, daemon=True).start()
    first = next(replies)
    assert seen == [0.5]
    assert first.metadata.src_node_id == 8
    assert first.content["metrics"]["loss"] == -1.0
    bench.reply(bench.pushed()[0], 0.25)
    assert len(list(replies)) == 1
    assert until(lambda: bench.events("phase-finished"))
    (finished,) = bench.events("phase-finished")
    assert (finished["replied"], finished["metrics"]) == (2, {"loss": -1.0})
    assert {reply["via"] for reply in bench.events("device-reply")} == {"https"}


def test_what_is_refused_is_that_devices_failure_and_none_left_ends_the_run(bench: Bench) -> None:
    def refuse(_reply: Message) -> Message:
        raise CodeMalformed(peer="it", codec="eden:2", why="its checksum is wrong")

    def answer() -> None:
        until(bench.pushed)
        bench.reply(bench.pushed()[0], 0.5)

    threading.Thread(target=answer, daemon=True).start()
    replies = bench.grid.stream(train_messages(7), timeout=60, accept=refuse)
    assert str(next(replies).error.reason).startswith("code-malformed")
    with pytest.raises(NoValidReply, match="checksum"):
        next(replies)
    assert until(lambda: bench.events("device-reply"))
    (reply,) = bench.events("device-reply")
    assert reply["error"]["code"] == "code-malformed"
    assert reply["bytes_up"] == 10


def test_a_conversation_goes_on_step_by_step_and_ends_with_what_is_missing_told(bench: Bench) -> None:
    """As `PatientGrid` has it: push, wait, take, and in the end one account of it all."""
    assert isinstance(bench.grid, PatientGrid)
    ids = bench.grid.push(train_messages(7, 8), timeout=60)
    assert bench.grid.take(ids, as_it_is) == []
    assert until(bench.pushed)
    bench.reply(bench.pushed()[0], 0.25)
    bench.grid.wait(ids, 10)
    (reply,) = bench.grid.take(ids, as_it_is)
    assert reply.metadata.reply_to_message_id == ids[0]
    bench.clock.now += 5
    assert bench.grid.end(ids) == (20, 10)
    assert until(lambda: bench.events("phase-finished"))
    missing = bench.events("device-reply")[1]
    assert (missing["device"], missing["error"]["code"], missing["seconds"]) == (f"{8:016x}", "cut-off", 5)
    assert bench.events("phase-finished")[0]["failed"] == 1
    assert bench.grid.end(ids) == (0, 0), "it is over"
    assert bench.grid.online() == [7]


def test_an_answer_after_the_end_is_told_as_late_and_is_no_answer(bench: Bench) -> None:
    ids = bench.grid.push(train_messages(7, 8), timeout=60)
    assert until(bench.pushed)
    bench.reply(bench.pushed()[0], 0.25)
    bench.grid.wait(ids, 10)
    assert len(bench.grid.take(ids, as_it_is)) == 1
    bench.clock.now += 5
    bench.grid.end(ids)
    bench.answer(ids[1])  # the daemon's own, since it was given up: nobody's
    bench.clock.now += 3
    bench.late(bench.pushed()[1], 8)
    bench.late(bench.pushed()[1], 8)
    assert until(lambda: len(bench.port._late) == 2)
    (late,) = bench.grid.late()
    assert late == (ids[1], 8, "train", 8.0)
    assert bench.grid.late() == []
    assert bench.grid.take(ids, as_it_is) == []
    assert until(lambda: bench.events("device-late"))
    (told,) = bench.events("device-late")
    assert (told["device"], told["round"], told["seconds"], told["late_s"]) == (f"{8:016x}", 3, 8.0, 3.0)
    assert told["run_s"] == 7.5


def test_an_answer_that_crosses_the_giving_up_is_late_too(bench: Bench) -> None:
    ids = bench.grid.push(train_messages(7, 8), timeout=60)
    assert until(bench.pushed)
    bench.reply(bench.pushed()[0], 0.25)
    bench.grid.wait(ids, 10)
    assert len(bench.grid.take(ids, as_it_is)) == 1
    bench.grid.end(ids)
    bench.reply(bench.pushed()[1], 0.5, 8)
    assert until(lambda: bench.port._late)
    assert [late.node for late in bench.grid.late()] == [8]
    assert not bench.port._answers


def test_what_holders_are_asked_makes_no_phase_for_people_but_its_bytes_are_known(bench: Bench) -> None:
    """The secure layer tells of it in its own words, and a holder that is gone does not end the run."""
    message = Message(RecordDict({"config": ConfigRecord({"stage": "vote"})}), 7, HOLDER, group_id="3")
    ids = bench.grid.push([message], timeout=60)
    assert until(bench.pushed)
    bench.reply(bench.pushed()[0], 0.25)
    bench.grid.wait(ids, 10)
    assert len(bench.grid.take(ids, as_it_is)) == 1
    assert bench.grid.end(ids) == (20, 10)
    again = bench.grid.push([Message(RecordDict(), 7, HOLDER)], timeout=60)
    assert bench.grid.end(again) == (0, 0)
    assert until(lambda: [message for message in bench.told if message["op"] == "give-up"])
    assert not [message for message in bench.told if message["op"] == "event"]
