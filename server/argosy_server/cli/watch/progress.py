"""The state of a run, folded from its events. Pure: it takes events and times, and knows neither socket nor terminal.

Events of unknown names and fields are passed over, since the coordinator may be newer than this command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from argosy_server.cli.watch.rounds import (
    NOT_FAILURES,
    Failure,
    Past,
    Phase,
    Round,
    Step,
    merged,
    numbers,
    ratios,
    weight_of,
)
from argosy_server.cli.watch.secure import summed
from argosy_server.cli.words import parse_time

Data = Mapping[str, Any]

OVER = frozenset({"finished", "failed", "stopped"})
PHASE_SHARE = {"query": (0.0, 0.2), "train": (0.0, 0.7), "evaluate": (0.7, 0.3)}
"""Where in a round a phase begins and how much of it the phase is: for the progress bar only."""


class RunProgress:
    """A run as far as its events tell. Begin with the API's run, then `apply` each event in order."""

    def __init__(self, run: Data) -> None:
        self.number = int(run["run"])
        self.app = str(run["app"])
        self.strategy: str | None = run.get("strategy")
        self.total: int | None = run.get("rounds")
        self.status = str(run["status"])
        self.error: Data | None = run.get("error")
        self.final_model: str | None = run.get("final_model")
        self.started_at = parse_time(run.get("started_at"))
        self.finished_at = parse_time(run.get("finished_at"))
        self.seconds: float | None = None
        self.waiting: tuple[int, int] | None = None
        """Devices online and wanted, while too few are there."""
        self.current: tuple[int, str] | None = None
        self.codec: Data | None = (run.get("options") or {}).get("codec")
        self.secure: Data | None = (run.get("options") or {}).get("secure")
        """How updates are summed under masks; None where they are not."""
        self.ways: Counter[str] = Counter()
        """How many replies fetched large blobs by which way: `https`, `mqtt`."""
        self.rounds: dict[int, Round] = {}
        self.failures: list[Failure] = []
        self.steps: int | None = None
        """The newest step of an asynchronous run; None in one with rounds."""
        self.busy: set[str] = set()
        """The devices that owe an answer."""
        self.last_seq = 0

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status in OVER

    @property
    def devices(self) -> set[str]:
        """All devices that were asked at least once."""
        return {device for r in self.rounds.values() for phase in r.phases.values() for device in phase.devices}

    def ratios(self) -> tuple[float | None, float | None]:
        """How many times more bytes all rounds would take at full precision, up and down."""
        return ratios([phase for one in self.rounds.values() for phase in one.phases.values()])

    def settle(self, run: Data) -> None:
        """Take over how the run stands by the database, which has the last word on its end."""
        self.status, self.error = str(run["status"]), run.get("error")
        self.total = self.total or run.get("rounds")
        self.strategy = self.strategy or run.get("strategy")
        self.final_model = run.get("final_model") or self.final_model
        self.started_at = parse_time(run.get("started_at")) or self.started_at
        self.finished_at = parse_time(run.get("finished_at"))

    def apply(self, event: Data) -> None:
        """Fold one event in; one that was seen before changes nothing."""
        if int(event["seq"]) <= self.last_seq:
            return
        self.last_seq = int(event["seq"])
        step = _STEPS.get(str(event["name"]))
        if step is not None:
            step(self, event["data"], parse_time(event.get("at")))

    def elapsed(self, now: datetime) -> float | None:
        """Seconds from the start to the end, or to `now`."""
        if self.seconds is not None:
            return self.seconds
        if self.started_at is None:
            return None
        return ((self.finished_at or now) - self.started_at).total_seconds()

    def fraction(self) -> float | None:
        """How much of the run is done, 0 … 1; None when the number of rounds is not known."""
        if self.status == "finished":
            return 1.0
        if not self.total:
            return None
        if self.steps is not None:
            return min(1.0, self.steps / self.total)
        if self.current is None:
            return 0.0
        number, name = self.current
        begins, share = PHASE_SHARE.get(name, (0.0, 0.0))
        phase = self.rounds[number].phases.get(name) if number in self.rounds else None
        answered = (phase.replied + phase.failed + len(phase.late)) / phase.sent if phase and phase.sent else 0.0
        within = 1.0 if self.rounds[number].central else begins + share * (1.0 if phase and phase.done else answered)
        return min(1.0, max(0.0, (number - 1 + within) / self.total))

    def _started(self, data: Data, at: datetime | None) -> None:
        self.status = "running"
        self.started_at = self.started_at or at
        self.strategy = data.get("strategy") or self.strategy
        self.total = data.get("rounds") or self.total

    def _resumed(self, _data: Data, _: datetime | None) -> None:
        """The coordinator is back; a phase that was under way is begun, and told of, anew."""
        self.waiting = None
        self.busy.clear()
        for one in self.rounds.values():
            one.phases = {name: phase for name, phase in one.phases.items() if phase.done}

    def _waiting(self, data: Data, _: datetime | None) -> None:
        self.waiting = (int(data.get("online") or 0), int(data.get("wanted") or 0))

    def _phase_started(self, data: Data, _: datetime | None) -> None:
        self.waiting = None
        phase = self._phase(data)
        devices = tuple(str(device) for device in data.get("devices", ()))
        if phase.done and data.get("round") is None:  # outside rounds, each exchange stands for itself
            phase = self._round(data).phases[phase.name] = Phase(phase.name, devices)
        elif phase.done:
            phase.again(devices)
        else:
            phase.ask(devices)
        self.busy.update(devices)
        self.current = (_number(data), phase.name)

    def _reply(self, data: Data, _: datetime | None) -> None:
        phase = self._phase(data)
        device = str(data.get("device", "?"))
        error = failure(data) if data.get("error") else None
        phase.answer(device, error=error.code if error else None)
        if error and error.code not in NOT_FAILURES:
            self.failures.append(error)
        self.busy.discard(device)
        if data.get("via"):
            self.ways[str(data["via"])] += 1
        phase.bytes_up += int(data.get("bytes_up") or 0)
        phase.bytes_down += int(data.get("bytes_down") or 0)

    def _phase_finished(self, data: Data, _: datetime | None) -> None:
        phase = self._phase(data)
        phase.done = True
        past = phase.past or Past()
        if phase.past is None:
            phase.replied = int(data.get("replied", phase.replied))
            phase.failed = phase.failed_of(int(data.get("failed", phase.failed)))
        seconds = data.get("seconds")
        phase.seconds = past.seconds + seconds if seconds is not None else phase.seconds
        phase.bytes_up = past.bytes_up + int(data.get("bytes_up") or phase.bytes_up - past.bytes_up)
        phase.bytes_down = past.bytes_down + int(data.get("bytes_down") or phase.bytes_down - past.bytes_down)
        groups = phase.latest_groups
        told = summed(groups) if groups else data
        metrics = numbers(told.get("metrics"))
        weight = weight_of(told)
        for group in groups:  # what its holders were asked and answered
            phase.bytes_up += int(group.get("bytes_up") or 0)
            phase.bytes_down += int(group.get("bytes_down") or 0)
        phase.metrics = merged(past.metrics, past.weight, metrics, weight)
        phase.weight = past.weight + (weight if metrics else 0.0)

    def _codec(self, data: Data, _: datetime | None) -> None:
        self.codec = data

    def _compressed(self, data: Data, _: datetime | None) -> None:
        phase = self._phase(data)
        phase.fp32_up += int(data.get("fp32_up") or 0)
        phase.fp32_down += int(data.get("fp32_down") or 0)

    def _secure(self, data: Data, _: datetime | None) -> None:
        self.secure = data

    def _secure_group(self, data: Data, _: datetime | None) -> None:
        phase = self._phase(data)
        phase.groups.append(data)
        if data.get("error"):
            alone = int(data.get("devices") or 0) >= phase.sent
            who = ALL_DEVICES if alone else f"group {int(data.get('group') or 0) + 1}"
            self.failures.append(failure({**data, "device": who}))

    def _secure_refused(self, data: Data, _: datetime | None) -> None:
        self.failures.append(failure({**data, "phase": f"{data.get('phase', '?')}: {data.get('stage', '?')}"}))

    def _secure_failed(self, data: Data, _: datetime | None) -> None:
        self.failures.append(failure({**data, "device": ALL_DEVICES}))

    def _step(self, data: Data, _: datetime | None) -> None:
        self.steps = _number(data)
        self._round(data).step = Step.of(data)

    def _evaluated(self, data: Data, _: datetime | None) -> None:
        phase = self._phase({**data, "phase": "evaluate"})
        phase.done, phase.metrics = True, numbers(data.get("metrics"))

    def _central(self, data: Data, _: datetime | None) -> None:
        self._round(data).central = numbers(data.get("metrics"))

    def _finished(self, data: Data, at: datetime | None) -> None:
        self.status = str(data.get("status", "finished"))
        self.error = data.get("error")
        self.seconds = data.get("seconds")
        self.final_model = data.get("final_model")
        self.finished_at = at
        self.waiting = None
        self.busy.clear()

    def _round(self, data: Data) -> Round:
        number = _number(data)
        return self.rounds.setdefault(number, Round(number))

    def _phase(self, data: Data) -> Phase:
        name = str(data.get("phase", "?"))
        return self._round(data).phases.setdefault(name, Phase(name))


