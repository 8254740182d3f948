"""What a secure run says of itself: who may learn what, and what each round's sum is of. Pure: events in, words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from argosy_server.cli.watch.rounds import Round, numbers
from argosy_server.cli.words import clean, count, secure_text

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
    if groups:
        last = groups[-1]
        lines.append(
            f"any {last.get('needed')} of {last.get('holders')} devices finish a round; "
            f"{last.get('colluding')} may collude with the coordinator; each is hidden among {last.get('anonymity')}"
        )
    weights = {"powers": "powers of two", "equal": "all equal", "exact": "as they are"}
    lines.append(f"mod {settings.get('prime')}; weights: {weights.get(str(settings.get('weights')), '?')}")
    return "\n".join(lines)


def notes(rounds: Sequence[Round], names: Names) -> list[str]:
    """Return a line for each thing about a round's sums that a person should know and does not see elsewhere."""
    return [
        f"round {one.number} {clean(name)}: {note}"
        for one in rounds
        for name, phase in one.phases.items()
        for group in phase.groups
        for note in _notes_of(group, names)
    ]


def _notes_of(group: Data, names: Names) -> list[str]:
    found: list[str] = []
    if group.get("error"):
        return found  # told among the errors
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
    unchecked = "" if group.get("checked") else ", unchecked"
    asked = count(int(group.get("devices") or 0), "device")
    return (
        f"summed {len(group.get('summed', ()))} of {asked} under the mask{which}: "
        f"{group.get('answers')} of {group.get('needed')} holders needed answered{unchecked}"
    )


def _named(devices: Sequence[str], names: Names) -> str:
    return ", ".join(clean(names.get(device, device)) for device in devices)
