"""One daemon at work: one change on a simulated coordinator at a time, and what the daemon says to it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from argosy_common.wire.bodies import (
    Accepted,
    BlobPart,
    ErrorPart,
    Heartbeat,
    Instruction,
    Offer,
    Progress,
    Refused,
    Reply,
    TransferFailed,
)
from argosy_common.wire.envelope import MAX_ENVELOPE, Envelope, encode, new_id
from tests.client.harness import APP, DeviceProcess, Harness, code_of
from tests.waiting import until


@pytest.fixture(scope="module")
def started(shared: Harness) -> Iterator[DeviceProcess]:
    """One daemon for all tests here: none of them may bring it down."""
    with shared.running() as device:
        yield device


@pytest.fixture
def device(harness: Harness, started: DeviceProcess) -> DeviceProcess:
    assert until(started.has_nothing_to_do)
    harness.forget()
    return started


@pytest.mark.parametrize("numbers", [10, 300_000], ids=["inline", "as blobs"])
def test_an_instruction_is_accepted_run_and_answered(harness: Harness, device: DeviceProcess, numbers: int) -> None:
    app = harness.bundle()
    message = harness.send(device, harness.instruction(app, numbers=numbers))
    reply = harness.wait(Reply, message)
    assert reply.error is None
    content = harness.content(reply)
    assert content["arrays"].to_numpy_ndarrays()[0][:3].tolist() == [1.0, 2.0, 3.0]
    assert reply.bytes_down > 4 * numbers
    assert reply.worker_peak_rss > 0
    assert until(device.has_nothing_to_do)
    assert len(harness.all(Reply, message)) == 1


def test_a_job_that_takes_long_tells_what_it_is_at(harness: Harness, device: DeviceProcess) -> None:
    message = harness.send(device, harness.instruction(harness.bundle(), do="hang"))
    harness.wait(Accepted, message)
    assert until(lambda: [told.doing for told in harness.all(Progress, message)][-1:] == ["running"])
    harness.cancel(device, 1)
    assert until(device.has_nothing_to_do)


def test_instructions_run_in_the_order_of_their_arrival(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    sent = [harness.send(device, harness.instruction(app)) for _ in range(6)]
    for message in sent:
        assert harness.wait(Reply, message).error is None
    assert harness.trained == sent


def test_a_reply_is_sent_again_until_its_receipt(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    harness.give_receipts = False
    message = harness.send(device, harness.instruction(app))
    harness.wait(Reply, message, count=3)
    harness.give_receipts = True
    assert until(device.has_nothing_to_do)
    assert harness.trained == [message]


@pytest.mark.parametrize(("do", "code"), [("die", "worker-died"), ("raise", "app-raised")])
def test_a_failing_app_is_named_and_the_next_instruction_runs(
    harness: Harness, device: DeviceProcess, do: str, code: str
) -> None:
    app = harness.bundle()
    message = harness.send(device, harness.instruction(app, do))
    assert code_of(harness.wait(Reply, message)) == code
    after = harness.send(device, harness.instruction(app))
    assert harness.wait(Reply, after).error is None


def _refusals(harness: Harness, device: DeviceProcess) -> list[str]:
    return [refused.error.code for refused in harness.all(Refused, device=device)]


def test_hostile_messages_are_answered_by_name_and_change_nothing(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    before = device.status()["instructions"]
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
    assert device.status()["instructions"] == before
    harness.send(device, good)
    assert harness.wait(Reply, good.id).error is None


def test_a_refusal_is_never_answered(harness: Harness, device: DeviceProcess) -> None:
    error = ErrorPart(code="envelope-malformed", message="no")
    harness.post(device.id, Refused(error=error), new_id())
    broken = Envelope(kind="refused", body=b"\x81\xa1x\x01")
    harness.send_raw(harness.names(device.id).control_down, encode(broken))
    harness.send_raw(harness.names(device.id).control_down, b"mark")
    harness.wait(Refused, device=device)
    assert len(_refusals(harness, device)) == 1, "only the mark was answered"


def test_a_reply_that_the_coordinator_cannot_read_is_given_up(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    harness.give_receipts = False
    message = harness.send(device, harness.instruction(app))
    harness.wait(Reply, message)
    sent = next(each.envelope.id for each in harness.heard if isinstance(each.body, Reply))
    harness.post(device.id, Refused(error=ErrorPart(code="envelope-malformed", message="no")), sent)
    assert until(device.has_nothing_to_do)


def test_a_blob_that_nobody_asked_for_is_refused(harness: Harness, device: DeviceProcess) -> None:
    offer = Offer(digest=b"\1" * 32, size=1 << 30, chunk=65536, chunks_digest=b"\2" * 32)
    harness.post(device.id, offer)
    harness.wait(TransferFailed, device=device)
    assert not (device.folder / "blobs" / "sha256" / offer.digest.hex()).exists()
    assert not (device.folder / "blobs" / "partial" / offer.digest.hex()).exists()


def test_a_blob_that_is_not_part_of_a_reply_is_not_served(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    message = harness.send(device, harness.instruction(app))
    harness.wait(Reply, message)
    failed: list[object] = []
    harness.store.delete(app.digest)
    harness.exchange.fetch(device.id, app, failed.append)
    assert until(lambda: failed)
    assert getattr(failed[0], "error", None) is not None
    assert not harness.store.has(app.digest)


def test_a_broken_bundle_is_named(harness: Harness, device: DeviceProcess) -> None:
    app = harness.store.put_bytes(b"this is no archive")
    message = harness.send(device, harness.instruction(app))
    assert code_of(harness.wait(Reply, message)) == "app-bundle-invalid"


def test_an_app_that_does_not_import_is_named(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle("import a_module_that_is_not_there\n" + APP)
    message = harness.send(device, harness.instruction(app))
    assert code_of(harness.wait(Reply, message)) == "app-import-failed"


def test_a_blob_that_the_coordinator_has_lost_is_named(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    instruction = harness.instruction(app, numbers=50_000)
    body = Instruction.unpack(instruction.body, peer="test")
    harness.store.delete(body.blobs[0].digest)
    message = harness.send(device, instruction)
    assert code_of(harness.wait(Reply, message)) == "blob-unknown"


def test_an_instruction_that_expired_while_it_waited_is_not_run(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    first = harness.send(device, harness.instruction(app, "hang"))
    assert until(lambda: harness.trained == [first])
    late = harness.send(device, harness.instruction(app, run=2, expires_in=0.0))
    harness.wait(Accepted, late)
    harness.cancel(device, run=1)
    assert code_of(harness.wait(Reply, late)) == "instruction-expired"
    assert harness.trained == [first]


def test_a_cancelled_run_is_dropped_whole(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    harness.cancel(device, run=2)
    done = harness.send(device, harness.instruction(app))
    harness.wait(Reply, done)
    running = harness.instruction(app, "hang")
    waiting = harness.instruction(app)
    harness.send(device, running)
    harness.send(device, waiting)
    harness.wait(Accepted, waiting.id)
    assert until(lambda: running.id in harness.trained)
    harness.cancel(device, run=1)
    assert until(device.has_nothing_to_do)
    assert until(lambda: not list((device.folder / "apps").iterdir()))
    assert until(lambda: not list((device.folder / "contexts").iterdir()))
    harness.send(device, running)
    other = harness.send(device, harness.instruction(harness.bundle(), run=2))
    assert harness.wait(Reply, other).error is None
    assert not harness.all(Reply, running.id)
    assert not harness.all(Reply, waiting.id)


def test_the_supervisor_stays_light(harness: Harness, device: DeviceProcess) -> None:
    app = harness.bundle()
    message = harness.send(device, harness.instruction(app))
    assert harness.wait(Reply, message).error is None
    assert device.process is not None
    beat = harness.wait(Heartbeat, device=device, count=len(harness.all(Heartbeat, device=device)) + 1)
    assert beat.daemon_rss is not None
    assert beat.daemon_rss < 70_000_000
    assert beat.worker_rss
    loaded = Path(f"/proc/{device.process.pid}/maps").read_text()
    assert not any(word in loaded for word in ("numpy", "torch", "grpc"))


# --- a full disk ----------------------------------------------------------------------------------------------------


@contextmanager
def no_room(device: DeviceProcess, limit: int) -> Iterator[None]:
    """Let the daemon write no file beyond `limit` bytes: to the daemon, a disk without room."""
    assert device.process is not None
    hard = resource.prlimit(device.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(device.process.pid, resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(device.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


def test_a_disk_without_room_for_the_model_is_named_and_the_next_attempt_works(
    harness: Harness, device: DeviceProcess
) -> None:
    app = harness.bundle()
    warm = harness.send(device, harness.instruction(app))
    assert harness.wait(Reply, warm).error is None
    with no_room(device, 8_000_000):
        message = harness.send(device, harness.instruction(app, numbers=3_000_000))
        assert code_of(harness.wait(Reply, message)) == "disk-full"
    after = harness.send(device, harness.instruction(app, numbers=3_000_000))
    assert harness.wait(Reply, after).error is None


def test_an_instruction_that_cannot_be_journaled_is_answered_by_name_and_runs_when_sent_again(
    harness: Harness, device: DeviceProcess
) -> None:
    instruction = harness.instruction(harness.bundle())
    with no_room(device, 0):
        harness.send(device, instruction)
        assert code_of(harness.wait(Reply, instruction.id)) in ("disk-full", "storage-failed")
        assert not harness.all(Accepted, instruction.id)
    harness.send(device, instruction)
    assert harness.wait(Reply, instruction.id, where=lambda reply: reply.error is None).flower
    assert harness.trained == [instruction.id]


def test_a_cancel_that_cannot_be_journaled_ends_the_work_all_the_same(harness: Harness, device: DeviceProcess) -> None:
    message = harness.send(device, harness.instruction(harness.bundle(), "hang"))
    assert until(lambda: harness.trained == [message])
    worker = psutil.Process(device.process.pid).children()[0] if device.process is not None else None
    assert worker is not None
    with no_room(device, 0):
        harness.cancel(device, run=1)
        assert until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
        assert harness.wait(Refused, device=device).error.code in ("disk-full", "storage-failed")
    harness.cancel(device, run=1)
    assert until(device.has_nothing_to_do)
