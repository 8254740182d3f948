"""What goes wrong in an app gets a name, and the next instruction runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from argosy_client.worker.host import WorkerHost, WorkerJob, WorkerLimits
from argosy_client.worker.output import CHAPTER_LIMIT, WorkerOutput
from argosy_common.clock import SystemClock
from argosy_common.errors import (
    AppImportFailed,
    AppRaised,
    BlobUnknown,
    EnvelopeMalformed,
    InstructionCancelled,
    ReplyInvalid,
    WorkerDied,
    WorkerOutOfMemory,
    WorkerTimedOut,
)
from argosy_common.files import private_folder
from argosy_common.secure_home import SecureHome
from tests.client.worker.bench import Bench
from tests.waiting import until

SOUND = """
@app.train()
def train(message, context):
    return Message(RecordDict({"m": MetricRecord({"ok": 1})}), reply_to=message)
"""


def trains(body: str) -> str:
    """Return an app whose train function does `body` and then replies well."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"""
import ctypes, os, signal, sys, time
calls = []

@app.train()
def train(message, context):
    calls.append(1)
{lines}
    return Message(RecordDict({{"m": MetricRecord({{"ok": 1, "calls": len(calls)}})}}), reply_to=message)
"""


def still_works(bench: Bench) -> bool:
    bench.app(SOUND)
    return bool(bench.told()["m"]["ok"] == 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("print('about to crash')\nctypes.string_at(0)", "Fatal Python error: Segmentation fault"),
        ("print('bye')\nos._exit(3)", "it exited with code 3; its last words: bye"),
    ],
)
def test_a_worker_that_dies_is_named_with_its_last_words_and_replaced(bench: Bench, body: str, said: str) -> None:
    bench.app(trains(body))
    with pytest.raises(WorkerDied, match=said):
        bench.ask()
    assert bench.host.rss() == 0
    assert still_works(bench)


def test_an_app_that_raises_is_named_and_its_worker_lives_on(bench: Bench) -> None:
    cases = {
        "sys.exit(4)": "SystemExit: 4",
        "raise ValueError('no such column')": r"ValueError: no such column \(client_app.py, line \d+\)",
        "raise KeyboardInterrupt": "KeyboardInterrupt",
        "def f(): f()\nf()": "RecursionError",
    }
    bench.app(trains(f"exec({list(cases)!r}[len(calls) - 1], globals())"))
    workers = set()
    for said in cases.values():
        with pytest.raises(AppRaised, match=said):
            bench.ask()
        workers.add(bench.worker)
    assert len(workers) == 1
    assert until(lambda: b"Traceback" in (bench.root / "worker" / "worker.log").read_bytes())


def test_an_app_that_never_ends_is_stopped_at_its_time(bench: Bench) -> None:
    bench.app(trains("if len(calls) > 1:\n    while True: pass"))
    bench.ask()
    threading.Timer(0.5, bench.clock.jump, [100.0]).start()
    with pytest.raises(WorkerTimedOut, match="longer than 60 s"):
        bench.ask()
    assert still_works(bench)


@pytest.mark.parametrize("where", ["hog = bytearray(600_000_000)", "if os.fork() == 0: hog = bytearray(600_000_000)"])
def test_an_app_that_takes_too_much_memory_is_stopped(bench: Bench, where: str) -> None:
    bench.limit(WorkerLimits(memory_mb=400, time_s=60.0))
    bench.app(trains(f"{where}\ntime.sleep(50)"))
    with pytest.raises(WorkerOutOfMemory, match="more than its limit of 400 MB"):
        bench.ask()
    assert still_works(bench)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('at import')", r"RuntimeError: at import \(client_app.py, line"),
        ("import sys; sys.exit()", "SystemExit"),
        ("app = 3", "of type int, not a ClientApp"),
        ("del app", "AttributeError"),
    ],
)
def test_an_app_that_does_not_import_is_named(bench: Bench, source: str, said: str) -> None:
    bench.app(source)
    with pytest.raises(AppImportFailed, match=said):
        bench.ask()
    assert bench.host.rss() == 0


def test_on_a_device_that_takes_part_in_secure_runs_only_the_words_of_an_import_stay_at_home(bench: Bench) -> None:
    """They may tell of its data; only the kind of failure leaves."""
    bench.secure = SecureHome(bench.root / "secure", bench.root / "identity.key", required=True)
    bench.limit(bench.limits)
    bench.app("raise RuntimeError('the patient is Alice')")
    with pytest.raises(AppImportFailed, match="RuntimeError") as caught:
        bench.ask()
    assert "Alice" not in str(caught.value)


def test_after_a_failed_import_the_corrected_app_loads(bench: Bench) -> None:
    bench.app("import no_such_library")
    with pytest.raises(AppImportFailed):
        bench.ask()
    assert still_works(bench)


def test_an_app_that_returns_rubbish_is_told_so(bench: Bench) -> None:
    cases = {
        "None": "NoneType",
        "{'loss': 1}": "dict",
        "message": "does not reply to the message",
        "Message(RecordDict(), dst_node_id=5, message_type='train')": "does not reply to the message",
        "setattr(context, 'state', {}) or Message(RecordDict(), reply_to=message)": "context.state",
    }
    bench.app(trains(f"return eval({list(cases)!r}[len(calls) - 1])"))
    for said in cases.values():
        with pytest.raises(ReplyInvalid, match=said):
            bench.ask()


def test_a_number_that_fits_no_message_is_an_invalid_reply(bench: Bench) -> None:
    bench.app(trains("return Message(RecordDict({'m': MetricRecord({'n': 2**70})}), reply_to=message)"))
    with pytest.raises(ReplyInvalid, match="cannot be encoded"):
        bench.ask()


def test_no_handler_for_the_message_is_the_apps_fault(bench: Bench) -> None:
    bench.app(SOUND)
    with pytest.raises(AppRaised, match="No query function"):
        bench.ask(bench.instruction(kind="query"))


def test_a_flood_of_output_neither_blocks_the_app_nor_fills_the_disk(bench: Bench) -> None:
    bench.app(trains("for i in range(200_000): print('x' * 50)\nsys.stdout.write('no end of line')"))
    assert bench.told()["m"]["ok"] == 1
    log = bench.root / "worker" / "worker.log"
    assert until(lambda: b"dropped" in log.read_bytes())
    assert log.stat().st_size < CHAPTER_LIMIT + 1000
    for _ in range(4):
        bench.ask()
    assert sum(file.stat().st_size for file in log.parent.glob("worker.log*")) < 3_000_000


def test_an_app_that_forks_is_answered_for_once_and_its_children_end_with_it(bench: Bench) -> None:
    bench.app(
        trains(
            "if os.fork() == 0: return Message(RecordDict(), reply_to=message)\n"
            "pid = os.fork()\n"
            "if pid == 0: time.sleep(3600)\n"
            "open('child', 'w').write(str(pid))"
        )
    )
    assert bench.told()["m"]["calls"] == 1
    assert bench.told()["m"]["calls"] == 2
    child = int((bench.root / "worker" / "child").read_text())
    assert psutil.pid_exists(child)
    bench.host.close()
    assert until(lambda: gone(child))


def test_a_dead_worker_is_noticed_though_its_child_holds_the_channel(bench: Bench) -> None:
    bench.app(trains("if os.fork() == 0: time.sleep(3600)\nos._exit(9)"))
    with pytest.raises(WorkerDied, match="code 9"):
        bench.ask()


def test_a_worker_killed_while_idle_is_replaced_at_the_next_instruction(bench: Bench) -> None:
    bench.app(SOUND)
    bench.ask()
    child = bench.host._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    assert until(child.dead)
    assert bench.told()["m"]["ok"] == 1


def test_cancelling_stops_the_worker(bench: Bench) -> None:
    bench.app(trains("time.sleep(3600)"))
    threading.Timer(1.0, bench.cancelled.set).start()
    with pytest.raises(InstructionCancelled):
        bench.ask()
    bench.cancelled.clear()
    assert still_works(bench)


def test_closing_the_host_ends_a_running_instruction(bench: Bench) -> None:
    bench.app(trains("time.sleep(3600)"))
    threading.Timer(1.0, bench.host.close).start()
    with pytest.raises(InstructionCancelled):
        bench.ask()
    assert bench.host.rss() == 0


def test_a_message_that_is_none_is_refused_by_name(bench: Bench) -> None:
    bench.app(SOUND)
    with pytest.raises(EnvelopeMalformed):
        bench.result(flower=b"\x80nonsense")


def test_a_missing_blob_is_named(bench: Bench) -> None:
    bench.app(SOUND)
    message = bench.instruction()
    job = bench.job(message)
    for file in (bench.root / "blobs" / "sha256").iterdir():
        file.unlink()
    with pytest.raises(BlobUnknown):
        bench.host.run(job, bench.cancelled)


def test_a_python_that_is_not_there_is_named(bench: Bench) -> None:
    bench.app(SOUND)
    host = WorkerHost(
        bench.store, bench.root / "w2", clock=SystemClock(), limits=WorkerLimits(), python="/nowhere/python"
    )
    with pytest.raises(WorkerDied, match="could not be started"):
        host.run(bench.job(bench.instruction()), bench.cancelled)


def test_a_worker_dies_with_its_supervisor(bench: Bench, tmp_path: Path) -> None:
    bench.app(trains("open('pid', 'w').write(str(os.getpid()))\nwhile True: pass"))
    job: WorkerJob = bench.job(bench.instruction())
    folder = private_folder(tmp_path / "orphan")
    script = f"""
import threading
from pathlib import Path, PosixPath
from argosy_client.worker.host import *
from argosy_common.blobs import BlobStore
from argosy_common.clock import SystemClock
store = BlobStore(Path({str(bench.store.root)!r}))
host = WorkerHost(store, Path({str(folder)!r}), clock=SystemClock(), limits=WorkerLimits())
host.run({job!r}, threading.Event())
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    pid_file = folder / "pid"
    assert until(lambda: pid_file.exists() and pid_file.read_text())
    worker = int(pid_file.read_text())
    assert not gone(worker)
    parent.kill()
    parent.wait()
    assert until(lambda: gone(worker))


def gone(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def test_a_log_that_cannot_be_written_is_told_once_an_instruction(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = WorkerOutput(tmp_path / "nowhere" / "worker.log")
    for _ in range(2):
        output.new_chapter()
        for _ in range(50):
            output.add(b"a line\n")
    assert len(caplog.records) == 2
    assert output.last_words().endswith("a line")
