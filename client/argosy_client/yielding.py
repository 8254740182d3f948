"""Training yields to inference: while requests are answered too slowly, the worker's priority falls, then it pauses.

Once a second, while an app runs, the inference process is asked how long requests took lately. What that means is one
of three events, and `TRANSITIONS` says what follows. A pause ends by itself, since a model may be late for other
reasons; then training is left alone for a while. So a training that is in the way goes on in turns, and never starves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from argosy_client.worker.priority import Priority
from argosy_common.clock import Clock
from argosy_common.errors import ArgosyError
from argosy_common.logs import get_logger

log = get_logger(__name__)

EVERY_S = 1.0
LEAST_REQUESTS = 5
"""Fewer, in the seconds that are looked at, say nothing."""
AT_EASE = 0.8
"""A model is at ease when its requests take at most so much of the target."""
LATE_LOOKS, CALM_LOOKS = 2, 5
"""So many looks in a row must say the same before something follows."""
LONGEST_PAUSE_S, LEFT_ALONE_S = 30.0, 60.0


class Event(StrEnum):
    """What a look, or several, came to."""

    LATE = "late"
    CALM = "calm"
    IN_VAIN = "in vain"
    """It has been paused for long, and requests are late all the same."""


TRANSITIONS: dict[tuple[Priority, Event], Priority] = {
    (Priority.FULL, Event.LATE): Priority.LOWERED,
    (Priority.LOWERED, Event.LATE): Priority.PAUSED,
    (Priority.PAUSED, Event.CALM): Priority.LOWERED,
    (Priority.LOWERED, Event.CALM): Priority.FULL,
    (Priority.PAUSED, Event.IN_VAIN): Priority.FULL,
}


@dataclass(frozen=True)
class Pace:
    """How a model's requests fared in the last seconds."""

    model: str
    requests: int
    p95_ms: float
    """From a request's arrival to its answer, waiting included."""
    target_ms: float

    @property
    def late(self) -> bool:
        """Whether they take longer than they are to."""
        return self.requests >= LEAST_REQUESTS and self.p95_ms > self.target_ms

    @property
    def at_ease(self) -> bool:
        """Whether they are well within what they may take."""
        return self.requests < LEAST_REQUESTS or self.p95_ms <= AT_EASE * self.target_ms


class Course:
    """Decides, look by look. Pure but for what it remembers."""

    def __init__(self) -> None:
        self.priority = Priority.FULL
        self._late = 0
        self._calm = 0
        self._since = float("-inf")
        self._alone_until = float("-inf")

    def look(self, paces: Sequence[Pace], now: float) -> Priority:
        """Take a look; return the priority that the worker is to have."""
        self._late = self._late + 1 if any(each.late for each in paces) else 0
        self._calm = self._calm + 1 if all(each.at_ease for each in paces) else 0
        event = self._event(now)
        if event is not None and (self.priority, event) in TRANSITIONS:
            self.priority = TRANSITIONS[self.priority, event]
            self._late = self._calm = 0
            self._since = now
            if event is Event.IN_VAIN:
                self._alone_until = now + LEFT_ALONE_S
        return self.priority

    def leave(self) -> Priority:
        """Nothing is trained: the next one begins with all that it can get."""
        self.priority, self._late, self._calm = Priority.FULL, 0, 0
        return self.priority

    def _event(self, now: float) -> Event | None:
        if self.priority is Priority.PAUSED and self._calm == 0 and now - self._since >= LONGEST_PAUSE_S:
            return Event.IN_VAIN
        if self._late >= LATE_LOOKS:
            return Event.LATE if now >= self._alone_until else None
        return Event.CALM if self._calm >= CALM_LOOKS else None


class Yielding:
    """Looks, on a thread of its own, between `start` and `stop`.

    Args:
        paces: asks the inference process; None where it cannot say now.
        training: tells whether an app runs.
        give: gives the worker a priority.
    """

    def __init__(
        self,
        *,
        paces: Callable[[], Sequence[Pace] | None],
        training: Callable[[], bool],
        give: Callable[[Priority], None],
        clock: Clock,
    ) -> None:
        self._paces = paces
        self._training = training
        self._give = give
        self._clock = clock
        self._course = Course()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="yielding", daemon=True)

    @property
    def told(self) -> str:
        """The worker's priority for heartbeats; empty while it has all that it can get."""
        priority = self._course.priority
        return "" if priority is Priority.FULL else priority.value

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Look no more, and let the worker have all that it can get."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._give(Priority.FULL)

    def look(self) -> None:
        """Take one look, and do what follows from it."""
        before = self._course.priority
        if not self._training():
            now = self._course.leave()
            paces: Sequence[Pace] = ()
        else:
            paces = self._paces() or ()
            now = self._course.look(paces, self._clock.monotonic())
        if now is before:
            return
        self._give(now)
        late = max(paces, key=lambda each: each.p95_ms / each.target_ms, default=None)
        about = {} if late is None else {"model": late.model, "p95_ms": late.p95_ms, "target_ms": late.target_ms}
        log.info("training.priority", priority=now.value, before=before.value, about=about)

    def _loop(self) -> None:
        while not self._stopping.wait(EVERY_S):
            try:
                self.look()
            except (ArgosyError, OSError) as error:
                log.warning("training.priority_unchanged", exc=error)
            except Exception as error:  # noqa: BLE001  (training must not stay paused for a bug of ours)
                log.error("training.priority_failed", exc=error)
                self._give(self._course.leave())
