"""What a round costs beside the training itself: seconds, bytes and memory, against Flower's own SuperLink/SuperNode.

The same Flower app (benchmarks/apps/overhead: arithmetic that takes microseconds) runs with three devices on both
sides, in this process run, on this machine. Overhead of a round = its wall time − the slowest device's arithmetic in
train and in evaluate; aggregation counts as overhead on both sides. Medians are over the rounds after the first, which
also carries the app and the initial model. Bytes are counted by a proxy between devices and server; ours are TLS
records, Flower's plain HTTP. Memory is resident bytes of whole process trees, sampled; `models` are multiples of the
model's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.argosy_fleet import argosy_fleet
from benchmarks.flower_native import run_native
from benchmarks.memory import Peak
from benchmarks.processes import ProcessFailed
from benchmarks.report import Benchmark, main
from benchmarks.rounds import MB, Job, Observed

SMALL_MB = 0.1
LARGE_MB = 100
ARGOSY, FLOWER = "argosy", "flower"


@dataclass(frozen=True)
class Plan:
    """Which jobs each side runs."""

    argosy: tuple[Job, ...]
    flower: tuple[Job, ...]


FULL = Plan(
    argosy=(Job(SMALL_MB, 12, 120), Job(4, 8, 120), Job(25, 5, 180), Job(LARGE_MB, 4, 400)),
    flower=(Job(SMALL_MB, 3, 150), Job(4, 2, 150), Job(25, 2, 240), Job(LARGE_MB, 2, 500)),
)
QUICK = Plan(argosy=(Job(SMALL_MB, 6, 20), Job(4, 3, 20)), flower=(Job(SMALL_MB, 1, 25),))


def measure(bench: Benchmark) -> None:
    """Run the plan on both sides and tell what was seen."""
    plan = QUICK if bench.quick else FULL
    seen: dict[str, dict[float, Observed]] = {ARGOSY: {}, FLOWER: {}}
    with bench.progress("round overhead", len(plan.argosy) + len(plan.flower)) as step:
        _run_argosy(plan.argosy, seen[ARGOSY], step, one_fleet=bench.quick)
        for job in plan.flower:
            step(f"{FLOWER}, {job.model_mb:g} MB × {job.rounds} rounds")
            try:
                seen[FLOWER][job.model_mb] = run_native(job, _quiet)
            except (ProcessFailed, OSError, ValueError) as failure:
                bench.could_not_run(f"{FLOWER} at {job.model_mb:g} MB", str(failure))
    for side, runs in seen.items():
        for observed in runs.values():
            bench.row(**_summary(side, observed))
    for side, runs in seen.items():
        for observed in runs.values():
            for group in sorted(observed.memory):
                bench.row(**_memory(side, observed, group))
    if bench.quick:
        bench.left_out("25 and 100 MB with the bars on memory; Flower at 4 MB and its second round")
    _add_bars(bench, seen)
    if not bench.quick:
        _draw(bench, seen)


def _run_argosy(
    jobs: tuple[Job, ...], seen: dict[float, Observed], step: Callable[[str], None], *, one_fleet: bool
) -> None:
    """Run each job on a fleet of its own, so that its memory is its own, or all on one, which is quicker."""
    for batch in (jobs,) if one_fleet else tuple((job,) for job in jobs):
        with argosy_fleet(batch[0].devices, _quiet) as fleet:
            for job in batch:
                step(f"{ARGOSY}, {job.model_mb:g} MB × {job.rounds} rounds")
                seen[job.model_mb] = fleet.run(job)


def _quiet(_: str) -> None:
    """The progress bar says enough."""


def _summary(side: str, run: Observed) -> dict[str, float | int | str]:
    return {
        "side": side,
        "model_mb": run.job.model_mb,
        "rounds": len(run.rounds),
        "wall_s": run.wall_s,
        "overhead_s": run.overhead_s,
        "first_round_s": run.rounds[0].wall_s,
        "aggregate_s": max(r.aggregate_s for r in run.steady),
        "up_models": run.wire_ratio(run.up),
        "down_models": run.wire_ratio(run.down),
        "models_sent": run.models_sent(),
    }


def _memory(side: str, run: Observed, group: str) -> dict[str, float | int | str]:
    peak = run.memory[group]
    return {
        "memory_of": side,
        "model_mb": run.job.model_mb,
        "group": group,
        "idle_mb": peak.idle / MB,
        "peak_mb": peak.peak / MB,
        "peak_models": peak.peak / (run.job.model_mb * MB),
        "growth_models": (peak.peak - peak.idle) / (run.job.model_mb * MB),
        "high_water_mb": peak.high_water / MB,
        "processes_mb": ", ".join(f"{label} {size / MB:.0f}" for label, size in sorted(peak.by_label.items())),
    }


def _add_bars(bench: Benchmark, seen: dict[str, dict[float, Observed]]) -> None:
    ours, native = seen[ARGOSY], seen[FLOWER]
    small = ours[SMALL_MB]
    bench.bar("overhead_s_small", small.overhead_s, "<= 0.1", f"{SMALL_MB} MB, {small.job.devices} devices")
    if SMALL_MB in native:
        ratio = native[SMALL_MB].overhead_s / max(small.overhead_s, 1e-6)
        bench.bar("overhead_ratio_flower", ratio, ">= 100", f"Flower's SuperLink/SuperNode, {SMALL_MB} MB, same run")
    worst = "the model's bytes; the worst of all sizes"
    bench.bar("wire_up_ratio", max(run.wire_ratio(run.up) for run in ours.values()), "<= 1.03", worst)
    bench.bar("wire_down_ratio", max(run.wire_ratio(run.down) for run in ours.values()), "<= 1.03", worst)
    bench.bar("model_sends_a_round", max(run.models_sent() for run in ours.values()), "== 1", "once, for both phases")
    if LARGE_MB in ours:
        large = ours[LARGE_MB]
        device, server = large.device_peak(), large.memory["server"]
        bench.bar("device_peak_models", _models(device, large), "<= 3.5", "supervisor + worker at 100 MB, absolute")
        bench.bar("coordinator_peak_models", _models(server, large), "<= 4", "daemon + run process at 100 MB, absolute")


def _models(peak: Peak, run: Observed) -> float:
    return peak.peak / (run.job.model_mb * MB)


def _draw(bench: Benchmark, seen: dict[str, dict[float, Observed]]) -> None:
    """Draw overhead and the device's memory over the model's size."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (only the examples need matplotlib)
    except ImportError:
        bench.say("No picture: matplotlib is not installed (extra [examples]).")
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for side, runs in seen.items():
        sizes = list(runs)
        seconds.plot(sizes, [runs[size].overhead_s for size in sizes], "o-", label=side)
        memory.plot(sizes, [runs[size].device_peak().peak / MB for size in sizes], "o-", label=side)
    seconds.set(title="overhead a round", xlabel="model, MB", ylabel="s", xscale="log", yscale="log")
    memory.set(title="peak memory of a device", xlabel="model, MB", ylabel="MB", xscale="log", yscale="log")
    for axes in (seconds, memory):
        axes.legend()
        axes.grid(alpha=0.3)
    path = bench.png()
    figure.savefig(path, dpi=120)
    bench.say(f"Picture: {path}")


if __name__ == "__main__":
    raise SystemExit(main("round_overhead", __doc__, measure))