ALL_DEVICES = "all devices"
"""In place of a device, where nothing could be summed of any; one of several groups is named by its number."""

_STEPS = {
    "run-started": RunProgress._started,
    "run-resumed": RunProgress._resumed,
    "strategy-started": RunProgress._started,
    "waiting-for-devices": RunProgress._waiting,
    "phase-started": RunProgress._phase_started,
    "device-reply": RunProgress._reply,
    "phase-finished": RunProgress._phase_finished,
    "phase-compressed": RunProgress._compressed,
    "codec": RunProgress._codec,
    "secure": RunProgress._secure,
    "secure-group": RunProgress._secure_group,
    "secure-refused": RunProgress._secure_refused,
    "secure-failed": RunProgress._secure_failed,
    "async-step": RunProgress._step,
    "async-evaluation": RunProgress._evaluated,
    "central": RunProgress._central,
    "run-finished": RunProgress._finished,
}


def _number(data: Data) -> int:
    """Return the round of an event; what happens outside rounds (an app's own queries) stands under 0."""
    return int(data.get("round") or 0)


def failure(data: Data) -> Failure:
    """Return the failure that a `device-reply` with an error tells."""
    error: Data = data.get("error") or {}
    return Failure(
        device=str(data.get("device", "?")),
        round=_number(data),
        phase=str(data.get("phase", "?")),
        code=str(error.get("code", "?")),
        message=str(error.get("message", "")),
        remedy=str(error.get("remedy", "")),
    )


