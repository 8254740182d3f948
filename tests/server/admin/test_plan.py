"""`argosy run plan`: from told, described and measured times, on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from argosy_common.errors import CoordinatorUnreachable, RunNotFound
from argosy_server.api.server import AdminServer
from tests.server.admin.conftest import Argosy
from tests.server.admin.coordinator_on_rows import RowsCoordinator


def plan(argosy: Argosy, *words: str) -> dict[str, Any]:
    done = argosy("run", "plan", *words, "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return {**told, "gains": {one["name"]: one["gain"] for one in told["outcomes"]}}


def test_a_loss_is_called_a_loss_and_then_nothing_is_advised(argosy: Argosy) -> None:
    told = plan(argosy, "--times", "2,2,2,2")
    assert told["gains"]["repetition-1"] == 0.5
    assert [each["how"] for each in told["advice"]] == ["argosy run start APP"]
    shown = argosy("run", "plan", "--times", "2,2,2,2").stdout
    assert "a loss: 0.50×" in shown
    assert "Best: wait for all." in shown


def test_a_gain_comes_with_how_to_have_it(argosy: Argosy) -> None:
    told = plan(
        argosy, "--mean", "2", "--slow-share", "0.1", "--slow-factor", "10", "--devices", "20", "--compute", "0.1"
    )
    assert told["gains"]["quorum"] > 4
    assert told["gains"]["repetition-1"] > 1.5
    assert told["advice"][0]["how"] == "argosy run start APP --async"
    assert "`shard`" in told["advice"][1]["how"]
    assert told["unfit"][0]["name"] == "repetition-2"


def test_rounds_may_be_told_one_by_one(argosy: Argosy) -> None:
    told = plan(argosy, "--times", "2,2,4", "--times", "2,2,4", "--quorum", "2")
    assert told["gains"]["quorum"] == 2.0
    assert told["outcomes"][1]["counted"] == 2


def test_a_run_tells_its_own_times_late_ones_and_those_that_never_came(
    argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator
) -> None:
    run = coordinator.add_run()
    about = {"round": 1, "phase": "train", "fetch_s": 0.1, "upload_s": 0.1}
    for device, seconds in (("aa", 2.0), ("bb", 2.0), ("cc", 2.0)):
        data = {**about, "device": device, "seconds": seconds, "run_s": 0.5, "error": None}
        coordinator.tell(run, "device-reply", **data)
    cut = {"code": "cut-off", "message": "late", "remedy": ""}
    for device in ("dd", "ee"):
        coordinator.tell(run, "device-reply", **{**about, "device": device, "seconds": 3.0, "error": cut})
    late = {**about, "device": "dd", "seconds": 20.0, "run_s": 5.0, "late_s": 17.0, "error": None}
    coordinator.tell(run, "device-late", **late)
    broken = {"code": "worker-died", "message": "It died.", "remedy": ""}
    coordinator.tell(run, "device-late", **{**late, "device": "ee", "error": broken})
    told = plan(argosy, "--from", str(run), "--site-boards", "4")
    assert told["devices"] == 4
    assert told["compute"] == pytest.approx(0.25)
    assert told["unanswered"] == 1, "of the two that were missing one came late, and one failed late"
    assert told["outcomes"][0]["expected"] == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a run"),
        (["--times", "2,3", "--mean", "2"], "one of them"),
        (["--times", "2"], "two devices or more"),
        (["--times", "2,x"], "number of seconds"),
        (["--times", "2,-1"], "number of seconds"),
        (["--times", "2,nan"], "number of seconds"),
        (["--times", "2,3", "--times", "2,3,4"], "as many as the first"),
        (["--times", "2,3", "--devices", "4"], "together with --mean"),
        (["--mean", "2"], "how many there are"),
        (["--mean", "2", "--devices", "4", "--slow-share", "0.1"], "give both"),
        (["--mean", "2", "--devices", "4", "--slow-share", "2", "--slow-factor", "3"], "between 0 and 1"),
        (["--times", "2,3,4", "--quorum", "9"], "there are 3 devices"),
        (["--times", "2,3,4", "--quorum", "1.5"], "share of the devices"),
        (["--times", "2,3,4", "--site-boards", "5"], "4 or 6"),
        (["--times", "2,3,4", "--compute", "1.5"], "between 0 and 1"),
    ],
)
def test_what_cannot_be_planned_is_told_with_what_can(argosy: Argosy, words: list[str], told: str) -> None:
    done = argosy("run", "plan", *words, COLUMNS="200")
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())


def test_a_run_without_answers_has_no_times(argosy: Argosy, server: AdminServer, coordinator: RowsCoordinator) -> None:
    run = coordinator.add_run()
    done = argosy("run", "plan", "--from", str(run), COLUMNS="200")
    assert done.returncode == 2
    assert "it takes two" in done.stderr


def test_a_missing_run_and_a_missing_coordinator_exit_with_their_errors_codes(
    argosy: Argosy, server: AdminServer
) -> None:
    assert argosy("run", "plan", "--from", "99").returncode == RunNotFound.exit_code
    gone = argosy("run", "plan", "--from", "1", ARGOSY_SOCKET="/nonexistent/admin.sock")
    assert gone.returncode == CoordinatorUnreachable.exit_code


def test_the_same_seed_prints_the_same(argosy: Argosy) -> None:
    words = ["run", "plan", "--mean", "2", "--slow-share", "0.3", "--slow-factor", "5", "--devices", "6"]
    first = argosy(*words, "--seed", "5").stdout
    assert first == argosy(*words, "--seed", "5").stdout
    assert first != argosy(*words, "--seed", "6").stdout


def test_a_narrow_terminal_cuts_nothing_off(argosy: Argosy) -> None:
    shown = argosy("run", "plan", "--times", "2,2,2.4,20", COLUMNS="80").stdout
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "takes 3 or 6" in " ".join(shown.split())
