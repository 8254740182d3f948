"""The device daemon as a process, against a real broker: one change on a simulated coordinator at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from argosy_common import __version__
from argosy_common.wire.bodies import (
    Accepted,
    Birth,
    BlobPart,
    Death,
    ErrorPart,
    Heartbeat,
    Instruction,
    Offer,
    Progress,
    Rebirth,
    Received,
    Refused,
    Reply,
    TransferFailed,
)
from argosy_common.wire.envelope import MAX_ENVELOPE, Envelope, encode, new_id
from tests.client.harness import APP, DeviceProcess, Harness
from tests.waiting import PATIENCE_S, until


def code_of(reply: Reply) -> str | None:
    return reply.error.code if reply.error else None


def journal_is_empty(device: DeviceProcess) -> bool:
    """Tell whether nothing is left to do, as `argosy-device status` sees it."""
    return set(status(device)["instructions"]) <= {"delivered", "cancelled"}


def status(device: DeviceProcess) -> dict[str, Any]:
    command = [sys.executable, "-m", "argosy_client.cli", "status", "--json", "--state-dir", str(device.folder)]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, timeout=PATIENCE_S))
    return found


# --- presence -------------------------------------------------------------------------------------------------------


def test_a_device_is_born_beats_and_dies_in_good_order(harness: Harness) -> None:
    with harness.running() as device:
        birth = harness.wait(Birth, device=device)
        assert (birth.session, birth.version, birth.pending) == (1, __version__, [])
        beat = harness.wait(Heartbeat, device=device)
        assert beat.doing == "idle"
        assert beat.memory_total
        assert beat.daemon_rss
        harness.post(device.id, Rebirth())
        assert harness.wait(Birth, device=device, count=2).boot == birth.boot
        assert device.end(signal.SIGTERM) == 0
        assert harness.wait(Death, device=device) == Death(boot=birth.boot, clean=True)


def test_a_killed_device_is_declared_dead_by_the_broker_and_comes_back_under_another_boot_id(harness: Harness) -> None:
    with harness.running() as device:
        birth = harness.wait(Birth, device=device)
        device.end(signal.SIGKILL)
        assert harness.wait(Death, device=device) == Death(boot=birth.boot, clean=False)
        device.start()
        again = harness.wait(Birth, device=device, count=2)
        assert again.boot != birth.boot
        assert again.session == 1


def test_a_second_daemon_on_the_same_state_is_turned_away(harness: Harness) -> None:
    with harness.running() as device:
        assert device.process is not None
        second = device.spawn()
        assert second.wait(PATIENCE_S) == 12
        assert f"process {device.process.pid}" in device.log
        assert device.process.poll() is None


def test_status_tells_what_an_operator_asks(harness: Harness) -> None:
    with harness.running() as device:
        assert device.process is not None
        assert until(lambda: status(device)["connected"])
        found = status(device)
        assert found["device"] == device.id
        assert found["pid"] == device.process.pid
        device.end(signal.SIGTERM)
        assert status(device)["pid"] is None


# --- the way of one instruction -------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [10, 300_000], ids=["inline", "as blobs"])
def test_an_instruction_is_accepted_run_and_answered(harness: Harness, numbers: int) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, numbers=numbers))
        harness.wait(Accepted, message)
        reply = harness.wait(Reply, message)
        assert reply.error is None
        content = harness.content(reply)
        assert content["arrays"].to_numpy_ndarrays()[0][:3].tolist() == [1.0, 2.0, 3.0]
        assert content["metrics"]["count"] == 1
        assert reply.bytes_down > app.size
        assert reply.worker_peak_rss > 0
        doing = [progress.doing for progress in harness.all(Progress, message)]
        assert doing == ["fetching", "running"] + (["uploading"] if reply.blobs else [])
        assert until(lambda: journal_is_empty(device))
        assert len(harness.all(Reply, message)) == 1


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
        assert len(list((device.folder / "contexts").iterdir())) == 2
        assert len(list((device.folder / "apps").iterdir())) == 1


def test_instructions_run_in_the_order_of_their_arrival(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        sent = [harness.send(device, harness.instruction(app)) for _ in range(6)]
        for message in sent:
            assert harness.wait(Reply, message).error is None
        assert harness.trained == sent


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
        assert until(lambda: journal_is_empty(device))
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


def test_a_reply_is_sent_again_until_its_receipt(harness: Harness) -> None:
    app = harness.bundle()
    harness.give_receipts = False
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app))
        harness.wait(Reply, message, count=3)
        harness.give_receipts = True
        assert until(lambda: journal_is_empty(device))
        assert harness.trained == [message]


# --- things that die ------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("do", "code"), [("die", "worker-died"), ("raise", "app-raised")])
def test_a_failing_app_is_a_named_error_and_the_next_instruction_runs(harness: Harness, do: str, code: str) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, do))
        assert code_of(harness.wait(Reply, message)) == code
        after = harness.send(device, harness.instruction(app))
        assert harness.wait(Reply, after).error is None


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


# --- what is refused ------------------------------------------------------------------------------------------------


def _refusals(harness: Harness, device: DeviceProcess) -> list[str]:
    return [refused.error.code for refused in harness.all(Refused, device=device)]


def test_hostile_messages_are_answered_by_name_and_change_nothing(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        good = harness.instruction(app)
        whole = encode(good)
        body = Instruction.unpack(good.body, peer="test")
        part = BlobPart(digest=b"\0" * 32, size=1)

        def instruction(**changes: object) -> bytes:
            return encode(Envelope(**{**good.__dict__, "id": new_id(), **changes}))

        malformed = [
            b"",
            b"\xc1",
            b"\x00" * 100,
            b"x" * (MAX_ENVELOPE + 1),
            whole + b"x",
            *(whole[:length] for length in range(1, len(whole), 97)),
            instruction(run=None),
            instruction(body=b""),
            instruction(body=b"\x93\x01\x02\x03"),
            instruction(body=good.body[:-1]),
            instruction(kind="cancel", body=b"\x80", run=None),
            instruction(kind="birth", body=b"\x80"),
            instruction(kind="received", body=b"\x80"),
            instruction(body=body.model_copy(update={"node_id": 1}).pack()),
            instruction(body=body.model_copy(update={"blobs": [part] * 129}).pack()),
            instruction(body=body.model_copy(update={"flower": b"x" * 49 * 1024}).pack()),
        ]
        names = harness.names(device.id)
        for payload in malformed:
            harness.send_raw(names.jobs, payload)
        harness.send_raw(names.jobs, instruction(kind="explode"))
        harness.send_raw(names.jobs, whole.replace(b"\xa1v\x01", b"\xa1v\x02", 1))
        harness.send_raw(names.control_down, b"\xff")
        harness.send_raw(names.control_down, instruction())
        harness.send_raw(names.chunks_down, b"not a chunk")
        expected = ["envelope-malformed"] * len(malformed) + ["kind-unknown", "version-unknown"]
        expected += ["envelope-malformed"] * 2
        assert until(lambda: len(_refusals(harness, device)) >= len(expected))
        assert sorted(_refusals(harness, device)) == sorted(expected)
        assert not harness.all(Accepted, device=device)
        assert status(device)["instructions"] == {}
        harness.send(device, good)
        assert harness.wait(Reply, good.id).error is None


def test_a_refusal_is_never_answered(harness: Harness) -> None:
    error = ErrorPart(code="envelope-malformed", message="no")
    with harness.running() as device:
        harness.post(device.id, Refused(error=error), new_id())
        broken = Envelope(kind="refused", body=b"\x81\xa1x\x01")
        harness.send_raw(harness.names(device.id).control_down, encode(broken))
        harness.send_raw(harness.names(device.id).control_down, b"mark")
        harness.wait(Refused, device=device)
        assert len(_refusals(harness, device)) == 1, "only the mark was answered"


def test_a_reply_that_the_coordinator_cannot_read_is_given_up(harness: Harness) -> None:
    app = harness.bundle()
    harness.give_receipts = False
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app))
        harness.wait(Reply, message)
        sent = next(each.envelope.id for each in harness.heard if isinstance(each.body, Reply))
        harness.post(device.id, Refused(error=ErrorPart(code="envelope-malformed", message="no")), sent)
        assert until(lambda: journal_is_empty(device))


def test_a_blob_that_nobody_asked_for_is_refused(harness: Harness) -> None:
    with harness.running() as device:
        offer = Offer(digest=b"\1" * 32, size=1 << 30, chunk=65536, chunks_digest=b"\2" * 32)
        harness.post(device.id, offer)
        harness.wait(TransferFailed, device=device)
        assert not any((device.folder / "blobs" / "sha256").iterdir())


def test_a_blob_of_the_device_that_is_not_part_of_a_reply_is_not_served(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app))
        harness.wait(Reply, message)
        failed: list[object] = []
        harness.store.delete(app.digest)
        harness.exchange.fetch(device.id, app, failed.append)
        assert until(lambda: failed)
        assert getattr(failed[0], "error", None) is not None
        assert not harness.store.has(app.digest)


# --- what cannot be done --------------------------------------------------------------------------------------------


def test_a_broken_bundle_is_named(harness: Harness) -> None:
    app = harness.store.put_bytes(b"this is no archive")
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app))
        assert code_of(harness.wait(Reply, message)) == "app-bundle-invalid"


def test_an_app_that_does_not_import_is_named(harness: Harness) -> None:
    app = harness.bundle("import a_module_that_is_not_there\n" + APP)
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app))
        assert code_of(harness.wait(Reply, message)) == "app-import-failed"


def test_a_blob_that_the_coordinator_has_lost_is_named(harness: Harness) -> None:
    app = harness.bundle()
    instruction = harness.instruction(app, numbers=50_000)
    body = Instruction.unpack(instruction.body, peer="test")
    harness.store.delete(body.blobs[0].digest)
    with harness.running() as device:
        message = harness.send(device, instruction)
        assert code_of(harness.wait(Reply, message)) == "blob-unknown"


def test_an_instruction_that_expired_while_it_waited_is_not_run(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        first = harness.send(device, harness.instruction(app, "hang"))
        assert until(lambda: harness.trained == [first])
        late = harness.send(device, harness.instruction(app, run=2, expires_in=0.0))
        harness.wait(Accepted, late)
        harness.cancel(device, run=1)
        assert code_of(harness.wait(Reply, late)) == "instruction-expired"
        assert harness.trained == [first]


def test_after_a_restart_the_coordinator_judges_what_is_too_late(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app, "hang", expires_in=5.0))
        assert until(lambda: harness.trained == [message])
        device.end(signal.SIGKILL)
        (harness.root / "go").touch()
        device.start()
        assert harness.wait(Reply, message).error is None


def test_a_cancelled_run_is_dropped_whole(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        done = harness.send(device, harness.instruction(app))
        harness.wait(Reply, done)
        running = harness.instruction(app, "hang")
        waiting = harness.instruction(app)
        harness.send(device, running)
        harness.send(device, waiting)
        harness.wait(Accepted, waiting.id)
        assert until(lambda: running.id in harness.trained)
        harness.cancel(device, run=1)
        assert until(lambda: journal_is_empty(device))
        assert until(lambda: not list((device.folder / "apps").iterdir()))
        assert until(lambda: not list((device.folder / "contexts").iterdir()))
        harness.send(device, running)
        other = harness.send(device, harness.instruction(harness.bundle(), run=2))
        assert harness.wait(Reply, other).error is None
        assert not harness.all(Reply, running.id)
        assert not harness.all(Reply, waiting.id)


def test_the_supervisor_stays_light(harness: Harness) -> None:
    app = harness.bundle()
    with harness.running() as device:
        message = harness.send(device, harness.instruction(app))
        assert harness.wait(Reply, message).error is None
        assert device.process is not None
        beat = harness.wait(Heartbeat, device=device, count=len(harness.all(Heartbeat, device=device)) + 1)
        assert beat.daemon_rss is not None
        assert beat.daemon_rss < 70_000_000
        assert beat.worker_rss
        loaded = Path(f"/proc/{device.process.pid}/maps").read_text()
        assert not any(word in loaded for word in ("numpy", "torch", "grpc"))
