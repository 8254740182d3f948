"""One plain line an event, for pipes and logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from argosy_server.cli.watch.progress import RunProgress
from argosy_server.cli.watch.reasons import not_counted
from argosy_server.cli.watch.rounds import NOT_FAILURES, Phase, Step, numbers, ratios
from argosy_server.cli.watch.secure import outcome, summed
from argosy_server.cli.words import clean, codec_text, count, duration, local_time, number, secure_text, size, times

Data = Mapping[str, Any]
NameOf = Callable[[str], str]


def has_line(event: Data) -> bool:
    """Whether an event is worth a line.

    Not that a phase had no arrays, as queries and evaluations mostly have none; nor whom it asked and how it settled:
    `argosy run explain` has that.
    """
    data: Data = event["data"]
    if event["name"] == "phase-compressed":
        return bool(data.get("fp32_up") or data.get("fp32_down"))
    return event["name"] not in {"selection", "phase-settled"}


def line(event: Data, name_of: NameOf, progress: RunProgress | None = None) -> str:
    """Return an event as a line with its local time; one of an unknown name is told by its name and data.

    With the `progress` of the run up to this event, it tells as well how many times fewer bytes a codec makes them, and
    who was late apart from who failed.
    """
    tell = _TELL.get(str(event["name"]))
    data: Data = event["data"]
    phase = _phase_of(data, progress) if event["name"] == "phase-finished" else None
    if phase is not None and phase.late_now:
        data = {**data, "failed": phase.failed_of(int(data.get("failed") or 0)), "late": phase.late_now}
    told = tell(data, name_of) if tell else f"{event['name']} {clean(dict(data))}"
    if event["name"] == "phase-compressed" and progress is not None:
        told += _fewer(data, progress)
    return f"{local_time(event['at'], date=False)}  {told}"


def _started(data: Data, _: NameOf) -> str:
    rounds = f", {count(int(data['rounds']), 'round')}" if data.get("rounds") else ""
    return f"run started: {clean(data.get('app', '?'))}{rounds}"


def _resumed(data: Data, _: NameOf) -> str:
    done = int(data.get("round") or 0)
    if not done:
        return "the coordinator is back: the run goes on"
    return f"the coordinator is back: the run goes on after round {done}, {clean(data.get('phase'))}"


def _strategy(data: Data, _: NameOf) -> str:
    return f"{clean(data.get('strategy') or 'strategy')} started: {count(int(data.get('rounds') or 0), 'round')}"


def _waiting(data: Data, _: NameOf) -> str:
    wanted = f" of {data['wanted']}" if data.get("wanted") else ""
    return f"waiting for devices: {data.get('online')}{wanted} online"


def _phase_started(data: Data, _: NameOf) -> str:
    return f"{_where(data)} sent to {count(len(data.get('devices', ())), 'device')}"


def _reply(data: Data, name_of: NameOf) -> str:
    who = clean(name_of(str(data.get("device", "?"))))
    if data.get("error"):
        error: Data = data["error"]
        if error.get("code") in NOT_FAILURES:
            return f"{_where(data)} {who} did not count: {not_counted(data, name_of)}"
        return f"{_where(data)} {who} failed: {error.get('code')}: {clean(error.get('message', ''))}"
    via = f" by {clean(data['via']).upper()}" if data.get("via") else ""
    return (
        f"{_where(data)} {who} replied in {duration(data.get('seconds'))}, "
        f"up {size(data.get('bytes_up'))}, down {size(data.get('bytes_down'))}{via}"
    )


def _late(data: Data, name_of: NameOf) -> str:
    who, after = clean(name_of(str(data.get("device", "?")))), duration(data.get("late_s"))
    error: Data = data.get("error") or {}
    if error:
        return f"{_where(data)} {who} failed {after} after its end: {clean(error.get('code', '?'))}"
    return f"{_where(data)} {who} replied {after} too late"


def _async_step(data: Data, _: NameOf) -> str:
    step = Step.of(data)
    old = f", {step.staleness:.1f} steps old on average" if step.staleness is not None else ""
    return (
        f"step {data.get('round')} made of {count(step.updates, 'update')}{old}, in {duration(step.seconds)}"
        f"{_metrics(data)}"
    )


def _async_evaluation(data: Data, _: NameOf) -> str:
    return f"step {data.get('round')} evaluated by {count(int(data.get('devices') or 0), 'device')}{_metrics(data)}"


def _phase_finished(data: Data, _: NameOf) -> str:
    failed = "".join(f", {data[what]} {what}" for what in ("failed", "late") if data.get(what))
    return (
        f"{_where(data)} finished in {duration(data.get('seconds'))}: {data.get('replied')} of {data.get('sent')} "
        f"replied{failed}{_metrics(data)}, up {size(data.get('bytes_up'))}, down {size(data.get('bytes_down'))}"
        f"{_a_device(data)}"
    )


def _a_device(data: Data) -> str:
    """Say what it came to for each device, where there were several."""
    replied = int(data.get("replied") or 0)
    if replied < 2:
        return ""
    up, down = (size(int(data.get(way) or 0) / replied) for way in ("bytes_up", "bytes_down"))
    return f" (a device: up {up}, down {down})"


def _compressed(data: Data, _: NameOf) -> str:
    return f"{_where(data)} at full precision: up {size(data.get('fp32_up'))}, down {size(data.get('fp32_down'))}"


def _fewer(data: Data, progress: RunProgress) -> str:
    """Say how many times fewer bytes this phase took; for a phase in several exchanges, all of them together."""
    phase = _phase_of(data, progress)
    known = zip(("up", "down"), ratios([phase]) if phase else (), strict=False)
    told = ", ".join(f"{times(ratio)}× {way}" for way, ratio in known if ratio)
    return f"; fewer bytes: {told}" if told else ""


def _phase_of(data: Data, progress: RunProgress | None) -> Phase | None:
    one = progress.rounds.get(int(data.get("round") or 0)) if progress else None
    return one.phases.get(str(data.get("phase"))) if one else None


def _codec(data: Data, _: NameOf) -> str:
    return f"codec: {codec_text(data) or 'none'}"


def _secure(data: Data, _: NameOf) -> str:
    return secure_text(data)


def _secure_group(data: Data, _: NameOf) -> str:
    return f"{_where(data)} {outcome(data)}{_metrics(summed([data]))}"


def _secure_refused(data: Data, name_of: NameOf) -> str:
    error: Data = data.get("error") or {}
    who = clean(name_of(str(data.get("device", "?"))))
    return f"{_where(data)} {who} ({clean(data.get('stage'))}): {error.get('code')}: {clean(error.get('message', ''))}"


def _secure_failed(data: Data, _: NameOf) -> str:
    error: Data = data.get("error") or {}
    return f"{_where(data)} failed: {error.get('code')}: {clean(error.get('message', ''))}"


def _model(data: Data, _: NameOf) -> str:
    return f"model {clean(data.get('model'))} exported: argosy model show {clean(data.get('model'))}"


def _no_model(data: Data, _: NameOf) -> str:
    error = data.get("error") or {}
    return f"no model was exported: {clean(error.get('message', ''))} {clean(error.get('remedy', ''))}".rstrip()


def _central(data: Data, _: NameOf) -> str:
    return f"round {data.get('round')} central{_metrics(data).replace(',', '', 1)}"


def _finished(data: Data, _: NameOf) -> str:
    error: Data = data.get("error") or {}
    why = f": {clean(error.get('message', ''))}" if error else ""
    model = f", model {str(data['final_model'])[:12]}" if data.get("final_model") else ""
    return f"run {data.get('status')} after {duration(data.get('seconds'))}{why}{model}"


def _where(data: Data) -> str:
    number = f"round {data['round']} " if data.get("round") is not None else ""
    return f"{number}{clean(data.get('phase'))}"


def _metrics(data: Data) -> str:
    return "".join(f", {clean(name)} {number(value)}" for name, value in numbers(data.get("metrics")).items())


_TELL: dict[str, Callable[[Data, NameOf], str]] = {
    "run-started": _started,
    "run-resumed": _resumed,
    "strategy-started": _strategy,
    "waiting-for-devices": _waiting,
    "phase-started": _phase_started,
    "device-reply": _reply,
    "device-late": _late,
    "phase-finished": _phase_finished,
    "async-step": _async_step,
    "async-evaluation": _async_evaluation,
    "phase-compressed": _compressed,
    "codec": _codec,
    "secure": _secure,
    "secure-group": _secure_group,
    "secure-refused": _secure_refused,
    "secure-failed": _secure_failed,
    "central": _central,
    "model-exported": _model,
    "model-not-exported": _no_model,
    "run-finished": _finished,
}
