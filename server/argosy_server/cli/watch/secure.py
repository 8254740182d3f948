"""What a secure run says of itself: who may learn what, and what each round's sum is of. Pure: events in, words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from argosy_server.cli.watch.rounds import Round, numbers
from argosy_server.cli.words import clean, count, ranges, secure_text

Data = Mapping[str, Any]
Names = Mapping[str, str]


def summed(groups: Sequence[Data]) -> Data:
    """Return the metrics of a phase's groups as one `phase-finished` tells them: weighted means, and their weight."""
    sums = [group for group in groups if group.get("summed")]
    parts = [(float(group.get("weight") or 0), numbers(group.get("metrics"))) for group in sums]
    total = sum(weight for weight, _ in parts)
    if not total:
        return {}
    common = set(parts[0][1]).intersection(*(metrics for _, metrics in parts[1:]))
    means = {name: sum(weight * metrics[name] for weight, metrics in parts) / total for name in sorted(common)}
    return {"metrics": {**means, "num-examples": total}}


def about(settings: Data | None, rounds: Sequence[Round]) -> str:
    """Return what a run's card says of secure aggregation; empty where there is none."""
    if not settings or not settings.get("enabled"):
        return ""
    lines = [secure_text(settings).rstrip(".")]
    groups = [group for one in rounds for phase in one.phases.values() for group in phase.groups]
    weights = {"powers": "powers of two", "equal": "all equal", "exact": "as they are"}
    field = f"mod {settings.get('prime')}; weights: {weights.get(str(settings.get('weights')), '?')}"
    if groups:
        least = min(groups, key=lambda group: _number(group, "anonymity"))
        lines.append(
            f"any {least.get('needed')} of {least.get('holders')} holders finish a round; "
            f"each update is hidden among {least.get('anonymity')}"
        )
        field = f"{count(int(least.get('colluding') or 0), 'holder')} may collude with the coordinator; {field}"
    return "\n".join([*lines, field])


@dataclass(frozen=True)
class Sums:
    """What the groups of one phase come to together."""

    groups: int
    failed: int
    devices: int
    summed: int
    holders: int
    answers: int
    unchecked: bool

    @classmethod
    def of(cls, groups: Sequence[Data]) -> Sums:
        """Add up groups; one that came to no sum has nobody in it."""
        done = [group for group in groups if not group.get("error")]
        return cls(
            groups=len(groups),
            failed=len(groups) - len(done),
            devices=sum(_number(group, "devices") for group in groups),
            summed=sum(len(group.get("summed") or ()) for group in done),
            holders=sum(_number(group, "holders") for group in groups),
            answers=sum(_number(group, "answers") for group in groups),
            unchecked=any(not group.get("checked") for group in done),
        )


def sums_of(one: Round) -> Sums | None:
    """Return the sums of the round's phase that lacks the most devices; None where nothing is summed under a mask."""
    found = [Sums.of(phase.latest_groups) for phase in one.phases.values() if phase.latest_groups]
    return max(found, key=lambda sums: (sums.devices - sums.summed, sums.unchecked), default=None)


def newest(rounds: Sequence[Round]) -> tuple[str, bool] | None:
    """Return a short line on the newest sum, and whether all is well with it; None where there is none."""
    found = [(one, phase) for one in rounds for phase in one.phases.values() if phase.latest_groups]
    if not found:
        return None
    one, phase = found[-1]
    sums = Sums.of(phase.latest_groups)
    told = [
        f"newest sum: round {one.number} {clean(phase.name)}",
        f"{sums.summed} of {count(sums.devices, 'device')}",
        f"{sums.answers} of {sums.holders} holders",
        *([f"{sums.failed} of {count(sums.groups, 'group')} failed"] if sums.failed else []),
        *(["unchecked"] if sums.unchecked else []),
    ]
    return ", ".join(told), not (sums.failed or sums.unchecked)


def notes(rounds: Sequence[Round], names: Names) -> list[str]:
    """Return a line for each thing about sums that a person should know; what comes again, once with its rounds."""
    found: dict[tuple[str, str], list[int]] = {}
    for one in rounds:
        for name, phase in one.phases.items():
            for group in phase.groups:
                for note in _notes_of(group, names):
                    found.setdefault((clean(name), note), []).append(one.number)
    return [
        f"{'rounds' if len(set(numbers)) > 1 else 'round'} {ranges(numbers)} {name}: {note}"
        for (name, note), numbers in found.items()
    ]


def _notes_of(group: Data, names: Names) -> list[str]:
    found: list[str] = []
    if group.get("error"):
        return found  # told among the errors
    if not group.get("checked"):
        found.append("unchecked: just as many holders answered as needed, so no wrong sum would show")
    if group.get("wrong"):
        who = _named(group["wrong"], names)
        found.append(f"wrong sums were put right; from {who}, or a client sent malformed shares")
    if group.get("dropped"):
        found.append(f"left out for malformed shares: {_named(group['dropped'], names)}")
    if group.get("complaints") and not group.get("dropped"):
        found.append(f"holders complain of the shares of {_named(list(group['complaints']), names)}")
    if group.get("wrapped"):
        found.append(f"{group['wrapped']} of {group.get('blocks')} blocks of the sum overflowed and count as zero")
    if group.get("capped"):
        found.append(f"the weights of {count(int(group['capped']), 'device')} were cut; the next round allows for more")
    if group.get("metrics_missing"):
        found.append(f"not all devices report {', '.join(map(clean, group['metrics_missing']))}")
    return found


def outcome(group: Data) -> str:
    """Return what a group's round came to, in a line."""
    which = f" (group {group['group'] + 1})" if group.get("group") else ""
    if group.get("error"):
        error: Data = group["error"]
        return f"not unmasked{which}: {error.get('code')}: {clean(error.get('message', ''))}"
    needed, answers = _number(group, "needed"), _number(group, "answers")
    enough = f"{answers} of {needed} holders needed answered"
    asked = count(_number(group, "devices"), "device")
    return (
        f"summed {len(group.get('summed') or ())} of {asked} under the mask{which}: "
        f"{enough if answers <= needed else f'{answers} holders answered, {needed} needed'}"
        f"{'' if group.get('checked') else ', unchecked'}"
    )


def _number(group: Data, name: str) -> int:
    return int(group.get(name) or 0)


def _named(devices: Sequence[str], names: Names) -> str:
    return ", ".join(clean(names.get(device, device)) for device in devices)
