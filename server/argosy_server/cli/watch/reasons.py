"""The words of an explanation: how a phase ended, and why a device did not count. Pure; devices' text is cleaned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from argosy_server.cli.watch.explanation import (
    ABSENT,
    COUNTED,
    FAILED,
    LATE,
    LEFT_OUT,
    LOST,
    NOT_ASKED,
    NOT_NEEDED,
    UNDER_WAY,
    WAITING,
    Part,
    PhaseStory,
    Step,
)
from argosy_server.cli.watch.rounds import NOT_FAILURES
from argosy_server.cli.words import clean, count, duration

Data = Mapping[str, Any]
NameOf = Callable[[str], str]

_IN_OUR_WORDS = {
    "app-raised": "its app raised {why}",
    "device-lost": "went away and did not come back within {grace_s} s",
    "reply-timed-out": "had not answered after {seconds} s, the most that it may take",
    "worker-died": "its worker died while it ran the app: {why}",
    "worker-out-of-memory": "its worker used {used_mb} MB, more than its limit of {limit_mb} MB, and was stopped",
    "worker-timed-out": "its worker ran longer than {limit_s} s and was stopped",
}
"""Errors as they read after a device's name; others are told by their own message."""

_DROPPED = frozenset({"instruction-cancelled", "instruction-expired"})
_PAST_DEADLINE = 1.05
"""A phase that took so many times its deadline did not end on it: it had to wait for its quorum."""


def ended(phase: PhaseStory) -> str:
    """Return how a phase ended, in one sentence without a full stop: `ended on its deadline of 3.20 s with …`."""
    if not phase.exchanges:
        return "nobody was asked"
    if phase.asynchronous:
        return _given(phase)
    first = phase.exchanges[0]
    asked = len(set(first.asked)) or len(phase.asked)
    told = _settled(phase, first.settled, asked) if first.settled else _plainly(phase, first.seconds, asked)
    again = len({device for each in phase.exchanges[1:] for device in each.asked})
    if not again:
        return told
    more = sum(each.seconds or 0.0 for each in phase.exchanges[1:])
    lacking = "it" if asked == 1 else f"{again} of them"
    return f"{told}; {lacking} lacked the model, and to ask again took {duration(more)} more"


def _settled(phase: PhaseStory, data: Data, asked: int) -> str:
    """Tell the end of a phase that ends on time, by what the coordinator says of it."""
    found = len(data["counted"]) if isinstance(data.get("counted"), Mapping) else len(phase.with_outcome(COUNTED))
    took, deadline = duration(data.get("seconds")), data.get("deadline_s")
    needed = _needed(data.get("quorum"), asked)
    need = f"; {needed} {'was' if needed == 1 else 'were'} needed" if needed is not None else ""
    match data.get("how"):
        case "all" if found == asked:
            return f"ended after {took}, when {_all(asked)} had answered"
        case "all":
            return f"ended after {took}, when there was nobody left to wait for; {found} of {asked} counted"
        case "enough":
            enough = data.get("enough")
            return f"ended after {took} with {found} of {asked}" + (f"; {enough} are enough" if enough else "")
        case "deadline" if deadline and (data.get("seconds") or 0.0) > deadline * _PAST_DEADLINE:
            return f"ended after {took} with {found} of {asked}, past its deadline of {duration(deadline)}{need}"
        case "deadline":
            return f"ended on its deadline of {duration(deadline or data.get('seconds'))} with {found} of {asked}{need}"
        case "timeout":
            return f"ended after {took}, the most that it may take, with {found} of {asked}{need}"
        case how:
            return f"ended after {took} ({clean(how)}) with {found} of {asked}{need}"


def _plainly(phase: PhaseStory, seconds: float | None, asked: int) -> str:
    """Tell the end of a phase that waits for everybody, or that it has none yet."""
    answered = len(phase.with_outcome(COUNTED, LEFT_OUT))
    if not phase.done:
        return f"under way; {answered} of {asked} have answered"
    everybody = all(part.replied for part in phase.asked)
    if seconds is None and not everybody:
        return f"broken off when the run ended; {answered} of {asked} had answered"
    failed, late = len(phase.with_outcome(FAILED, LOST)), len(phase.with_outcome(LATE, NOT_NEEDED))
    whole = _all(asked) if answered == asked else f"{answered} of {asked}"
    return (
        f"{f'ended after {duration(seconds)}; ' if seconds is not None else ''}{whole} answered"
        + (f", {failed} failed" if failed else "")
        + (f", {late} late" if late else "")
    )


def _given(phase: PhaseStory) -> str:
    """Tell what became of what was handed out towards a step of an asynchronous run."""
    taken, under_way = len(phase.with_outcome(COUNTED)), len(phase.with_outcome(UNDER_WAY))
    waiting, lost = len(phase.with_outcome(WAITING)), len(phase.with_outcome(FAILED, LOST, LATE, NOT_NEEDED))
    parts = [
        *([f"{count(taken, 'update')} counted"] if taken else []),
        *([f"{waiting} {'wait' if waiting > 1 else 'waits'} for the next step"] if waiting and not phase.over else []),
        *([f"{waiting} came after the last step"] if waiting and phase.over else []),
        *([f"{under_way} under way"] if under_way else []),
        *([f"{lost} did not come"] if lost else []),
    ]
    return f"handed out {_times(len(phase.asked))}; {', '.join(parts)}"


def stepped(step: Step) -> str:
    """Return what a step of an asynchronous run was made of."""
    made = f"made of {count(len(step.updates), 'update')}"
    took = f" in {duration(step.seconds)}" if step.seconds is not None else ""
    old = f", {_steps(step.staleness)} old on average" if step.staleness is not None else ""
    return f"{made}{took}{old}"


