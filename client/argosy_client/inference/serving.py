"""The models that are open: who may ask them when, and how one takes another's place without a failed request."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from argosy_client.inference.backend import Array, Placed, Session, counts_of
from argosy_client.inference.choose import Choice
from argosy_client.inference.preprocess import picture, prepared
from argosy_common.artefact import Manifest
from argosy_common.drift import Drawing, confidences, distance
from argosy_common.errors import ArgosyError, DeadlinePassed, ModelBusy, ModelMissing, ProgrammingError

QUEUE = 16
"""Requests of one model that may wait unless it is set."""
DEADLINE_S = 10.0
"""A request's where it names none."""
LATELY_S = 5.0
"""Requests of so many seconds are the pace."""
_TARGET_FACTOR, _TARGET_LEAST_MS = 2.0, 2.0
"""What requests are to take where it is not set: twice what the trial measured, or two milliseconds more."""
_SKETCH_EVERY_S = 0.2
"""At most so often an input is sketched and kept as a sample: it costs a tenth of a millisecond."""
_SKETCHED = 64
"""Of a batch, at most."""
_DAY_S = 86_400.0
_SAMPLES = 128


@dataclass
class Counters:
    """What was asked of a version, since it was opened."""

    requests: int = 0
    errors: int = 0
    """Of the backend's; a caller's own mistakes do not count."""
    busy: int = 0
    expired: int = 0


class Loaded:
    """A version that is open. One request runs at a time; some wait, and further ones are told that it is busy."""

    def __init__(self, manifest: Manifest, session: Session, choice: Choice, *, queue: int = QUEUE) -> None:
        self.manifest = manifest
        self.choice = choice
        self.counters = Counters()
        self._session = session
        self._placed = session if isinstance(session, Placed) else None
        self._run = self._placed.run_by if self._placed else lambda batch, _: session.run(batch)
        self._queue = queue
        self._running = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._inside = 0
        self._retired = False
        self._times: deque[float] = deque(maxlen=1000)
        self._lately: deque[tuple[float, float]] = deque(maxlen=1000)
        self._sketched_at = float("-inf")
        self._day_began = time.monotonic()
        self._today = Drawing.empty(manifest.input.shape[0] if manifest.input.shape else 1)
        self._yesterday: Drawing | None = None
        self._samples: deque[Array] = deque(maxlen=_SAMPLES)

    @property
    def ran_on(self) -> str:
        """What really runs it."""
        return self._session.ran_on

    def enter(self) -> bool:
        """Count a request in; False where another version has taken this one's place."""
        with self._counting:
            if self._retired:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """Count a request out; the last one of a version that was replaced closes it."""
        with self._counting:
            self._inside -= 1
            last = self._retired and self._inside == 0
        if last:
            self._session.close()

    def retire(self) -> None:
        """Take no further request; close once those inside are done."""
        with self._counting:
            if self._retired:
                return
            self._retired = True
            last = self._inside == 0
        if last:
            self._session.close()

    def run(self, batch: Array, deadline: float) -> Array:
        """Return the outputs for a prepared batch, if that can begin before `deadline` (monotonic seconds).

        Raises:
            ModelBusy: too many wait already.
            DeadlinePassed: its turn did not come in time.
        """
        asked = time.perf_counter()
        with self._turn(deadline):
            began, away_s = time.perf_counter(), self._away_s()
            try:
                outputs = self._run(batch, deadline)
            except Exception:
                self.counters.errors += 1
                raise
            done = time.perf_counter()
            self._times.append((done - began) * 1000.0)
            # who waits for the coordinator is not kept waiting by what this board trains
            self._lately.append((done, (done - asked - self._away_s() + away_s) * 1000.0))
        self.counters.requests += 1
        self._remember(batch, outputs)
        return outputs

    def _away_s(self) -> float:
        return self._placed.away_s if self._placed else 0.0

    def pace(self) -> dict[str, Any]:
        """Return how requests of the last seconds fared, their waiting included, beside what they may well take."""
        since = time.perf_counter() - LATELY_S
        times = [took for at, took in list(self._lately) if at >= since]
        p95 = self.choice.figures.p95_ms
        return {
            "model": self.manifest.name,
            "requests": len(times),
            "p95_ms": float(np.percentile(times, 95)) if times else 0.0,
            "target_ms": max(_TARGET_FACTOR * p95, p95 + _TARGET_LEAST_MS),
        }

    def stats(self) -> dict[str, Any]:
        """Return what can be told of it, as plain data."""
        times = list(self._times)
        p50, p95 = np.percentile(times, [50, 95]).tolist() if times else (None, None)
        with self._counting:
            today, yesterday = self._today.sketch(), self._yesterday.sketch() if self._yesterday else None
        seen = self.manifest.seen
        drift = [distance(each, seen) for each in (today, yesterday) if each is not None and seen is not None]
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "backend": self.choice.backend,
            "ran_on": self.ran_on,
            "tried": {each.backend: each.refused or f"{each.p95_ms:.3f} ms" for each in self.choice.others},
            "unavailable": self.choice.unavailable,
            "p50_ms": p50,
            "p95_ms": p95,
            "waiting": self._waiting,
            "drift": next((each for each in drift if each is not None), None),
            "sketch": today.model_dump(),
            **asdict(self.counters),
            **counts_of(self._session),
        }

    def samples(self) -> Array:
        """Return inputs that were seen lately, prepared."""
        with self._counting:
            kept = list(self._samples)
        shape = tuple(self.manifest.input.shape)
        return np.stack(kept) if kept else np.empty((0, *shape), self.manifest.input.dtype)

    @contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        if not self._running.acquire(blocking=False):
            with self._counting:
                if self._waiting >= self._queue:
                    self.counters.busy += 1
                    raise ModelBusy(model=self.manifest.reference, waiting=self._waiting)
                self._waiting += 1
            try:
                mine = self._running.acquire(timeout=max(0.0, deadline - time.monotonic()))
            finally:
                with self._counting:
                    self._waiting -= 1
            if not mine:
                self.counters.expired += 1
                raise DeadlinePassed(model=self.manifest.reference, deadline_ms=0)
        try:
            yield
        finally:
            self._running.release()

    def _remember(self, batch: Array, outputs: Array) -> None:
        """Sketch an input now and then, and keep it as a sample."""
        now = time.monotonic()
        if now - self._sketched_at < _SKETCH_EVERY_S:
            return
        with self._counting:
            self._sketched_at = now
            if now - self._day_began >= _DAY_S:
                self._yesterday, self._today = self._today, Drawing.empty(len(self._today.channels))
                self._day_began = now
            self._today.add(batch[:_SKETCHED], outputs[:_SKETCHED])
            self._samples.append(np.array(batch[0]))


