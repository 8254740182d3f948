"""What a phase's groups come to: one content for the strategy, and a plain account of each group for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from argosy_common.errors import ArgosyError, ReplyInvalid, SecureTooFewDevices
from argosy_common.flower.secure.reply import aggregate
from argosy_common.flower.secure.session import GroupSession
from argosy_common.flower.secure.vectors import moved
from argosy_common.secagg.holder import form_of
from argosy_common.secagg.parameters import FEWEST_CLIENTS
from argosy_common.secagg.round import GroupSum


@dataclass(frozen=True)
class Outcome:
    """See the module.

    Attributes:
        sums: the groups that came to a sum.
        error: why there is none, where there is none.
        weight_key: the metric that is the weight.
    """

    sums: tuple[GroupSession, ...]
    error: ArgosyError
    weight_key: str

    def content(self, base: ArrayRecord | None) -> RecordDict:
        """Return the one reply's content: the groups' means, weighted."""
        sums = [session.sum for session in self.sums if session.sum is not None]
        total = sum(each.tally.weight for each in sums)
        form = sums[0].form
        content = RecordDict()
        if base is not None:
            mean = sums[0].mean
            if len(sums) > 1:
                mean = np.sum([each.mean * np.float64(each.tally.weight / total) for each in sums], axis=0)
            content[form.arrays or "arrays"] = moved(base, np.asarray(mean, np.float32))
        means = tuple(_mean([(each.tally.weight, each.tally.means[slot]) for each in sums]) for slot in _slots(sums))
        content[form.metrics or "metrics"], _ = aggregate(total, means, form.slots, self.weight_key)
        return content

    def described(self, session: GroupSession, round_: int | None, kind: str) -> dict[str, object]:
        """Return a group's round as plain data, for an event."""
        found, announcement = session.sum, session.round.admission.announcement
        parameters = session.round.admission.parameters
        device = session.round.device
        told: dict[str, object] = {
            "round": round_,
            "phase": kind,
            "group": announcement.group,
            "sid": announcement.sid.hex(),
            "p": parameters.p,
            "devices": parameters.n,
            "holders": parameters.A,
            "needed": parameters.U,
            "colluding": parameters.T,
            "anonymity": announcement.n_min - parameters.T_clients,
            "updates": [device(i) for i in session.round.clients],
            "left_out": {device(i): error.to_wire() for i, error in sorted(session.left_out.items())},
            "votes": len(session.round.voters),
            "complaints": {device(i): [device(j) for j in its] for i, its in session.round.complaints.items()},
            "answers": len(session.round.answered),
            "bytes_down": session.traffic[0],
            "bytes_up": session.traffic[1],
            "error": session.error.to_wire() if session.error else None,
        }
        if found is not None:
            metrics, missing = aggregate(found.tally.weight, found.tally.means, found.form.slots, self.weight_key)
            told |= {
                "summed": [device(i) for i in found.members],
                "dropped": [device(i) for i in found.dropped],
                "checked": found.checked,
                "wrong": [device(j) for j in found.wrong],
                "weight": found.tally.weight,
                "capped": found.tally.capped,
                "metrics": dict(metrics),
                "metrics_missing": missing,
                "wrapped": int(found.ring.flagged.sum()),
                "blocks": len(found.ring.flagged),
            }
        return told


def fold(sessions: Sequence[GroupSession], weight_key: str) -> Outcome:
    """Return what groups that are over come to; one whose names differ from the first one's counts as failed."""
    sums = [(session, form_of(session.sum.form)) for session in sessions if session.sum is not None]
    for session, form in sums[1:]:
        if form != sums[0][1]:
            session.sum = None
            session.error = ReplyInvalid(why="its group's records or metrics have other names than the first group's")
    alike = tuple(session for session, _ in sums if session.sum is not None)
    errors = [session.error for session in sessions if session.error is not None]
    missing = SecureTooFewDevices(needed=FEWEST_CLIENTS, what="devices that take part in the round", found=0)
    return Outcome(alike, errors[0] if errors else missing, weight_key)


def _slots(sums: Sequence[GroupSum]) -> range:
    return range(len(sums[0].tally.means))


def _mean(parts: Sequence[tuple[int, float | None]]) -> float | None:
    total = sum(weight for weight, _ in parts)
    values = [value * weight / total for weight, value in parts if value is not None]
    return sum(values) if len(values) == len(parts) else None
