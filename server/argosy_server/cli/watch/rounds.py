"""What is known of a run's rounds: phases, metrics, bytes, failures. See `progress`, which folds events into them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Data = Mapping[str, Any]

NOT_FAILURES = frozenset({"cut-off", "shard-counted"})
"""Codes of answers that a round did without: they count as late, and as nobody's error."""

_NOT_METRICS = frozenset({"num-examples", "num_examples"})


@dataclass(frozen=True)
class Past:
    """What the earlier exchanges of a phase came to."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    weight: float = 0.0
    groups: int = 0
    """How many groups were summed up by then."""
    late: int = 0
    """How many devices were not waited for by then."""


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
    groups: list[Data] = field(default_factory=list)
    """What its groups came to, where updates were summed under masks: the data of `secure-group` events."""
    answered: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    """The devices whose last answer was an error."""
    late: set[str] = field(default_factory=set)
    """The devices that were not waited for, or whose shard another board had answered for."""

    def again(self, devices: Iterable[str]) -> None:
        """Begin one more exchange, with some of the devices."""
        seconds, groups = self.seconds or 0.0, len(self.groups)
        self.past = Past(self.bytes_up, self.bytes_down, seconds, self.metrics, self.weight, groups, len(self.late))
        self.ask(devices)
        self.done = False

    def ask(self, devices: Iterable[str]) -> None:
        """Add devices to the exchange at hand: an asynchronous run asks one after the other."""
        self.devices = tuple(dict.fromkeys([*self.devices, *devices]))

    def answer(self, device: str, *, error: str | None) -> None:
        """Count a device's latest answer under what it is; `error` is the code of its error."""
        now = self.answered if error is None else self.late if error in NOT_FAILURES else self.failing
        for others in (self.answered, self.failing, self.late):
            others.discard(device)
        now.add(device)
        self.replied, self.failed = len(self.answered), len(self.failing)

    def failed_of(self, told: int) -> int:
        """Return how many failed in the exchange at hand; the coordinator, which `told`, counts the late with them."""
        return max(0 if self.past else len(self.failing), told - self.late_now)

    @property
    def late_now(self) -> int:
        """How many were late in the exchange at hand."""
        return len(self.late) - (self.past.late if self.past else 0)

    @property
    def latest_groups(self) -> list[Data]:
        """The groups of the exchange at hand, or of the last one."""
        return self.groups[self.past.groups if self.past else 0 :]

    @property
    def weighed(self) -> bool:
        """Whether its bytes can be compared with full precision: not while they still come in."""
        return self.done or bool(self.fp32_up or self.fp32_down)

    @property
    def sent(self) -> int:
        """How many devices were asked."""
        return max(len(self.devices), self.replied + self.failed + len(self.late))


@dataclass(frozen=True)
class Step:
    """What a step of an asynchronous run was made of."""

    updates: int
    staleness: float | None
    """How many steps old its updates were on average."""
    seconds: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Data) -> Step:
        """Read an `async-step`."""
        updates = [update for update in data.get("updates") or () if isinstance(update, Mapping)]
        old = [float(update["staleness"]) for update in updates if isinstance(update.get("staleness"), int | float)]
        seconds = data.get("seconds")
        mean = sum(old) / len(old) if old else None
        took = float(seconds) if isinstance(seconds, int | float) else None
        return cls(len(updates), mean, took, numbers(data.get("metrics")))


@dataclass
class Round:
    """What is known of a round; round 0 is the central evaluation before training.

    Of an asynchronous run, it is a step, and those who were given the model that it goes out from.
    """

    number: int
    phases: dict[str, Phase] = field(default_factory=dict)
    central: dict[str, float] = field(default_factory=dict)
    step: Step | None = None

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
        """Seconds of its step and its finished phases, or None before the first."""
        known = [phase.seconds for phase in self.phases.values() if phase.seconds is not None]
        known += [self.step.seconds] if self.step and self.step.seconds is not None else []
        return sum(known) if known else None

    def metrics(self, phase: str) -> dict[str, float]:
        """Return the metrics of a phase, `central` among them."""
        if phase == "central":
            return self.central
        if phase == "train" and self.step and self.step.metrics:
            return dict(self.step.metrics)
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


def weight_of(data: Data) -> float:
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
