"""What codecs do to a whole run: bytes both ways, accuracy, and the coordinator's memory as the fleet grows.

Accuracy and bytes: the example `har` on real recordings (HAPT), 20 devices with one person each, 10 of them training a
round, all of them evaluating, as is Flower's default; tested on ten people that no device has seen. A real coordinator,
broker and device daemons on loopback. Bytes are those of `argosy run show`: envelopes and chunks as they travelled,
first download of the whole model included; the peer is the same run without a codec, in the same process run. The
accuracy of a run is the mean of its last five rounds.

Memory: resident bytes of daemon and run process together, sampled, with 8 and with 64 devices on a model of 25 MB.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from argosy_server.local_fleet import LocalDevice, LocalFleet
from benchmarks.argosy_fleet import classify
from benchmarks.memory import MemorySampler
from benchmarks.processes import ProcessFailed
from benchmarks.report import Benchmark, main

ROOT = Path(__file__).parents[1]
HAR = ROOT / "examples" / "har"
LARGE = Path(__file__).parent / "apps" / "large"
MODEL_MB = 25

NONE = ("none", "none")
CHOSEN = ("eden:2", "eden:4")
CODECS = (
    NONE,
    ("int8", "int8"),
    ("eden:4", "eden:4"),
    CHOSEN,
    ("eden:2", "int8"),
    ("eden:2", "eden:2"),
    ("eden:1", "eden:4"),
    ("topk:0.01", "eden:4"),
)


@dataclass(frozen=True)
class Plan:
    """What is run: devices, rounds, seeds, codecs up and down."""

    devices: int
    trained: int
    rounds: int
    seeds: tuple[int, ...]
    codecs: tuple[tuple[str, str], ...]


FULL = Plan(20, 10, 40, (0, 1, 2), CODECS)
QUICK = Plan(4, 2, 4, (0,), (NONE, CHOSEN))


@dataclass(frozen=True)
class Seen:
    """What one run came to: bytes over all rounds and devices, accuracy of its last five rounds."""

    up: int
    down: int
    accuracy: float


def measure(bench: Benchmark) -> None:
    """Run the codecs, then the two fleets."""
    plan = QUICK if bench.quick else FULL
    seen: dict[tuple[str, str], list[Seen]] = {codec: [] for codec in plan.codecs}
    with bench.progress("compressed run", len(plan.codecs) * len(plan.seeds)) as step, har_fleet(plan) as (fleet, data):
        for seed in plan.seeds:
            for codec in plan.codecs:
                step(f"{codec[0]} up, {codec[1]} down, seed {seed}")
                seen[codec].append(run_har(fleet, plan, seed, data, codec=codec))
    for codec, runs in seen.items():
        _row(bench, plan, codec, runs, seen[NONE])
    _bars(bench, seen)
    if bench.quick:
        bench.left_out(
            "most codecs, 36 of 40 rounds and two of three seeds, so the bars on accuracy and on bytes down; memory"
        )
        return
    _memory(bench)
    _draw(bench, seen)


# --- accuracy and bytes ---------------------------------------------------------------------------------------------


@contextmanager
def har_fleet(plan: Plan) -> Iterator[tuple[LocalFleet, Path]]:
    """Start a fleet whose devices hold one person's recordings each; also return the folder of the recordings."""
    sys.path.insert(0, str(HAR))
    from prepare import prepare  # noqa: PLC0415  (a script of the example's folder)

    data = prepare(ROOT / ".demo" / "data", lambda _: None)
    people = range(1, plan.devices + 1)
    devices = [LocalDevice(f"person-{one:02}", {"subject": one, "data": str(data)}) for one in people]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, LocalFleet(Path(folder), devices) as fleet:
        fleet.start()
        yield fleet, data


def run_har(
    fleet: LocalFleet, plan: Plan, seed: int, data: Path, *, codec: tuple[str, str] = NONE, secure: bool = False
) -> Seen:
    """Run the app once and return what it came to.

    Raises:
        ProcessFailed: the run failed, or a device did.
    """
    config = {
        "num-server-rounds": plan.rounds,
        "lr-decay": 1.0,
        "fraction-train": plan.trained / plan.devices,
        "min-devices": plan.trained,
        "seed": seed,
        "test-data": str(data),
    }
    _forget_blobs(fleet)
    run = fleet.run(
        HAR,
        config={name: str(value) for name, value in config.items()},
        codec=None if codec == NONE else {"up": codec[0], "down": codec[1]},
        secure=secure,
    )
    row = fleet.wait_run(run, 900)
    if row["status"] != "finished":
        raise ProcessFailed(f"run {run} {row['status']}: {row['error']}")
    replies = [event["data"] for event in fleet.events(run) if event["name"] == "device-reply"]
    failed = [reply for reply in replies if reply["error"]]
    if failed:
        raise ProcessFailed(f"run {run}: {len(failed)} replies failed, the first: {failed[0]['error']}")
    central = {
        event["data"]["round"]: event["data"]["metrics"]["accuracy"]
        for event in fleet.events(run)
        if event["name"] == "central"
    }
    last = [central[number] for number in sorted(central)[-5:]]
    return Seen(sum(int(it["bytes_up"]) for it in replies), sum(int(it["bytes_down"]) for it in replies), fmean(last))


