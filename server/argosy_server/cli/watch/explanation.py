"""What became of each device in each phase of a round, folded from a run's events. Pure; `reasons` has the words.

Fields that an older coordinator does not tell are None, and events of unknown names are passed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from argosy_server.cli.watch.rounds import NOT_FAILURES

Data = Mapping[str, Any]

COUNTED = "counted"
WAITING = "waiting"
UNDER_WAY = "under-way"
LATE = "late"
NOT_NEEDED = "not-needed"
LOST = "lost"
FAILED = "failed"
LEFT_OUT = "left-out"
NOT_ASKED = "not-asked"
ABSENT = "absent"

MALFORMED = {"code": "secure-dropped", "message": "Other devices complained that its shares are malformed."}
_OUTCOMES = {"shard-counted": NOT_NEEDED, "device-lost": LOST, "reply-timed-out": LATE}
_TIMES = ("fetch_s", "run_s", "upload_s")
_SIZES = ("bytes_down", "bytes_up")


@dataclass
class Part:
    """One device's part in a phase. Times in seconds, sizes in bytes; None: not known."""

    device: str
    asks: int = 0
    """How often it was asked: again, where it lacked the model that it was sent a change to."""
    heard: bool = False
    """Whether the phase waited for it although it is slow."""
    spared: Data | None = None
    """Why it was not asked: `code` and `why`."""
    replied: bool = False
    """Whether something came in for what it was asked last: its answer, or an error in its stead."""
    error: Data | None = None
    seconds: float | None = None
    counted_s: float | None = None
    """How long after the phase began its answer counted."""
    times: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    via: str = ""
    peak_rss: int | None = None
    late: Data | None = None
    """Its answer that came after the phase was over."""
    refused: Data | None = None
    """The error with which it refused to take part in a sum under a mask."""
    step: int | None = None
    staleness: float | None = None
    weight: float | None = None
    """Asynchronous: which step its update counted in, how many steps old it was, and with what weight."""

    def ask(self) -> None:
        """It is asked, perhaps once more."""
        self.asks += 1
        self.replied = False

    def take(self, data: Data, *, offset: float) -> None:
        """Take in its answer, `offset` seconds after the phase began being when it was asked."""
        self.replied = True
        self.error = data.get("error") or None
        self.seconds = _sum(self.seconds, _number(data.get("seconds")))
        self._facts(data)
        self.counted_s = None if self.error or self.seconds is None else offset + (_number(data.get("seconds")) or 0.0)

    def take_late(self, data: Data) -> None:
        """Take in its answer that came too late."""
        self.late = data
        self._facts(data)

    def _facts(self, data: Data) -> None:
        for name in _TIMES:
            if (value := _number(data.get(name))) is not None:
                self.times[name] = self.times.get(name, 0.0) + value
        for name in _SIZES:
            if (value := _number(data.get(name))) is not None:
                self.sizes[name] = self.sizes.get(name, 0) + int(value)
        self.via = str(data.get("via") or self.via)
        peak = _number(data.get("peak_rss"))
        self.peak_rss = int(peak) if peak is not None else self.peak_rss


@dataclass
class Exchange:
    """Devices are asked, and answer. Mostly a phase is one; those that lacked the model are asked in another."""

    asked: list[str] = field(default_factory=list)
    seconds: float | None = None
    done: bool = False
    settled: Data | None = None
    """How it ended, in a run that ends rounds on time."""

    def settle(self, data: Data) -> None:
        """Take in how it ended; of groups that were sent apart, each tells of itself."""
        before = self.settled or {}
        if before:
            data = {
                **data,
                "counted": {**(before.get("counted") or {}), **(data.get("counted") or {})},
                "away": [*_texts(before.get("away")), *_texts(data.get("away"))],
                **{name: _sum(_number(before.get(name)), _number(data.get(name))) for name in ("quorum", "enough")},
                "seconds": max(_number(before.get("seconds")) or 0.0, _number(data.get("seconds")) or 0.0),
                "how": max(str(before.get("how")), str(data.get("how")), key=_slowness),
            }
        self.done, self.settled = True, data


