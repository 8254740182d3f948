"""Slow, missing and late boards: real device processes with injected delays, through the public configuration."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from argosy_common.errors import AsyncUnsuitable
from argosy_server.local_fleet import LocalDevice, LocalFleet, wait_until
from tests.fleets import behind_a_cable, data_of

BOARDS = Path(__file__).parents[2] / "benchmarks" / "apps" / "boards"
LAB = Path(__file__).parent / "apps" / "lab"
WINDOWS = 120
"""Examples of each board, where its data is made."""

pytestmark = pytest.mark.timeout(240)

Settings = Mapping[str, object]


class Fleet:
    """Boards b1, b2, …, each with its delay."""

    def __init__(self, folder: Path, delays: Sequence[str], settings: Sequence[Settings]) -> None:
        self.folder = folder
        devices = [
            LocalDevice(
                f"b{number}",
                {"delay": delay, "seed": number, "subject": number, "notes": str(folder / f"notes-b{number}")},
                {"heartbeat_s": 2.0, "death_delay_s": 1, "resend_s": 2.0, **more},
            )
            for number, (delay, more) in enumerate(zip(delays, settings, strict=True), 1)
        ]
        self.fleet = LocalFleet(folder / "fleet", devices, settings={"runs.resend_s": 2.0})

    def run(self, rounds: int, straggler: Settings | None = None, **config: object) -> int:
        """Start a run of the boards' app."""
        told = {"min-devices": len(self.fleet.devices), "roll-call": "true", "marks": self.marks, **config}
        return self.fleet.run(
            BOARDS,
            rounds=rounds,
            config={name: str(value) for name, value in told.items()},
            straggler=straggler or {"enabled": True},
        )

    @property
    def marks(self) -> Path:
        return self.folder / "marks.jsonl"

    def over(self, run: int) -> dict[str, Any]:
        row = self.fleet.wait_run(run, 120)
        assert row["status"] == "finished", (row["error"], (self.fleet.folder / "coordinator").as_posix())
        return row

    def device(self, name: str) -> str:
        """Return a board's id."""
        with self.fleet.client() as api:
            return next(str(it["device"]) for it in api.get("devices")["devices"] if it["name"] == name)

    def data(self, run: int, name: str, **wanted: object) -> list[dict[str, Any]]:
        return data_of(self.fleet, run, name, **wanted)

    def training(self, name: str, number: int) -> bool:
        """Tell whether a board has begun the training of a round."""
        notes = self.folder / f"notes-{name}"
        return notes.exists() and any(line.split()[1] == str(number) for line in notes.read_text().splitlines())


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Return a function that starts a fleet: a delay a board, and further settings of each."""
    with ExitStack() as stack:

        def make(*delays: str, settings: Sequence[Settings] | None = None, start: bool = True) -> Fleet:
            fleet = Fleet(tmp_path, delays, settings or [{}] * len(delays))
            stack.enter_context(fleet.fleet)
            if start:
                fleet.fleet.start()
            return fleet

        yield make


def holds_together(fleet: Fleet, run: int, *, finished: bool = True) -> None:
    """Check what must hold of every round, whatever was slow: each answer counts once, in its own round, or is late."""
    for settled in fleet.data(run, "phase-settled")[: None if finished else -1]:
        where = {"round": settled["round"], "phase": settled["phase"]}
        (chosen,) = fleet.data(run, "selection", **where)
        counted = set(settled["counted"])
        assert counted <= set(chosen["asked"])
        assert not counted & set(chosen["spared"])
        if settled["how"] in ("enough", "deadline"):
            assert len(counted) >= settled["quorum"]
        replies = fleet.data(run, "device-reply", **where)
        assert max(Counter(it["device"] for it in replies).values()) == 1
        assert {it["device"] for it in replies if it["error"] is None} == counted
        late = {it["device"] for it in fleet.data(run, "device-late", **where)}
        assert not late & counted
        (told,) = fleet.data(run, "phase-finished", **where)
        assert told["metrics"]["num-examples"] == WINDOWS * len(counted)


def test_a_slow_board_sets_no_pace_is_spared_while_at_work_and_its_answer_is_told_as_late(
    boards: Callable[..., Fleet],
) -> None:
    fleet = boards(*["fixed:0.2"] * 5, "fixed:2.5")
    run = fleet.run(14)
    fleet.over(run)
    holds_together(fleet, run)
    slow = fleet.device("b6")
    first = fleet.data(run, "phase-settled", round=1)[0]
    assert first["how"] == "deadline"
    assert slow not in first["counted"]
    assert [it["error"]["code"] for it in fleet.data(run, "device-reply", round=1, device=slow)] == ["cut-off"]
    assert fleet.data(run, "selection", round=2)[0]["spared"][slow]["code"] == "busy"
    (late,) = fleet.data(run, "device-late", round=1)
    assert late["device"] == slow
    assert late["run_s"] >= 2.5
    assert late["seconds"] > late["late_s"] > 0
    asked = [slow in data["asked"] for data in fleet.data(run, "selection")]
    assert asked.count(True) < 14


@pytest.mark.parametrize(
    "delay",
    [
        pytest.param("exponential:0.3", marks=pytest.mark.slow),
        pytest.param("slow:0.1:0.3:10", marks=pytest.mark.slow),
        pytest.param("onoff:0.2:1.5:1", marks=pytest.mark.slow),
    ],
)
def test_whatever_the_delays_each_answer_counts_once_and_in_its_own_round(
    boards: Callable[..., Fleet], delay: str
) -> None:
    fleet = boards(*[delay] * 6)
    run = fleet.run(4, {"quorum": 0.5}, **{"fraction-evaluate": 1.0})
    fleet.over(run)
    holds_together(fleet, run)
    assert len(fleet.data(run, "phase-settled")) == 8


def test_a_board_killed_in_its_training_is_done_without_and_counts_again_once_it_is_back(
    boards: Callable[..., Fleet],
) -> None:
    fleet = boards(*["fixed:0.3"] * 3, "fixed:2")
    # the strategy itself must not wait for four: they are not all there for a while
    run = fleet.run(1000, {"quorum": 0.75, "over_select": 0.0}, **{"min-devices": 3})
    killed = fleet.device("b4")
    wait_until(lambda: fleet.training("b4", 1), 60, "b4 to train")
    fleet.fleet.kill("b4")
    wait_until(lambda: bool(fleet.data(run, "phase-settled", round=2)), 60, "rounds without it")
    fleet.fleet.start_device("b4")
    # its journal has the instruction, so it answers after all
    wait_until(lambda: bool(fleet.data(run, "device-late", device=killed)), 60, "its late answer")
    asked = len([it for it in fleet.data(run, "selection") if killed in it["asked"]])
    wait_until(
        lambda: len([it for it in fleet.data(run, "selection") if killed in it["asked"]]) > asked, 60, "its next turn"
    )
    with fleet.fleet.client() as api:
        api.post(f"runs/{run}/stop")
    assert fleet.fleet.wait_run(run, 60)["status"] == "stopped"
    holds_together(fleet, run, finished=False)
    assert killed not in fleet.data(run, "phase-settled", round=1)[0]["counted"]
    assert fleet.data(run, "device-late", device=killed)[0]["round"] == 1


@pytest.mark.slow
def test_a_board_whose_network_is_cut_is_done_without_after_its_grace(boards: Callable[..., Fleet]) -> None:
    fleet = boards(*["fixed:0.3"] * 3, "fixed:1.5", start=False)
    fleet.fleet.start_coordinator()
    for name in fleet.fleet.devices:
        fleet.fleet.join(name)
    cable = behind_a_cable(fleet.fleet, "b4")
    try:
        for name in fleet.fleet.devices:
            fleet.fleet.start_device(name)
        fleet.fleet.wait_online(4)
        # with a deadline out of reach it is the last will alone that lets the round go on
        run = fleet.run(3, {"deadline": 600, "grace": 1.0, "over_select": 0.0}, **{"min-devices": 3})
        wait_until(lambda: fleet.training("b4", 1), 60, "b4 to train")
        cable.pull()
        wait_until(lambda: bool(fleet.data(run, "phase-settled", round=1)), 60, "the round to go on without it")
        cable.plug()
        fleet.over(run)
    finally:
        cable.close()
    holds_together(fleet, run)
    cut = fleet.device("b4")
    first = fleet.data(run, "phase-settled", round=1)[0]
    assert (first["how"], first["away"]) == ("all", [cut])
    assert cut not in first["counted"]


def test_boards_of_a_site_stand_in_for_one_another_and_each_shard_counts_once(boards: Callable[..., Fleet]) -> None:
    site = [{"shard": shard} for shard in ("a", "a", "b", "b")]
    fleet = boards("fixed:0.1", "fixed:60", "fixed:60", "fixed:0.1", settings=site)
    # not even the setting is needed: who holds what, the boards say themselves
    run = fleet.run(2, {"enabled": False})
    fleet.over(run)
    quick = {fleet.device("b1"), fleet.device("b4")}
    for number in (1, 2):
        replies = fleet.data(run, "device-reply", round=number)
        assert {it["device"] for it in replies if it["error"] is None} == quick
        (finished,) = fleet.data(run, "phase-finished", round=number)
        assert finished["metrics"]["num-examples"] == 2 * WINDOWS


@pytest.mark.slow
def test_an_app_may_ask_for_it_and_the_second_answer_for_a_shard_is_refused_by_name(
    boards: Callable[..., Fleet], tmp_path: Path
) -> None:
    site = [{"shard": "a"}, {"site": "default", "shard": "a"}, {}]  # it says where it enrolled, as the first is taken
    fleet = boards("fixed:0.1", "fixed:0.6", "fixed:1.5", settings=site)
    app = tmp_path / "app"
    shutil.copytree(BOARDS, app, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "pyproject.toml").open("a").write("\n[tool.argosy.straggler]\nquorum = 0.9\n")
    run = fleet.fleet.run(app, rounds=1, config={"min-devices": "3", "roll-call": "true"})
    assert fleet.over(run)["options"]["straggler"]["quorum"] == 0.9
    holds_together(fleet, run)
    replies = fleet.data(run, "device-reply", round=1, phase="train")
    codes = [it["error"]["code"] for it in replies if it["error"]]
    assert codes == ["shard-counted"]


def test_an_asynchronous_run_of_an_unchanged_app_waits_for_nobody_and_hears_everybody(
    boards: Callable[..., Fleet],
) -> None:
    fleet = boards(*["fixed:0.2"] * 4, "fixed:2")
    run = fleet.run(25, {"mode": "async", "buffer": 2}, **{"fraction-evaluate": 1.0})
    fleet.over(run)
    steps = fleet.data(run, "async-step")
    assert [step["round"] for step in steps] == list(range(1, 26))
    updates = [update for step in steps for update in step["updates"]]
    assert len(updates) == 50
    slow = fleet.device("b5")
    assert slow in {update["device"] for update in updates}
    assert max(update["staleness"] for update in updates if update["device"] == slow) >= 2
    marks = [json.loads(line) for line in fleet.marks.read_text().splitlines()]
    assert [mark["round"] for mark in marks] == list(range(26))
    assert marks[-1]["accuracy"] > 0.8 > marks[0]["accuracy"]
    assert fleet.data(run, "async-evaluation")


@pytest.mark.slow
def test_asynchronous_updates_may_be_compressed(boards: Callable[..., Fleet]) -> None:
    fleet = boards(*["fixed:0.1"] * 3)
    config = {"min-devices": "3", "marks": str(fleet.marks)}
    run = fleet.fleet.run(
        BOARDS, rounds=12, config=config, codec={"up": "int8", "down": "int8"}, straggler={"mode": "async", "buffer": 1}
    )
    fleet.over(run)
    marks = [json.loads(line) for line in fleet.marks.read_text().splitlines()]
    assert marks[-1]["accuracy"] > 0.7 > marks[0]["accuracy"]


@pytest.mark.slow
def test_secure_rounds_end_on_time_too_and_are_never_asynchronous(boards: Callable[..., Fleet]) -> None:
    fleet = boards(*["fixed:0.2"] * 5, "fixed:6")
    config = {"min-devices": "6", "roll-call": "true"}
    with pytest.raises(AsyncUnsuitable):
        fleet.fleet.run(BOARDS, config=config, secure=True, straggler={"mode": "async"})
    config["roll-call"] = "false"
    run = fleet.fleet.run(BOARDS, rounds=1, config=config, secure=True, straggler={"enabled": True})
    fleet.over(run)
    (group,) = fleet.data(run, "secure-group", round=1)
    assert group["error"] is None, group
    slow = fleet.device("b6")
    assert len(group["summed"]) == 5
    assert slow not in group["summed"]
