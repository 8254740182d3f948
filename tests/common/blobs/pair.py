"""Two exchanges and a wire between them, all driven by the test: its clock, its worker, its accidents."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from argosy_common.blobs import BlobRef, BlobStore
from argosy_common.blobs.downloads import Way
from argosy_common.blobs.exchange import BlobExchange, TransferOutcome
from argosy_common.errors import ArgosyError
from argosy_common.wire.bodies import KINDS, Body, Offer

DEVICE, COORDINATOR = "0123456789abcdef", "coordinator"


class SteppedClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC)


class SteppedExecutor(Executor):
    """Runs what was submitted when the test says so, in order."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Callable[..., Any], tuple[object, ...]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: object, **_: object) -> Future[Any]:
        self.jobs.append((fn, args))
        return Future()

    def run(self) -> bool:
        worked = bool(self.jobs)
        while self.jobs:
            job, args = self.jobs.popleft()
            job(*args)
        return worked


@dataclass
class Message:
    """Something on the wire: a chunk frame, or a control body with its kind."""

    target: str
    kind: str
    data: bytes

    @property
    def is_chunk(self) -> bool:
        return self.kind == "chunk"


def unharmed(messages: list[Message]) -> list[Message]:
    """The accident that does not happen."""
    return messages


def allow_all(_peer: str, _offer: Offer) -> ArgosyError | None:
    return None


class End:
    """One exchange with its store, its worker and what it wants to send."""

    def __init__(self, name: str, store: BlobStore, clock: SteppedClock, wire: deque[Message], peer: str) -> None:
        self.name = name
        self.store = store
        self.clock = clock
        self.wire = wire
        self.peer = peer
        self.connected = True
        self.allow: Callable[[str, Offer], ArgosyError | None] = allow_all
        self.urls: list[str] = []
        self.way: Way | None = None
        self.start()

    def start(self) -> None:
        """Begin a new life, as after a restart of the process."""
        self.executor = SteppedExecutor()
        self.exchange = BlobExchange(
            self.store,
            clock=self.clock,
            sink="w1" if self.name == COORDINATOR else "",
            post=self._post,
            post_chunk=self._post_chunk,
            allow_upload=self._allow,
            urls=lambda _ref: self.urls,
            way=self.way,
            executor=self.executor,
            session_timeout_s=600.0,
        )

    def _allow(self, peer: str, offer: Offer) -> ArgosyError | None:
        return self.allow(peer, offer)

    def _post(self, peer: str, body: Body) -> bool:
        assert peer == self.peer
        if self.connected:
            self.wire.append(Message(peer, body.kind, body.pack()))
        return self.connected

    def _post_chunk(self, peer: str, sink: str, frame: bytes) -> bool:
        assert sink == ("w1" if peer == COORDINATOR else "")
        if self.connected:
            self.wire.append(Message(peer, "chunk", frame))
        return self.connected

    def take(self, message: Message) -> None:
        if message.is_chunk:
            self.exchange.handle_chunk(self.peer, message.data)
        else:
            self.exchange.handle(self.peer, KINDS[message.kind].unpack(message.data, peer=self.peer))


@dataclass
class Pair:
    """See the module's text."""

    folder: Path
    clock: SteppedClock = field(default_factory=SteppedClock)
    wire: deque[Message] = field(default_factory=deque)
    accident: Callable[[list[Message]], list[Message]] = unharmed
    delivered: list[Message] = field(default_factory=list)
    """Every message that reached an end."""

    def __post_init__(self) -> None:
        self.device = End(DEVICE, BlobStore(self.folder / "device"), self.clock, self.wire, COORDINATOR)
        self.coordinator = End(COORDINATOR, BlobStore(self.folder / "coordinator"), self.clock, self.wire, DEVICE)

    @property
    def ends(self) -> tuple[End, End]:
        return self.device, self.coordinator

    def step(self, most: int | None = None) -> bool:
        """Run the workers, then deliver what is on the wire (the first `most`); return whether anything happened."""
        worked = [end.executor.run() for end in self.ends]
        count = len(self.wire) if most is None else min(most, len(self.wire))
        for message in self.accident([self.wire.popleft() for _ in range(count)]):
            self.delivered.append(message)
            (self.device if message.target == DEVICE else self.coordinator).take(message)
        return any(worked) or count > 0

    def settle(self, until: Callable[[], object], *, seconds: float = 3000.0) -> None:
        """Step until the condition holds, moving the clock a second whenever nothing happens."""
        deadline = self.clock.now + seconds
        while not until():
            assert self.clock.now < deadline, "nothing came of it"
            if not self.step():
                self.tick()

    def tick(self, seconds: float = 1.0) -> None:
        self.clock.now += seconds
        for end in self.ends:
            end.exchange.tick()

    def cut(self) -> None:
        """Lose the connection and all that is under way."""
        self.wire.clear()
        for end in self.ends:
            end.connected = False
            end.exchange.peer_down(end.peer)

    def mend(self) -> None:
        for end in self.ends:
            end.connected = True
            end.exchange.peer_up(end.peer)

    def chunk_bytes(self) -> int:
        """Chunk bytes that reached an end so far."""
        return sum(len(message.data) for message in self.delivered if message.is_chunk)


class Outcomes(list[TransferOutcome]):
    """A callback that remembers."""

    def __call__(self, outcome: TransferOutcome) -> None:
        self.append(outcome)

    @property
    def error(self) -> ArgosyError | None:
        assert len(self) == 1
        return self[0].error


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes without any pattern."""
    return random.Random(seed).randbytes(size)


def put(end: End, size: int, seed: int = 1) -> BlobRef:
    """Store a blob at one end."""
    return end.store.put_bytes(noise(size, seed))
