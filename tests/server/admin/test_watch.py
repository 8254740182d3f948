"""`argosy run watch` as a process: in a pipe, as JSON, on a terminal, across a restart, and under Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argosy_common.clock import SystemClock
from argosy_server.api.server import AdminServer
from tests.server.admin.conftest import command
from tests.server.admin.coordinator_on_rows import RowsCoordinator

BOUND_S = 30.0


@contextmanager
def watching(environment: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """`argosy run watch` in a pipe."""
    process = subprocess.Popen(
        command("run", "watch", *words), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """Read until `wanted` has come; return all of it."""
    assert process.stdout is not None
    text = ""
    while wanted not in text:
        assert select.select([process.stdout], [], [], BOUND_S)[0], f"no {wanted!r} in {text!r}"
        piece = os.read(process.stdout.fileno(), 65536).decode()
        assert piece, f"it ended without {wanted!r}: {text!r}"
        text += piece
    return text


def test_in_a_pipe_each_event_is_one_line_and_a_restart_is_survived(
    coordinator: RowsCoordinator, folder: Path, environment: dict[str, str]
) -> None:
    server = AdminServer(coordinator, folder / "admin.sock", clock=SystemClock())
    server.start()
    run = coordinator.add_run()
    devices = [row.device for row in coordinator.store.devices.list()]
    coordinator.tell(run, "run-started", strategy="FedAvg", rounds=3, app="har")
    with watching(environment) as process:
        read_until(process, "run started: har, 3 rounds\n")
        coordinator.tell_round(run, 1, devices, failing=devices[0])
        lines = read_until(process, "round 1 central accuracy 0.6000")
        assert "round 1 train attic failed: worker-died: The worker died.\n" in lines
        assert "round 1 train bench replied in 1.50 s, up 150 kB, down 152 kB\n" in lines
        server.stop()
        server = AdminServer(coordinator, folder / "admin.sock", clock=SystemClock())
        time.sleep(1.0)  # long enough for an attempt to fail
        server.start()
        coordinator.tell(run, "an-event-of-tomorrow", novelty=1)
        read_until(process, "an-event-of-tomorrow {'novelty': 1}")
        coordinator.finish(run)
        read_until(process, f"run finished after 9.00 s, model {'cd' * 6}")
        assert process.wait(BOUND_S) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    server.stop()
    assert "Trying again" in said
    assert "The coordinator is back." in said


def test_as_json_each_line_is_one_event(
    server: AdminServer, coordinator: RowsCoordinator, environment: dict[str, str]
) -> None:
    run = coordinator.add_run()
    coordinator.tell(run, "run-started", strategy="FedAvg", rounds=1, app="har")
    coordinator.finish(run)
    with watching(environment, str(run), "--json") as process:
        output, _ = process.communicate(timeout=BOUND_S)
    events = [json.loads(line) for line in output.splitlines()]
    assert [(event["seq"], event["name"]) for event in events] == [(1, "run-started"), (2, "run-finished")]


class Terminal:
    """A pseudo-terminal with `argosy` in it."""

    def __init__(self, environment: dict[str, str], *words: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 110, 0, 0))
        self.process = subprocess.Popen(
            command(*words), env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, wanted: str) -> None:
        ends = time.monotonic() + BOUND_S
        while wanted not in self.seen:
            assert time.monotonic() < ends, f"no {wanted!r} in {self.seen!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                self.seen += self._read()

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode(errors="replace")
        except OSError as error:  # the other side of the terminal is gone
            raise AssertionError(f"it ended: {self.seen!r}") from error

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_on_a_terminal_it_is_live_and_ctrl_c_leaves_the_run_going(
    server: AdminServer, coordinator: RowsCoordinator, environment: dict[str, str]
) -> None:
    run = coordinator.add_run()
    devices = [row.device for row in coordinator.store.devices.list()]
    coordinator.tell(run, "run-started", strategy="FedAvg", rounds=3, app="har")
    coordinator.tell_round(run, 1, devices)
    coordinator.rows = [{"device": devices[0], "name": "attic", "doing": "training", "round": 2, "bytes_up": 5}]
    terminal = Terminal(environment, "run", "watch")
    try:
        terminal.wait_for("round 1 of 3")
        terminal.wait_for("training")
        terminal.wait_for("0.6000")
        server.stop()
        terminal.wait_for("No answer from the coordinator")
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.wait_for(f"argosy run stop {run}")
        assert terminal.process.wait(BOUND_S) == 0
        assert "\x1b[?25h" in terminal.seen, "the cursor comes back"
    finally:
        terminal.close()
    assert not coordinator.store.runs.get(run).over


def test_on_a_terminal_it_ends_with_the_run(
    server: AdminServer, coordinator: RowsCoordinator, environment: dict[str, str]
) -> None:
    run = coordinator.add_run()
    terminal = Terminal({**environment, "NO_COLOR": "1"}, "run", "watch")
    try:
        terminal.wait_for("leaves the run going")
        coordinator.finish(run)
        terminal.wait_for("cd" * 8)
        assert terminal.process.wait(BOUND_S) == 0
        assert "\x1b[3" not in terminal.seen, "no colour with NO_COLOR"
    finally:
        terminal.close()
