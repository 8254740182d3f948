"""A bench: boards that run the real `argosy-device serve-serial`, behind cables that do what cables do."""

from __future__ import annotations

import contextlib
import os
import random
import select
import subprocess
import sys
import threading
import tty
from collections.abc import Callable
from pathlib import Path

from tests.waiting import until

Line = Callable[[bytes], bytes]


def clear(data: bytes) -> bytes:
    """Carry bytes as they are."""
    return data


def noisy(rng: random.Random, *, corrupt: float = 0.001, drop: float = 0.0005) -> Line:
    """Return a line that corrupts and drops bytes, and adds a console's text now and then."""

    def line(data: bytes) -> bytes:
        kept = bytes(rng.randrange(256) if rng.random() < corrupt else byte for byte in data if rng.random() >= drop)
        return b"\r\n[   7.1] random: crng init done\r\n" + kept if rng.random() < 0.02 else kept

    return line


class SerialCable:
    """Two pseudo-terminals and what is between them. Unplugged, the station's end vanishes, as a USB adapter does."""

    def __init__(self, line: Line = clear) -> None:
        self.line = line
        self.echo = False
        """Send everything back as well, as a terminal does."""
        self.carried = 0
        """Bytes that the station has sent."""
        self.unplug_after: int | None = None
        """Pull the cable when the station has sent so many bytes."""
        self._board, self._board_slave = _terminal()
        self.board_port = os.ttyname(self._board_slave)
        self._station, self._station_slave = -1, -1
        self._stopping = threading.Event()
        self.plug()
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()

    def plug(self) -> None:
        """Plug the station's end in, as a new port."""
        self._station, self._station_slave = _terminal()
        self.station_port = os.ttyname(self._station_slave)
        self.carried, self.unplug_after = 0, None

    def close(self) -> None:
        """End the pump and close everything."""
        self._stopping.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        for handle in (self._board, self._board_slave, self._station, self._station_slave):
            with contextlib.suppress(OSError):  # unplugged
                os.close(handle)

    def _pump(self) -> None:
        while not self._stopping.is_set():
            ends = [self._board] if self._station < 0 else [self._board, self._station]
            for end in select.select(ends, [], [], 0.05)[0]:
                with contextlib.suppress(OSError):  # a side that nobody has open just now
                    self._carry(end, os.read(end, 4096))

    def _carry(self, end: int, data: bytes) -> None:
        if self.echo:
            os.write(end, self.line(data))
        if end == self._board:
            if self._station >= 0:
                os.write(self._station, self.line(data))
            return
        self.carried += len(data)
        if self.unplug_after is not None and self.carried >= self.unplug_after:
            station, self._station = self._station, -1
            os.close(self._station_slave)
            os.close(station)
            return
        os.write(self._board, self.line(data))


class Board:
    """A board's process at the end of a cable."""

    def __init__(self, folder: Path, line: Line = clear) -> None:
        self.folder = folder
        self.cable = SerialCable(line)
        self._log = folder.parent / f"{folder.name}.log"
        self.start()

    @property
    def log(self) -> str:
        """What the board's console shows."""
        return self._log.read_text(errors="replace")

    @property
    def port(self) -> str:
        """The station's port."""
        return self.cable.station_port

    def start(self, *options: str) -> None:
        """Give it power."""
        words = ["serve-serial", "--port", self.cable.board_port, "--state-dir", str(self.folder), *options]
        with self._log.open("w") as log:
            command = [sys.executable, "-m", "argosy_client.cli", *words]
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        assert until(lambda: "serial.waiting_for_a_station" in self.log), self.log

    def kill(self) -> None:
        """Cut its power."""
        self.process.kill()
        self.process.wait(20)

    def close(self) -> None:
        """Stop it in good order, and take the cable away."""
        self.process.terminate()
        code = self.process.wait(20)
        self.cable.close()
        assert code in (0, -9), self.log


def _terminal() -> tuple[int, int]:
    master, slave = os.openpty()
    tty.setraw(slave)  # before anybody opens it, or the terminal would echo
    return master, slave