def selected(phase: PhaseStory, name_of: NameOf) -> str:
    """Return whom the phase asked and waited for; empty where that is not told."""
    data = phase.selection
    if not data:
        return ""
    wanted, asked, selector = data.get("wanted"), len(phase.asked), clean(data.get("selector") or "?")
    more = asked - wanted if isinstance(wanted, int) else 0
    drew = f", {abs(more)} {'more' if more > 0 else 'fewer'} than the strategy drew" if more else ""
    heard = [clean(name_of(part.device)) for part in phase.parts if part.heard]
    slow = f"; waited for although slow: {', '.join(heard)}" if heard else ""
    return f"{count(asked, 'device')} asked{drew}; selector {selector}{slow}"


def why(phase: PhaseStory, part: Part, name_of: NameOf) -> str:
    """Return why a device did not count, as it reads after its name; empty where it did."""
    outcome = phase.outcome(part)
    if outcome == NOT_ASKED:
        return f"was not asked: {clean((part.spared or {}).get('why') or (part.spared or {}).get('code') or '?')}"
    if outcome == ABSENT:
        return "was not asked: was not online, or not drawn"
    if outcome == LEFT_OUT:
        return f"is not in the sum: {_message(phase.kept_out(part), part, name_of) or 'no reason is told'}"
    if outcome == LATE and not part.replied:
        return "had not answered when the run ended" if phase.over else "gave no answer"
    if outcome == LATE:
        return _late(phase, part)
    if outcome == NOT_NEEDED:
        return _shard(part.error or {}, name_of)
    if outcome == WAITING and phase.over:
        return "its update came after the last step"
    if outcome == LOST and code(phase, part) == "cut-off":
        return (
            f"had gone away, and was not back after {duration(part.seconds)}, when {_whole(phase)}{_afterwards(part)}"
        )
    if outcome in {FAILED, LOST}:
        return _message(part.error or {}, part, name_of) + _afterwards(part)
    return ""


def remedy(phase: PhaseStory, part: Part) -> str:
    """Return what to do about a device that did not count; empty where there is nothing to do."""
    if phase.outcome(part) not in {FAILED, LOST, LEFT_OUT} or code(phase, part) in NOT_FAILURES:
        return ""
    error = part.error or phase.kept_out(part)
    return clean(error.get("remedy") or "")


def not_counted(data: Data, name_of: NameOf) -> str:
    """Return why a `device-reply` did not count that is no failure, while its phase still goes on."""
    error: Data = data.get("error") or {}
    if error.get("code") == "shard-counted":
        return _shard(error, name_of)
    return f"it had not answered after {duration(data.get('seconds'))}"


def code(phase: PhaseStory, part: Part) -> str | None:
    """Return the code of what kept a device from counting; None where nothing did, or nothing is known."""
    told = {NOT_ASKED: part.spared, LEFT_OUT: phase.kept_out(part) if phase.outcome(part) == LEFT_OUT else None}
    found = told.get(phase.outcome(part), part.error)
    return clean(found["code"]) if found and found.get("code") else None


def _late(phase: PhaseStory, part: Part) -> str:
    """Tell of a device that was waited for no longer."""
    took = duration(part.seconds)
    if (part.error or {}).get("code") == "reply-timed-out":
        return f"had not answered after {took}, the most that it may take{_afterwards(part)}"
    if phase.asynchronous:
        return f"had not answered after {took}, when the run ended{_afterwards(part)}"
    return f"had not answered after {took}, when {_whole(phase)}{_afterwards(part)}"


def _whole(phase: PhaseStory) -> str:
    return f"the round ended with {len(phase.with_outcome(COUNTED, LEFT_OUT))} of {len(phase.asked)}"


def _afterwards(part: Part) -> str:
    """Tell what still came from a device when its phase was over."""
    if part.late is None:
        return ""
    after = duration(part.late.get("late_s"))
    error = part.late.get("error")
    if not error:
        return f"; its answer came {after} too late"
    if error.get("code") in _DROPPED:
        return f"; it dropped the work {after} later, as it was told to"
    return f"; it failed {after} later: {clean(error.get('message') or error.get('code')).rstrip('.')}"


def _shard(error: Data, name_of: NameOf) -> str:
    facts = error.get("facts") or {}
    by = facts.get("by")
    who = f"by {clean(name_of(str(by)))}" if by else "by another board"
    if not facts.get("shard"):
        return f"its shard was counted already, {who}"
    return f"shard {clean(facts['shard'])} of site {clean(facts.get('site', '?'))} was counted already, {who}"


def _message(error: Data, part: Part, name_of: NameOf) -> str:
    """Return an error as it reads after a device's name, with the name in the place of its id."""
    ours = _IN_OUR_WORDS.get(str(error.get("code")))
    facts = error.get("facts")
    if ours and isinstance(facts, Mapping):
        try:
            return clean(ours.format_map(facts)).rstrip(".")
        except KeyError:
            pass
    told = str(error.get("message") or error.get("code") or "")
    return clean(told.replace(part.device, name_of(part.device))).rstrip(".")


def _needed(quorum: object, asked: int) -> int | None:
    """Return how many answers a quorum is: a number of them, or a share of those asked."""
    if isinstance(quorum, bool) or not isinstance(quorum, int | float):
        return None
    return int(quorum) if isinstance(quorum, int) or quorum > 1 else math.ceil(quorum * asked)


def _all(asked: int) -> str:
    return "the only one asked" if asked == 1 else f"all {asked}"


def _times(often: int) -> str:
    return "once" if often == 1 else f"{often} times"


def _steps(value: float) -> str:
    return "1 step" if value == 1 else f"{value:.1f} steps"
