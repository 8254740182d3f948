"""The state of a run, folded from its events. Pure: it takes events and times, and knows neither socket nor terminal.

Events of unknown names and fields are passed over, since the coordinator may be newer than this command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from argosy_server.cli.words import parse_time

Data = Mapping[str, Any]

OVER = frozenset({"finished", "failed", "stopped"})
PHASE_SHARE = {"query": (0.0, 0.2), "train": (0.0, 0.7), "evaluate": (0.7, 0.3)}
"""Where in a round a phase begins and how much of it the phase is: for the progress bar only."""
_NOT_METRICS = frozenset({"num-examples", "num_examples"})


@dataclass(frozen=True)
class Past:
    """What the earlier exchanges of a phase came to."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    weight: float = 0.0


@dataclass
class Phase:
    """All that one kind of work in a round comes to: devices are sent a message, each answers or fails.

    Mostly one exchange. Those that turn out to lack the model they were sent a change to are asked again, in another.
    """

    name: str
    devices: tuple[str, ...] = ()
    replied: int = 0
    failed: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    fp32_up: int = 0
    fp32_down: int = 0
    """What the same arrays would weigh at full precision; 0 where no codec is on."""
    seconds: float | None = None
    done: bool = False
    weight: float = 0.0
    """Examples behind the metrics; where they are not told, the devices that replied."""
    past: Past | None = None
    answered: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    """The devices whose last answer was an error."""

    def again(self, devices: Iterable[str]) -> None:
        """Begin one more exchange, with some of the devices."""
        self.past = Past(self.bytes_up, self.bytes_down, self.seconds or 0.0, self.metrics, self.weight)
        self.devices = tuple(dict.fromkeys([*self.devices, *devices]))
        self.done = False

    @property
    def weighed(self) -> bool:
        """Whether its bytes can be compared with full precision: not while they still come in."""
        return self.done or bool(self.fp32_up or self.fp32_down)

    @property
    def sent(self) -> int:
        """How many devices were asked."""
        return max(len(self.devices), self.replied + self.failed)


@dataclass
class Round:
    """What is known of a round. Round 0 is the central evaluation before training."""

    number: int
    phases: dict[str, Phase] = field(default_factory=dict)
    central: dict[str, float] = field(default_factory=dict)

    @property
    def bytes_up(self) -> int:
        """Bytes that devices sent."""
        return sum(phase.bytes_up for phase in self.phases.values())

    @property
    def bytes_down(self) -> int:
        """Bytes that devices received."""
        return sum(phase.bytes_down for phase in self.phases.values())

    @property
    def up_a_device(self) -> float:
        """Bytes that a device sent which took part in every phase."""
        return sum(phase.bytes_up / max(1, phase.replied) for phase in self.phases.values())

    @property
    def down_a_device(self) -> float:
        """Bytes that a device received which took part in every phase."""
        return sum(phase.bytes_down / max(1, phase.replied) for phase in self.phases.values())

    @property
    def ratio_up(self) -> float | None:
        """How many times fewer bytes went up than at full precision; None where no codec is on."""
        return ratios(self.phases.values())[0]

    @property
    def ratio_down(self) -> float | None:
        """How many times fewer bytes went down than at full precision; None where no codec is on."""
        return ratios(self.phases.values())[1]

    @property
    def seconds(self) -> float | None:
        """Seconds of its finished phases, or None before the first."""
        known = [phase.seconds for phase in self.phases.values() if phase.seconds is not None]
        return sum(known) if known else None

    def metrics(self, phase: str) -> dict[str, float]:
        """Return the metrics of a phase, `central` among them."""
        if phase == "central":
            return self.central
        return self.phases[phase].metrics if phase in self.phases else {}


