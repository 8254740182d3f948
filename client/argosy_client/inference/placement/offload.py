"""A session whose rest the coordinator runs, as long as that does well; at any trouble this board goes on by itself.

No request fails over the network and none tries it out: after trouble everything is run here, and a thread beside asks
the coordinator for the golden answers, after pauses that grow. Requests go there again once those came, right and in
time.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from argosy_client.inference.backend import Array, Session, counts_of
from argosy_client.inference.folder import Version
from argosy_client.inference.placement.line import Line
from argosy_client.inference.placement.plan import Plan
from argosy_client.inference.placement.stages import Stages
from argosy_common.artefact.golden import agrees
from argosy_common.backoff import Backoff
from argosy_common.errors import ArgosyError, OffloadUnavailable
from argosy_common.logs import get_logger
from argosy_common.offload import MAX_BATCH, MAX_BODY, infer_path

log = get_logger(__name__)

OPEN_S = 5.0
"""How long the coordinator may take over the first request: it opens the model."""
_STEADY = 20
"""After so many good answers in a row, trouble before them is forgotten."""


class Offloaded:
    """A `Session`. It owns the line, and the session that runs the whole model here.

    Args:
        whole: runs the whole model here, while the coordinator is left alone.
        stages: what runs here before something is sent; none where the input itself is.
        tail: runs here what the coordinator would have.
    """

    def __init__(
        self,
        version: Version,
        plan: Plan,
        *,
        whole: Session,
        stages: Stages,
        tail: Callable[[Array], Array],
        line: Line,
        rng: random.Random,
    ) -> None:
        self._version = version
        self._plan = plan
        self._whole = whole
        self._stages = stages
        self._tail = tail
        self._line = line
        self._path = infer_path(version.manifest.name, version.manifest.version, plan.tensor)
        self._backoff = Backoff(rng, base=1.0, cap=120.0, floor=0.5)
        self._up = False
        self._why = "it was not asked yet"
        self._steady = 0
        self._remote = self._fallbacks = self._local = 0
        self.away_s = 0.0
        self._down = threading.Event()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="offload", daemon=True)

    def start(self) -> None:
        """Begin to ask the coordinator, beside; until it has answered rightly, all is run here."""
        self._keeper.start()

    @property
    def ran_on(self) -> str:
        """What runs it at this moment."""
        if not self._up:
            return f"{self._whole.ran_on} (not the coordinator: {self._why})"
        here = self._stages.ran_on
        return f"{here}, then coordinator" if here else "coordinator"

    def run(self, batch: Array) -> Array:
        """See `Session.run`."""
        return self.run_by(batch, float("inf"))

    def run_by(self, batch: Array, deadline: float) -> Array:
        """See `Placed.run_by`: who has no time for the coordinator and for doing without it is answered from here."""
        room_s = deadline - time.monotonic() - self._plan.fallback_ms / 1000.0
        if not self._up or room_s < self._plan.expected_ms / 1000.0:
            self._local += 1
            return self._whole.run(batch)
        progress = self._stages.run(batch)
        return self._stages.finished(progress, lambda boundary: self._rest(boundary, room_s))

    def counts(self) -> dict[str, Any]:
        """See `Placed.counts`."""
        told: dict[str, Any] = {"remote": self._remote, "fallbacks": self._fallbacks, "local": self._local}
        exits = self._stages.counts + Counter(counts_of(self._whole).get("exits", {}))
        return {**told, **({"exits": dict(exits)} if exits else {})}

    def close(self) -> None:
        """See `Session.close`."""
        self._closing.set()
        self._down.set()
        self._line.close()  # the thread ends by itself: nobody's request waits for that
        self._whole.close()

    def _rest(self, boundary: Array, room_s: float) -> Array:
        if boundary.nbytes > MAX_BODY or len(boundary) > MAX_BATCH:
            self._local += 1
            return self._tail(boundary)
        try:
            outputs = self._asked(boundary, min(self._plan.timeout_ms / 1000.0, room_s))
            self._require_fitting(outputs, len(boundary))
        except ArgosyError as error:
            self._fallbacks += 1
            self._leave_alone(error)
            return self._tail(boundary)
        self._remote += 1
        self._steady += 1
        if self._steady == _STEADY:
            self._backoff.reset()
        return outputs

    def _asked(self, boundary: Array, timeout_s: float) -> Array:
        began = time.perf_counter()
        try:
            return self._line.run(self._path, boundary, timeout_s=timeout_s).array()
        finally:
            self.away_s += time.perf_counter() - began

    def _require_fitting(self, outputs: Array, count: int) -> None:
        wanted = self._version.manifest.output
        if outputs.shape != (count, *wanted.shape) or str(outputs.dtype) != wanted.dtype:
            raise self._misfit(f"it answers {outputs.shape} of {outputs.dtype}")

    def _misfit(self, why: str) -> OffloadUnavailable:
        return OffloadUnavailable(model=self._version.manifest.reference, why=why)

    def _leave_alone(self, error: ArgosyError) -> None:
        self._up, self._why, self._steady = False, error.message.rstrip("."), 0
        log.warning("offload.fell_back", model=self._version.manifest.reference, code=error.code, why=error.message)
        self._down.set()

    # --- on our thread

    def _keep(self) -> None:
        self._probe()
        while not self._closing.is_set():
            if self._up:
                self._down.wait()
                self._down.clear()
            elif not self._closing.wait(self._backoff.next()):
                self._probe()

    def _probe(self) -> None:
        """Ask for the golden answers; requests go to the coordinator from here on if they came right and in time."""
        inputs, golden = self._version.golden
        try:
            boundary = self._stages.run(inputs, exits=False).boundary
            outputs = self._line.run(self._path, boundary, timeout_s=OPEN_S).array()
            if not agrees(outputs, golden, self._version.manifest.golden.tolerance):
                raise self._misfit("its answers to the golden inputs are wrong")
            self._line.run(self._path, boundary[:1], timeout_s=self._plan.timeout_ms / 1000.0)
        except ArgosyError as error:
            if not self._closing.is_set():
                self._why = error.message.rstrip(".")
                log.warning("offload.not_used", model=self._version.manifest.reference, why=error.message)
            return
        self._up = True
        log.info("offload.used", model=self._version.manifest.reference, tensor=self._plan.tensor, way=self._plan.way)
