"""Requests and answers over an in-memory cable that does what cables do. Time is the cable's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from argosy_common.errors import ArgosyError, SerialGarbled, SerialSilent, SerialStopped, SerialWrongAnswers
from argosy_common.serial.exchange import Answerer, Caller
from argosy_common.serial.frames import FrameDecoder, encode

Line = Callable[[bytes], bytes]
REQUEST, MADE = b"make " * 300, b"made " * 400


class Cable:
    """A station's port with a board at its other end, and the clock that both live by."""

    def __init__(self, line: Line = lambda data: data) -> None:
        self.line = line
        self.now = 0.0
        self.handled: list[bytes] = []
        self.coming = b""
        self.plugged = True
        self.restart()

    def restart(self) -> None:
        self._decoder, self._board = FrameDecoder(), Answerer(self._handle)

    def _handle(self, request: bytes) -> bytes:
        self.handled.append(request)
        return MADE

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC)

    def read(self, timeout_s: float) -> bytes:
        if not self.coming:
            self.now += timeout_s
        data, self.coming = self.coming, b""
        return data

    def write(self, data: bytes) -> None:
        if not self.plugged:
            return
        for frame in self._decoder.feed(self.line(data)):
            answer = self._board.take(frame)
            self.coming += self.line(encode(answer)) if answer else b""

    def caller(self, seed: int = 1) -> Caller:
        return Caller(self, "/dev/ttyUSB0", clock=self, rng=random.Random(seed))


def noisy(rng: random.Random, *, corrupt: float, drop: float) -> Line:
    def line(data: bytes) -> bytes:
        kept = (byte for byte in data if rng.random() >= drop)
        return bytes(rng.randrange(256) if rng.random() < corrupt else byte for byte in kept)

    return line


def failure(cable: Cable) -> ArgosyError:
    with pytest.raises(ArgosyError) as caught:
        cable.caller().ask(REQUEST)
    assert cable.now < 60
    assert "/dev/ttyUSB0" in caught.value.message
    return caught.value


def test_a_request_is_answered() -> None:
    cable = Cable()
    caller = cable.caller()
    assert [caller.ask(REQUEST), caller.ask(b""), caller.ask(REQUEST)] == [MADE] * 3
    assert cable.handled == [REQUEST, b"", REQUEST]
    assert caller.repeats == 0
    assert cable.now == 0


@pytest.mark.parametrize("seed", range(20))
def test_noise_costs_repeats_and_never_a_wrong_answer(seed: int) -> None:
    cable = Cable(noisy(random.Random(seed), corrupt=0.001, drop=0.0005))
    caller = cable.caller(seed)
    assert caller.ask(REQUEST) == MADE
    assert cable.handled == [REQUEST], "carried out once, however often its frames were repeated"


def test_heavy_noise_is_got_through_too() -> None:
    cable = Cable(noisy(random.Random(5), corrupt=0.005, drop=0.002))
    caller = cable.caller()
    assert caller.ask(REQUEST) == MADE
    assert caller.repeats > 10


def test_text_between_the_frames_does_not_matter() -> None:
    cable = Cable(lambda data: b"[  12.3] usb 1-1: new device\r\nlogin: " + data + b"\r\n")
    assert cable.caller().ask(REQUEST) == MADE


def test_silence_is_the_cable_or_the_port() -> None:
    assert isinstance(failure(Cable(lambda _: b"")), SerialSilent)


def test_bytes_without_a_frame_are_the_baud_rate_or_noise() -> None:
    cable = Cable()
    rng = random.Random(3)
    cable.write = lambda data: setattr(cable, "coming", rng.randbytes(len(data)))  # type: ignore[method-assign]
    error = failure(cable)
    assert isinstance(error, SerialGarbled)
    assert int(error.facts["bytes"]) > 100


def test_an_echo_is_told_from_a_board() -> None:
    cable = Cable()
    cable.write = lambda data: setattr(cable, "coming", data)  # type: ignore[method-assign]
    assert isinstance(failure(cable), SerialWrongAnswers)


@pytest.mark.parametrize("frames", [1, 5, 11, 12, 13, 20])
def test_a_board_that_stops_half_way_is_named(frames: int) -> None:
    cable = Cable()
    deliver, left = cable.write, [frames]

    def count(data: bytes) -> None:
        left[0] -= 1
        cable.plugged = left[0] >= 0
        deliver(data)

    cable.write = count  # type: ignore[method-assign]
    assert isinstance(failure(cable), SerialStopped)


@pytest.mark.parametrize("frames", range(28))
def test_a_board_that_restarts_half_way_is_asked_anew(frames: int) -> None:
    cable = Cable()
    deliver, left = cable.write, [frames]

    def count(data: bytes) -> None:
        if left[0] == 0:
            cable.restart()
        left[0] -= 1
        deliver(data)

    cable.write = count  # type: ignore[method-assign]
    assert cable.caller().ask(REQUEST) == MADE


def test_a_board_that_restarts_for_ever_is_given_up() -> None:
    cable = Cable()
    deliver = cable.write

    def restart(data: bytes) -> None:
        cable.restart()
        deliver(data)

    cable.write = restart  # type: ignore[method-assign]
    assert isinstance(failure(cable), SerialStopped)
