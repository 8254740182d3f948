"""One request and its answer over a cable that corrupts, drops and adds bytes.

All patience is the station's (`Caller`): it sends one frame and waits for the one frame that answers it, again and
again if need be, with longer and longer waits, and within a bound. The board (`Answerer`) has no clock: one frame in,
at most one frame out. It carries out each request once and keeps the answer, so that a repeated frame is harmless;
after a restart it has nothing, says so, and the station begins again.

When the station gives up it says what came instead: nothing at all (cable, port, power), bytes without a frame (baud
rate, noise), or frames that answer something else (an echo, another station).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, SerialGarbled, SerialSilent, SerialStopped, SerialWrongAnswers
from argosy_common.serial.frames import Frame, FrameDecoder, FrameType, encode, fragments

RESTARTS = 5
"""A board that starts anew more often than this within one exchange is given up."""


class BytePort(Protocol):
    """A serial port, or anything that carries bytes both ways."""

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, waiting for the first byte at most `timeout_s`; empty if none came."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of `data`, in bounded time."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long a station waits, in seconds."""

    first: float = 0.4
    """For the answer to a frame, before the frame is sent again; doubles each time."""
    cap: float = 2.0
    frame: float = 15.0
    """For one frame with all its repeats; a board may write to a slow card meanwhile."""
    message: float = 180.0
    """For a request and its answer."""

    @classmethod
    def at(cls, baud: int) -> Patience:
        """Return the patience for a line of this speed: two of the longest frames take 3000 bits."""
        slow = 3000 / baud
        return cls(first=0.4 + slow, cap=2.0 + slow, frame=15.0 + 8 * slow, message=180.0 + 800 * slow)


class Caller:
    """The station's half. One exchange at a time."""

    def __init__(
        self, port: BytePort, name: str, *, clock: Clock, rng: random.Random, patience: Patience | None = None
    ) -> None:
        """Speak over `port`, which people call `name`; `rng` chooses the first sequence number."""
        self._port = port
        self._name = name
        self._clock = clock
        self._patience = patience or Patience()
        self._seq = rng.getrandbits(32)
        self._decoder = FrameDecoder()
        self._answered = False
        self.repeats = 0
        """Frames that were sent again."""

    def ask(self, request: bytes) -> bytes:
        """Return the answer to `request`.

        Raises:
            SerialSilent, SerialGarbled, SerialWrongAnswers: no board was heard; what came instead.
            SerialStopped: a board was heard, and then no more.
        """
        give_up = self._clock.monotonic() + self._patience.message
        for _ in range(RESTARTS):
            self._seq = (self._seq + 1) % 2**32
            for fragment in fragments(FrameType.ASK, self._seq, request):
                self._swap(fragment, FrameType.HAVE, give_up)
            answer = self._fetch(give_up)
            if answer is not None:
                return answer
        raise SerialStopped(port=self._name, why="it started anew again and again")

    def _fetch(self, give_up: float) -> bytes | None:
        """Return the whole answer; None if the board has started anew and knows nothing of the request."""
        pieces: list[bytes] = []
        count = 1
        while len(pieces) < count:
            fetch = Frame(FrameType.FETCH, self._seq, len(pieces), count)
            got = self._swap(fetch, FrameType.ANSWER, give_up)
            if got.type is FrameType.LOST:
                return None
            pieces.append(got.payload)
            count = got.count
        return b"".join(pieces)

    def _swap(self, frame: Frame, wanted: FrameType, give_up: float) -> Frame:
        """Send a frame until the board's answer to it has come."""
        began = self._clock.monotonic()
        give_up = min(give_up, began + self._patience.frame)
        bytes_before, frames_before = self._decoder.bytes_seen, self._decoder.frames_seen
        wait = self._patience.first
        now = began
        while now < give_up:
            self.repeats += now > began
            self._port.write(encode(frame))
            answer = self._listen(frame, wanted, min(now + wait, give_up))
            if answer is not None:
                self._answered = True
                return answer
            wait = min(2 * wait, self._patience.cap)
            now = self._clock.monotonic()
        raise self._diagnosis(self._decoder.bytes_seen - bytes_before, self._decoder.frames_seen - frames_before)

    def _listen(self, sent: Frame, wanted: FrameType, until: float) -> Frame | None:
        """Return the answer to `sent`, if it comes in time; late copies of earlier answers are passed over."""
        while (left := until - self._clock.monotonic()) > 0:
            for frame in self._decoder.feed(self._port.read(left)):
                if frame.seq == sent.seq and frame.index == sent.index and frame.type in (wanted, FrameType.LOST):
                    return frame
        return None

    def _diagnosis(self, bytes_heard: int, frames_heard: int) -> ArgosyError:
        if self._answered:
            why = "there is noise only" if bytes_heard else "nothing comes any more"
            return SerialStopped(port=self._name, why=why)
        if not bytes_heard:
            return SerialSilent(port=self._name)
        if not frames_heard:
            return SerialGarbled(port=self._name, bytes=bytes_heard)
        return SerialWrongAnswers(port=self._name, frames=frames_heard)


class Answerer:
    """The board's half."""

    def __init__(self, handle: Callable[[bytes], bytes]) -> None:
        """Answer with what `handle` makes of a request; it never raises, and a repeated request is harmless to it."""
        self._handle = handle
        self._seq: int | None = None
        self._count = 0
        self._pieces: dict[int, bytes] = {}
        self._answer: list[Frame] = []

    def take(self, frame: Frame) -> Frame | None:
        """Return the answer to a frame; None for one that no station sends, an echo of ours for instance."""
        if frame.type is FrameType.ASK:
            return self._asked(frame)
        if frame.type is FrameType.FETCH:
            return self._fetched(frame)
        return None

    def _asked(self, frame: Frame) -> Frame:
        if (frame.seq, frame.count) != (self._seq, self._count):
            self._seq, self._count, self._pieces, self._answer = frame.seq, frame.count, {}, []
        self._pieces[frame.index] = frame.payload
        if len(self._pieces) == self._count and not self._answer:
            request = b"".join(self._pieces[index] for index in range(self._count))
            self._answer = fragments(FrameType.ANSWER, frame.seq, self._handle(request))
        return Frame(FrameType.HAVE, frame.seq, frame.index, frame.count)

    def _fetched(self, frame: Frame) -> Frame:
        if frame.seq != self._seq or frame.index >= len(self._answer):
            return Frame(FrameType.LOST, frame.seq, frame.index, frame.count)
        return self._answer[frame.index]
