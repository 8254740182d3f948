"""How soon a fleet with slow boards reaches an accuracy, by whom a round waits for; and what a killed board costs.

The app `benchmarks/apps/boards` on real recordings (HAPT): a device has one person's windows, and the model is tested
on ten people that no device has seen. A real coordinator, broker and device daemons on loopback, 20 of them; a training
is milliseconds of arithmetic and a delay that the app's own mod sleeps, drawn from seeds:

- exponential: a second on average, another one each time;
- a tenth slow: half a second, and ten times that on one board in ten, always the same;
- on and off: half a second while the board is on; it is off for 5 s after every 10 s, on average.

FedAvg trains 16 of the 20 devices a round. Ways: *wait for all* that were asked, as Flower does; *over-selection* asks
all 20, and the round is over with 16 answers, or at the deadline that the run learns; *FedBuff* has no rounds, every
ten updates make one step of the model; *Flower* is the same app on Flower's own SuperLink and SuperNodes, plain FedAvg,
bounded in time. The clock runs from the first model to the first one at or above the target, once each of our devices
has the app in memory; Flower's start a process for each message, so there is nothing to have there.

A killed device: SIGKILL in the middle of its training. What counts is how long the round went on beyond what the rule
allows, its deadline or the answer that completes the quorum, whichever is later. Flower has no such rule; for both
`added_s` is what the round took beyond the one before it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from argosy_server.local_fleet import LocalDevice, LocalFleet
from benchmarks.apps.boards.boards_app.delays import Slow, parse_delay
from benchmarks.flower_native import Value
from benchmarks.processes import ProcessFailed
from benchmarks.report import Benchmark, main
from benchmarks.straggler_curves import Curve, Outcome, Settled, board_seeds, read_curve, settled, times_faster
from benchmarks.straggler_native import APP, kill_native, run_native, trains

ROOT = Path(__file__).parents[1]
HAR = ROOT / "examples" / "har"

ALL, OVER, BUFFERED, FLOWER = "wait for all", "over-selection", "FedBuff", "Flower"
SLOW = "a tenth slow"
SHARE = 0.8
"""Of the devices that FedAvg trains a round."""
QUORUM = 0.8
"""Of those asked: the default, which the rounds with a killed device have."""
KILL_ROUND = 5
NATIVE_KILL_NODES, NATIVE_KILL_ROUND = 4, 2
MOST_ROUNDS = 80
GLANCE_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What is run; times in seconds.

    Attributes:
        devices: and thus people.
        target: accuracy on the people of the test.
        delays: by name, as the app's configuration has them.
        seeds: of the first model and of the order of training.
        limit_s: for one run of ours.
        native_s: for one run of Flower's own transport, None where it is left out.
        kill_delay: of every device in the run with a killed one.
    """

    devices: int
    target: float
    delays: Mapping[str, str]
    seeds: tuple[int, ...]
    limit_s: float
    native_s: float | None
    kill_delay: str

    @property
    def ways(self) -> dict[str, dict[str, object] | None]:
        """What each way of ours sets under `[tool.argosy] straggler`."""
        return {
            ALL: None,
            OVER: {"enabled": True, "over_select": 0.25},
            BUFFERED: {"enabled": True, "mode": "async", "buffer": self.devices // 2},
        }


FULL = Plan(
    devices=20,
    target=0.9,
    delays={"exponential": "exponential:1", SLOW: "slow:0.5:0.1:10", "on and off": "onoff:0.5:10:5"},
    seeds=(0, 1, 2),
    limit_s=400,
    native_s=400,
    kill_delay="fixed:1",
)
QUICK = Plan(
    devices=10,
    target=0.85,
    delays={SLOW: "slow:0.25:0.1:10"},
    seeds=(0,),
    limit_s=30,
    native_s=None,
    kill_delay="fixed:0.5",
)


def measure(bench: Benchmark) -> None:
    """Run the ways under each delay, then kill a device."""
    plan = QUICK if bench.quick else FULL
    seen: dict[tuple[str, str], list[Curve]] = {}
    runs = len(plan.delays) * (len(plan.ways) * len(plan.seeds) + (plan.native_s is not None))
    with bench.progress("straggler", runs + 1 + (plan.native_s is not None)) as step:
        with boards_fleet(plan) as (fleet, data):
            for delay, spec in plan.delays.items():
                for seed in plan.seeds:
                    for way, settings in plan.ways.items():
                        step(f"{delay}, {way}, seed {seed}")
                        curve = run_boards(fleet, plan, way_config(plan, data, spec, seed), settings)
                        seen.setdefault((delay, way), []).append(curve)
            step("a killed device")
            killed = _kill(bench, fleet, plan, data)
            configs = [native_config(device) for device in fleet.devices.values()]
        if plan.native_s is not None:
            for delay, spec in plan.delays.items():
                step(f"{delay}, {FLOWER}")
                theirs = _native(bench, plan, configs, way_config(plan, data, spec, plan.seeds[0]))
                seen[delay, FLOWER] = [theirs] if theirs else []
            step("a killed SuperNode")
            _native_kill(bench, plan, configs, data)
    outcomes = {key: Outcome(tuple(curves), plan.target) for key, curves in seen.items() if curves}
    _rows(bench, plan, outcomes)
    if killed:
        _kill_row(bench, plan, *killed)
    _bars(bench, plan, outcomes, killed[0] if killed else None)
    if bench.quick:
        bench.left_out("20 devices (10), 90 % (85 %), other delays and seeds, half of the delay, Flower; the picture")
    else:
        _draw(bench, plan, seen)


# --- our side -------------------------------------------------------------------------------------------------------


@contextmanager
def boards_fleet(plan: Plan) -> Iterator[tuple[LocalFleet, Path]]:
    """Start a fleet whose devices hold one person's recordings each; also return the folder of the recordings."""
    sys.path.insert(0, str(HAR))
    from prepare import prepare  # noqa: PLC0415  (a script of the example's folder)

    data = prepare(ROOT / ".demo" / "data", lambda _: None)
    delay = parse_delay(plan.delays[SLOW])
    assert isinstance(delay, Slow)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        devices = [
            LocalDevice(
                f"person-{person:02}",
                {"subject": person, "data": str(data), "seed": seed, "notes": str(folder / f"notes-{person:02}")},
            )
            for person, seed in enumerate(board_seeds(plan.devices, delay), start=1)
        ]
        with LocalFleet(folder, devices) as fleet:
            fleet.start()
            yield fleet, data


def way_config(plan: Plan, data: Path, delay: str, seed: int) -> dict[str, Value]:
    """Return the app's configuration, the same for every way."""
    return {
        "num-server-rounds": MOST_ROUNDS,
        "min-devices": plan.devices,
        "fraction-train": SHARE,
        "seed": seed,
        "test-data": str(data),
        "delay": delay,
    }


def run_boards(
    fleet: LocalFleet, plan: Plan, config: Mapping[str, Value], straggler: Mapping[str, object] | None
) -> Curve:
    """Run the app until a model reaches the target, and stop it; return the curve.

    Raises:
        ProcessFailed: the run failed.
    """
    run, marks = _start(fleet, config, straggler)
    why = _watch(fleet, run, lambda: read_curve(marks).reaching(plan.target) is not None, plan.limit_s)
    curve = read_curve(marks, why)
    _stop(fleet, run)
    return curve


def kill_one(fleet: LocalFleet, plan: Plan, data: Path) -> tuple[Settled, Settled]:
    """Kill a device while it trains, wait until that round is over, and bring the device back.

    Returns:
        That round, and the one before it.

    Raises:
        ProcessFailed: the run failed, or the round did not begin or not end in time.
    """
    config = {
        **way_config(plan, data, plan.kill_delay, plan.seeds[0]),
        "fraction-train": 1.0,
        "min-devices": plan.devices - 1,
    }
    name, device = list(fleet.devices.items())[-1]
    notes = Path(str(device.node_config["notes"]))
    notes.unlink(missing_ok=True)
    run, marks = _start(fleet, config, {"enabled": True})
    missed = _watch(fleet, run, lambda: trains(notes, KILL_ROUND), plan.limit_s)
    fleet.kill(name)
    missed = missed or _watch(fleet, run, lambda: read_curve(marks).rounds >= KILL_ROUND, plan.limit_s)
    _stop(fleet, run)
    fleet.start_device(name)
    fleet.wait_online(plan.devices)
    events = fleet.events(run)
    before, found = (settled(events, number, QUORUM) for number in (KILL_ROUND - 1, KILL_ROUND))
    if found is None or before is None:
        raise ProcessFailed(f"run {run} told no end of round {KILL_ROUND}: {missed}")
    return found, before


def _kill(bench: Benchmark, fleet: LocalFleet, plan: Plan, data: Path) -> tuple[Settled, Settled] | None:
    """Kill a device; return None where that came to nothing, which is told."""
    try:
        return kill_one(fleet, plan, data)
    except ProcessFailed as failure:
        bench.could_not_run("a killed device", str(failure))
        return None


def _start(fleet: LocalFleet, config: Mapping[str, Value], straggler: Mapping[str, object] | None) -> tuple[int, Path]:
    """Start a run; return its number, and the file of its marks."""
    marks = Path(tempfile.mkdtemp(dir=fleet.folder)) / "marks.jsonl"
    told = {**config, "roll-call": "true", "marks": marks, "since": time.monotonic()}
    run = fleet.run(APP, config={name: str(value) for name, value in told.items()}, straggler=straggler)
    return run, marks


def _watch(fleet: LocalFleet, run: int, done: Callable[[], bool], limit_s: float) -> str:
    """Wait until `done()`; return "", or why it did not come to that. A run that ends is seen within seconds."""
    end, glance_at = time.monotonic() + limit_s, 0.0
    while not done():
        now = time.monotonic()
        if now > end:
            return f"cut off after {limit_s:.0f} s"
        if now > glance_at:  # not at each turn: it costs the coordinator a little time
            glance_at = now + GLANCE_S
            with fleet.client() as client:
                if client.get(f"runs/{run}")["status"] not in ("pending", "running"):
                    return "" if done() else "the run was over"
        time.sleep(0.05)
    return ""


def _stop(fleet: LocalFleet, run: int) -> None:
    """Stop a run; raises ProcessFailed where it failed by itself."""
    with fleet.client() as client:
        client.post(f"runs/{run}/stop")
    row = fleet.wait_run(run, 60)
    if row["status"] == "failed":
        raise ProcessFailed(f"run {run} failed: {row['error']}")


# --- Flower's side --------------------------------------------------------------------------------------------------


def native_config(device: LocalDevice) -> dict[str, Value]:
    """Return what a SuperNode is told in a device's place; the file of its notes is gone with our fleet's folder."""
    return {name: value for name, value in device.node_config.items() if name != "notes"}


def _native(bench: Benchmark, plan: Plan, configs: list[dict[str, Value]], config: dict[str, Value]) -> Curve | None:
    """Run the app there; return None where it could not, which is told."""
    assert plan.native_s is not None

    def enough(curve: Curve) -> bool:
        return curve.reaching(plan.target) is not None

    try:
        return run_native(configs, config, enough=enough, limit_s=plan.native_s)
    except (ProcessFailed, OSError) as failure:
        bench.could_not_run(f"{FLOWER}, {config['delay']}", str(failure))
        return None


def _native_kill(bench: Benchmark, plan: Plan, configs: list[dict[str, Value]], data: Path) -> None:
    assert plan.native_s is not None
    config = {
        **way_config(plan, data, plan.kill_delay, plan.seeds[0]),
        "fraction-train": 1.0,
        "min-devices": NATIVE_KILL_NODES - 1,
    }
    try:
        with_kill, before = kill_native(
            configs[:NATIVE_KILL_NODES], config, kill_round=NATIVE_KILL_ROUND, limit_s=plan.native_s
        )
    except (ProcessFailed, OSError) as failure:
        bench.could_not_run(f"{FLOWER}, a killed SuperNode", str(failure))
        return
    bench.row(
        killed=f"{FLOWER}, one of {NATIVE_KILL_NODES} SuperNodes",
        round_s=with_kill,
        round_before_s=before,
        added_s=with_kill - before,
        deadline_s=None,
        quorum_s=None,
        kill_delay_s=None,
    )


# --- what is told ---------------------------------------------------------------------------------------------------


def _rows(bench: Benchmark, plan: Plan, outcomes: dict[tuple[str, str], Outcome]) -> None:
    for (delay, way), outcome in sorted(outcomes.items(), key=lambda item: list(plan.delays).index(item[0][0])):
        bench.row(
            delay=delay,
            way=way,
            seeds=len(outcome.curves),
            seconds=outcome.seconds,
            slowest_seed=outcome.slowest,
            rounds=outcome.rounds,
            times_faster=times_faster(outcome, outcomes[delay, ALL]),
            round_s=outcome.curves[0].round_s,
            best=max(curve.best for curve in outcome.curves),
            ended=next((f"{curve.rounds} rounds, {curve.why}" for curve in outcome.curves if curve.why), ""),
        )


def _kill_row(bench: Benchmark, plan: Plan, killed: Settled, before: Settled) -> None:
    bench.row(
        killed=f"ours, one of {plan.devices} devices",
        round_s=killed.seconds,
        round_before_s=before.seconds,
        added_s=killed.seconds - before.seconds,
        deadline_s=killed.deadline_s,
        quorum_s=killed.quorum_s,
        kill_delay_s=killed.beyond_s,
    )


def _bars(bench: Benchmark, plan: Plan, outcomes: dict[tuple[str, str], Outcome], killed: Settled | None) -> None:
    against = f"wait for all, {SLOW}, to {plan.target:.0%}, same process run"
    for way, bar, goal in ((OVER, "speedup_overselect", ">= 4"), (BUFFERED, "speedup_fedbuff", ">= 6")):
        ratio = times_faster(outcomes[SLOW, way], outcomes[SLOW, ALL])
        if ratio is None:
            bench.could_not_run(f"{way}, {SLOW}", f"it, or its peer, did not reach {plan.target:.0%} in time")
        else:
            bench.bar(bar, ratio, goal, against)
    if killed:
        rule = "the rule: the deadline, or the answer that completes the quorum"
        bench.bar("kill_delay_s", killed.beyond_s, "<= 3", rule)


def _draw(bench: Benchmark, plan: Plan, seen: dict[tuple[str, str], list[Curve]]) -> None:
    """Accuracy over wall time, one picture a delay, one line a seed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (only the examples need matplotlib)
    except ImportError:
        bench.say("No picture: matplotlib is not installed (extra [examples]).")
        return
    figure = Figure(figsize=(5 * len(plan.delays), 4.2), layout="constrained")
    for axes, delay in zip(
        figure.subplots(1, len(plan.delays), sharey=True, squeeze=False)[0], plan.delays, strict=True
    ):
        for way, colour in zip((ALL, OVER, BUFFERED, FLOWER), ("C3", "C0", "C2", "C7"), strict=True):
            for number, curve in enumerate(seen.get((delay, way), ())):
                times = [max(mark.seconds, 0.1) for mark in curve.marks]
                accuracies = [100 * mark.accuracy for mark in curve.marks]
                axes.plot(times, accuracies, color=colour, alpha=0.8, label=None if number else way)
        axes.axhline(100 * plan.target, color="black", linewidth=0.8, linestyle=":")
        axes.set(title=delay, xlabel="seconds", xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy on unseen people, %")
    figure.axes[0].legend()
    figure.savefig(bench.png(), dpi=120)
    bench.say(f"Drawn: {bench.png()}")


if __name__ == "__main__":
    raise SystemExit(main("straggler", __doc__, measure))
