"""`argosy run plan`: what waiting differently would gain, from a run's measured times or from times that are told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from argosy_server.cli import words
from argosy_server.cli.client import Data
from argosy_server.cli.options import JsonOption, SocketOption, complete_runs, connect, examples
from argosy_server.cli.terminal import print_json, say, stdout, table
from argosy_server.cli.watch.follow import all_events

if TYPE_CHECKING:  # numpy; no other command needs it
    from argosy_common.coding.gain import Boards, Outcome

PLAN_EXAMPLES = examples(
    "argosy run plan --from 7",
    "argosy run plan --from 7 --site-boards 6 --json",
    "argosy run plan --times 2.1,2.0,2.3,20 --compute 0.3",
    "argosy run plan --mean 2 --slow-share 0.1 --slow-factor 10 --devices 20",
)

_TRAIN = "train"
_MOST_DEVICES = 10_000
_DRAWN = 4_000_000
"""Times drawn at most; many devices get fewer rounds, and need fewer."""
_DRAWS = 10_000
_SAME = 0.005
"""By how much a gain is off 1 before it is one."""
_WORTHWHILE = 1.05
"""The gain from which on something is advised."""
_USUAL_QUORUM = "0.8"
"""What `--straggler` alone waits for."""
_CODED = "repetition-"


def plan(
    *,
    run: Annotated[
        int | None,
        typer.Option("--from", metavar="RUN", min=1, autocompletion=complete_runs, help="Take the times of this run."),
    ] = None,
    times: Annotated[
        list[str] | None,
        typer.Option(metavar="S,S,…", help="Or these, in seconds, one a device; repeat it for another round."),
    ] = None,
    mean: Annotated[float | None, typer.Option(help="Or: what an ordinary device takes, in seconds.")] = None,
    slow_share: Annotated[float | None, typer.Option(help="With --mean: the share of devices that are slow.")] = None,
    slow_factor: Annotated[float | None, typer.Option(help="With --mean: how many times as long those take.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, max=_MOST_DEVICES, help="With --mean: how many devices there are.")
    ] = None,
    site_boards: Annotated[
        int | None,
        typer.Option(
            min=1, max=_MOST_DEVICES, help="Boards of a site that could share data.", show_default="all devices"
        ),
    ] = None,
    quorum: Annotated[
        str, typer.Option(metavar="SHARE", help="The quorum to judge: a share of the devices, or a number of them.")
    ] = _USUAL_QUORUM,
    compute: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="The share of a time that grows with the data.", show_default="as measured, else 1.0"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulation.")] = 0,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Tell what waiting differently would gain, or lose: a quorum, no rounds at all, or data that boards share.

    The times come from a run (--from), or are told (--times), or described (--mean).

    A gain is the mean time of a round that waits for all, divided by that of this.

    Only --from asks the coordinator.
    """
    import numpy as np  # noqa: PLC0415

    from argosy_common.coding.gain import outcomes  # noqa: PLC0415

    _require_one_source(run, times, mean)
    described = {"--slow-share": slow_share, "--slow-factor": slow_factor, "--devices": devices}
    stray = [name for name, given in described.items() if given is not None]
    if mean is None and stray:
        raise typer.BadParameter("it describes devices together with --mean, not without", param_hint=stray[0])
    if compute is not None and not 0 <= compute <= 1:
        raise typer.BadParameter(f"it is between 0 and 1, not {compute}", param_hint="--compute")
    if run is not None:
        with connect(socket) as api:
            fleet = _from_events(run, all_events(api, run), compute)
    elif times:
        fleet = _from_times(times, compute)
    else:
        fleet = _from_description(mean or 0.0, slow_share, slow_factor, devices, compute)
    needed = _quorum(quorum, fleet.devices)
    boards = fleet.devices if site_boards is None else _site(site_boards)
    draws = max(1, min(_DRAWS, _DRAWN // max(fleet.devices, boards)))
    rng = np.random.default_rng(seed)
    found = outcomes(fleet.boards, devices=fleet.devices, quorum=needed, site_boards=boards, rng=rng, draws=draws)
    advice = advise(found, quorum)
    if json:
        about = {"devices": fleet.devices, "site_boards": boards, "compute": fleet.boards.compute}
        made = {"times": fleet.told, "unanswered": fleet.unanswered, **about, "seed": seed, "draws": draws}
        rows = [{**asdict(one), "words": sentence(one).plain} for one in found]
        unfit = [{"name": f"{_CODED}{s}", "words": why} for s, why in _unfit(boards, found)]
        print_json({**made, "outcomes": rows, "unfit": unfit, "advice": [asdict(one) for one in advice]})
        return
    say(f"{fleet.told}. {fleet.compute_told}")
    if fleet.unanswered:
        lost = words.count(fleet.unanswered, "answer")
        say(f"{lost} failed or never came and cannot be counted: waiting for all was worse than this.")
    _print(found, boards, advice)


@dataclass(frozen=True)
class Fleet:
    """Where the times come from.

    Attributes:
        boards: the times.
        devices: how many devices a round asks.
        told: the source, in words.
        compute_told: what is known of the share that grows with the data, in words.
        unanswered: answers that failed or never came.
    """

    boards: Boards
    devices: int
    told: str
    compute_told: str
    unanswered: int = 0


def _require_one_source(run: int | None, times: list[str] | None, mean: float | None) -> None:
    named = [name for name, given in (("--from", run), ("--times", times), ("--mean", mean)) if given not in (None, [])]
    if not named:
        how = "name a run with --from, or tell times with --times or --mean"
        raise typer.BadParameter(how, param_hint="the times of devices")
    if len(named) > 1:
        raise typer.BadParameter("give one of them: times have one source", param_hint=" and ".join(named))


def _from_events(run: int, events: Iterable[Data], compute: float | None) -> Fleet:
    """Return the devices of a run, by its answers to `train`, those that came too late among them.

    A board's own account of how long its app ran is the part that grows with the data. Starting and loading are in it,
    so that the part is rather too large, and the code's gain too small.
    """
    from argosy_common.coding.gain import Boards  # noqa: PLC0415

    seconds: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    failed = late = 0
    for event in events:
        data = event["data"]
        if str(data.get("phase")).split(".")[0] != _TRAIN or event["name"] not in {"device-reply", "device-late"}:
            continue
        if data.get("error"):  # a late answer that failed was told as missing before
            failed += event["name"] == "device-reply"
            continue
        late += event["name"] == "device-late"
        taken = float(data.get("seconds") or 0.0)
        if math.isfinite(taken) and taken > 0:
            seconds.setdefault(data["device"], []).append(taken)
            ran = float(data.get("run_s", taken))
            shares.setdefault(data["device"], []).append(min(max(ran / taken, 0.0), 1.0))
    if len(seconds) < 2:
        found = words.count(len(seconds), "device")
        why = f"run {run} has answers of {found}, and it takes two; name another run, or tell times with --times"
        raise typer.BadParameter(why, param_hint="--from")
    order = sorted(seconds)
    measured = [shares[device] for device in order] if compute is None else compute
    boards = Boards.measured([seconds[device] for device in order], measured)
    answers = words.count(sum(map(len, seconds.values())), "answer")
    told = f"{answers} of {len(order)} devices in run {run}"
    return Fleet(boards, len(order), told, _share_told(boards.compute, known=True), max(0, failed - late))


def _from_times(rounds: Sequence[str], compute: float | None) -> Fleet:
    from argosy_common.coding.gain import Boards  # noqa: PLC0415

    parsed = [[_seconds(text, "--times") for text in one.split(",")] for one in rounds]
    devices = len(parsed[0])
    if {len(one) for one in parsed} != {devices}:
        raise typer.BadParameter("each has one number a device: as many as the first", param_hint="--times")
    if devices < 2:
        raise typer.BadParameter("it takes two devices or more, as in 2.1,2.0,20", param_hint="--times")
    boards = Boards.measured(list(zip(*parsed, strict=True)), 1.0 if compute is None else compute)
    told = f"{devices} devices, {words.count(len(parsed), 'round')}, as told"
    return Fleet(boards, devices, told, _share_told(boards.compute, known=compute is not None))


def _from_description(
    mean: float, slow_share: float | None, slow_factor: float | None, devices: int | None, compute: float | None
) -> Fleet:
    from argosy_common.coding.gain import Boards  # noqa: PLC0415

    _seconds(mean, "--mean")
    share = 0.0 if slow_share is None else slow_share
    factor = 1.0 if slow_factor is None else slow_factor
    if (slow_share is None) != (slow_factor is None):
        raise typer.BadParameter("give both: how many are slow, and how slow", param_hint="--slow-share, --slow-factor")
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"it is between 0 and 1, not {share}", param_hint="--slow-share")
    if not 1 <= factor <= 1e6:
        raise typer.BadParameter(f"it is 1 or more, and at most 1e6, not {factor}", param_hint="--slow-factor")
    if devices is None or devices < 2:
        raise typer.BadParameter("say how many there are, two or more", param_hint="--devices")
    boards = Boards.described(mean, slow_share=share, slow_factor=factor, compute=1.0 if compute is None else compute)
    slow = f", {_percent(share)} of them {factor:g} times as long" if share else ""
    told = f"{devices} devices that take {words.duration(mean)}{slow}"
    return Fleet(boards, devices, told, _share_told(boards.compute, known=compute is not None))


def _seconds(given: str | float, option: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1e9:  # not NaN either
        raise typer.BadParameter(f"a time is a number of seconds above zero, not {given!r}", param_hint=option)
    return value


def _share_told(share: float, *, known: bool) -> str:
    if known:
        return f"{_percent(share)} of the time grows with the data."
    return "All of the time is taken to grow with the data; --compute says how much does."


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _quorum(text: str, devices: int) -> int:
    """Return how many of `devices` a quorum is: `0.8` is a share, `16` a number."""
    try:
        value: int | float = int(text) if text.strip().isdigit() else float(text)
    except ValueError:
        value = math.nan
    if isinstance(value, int):
        if not 1 <= value <= devices:
            raise typer.BadParameter(f"there are {devices} devices, not {value}", param_hint="--quorum")
        return value
    if not 0 < value <= 1:
        why = f"it is a share of the devices, such as 0.8, or a number of them, such as {devices - 1}; not {text!r}"
        raise typer.BadParameter(why, param_hint="--quorum")
    return max(1, math.ceil(round(value * devices, 9)))


def _site(boards: int) -> int:
    """Return the boards of a site, if there is any code for so many."""
    if boards < 2 or (boards % 2 and boards % 3):
        near = [size for size in range(max(2, boards - 1), boards + 3) if size % 2 == 0 or size % 3 == 0]
        why = f"{boards} boards cannot hold each shard twice or three times: {near[0]} or {near[1]} can"
        raise typer.BadParameter(why, param_hint="--site-boards")
    return boards


def _unfit(boards: int, found: Sequence[Outcome]) -> list[tuple[int, str]]:
    """Return the codes that the boards do not fit: s, and why not."""
    from argosy_common.coding.repetition import MOST_STRAGGLERS, fitting  # noqa: PLC0415

    names = {one.name for one in found}
    return [
        (s, f"does not fit {boards} boards: with {s + 1} to a shard it takes {fitting(boards, s)}")
        for s in range(1, MOST_STRAGGLERS + 1)
        if f"{_CODED}{s}" not in names
    ]


def sentence(one: Outcome) -> Text:
    """Return what an outcome means, its gain or loss first."""
    if one.name.endswith("wait-for-all"):
        return Text("the slowest sets the pace")
    return Text.assemble(_gain(one.gain), "; ", _means(one))


def _gain(gain: float) -> tuple[str, str]:
    if abs(gain - 1) < _SAME:
        return "no difference", ""
    return (f"{words.times(gain)}× faster", "green") if gain > 1 else (f"a loss: {words.times(gain)}×", "red")


def _means(one: Outcome) -> str:
    out = one.boards - one.counted
    match one.name:
        case "quorum":
            return f"leaves {words.count(out, 'answer')} out" if out else "it is all of them"
        case "asynchronous":
            return "some updates are stale"
        case _:
            return f"{'double' if out == 1 else 'triple'} the data a board"


def _way(one: Outcome) -> str:
    match one.name:
        case "wait-for-all":
            return f"wait for all {one.boards}"
        case "site-wait-for-all":
            return f"wait for a site's {one.boards}"
        case "quorum":
            return f"first {one.counted} of {one.boards}"
        case "asynchronous":
            return "never wait (async)"
        case _:
            return f"any {one.counted} of {one.boards}, coded"


@dataclass(frozen=True)
class Advice:
    """What would be best, in words, and how to switch it on; `name` is the outcome's."""

    name: str
    words: str
    how: str


def advise(found: Sequence[Outcome], quorum: str) -> list[Advice]:
    """Return what would be best; where that leaves data out, also the best that does not, if it gains anything."""
    ranked = sorted(found, key=lambda one: one.gain, reverse=True)
    best = ranked[0]
    if best.gain < _WORTHWHILE:
        why = f"Best: wait for all. Nothing else gains {_percent(_WORTHWHILE - 1)} or more."
        return [Advice(found[0].name, why, "argosy run start APP")]
    given = [Advice(best.name, f"Best: {_way(best)}, {words.times(best.gain)}× faster.", _how(best, quorum))]
    whole = next((one for one in ranked if one.name.startswith(_CODED) and one.gain >= _WORTHWHILE), best)
    if whole is not best:
        why = f"Best with all data in each round: {_way(whole)}, {words.times(whole.gain)}× faster."
        given.append(Advice(whole.name, why, _how(whole, quorum)))
    return given


def _how(one: Outcome, quorum: str) -> str:
    match one.name:
        case "quorum":
            option = "--straggler" if quorum == _USUAL_QUORUM else f"--quorum {quorum.strip()}"
            return f"argosy run start APP {option}"
        case "asynchronous":
            return "argosy run start APP --async"
        case _:
            copies = one.boards - one.counted + 1
            return (
                f"Enrol all {one.boards} boards at one site (`argosy token create --site`), and in their settings give "
                f"every {copies} that hold the same data the same `shard`; each run counts each shard once."
            )


def _print(found: Sequence[Outcome], boards: int, advice: Sequence[Advice]) -> None:
    shown = table("way", "a round", "p90", "gain", right=["a round", "p90"], give="gain")
    for one in found:
        shown.add_row(_way(one), words.duration(one.expected), words.duration(one.p90), sentence(one))
    for stragglers, why in _unfit(boards, found):
        way = f"any {boards - stragglers} of {boards}, coded"
        shown.add_row(way, words.NONE, words.NONE, why, style="dim")
    shown.columns[-1].no_wrap, shown.columns[-1].overflow = False, "fold"
    console = stdout()
    console.print(shown)
    console.print()
    for each in advice:
        console.print(Text(each.words, style="bold"))
        console.print(Padding(Text(each.how), (0, 0, 0, 2), expand=False))