@dataclass
class PhaseStory:
    """One phase of a round."""

    name: str
    selection: Data | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    groups: list[Data] = field(default_factory=list)
    """What its groups came to, where updates are summed under masks."""
    asynchronous: bool = False
    """Whether it goes on without an end, each update counting when a step takes it."""
    pushed: bool = False
    """Whether nobody tells when it is over."""
    over: bool = False
    """Whether the run is."""

    @property
    def asked(self) -> list[Part]:
        """The parts of the devices that were asked, in that order."""
        return [part for part in self.parts if part.asks]

    @property
    def summed(self) -> set[str]:
        """The devices that are in a sum under a mask."""
        return {device for group in self.groups if not group.get("error") for device in _texts(group.get("summed"))}

    @property
    def done(self) -> bool:
        """Whether nobody is waited for any more."""
        ended = bool(self.exchanges and self.exchanges[-1].done)
        return self.over or ended or (self.pushed and all(part.replied for part in self.asked))

    @property
    def away(self) -> set[str]:
        """The devices that the coordinator saw gone when it ended the phase."""
        return {device for each in self.exchanges for device in _texts((each.settled or {}).get("away"))}

    def with_outcome(self, *outcomes: str) -> list[Part]:
        """Return the parts that came to one of `outcomes`."""
        return [part for part in self.parts if self.outcome(part) in outcomes]

    def outcome(self, part: Part) -> str:
        """Return what became of a device, in one of the words above."""
        if not part.asks:
            return LEFT_OUT if part.refused else NOT_ASKED if part.spared else ABSENT
        if not part.replied:
            return LATE if self.done else UNDER_WAY
        if part.error:
            code = str(part.error.get("code"))
            if code == "cut-off" and part.device in self.away:
                return LOST
            return _OUTCOMES.get(code, LATE if code in NOT_FAILURES else FAILED)
        if self.groups and part.device not in self.summed:
            return LEFT_OUT
        return WAITING if self.asynchronous and part.step is None else COUNTED

    def kept_out(self, part: Part) -> Data:
        """Return the error that kept a device out of the sum under the mask; empty where none is told."""
        for group in reversed(self.groups):
            told = (group.get("left_out") or {}).get(part.device)
            if told:
                return dict(told)
            if part.device in _texts(group.get("dropped")):
                return MALFORMED
        failed = [group["error"] for group in self.groups if group.get("error")]
        return part.refused or (dict(failed[0]) if failed else {})

    def latest(self, device: str) -> Part | None:
        """Return the newest part of a device."""
        return next((part for part in reversed(self.parts) if part.device == device), None)

    def part(self, device: str) -> Part:
        """Return the newest part of a device, made if it has none."""
        found = self.latest(device)
        if found is None:
            found = Part(device)
            self.parts.append(found)
        return found

    def exchange(self, *, fresh: bool = False) -> Exchange:
        """Return the exchange at hand; with `fresh`, a new one where the last is over."""
        if not self.exchanges or (fresh and self.exchanges[-1].done):
            self.exchanges.append(Exchange())
        return self.exchanges[-1]

    @property
    def offset(self) -> float:
        """Seconds that the earlier exchanges took."""
        return sum(each.seconds or 0.0 for each in self.exchanges[:-1])

    def add_absent(self, devices: Iterable[str]) -> None:
        """Add devices that nothing was told of."""
        for device in devices:
            self.part(device)


@dataclass
class Step:
    """Asynchronous: one step of the model, and the updates it was made of, each with its part where that is known."""

    number: int
    seconds: float | None
    updates: list[tuple[Data, Part | None, int | None]]
    """With the version of the model that the device had trained; the first is 0."""

    @property
    def staleness(self) -> float | None:
        """How many steps old its updates were on average."""
        known = [value for data, _, _ in self.updates if (value := _number(data.get("staleness"))) is not None]
        return sum(known) / len(known) if known else None


@dataclass
class RoundStory:
    """A round; of an asynchronous run, a step, and who was given the model that it goes out from."""

    number: int
    phases: list[PhaseStory] = field(default_factory=list)
    step: Step | None = None


