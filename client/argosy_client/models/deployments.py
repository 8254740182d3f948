"""Deployments of models: from the coordinator's word to a version in force, and back again where it does not do.

One thread does all of it, one deployment after the other. What it is about to do is on disk before it is done, so a
power cut anywhere leaves the version before in force, or this one; the next start goes on (`deployment.RESUME`). What
came of it is told at each change and after each connect, and is the coordinator's only ground for going on.

In this order, and the first that fails refuses the version with nothing changed:
1. the signature over the manifest, by the pinned authority's key for models;
2. the manifest, and that it is of the version that was announced;
3. the version rule: not below what is in force, unless a rollback to it is signed;
4. the two blobs, by size and digest, on disk;
5. the load, by whatever runs models here. If that fails, the version before is in force again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from argosy_client.gateway import error_part
from argosy_client.models.arrival import Arrival, Order, Task
from argosy_client.models.deployment import Deployment, State
from argosy_client.models.inference import Inference, Loaded, Served
from argosy_client.models.store import ModelStore
from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    ArtefactInvalid,
    InstructionCancelled,
    ModelError,
    ModelMisfit,
    ModelUnsteady,
    ModelWithdrawn,
    ProgrammingError,
)
from argosy_common.logs import get_logger
from argosy_common.wire.bodies import Deploy, ErrorPart, ModelState, Withdraw
from argosy_common.wire.envelope import Envelope

log = get_logger(__name__)

MAX_ATTEMPTS = 3
"""A version that takes the whole board down with it each time it is loaded is given up after so many."""
REPORT_S = 3600.0
LEAST_REQUESTS = 20
"""Fewer requests say nothing about a share of failures."""

_SAID: dict[State, Literal["fetching", "refused", "active", "rolled-back"]] = {
    State.FETCHING: "fetching",
    State.TRYING: "fetching",
    State.ACTIVE: "active",
    State.REFUSED: "refused",
    State.ROLLED_BACK: "rolled-back",
}
"""A state in the words of a `ModelState`."""


@dataclass
class _Watched:
    """A version in force, by our monotonic clock."""

    report_at: float
    probation_ends_at: float | None
    """None once it is over: then it is only told of now and then."""


class Deployments:
    """The models of this device. `deploy`, `withdraw`, `link_up` and `tick` are quick, and may be called anywhere.

    Args:
        tell: sends a report; one that is lost is made up for after the next connect.
        report_s: seconds between two reports of a version whose probation is over: its figures, and its drift.
    """

    def __init__(
        self,
        *,
        store: ModelStore,
        arrival: Arrival,
        tell: Callable[[ModelState], object],
        clock: Clock,
        inference: Inference,
        report_s: float = REPORT_S,
    ) -> None:
        self._store = store
        self._arrival = arrival
        self._post = tell
        self._clock = clock
        self._inference = inference
        self._loaded: dict[str, Loaded] = {}
        self._report_s = report_s
        self._watched: dict[str, _Watched] = {}
        self._tasks: dict[str, Task] = {}
        """By model, the order that is under way or waits; a newer one takes its place."""
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="models", daemon=True)

    def start(self) -> None:
        """Put in force what was, then take what comes."""
        self._work.put(self._resume_all)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Interrupt what is under way, to be gone on with at the next start, and end the thread."""
        self._stopping.set()
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        self._work.put(None)
        self._thread.join(timeout_s)

    def deploy(self, _envelope: Envelope, body: Deploy) -> None:
        """Take an order. The same one while it is under way is passed over: its end will be told."""
        self._order(body)

    def withdraw(self, _envelope: Envelope, body: Withdraw) -> None:
        """Take an order to put a version out of force."""
        self._order(body)

    def link_up(self) -> None:
        """Tell where every model stands: what was told before may be lost."""
        self._work.put(self._report_all)

    def tick(self) -> None:
        """Look after what is in force. Called about once a second."""
        now = self._clock.monotonic()
        for name, watched in list(self._watched.items()):
            if now >= watched.report_at:
                watched.report_at = float("inf")  # until it has been looked at
                self._work.put(partial(self._look, name))

    # --- on the caller's thread

    def _order(self, order: Order) -> None:
        task = Task(order)
        with self._lock:
            before = self._tasks.get(order.name)
            if before is not None and _same(before.order, order):
                return
            self._tasks[order.name] = task
        if before is not None:
            log.info("model.superseded", model=order.name, version=before.order.version)
            before.cancel()
        self._work.put(partial(self._carry_out, task))

    # --- on the thread

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                if not self._stopping.is_set():
                    work()
            except Exception as error:  # noqa: BLE001  (the daemon outlives every model; the failure is logged)
                log.error("model.failed", exc=error)

    def _carry_out(self, task: Task) -> None:
        order = task.order
        try:
            if task.cancelled.is_set():
                return
            if isinstance(order, Withdraw):
                self._withdraw(order)
            else:
                self._deploy(task, order)
        except InstructionCancelled:
            log.info("model.interrupted", model=order.name, version=order.version)
        except Exception as error:  # noqa: BLE001  (a bug of ours is an answer too: the rollout must not wait for it)
            log.error("model.bug", exc=error, model=order.name)
            self._tell(order.name, order.rollout, order.version, State.REFUSED, error_part(_named(error)))
        finally:
            with self._lock:
                if self._tasks.get(order.name) is task:
                    del self._tasks[order.name]

    def _deploy(self, task: Task, body: Deploy) -> None:
        name, known, now = body.name, self._store.deployment(body.name), self._store.current(body.name)
        if known is not None and (known.rollout, known.version, known.state) == (
            body.rollout,
            body.version,
            State.ROLLED_BACK,
        ):
            self._report(name)  # it was tried, and failed: once is enough for a rollout
            return
        wanted = Deployment(
            rollout=body.rollout,
            version=body.version,
            state=State.FETCHING,
            downward=body.rollback is not None,
            floor=known.floor if known else 0,
            probation_s=body.probation_s,
            report_s=body.report_s,
            max_errors=body.max_errors,
        )
        try:
            manifest = self._arrival.verified(body, max(now.version if now else 0, wanted.floor))
            held = self._arrival.held(name, body.version)
            if now is not None and now.version == body.version and held is not None:
                if held != manifest:
                    raise ArtefactInvalid(what="manifest", why=f"another {manifest.reference} is in force here")
                self._confirm(name, wanted)
                return
            if held != manifest:
                self._tell(name, body.rollout, body.version, State.FETCHING)
                self._arrival.bring(task, manifest, body.signature)
        except InstructionCancelled:
            raise
        except ArgosyError as error:
            self._refuse(name, wanted, known, error)
            return
        self._try(name, wanted.followed("checked"))

    def _confirm(self, name: str, wanted: Deployment) -> None:
        """Answer for a version that is in force already."""
        if name not in self._loaded:
            self._try(name, wanted.followed("checked"))
            return
        active = wanted.followed("checked").followed("loaded")
        self._store.remember(name, active)
        if active.downward:
            self._store.forget_previous(name)
        self._watch(name, active)
        self._report(name)

    def _refuse(self, name: str, wanted: Deployment, known: Deployment | None, error: ArgosyError) -> None:
        """Say no. It is only remembered where nothing is lost by it: what is in force may be in its probation."""
        log.warning("model.refused", model=name, version=wanted.version, code=error.code, why=error.message)
        if known is None or known.state in (State.REFUSED, State.ROLLED_BACK):
            self._remember_if_possible(name, wanted.followed("refuse", error_part(error)))
        self._tell(name, wanted.rollout, wanted.version, State.REFUSED, error_part(error))

    def _try(self, name: str, deployment: Deployment) -> None:
        """Put a version in force that is on disk, or go back: step 5."""
        deployment = deployment.model_copy(update={"attempts": deployment.attempts + 1})
        self._store.remember(name, deployment)
        about = f"{name}:{deployment.version}"
        if deployment.attempts > MAX_ATTEMPTS:
            why = f"the board itself went down {MAX_ATTEMPTS} times while it was loaded"
            self._fail(name, deployment, ModelMisfit(model=about, why=why))
            return
        self._store.activate(name, deployment.version)
        try:
            self._loaded[name] = self._inference.load(name)
        except Exception as error:  # noqa: BLE001  (whatever it is, the version before must answer again)
            self._fail(name, deployment, _named(error))
            return
        active = deployment.followed("loaded").model_copy(update={"attempts": 0})
        self._store.remember(name, active)
        if active.downward:
            self._store.forget_previous(name)
        self._store.tidy(name)
        log.info("model.active", model=about, backend=self._loaded[name].backend)
        self._watch(name, active)
        self._report(name)

    def _fail(self, name: str, deployment: Deployment, error: ArgosyError) -> None:
        """Go back from a version that does not do, and say why."""
        log.warning("model.failed_here", model=name, version=deployment.version, code=error.code, why=error.message)
        failed = deployment.followed("fail", error_part(error))
        self._go_back(name, failed)

    def _go_back(self, name: str, failed: Deployment) -> None:
        """Finish a way back; `failed` is written down first, so that a power cut in between changes nothing."""
        now = self._store.current(name)
        alone = now is not None and (now.previous is None or not self._store.has(name, now.previous))
        if now is not None and now.version == failed.version and alone:
            failed = failed.model_copy(update={"floor": max(failed.floor, failed.version)})
        self._remember_if_possible(name, failed)  # a full disk must not keep a bad version in force
        self._store.go_back(name, failed.version)
        self._watched.pop(name, None)
        self._load_current(name)
        self._store.tidy(name)
        self._report(name)

    def _remember_if_possible(self, name: str, deployment: Deployment) -> None:
        try:
            self._store.remember(name, deployment)
        except ArgosyError as error:
            log.warning("model.not_remembered", model=name, code=error.code, why=error.message)

    def _load_current(self, name: str) -> None:
        """Load what is in force, by itself: no order is about it."""
        self._loaded.pop(name, None)
        now = self._store.current(name)
        try:
            if now is None:
                self._inference.unload(name)
                return
            self._store.checked(name, now.version, self._arrival.root_pem)
            self._loaded[name] = self._inference.load(name)
        except Exception as error:  # noqa: BLE001  (no order is about it: there is nobody to tell but the log)
            log.error("model.unusable", model=name, version=now.version if now else None, exc=error)

    def _withdraw(self, body: Withdraw) -> None:
        """Put a version out of force. It never puts another one in its place: that takes a signature."""
        name, now = body.name, self._store.current(body.name)
        error = error_part(ModelWithdrawn(model=f"{name}:{body.version}"))
        if now is None or now.version != body.version:
            self._tell(name, body.rollout, body.version, State.ROLLED_BACK, error)
            return
        self._store.forget_previous(name)
        active = Deployment(rollout=body.rollout, version=body.version, state=State.ACTIVE)
        self._go_back(name, active.followed("withdraw", error))

    # --- at the start

    def _resume_all(self) -> None:
        for name in self._store.names():
            try:
                self._resume(name)
                self._store.tidy(name)
            except Exception as error:  # noqa: BLE001  (the other models are to be loaded all the same)
                log.error("model.not_resumed", model=name, exc=error)

    def _resume(self, name: str) -> None:
        """Go on with a model as `deployment.RESUME` says."""
        deployment, now = self._store.deployment(name), self._store.current(name)
        if deployment is not None and deployment.state is State.TRYING and self._store.has(name, deployment.version):
            self._resume_trying(name, deployment)
        elif deployment is not None and deployment.state is State.ACTIVE:
            self._resume_active(name, deployment)
        elif deployment is not None and deployment.state is State.ROLLED_BACK:
            self._go_back(name, deployment)
        elif now is not None:
            self._load_current(name)

    def _resume_trying(self, name: str, deployment: Deployment) -> None:
        try:
            self._store.checked(name, deployment.version, self._arrival.root_pem)
        except ModelError as error:
            self._fail(name, deployment, error)
            return
        self._try(name, deployment)

    def _resume_active(self, name: str, deployment: Deployment) -> None:
        now, about = self._store.current(name), f"{name}:{deployment.version}"
        if now is None or now.version != deployment.version:
            self._fail(name, deployment, ModelUnsteady(model=about, why="the card lost that it was in force"))
            return
        try:
            self._store.checked(name, now.version, self._arrival.root_pem)
            self._loaded[name] = self._inference.load(name)
        except ModelError as error:
            self._fail(name, deployment, error)
            return
        except ArgosyError as error:  # of the board, and not of the version
            log.error("model.not_loaded", model=about, code=error.code, why=error.message)
        self._watch(name, deployment)

    # --- probation, and reports

    def _watch(self, name: str, deployment: Deployment) -> None:
        now, in_probation = self._clock.monotonic(), deployment.probation_s > 0
        self._watched[name] = _Watched(
            report_at=now + (deployment.report_s if in_probation else self._report_s),
            probation_ends_at=now + deployment.probation_s if in_probation else None,
        )

    def _look(self, name: str) -> None:
        """See how a version in force does: go back from it while it is in probation, or report."""
        deployment, watched = self._store.deployment(name), self._watched.get(name)
        if deployment is None or watched is None or deployment.state is not State.ACTIVE:
            self._watched.pop(name, None)
            return
        if watched.probation_ends_at is not None:
            served = self._inference.served(name) or Served()
            if served.requests >= LEAST_REQUESTS and served.errors > deployment.max_errors * served.requests:
                why = f"{served.errors} of {served.requests} requests failed"
                self._fail(name, deployment, ModelUnsteady(model=f"{name}:{deployment.version}", why=why))
                return
        self._report(name)
        now = self._clock.monotonic()
        if watched.probation_ends_at is not None and now >= watched.probation_ends_at:
            watched.probation_ends_at = None
            log.info("model.probation_over", model=f"{name}:{deployment.version}")
        watched.report_at = now + (self._report_s if watched.probation_ends_at is None else deployment.report_s)

    def _report_all(self) -> None:
        for name in self._store.names():
            self._report(name)

    def _report(self, name: str) -> None:
        """Tell where a model stands."""
        deployment = self._store.deployment(name)
        if deployment is not None:
            self._tell(name, deployment.rollout, deployment.version, deployment.state, deployment.error)

    def _tell(self, name: str, rollout: int, version: int, state: State, error: ErrorPart | None = None) -> None:
        now, loaded = self._store.current(name), self._loaded.get(name)
        active = state is State.ACTIVE
        served = (self._inference.served(name) if active else None) or Served()
        body = ModelState(
            rollout=rollout,
            name=name,
            version=version,
            state=_SAID[state],
            error=error,
            in_force=served.version or (now.version if now else None),
            backend=loaded.backend if loaded else "",
            ran_on=loaded.ran_on if loaded else "",
            p50_ms=served.p50_ms if served.p50_ms is not None else loaded.p50_ms if loaded else None,
            p95_ms=served.p95_ms if served.p95_ms is not None else loaded.p95_ms if loaded else None,
            requests=served.requests,
            errors=served.errors,
            drift=served.drift,
        )
        self._post(body)


def _same(one: Order, other: Order) -> bool:
    return type(one) is type(other) and (one.rollout, one.version) == (other.rollout, other.version)


def _named(error: Exception) -> ArgosyError:
    """Return an error that can be told."""
    return error if isinstance(error, ArgosyError) else ProgrammingError(what=f"{type(error).__name__}: {error}")
