"""A real worker's priority: lowered for all its threads, paused and woken, and never in the way of its end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from argosy_client.worker.host import WorkerLimits, WorkerResult
from argosy_client.worker.priority import Priority, can_be_raised_again
from tests.client.worker.bench import Bench
from tests.waiting import until

BUSY = """
import subprocess, sys, threading, time

def spin(stop):
    while not stop.is_set():
        pass

@app.train()
def train(message, context):
    stop = threading.Event()
    thread = threading.Thread(target=spin, args=[stop])
    thread.start()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    spent = 0.0
    while spent < 1.5:
        time.sleep(0.05)
        spent += 0.05
    stop.set()
    thread.join()
    child.kill()
    child.wait()
    return Message(RecordDict({"m": MetricRecord({"ok": 1})}), reply_to=message)
"""


class Training:
    """A worker at work, on a thread of the test's."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.app(BUSY)
        self.result: WorkerResult | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert until(lambda: len(self.processes()) == 2)

    def _run(self) -> None:
        try:
            self.result = self.bench.host.run(self.bench.job(self.bench.instruction()), self.bench.cancelled)
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            self.error = error

    def processes(self) -> list[psutil.Process]:
        """The worker and what it has started."""
        mine = psutil.Process().children()
        workers = [each for each in mine if "argosy_client.worker.process" in " ".join(each.cmdline())]
        return [process for worker in workers for process in (worker, *worker.children(recursive=True))]

    def policies(self) -> set[int]:
        threads = [int(path.name) for each in self.processes() for path in Path(f"/proc/{each.pid}/task").iterdir()]
        return {os.sched_getscheduler(thread) for thread in threads}

    def ends(self) -> WorkerResult:
        self._thread.join(30)
        assert self.error is None
        assert self.result is not None
        return self.result


@pytest.mark.skipif(not can_be_raised_again(), reason="this system lets nobody but root come back from the idle class")
def test_all_threads_and_children_are_lowered_and_raised_again(bench: Bench) -> None:
    training = Training(bench)
    assert training.policies() == {os.SCHED_OTHER}
    bench.host.give(Priority.LOWERED)
    assert training.policies() == {os.SCHED_IDLE}
    bench.host.give(Priority.FULL)
    assert training.policies() == {os.SCHED_OTHER}
    training.ends()


def test_a_paused_worker_stands_still_and_its_pause_is_not_counted(bench: Bench) -> None:
    bench.limit(WorkerLimits(time_s=30.0))
    training = Training(bench)
    bench.host.give(Priority.PAUSED)
    assert until(lambda: {each.status() for each in training.processes()} == {psutil.STATUS_STOPPED})
    bench.clock.jump(3600.0)
    time.sleep(0.5)  # at least one look of the host at its limits
    assert training.error is None
    bench.host.give(Priority.FULL)
    training.ends()


def test_a_paused_worker_can_be_cancelled_and_ended(bench: Bench) -> None:
    training = Training(bench)
    bench.host.give(Priority.PAUSED)
    bench.cancelled.set()
    assert until(lambda: training.error is not None)
    assert until(lambda: training.processes() == [])
    bench.cancelled.clear()
    bench.host.give(Priority.FULL)
    again = Training(bench)
    again.ends()
    bench.host.give(Priority.PAUSED)  # it is idle now, and leaves all the same
    bench.host.close()
    assert until(lambda: again.processes() == [])