def _forget_blobs(fleet: LocalFleet) -> None:
    """Let no run profit from the one before: a seed's first model is the same for all codecs, and devices cache."""
    for name in fleet.devices:
        for blob in (fleet.device_folder(name) / "blobs" / "sha256").iterdir():
            blob.unlink()


def _row(bench: Benchmark, plan: Plan, codec: tuple[str, str], runs: list[Seen], peers: list[Seen]) -> None:
    bench.row(
        up=codec[0],
        down=codec[1],
        kb_up_a_device_and_round=fmean(run.up for run in runs) / plan.rounds / plan.trained / 1000,
        kb_down_a_device_and_round=fmean(run.down for run in runs) / plan.rounds / plan.devices / 1000,
        times_fewer_up=_ratio(runs, peers, lambda run: run.up),
        times_fewer_down=_ratio(runs, peers, lambda run: run.down),
        accuracy=fmean(run.accuracy for run in runs),
        accuracy_worst_seed=min(run.accuracy for run in runs),
        points_below_none=_loss(runs, peers),
    )


def _ratio(runs: list[Seen], peers: list[Seen], which: Callable[[Seen], int]) -> float:
    return sum(map(which, peers)) / sum(map(which, runs))


def _loss(runs: list[Seen], peers: list[Seen]) -> float:
    return 100 * (fmean(peer.accuracy for peer in peers) - fmean(run.accuracy for run in runs))


def _bars(bench: Benchmark, seen: dict[tuple[str, str], list[Seen]]) -> None:
    runs, peers = seen[CHOSEN], seen[NONE]
    against = "the same runs without a codec, same process run"
    if not bench.quick:
        bench.bar("accuracy_loss_eden2", _loss(runs, peers), "<= 0.5", against)
    bench.bar("bytes_up_ratio", _ratio(runs, peers, lambda run: run.up), ">= 8", against)
    if not bench.quick:  # the first model, which comes whole, weighs too much in a few rounds
        bench.bar("bytes_down_ratio", _ratio(runs, peers, lambda run: run.down), ">= 3.5", against)


def _draw(bench: Benchmark, seen: dict[tuple[str, str], list[Seen]]) -> None:
    """Accuracy over the bytes that a device sends, one point a codec."""
    import matplotlib as mpl  # noqa: PLC0415  (only a full run draws)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  (likewise)

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (up, down), runs in seen.items():
        kb = fmean(run.up + run.down for run in runs) / FULL.rounds / FULL.devices / 1000
        accuracies = [100 * run.accuracy for run in runs]
        middle = fmean(accuracies)
        axes.errorbar(
            kb,
            middle,
            [[middle - min(accuracies)], [max(accuracies) - middle]],
            fmt="o",
            capsize=3,
            label=f"{up} / {down}",
        )
    axes.set(xscale="log", xlabel="kB a device and round, both ways", ylabel="accuracy on unseen people, %")
    axes.set_title("HAPT, 40 rounds, 10 of 20 devices: mean and range of 3 seeds")
    axes.legend(title="up / down", fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(bench.png(), dpi=120)
    bench.say(f"Drawn: {bench.png()}")


# --- memory ---------------------------------------------------------------------------------------------------------


def _memory(bench: Benchmark) -> None:
    peaks: dict[int, float] = {}
    with bench.progress("memory", 2) as step:
        for devices in (8, 64):
            step(f"{devices} devices, {MODEL_MB} MB")
            peaks[devices] = _peak_mb(devices)
            bench.row(devices=devices, model_mb=MODEL_MB, codec="/".join(CHOSEN), coordinator_peak_mb=peaks[devices])
    bench.bar("memory_64_over_8", peaks[64] / peaks[8], "<= 1.2", "the same run with 8 devices, same process run")


def _peak_mb(devices: int) -> float:
    """Return the peak of daemon and run process together, over three rounds."""
    members = [LocalDevice(f"device-{number:02}") for number in range(devices)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, LocalFleet(Path(folder), members) as fleet:
        fleet.start()
        with MemorySampler({"server": fleet.processes["coordinator"].pid}, classify) as memory:
            config = {"model-mb": str(float(MODEL_MB)), "devices": str(devices), "num-server-rounds": "3"}
            run = fleet.run(LARGE, config=config, codec={"up": CHOSEN[0], "down": CHOSEN[1]})
            row = fleet.wait_run(run, 900)
        if row["status"] != "finished":
            raise ProcessFailed(f"run {run} {row['status']}: {row['error']}")
        return memory.groups["server"].peak / 1e6


if __name__ == "__main__":
    raise SystemExit(main("compressed_run", __doc__, measure, packages=("torch",)))