@dataclass(frozen=True)
class Failure:
    """A device's named error in one phase."""

    device: str
    round: int
    phase: str
    code: str
    message: str
    remedy: str


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
        self.ways: Counter[str] = Counter()
        """How many replies fetched large blobs by which way: `https`, `mqtt`."""
        self.rounds: dict[int, Round] = {}
        self.failures: list[Failure] = []
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
        if self.current is None:
            return 0.0
        number, name = self.current
        begins, share = PHASE_SHARE.get(name, (0.0, 0.0))
        phase = self.rounds[number].phases.get(name) if number in self.rounds else None
        answered = (phase.replied + phase.failed) / phase.sent if phase and phase.sent else 0.0
        within = 1.0 if self.rounds[number].central else begins + share * (1.0 if phase and phase.done else answered)
        return min(1.0, max(0.0, (number - 1 + within) / self.total))

    def _started(self, data: Data, at: datetime | None) -> None:
        self.status = "running"
        self.started_at = self.started_at or at
        self.strategy = data.get("strategy") or self.strategy
        self.total = data.get("rounds") or self.total

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
            phase.devices = devices
        self.current = (_number(data), phase.name)

    def _reply(self, data: Data, _: datetime | None) -> None:
        phase = self._phase(data)
        device = str(data.get("device", "?"))
        now, before = phase.answered, phase.failing
        if data.get("error"):
            now, before = before, now
            self.failures.append(failure(data))
        now.add(device)
        before.discard(device)
        phase.replied, phase.failed = len(phase.answered), len(phase.failing)
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
            phase.failed = int(data.get("failed", phase.failed))
        seconds = data.get("seconds")
        phase.seconds = past.seconds + seconds if seconds is not None else phase.seconds
        phase.bytes_up = past.bytes_up + int(data.get("bytes_up") or phase.bytes_up - past.bytes_up)
        phase.bytes_down = past.bytes_down + int(data.get("bytes_down") or phase.bytes_down - past.bytes_down)
        metrics = numbers(data.get("metrics"))
        weight = _weight(data)
        phase.metrics = merged(past.metrics, past.weight, metrics, weight)
        phase.weight = past.weight + (weight if metrics else 0.0)

    def _codec(self, data: Data, _: datetime | None) -> None:
        self.codec = data

    def _compressed(self, data: Data, _: datetime | None) -> None:
        phase = self._phase(data)
        phase.fp32_up += int(data.get("fp32_up") or 0)
        phase.fp32_down += int(data.get("fp32_down") or 0)

    def _central(self, data: Data, _: datetime | None) -> None:
        self._round(data).central = numbers(data.get("metrics"))

    def _finished(self, data: Data, at: datetime | None) -> None:
        self.status = str(data.get("status", "finished"))
        self.error = data.get("error")
        self.seconds = data.get("seconds")
        self.final_model = data.get("final_model")
        self.finished_at = at
        self.waiting = None

    def _round(self, data: Data) -> Round:
        number = _number(data)
        return self.rounds.setdefault(number, Round(number))

    def _phase(self, data: Data) -> Phase:
        name = str(data.get("phase", "?"))
        return self._round(data).phases.setdefault(name, Phase(name))


_STEPS = {
    "run-started": RunProgress._started,
    "strategy-started": RunProgress._started,
    "waiting-for-devices": RunProgress._waiting,
    "phase-started": RunProgress._phase_started,
    "device-reply": RunProgress._reply,
    "phase-finished": RunProgress._phase_finished,
    "phase-compressed": RunProgress._compressed,
    "codec": RunProgress._codec,
    "central": RunProgress._central,
    "run-finished": RunProgress._finished,
}


def _number(data: Data) -> int:
    """Return the round of an event; what happens outside rounds (an app's own queries) stands under 0."""
    return int(data.get("round") or 0)


def failure(data: Data) -> Failure:
    """Return the failure that a `device-reply` with an error tells."""
    error: Data = data["error"]
    return Failure(
        device=str(data.get("device", "?")),
        round=_number(data),
        phase=str(data.get("phase", "?")),
        code=str(error.get("code", "?")),
        message=str(error.get("message", "")),
        remedy=str(error.get("remedy", "")),
    )


def ratio(fp32: int, travelled: int) -> float | None:
    """Return how many times fewer bytes travelled than at full precision; None where that is not known."""
    return fp32 / travelled if fp32 and travelled else None


def ratios(phases: Iterable[Phase]) -> tuple[float | None, float | None]:
    """Return how many times fewer bytes went up and down in these phases than at full precision."""
    known = [phase for phase in phases if phase.weighed]
    up = ratio(sum(phase.fp32_up for phase in known), sum(phase.bytes_up for phase in known))
    return up, ratio(sum(phase.fp32_down for phase in known), sum(phase.bytes_down for phase in known))


def merged(a: Mapping[str, float], a_weight: float, b: Mapping[str, float], b_weight: float) -> dict[str, float]:
    """Return the weighted mean of two exchanges' metrics; of one alone, if the other told none."""
    if not (a and b) or not a_weight + b_weight > 0:
        return dict(b or a)
    share = b_weight / (a_weight + b_weight)
    return {name: (1 - share) * a[name] + share * b[name] for name in a if name in b}


def _weight(data: Data) -> float:
    """Return how much the metrics of a `phase-finished` count: by their examples, or else by who replied."""
    metrics = data.get("metrics") or {}
    found = metrics.get("num-examples", data.get("replied")) if isinstance(metrics, Mapping) else None
    return float(found) if isinstance(found, int | float) and found > 0 else 0.0


def numbers(metrics: object) -> dict[str, float]:
    """Return the numeric ones among metrics, without the counts of examples that are there for weighting."""
    if not isinstance(metrics, Mapping):
        return {}
    return {
        str(name): value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NOT_METRICS
    }


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