class Explanation:
    """All rounds of a run as its `events` tell them, in their order; `over`: whether the run is."""

    def __init__(self, events: Sequence[Data], *, over: bool = False) -> None:
        self.rounds: dict[int, RoundStory] = {}
        self.asynchronous = any(event.get("name") == "async-step" for event in events)
        self.over = over
        self._ready: dict[str, deque[tuple[int, Part]]] = {}
        """Asynchronous: each device's updates that no step has taken yet, with the round that it was asked in."""
        for event in events:
            step = _STEPS.get(str(event["name"]))
            if step is not None:
                step(self, event["data"])

    def _selection(self, data: Data) -> None:
        phase = self._phase(data, fresh=True)
        phase.selection = phase.selection or data
        for device in _texts(data.get("heard")):
            phase.part(device).heard = True
        spared = data.get("spared")
        for device, why in spared.items() if isinstance(spared, Mapping) else ():
            phase.part(str(device)).spared = why if isinstance(why, Mapping) else {"why": str(why)}

    def _phase_started(self, data: Data) -> None:
        phase = self._phase(data, fresh=True)
        exchange = phase.exchange(fresh=True)
        for device in _texts(data.get("devices")):
            exchange.asked.append(device)
            part = phase.part(device)
            if self.asynchronous and part.replied:  # asked anew, with the same version of the model
                part = Part(device)
                phase.parts.append(part)
            part.ask()

    def _reply(self, data: Data) -> None:
        phase = self._phase(data)
        part = phase.part(str(data.get("device", "?")))
        part.asks = max(1, part.asks)
        part.take(data, offset=phase.offset)
        if self.asynchronous and not part.error and phase.name == "train":
            self._ready.setdefault(part.device, deque()).append((_round(data), part))

    def _late(self, data: Data) -> None:
        phase = self._phase(data)
        phase.part(str(data.get("device", "?"))).take_late(data)

    def _finished(self, data: Data) -> None:
        exchange = self._phase(data).exchange()
        exchange.done = True
        seconds = _number(data.get("seconds"))
        exchange.seconds = max(exchange.seconds or 0.0, seconds) if seconds is not None else exchange.seconds

    def _settled(self, data: Data) -> None:
        phase = self._phase(data)
        exchange = phase.exchange()
        exchange.settle(data)
        if exchange.seconds is None:
            exchange.seconds = _number(data.get("seconds"))
        counted = data.get("counted")
        for device, seconds in counted.items() if isinstance(counted, Mapping) else ():
            part, at = phase.part(str(device)), _number(seconds)
            if at is not None and not part.error:
                part.counted_s = phase.offset + at

    def _group(self, data: Data) -> None:
        self._phase(data).groups.append(data)

    def _refused(self, data: Data) -> None:
        if data.get("stage") == "prekeys":  # one that refuses later, as a holder, may be in the sum all the same
            self._phase(data).part(str(data.get("device", "?"))).refused = data.get("error") or {}

    def _step(self, data: Data) -> None:
        number = _round(data)
        updates: list[tuple[Data, Part | None, int | None]] = []
        for update in data.get("updates") or ():
            staleness = _number(update.get("staleness"))
            version = None if staleness is None else number - 1 - int(staleness)
            part = self._update(str(update.get("device", "?")), version)
            if part is not None:
                part.step, part.staleness, part.weight = number, staleness, _number(update.get("weight"))
            updates.append((update, part, version))
        self._story(number).step = Step(number, _number(data.get("seconds")), updates)

    def _update(self, device: str, version: int | None) -> Part | None:
        """Return the part of a device whose update of a version a step takes; asked for step 1, it has version 0."""
        ready = self._ready.get(device, deque())
        found = next((at for at, (number, _) in enumerate(ready) if version is not None and number == version + 1), 0)
        if not ready:
            return None
        part = ready[found][1]
        del ready[found]
        return part

    def _central(self, data: Data) -> None:
        self._story(_round(data))

    def _story(self, number: int) -> RoundStory:
        return self.rounds.setdefault(number, RoundStory(number))

    def _phase(self, data: Data, *, fresh: bool = False) -> PhaseStory:
        """Return the phase that an event is of; outside rounds each exchange stands for itself."""
        phases = self._story(_round(data)).phases
        name = str(data.get("phase", "?"))
        found = next((phase for phase in reversed(phases) if phase.name == name), None)
        if found is None or (fresh and data.get("round") is None and found.exchanges and found.exchanges[-1].done):
            taken = self.asynchronous and name == "train"
            found = PhaseStory(name, asynchronous=taken, pushed=self.asynchronous, over=self.over)
            phases.append(found)
        return found


_STEPS = {
    "selection": Explanation._selection,
    "phase-started": Explanation._phase_started,
    "device-reply": Explanation._reply,
    "device-late": Explanation._late,
    "phase-finished": Explanation._finished,
    "phase-settled": Explanation._settled,
    "secure-group": Explanation._group,
    "secure-refused": Explanation._refused,
    "async-step": Explanation._step,
    "central": Explanation._central,
}


def _round(data: Data) -> int:
    """Return the round of an event; what happens outside rounds stands under 0."""
    return int(data.get("round") or 0)


def _slowness(how: str) -> int:
    return {"all": 0, "enough": 1, "deadline": 2, "timeout": 3}.get(how, 4)


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else []


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sum(a: float | None, b: float | None) -> float | None:
    return b if a is None else a + (b or 0.0)