@dataclass
class Answer:
    """What a request gets."""

    outputs: Array
    manifest: Manifest
    label: str = ""
    confidence: float = 0.0


@dataclass
class Serving:
    """All models, by name. Requests come on threads of their own; `put` comes on another."""

    queue: int = QUEUE
    _slots: dict[str, Loaded] = field(default_factory=dict)

    def put(self, loaded: Loaded) -> None:
        """Let a version take the place of the one before it; requests that are inside that finish there."""
        before = self._slots.get(loaded.manifest.name)
        self._slots[loaded.manifest.name] = loaded
        if before is not None:
            before.retire()

    def drop(self, name: str) -> None:
        """Serve a model no more."""
        before = self._slots.pop(name, None)
        if before is not None:
            before.retire()

    def get(self, name: str) -> Loaded | None:
        """Return the version that is served."""
        return self._slots.get(name)

    def all(self) -> list[Loaded]:
        """Return all that is served, by name."""
        return [loaded for _, loaded in sorted(self._slots.items())]

    def infer(
        self, name: str, raw: Array | bytes, *, deadline_s: float | None = None, classify: bool = False
    ) -> Answer:
        """Answer one request: a raw input or a batch of them, or a picture's file.

        Raises:
            ModelMissing, InputInvalid, ModelBusy, DeadlinePassed: as they say.
        """
        given = DEADLINE_S if deadline_s is None else deadline_s
        deadline = time.monotonic() + given
        loaded = self._entered(name)
        try:
            array = picture(loaded.manifest, raw) if isinstance(raw, bytes) else raw
            outputs = loaded.run(prepared(loaded.manifest, array), deadline)
        except DeadlinePassed:
            raise DeadlinePassed(model=loaded.manifest.reference, deadline_ms=round(given * 1000)) from None
        finally:
            loaded.leave()
        answer = Answer(outputs, loaded.manifest)
        if classify:
            answer.label, answer.confidence = _named(loaded.manifest, outputs)
        return answer

    def _entered(self, name: str) -> Loaded:
        while True:
            loaded = self._slots.get(name)
            if loaded is None:
                raise ModelMissing(model=name, path="")
            if loaded.enter():
                return loaded


def _named(manifest: Manifest, outputs: Array) -> tuple[str, float]:
    best = int(np.argmax(outputs[0]))
    labels = manifest.labels
    return (labels[best] if best < len(labels) else str(best)), float(confidences(outputs[:1])[0])


def told(error: Exception) -> dict[str, object]:
    """Return an error as a caller gets it; of what a backend raised, its words."""
    if isinstance(error, ArgosyError):
        return error.to_wire()
    return ProgrammingError(what=f"a backend failed: {error}"[:300]).to_wire()
