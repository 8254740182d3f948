"""`argosy run explain` as a process: of a round of each kind of device, on terminals of any width, and as JSON."""

from __future__ import annotations

import json

import pytest

from argosy_common.errors import AppRaised, CutOff, DeviceNotFound, RoundNotFound, RunNotFound
from argosy_server.api.server import AdminServer
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator
from tests.server.admin.test_explanation import AT, FACTS, IDS


def tell(coordinator: RowsCoordinator, run: int) -> list[str]:
    """Tell a round with one device of each kind; return their ids."""
    attic, bench, cellar, dock = devices = [row.device for row in coordinator.store.devices.list()]
    chosen = {"selector": "considerate", "wanted": 2, "enough": 2, "asked": [attic, bench], "heard": []}
    low = {"code": "battery-low", "why": "battery at 12 % and not charging"}
    coordinator.tell(run, "run-started", strategy="FedAvg", rounds=3, app="har")
    coordinator.tell(run, "selection", **AT, **chosen, spared={cellar: low})
    coordinator.tell(run, "phase-started", **AT, devices=[attic, bench])
    coordinator.tell(run, "device-reply", **AT, device=attic, seconds=1.8, **FACTS, error=None)
    cut = CutOff(device=bench, seconds=3.2).to_wire()
    coordinator.tell(run, "device-reply", **AT, device=bench, seconds=3.2, error=cut)
    coordinator.tell(run, "phase-finished", **AT, seconds=3.2, sent=2, replied=1, failed=1, metrics={})
    facts = {"seconds": 3.2, "quorum": 1, "enough": 2, "deadline_s": 3.2, "counted": {attic: 1.8}}
    coordinator.tell(run, "phase-settled", **AT, how="deadline", **facts)
    coordinator.tell(run, "device-late", **AT, device=bench, seconds=14.5, late_s=11.3, error=None)
    assert dock != cellar
    return devices


@pytest.fixture
def run(server: AdminServer, coordinator: RowsCoordinator) -> int:
    """A run with a third round."""
    made = coordinator.add_run()
    tell(coordinator, made)
    return made


def test_a_round_is_explained_of_the_latest_run_or_of_a_named_one(argosy: Argosy, run: int) -> None:
    shown = argosy("run", "explain", "3")
    assert shown.returncode == 0, shown.stderr
    assert "train: ended on its deadline of 3.20 s with 1 of 2; 1 was needed" in shown.stdout
    assert "at 1.80 s" in shown.stdout
    assert "HTTPS" in shown.stdout
    assert "its answer came 11.3 s too late" in shown.stdout
    assert "battery at 12 % and not charging   cellar" in shown.stdout
    assert "was not online, or not drawn       dock" in shown.stdout
    assert argosy("run", "explain", str(run), "3").stdout == shown.stdout


@pytest.mark.parametrize("columns", ["40", "60", "80", "120"])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(argosy: Argosy, run: int, columns: str) -> None:
    lines = argosy("run", "explain", "3", COLUMNS=columns).stdout.splitlines()
    assert all(len(one.rstrip()) <= int(columns) for one in lines)
    row = next(one for one in lines if one.startswith("attic"))
    assert row.endswith("at 1.80 s")
    assert "1.30 s" in row
    assert ("HTTPS" in row) == (int(columns) >= 80)
    assert not any("…" in one for one in lines)


def test_as_json_the_facts_have_stable_names(argosy: Argosy, run: int) -> None:
    found = json.loads(argosy("run", "explain", str(run), "3", "--json").stdout)
    assert (found["run"], found["round"], found["mode"]) == (run, 3, "rounds")
    (train,) = found["phases"]
    facts = ("phase", "how", "asked", "counted", "quorum", "enough", "deadline_s", "selector", "wanted")
    assert [train[name] for name in facts] == ["train", "deadline", 2, 1, 1, 2, 3.2, "considerate", 2]
    rows = {row["name"]: row for row in train["devices"]}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "attic": "counted",
        "bench": "late",
        "cellar": "not-asked",
        "dock": "absent",
    }
    assert rows["attic"] == {
        "device": rows["attic"]["device"], "name": "attic", "asks": 1, "heard": False, "outcome": "counted",
        "counted": True, "counted_s": 1.8, "code": None, "why": None, "remedy": None, "seconds": 1.8, "late_s": None,
        **FACTS, "peak_rss": None,
    }  # fmt: skip
    assert (rows["bench"]["code"], rows["bench"]["late_s"]) == ("cut-off", 11.3)
    assert (rows["cellar"]["code"], rows["cellar"]["asks"]) == ("battery-low", 0)


