"""The peer of benchmarks/straggler: the same app, delays and devices on Flower's own SuperLink and SuperNodes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.flower_native import NativeFederation, Value, native_environment
from benchmarks.processes import Processes, ProcessFailed
from benchmarks.straggler_curves import Curve, read_curve

_FRUITLESS = 3

APP = Path(__file__).parent / "apps" / "boards"


def run_native(
    configs: Sequence[Mapping[str, Value]],
    config: Mapping[str, Value],
    *,
    enough: Callable[[Curve], bool],
    limit_s: float,
) -> Curve:
    """Start a federation, run the app until the curve is `enough` or the time is over, end everything.

    Raises:
        ProcessFailed: something did not start, or ended.
    """
    with tempfile.TemporaryDirectory(prefix="bench-native-") as folder:
        home = Path(folder)
        with Processes(home, native_environment(home)) as processes:
            marks = _started(home, processes, configs, config)[0]
            end = time.monotonic() + limit_s
            while not enough(read_curve(marks)):
                processes.require_alive()
                if stands_still(read_curve(marks)):
                    raise ProcessFailed("no model ever changed: its devices trained nothing")
                if time.monotonic() > end:
                    return read_curve(marks, f"cut off after {limit_s:.0f} s")
                time.sleep(0.1)
            return read_curve(marks)


def kill_native(
    configs: Sequence[Mapping[str, Value]], config: Mapping[str, Value], *, kill_round: int, limit_s: float
) -> tuple[float, float]:
    """Kill a SuperNode, with all that it started, while it trains in a round.

    Returns:
        Seconds of that round, and of the one before it.

    Raises:
        ProcessFailed: something did not start, ended by itself, or the round was not over in time.
    """
    with tempfile.TemporaryDirectory(prefix="bench-native-") as folder:
        home = Path(folder)
        notes = home / "notes"
        with Processes(home, native_environment(home)) as processes:
            told = [*configs[:-1], {**configs[-1], "notes": str(notes)}]
            marks, roots = _started(home, processes, told, config)
            processes.wait(f"round {kill_round} begins", lambda: trains(notes, kill_round), limit_s)
            _kill_tree(roots[f"device-{len(configs) - 1}"])
            end = time.monotonic() + limit_s
            while (curve := read_curve(marks)).rounds < kill_round:
                if time.monotonic() > end:
                    raise ProcessFailed(f"round {kill_round} was not over within {limit_s:.0f} s after the kill")
                time.sleep(0.1)
            before, last, now = (mark.seconds for mark in curve.marks[kill_round - 2 : kill_round + 1])
            return now - last, last - before


def stands_still(curve: Curve) -> bool:
    """Whether some rounds are over and the model is what it was before them: then that is no measure of speed."""
    return curve.rounds >= _FRUITLESS and len({mark.accuracy for mark in curve.marks}) == 1


def trains(notes: Path, server_round: int) -> bool:
    """Whether a device has noted that it trains in a round."""
    return notes.exists() and any(line.split()[1] == str(server_round) for line in notes.read_text().splitlines())


def _started(
    home: Path, processes: Processes, configs: Sequence[Mapping[str, Value]], config: Mapping[str, Value]
) -> tuple[Path, dict[str, int]]:
    """Start everything; return the file of the app's marks, and the SuperNodes' process ids."""
    marks = home / "marks.jsonl"
    federation = NativeFederation(home, processes)
    federation.start_link()
    roots = federation.start_nodes(configs)
    federation.submit(APP, {**config, "marks": str(marks), "since": time.monotonic()})
    return marks, roots


def _kill_tree(pid: int) -> None:
    """Kill a process and its descendants, the root first, so that it starts no others."""
    root = psutil.Process(pid)
    root.suspend()
    for member in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            member.kill()
