"""Rollouts of models: which version may go out, what boards are told of it, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from argosy_common import x509
from argosy_common.clock import Clock
from argosy_common.errors import (
    ArgosyError,
    RolloutNotFound,
    RolloutStateForbids,
    RolloutUnderWay,
    RolloutUnsuitable,
)
from argosy_common.wire.bodies import Body, ModelState
from argosy_server.models.deploys import Deploys
from argosy_server.models.drifting import Drift
from argosy_server.models.driver import Driver
from argosy_server.models.held import Held, Told
from argosy_server.models.rollout import TRANSITIONS, MemberState, Report, Ring, RolloutState
from argosy_server.store import RolloutRow, Store

KEPT = ("backend", "ran_on", "p50_ms", "drift")
"""What is kept of a report for people to see; the engine does not look at it."""


class Rollouts(Driver[ModelState]):
    """All rollouts of models; see `Driver`.

    Args:
        signer: returns the key that signs models, and its chain.
    """

    area = "model"

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        post: Callable[[str, Body], bool],
        online: Callable[[], Collection[str]],
        signer: Callable[[], tuple[x509.PrivateKey, str]],
        resend_s: float,
    ) -> None:
        super().__init__(store, clock=clock, post=post, online=online, resend_s=resend_s)
        self._deploys = Deploys(store, signer)

    # --- for operators

    def start(self, reference: str, rings: Sequence[Ring], actor: str) -> int:
        """Begin to roll out a version; return the rollout's number.

        Raises:
            ModelNotFound: there is no such version.
            RolloutUnderWay: another version of the model is on its way.
            RolloutUnsuitable: it cannot be rolled out so.
        """
        model = self._store.models.get(reference)
        self._deploys.check(model)
        with self._lock:
            self._check_rings(model.reference, rings)
            latest = self._latest(model.name)
            self._check_idle(latest)
            out = latest.rollout.target if latest else None
            if latest is not None and model.version == out:
                out = self._before_again(latest, model.reference)
            if out is not None and model.version < out:
                why = f"version {out} is out, and boards take a lower one only as a rollback: `argosy model rollback`"
                raise RolloutUnsuitable(model=model.reference, why=why)
            number = self._begin(model.name, model.version, out, rings, actor)
        self._begin_at_once()
        return number

    def roll_back(self, reference: str, actor: str) -> int:
        """Have the boards go back to a lower version, or to the one before; return the number of the rollout that does.

        Raises:
            ModelNotFound, RolloutNotFound: there is no such version, or nothing was ever rolled out.
            RolloutUnderWay, RolloutStateForbids, RolloutUnsuitable: that cannot be done now, or at all.
        """
        name, _, version = reference.partition(":")
        with self._lock:
            latest = self._find(name)
            current = latest.rollout
            wanted = self._store.models.get(reference).version if version else current.previous
            goes_down = current.previous is None or current.previous < current.version
            if goes_down and wanted == current.previous and (current.state, "stop") in TRANSITIONS:
                return self.follow(str(current.id), "stop", actor)
            if not version:
                why = f"rollout {current.id} is {current.state.value}: name the version to go back to, as NAME:VERSION"
                raise RolloutUnsuitable(model=name, why=why)
            self._check_idle(latest)
            if current.target is None or wanted is None or wanted >= current.target:
                out = "none" if current.target is None else f"version {current.target}"
                raise RolloutUnsuitable(
                    model=reference, why=f"a rollback goes to a lower version than what is out: {out}"
                )
            number = self._begin(name, wanted, current.target, [Ring(share=1.0, hold_s=0.0, max_errors=None)], actor)
        self._begin_at_once()
        return number

    def drifts(self) -> list[Drift]:
        """Return what boards last told of the drift of the versions that are out, a version each."""
        with self._lock:
            found: dict[str, dict[str, float]] = {}
            governed: set[tuple[str, str]] = set()
            for held in reversed(self._held.values()):
                rollout = held.rollout
                for device, member in rollout.members.items():
                    if (rollout.name, device) in governed:
                        continue
                    governed.add((rollout.name, device))
                    row = held.seen.get(device)
                    drift = row.report.get("drift") if row else None
                    if drift is not None and member.in_force is not None:
                        found.setdefault(f"{rollout.name}:{member.in_force}", {})[device] = float(drift)
            return [Drift(model, by_device) for model, by_device in sorted(found.items())]

    # --- for devices

    def may_serve(self, device: str, digest: bytes) -> bool:
        """Tell whether a device may fetch a blob: it is one of the version that it was sent and has not answered."""
        with self._lock:
            for held in self._held.values():
                member = held.rollout.members.get(device)
                if member is None or not member.was_sent or held.rollout.settled(device):
                    continue
                if digest in self._deploys.digests(held.rollout):
                    return True
        return False

    # --- inside

    def _before_again(self, latest: Held, reference: str) -> int | None:
        """Return what was before a version that is out, and is rolled out again for the boards that refused it."""
        rollout = latest.rollout
        if rollout.state is not RolloutState.FINISHED or all(map(rollout.took, rollout.members)):
            raise RolloutUnsuitable(model=reference, why="it is the version that is out already")
        return rollout.previous if rollout.previous is not None and rollout.previous < rollout.version else None

    def _has(self, row: RolloutRow) -> bool:
        return not row.label

    def _message(self, held: Held) -> Body:
        return self._deploys.message(held.rollout)

    def _told(self, held: Held, body: ModelState) -> Told | None:
        if held.rollout.name != body.name:
            return None
        report = Report(
            version=body.version,
            state=MemberState(body.state),
            in_force=body.in_force,
            requests=body.requests,
            errors=body.errors,
            p95_ms=body.p95_ms,
        )
        return Told(body.rollout, report, body.error, {key: getattr(body, key) for key in KEPT})

    def _about(self, row: RolloutRow) -> dict[str, Any]:
        return {"model": row.reference, "name": row.name, "version": row.version, "previous": row.previous}

    def _not_found(self, key: str) -> ArgosyError:
        return RolloutNotFound(rollout=key)

    def _forbids(self, held: Held, verb: str) -> ArgosyError:
        return RolloutStateForbids(rollout=held.row.id, state=held.rollout.state.value, verb=verb)

    def _under_way(self, held: Held) -> ArgosyError:
        return RolloutUnderWay(rollout=held.row.id, model=held.row.reference, state=held.rollout.state.value)

    def _unsuitable(self, what: str, why: str) -> ArgosyError:
        return RolloutUnsuitable(model=what, why=why)
