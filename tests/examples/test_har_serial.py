"""A sensor on a serial line: real pseudo-terminals, the real inference process, a real broker, and cables that fail."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import socket
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from har_serial.samples import LONGEST_LINE, LineReader, parse
from har_serial.windows import LENGTH, STEP, Windows
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from argosy_client.inference import Client
from argosy_client.inference.host import InferenceHost, Served
from tests.models import network, put
from tests.waiting import until

EXAMPLE = Path(__file__).parents[2] / "examples" / "har_serial"
LINE = "0.1,-0.2,1.0,0.01,0.02,-0.03"


# --- lines and windows


@given(st.binary(max_size=600), st.integers(1, 50))
def test_whatever_the_cable_does_lines_are_read_or_left_out_and_nothing_piles_up(noise: bytes, piece: int) -> None:
    data = b"lf\n" + noise + b"\n" + f"{LINE}\n".encode() * 3
    whole, pieces = LineReader(), LineReader()
    found = whole.feed(data)
    assert found[-3:] == [parse(LINE.encode())] * 3
    assert [each for at in range(0, len(data), piece) for each in pieces.feed(data[at : at + piece])][-3:] == found[-3:]


def test_what_never_ends_is_not_kept() -> None:
    reader = LineReader()
    for _ in range(20):
        reader.feed(b"x" * 200)
    assert len(reader._rest) <= LONGEST_LINE


@pytest.mark.parametrize(
    "line",
    ["", "1,2,3", f"{LINE},1", "a,b,c,d,e,f", "nan,0,0,0,0,0", "inf,0,0,0,0,0", "900,0,0,0,0,0", "1e400,0,0,0,0,0"],
)
def test_what_is_no_sample_is_none(line: str) -> None:
    assert parse(line.encode()) is None


def test_the_first_line_was_begun_before_we_came() -> None:
    reader = LineReader()
    assert reader.feed(f"9,{LINE}\n{LINE}\n".encode()) == [parse(LINE.encode())]
    reader.reset()
    assert reader.feed(f"{LINE}\n".encode()) == []


def test_windows_overlap_by_half_and_a_silence_begins_a_new_one() -> None:
    rng, windows = np.random.default_rng(1), Windows()
    samples = rng.normal(size=(400, 6))
    found = [window for at, each in enumerate(samples) if (window := windows.add(tuple(each), at / 50)) is not None]
    assert len(found) == (400 - LENGTH) // STEP + 1
    assert np.allclose(found[1], samples[STEP : STEP + LENGTH].T, atol=1e-6)
    late = [windows.add(tuple(each), 100 + at / 50) for at, each in enumerate(samples[:LENGTH])]
    assert [window is not None for window in late] == [False] * (LENGTH - 1) + [True]
    assert late[-1] is not None
    assert np.allclose(late[-1], samples[:LENGTH].T, atol=1e-6)


# --- the program


class Sensor:
    """A pseudo-terminal that a name points to, as udev would have it; and its cable."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self.plug()

    def plug(self) -> None:
        self.end, slave = os.openpty()
        tty.setraw(slave)
        self._slave = slave
        self.name.symlink_to(os.ttyname(slave))

    def pull(self) -> None:
        self.name.unlink()
        os.close(self.end)
        os.close(self._slave)

    def send(self, samples: np.ndarray) -> None:
        for sample in samples:
            os.write(self.end, (",".join(f"{value:.5f}" for value in sample) + "\n").encode())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """A Mosquitto of the user's own; returns its port."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", str(tmp_path / "m.conf")], stderr=subprocess.DEVNULL)
    yield port
    process.terminate()
    process.wait(10)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Path]:
    """The socket of an inference process that serves `har`."""
    put(tmp_path / "models", network(), 1)
    host = InferenceHost(Served(tmp_path / "models", tmp_path / "s"), rng=random.Random(1))
    host.start()
    assert host.wait_ready(60)
    yield tmp_path / "s"
    host.stop()


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(EXAMPLE), *(each for each in sys.path if each)])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1"}


def test_an_activity_is_published_and_the_program_outlives_noise_and_its_cable(
    tmp_path: Path, broker: int, board: Path
) -> None:
    sensor = Sensor(tmp_path / "tty")
    heard: queue.Queue[dict[str, object]] = queue.Queue()
    subscriber = mqtt.Client(CallbackAPIVersion.VERSION2)
    subscriber.on_message = lambda _client, _data, message: heard.put(json.loads(message.payload))
    assert until(lambda: connects(subscriber, broker))
    subscriber.subscribe("home/anna", qos=1)
    subscriber.loop_start()
    command = [sys.executable, "-m", "har_serial", "--port", str(sensor.name), "--inference", str(board)]
    program = subprocess.Popen(
        [*command, "--broker", f"mqtt://127.0.0.1:{broker}", "--topic", "home/anna"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stderr is not None
        assert "listening" in program.stderr.readline()
        assert heard.get(timeout=20) == {"activity": None}, "nothing is known yet"
        samples = np.random.default_rng(2).normal(size=(LENGTH, 6)).round(5)
        os.write(sensor.end, b"\xff\x00 noise\n")
        sensor.send(samples)
        first = heard.get(timeout=20)
        with Client(board) as models:
            label, confidence = models.classify("har", samples.T.astype(np.float32))
        assert first == {"activity": label, "confidence": round(confidence, 3)}
        sensor.pull()
        assert "again in" in program.stderr.readline()
        sensor.plug()
        assert until(lambda: program.stderr is not None and "listening" in program.stderr.readline())
        os.write(sensor.end, b"half a li\n")
        sensor.send(samples)
        assert heard.get(timeout=20) == first
        program.terminate()
        assert heard.get(timeout=20) == {"activity": None}
        assert program.wait(10) == 0
        assert program.stdout is not None
        assert [json.loads(line) for line in program.stdout] == [first, first]
    finally:
        program.kill()
        program.communicate()
        subscriber.disconnect()
        subscriber.loop_stop()


def connects(client: mqtt.Client, port: int) -> bool:
    try:
        return client.connect("127.0.0.1", port) == 0
    except OSError:
        return False


@pytest.mark.parametrize("url", ["localhost", "http://x", "mqtt://"])
def test_a_broker_that_is_none_is_told_with_the_flags_name(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "har_serial", "--broker", url],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "mqtt://HOST" in done.stderr