def test_one_phase_or_one_device_may_be_asked_for(argosy: Argosy, run: int) -> None:
    shown = argosy("run", "explain", "3", "--phase", "train", "--device", "bench").stdout
    assert "bench" in shown
    assert "attic" not in shown
    absent = argosy("run", "explain", "3", "--device", "dock").stdout
    assert "was not online, or not drawn   dock" in absent


def test_without_a_selection_nothing_is_said_of_devices_that_were_not_asked(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    run = coordinator.add_run()
    devices = [row.device for row in coordinator.store.devices.list()]
    coordinator.tell_round(run, 1, devices[:3], failing=devices[1])
    shown = argosy("run", "explain", "1").stdout
    assert "train: ended after 1.60 s; 2 of 3 answered, 1 failed" in shown
    assert "Look at its memory." in shown
    assert "evaluate: ended after 1.60 s; all 3 answered" in shown
    assert "dock" not in shown
    assert "dock" in argosy("run", "explain", "1", "--device", "dock").stdout


def test_what_is_not_there_is_told_by_what_is(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    none = argosy("run", "explain", "1")
    assert (none.returncode, "no run at all yet" in none.stderr) == (RunNotFound.exit_code, True)
    run = coordinator.add_run()
    assert "none yet" in argosy("run", "explain", "1").stderr
    tell(coordinator, run)
    unknown = argosy("run", "explain", "12")
    assert unknown.returncode == RoundNotFound.exit_code
    assert f"Run {run} has no round 12." in unknown.stderr
    assert "Rounds that it has: 3." in unknown.stderr
    assert argosy("run", "explain", "99", "3").returncode == RunNotFound.exit_code
    assert argosy("run", "explain", "3", "--device", "nobody").returncode == DeviceNotFound.exit_code
    odd = argosy("run", "explain", "3", "--phase", "evaluate")
    assert (odd.returncode, "round 3 has only train" in odd.stderr) == (2, True)
    assert argosy("run", "explain", "1", "2", "3").returncode == 2
    assert argosy("run", "explain").returncode == 2


def test_text_from_devices_cannot_give_the_terminal_orders(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    run = coordinator.add_run()
    evil = coordinator.add_device("evil\x1b[2J[red]", 0x2000)
    coordinator.tell(run, "selection", **AT, selector="\x1b[2J", spared={IDS[0]: {"code": "hot", "why": "\x1b[2J"}})
    coordinator.tell(run, "phase-started", **AT, devices=[evil])
    error = AppRaised(why="\x1b[2J\nValueError").to_wire()
    coordinator.tell(run, "device-reply", **AT, device=evil, seconds=1.0, via="\x1b[2J", error=error)
    for words in ((), ("--json",)):
        shown = argosy("run", "explain", "3", *words, FORCE_COLOR="1").stdout
        assert "\x1b[2J" not in shown
        assert "[red]" in shown


def test_the_shell_completes_the_run_and_not_the_round(argosy: Argosy, run: int) -> None:
    asked = {"_ARGOSY_COMPLETE": "complete_bash", "_TYPER_COMPLETE_ARGS": "argosy run explain "}
    assert argosy(COMP_WORDS="argosy run explain ", COMP_CWORD="3", **asked).stdout.split() == [str(run)]
    typed = f"argosy run explain {run} "
    asked = {"_ARGOSY_COMPLETE": "complete_bash", "_TYPER_COMPLETE_ARGS": typed}
    assert argosy(COMP_WORDS=typed, COMP_CWORD="4", **asked).stdout.split() == []