def headline(rounds: Iterable[Round], most: int) -> list[tuple[str, str]]:
    """Return the (phase, metric) pairs most worth a column: accuracies first, then losses; central before the rest."""
    found = {
        (phase, name)
        for one in rounds
        for phase in ("central", "evaluate", "train", "query")
        for name in one.metrics(phase)
    }
    return sorted(found, key=_interest)[:most]


def courses(rounds: Sequence[Round]) -> list[tuple[str, str]]:
    """Return the two (phase, metric) pairs worth a curve: of different kinds, say an accuracy and a loss."""
    columns = headline(rounds, most=1000)
    other = [column for column in columns if _kind(column[1]) != _kind(columns[0][1])]
    return [*columns[:1], *other[:1]]


def _kind(name: str) -> int:
    return 0 if "acc" in name.lower() else 1 if "loss" in name.lower() else 2


def _interest(column: tuple[str, str]) -> tuple[int, int, str]:
    phase, name = column
    return (_kind(name), ("central", "evaluate", "train", "query").index(phase), name)


def group_failures(failures: Sequence[Failure]) -> list[tuple[Failure, list[int]]]:
    """Return each distinct failure of a device once, with the rounds in which it happened."""
    groups: dict[tuple[str, str, str, str], tuple[Failure, list[int]]] = {}
    for one in failures:
        key = (one.device, one.phase, one.code, one.message)
        groups.setdefault(key, (one, []))[1].append(one.round)
    return list(groups.values())
