"""The daemon, the board and the broker die at bad moments; instructions are answered all the same."""

from __future__ import annotations

import signal

import psutil

from argosy_common.wire.bodies import (
    Birth,
    Received,
    Reply,
)
from tests.client.harness import DeviceProcess, Harness, code_of
from tests.waiting import PATIENCE_S, until


def test_the_context_is_kept_across_rounds_and_restarts_and_apart_between_runs(harness: Harness) -> None:
    app = harness.bundle()

    def count(device: DeviceProcess, run: int) -> int:
        reply = harness.wait(Reply, harness.send(device, harness.instruction(app, run=run)))
        assert reply.error is None
        return int(harness.content(reply)["metrics"]["count"])

    with harness.running() as device:
        assert [count(device, 1), count(device, 1), count(device, 2)] == [1, 2, 1]
        device.end(signal.SIGTERM)
        device.start()
        harness.wait(Birth, device=device, count=2)
        assert [count(device, 1), count(device, 2)] == [3, 2]
        # what a round replaces is removed after its reply
        assert until(lambda: len(list((device.folder / "contexts").iterdir())) == 2)
        assert len(list((device.folder / "apps").iterdir())) == 1


def test_a_repeated_instruction_runs_once_and_gets_the_same_reply(harness: Harness) -> None:
    app = harness.bundle()
    harness.give_receipts = False
    with harness.running() as device:
        instruction = harness.instruction(app)
        message = harness.send(device, instruction)
        for _ in range(5):
            harness.send(device, instruction)
        harness.wait(Reply, message)
        harness.send(device, instruction)
        harness.wait(Reply, message, count=2)
        harness.post(device.id, Received(), message)
        assert until(device.has_nothing_to_do)
        before = len(harness.raw(Reply, message))
        harness.send(device, instruction)
        harness.wait(Reply, message, count=before + 1)
        device.end(signal.SIGTERM)
        device.start()
        harness.wait(Birth, device=device, count=2)
        before = len(harness.raw(Reply, message))
        harness.send(device, instruction)
        harness.wait(Reply, message, count=before + 1)
        assert len(set(harness.raw(Reply, message))) == 1, "every copy is the same bytes"
        assert harness.trained == [message]


def test_a_device_killed_in_the_middle_of_training_answers_after_its_restart(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, "hang"))
        assert until(lambda: harness.trained == [message])
        device.end(signal.SIGKILL)
        (harness.root / "go").touch()
        device.start()
        assert harness.wait(Birth, device=device, count=2).pending == [message]
        reply = harness.wait(Reply, message)
        assert reply.error is None
        assert harness.content(reply)["metrics"]["count"] == 1, "the half-done attempt left no trace in the context"
        assert harness.trained == [message, message]


def test_a_device_killed_before_the_receipt_sends_the_stored_reply(harness: Harness) -> None:
    app = harness.bundle()
    harness.give_receipts = False
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, numbers=100_000))
        first = harness.wait(Reply, message)
        device.end(signal.SIGKILL)
        before = len(harness.all(Reply, message))
        device.start()
        again = harness.wait(Reply, message, count=before + 1)
        assert (again.flower, again.blobs) == (first.flower, first.blobs)
        assert harness.trained == [message]


def test_a_clean_stop_in_the_middle_of_training_is_not_an_attempt(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, "hang"))
        for number in range(4):
            assert until(lambda: len(harness.trained) == number + 1)  # noqa: B023  (called before the loop goes on)
            assert device.end(signal.SIGTERM) == 0
            device.start()
        (harness.root / "go").touch()
        assert until(lambda: len(harness.trained) == 5)
        device.end(signal.SIGTERM)
        device.start()
        assert harness.wait(Reply, message).error is None


def test_a_service_manager_that_ends_the_worker_first_is_no_fault_of_the_app(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, "hang"))
        assert until(lambda: harness.trained == [message])
        assert device.process is not None
        for worker in psutil.Process(device.process.pid).children():
            worker.terminate()
        assert device.end(signal.SIGTERM) == 0
        (harness.root / "go").touch()
        device.start()
        assert harness.wait(Reply, message).error is None


def test_an_instruction_that_takes_the_device_down_is_given_up(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, "hang"))
        for number in range(3):
            assert until(lambda: len(harness.trained) == number + 1)  # noqa: B023  (called before the loop goes on)
            device.end(signal.SIGKILL)
            device.start()
        assert code_of(harness.wait(Reply, message)) == "worker-died"
        assert len(harness.trained) == 3


def test_the_broker_may_die_and_forget_everything(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, "hang", numbers=100_000))
        assert until(lambda: harness.trained == [message])
        harness.kill_broker()
        assert harness.wait(Birth, device=device, where=lambda birth: birth.session == 2).pending == [message]
        assert device.process is not None
        assert harness.link.wait_connected(PATIENCE_S)
        harness.give_receipts = False
        (harness.root / "go").touch()
        harness.cancel(device, run=99)
        unlucky = harness.send(device, harness.instruction(app, run=2))
        harness.cancel(device, run=1)
        reply = harness.wait(Reply, unlucky)
        harness.kill_broker()
        again = harness.wait(Reply, unlucky, count=len(harness.all(Reply, unlucky)) + 1)
        assert again.flower == reply.flower


def test_after_a_restart_the_coordinator_judges_what_is_too_late(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, "hang", expires_in=5.0))
        assert until(lambda: harness.trained == [message])
        device.end(signal.SIGKILL)
        (harness.root / "go").touch()
        device.start()
        assert harness.wait(Reply, message).error is None
