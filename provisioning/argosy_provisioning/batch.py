"""Many boards at once: one thread a port, one token with enough uses. A board that fails holds up no other."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError, Fault, ProgrammingError
from argosy_common.logs import get_logger
from argosy_common.serial.exchange import BytePort
from argosy_common.serial.messages import Board
from argosy_provisioning.label import LabelFolder
from argosy_provisioning.station import Enrolled, Order, enrol

log = get_logger(__name__)

_GRAVITY = (Fault.OPERATOR, Fault.NETWORK, Fault.PEER, Fault.BUG)


class OpenPort(Protocol):
    """Opens a port by name."""

    def __call__(self, name: str, baud: int, /) -> AbstractContextManager[BytePort]:
        """Return the port, open."""
        ...


@dataclass
class Place:
    """One port of the bench. Its own thread writes it; others only look."""

    port: str
    name: str | None = None
    """What the board is to be called; None: by its own name."""
    board: str = ""
    step: str = "waiting"
    enrolled: Enrolled | None = None
    error: ArgosyError | None = None
    labels: list[str] = field(default_factory=list)

    def hear(self, step: str, board: Board | None) -> None:
        """Note how far it is."""
        self.step = step
        if board is not None:
            self.board = board.model


class Batch:
    """A bench of boards being enrolled."""

    def __init__(
        self,
        ports: Mapping[str, str | None],
        order: Order,
        open_port: OpenPort,
        *,
        clock: Clock,
        rng: random.Random,
        labels: LabelFolder | None = None,
        baud: int = 115200,
    ) -> None:
        """Enrol the board at each of `ports` and call it by the name there, or by its own if that is None."""
        self.places = [Place(port, name) for port, name in ports.items()]
        self._order = order
        self._open_port = open_port
        self._clock = clock
        self._labels = labels
        self._baud = baud
        seeds = [random.Random(rng.getrandbits(64)) for _ in ports]  # noqa: S311  (sequence numbers, no secrets)
        self._threads = [
            threading.Thread(target=self._work, args=(place, seed), name=place.port, daemon=True)
            for place, seed in zip(self.places, seeds, strict=True)
        ]

    def start(self) -> None:
        """Begin at all ports. The threads end by themselves: every wait in them has a bound."""
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the first place that is not over, at most `timeout_s`; tell whether all are over."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_s)
                break
        return not any(thread.is_alive() for thread in self._threads)

    def worst(self) -> ArgosyError | None:
        """Return the gravest failure: ours, a peer's, the network's, the operator's; of equals the first port's."""
        errors = [place.error for place in self.places if place.error is not None]
        return max(errors, key=lambda error: _GRAVITY.index(error.fault), default=None)

    def _work(self, place: Place, rng: random.Random) -> None:
        try:
            self._enrol(place, rng)
        except ArgosyError as error:
            place.error = error
        except Exception as error:  # noqa: BLE001  (one place's bug must not leave the bench waiting for it)
            log.error("batch.failed", exc=error, port=place.port)
            place.error = ProgrammingError(what=f"{type(error).__name__}: {error}")

    def _enrol(self, place: Place, rng: random.Random) -> None:
        with self._open_port(place.port, self._baud) as port:
            enrolled = enrol(
                port,
                place.port,
                self._order,
                clock=self._clock,
                rng=rng,
                name=place.name,
                baud=self._baud,
                told=place.hear,
            )
        place.enrolled = enrolled
        if self._labels is not None:
            place.labels = [str(path) for path in self._labels.write(enrolled)]
